"""How long a sale took to reach every other channel, and how long an ideal sender would have taken. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from contracts.inventory.v1 import CauseOutcome
from services.console.demo.acceptance import Acceptances, Position, Truth
from services.console.demo.accounts import Accounts
from services.console.demo.evidence import Channel, Evidence, Level, SendLimits

LIMIT_BOUND_P99_MS = 500
"""A channel is bound by its limits where even an ideal sender's p99 is above this."""


@dataclass(frozen=True, slots=True)
class Target:
    """A listing that has to show another number because of a sale: it does once `position` of `sku` is covered."""

    listing_sku: str
    sku: str
    position: Position


@dataclass(slots=True)
class Reach:
    """A sale as seen from another connection. No targets: nothing that is shown there changes."""

    sold_at_ms: int
    received_at_ms: int
    targets: list[Target] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Propagation:
    """One connection's measure over every sale of the others, milliseconds."""

    from_sale_ms: tuple[float, ...]
    from_receipt_ms: tuple[float, ...]
    unchanged: int
    ideal_p99_ms: float

    @property
    def limit_bound(self) -> bool:
        """Whether the channel's documented limits alone keep it from being fast."""
        return self.ideal_p99_ms > LIMIT_BOUND_P99_MS


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    """Count, median, 95th, 99th percentile and maximum."""
    return {
        "count": len(values),
        "p50": percentile(values, 0.50),
        "p95": percentile(values, 0.95),
        "p99": percentile(values, 0.99),
        "max": max(values, default=None),
    }


def reaches(evidence: Evidence, accounts: Accounts) -> dict[tuple[str, str], Reach]:
    """What every sale has to change where, by (order id, connection id); the selling connection is left out.

    A listing changes if the number it shows at the level that decided the sale differs from the one before. A sale
    that was short, or that a kit's scarcer component hides, changes nothing.
    """
    sold_at = {
        (connection_id, sold.order): sold.at_ms
        for connection_id, books in evidence.books.items()
        for sold in reversed(books.sold)
    }
    received_at: dict[str, int] = {}
    for sale in evidence.heard.sales:
        moment = int(sale.received_at.timestamp() * 1000)
        received_at[sale.order_id] = min(received_at.get(sale.order_id, moment), moment)
    found: dict[tuple[str, str], Reach] = {}
    for (seller, order), order_id in accounts.order_ids.items():
        if (seller, order) in sold_at:
            for channel in evidence.channels:
                if channel.connection_id != seller:
                    found[order_id, channel.connection_id] = Reach(sold_at[seller, order], received_at[order_id])
    for level, changed in _changes(evidence):
        sales = {
            (cause.order_id, cause.connection_id)
            for cause in level.message.causes
            if cause.outcome is CauseOutcome.RESERVED and cause.units > 0
        }
        for connection_id, listing_sku in changed:
            for order_id, seller in sales:
                reach = found.get((order_id, connection_id))
                if reach is not None and seller != connection_id:
                    reach.targets.append(Target(listing_sku, level.message.sku, level.position))
    return found


def _changes(evidence: Evidence) -> Iterable[tuple[Level, list[tuple[str, str]]]]:
    """Each level in order of time, with the (connection, listing's SKU) pairs whose number it changes."""
    consumers: dict[str, list[tuple[str, str]]] = {}
    for channel in evidence.channels:
        for listing_sku in channel.skus:
            for sku in evidence.plan.factors(listing_sku):
                consumers.setdefault(sku, []).append((channel.connection_id, listing_sku))
    available: dict[str, int] = {}
    levels = [level for of_sku in evidence.heard.levels_by_sku().values() for level in of_sku]
    for level in sorted(levels, key=lambda level: (level.at_ms, level.position)):
        sku = level.message.sku
        after = available | {sku: level.to_show}
        affected = [
            (connection_id, listing_sku)
            for connection_id, listing_sku in consumers.get(sku, [])
            if evidence.plan.shown(listing_sku, available) != evidence.plan.shown(listing_sku, after)
        ]
        available[sku] = level.to_show
        yield level, affected


def measure(evidence: Evidence, accounts: Accounts, acceptances: Acceptances) -> dict[str, Propagation]:
    """The propagation of every (sale, connection), by connection id.

    From the sale in the selling sandbox's books to the moment when the last of the listings that it changes has, in
    the other sandbox's books, a number that covers it: one that says so, or one that is no more than is left. Where it
    showed no more than that already, nothing had to change.
    """
    by_connection: dict[str, list[Reach]] = {channel.connection_id: [] for channel in evidence.channels}
    truth = Truth(evidence)
    for (_, connection_id), reach in reaches(evidence, accounts).items():
        by_connection[connection_id].append(reach)
    return {
        channel.connection_id: _measure(channel, by_connection[channel.connection_id], acceptances, truth)
        for channel in evidence.channels
    }


def _measure(channel: Channel, reached: Sequence[Reach], acceptances: Acceptances, truth: Truth) -> Propagation:
    from_sale: list[float] = []
    from_receipt: list[float] = []
    trace: list[tuple[int, str]] = []
    unchanged = 0
    for reach in reached:
        at_ms = reached_at_ms(channel.connection_id, reach, acceptances, truth)
        if at_ms is None:
            unchanged += 1
            continue
        from_sale.append(max(0, at_ms - reach.sold_at_ms))
        from_receipt.append(max(0, at_ms - reach.received_at_ms))
        trace += [(reach.sold_at_ms, target.listing_sku) for target in reach.targets]
    ideal = percentile(ideal_delays_ms(trace, channel.limits), 0.99) or 0.0
    return Propagation(tuple(from_sale), tuple(from_receipt), unchanged, ideal)


def reached_at_ms(connection_id: str, reach: Reach, acceptances: Acceptances, truth: Truth) -> int | None:
    """When the last listing of a connection had a number that covers the sale; None where nothing had to change."""
    moments = [
        moment
        for target in reach.targets
        if (moment := _reached(connection_id, target, reach.sold_at_ms, acceptances, truth)) is not None
    ]
    return max(moments, default=None)


def _reached(connection_id: str, target: Target, sold_at_ms: int, acceptances: Acceptances, truth: Truth) -> int | None:
    """When a listing has a number that covers the sale; None where nothing had to change for it."""
    covered = acceptances.first_covering(connection_id, target.listing_sku, target.sku, target.position)
    until_ms = math.inf if covered is None else covered
    right = truth.right_from(connection_id, target.listing_sku, sold_at_ms, until_ms)
    if right == sold_at_ms:
        return None
    return covered if right is None else right


def ideal_delays_ms(trace: Iterable[tuple[int, str]], limits: SendLimits) -> list[float]:
    """What a sender without any delay of its own would need for a trace of (milliseconds, record to be written).

    It knows of a change at once, its requests take no time, and each carries as many waiting records as the channel
    takes; only the documented rate and burst hold it back.
    """
    changes = sorted(trace)
    # Counted from the first change: milliseconds since 1970 are too large for a double to add a microsecond to.
    events = [(changed_ms - changes[0][0], record) for changed_ms, record in changes]
    tokens, refilled_ms = limits.burst, 0.0
    waiting: dict[str, list[int]] = {}
    delays: list[float] = []
    index, now_ms = 0, 0.0
    while index < len(events) or waiting:
        if not waiting:
            now_ms = max(now_ms, float(events[index][0]))
        while index < len(events) and events[index][0] <= now_ms:
            waiting.setdefault(events[index][1], []).append(events[index][0])
            index += 1
        tokens = min(limits.burst, tokens + (now_ms - refilled_ms) * limits.requests_per_s / 1000)
        refilled_ms = now_ms
        if tokens < 1 - 1e-6:
            now_ms += (1 - tokens) * 1000 / limits.requests_per_s
            continue
        tokens -= 1
        for record in list(waiting)[: limits.max_batch]:
            delays += [now_ms - changed_ms for changed_ms in waiting.pop(record)]
    return delays

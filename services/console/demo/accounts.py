"""Who got the units: every unit that a sandbox sold is reserved, short, cancelled or still open. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from contracts.inventory.v1 import AccountState, DemandMet, DemandShort
from services.console.demo.evidence import Evidence

LineKey = tuple[str, str, str]
"""Connection, the channel's order, physical SKU."""

Account = tuple[str, str, str, AccountState]
"""SKU, location, pool, state."""

_AWAY = (AccountState.SHIPPED, AccountState.INBOUND)


@dataclass(slots=True)
class Line:
    """What the books sold and took back of one physical SKU in one order, and what Saldo said became of it.

    `held` units are reserved or have left for the buyer; `came_back` of these lie in a warehouse again.
    """

    sold: int = 0
    returned: int = 0
    held: int = 0
    missing: int = 0
    came_back: int = 0

    @property
    def surplus(self) -> int:
        """Units that Saldo still accounts for though their buyer is gone, or was never there."""
        return max(0, self.held + self.missing - (self.sold - self.returned))

    @property
    def reserved(self) -> int:
        """Units reserved, or shipped since."""
        return max(0, self.held - self.surplus)

    @property
    def short(self) -> int:
        """Units reported as a shortfall."""
        return self.missing - max(0, self.surplus - self.held)

    @property
    def cancelled(self) -> int:
        """Units cancelled in the books and given back here."""
        return max(0, self.returned - self.surplus)

    @property
    def open(self) -> int:
        """Units that Saldo has yet to decide or to give back."""
        return self.sold - self.reserved - self.short - self.cancelled


@dataclass(slots=True)
class Accounts:
    """Every line, the orders that are lost or doubled, and the sum of each kind over all."""

    lines: dict[LineKey, Line] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    order_ids: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def units(self) -> dict[str, int]:
        """Units accepted, reserved, short, cancelled and open; the first is the sum of the others."""
        lines = self.lines.values()
        return {
            "accepted": sum(line.sold for line in lines),
            "reserved": sum(line.reserved for line in lines),
            "short": sum(line.short for line in lines),
            "cancelled": sum(line.cancelled for line in lines),
            "open": sum(line.open for line in lines),
        }

    @property
    def orders(self) -> dict[str, int]:
        """Orders placed, by what became of them; one with a missing unit is short, one wholly given back cancelled."""
        by_order: dict[tuple[str, str], list[Line]] = {}
        for (connection_id, order, _), line in self.lines.items():
            if line.sold:
                by_order.setdefault((connection_id, order), []).append(line)
        count = {"placed": len(by_order), "reserved": 0, "short": 0, "cancelled": 0, "open": 0}
        for lines in by_order.values():
            count[_state(lines)] += 1
        return count | {"lost": len(self.lost), "doubled": len(self.doubled)}

    def promised(self) -> dict[str, int]:
        """Units of each physical SKU that somebody counts on: sold, less cancelled, less publicly short."""
        promised: dict[str, int] = {}
        for (_, _, sku), line in self.lines.items():
            # A shortfall counts only as far as a sandbox sold the line: what is reported beyond that excuses nothing.
            excused = min(line.missing, max(0, line.sold - line.returned))
            promised[sku] = promised.get(sku, 0) + line.sold - line.returned - excused
        return promised


def _state(lines: list[Line]) -> str:
    if any(line.open for line in lines):
        return "open"
    if any(line.short for line in lines):
        return "short"
    if all(line.cancelled == line.sold for line in lines):
        return "cancelled"
    return "reserved"


def settle(evidence: Evidence) -> Accounts:
    """Match the sandboxes' orders with what Saldo said about them.

    An order is lost where a sandbox sold it and no sale was reported for it; doubled where it has two order ids here,
    where Saldo holds more of it than was sold, or where no sandbox ever sold it.
    """
    accounts = Accounts()
    plan = evidence.plan
    for connection_id, books in evidence.books.items():
        for sold in books.sold:
            for sku, factor in plan.factors(sold.sku).items():
                line = accounts.lines.setdefault((connection_id, sold.order, sku), Line())
                line.sold += sold.quantity * factor
        for back in books.given_back:
            for sku, factor in plan.factors(back.sku).items():
                accounts.lines[connection_id, back.order, sku].returned += back.quantity * factor
    names = {channel.connection_id: channel.name for channel in evidence.channels}
    placed = {(connection_id, order) for connection_id, order, _ in accounts.lines}
    heard: dict[tuple[str, str], set[str]] = {}
    for sale in evidence.heard.sales:
        if sale.connection_id in evidence.books:
            heard.setdefault((sale.connection_id, sale.external_id), set()).add(sale.order_id)
    accounts.lost = sorted(f"{names[connection_id]} {order}" for connection_id, order in placed - heard.keys())
    doubled = {key for key, order_ids in heard.items() if len(order_ids) > 1 or key not in placed}
    accounts.order_ids = {key: min(order_ids) for key, order_ids in heard.items()}
    by_id = {order_id: key for key, order_ids in heard.items() for order_id in order_ids}
    shipped = Counter[tuple[str, str, str]]()
    for order_id, outcome in latest_outcomes(evidence).items():
        if order_id not in by_id:
            continue
        connection_id, order = by_id[order_id]
        for told in outcome.lines:
            line = accounts.lines.setdefault((connection_id, order, told.sku), Line())
            line.held += told.reserved + told.shipped
            line.missing += told.short
            line.came_back += told.returned
            shipped[connection_id, order, told.sku] += told.shipped
    for key, units in shipped.items():
        # Who cancels what has left gives nothing back: it stands as held until it comes back itself. Of a line that
        # left in part, what stayed is what was cancelled.
        line = accounts.lines[key]
        line.returned -= min(line.returned, max(0, line.returned + units - line.sold))
    doubled |= {(key[0], key[1]) for key, line in accounts.lines.items() if line.held + line.missing > line.sold}
    accounts.doubled = sorted(f"{names[connection_id]} {order}" for connection_id, order in doubled)
    return accounts


def latest_outcomes(evidence: Evidence) -> dict[str, DemandMet | DemandShort]:
    """What was said last about each order: the highest revision, and of one revision the last in the log."""
    latest: dict[str, DemandMet | DemandShort] = {}
    for outcome in evidence.heard.outcomes:
        known = latest.get(outcome.order_id)
        if known is None or outcome.revision >= known.revision:
            latest[outcome.order_id] = outcome
    return latest


def oversold(evidence: Evidence, accounts: Accounts) -> dict[str, int]:
    """Units of each SKU that were promised and do not exist. A unit that came back may be promised once more."""
    stock = dict(evidence.plan.opening)
    for movement in {movement.movement_id: movement for movement in evidence.heard.movements}.values():
        if movement.from_account.state in _AWAY and movement.to_account.state is AccountState.AVAILABLE:
            stock[movement.sku] = stock.get(movement.sku, 0) + movement.quantity
    excess = {sku: promised - stock.get(sku, 0) for sku, promised in accounts.promised().items()}
    return {sku: units for sku, units in sorted(excess.items()) if units > 0}


def conservation(evidence: Evidence, accounts: Accounts) -> list[str]:
    """What does not add up in the published ledger; empty where all does.

    The movements, replayed from nothing, must never take an account below zero, must give the last published level of
    each SKU, must have brought in exactly what was put in, and must hold reserved what the order lines hold.
    """
    balance: dict[Account, int] = {}
    lowest: dict[Account, int] = {}
    received: dict[str, int] = {}
    seen: set[str] = set()
    for movement in evidence.heard.movements:
        if movement.movement_id in seen:
            continue
        seen.add(movement.movement_id)
        source, target, sku = movement.from_account, movement.to_account, movement.sku
        for account, units in ((source, -movement.quantity), (target, movement.quantity)):
            key = (sku, account.location, account.pool, account.state)
            balance[key] = balance.get(key, 0) + units
            lowest[key] = min(lowest.get(key, 0), balance[key])
        if source.state is AccountState.SUPPLIER:
            received[sku] = received.get(sku, 0) + movement.quantity
    return [
        *_below_zero(lowest),
        *(
            f"{sku}: {received.get(sku, 0)} units came in by movements, {opening} were put in"
            for sku, opening in sorted(evidence.plan.opening.items())
            if received.get(sku, 0) != opening
        ),
        *_levels_differ(evidence, balance, accounts),
    ]


def _below_zero(lowest: Mapping[Account, int]) -> list[str]:
    counted = (AccountState.AVAILABLE, AccountState.RESERVED, AccountState.SHIPPED, AccountState.DAMAGED)
    return [
        f"{sku}: the movements take {location}, pool {pool}, {state} down to {units}"
        for (sku, location, pool, state), units in sorted(lowest.items())
        if units < 0 and state in counted
    ]


def _levels_differ(evidence: Evidence, balance: Mapping[Account, int], accounts: Accounts) -> list[str]:
    reserved_lines: dict[str, int] = {}
    for (_, _, sku), line in accounts.lines.items():
        reserved_lines[sku] = reserved_lines.get(sku, 0) + line.held - line.came_back
    sums: dict[tuple[str, AccountState], int] = {}
    for (sku, _, _, state), units in balance.items():
        sums[sku, state] = sums.get((sku, state), 0) + units
    problems = []
    for sku, levels in evidence.heard.levels_by_sku().items():
        last = levels[-1].message
        available, reserved = sums.get((sku, AccountState.AVAILABLE), 0), sums.get((sku, AccountState.RESERVED), 0)
        if (last.available, last.reserved) != (available, reserved):
            problems.append(
                f"{sku}: the level says {last.available} available and {last.reserved} reserved, "
                f"the movements {available} and {reserved}"
            )
        kept = reserved + sums.get((sku, AccountState.SHIPPED), 0)
        if kept != reserved_lines.get(sku, 0):
            problems.append(f"{sku}: {kept} units reserved by movements, {reserved_lines.get(sku, 0)} by order lines")
    return problems

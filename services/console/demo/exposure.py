"""The window in which a marketplace can still sell what is gone: shortfalls and units put back on sale. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from contracts.inventory.v1 import CauseOutcome
from services.console.demo.acceptance import Acceptances
from services.console.demo.accounts import Accounts
from services.console.demo.evidence import Channel, Evidence, GivenBack, Level, Sold, Written


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A sale that could not be met, and when each channel learned that nothing was left (None: not before it).

    `late` says that the sale took place after its own channel had accepted a number which covers the level at which
    nothing was left: then the fault is ours, not the window's.
    """

    connection: str
    order: str
    sku: str
    units: int
    sold_at_ms: int
    learned_ms: dict[str, int | None]
    late: bool


def shortfalls(evidence: Evidence, accounts: Accounts, acceptances: Acceptances) -> list[Shortfall]:
    """Every line that was short when it was decided, or is short now, oldest first."""
    levels = evidence.heard.levels_by_sku()
    sellers = {order_id: key for key, order_id in accounts.order_ids.items()}
    channels = {channel.connection_id: channel for channel in evidence.channels}
    found: dict[tuple[str, str], Shortfall] = {}
    for sku, of_sku in levels.items():
        for index, level in enumerate(of_sku):
            for cause in level.message.causes:
                key = sellers.get(cause.order_id)
                if cause.outcome is not CauseOutcome.SHORT or cause.units <= 0 or key is None:
                    continue
                lines = _lines_of(evidence, key, sku)
                if not lines or (cause.order_id, sku) in found:
                    continue
                channel = channels[key[0]]
                found[cause.order_id, sku] = Shortfall(
                    connection=channel.name,
                    order=key[1],
                    sku=sku,
                    units=cause.units,
                    sold_at_ms=lines[0].at_ms,
                    learned_ms=_learned(evidence, acceptances, of_sku[: index + 1]),
                    late=any(_sold_late(evidence, acceptances, channel, line, of_sku[: index + 1]) for line in lines),
                )
    return sorted(found.values(), key=lambda shortfall: (shortfall.sold_at_ms, shortfall.order, shortfall.sku))


def _lines_of(evidence: Evidence, key: tuple[str, str], sku: str) -> list[Sold]:
    connection_id, order = key
    return [
        sold
        for sold in evidence.books[connection_id].sold
        if sold.order == order and sku in evidence.plan.factors(sold.sku)
    ]


def _nothing_left_since(levels: Sequence[Level], factor: int) -> tuple[int, int] | None:
    """The first level of the unbroken run up to the last one at which not one unit of a listing was left."""
    position = None
    for level in reversed(levels):
        if level.to_show // factor:
            break
        position = level.position
    return position


def _learned(evidence: Evidence, acceptances: Acceptances, levels: Sequence[Level]) -> dict[str, int | None]:
    sku = levels[-1].message.sku
    position = _nothing_left_since(levels, 1)
    learned: dict[str, int | None] = {}
    for channel in evidence.channels:
        moments = [
            acceptances.first_covering(channel.connection_id, listing_sku, sku, position)
            for listing_sku in channel.skus
            if position is not None and sku in evidence.plan.factors(listing_sku)
        ]
        known = [moment for moment in moments if moment is not None]
        learned[channel.name] = max(known) if known and len(known) == len(moments) else None
    return learned


def _sold_late(
    evidence: Evidence, acceptances: Acceptances, channel: Channel, line: Sold, levels: Sequence[Level]
) -> bool:
    """Whether the line was sold by a channel that had been told of this very shortage.

    A cancelled order puts its units back on sale in the channel by the channel's own doing. Until a number that was
    written after it, such a unit explains one sale.
    """
    sku = levels[-1].message.sku
    position = _nothing_left_since(levels, evidence.plan.factors(line.sku)[sku])
    if position is None:
        return False
    told_ms = acceptances.first_covering(channel.connection_id, line.sku, sku, position)
    if told_ms is None or told_ms >= line.at_ms:
        return False
    return not _restored_since_last_write(evidence, channel, line)


def _restored_since_last_write(evidence: Evidence, channel: Channel, line: Sold) -> bool:
    books = evidence.books[channel.connection_id]
    writes = [written.row for written in books.written if written.sku == line.sku and written.row < line.row]
    last_write = max(writes, default=0)
    return any(back.restored and back.sku == line.sku and last_write < back.row < line.row for back in books.given_back)


@dataclass(slots=True)
class _Stock:
    """What there really is of a SKU at a point of the merged books, and what each connection has sold of it."""

    left: int
    sold: dict[str, int] = field(default_factory=dict)


def resurrected(evidence: Evidence, acceptances: Acceptances) -> int:
    """Units that writes put back on sale although they were sold: the sum over all writes of min(k, max(0, w·f − R)).

    k are the units sold at that channel and not yet decided in the level that the number was computed from, less those
    that the channel itself holds back from a total (`Written.held`): these no write puts on sale. w is the number that
    can be bought after the write, f the units of the SKU in one of the listing, R what is really left over all
    sandboxes' books then. A write whose push is unknown is judged by the last level published before it.
    """
    levels = evidence.heard.levels_by_sku()
    decided = {sku: _decided(of_sku) for sku, of_sku in levels.items()}
    known = {
        (connection_id, item.written.row): item.covered
        for (connection_id, _), accepted in acceptances.by_listing.items()
        for item in accepted
    }
    stock = {sku: _Stock(units) for sku, units in evidence.plan.opening.items()}
    total = 0
    for connection_id, row in _merged(evidence):
        if not isinstance(row, Written):
            sign = 1 if isinstance(row, Sold) else -1
            for sku, factor in evidence.plan.factors(row.sku).items():
                units = sign * factor * row.quantity
                stock[sku].left -= units
                stock[sku].sold[connection_id] = stock[sku].sold.get(connection_id, 0) + units
            continue
        covered = known.get((connection_id, row.row), {})
        back_on_sale = 0
        for sku, factor in evidence.plan.factors(row.sku).items():
            position = covered.get(sku) or max(
                (level.position for level in levels.get(sku, []) if level.at_ms <= row.at_ms), default=(0, 0)
            )
            settled = sum(
                units for at, seller, units in decided.get(sku, []) if at <= position and seller == connection_id
            )
            unheard = max(0, stock[sku].sold.get(connection_id, 0) - settled - row.held * factor)
            back_on_sale = max(back_on_sale, min(unheard, max(0, row.number * factor - stock[sku].left)))
        total += back_on_sale
    return total


def _merged(evidence: Evidence) -> list[tuple[str, Sold | GivenBack | Written]]:
    """The books of all shops as one, by time; rows of one book keep their order."""
    rows: list[tuple[str, Sold | GivenBack | Written]] = []
    for connection_id, books in evidence.books.items():
        for of_kind in (books.sold, books.given_back, books.written):
            rows += [(connection_id, row) for row in of_kind]
    return sorted(rows, key=lambda item: (item[1].at_ms, item[1].row))


def _decided(levels: Sequence[Level]) -> list[tuple[tuple[int, int], str, int]]:
    """(position, selling connection, signed units) of every decision; what is filled was counted when it was short."""
    counted = (CauseOutcome.RESERVED, CauseOutcome.SHORT, CauseOutcome.RELEASED)
    return [
        (level.position, cause.connection_id, cause.units)
        for level in levels
        for cause in level.message.causes
        if cause.outcome in counted
    ]

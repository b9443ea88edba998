"""What an order asks of inventory in all, from its sale, its parcels and what came back. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from contracts.channels.v1 import SaleLine, SaleStatus
from contracts.inventory.v1 import (
    AccountState,
    DemandLine,
    OrderDemand,
    ReturnedQuantity,
    ShippedQuantity,
)
from services.orders.order import Order
from services.orders.process import (
    came_back,
    departed,
    held_back,
)
from services.orders.standing import (
    left_by_word,
    returned_units,
    shippable,
)
from services.orders.wanted import US


def demand_of(order: Order, *, again: bool) -> OrderDemand | None:
    """The order's demand at a new revision, or None where it asks for what it asked for before."""
    known, demand = order.demand, _demand(order, {})
    if not demand.lines:
        return None
    if known and not again and demand.lines == known.lines and _terms(demand) == _terms(known):
        # Goods leave only once inventory has answered what else there was to ask: before that, the answer's
        # reservations are those of another demand.
        demand = _demand(order, shippable(order)) if order.settled and left_by_word(order) else demand
        if demand.lines == known.lines:
            return None
    return demand


def _demand(order: Order, ship: Mapping[str, Mapping[str, int]]) -> OrderDemand:
    """What the order asks for in all at its next revision, if `ship` (location → units, per line) leaves now."""
    sale, known = order.sale, order.demand
    return OrderDemand.of(
        {
            "order_id": sale.order_id,
            "revision": known.revision + 1 if known else 1,
            "sale_revision": sale.revision,
            "connection_id": sale.connection_id,
            "pool": sale.pool,
            "shortfall_policy": sale.shortfall_policy,
            "all_or_nothing": sale.all_or_nothing,
            "hold_until": sale.checkout.hold_until if sale.checkout and not order.paid else None,
            "sold_at": sale.sold_at,
            "received_at": sale.received_at,
            "lines": _asked(order, ship),
        }
    )


def _asked(order: Order, ship: Mapping[str, Mapping[str, int]]) -> list[DemandLine | dict[str, object]]:
    before = {line.line_id: line for line in order.demand.lines} if order.demand else {}
    lines: list[DemandLine | dict[str, object]] = []
    for line in order.sale.lines:
        told = before.pop(line.line_id, None)
        # A link that was removed does not undo what was asked for while it stood.
        sku = line.sku or (told.sku if told else None)
        if sku:
            told = told if told and told.sku == sku else None
            lines.append(_demand_line(order, line, sku, told, ship.get(line.line_id, {})))
    for gone in before.values():
        # Said aloud instead of left out, so that nothing hangs on what a missing line means.
        kept = sum(shipped.quantity for shipped in gone.shipped)
        lines.append(gone.model_copy(update={"cancelled": gone.ordered - kept}))
    return lines


def _terms(demand: OrderDemand) -> tuple[object, ...]:
    return demand.pool, demand.shortfall_policy, demand.all_or_nothing, demand.hold_until


def _demand_line(
    order: Order, line: SaleLine, sku: str, told: DemandLine | None, ship: Mapping[str, int]
) -> dict[str, object]:
    """The values of a `DemandLine`."""
    # Goods that have left come back as returned, not as cancelled.
    whole = order.status is SaleStatus.CANCELLED and not left_by_word(order)
    cancelled = line.quantity if whole else line.cancelled
    location = None if line.fulfilled_by == US else line.fulfilled_by
    shipped = {was.location: was.quantity for was in told.shipped} if told else {}
    parcels = order.process.parcels
    asked: dict[str, object] = {
        "line_id": line.line_id, "sku": sku, "ordered": line.quantity, "cancelled": min(cancelled, line.quantity),
        "location": location,
    }  # fmt: skip
    if not shipped and not ship and not parcels:
        return asked
    if parcels:
        shipped = _left(shipped, departed(order.process).get(line.line_id, {}), line.quantity)
    left = sum(shipped.values())
    for at, quantity in sorted(ship.items()):
        if taken := min(quantity, line.quantity - left):
            shipped[at] = shipped.get(at, 0) + taken
            left += taken
    places = sorted(shipped.items())
    if line.line_id in held_back(order.process):
        # Nothing of a line is given back while a parcel with it may still leave: inventory says which units it frees,
        # and they might be those in the parcel.
        cancelled = told.cancelled if told else 0
    return asked | {
        "cancelled": min(cancelled, line.quantity - left),
        "shipped": [ShippedQuantity(location=at, quantity=units) for at, units in places],
        "returned": _came_back(order, line, places),
    }


def _left(told: Mapping[str, int], parcels: Mapping[str, int], quantity: int) -> dict[str, int]:
    """Units that left per location: those of our parcels, and what else was said to have left, no more than ordered."""
    shipped = dict(parcels)
    rest = quantity - sum(shipped.values())
    for at, units in sorted(told.items()):
        more = min(max(0, units - shipped.get(at, 0)), rest)
        if more > 0:
            shipped[at] = shipped.get(at, 0) + more
            rest -= more
    return shipped


def _came_back(order: Order, line: SaleLine, places: Sequence[tuple[str, int]]) -> tuple[ReturnedQuantity, ...]:
    """What was looked at lies where and as it was found; what the channel alone says is on its way in."""
    seen = Counter[tuple[str, AccountState]]()
    for one in came_back(order.process).get(line.line_id, ()):
        seen[one.location, one.state] += one.quantity
    looked_at = tuple(
        ReturnedQuantity(location=at, state=state, quantity=units) for (at, state), units in sorted(seen.items())
    )
    return looked_at + _returns(places, max(0, returned_units(order.sale, line) - seen.total()))


def _returns(places: Iterable[tuple[str, int]], quantity: int) -> tuple[ReturnedQuantity, ...]:
    """Returns go back where they came from, and count as inbound until somebody has looked at them."""
    returns = []
    for location, units in places:
        if taken := min(units, quantity):
            returns.append(ReturnedQuantity(location=location, state=AccountState.INBOUND, quantity=taken))
            quantity -= taken
    return tuple(returns)

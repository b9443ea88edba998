"""How the demand of orders is met. Pure: no clock, no ids, no input or output.

A demand is absolute: inventory moves the difference between what the order asks for in all and what was done. Goods
that left or came back are facts and are booked as such; then what is asked for less is given back, and what is missing
is reserved as far as the order's policy reaches. What cannot be reserved stays short, a standing demand that the next
receipt, release, count or transfer fills before anything is shown.

A SKU that is not in the catalogue, or that is no longer active, is demanded like any other: the sale has taken place,
so it gets what stock there is, and what there is not is short.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from contracts.inventory.v1 import CauseOutcome, DemandLine, OrderDemand
from services.inventory.ledger import (
    AVAILABLE,
    COUNT_DIFFERENCE,
    DAMAGED,
    RESERVED,
    RETURNED,
    SHARED_POOL,
    SHIPPED,
    SHORT,
    Account,
    Ledger,
    Line,
    Order,
    Unit,
)

Kits: TypeAlias = Mapping[str, tuple[tuple[str, int], ...]]
"""Per kit, its components and how many units of each one kit takes."""


def meet(ledger: Ledger, kits: Kits, demand: OrderDemand, cause: tuple[str, str, str], trigger: int) -> None:
    """Bring an order from what was done to what `demand` asks for. An old revision changes nothing.

    Every revision that is taken up is answered, changed or not: orders waits for the answer to its newest demand. A
    hold that has run out on arrival asks for nothing; money that comes later comes with a new revision and no hold.
    """
    order = ledger.orders[demand.order_id]
    if demand.revision <= order.revision:
        return
    _adopt(ledger, order, demand, cause)
    ledger.begin(trigger, f"order:{order.order_id}:{order.revision}", own=order)
    ledger.report(order)
    known = tuple(order.lines.values())
    stood: dict[Line, tuple[int, int]] = {}  # Per line: the units it stood for, and those of them that are still short.
    for line in demand.lines:
        for sku, per_unit in _composition(known, kits, line):
            key = (line.line_id, line.sku, sku)
            part = order.lines.get(key)
            if part is None:
                part = order.lines[key] = Line(order, *key, per_unit, line.location)
            else:
                ledger.restrict(part, line.location)
            stood[part] = part.claimed(), _approach(ledger, part, line)
    for part in known:
        if part not in stood and (before := part.claimed()):
            stood[part] = before, _keep(ledger, part, part.left())
    if len(order.lines) > max(1, len(known)):
        order.lines = dict(sorted(order.lines.items()))
    taken = _reserve(ledger, order)
    for part, (before, still_short) in stood.items():
        _explain(ledger, part, before, still_short, taken.get(part, 0))
    if order.expired:
        ledger.expire(order)
    ledger.fill()
    ledger.end()
    for key in [key for key, part in order.lines.items() if not part.units]:
        # Nothing was ever done for this line, so nothing of it is stored either.
        del order.lines[key]


def expire(ledger: Ledger, order: Order, trigger: int) -> None:
    """Give back what an unpaid order of the own shop holds. Its lines stay known; a paid revision reserves again."""
    if order.expired or order.hold_until is None or order.hold_until > ledger.now:
        return
    order.expired = True
    ledger.changed_orders[order] = None
    ledger.begin(trigger, f"expiry:{order.order_id}:{order.revision}", own=order)
    for line in order.lines.values():
        before = line.claimed()
        _keep(ledger, line, line.left())
        ledger.because(line, line.claimed() - before, CauseOutcome.RELEASED)
    ledger.expire(order)
    ledger.fill()
    ledger.end()


def explode(kits: Kits, sku: str) -> tuple[tuple[str, int], ...]:
    """The physical SKUs that one unit of `sku` takes: itself, unless it is a kit."""
    return kits.get(sku) or ((sku, 1),)


def _adopt(ledger: Ledger, order: Order, demand: OrderDemand, cause: tuple[str, str, str]) -> None:
    order.revision = demand.revision
    order.sale_revision = demand.sale_revision
    order.connection_id = demand.connection_id
    order.pool = demand.pool
    order.policy = demand.shortfall_policy.value
    order.all_or_nothing = demand.all_or_nothing
    order.hold_until = demand.hold_until
    order.expired = demand.hold_until is not None and demand.hold_until <= ledger.now
    order.sold_at = demand.sold_at
    order.received_at = demand.received_at
    order.cause = cause
    ledger.changed_orders[order] = None


def _composition(known: Iterable[Line], kits: Kits, line: DemandLine) -> Iterable[tuple[str, int]]:
    """What a line takes: as it was exploded when the order was first met, else by today's bill of materials."""
    stored = [(part.sku, part.per_unit) for part in known if part.line_id == line.line_id and part.sold_sku == line.sku]
    return stored or explode(kits, line.sku)


def _approach(ledger: Ledger, line: Line, wanted: DemandLine) -> int:
    """Book what left and came back, then keep what is asked for; returns what was short before and still is."""
    asked = 0 if line.order.expired else max(0, wanted.ordered - wanted.cancelled) * line.per_unit
    if not (line.units or wanted.shipped or wanted.returned):
        ledger.ask(line, asked)  # The usual case: a line that is heard of for the first time.
        return 0
    shipped = 0
    if wanted.shipped or wanted.returned or line.left():
        left_before, returned_before = line.left(), _returned(line)
        shipped = _book_departures(ledger, line, wanted)
        ledger.because(line, line.left() - left_before, CauseOutcome.SHIPPED)
        ledger.because(line, _returned(line) - returned_before, CauseOutcome.RETURNED)
    return _keep(ledger, line, max(asked, shipped))


def _keep(ledger: Ledger, line: Line, keep: int) -> int:
    """Let `line` stand for `keep` units: give back the rest, the missing ones first, or ask for more.

    Returns how many units were short before and still are.
    """
    surplus = line.claimed() - keep
    if surplus > 0:
        forgone = min(line.short, surplus)
        if forgone:
            ledger.add(line, SHORT, -forgone)
        surplus -= forgone
        # What was drawn from furthest goes back first.
        held = [(unit, units) for unit, units in line.units.items() if unit[0] == RESERVED and units]
        held.sort(key=lambda found: (ledger.priority(found[0][1]), found[0]), reverse=True)
        for unit, units in held:
            if surplus:
                ledger.release(line, unit, min(units, surplus))
                surplus -= min(units, surplus)
    still_short = line.short
    if surplus < 0:
        ledger.ask(line, -surplus)
    return still_short


def _reserve(ledger: Ledger, order: Order) -> dict[Line, int]:
    missing = [line for line in order.lines.values() if line.short]
    taken = ledger.take_whole(missing) if order.all_or_nothing else {line: ledger.take(line) for line in missing}
    for line in missing:
        ledger.list_short(line)
    return taken


def _explain(ledger: Ledger, line: Line, before: int, still_short: int, taken: int) -> None:
    """The causes of the next level. What the order newly stands for is reserved or short, each unit once; what it stood
    for as short and now has is filled; what it no longer stands for is released."""
    change = line.claimed() - before
    if change < 0:
        ledger.because(line, change, CauseOutcome.RELEASED)
    if still_short and taken:
        ledger.because(line, min(still_short, taken), CauseOutcome.FILLED)
    if change > 0:
        short = line.short
        newly_short = max(0, min(change, short - max(0, still_short - taken))) if short else 0
        ledger.because(line, change - newly_short, CauseOutcome.RESERVED)
        ledger.because(line, newly_short, CauseOutcome.SHORT)


def _returned(line: Line) -> int:
    return sum(units for unit, units in line.units.items() if unit[3])


def _book_departures(ledger: Ledger, line: Line, wanted: DemandLine) -> int:
    """Move what left and what came back to what `wanted` says in all; returns the units that left in all."""
    target: dict[str, int] = {}
    for part in wanted.shipped:
        target[part.location] = target.get(part.location, 0) + part.quantity * line.per_unit
    back: dict[tuple[str, str], int] = {}
    for came in wanted.returned:
        # A state that this build does not know is not for sale until somebody has looked at the goods.
        state = str(came.state) if came.state in RETURNED else DAMAGED
        back[came.location, state] = back.get((came.location, state), 0) + came.quantity * line.per_unit
    # What came back must have left before, said or not.
    silent = sum(back.values()) - sum(target.values())
    if silent > 0:
        location = _silent_departure(line, next(iter(back))[0])
        target[location] = target.get(location, 0) + silent
    done: dict[str, int] = {}
    for (state, location, _, origin), units in line.units.items():
        if state == SHIPPED or origin:
            done[origin or location] = done.get(origin or location, 0) + units
    _come_back(ledger, line, back)
    for location in sorted(done):
        _undo_departure(ledger, line, location, done[location] - target.get(location, 0))
    for location in sorted(target):
        _depart(ledger, line, location, target[location] - done.get(location, 0))
    _come_back(ledger, line, back)
    return sum(target.values())


def _silent_departure(line: Line, otherwise: str) -> str:
    places = sorted(
        (state != SHIPPED and not origin, origin or location)
        for (state, location, _, origin), units in line.units.items()
        if units and location
    )
    return places[0][1] if places else otherwise


def _depart(ledger: Ledger, line: Line, location: str, quantity: int) -> None:
    """Units left `location`: those reserved there for the line, else available ones, else ones the books lack."""
    if quantity <= 0:
        return
    sku = ledger.skus[line.sku]
    reserved = sorted(unit for unit, units in line.units.items() if unit[:2] == (RESERVED, location) and units)
    for unit in reserved:
        units = min(quantity, line.units[unit])
        ledger.add(line, unit, -units)
        quantity -= units
        _ship(ledger, line, (location, unit[2], RESERVED), units)
    if ledger.held_by(location) in (None, line.order.connection_id):
        for account in sorted(sku.counters, key=lambda account: (account[1] != line.order.pool, account)):
            if account[0] == location and account[2] == AVAILABLE and sku.counters[account] and quantity:
                units = min(quantity, sku.counters[account])
                quantity -= units
                _ship(ledger, line, account, units)
    if quantity:
        _ship(ledger, line, (location, SHARED_POOL, COUNT_DIFFERENCE), quantity)


def _ship(ledger: Ledger, line: Line, source: Account, quantity: int) -> None:
    location, pool, _ = source
    ledger.add(line, (SHIPPED, location, pool, ""), quantity)
    ledger.move(ledger.skus[line.sku], source, (location, pool, SHIPPED), quantity, line)


def _undo_departure(ledger: Ledger, line: Line, location: str, quantity: int) -> None:
    """Units said to have left have not: they are reserved where they lie, until the demand says otherwise."""
    for unit in sorted(unit for unit in line.units if unit[:2] == (SHIPPED, location)):
        units = min(quantity, line.units[unit])
        if units > 0:
            _, _, pool, _ = unit
            quantity -= units
            ledger.add(line, unit, -units)
            ledger.add(line, (RESERVED, location, pool, ""), units)
            ledger.move(ledger.skus[line.sku], (location, pool, SHIPPED), (location, pool, RESERVED), units, line)


def _come_back(ledger: Ledger, line: Line, back: Mapping[tuple[str, str], int]) -> None:
    """Bring the units returned per location and state to `back`, as far as what left allows."""
    done: dict[tuple[str, str], int] = {}
    for (state, location, _, origin), units in line.units.items():
        if origin:
            done[location, state] = done.get((location, state), 0) + units
    for key in sorted(done):
        _undo_return(ledger, line, key, done[key] - back.get(key, 0))
    for location, state in sorted(back):
        quantity = back[location, state] - done.get((location, state), 0)
        shipped = sorted(
            (unit for unit, units in line.units.items() if unit[0] == SHIPPED and units),
            key=lambda unit: (unit[1] != location, unit),
        )
        for unit in shipped:
            _, origin, pool, _ = unit
            units = min(quantity, line.units[unit])
            if units > 0:
                quantity -= units
                _transfer(ledger, line, unit, (state, location, pool, origin), units)


def _undo_return(ledger: Ledger, line: Line, key: tuple[str, str], quantity: int) -> None:
    """Units said to have come back have not. What is no longer there of them is booked as a difference."""
    location, state = key
    sku = ledger.skus[line.sku]
    for unit in sorted(unit for unit in line.units if unit[3] and unit[:2] == (state, location)):
        units = min(quantity, line.units[unit])
        if units > 0:
            _, _, pool, origin = unit
            quantity -= units
            there = min(units, sku.counters.get((location, pool, state), 0))
            shipped = (SHIPPED, origin, pool, "")
            if there:
                _transfer(ledger, line, unit, shipped, there)
            if units > there:
                ledger.add(line, unit, there - units)
                ledger.add(line, shipped, units - there)
                ledger.move(sku, (origin, pool, COUNT_DIFFERENCE), (origin, pool, SHIPPED), units - there, line)


def _transfer(ledger: Ledger, line: Line, source: Unit, target: Unit, quantity: int) -> None:
    ledger.add(line, source, -quantity)
    ledger.add(line, target, quantity)
    (from_state, from_location, from_pool, _), (to_state, to_location, to_pool, _) = source, target
    ledger.move(
        ledger.skus[line.sku], (from_location, from_pool, from_state), (to_location, to_pool, to_state), quantity, line
    )

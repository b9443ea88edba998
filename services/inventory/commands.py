"""What people's commands do to items, locations and stock. Pure, like the domain.

A command that cannot be obeyed is refused in words that say what to do; it changes nothing. A command whose id is known
is answered as it was the first time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeAlias, final

from contracts.inventory.v1 import (
    AdjustStock,
    CauseOutcome,
    CountStock,
    ItemChanged,
    PutItem,
    PutLocation,
    ReceiveStock,
    TransferStock,
)
from services.inventory.ledger import (
    AVAILABLE,
    COUNT_DIFFERENCE,
    COUNTED,
    DAMAGED,
    INBOUND,
    ON_HAND,
    RESERVED,
    SHARED_POOL,
    SHORT,
    SUPPLIER,
    Account,
    Ledger,
    Line,
    Location,
    Sku,
    age,
)

StockCommand: TypeAlias = PutItem | PutLocation | ReceiveStock | AdjustStock | CountStock | TransferStock
ADJUSTABLE: Final = (AVAILABLE, DAMAGED, INBOUND)
CLOCK_TOLERANCE: Final = timedelta(minutes=1)


class Result(NamedTuple):
    """What became of a command, and why if it was refused."""

    command_id: str
    kind: str
    sku: str
    booked: bool
    outcome: str


class Since(NamedTuple):
    """What was booked at a SKU's location since the position of a count: the change of what is on hand, and the part of
    it that counts and adjustments effective by then made."""

    change: int = 0
    corrected: int = 0


@final
@dataclass(slots=True)
class Warehouse:
    """The ledger of one company with what commands need beside it.

    `items` has every item that the batch names or that is a component or a kit of one. `since` is by the event's
    position in the batch; `occupied` are the locations, of those that are put, where any stock lies.
    """

    ledger: Ledger
    items: dict[str, ItemChanged]
    done: dict[str, Result]
    opened: dict[tuple[str, str], str]
    counted: dict[tuple[str, str], datetime]
    since: dict[int, Since]
    occupied: set[str]
    results: list[tuple[int, Result]] = field(default_factory=list)
    new_results: list[Result] = field(default_factory=list)
    changed_items: dict[str, int] = field(default_factory=dict)
    changed_locations: set[str] = field(default_factory=set)
    changed_stocktakings: set[tuple[str, str]] = field(default_factory=set)


class Refused(Exception):
    """Inside this module alone: the command cannot be obeyed; the text says why and what to do."""


def obey(warehouse: Warehouse, command: StockCommand, command_id: str, trigger: int) -> None:
    """Book `command` or refuse it; once per id."""
    known = warehouse.done.get(command_id)
    if known is None:
        subject = command.location if isinstance(command, PutLocation) else command.sku
        try:
            text = _book(warehouse, command, command_id, trigger)
            known = Result(command_id, type(command).__name__, subject, True, text)
        except Refused as refused:
            known = Result(command_id, type(command).__name__, subject, False, str(refused))
        warehouse.done[command_id] = known
        warehouse.new_results.append(known)
    warehouse.results.append((trigger, known))


def _book(warehouse: Warehouse, command: StockCommand, command_id: str, trigger: int) -> str:
    ledger, cause = warehouse.ledger, f"command:{command_id}"
    match command:
        case PutItem():
            return _put_item(warehouse, command, trigger)
        case PutLocation():
            return _put_location(warehouse, command)
        case ReceiveStock():
            sku = _stocked(warehouse, command.sku, command.location)
            return _booked(ledger, trigger, cause, lambda: _receive(warehouse, command, sku, command_id))
        case AdjustStock():
            sku = _stocked(warehouse, command.sku, command.location)
            return _booked(ledger, trigger, cause, lambda: _adjust(ledger, command, sku), command.effective_at)
        case CountStock():
            sku = _stocked(warehouse, command.sku, command.location)
            return _booked(ledger, trigger, cause, lambda: _count(warehouse, command, sku, trigger), command.counted_at)
        case TransferStock():
            sku = _stocked(warehouse, command.sku, command.from_location)
            _known_location(warehouse, command.to_location)
            return _booked(ledger, trigger, cause, lambda: _move(ledger, command, sku))


def _booked(
    ledger: Ledger, trigger: int, cause: str, book: Callable[[], str], effective_at: datetime | None = None
) -> str:
    ledger.begin(trigger, cause, effective_at=effective_at)
    text = book()
    ledger.fill()
    ledger.end()
    return text


def _stocked(warehouse: Warehouse, code: str, location: str) -> Sku:
    item = warehouse.items.get(code)
    if item is None:
        raise Refused(f"there is no item {code}: put the item first")
    if item.components:
        parts = ", ".join(component.sku for component in item.components)
        raise Refused(f"{code} is a kit and has no stock of its own: name its components ({parts})")
    _known_location(warehouse, location)
    return warehouse.ledger.skus[code]


def _known_location(warehouse: Warehouse, location: str) -> None:
    if location not in warehouse.ledger.locations:
        known = ", ".join(sorted(warehouse.ledger.locations)[:10]) or "none yet"
        raise Refused(f"there is no location {location} (known: {known}): add the location first")


def _receive(warehouse: Warehouse, command: ReceiveStock, sku: Sku, command_id: str) -> str:
    if command.opening:
        key = (command.sku, command.location)
        if key in warehouse.opened:
            raise Refused(
                f"the opening stock of {command.sku} at {command.location} was taken on by command "
                f"{warehouse.opened[key]}: count it, or receive what came since"
            )
        warehouse.opened[key] = command_id
        warehouse.changed_stocktakings.add(key)
    place = (command.location, command.pool)
    warehouse.ledger.move(sku, (*place, SUPPLIER), (*place, AVAILABLE), command.quantity)
    return (
        f"{'took on' if command.opening else 'received'} {command.quantity} at {command.location}, pool {command.pool}"
    )


def _adjust(ledger: Ledger, command: AdjustStock, sku: Sku) -> str:
    state = command.state.value
    if state not in ADJUSTABLE:
        raise Refused(f"{state} stock follows the orders: adjust one of {', '.join(ADJUSTABLE)}")
    if not command.quantity:
        raise Refused("an adjustment by 0 changes nothing: give the signed difference")
    account: Account = (command.location, command.pool, state)
    outside: Account = (command.location, command.pool, COUNT_DIFFERENCE)
    there = sku.counters.get(account, 0)
    if there + command.quantity < 0:
        raise Refused(
            f"only {there} {state} at {command.location}, pool {command.pool}: adjust by at least {-there}, "
            "or count the shelf if reserved units are missing too"
        )
    if command.quantity > 0:
        ledger.move(sku, outside, account, command.quantity)
    else:
        ledger.move(sku, account, outside, -command.quantity)
    return f"adjusted {state} at {command.location}, pool {command.pool}, by {command.quantity:+d}"


def _move(ledger: Ledger, command: TransferStock, sku: Sku) -> str:
    source: Account = (command.from_location, command.from_pool, AVAILABLE)
    target: Account = (command.to_location, command.to_pool, AVAILABLE)
    if source == target:
        raise Refused("both ends are the same place: name another location or pool")
    there = sku.counters.get(source, 0)
    if there < command.quantity:
        raise Refused(
            f"only {there} available at {command.from_location}, pool {command.from_pool}: move at most {there}"
        )
    ledger.move(sku, source, target, command.quantity)
    return (
        f"moved {command.quantity} from {command.from_location}, pool {command.from_pool}, "
        f"to {command.to_location}, pool {command.to_pool}"
    )


def _count(warehouse: Warehouse, command: CountStock, sku: Sku, trigger: int) -> str:
    """Correct what is on hand by what was counted, as of the position it was counted at.

    expected = on hand now − what was booked since that position + the counts and adjustments among it that were
    effective by then (the counter found their goods already moved).
    """
    ledger, key = warehouse.ledger, (command.sku, command.location)
    if command.counted_at > ledger.now + CLOCK_TOLERANCE:
        raise Refused(f"counted at {command.counted_at.isoformat()}, which is yet to come: check the clock")
    if command.epoch is not None and command.epoch != sku.epoch:
        raise Refused("the books were restored from a backup since this count was taken: count again")
    newest = warehouse.counted.get(key)
    if newest is not None and command.counted_at <= newest:
        raise Refused(f"a count of {newest.isoformat()} is booked, which is not older: count again if in doubt")
    warehouse.counted[key] = command.counted_at
    warehouse.changed_stocktakings.add(key)
    before, in_batch = warehouse.since.get(trigger, Since()), _since_in_batch(ledger, command)
    on_hand = sum(units for account, units in sku.counters.items() if _on_hand(account, command.location))
    expected = on_hand - before.change - in_batch.change + before.corrected + in_batch.corrected
    difference = max(command.counted - expected, -on_hand)
    outside: Account = (command.location, SHARED_POOL, COUNT_DIFFERENCE)
    if difference > 0:
        ledger.move(sku, outside, (command.location, SHARED_POOL, AVAILABLE), difference)
    else:
        _lose(ledger, sku, command.location, -difference)
    return f"counted {command.counted} at {command.location}, expected {expected}, booked {difference:+d}"


def _since_in_batch(ledger: Ledger, command: CountStock) -> Since:
    change = corrected = 0
    for movement in ledger.movements:
        later = movement.version > command.version if command.version is not None else ledger.now > command.counted_at
        if movement.sku == command.sku and later:
            units = movement.quantity * (
                _on_hand(movement.target, command.location) - _on_hand(movement.source, command.location)
            )
            change += units
            if movement.effective_at is not None and movement.effective_at <= command.counted_at:
                corrected += units
    return Since(change, corrected)


def _on_hand(account: Account, location: str) -> bool:
    return account[0] == location and account[2] in ON_HAND


def _lose(ledger: Ledger, sku: Sku, location: str, quantity: int) -> None:
    """Units are not there: available ones go first, the shared pool before others, then reserved ones, the youngest
    sale first, whose orders become short; damaged ones go last."""
    accounts = [account for account in sku.counters if account[0] == location]
    for account in sorted(accounts, key=lambda account: (account[1] != SHARED_POOL, account)):
        if account[2] == AVAILABLE:
            quantity -= _write_off(ledger, sku, account, quantity)
    reserved = [
        (line, unit[2])
        for order in ledger.orders.values()
        for line in order.lines.values()
        if line.sku == sku.sku
        for unit, units in line.units.items()
        if unit[:2] == (RESERVED, location) and units
    ]
    reserved.sort(key=lambda found: (age(found[0]), found[1]), reverse=True)
    for line, pool in reserved:
        units = min(quantity, line.units[RESERVED, location, pool, ""])
        if units:
            quantity -= units
            _revoke(ledger, sku, line, location, pool, units)
    for account in sorted(accounts):
        if account[2] == DAMAGED:
            quantity -= _write_off(ledger, sku, account, quantity)


def _write_off(ledger: Ledger, sku: Sku, account: Account, quantity: int) -> int:
    units = min(quantity, sku.counters[account])
    if units:
        ledger.move(sku, account, (account[0], account[1], COUNT_DIFFERENCE), units)
    return units


def _revoke(ledger: Ledger, sku: Sku, line: Line, location: str, pool: str, units: int) -> None:
    ledger.add(line, (RESERVED, location, pool, ""), -units)
    ledger.add(line, SHORT, units)
    ledger.move(sku, (location, pool, RESERVED), (location, pool, COUNT_DIFFERENCE), units, line)
    ledger.because(line, units, CauseOutcome.REVOKED)
    ledger.report(line.order)
    ledger.list_short(line)
    ledger.reconsider(sku)


def _put_item(warehouse: Warehouse, command: PutItem, trigger: int) -> str:
    known = warehouse.items.get(command.sku)
    if command.components:
        _check_kit(warehouse, command, known)
    version = known.version + 1 if known else 1
    item = ItemChanged(version=version, epoch=known.epoch if known else 0, **dict(command))
    if known and known.model_copy(update={"version": version}) == item:
        return f"{command.sku} is like that already"
    warehouse.items[command.sku] = item
    warehouse.changed_items[command.sku] = trigger
    return f"{'changed' if known else 'created'} {command.sku}"


def _check_kit(warehouse: Warehouse, command: PutItem, known: ItemChanged | None) -> None:
    parts = [component.sku for component in command.components]
    if command.sku in parts or len(set(parts)) != len(parts):
        raise Refused("a kit names each component once, and not itself: correct the components")
    for part in parts:
        item = warehouse.items.get(part)
        if item is None:
            raise Refused(f"there is no item {part}: put the component first")
        if item.components:
            raise Refused(f"{part} is a kit itself: name its components instead, kits are one level deep")
    users = [item.sku for item in warehouse.items.values() if any(part.sku == command.sku for part in item.components)]
    if users:
        raise Refused(f"{command.sku} is a component of {users[0]}: give the kit a SKU of its own")
    if known and known.components:
        return
    sku = warehouse.ledger.skus[command.sku]
    if any(units for account, units in sku.counters.items() if account[2] in COUNTED) or any(
        line.short for line in sku.shorts
    ):
        raise Refused(f"{command.sku} has stock or open demand of its own: give the kit a SKU of its own")


def _put_location(warehouse: Warehouse, command: PutLocation) -> str:
    ledger = warehouse.ledger
    known = ledger.locations.get(command.location)
    location = Location(command.location, command.name, command.held_by, command.priority)
    if known == location:
        return f"{command.location} is like that already"
    if ledger.held_by(command.location) != command.held_by and (
        command.location in warehouse.occupied
        or any(
            units and account[0] == command.location
            for sku in ledger.skus.values()
            for account, units in sku.counters.items()
        )
    ):
        raise Refused(f"stock lies at {command.location}: move it away before saying who holds it")
    ledger.put(location)
    warehouse.changed_locations.add(command.location)
    return f"{'changed' if known else 'added'} {command.location}"

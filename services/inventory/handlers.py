"""What inventory does with what it hears: gather under locks, decide in order of arrival, apply.

A batch is a handful of statements however many orders it has. The orders that something may become available for are
part of what is locked: who misses units of a SKU that this batch may free, and for a count, who holds units there.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

import asyncpg

from contracts.channels.v1 import ConnectionChanged
from contracts.envelope import Message
from contracts.inventory.v1 import (
    AdjustStock,
    CountStock,
    OrderDemand,
    PutItem,
    PutLocation,
    ReceiveStock,
    StockCommandBooked,
    StockCommandRefused,
    TransferStock,
)
from services.bus import Cause, Received, Transaction
from services.inventory import store
from services.inventory.announce import level_message, movement_message, report_message
from services.inventory.commands import StockCommand, Warehouse, obey
from services.inventory.domain import Kits, expire, explode, meet
from services.inventory.ledger import COUNTED, SHORT, Ledger, Line, Movement, Order, Outcome, Sku, Unit
from services.inventory.store import Key

Command: TypeAlias = (
    Received[PutItem]
    | Received[PutLocation]
    | Received[ReceiveStock]
    | Received[AdjustStock]
    | Received[CountStock]
    | Received[TransferStock]
)
Row: TypeAlias = tuple[object, ...]
Concerned: TypeAlias = Callable[[], Awaitable[set[Key]]]
"""Orders that may be given or lose units, as of now."""

MESSAGES_A_TURN: Final = 32
"""Messages built before the statement under way is looked after: half a millisecond's worth."""


@final
@dataclass(slots=True)
class Gathered:
    """What is locked, and the ledger of each tenant over it. `added` are the orders that were not known."""

    ledgers: dict[str, Ledger]
    skus: dict[Key, Sku]
    orders: dict[Key, Order]
    added: set[Key] = field(default_factory=set)


async def allocate(events: Sequence[Received[OrderDemand]], tx: Transaction) -> None:
    """Meet the demand of orders."""
    connection = tx.connection
    sold = {(event.tenant, line.sku) for event in events for line in event.message.lines}
    composed, missing = await store.read_kits(connection, sold)
    kits: dict[str, dict[str, tuple[tuple[str, int], ...]]] = {event.tenant: {} for event in events}
    for (tenant, sku), parts in composed.items():
        kits[tenant][sku] = tuple(parts)
    # A first revision frees nothing, unless its goods have come back already.
    again = [
        event
        for event in events
        if event.message.revision > 1 or any(line.shipped or line.returned for line in event.message.lines)
    ]
    freeing = _exploded(again, kits)
    if again:
        freeing |= await store.skus_of_orders(connection, {_order_key(event) for event in again})
    if missing:
        await store.insert_skus(connection, missing)
    orders = {_order_key(event) for event in events}
    gathered = await gather(
        tx,
        orders=orders,
        skus={(tenant, part) for tenant, sku in sold for part, _ in explode(kits[tenant], sku)},
        concerned=(lambda: store.short_orders(connection, freeing)) if freeing else None,
        new=orders,
    )
    causes = [event.cause for event in events]
    for trigger, (event, cause) in enumerate(zip(events, causes, strict=True)):
        tenant = event.tenant
        meet(gathered.ledgers[tenant], kits[tenant], event.message, cause, trigger)
    await apply(tx, gathered, causes)


async def obey_commands(events: Sequence[Command], tx: Transaction) -> None:
    """Book the commands of people, or refuse them."""
    connection = tx.connection
    skus, places = _named_skus(events), _named_places(events)
    put = {key for event in events if isinstance(event.message, PutLocation) for key in [_location_key(event)]}
    if put:
        await store.lock_locations(connection, put)
    if places - put:
        await store.share_locations(connection, places - put)
    if skus:
        await store.insert_skus(connection, skus)
    counts = [
        (trigger, event.tenant, event.message)
        for trigger, event in enumerate(events)
        if isinstance(event.message, CountStock)
    ]
    counted = {(tenant, count.sku, count.location) for _, tenant, count in counts}

    async def concerned() -> set[Key]:
        short = await store.short_orders(connection, skus)
        return short | (await store.holding_orders(connection, counted) if counted else set())

    tenants = {event.tenant for event in events}
    gathered = await gather(tx, orders=set(), skus=skus, concerned=concerned, tenants=tenants)
    warehouses = await _warehouses(tx, gathered, events, put)
    since = await store.read_since(connection, [(tenant, count) for _, tenant, count in counts]) if counts else []
    for (trigger, tenant, _), booked in zip(counts, since, strict=True):
        warehouses[tenant].since[trigger] = booked
    for trigger, event in enumerate(events):
        obey(warehouses[event.tenant], event.message, event.envelope.id, trigger)
    await _apply_commands(tx, warehouses, events)
    await apply(tx, gathered, [event.cause for event in events])


async def expire_holds(tx: Transaction, limit: int) -> int:
    """Give back what orders of the own shop hold beyond their time; returns how many orders were looked at."""
    due = await store.due_orders(tx.connection, tx.now, limit)
    if not due:
        return 0
    freeing = await store.skus_of_orders(tx.connection, due)
    gathered = await gather(tx, orders=due, skus=freeing, concerned=lambda: store.short_orders(tx.connection, freeing))
    causes: list[Cause] = []
    for tenant, order_id in sorted(due & gathered.orders.keys()):
        order = gathered.orders[tenant, order_id]
        expire(gathered.ledgers[tenant], order, len(causes))
        causes.append(Cause(*order.cause))
    await apply(tx, gathered, causes)
    return len(due)


async def know_connections(events: Sequence[Received[ConnectionChanged]], tx: Transaction) -> None:
    """Keep which pool each connection draws on, to explain numbers with."""
    await store.put_connections(
        tx.connection,
        [
            (
                event.tenant,
                said.connection_id,
                said.epoch,
                said.version,
                said.connector,
                said.account,
                said.state,
                said.pool,
            )
            for event in events
            for said in [event.message]
        ],
    )


async def gather(
    tx: Transaction,
    *,
    orders: set[Key],
    skus: set[Key],
    concerned: Concerned | None = None,
    new: Collection[Key] = (),
    tenants: Collection[str] = (),
) -> Gathered:
    """Lock orders, then SKUs, then read.

    Who is `concerned` is asked before the locks, so that all orders are locked in one sorted statement, and again under
    them. An order that came in between is locked out of turn, which must not wait: see `store`.
    """
    connection = tx.connection
    orders = orders | (await concerned() if concerned else set())
    locked = await store.lock_orders(connection, orders) if orders else {}
    reserved = await store.read_reservations(connection, locked) if locked else []
    wanted = skus | {(row["tenant"], row["sku"]) for row in reserved}
    found = await store.lock_skus(connection, wanted) if wanted else {}
    late = await concerned() - orders if concerned else set()
    if late:
        locked |= await store.lock_orders(connection, late, nowait=True)
        reserved += await store.read_reservations(connection, late)
        more = {(row["tenant"], row["sku"]) for row in reserved} - found.keys()
        found |= await store.lock_skus(connection, more, nowait=True)
    if found:
        await store.read_stock(connection, found)
    added = {key: Order(order_id=key[1]) for key in new if key not in locked}
    locked |= added
    owners = {tenant for tenant, _ in found} | {tenant for tenant, _ in orders} | set(tenants)
    locations = await store.read_locations(connection, owners)
    ledgers = {owner: Ledger(tx.now, {}, {}, locations[owner]) for owner in sorted(owners)}
    for (tenant, code), sku in found.items():
        ledgers[tenant].skus[code] = sku
    for (tenant, order_id), order in locked.items():
        ledgers[tenant].orders[order_id] = order
    _attach_lines(ledgers, reserved)
    return Gathered(ledgers, found, locked, set(added))


async def apply(tx: Transaction, gathered: Gathered, causes: Sequence[Cause]) -> None:
    """Tell what was decided and write it. PostgreSQL is busy with the rows while the messages are built."""
    movements = [
        (_movement_id(tenant, movement), tenant, movement)
        for tenant, ledger in gathered.ledgers.items()
        for movement in ledger.movements
    ]
    writing = asyncio.create_task(_write(tx, gathered, movements))
    try:
        for number, (message, tenant, cause, correlation_id) in enumerate(_told(tx, gathered, causes, movements)):
            tx.publish(message, tenant=tenant, cause=cause, correlation_id=correlation_id)
            if number % MESSAGES_A_TURN == 0:
                await asyncio.sleep(0)
    finally:
        await writing
    for order in gathered.orders.values():
        # An order and its lines hold each other. Parted, they go with the batch: the collector has nothing to find.
        order.lines.clear()


def _told(
    tx: Transaction, gathered: Gathered, causes: Sequence[Cause], movements: Sequence[tuple[str, str, Movement]]
) -> Iterator[tuple[Message, str, Sequence[Cause], str]]:
    """Message, tenant, causes and correlation id of what there is to tell, first the levels: other channels wait."""
    for tenant, ledger in gathered.ledgers.items():
        for code, level in ledger.levels.items():
            message = level_message(ledger.skus[code], ledger.locations, level.causes)
            yield message, tenant, [causes[trigger] for trigger in level.triggers], ""
        for report in ledger.reports:
            own = Cause(*report.order.cause)
            filled = isinstance(report, Outcome) and report.filled
            cause = [own, causes[report.trigger]] if filled else [causes[report.trigger]]
            yield report_message(report, tx), tenant, cause, own.correlation_id
    for movement_id, tenant, movement in movements:
        yield movement_message(movement, movement_id, tx), tenant, [causes[movement.trigger]], ""


async def _write(tx: Transaction, gathered: Gathered, movements: Sequence[tuple[str, str, Movement]]) -> None:
    connection, ledgers = tx.connection, gathered.ledgers
    versions = [
        (tenant, code, ledger.skus[code].version) for tenant, ledger in ledgers.items() for code in ledger.levels
    ]
    if versions:
        await store.write_versions(connection, versions)
    if stock := [row for tenant, ledger in ledgers.items() for row in _stock_rows(tenant, ledger)]:
        await store.write_stock(connection, stock)
    await _write_orders(tx, gathered)
    if movements:
        await store.insert_movements(connection, movements, tx.now)


async def _write_orders(tx: Transaction, gathered: Gathered) -> None:
    changed = {
        (tenant, order.order_id): order
        for tenant, ledger in gathered.ledgers.items()
        for order in ledger.changed_orders
    }
    known_rows: list[Row] = []
    added_rows: list[Row] = []
    gone: list[Row] = []
    for tenant, ledger in gathered.ledgers.items():
        for line in ledger.changed_lines:
            if (tenant, line.order.order_id) in gathered.added:
                added_rows += _reservation_rows(tenant, line)
            else:
                known_rows += _reservation_rows(tenant, line)
                gone += _gone_rows(tenant, line)
    if known := {key: order for key, order in changed.items() if key not in gathered.added}:
        await store.update_orders(tx.connection, known)
    if added := {key: order for key, order in changed.items() if key in gathered.added}:
        await store.insert_orders(tx.connection, added)
    if gone:
        await store.delete_reservations(tx.connection, gone)
    if known_rows:
        await store.write_reservations(tx.connection, known_rows)
    if added_rows:
        await store.insert_reservations(tx.connection, added_rows)


async def _warehouses(
    tx: Transaction, gathered: Gathered, events: Sequence[Command], put: set[Key]
) -> dict[str, Warehouse]:
    skus = _named_skus(events)
    warehouses = {
        tenant: Warehouse(ledger, items={}, done={}, opened={}, counted={}, since={}, occupied=set())
        for tenant, ledger in gathered.ledgers.items()
    }
    for (tenant, sku), item in (await store.read_items(tx.connection, skus)).items():
        warehouses[tenant].items[sku] = item
    named = {(event.tenant, event.envelope.id) for event in events}
    for (tenant, command_id), result in (await store.read_commands(tx.connection, named)).items():
        warehouses[tenant].done[command_id] = result
    for row in await store.read_stocktakings(tx.connection, skus):
        key = (row["sku"], row["location"])
        if row["opened_by"] is not None:
            warehouses[row["tenant"]].opened[key] = row["opened_by"]
        if row["counted_at"] is not None:
            warehouses[row["tenant"]].counted[key] = row["counted_at"]
    for tenant, location in await store.occupied_locations(tx.connection, put) if put else ():
        warehouses[tenant].occupied.add(location)
    return warehouses


async def _apply_commands(tx: Transaction, warehouses: Mapping[str, Warehouse], events: Sequence[Command]) -> None:
    connection = tx.connection
    for tenant, warehouse in warehouses.items():
        for sku, trigger in warehouse.changed_items.items():
            tx.publish(warehouse.items[sku], tenant=tenant, cause=events[trigger].cause)
        for trigger, result in warehouse.results:
            answer = (
                StockCommandBooked(command_id=result.command_id, sku=result.sku, effect=result.outcome)
                if result.booked
                else StockCommandRefused(command_id=result.command_id, sku=result.sku, reason=result.outcome)
            )
            tx.publish(answer, tenant=tenant, cause=events[trigger].cause)
    if items := [(t, w.items[sku]) for t, w in warehouses.items() for sku in w.changed_items]:
        await store.put_items(connection, items)
    if places := [(t, w.ledger.locations[at]) for t, w in warehouses.items() for at in sorted(w.changed_locations)]:
        await store.put_locations(connection, places)
    if results := [(t, result) for t, w in warehouses.items() for result in w.new_results]:
        await store.insert_commands(connection, results, tx.now)
    stocktakings = [
        (tenant, *key, warehouse.opened.get(key), warehouse.counted.get(key))
        for tenant, warehouse in warehouses.items()
        for key in sorted(warehouse.changed_stocktakings)
    ]
    if stocktakings:
        await store.put_stocktakings(connection, stocktakings)


def _order_key(event: Received[OrderDemand]) -> Key:
    return event.tenant, event.message.order_id


def _exploded(events: Iterable[Received[OrderDemand]], kits: Mapping[str, Kits]) -> set[Key]:
    return {
        (event.tenant, sku)
        for event in events
        for line in event.message.lines
        for sku, _ in explode(kits[event.tenant], line.sku)
    }


def _attach_lines(ledgers: Mapping[str, Ledger], rows: Iterable[asyncpg.Record]) -> None:
    for row in rows:
        ledger = ledgers[row["tenant"]]
        order = ledger.orders[row["order_id"]]
        key = (row["line_id"], row["sold_sku"], row["sku"])
        line = order.lines.get(key)
        if line is None:
            line = order.lines[key] = Line(order, *key, row["per_unit"], row["only_location"])
        unit = (row["state"], row["location"], row["pool"], row["origin"])
        line.units[unit] = line.stored[unit] = row["quantity"]
        ledger.list_short(line)


def _named_skus(events: Iterable[Command]) -> set[Key]:
    found: set[Key] = set()
    for event in events:
        command: StockCommand = event.message
        if not isinstance(command, PutLocation):
            found.add((event.tenant, command.sku))
        if isinstance(command, PutItem):
            found |= {(event.tenant, part.sku) for part in command.components}
    return found


def _named_places(events: Iterable[Command]) -> set[Key]:
    found: set[Key] = set()
    for event in events:
        match event.message:
            case TransferStock(from_location=source, to_location=target):
                found |= {(event.tenant, source), (event.tenant, target)}
            case PutItem():
                pass
            case command:
                found.add((event.tenant, command.location))
    return found


def _location_key(event: Command) -> Key:
    assert isinstance(event.message, PutLocation)
    return event.tenant, event.message.location


def _to_store(line: Line) -> dict[Unit, int]:
    """Where `line` has units; one that has none at all keeps a row nevertheless, for what it was composed of."""
    return {unit: quantity for unit, quantity in line.units.items() if quantity} or ({SHORT: 0} if line.units else {})


def _reservation_rows(tenant: str, line: Line) -> Iterable[Row]:
    """What is stored of `line` otherwise than it stands, or not at all."""
    order = line.order
    for unit, quantity in _to_store(line).items():
        if line.stored.get(unit) != quantity:
            yield (
                tenant, order.order_id, line.line_id, line.sold_sku, line.sku, *unit, quantity, line.per_unit,
                line.location, order.sold_at,
            )  # fmt: skip


def _gone_rows(tenant: str, line: Line) -> Iterable[Row]:
    """What is stored of `line` and is so no more: so its rows say how it stands, not how it came there."""
    for unit in line.stored.keys() - _to_store(line).keys():
        yield tenant, line.order.order_id, line.line_id, line.sold_sku, line.sku, *unit


def _stock_rows(tenant: str, ledger: Ledger) -> Iterable[Row]:
    for sku in ledger.skus.values():
        for location, pool in {account[:2] for account in sku.changed}:
            yield (
                tenant, sku.sku, location, pool,
                *[sku.counters.get((location, pool, state), 0) for state in COUNTED],
            )  # fmt: skip


def _movement_id(tenant: str, movement: Movement) -> str:
    """A movement is what it is: the same cause, line, SKU and accounts make the same id."""
    parts = (tenant, movement.cause, movement.line, movement.sku, *movement.source, *movement.target)
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()

"""What erp does with what it hears: rows of the journal."""

from collections.abc import Sequence
from typing import Any

from contracts.fulfillment.v1 import ShipmentDispatched
from contracts.inventory.v1 import ItemChanged, MovementRecorded
from services.bus import Cause, Received, Transaction
from services.erp import bookings, store
from services.erp.domain import Order, OrderHeard, Payment, PaymentHeard, move, pay, ship, take
from services.erp.store import Entry, Key


async def record_orders(events: Sequence[Received[OrderHeard]], tx: Transaction) -> None:
    """Book what facts about orders change: sold, cancelled, returned."""
    now = dict(await store.lock_orders(tx.connection, {_order(event) for event in events}))
    changed: dict[Key, tuple[Order, Cause]] = {}
    entries: list[Entry] = []
    for event in events:
        key, fact = _order(event), event.message
        before = now.get(key)
        order, rows = take(before, fact)
        if order and order is not before:
            now[key], changed[key] = order, (order, event.cause)
        entries += [Entry(event.tenant, event.envelope.id, fact.at, row) for row in rows]
    if changed:
        await store.put_orders(tx.connection, changed)
        await bookings.want(tx.connection, changed, tx.now)
    await _append(tx, entries)


async def keep_items(events: Sequence[Received[ItemChanged]], tx: Transaction) -> None:
    """Keep items as inventory has them; of several versions the newest."""
    newest: dict[Key, ItemChanged] = {}
    for event in events:
        key, item = (event.tenant, event.message.sku), event.message
        if key not in newest or (item.epoch, item.version) > (newest[key].epoch, newest[key].version):
            newest[key] = item
    await bookings.put_items(tx.connection, newest)


async def record_payments(events: Sequence[Received[PaymentHeard]], tx: Transaction) -> None:
    """Book what facts about payments change: taken, given back, lost."""
    keys = {(event.tenant, event.message.payment_id) for event in events}
    now = dict(await store.lock_payments(tx.connection, keys))
    changed: dict[Key, Payment] = {}
    entries: list[Entry] = []
    for event in events:
        key, fact = (event.tenant, event.message.payment_id), event.message
        before = now.get(key)
        payment, rows = pay(before, fact)
        if payment is not before:
            now[key] = changed[key] = payment
        entries += [Entry(event.tenant, event.envelope.id, fact.at, row) for row in rows]
    if changed:
        await store.put_payments(tx.connection, changed)
    await _append(tx, entries)


async def record_shipments(events: Sequence[Received[ShipmentDispatched]], tx: Transaction) -> None:
    """Book what has left."""
    entries = [
        Entry(event.tenant, event.envelope.id, event.message.dispatched_at, row)
        for event in events
        for row in ship(event.message)
    ]
    await _append(tx, entries)


async def record_movements(events: Sequence[Received[MovementRecorded]], tx: Transaction) -> None:
    """Book movements of stock."""
    entries = [Entry(event.tenant, event.envelope.id, event.message.at, move(event.message)) for event in events]
    await _append(tx, entries)


def _order(event: Received[Any]) -> Key:
    return event.tenant, event.message.order_id


async def _append(tx: Transaction, entries: Sequence[Entry]) -> None:
    """Last in a transaction: whoever adds to the journal must wait for nothing else."""
    if entries:
        await store.lock_journal(tx.connection)
        await store.append(tx.connection, entries)

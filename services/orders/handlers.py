"""What orders does with what it hears: gather, decide in order of arrival, apply."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeAlias

from contracts.channels.v1 import ConnectionChanged, SaleReported, SaleStatus
from contracts.inventory.v1 import DemandMet, DemandShort, HoldExpired
from services.bus import Received, Transaction
from services.orders import store
from services.orders.domain import Order, alerts, decide
from services.orders.recent import Key, Recent
from services.orders.settings import OrdersSettings

Heard: TypeAlias = Received[SaleReported] | Received[DemandMet] | Received[DemandShort] | Received[HoldExpired]


async def advance(events: Sequence[Heard], tx: Transaction, *, settings: OrdersSettings, recent: Recent) -> None:
    """Take snapshots of sales and answers of inventory to their orders, and tell what follows from them."""
    keys = {(event.tenant, event.message.order_id) for event in events}
    before = await store.lock_orders(tx.connection, keys, recent.find(keys))
    now = dict(before)
    for event in events:
        tenant, cause = event.tenant, event.cause
        key = (tenant, event.message.order_id)
        decision = decide(now.get(key), event.message, tx.now)
        if decision.order:
            now[key] = decision.order
        # Inventory first: it is the hop that other channels wait for.
        if decision.demand:
            tx.publish(decision.demand, tenant=tenant, cause=cause)
        for fact in decision.facts:
            tx.publish(fact, tenant=tenant, cause=cause)
    stamp = tx.new_id()
    written = await save(tx, before, now, stamp, settings.payment_default)
    tx.after_commit(partial(recent.keep, written, stamp))


async def save(
    tx: Transaction, before: Mapping[Key, Order], now: Mapping[Key, Order], stamp: str, payment_default: timedelta
) -> dict[Key, Order]:
    """Write what differs between the orders as they were locked and as they are now, and their alerts; returns it.

    `stamp` marks the rows written here; no other write may ever have it.
    """
    new = {key: order for key, order in now.items() if key not in before}
    changed = {key: order for key, order in now.items() if key in before and order is not before[key]}
    if new:
        await store.insert_orders(tx.connection, new, stamp, tx.now, payment_default)
    if changed:
        await store.update_orders(tx.connection, changed, before, stamp, tx.now, payment_default)
    raised, cleared = [], []
    written = new | changed
    for key, order in written.items():
        stood = alerts(before[key]) if key in before else frozenset()
        stands = alerts(order)
        raised += [(*key, kind) for kind in sorted(stands - stood)]
        cleared += [(*key, kind) for kind in sorted(stood - stands)]
        if key in before and _awaits_payment(before[key]) and not _awaits_payment(order):
            cleared.append((*key, "payment"))
    if raised:
        await store.raise_alerts(tx.connection, raised, tx.now)
    if cleared:
        await store.clear_alerts(tx.connection, cleared)
    return written


def _awaits_payment(order: Order) -> bool:
    return order.status is SaleStatus.AWAITING_PAYMENT


async def know_connections(events: Sequence[Received[ConnectionChanged]], tx: Transaction) -> None:
    """Keep the newest of what channels says about each connection."""
    newest: dict[Key, ConnectionChanged] = {}
    for event in events:
        change, key = event.message, (event.tenant, event.message.connection_id)
        if key not in newest or (newest[key].epoch, newest[key].version) < (change.epoch, change.version):
            newest[key] = change
    await store.put_connections(tx.connection, newest)

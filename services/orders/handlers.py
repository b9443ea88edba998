"""What orders does with what it hears: gather, decide in order of arrival, apply."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeAlias

from contracts.channels.v1 import ConnectionChanged, OrderProgress, ProgressAccepted, ProgressRefused, SaleStatus
from contracts.envelope import Message
from contracts.orders.v1 import OrderConfirmed, OrderPlaced
from services.bus import Cause, Received, Transaction
from services.orders import store
from services.orders.domain import Decision, Event, alerts, decide
from services.orders.order import Order
from services.orders.process import PersonSaid
from services.orders.recent import Key, Recent
from services.orders.settings import OrdersSettings
from services.orders.store import Written
from services.orders.wanted import paid_by_us

Heard: TypeAlias = Received[Any]
"""A message about one order; what it may be is `domain.Event`."""

IN_ROW = (OrderPlaced, OrderConfirmed)
"""Facts whose moment the row of the order tells: no sale on its usual way has a row more."""

INVOICE_ALERTS: Final = frozenset({"cancel_invoice", "replace_invoice"})
"""An NF-e can be cancelled for a while only."""
NO_ALERTS: Final[frozenset[str]] = frozenset()


async def advance(events: Sequence[Heard], tx: Transaction, *, settings: OrdersSettings, recent: Recent) -> None:
    """Take what is heard of orders to them, and tell what follows from it."""
    keys = {(event.tenant, event.message.order_id) for event in events}
    before = await store.lock_orders(tx.connection, keys, recent.find(keys))
    now = dict(before)
    begun: dict[Key, Heard] = {}
    story: list[Sequence[object]] = []
    for event in events:
        key = (event.tenant, event.message.order_id)
        decision = take(now, key, event.message, event.cause, tx, story, settings)
        if key not in before and decision.order:
            begun.setdefault(key, event)
        if decision.order and isinstance(event.message, ProgressAccepted | ProgressRefused):
            story.append(_told(key, decision.order, event.message, event.cause, tx))
    stamp = tx.new_id()
    written = await save(tx, before, now, stamp, settings, begun)
    if story:
        await store.insert_story(tx.connection, story)
    tx.after_commit(partial(recent.keep, written, stamp))


def take(
    orders: dict[Key, Order],
    key: Key,
    event: Event,
    cause: Cause,
    tx: Transaction,
    story: list[Sequence[object]],
    settings: OrdersSettings,
) -> Decision:
    """Decide `event` about one of `orders`, publish what follows, and note it for the story."""
    tenant, order_id = key
    decision = decide(orders.get(key), event, tx.now, settings.lengths["withdrawal_h"])
    if decision.order:
        orders[key] = decision.order
        if isinstance(event, PersonSaid):
            story.append((*key, decision.order.version, f"PersonSaid {event.answer}", tx.now, "{}", cause.traceparent))
    # Inventory first: it is the hop that other channels wait for.
    if decision.demand:
        tx.publish(decision.demand, tenant=tenant, cause=cause)
    for command in decision.commands:
        tx.publish(command, tenant=tenant, cause=cause)
        assert decision.order
        detail = _detail(command)
        story.append((*key, decision.order.version, _name(command), tx.now, detail, cause.traceparent))
    for fact in decision.facts:
        tx.publish(fact, tenant=tenant, cause=cause)
        if not isinstance(fact, IN_ROW):
            what = type(fact).__name__
            story.append((tenant, order_id, fact.version, what, tx.now, _detail(fact), cause.traceparent))
    return decision


def _name(command: Message) -> str:
    about = getattr(command, "payment_id", None) or getattr(command, "shipment_id", None) or ""
    return " ".join(filter(None, (type(command).__name__, about, f"r{getattr(command, 'revision', 0)}")))


def _detail(message: Message) -> str:
    if isinstance(message, OrderProgress):
        # Its payment may hold a Pix to copy, and its parcels are in the rows before it.
        return message.model_dump_json(include={"state", "held_for", "cancelled_reason"}, exclude_none=True)
    apart = {"order_id", "version", "connection_id", "external_id", "sale_revision", "at", "token", "revision"}
    return message.model_dump_json(exclude=apart, exclude_none=True)


def _told(
    key: Key, order: Order, event: ProgressAccepted | ProgressRefused, cause: Cause, tx: Transaction
) -> Sequence[object]:
    what = f"{type(event).__name__} {event.step} r{event.revision}"
    return (*key, order.version, what, tx.now, _detail(event), cause.traceparent)


async def save(
    tx: Transaction,
    before: Mapping[Key, Order],
    now: Mapping[Key, Order],
    stamp: str,
    settings: OrdersSettings,
    begun: Mapping[Key, Heard],
) -> dict[Key, Order]:
    """Write what differs between the orders as they were locked and as they are now, and their alerts; returns it.

    `stamp` marks the rows written here; no other write may ever have it. `begun` is what new ones began with.
    """
    new = {key: order for key, order in now.items() if key not in before}
    changed = {key: order for key, order in now.items() if key in before and order is not before[key]}
    row = Written(stamp, tx.now, settings.lengths)
    if new:
        await store.insert_orders(tx.connection, new, row, begun)
    if changed:
        await store.update_orders(tx.connection, changed, before, row)
    raised, cleared = [], []
    written = new | changed
    for key, order in written.items():
        was = before.get(key)
        stood, stands = alerts(was) if was else NO_ALERTS, alerts(order)
        # What has lasted another round is raised once more.
        again = stands if was and order.process.rounds > was.process.rounds else stands - stood
        if was and was.process.invoice != order.process.invoice:
            again |= stands & (INVOICE_ALERTS | {"check_invoice"})  # It is about the newest one.
        raised += [(*key, kind, _due_at(order, kind, settings)) for kind in sorted(again)]
        cleared += [(*key, kind) for kind in sorted(stood - stands)]
        if was and _awaits_payment(was) and not _awaits_payment(order):
            cleared.append((*key, "payment"))
    if raised:
        await store.raise_alerts(tx.connection, raised, tx.now)
    if cleared:
        await store.clear_alerts(tx.connection, cleared)
    return written


def _due_at(order: Order, kind: str, settings: OrdersSettings) -> datetime | None:
    """Until when a person has time for what an alert asks, where that is not the process's own clock."""
    if kind not in INVOICE_ALERTS or order.process.invoice is None:
        return None
    return order.process.invoice.issued_at + settings.lengths["invoice_cancel_h"]


def _awaits_payment(order: Order) -> bool:
    return order.status is SaleStatus.AWAITING_PAYMENT and not paid_by_us(order.sale)


async def know_connections(events: Sequence[Received[ConnectionChanged]], tx: Transaction) -> None:
    """Keep the newest of what channels says about each connection."""
    newest: dict[Key, ConnectionChanged] = {}
    for event in events:
        change, key = event.message, (event.tenant, event.message.connection_id)
        if key not in newest or (newest[key].epoch, newest[key].version) < (change.epoch, change.version):
            newest[key] = change
    await store.put_connections(tx.connection, newest)

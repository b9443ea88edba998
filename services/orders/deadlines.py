"""What only the clock can notice: a stage that has lasted too long, and an order that is long finished, or forgotten.

The stock of a marketplace's unpaid order is never given back here. Its hold ends by that marketplace's word, so the
marketplace is asked, and a person is told.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from contracts.channels.v1 import RefetchSale
from services.bus import Cause, Transaction
from services.orders import store
from services.orders.domain import CloseDue
from services.orders.handlers import save, take
from services.orders.order import Order
from services.orders.process import DeadlineDue, PersonSaid
from services.orders.recent import Key
from services.orders.settings import OrdersSettings
from services.runtime import Service


async def watch(service: Service, *, settings: OrdersSettings) -> None:
    """Look at the deadlines for ever, a page a transaction, pausing when there is nothing left to do."""
    while True:
        most = 0
        for look in (ask_again, close_finished, go_on, find_silent, find_waiting, remind, forget):
            async with service.transaction() as tx:
                most = max(most, await look(tx, settings))
        if most < settings.page:
            await asyncio.sleep(settings.poll_interval_s)


async def ask_again(tx: Transaction, settings: OrdersSettings) -> int:
    """Ask channels for every unpaid order past its deadline and raise an alert; returns how many."""
    rows = await store.claim_unpaid(
        tx.connection, tx.now, settings.payment_margin, settings.payment_interval, settings.page
    )
    for row in rows:
        command = RefetchSale(
            order_id=row["order_id"], reason=f"payment was due {row['payment_due']:%Y-%m-%dT%H:%MZ} and is not reported"
        )
        tx.publish(command, tenant=row["tenant"], cause=_cause(row))
    if rows:
        raised = [(row["tenant"], row["order_id"], "payment", None) for row in rows]
        await store.raise_alerts(tx.connection, raised, tx.now)
    return len(rows)


async def close_finished(tx: Transaction, settings: OrdersSettings) -> int:
    """Close orders that are finished and have been silent for `close_after`; returns how many."""
    rows = await store.lock_finished(tx.connection, tx.now - settings.close_after, settings.page)
    await decide_locked(tx, settings, rows, CloseDue())
    return len(rows)


async def go_on(tx: Transaction, settings: OrdersSettings) -> int:
    """Do what is due at the orders whose stage has lasted too long; returns how many."""
    rows = await store.lock_due(tx.connection, tx.now, settings.page)
    await decide_locked(tx, settings, rows, DeadlineDue(settings.short_default))
    return len(rows)


async def find_silent(tx: Transaction, settings: OrdersSettings) -> int:
    """Look after orders that inventory has not answered; returns how many."""
    return await _look_through(tx, settings, "placed", settings.lengths["answer_s"])


async def find_waiting(tx: Transaction, settings: OrdersSettings) -> int:
    """Give a deadline to orders that were confirmed on their usual way and are still there; returns how many."""
    return await _look_through(tx, settings, "confirmed", settings.lengths["usual_s"])


async def remind(tx: Transaction, settings: OrdersSettings) -> int:
    """Raise alerts once more whose term is over; returns how many."""
    return await store.repeat_overdue(tx.connection, tx.now, settings.page)


async def forget(tx: Transaction, settings: OrdersSettings) -> int:
    """Delete the stories of orders that were closed long ago; returns how many."""
    return await store.forget_stories(tx.connection, tx.now - settings.story_kept, settings.page)


async def _look_through(tx: Transaction, settings: OrdersSettings, state: str, age: timedelta) -> int:
    before = tx.now - age
    after = await store.lock_looked(tx.connection, state, before)
    if after is None:
        return 0
    rows = await store.lock_staying(tx.connection, state, after, before, settings.page)
    await decide_locked(tx, settings, rows, DeadlineDue(settings.short_default))
    if len(rows) < settings.page:
        await store.put_looked(tx.connection, state, max(after, before))
    return len(rows)


async def decide_locked(
    tx: Transaction,
    settings: OrdersSettings,
    rows: Sequence[asyncpg.Record],
    event: CloseDue | DeadlineDue | PersonSaid,
) -> None:
    """Take `event` to orders that are locked: rows as of `store.lock_due`."""
    before: dict[Key, Order] = {(row["tenant"], row["order_id"]): store.read(row) for row in rows}
    now, story = dict(before), list[Sequence[object]]()
    for row in rows:
        take(now, (row["tenant"], row["order_id"]), event, _cause(row), tx, story, settings)
    await save(tx, before, now, tx.new_id(), settings, {})
    if story:
        await store.insert_story(tx.connection, story)


def _cause(row: asyncpg.Record) -> Cause:
    """A timer's command belongs to the trace that the order began in."""
    return Cause(event_id="", correlation_id=row["order_id"], traceparent=row["traceparent"])

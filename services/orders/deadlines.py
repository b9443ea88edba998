"""What only the clock can notice: a deadline for payment that passed in silence, an order that is long finished.

Stock of an unpaid order is never given back here. A marketplace's hold ends by that marketplace's word, so the
marketplace is asked, and a person is told.
"""

import asyncio

from contracts.channels.v1 import RefetchSale
from services.bus import Cause, Transaction
from services.orders import store
from services.orders.domain import CloseDue, decide
from services.orders.handlers import save
from services.orders.settings import OrdersSettings
from services.runtime import Service


async def watch(service: Service, *, settings: OrdersSettings) -> None:
    """Look at the deadlines for ever, a page a transaction, pausing when there is nothing left to do."""
    while True:
        async with service.transaction() as tx:
            asked = await ask_again(tx, settings)
        async with service.transaction() as tx:
            closed = await close_finished(tx, settings)
        if max(asked, closed) < settings.page:
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
        tx.publish(command, tenant=row["tenant"], cause=Cause(event_id="", correlation_id=row["order_id"]))
    if rows:
        await store.raise_alerts(tx.connection, [(row["tenant"], row["order_id"], "payment") for row in rows], tx.now)
    return len(rows)


async def close_finished(tx: Transaction, settings: OrdersSettings) -> int:
    """Close orders that are finished and have been silent for `close_after`; returns how many."""
    before = await store.lock_finished(tx.connection, tx.now - settings.close_after, settings.page)
    now = {}
    for (tenant, order_id), order in before.items():
        decision = decide(order, CloseDue(), tx.now)
        if decision.order:
            now[tenant, order_id] = decision.order
        for fact in decision.facts:
            tx.publish(fact, tenant=tenant, cause=Cause(event_id="", correlation_id=order_id))
    await save(tx, before, now, tx.new_id(), settings.payment_default)
    return len(before)

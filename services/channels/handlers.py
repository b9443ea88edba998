"""What channels is asked to do about an order: `channels.commands.v1`."""

from collections.abc import Sequence
from typing import TypeAlias, cast

import structlog

from contracts.channels.v1 import OrderProgress, RefetchSale, ResendBuyer
from contracts.crm.v1 import CustomerErased
from services.bus import Received, Transaction
from services.channels.alerts import Alert, raise_alerts
from services.channels.intake import store
from services.channels.intake.context import Intake
from services.channels.report.handlers import take_progress
from services.channels.shop.handlers import hear
from services.channels.shop.shop import Shop

_log = structlog.get_logger(__name__)


Command: TypeAlias = ResendBuyer | RefetchSale | OrderProgress


async def obey(events: Sequence[Received[Command]], tx: Transaction, intake: Intake, shop: Shop) -> None:
    """Report buyers once more, have orders read again and channels told, in the order of the commands."""
    buyers = [event for event in events if isinstance(event.message, ResendBuyer)]
    fetches = [event for event in events if isinstance(event.message, RefetchSale)]
    told = [cast("Received[OrderProgress]", event) for event in events if isinstance(event.message, OrderProgress)]
    if told:
        # Baskets are locked before the rows of orders, as by whoever changes them.
        await hear(told, tx, shop)
    if fetches:
        await _refetch(fetches, tx, intake)
    if buyers:
        await _resend(buyers, tx, intake)
    if told:
        await take_progress(told, tx, intake)


async def forget(events: Sequence[Received[CustomerErased]], tx: Transaction) -> None:
    """Delete what was kept of the buyers of these orders; what comes in of them later is not kept either."""
    for event in events:
        bodies, buyers = await store.erase_orders(tx.connection, event.tenant, sorted(event.message.order_ids))
        _log.info("a customer was erased", orders=len(event.message.order_ids), bodies=bodies, buyers=buyers)


async def _refetch(events: Sequence[Received[Command]], tx: Transaction, intake: Intake) -> None:
    wanted = {event.message.order_id: event for event in events}
    known = await store.ask_fetch(tx.connection, sorted(wanted), tx.now)
    alerts = [
        Alert(
            tenant,
            connection_id,
            "order_overdue",
            order_id,
            f"order {order_id} is asked for again at its channel: {_reason(wanted[order_id])}",
        )
        for tenant, connection_id, order_id in known
    ]
    await raise_alerts(tx.connection, alerts, tx.now)
    # Looked for by a timer as well, so an early wake-up that finds nothing costs only the delay.
    if known:
        intake.wanted.set()


def _reason(event: Received[Command]) -> str:
    return event.message.reason if isinstance(event.message, RefetchSale) else ""


async def _resend(events: Sequence[Received[Command]], tx: Transaction, intake: Intake) -> None:
    rows = await store.buyers_of(tx.connection, sorted({event.message.order_id for event in events}))
    kept = {(buyer.tenant, buyer.order_id): buyer for buyer in rows}
    if rows:
        await store.lock_customers(tx.connection, [buyer.customer_ref for buyer in rows], tx.now)
    for event in events:
        buyer = kept.get((event.tenant, event.message.order_id))
        if buyer is None:
            _log.warning("a buyer was asked for who is not kept any more", order_id=event.message.order_id)
            continue
        tx.publish(intake.open_buyer(buyer), tenant=buyer.tenant, cause=event.cause)

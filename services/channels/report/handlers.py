"""What is to be told of orders, as orders says: `OrderProgress` on `channels.commands.v1`."""

from collections.abc import Sequence

import structlog

from contracts.channels.v1 import OrderProgress
from services.bus import Received, Transaction
from services.channels.connectors import CONNECTORS
from services.channels.intake.context import Intake
from services.channels.report import store
from services.channels.report.domain import steps

_log = structlog.get_logger(__name__)


async def take_progress(events: Sequence[Received[OrderProgress]], tx: Transaction, intake: Intake) -> None:
    """Keep the newest progress of each order of which its channel has to be told anything."""
    newest: dict[tuple[str, str], Received[OrderProgress]] = {}
    for event in events:
        key = event.tenant, event.message.order_id
        if key not in newest or newest[key].message.revision < event.message.revision:
            newest[key] = event
    known = await store.known_orders(tx.connection, sorted({order_id for _, order_id in newest}))
    wanted = []
    for (tenant, order_id), event in sorted(newest.items()):
        order = known.get(order_id)
        if order is None or order.tenant != tenant:
            _log.warning("there is progress of an order that never came in here", order_id=order_id)
            continue
        connector = CONNECTORS.get(order.connector)
        if connector and steps(event.message, connector.traits.reports):
            wanted.append((order, event.message, event.cause))
    if wanted:
        await store.put(tx.connection, wanted, tx.now)
        tx.after_commit(intake.telling.set)

"""Handlers on a database, as the bus calls them."""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import asyncpg

from contracts.channels.v1 import BuyerReported
from contracts.crm.v1 import CustomerErased
from contracts.envelope import Envelope, Message
from contracts.inventory.v1 import ItemChanged
from services.border.vault import Vault
from services.bus import Received, Transaction
from services.fulfillment import store
from services.fulfillment.domain import Shipment
from services.fulfillment.handlers import forget, measure, meet, obey
from services.fulfillment.settings import FulfillmentSettings
from tests.fulfillment.given import NOW, ORDER, SHIPMENT

SETTINGS = FulfillmentSettings(secrets_key=bytes(range(7, 39)).hex())
VAULT = Vault(bytes(range(7, 39)).hex())
Connection = asyncpg.Connection
_ids = itertools.count()


def received(message: Any, tenant: str = "acme", said_at: datetime = NOW) -> Received[Any]:
    name = f"event-{next(_ids)}"
    return Received(message, Envelope(name, "", "/test", said_at, "", tenant, "order-a", "", f"trace-{name}"), "key")


async def within(
    connection: Connection, work: Callable[[Transaction], Awaitable[Any]], now: datetime = NOW
) -> list[Message]:
    """Run `work` in a transaction; what was published."""
    tx = Transaction(connection, now, lambda: f"id-{next(_ids)}")
    async with connection.transaction():
        await work(tx)
    for call in tx.committed:
        call()
    return [published.message for published in tx.publications]


async def hear(
    connection: Connection,
    *messages: Message,
    tenant: str = "acme",
    said_at: datetime = NOW,
    settings: FulfillmentSettings = SETTINGS,
) -> list[Message]:
    """Handle `messages`, all of one stream, as one batch; what was published."""
    events = [received(message, tenant, said_at) for message in messages]
    handler: Callable[[Sequence[Any], Transaction], Awaitable[None]] = partial(
        obey, settings=settings, labels=lambda: None, quotes=lambda: None
    )
    if isinstance(messages[0], BuyerReported):
        handler = partial(meet, settings=settings, vault=VAULT, labels=lambda: None, quotes=lambda: None)
    elif isinstance(messages[0], CustomerErased):
        handler = forget
    elif isinstance(messages[0], ItemChanged):
        handler = measure
    return await within(connection, partial(handler, events))


async def known(connection: Connection, tenant: str = "acme", order_id: str = ORDER, one: str = SHIPMENT) -> Shipment:
    return (await store.shipments_of(connection, [(tenant, order_id)]))[tenant, one]

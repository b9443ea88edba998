"""Buyers and orders to begin a test with, and batches as the bus hands them over."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import asyncpg

from contracts.channels.v1 import BuyerReported
from contracts.envelope import Envelope, Message
from contracts.erp.v1 import InvoiceIssued
from contracts.fulfillment.v1 import LabelCreated, ShipmentDelivered, ShipmentLine
from contracts.orders.v1 import OrderCancelled, OrderClosed, OrderDelivered, OrderLine, OrderPlaced
from services.border.vault import Vault
from services.bus import Received, Transaction
from services.crm.handlers import recognise, remember
from services.crm.settings import CrmSettings
from services.runtime import Service

NOW = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
SETTINGS = CrmSettings(secrets_key=bytes(range(32)).hex(), relay_domains="relay.example")
CPF, OTHER_CPF = "390.533.447-05", "111.444.777-35"
ANA: dict[str, Any] = {"document": CPF, "emails": ("ana@loja.example",), "phones": ("(11) 98765-4321",)}
ids = itertools.count()


def buyer(ref: str = "ref-a", order_id: str = "", **fields: Any) -> BuyerReported:
    return BuyerReported(customer_ref=ref, order_id=order_id or f"order-of-{ref}", **fields)


def placed(ref: str = "ref-a", connection_id: str = "connection-a") -> OrderPlaced:
    return OrderPlaced(
        order_id=f"order-of-{ref}", version=1, connection_id=connection_id, external_id="1001", sale_revision=1,
        at=NOW, sold_at=NOW, customer_ref=ref, paid=True, lines=(OrderLine(line_id="1", sku="MUG", quantity=1),),
    )  # fmt: skip


def ended(ref: str = "ref-a", kind: Any = OrderCancelled) -> OrderCancelled | OrderClosed | OrderDelivered:
    made: OrderCancelled | OrderClosed | OrderDelivered = kind(
        order_id=f"order-of-{ref}", version=9, connection_id="connection-a", external_id="1001", sale_revision=2,
        at=NOW, **({} if kind is OrderDelivered else {"reason": "channel"}),
    )  # fmt: skip
    return made


def invoiced(ref: str = "ref-a") -> InvoiceIssued:
    return InvoiceIssued(
        order_id=f"order-of-{ref}", document_id=f"document-of-{ref}", invoice_no="7", series="1", invoice_key="3" * 44,
        issued_at=NOW, total_minor=1990, currency="BRL",
    )  # fmt: skip


def parcel(kind: Any, ref: str = "ref-a", **fields: Any) -> LabelCreated | ShipmentDelivered:
    made: LabelCreated | ShipmentDelivered = kind(
        order_id=f"order-of-{ref}", shipment_id=f"order-of-{ref}:s1", version=1, revision=1, location="main",
        lines=(ShipmentLine(line_id="1", sku="MUG", quantity=1),), at=NOW, carrier="ECT", service="SEDEX", **fields,
    )  # fmt: skip
    return made


def received(message: Any, tenant: str = "acme", at: datetime = NOW) -> Received[Any]:
    envelope = Envelope(f"event-{next(ids)}", "", "/test", at, "", tenant, "")
    return Received(message, envelope, f"{tenant}:key")


def opened(connection: Any, now: datetime = NOW) -> Transaction:
    return Transaction(connection, now, lambda: f"id-{next(ids):09}")


class Running:
    """As much of a running service as crm asks for: what it published, and whose dead letters it erased.

    `before` is called before each transaction; `erase` stands for that of the bus and fails while `broken` is set.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self.pool, self.dead_letters = pool, self
        self.published: list[Any] = []
        self.erased: list[str] = []
        self.broken = False
        self.before: Callable[[], Awaitable[object]] | None = None

    @property
    def service(self) -> Service:
        """This, as what it stands for."""
        return cast("Service", self)

    def clock(self) -> datetime:
        return NOW

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        if self.before:
            await self.before()
        async with self.pool.acquire() as pooled, pooled.transaction():
            tx = opened(pooled)
            yield tx
        self.published += [publication.message for publication in tx.publications]

    async def erase(self, correlation_id: str) -> int:
        if self.broken:
            raise ConnectionError("the database is away")
        self.erased.append(correlation_id)
        return 1


async def hear(
    connection: "asyncpg.Connection[asyncpg.Record]", vault: Vault, *messages: Message, tenant: str = "acme",
    at: datetime = NOW, now: datetime = NOW, settings: CrmSettings = SETTINGS,
) -> list[Any]:  # fmt: skip
    """Handle `messages` as one batch a handler; what was published."""
    tx = opened(connection, now)
    events = [received(message, tenant, at) for message in messages]
    async with connection.transaction():
        buyers = [event for event in events if isinstance(event.message, BuyerReported)]
        if buyers:
            await recognise(buyers, tx, vault=vault, settings=settings)
        await remember([event for event in events if event not in buyers], tx, vault=vault, settings=settings)
    return [published.message for published in tx.publications]


async def groups(connection: "asyncpg.Connection[asyncpg.Record]", tenant: str = "acme") -> set[frozenset[str]]:
    """The references that are one customer each."""
    rows = await connection.fetch(
        "SELECT array_agg(customer_ref) AS refs FROM customers WHERE tenant = $1 GROUP BY stands_for", tenant
    )
    return {frozenset(row["refs"]) for row in rows}

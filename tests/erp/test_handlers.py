"""Handlers on a real PostgreSQL: what a batch leaves behind, and what the tables refuse."""

import asyncio
import itertools
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.fulfillment.v1 import ShipmentDispatched
from contracts.inventory.v1 import MovementRecorded
from contracts.orders.v1 import OrderCancelled, OrderChanged, OrderReturned
from contracts.payments.v1 import PaymentCaptured, PaymentFact, PaymentRefunded
from services.bus import Received, Transaction
from services.erp import store
from services.erp.handlers import record_movements, record_orders, record_payments, record_shipments
from tests.erp.given import NOW, dispatched, fact, lines, movement, payment, placed, received

DATABASE = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HANDLERS: Any = {
    ShipmentDispatched: record_shipments,
    MovementRecorded: record_movements,
    PaymentFact: record_payments,
    object: record_orders,
}
ids = itertools.count()


def handler(message: Any) -> Any:
    return next(one for kind, one in HANDLERS.items() if isinstance(message, kind))


async def hear(connection: Any, events: list[Received[Any]]) -> None:
    """Handle events of one stream as one batch."""
    async with connection.transaction():
        await handler(events[0].message)(events, Transaction(connection, NOW, lambda: f"id-{next(ids)}"))


async def journal(connection: Any, tenant: str = "acme") -> list[dict[str, Any]]:
    """The rows without their numbers, in the order of these."""
    rows = [dict(row) for row in await store.read_journal(connection, tenant, 0, 1000)]
    assert [row.pop("seq") for row in rows] == sorted(row["seq"] for row in await store.read_journal(
        connection, tenant, 0, 1000
    ))  # fmt: skip
    return rows


async def empty(connection: Any) -> None:
    await connection.execute("TRUNCATE bookings, documents, journal, payments, orders")


@pytest.mark.asyncio
async def test_every_stream_becomes_rows(connection: asyncpg.Connection) -> None:
    facts = [placed(), payment(PaymentCaptured, 1, captured_minor=5000), dispatched(), movement()]
    for number, message in enumerate(facts):
        await hear(connection, [received(message, number)])

    rows = await journal(connection)
    assert [(row["kind"], row["quantity"], row["amount_minor"]) for row in rows] == [
        ("sale", 2, 4000),
        ("sale", None, 1000),
        ("payment", None, 5000),
        ("shipment", 2, None),
        ("movement", 2, None),
    ]
    assert {row["order_id"] for row in rows} == {"order-a"}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "message", [placed(), payment(PaymentCaptured, 1, captured_minor=5000), dispatched(), movement()]
)
async def test_a_copy_of_a_fact_adds_nothing(connection: asyncpg.Connection, message: Any) -> None:
    await hear(connection, [received(message, 1)])
    once = await journal(connection)
    await hear(connection, [received(message, 1), received(message, 2)])

    assert once
    assert await journal(connection) == once


@pytest.mark.asyncio
async def test_two_companies_with_one_order_id_never_meet(connection: asyncpg.Connection) -> None:
    await hear(connection, [received(placed(), 1, "acme"), received(placed(lines=lines(MUG=1)), 2, "globex")])
    await hear(connection, [received(fact(OrderCancelled, 2, reason="person"), 3, "globex")])

    assert [row["kind"] for row in await journal(connection, "acme")] == ["sale", "sale"]
    assert [row["kind"] for row in await journal(connection, "globex")] == ["sale", "sale", "cancel"]


ORDER_FACTS = [
    placed(),
    fact(OrderChanged, 2, lines=lines(MUG=1), due_minor=3000, currency="BRL"),
    fact(OrderReturned, 3, lines=lines(MUG=1), due_minor=1000, currency="BRL"),
    fact(OrderCancelled, 4, reason="person", due_minor=0, currency="BRL"),
    placed(order_id="order-b"),
]
PAYMENT_FACTS = [
    payment(PaymentCaptured, 1, captured_minor=3000),
    payment(PaymentCaptured, 2, captured_minor=5000),
    payment(PaymentRefunded, 3, captured_minor=5000, refunded_minor=1500, reason="person"),
    payment(PaymentCaptured, 1, payment_id="order-b:p1", captured_minor=10),
]


@DATABASE
@given(st.sampled_from([ORDER_FACTS, PAYMENT_FACTS]), st.lists(st.integers(0, 4), min_size=1, max_size=10))
@pytest.mark.asyncio
@pytest.mark.rule(4)
async def test_a_batch_leaves_what_its_events_one_by_one_leave(
    connection: asyncpg.Connection, facts: list[Any], picked: list[int]
) -> None:
    events = [received(facts[number % len(facts)], position) for position, number in enumerate(picked)]
    await empty(connection)
    await hear(connection, events)
    together = await journal(connection)
    await empty(connection)
    for event in events:
        await hear(connection, [event])

    assert await journal(connection) == together


@pytest.mark.asyncio
async def test_rows_are_numbered_in_the_order_they_are_committed(connection: asyncpg.Connection, database: str) -> None:
    other = await asyncpg.connect(database)
    try:
        open_transaction = connection.transaction()
        await open_transaction.start()
        tx = Transaction(connection, NOW, lambda: "id")
        await record_movements([received(movement(1), 1)], tx)
        later = asyncio.create_task(hear(other, [received(movement(2), 2)]))
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not await connection.fetchval(waiting):
            assert not later.done()
        await open_transaction.commit()
        await later
        assert [row["reference"] for row in await journal(connection)] == ["movement-1", "movement-2"]
    finally:
        await other.close()

"""Orders as it runs: on a real Kafka and PostgreSQL, from a sale to its demand and from an answer to the order."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer

from contracts.channels.v1 import ConnectionChanged, ConnectionState, QuantityTrait
from contracts.inventory.v1 import OrderDemand
from services.bus import BusSettings
from services.orders import store
from services.orders.app import build
from services.orders.settings import OrdersSettings
from services.runtime import Service, command
from tests.orders.given import answer, sale


@pytest_asyncio.fixture
async def orders(kafka_bootstrap: str, database: str) -> AsyncIterator[Service]:
    """The service, running."""
    settings = BusSettings(kafka_bootstrap_servers=kafka_bootstrap, postgres_dsn=database, log_format="text")
    service = build(settings, OrdersSettings())
    running = asyncio.create_task(service.run(handle_signals=False))
    await asyncio.wait({running, asyncio.create_task(service.started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    yield service
    service.stop()
    await running


async def until(look: Callable[[], Any]) -> Any:
    """What `look` finds, as soon as it finds something; the test's own limit of time ends a vain wait."""
    while True:
        if found := await look():
            return found
        await asyncio.sleep(0.05)


async def first_demand(bootstrap: str, tenant: str) -> OrderDemand:
    """The first demand of `tenant` on the stream of inventory's commands."""
    consumer = AIOKafkaConsumer("inventory.commands.v1", bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async for record in consumer:
            if record.key.decode() == f"{tenant}:order-a":
                return OrderDemand.model_validate_json(record.value)
    finally:
        await consumer.stop()
    raise AssertionError("the stream ended")


@pytest.mark.asyncio
async def test_a_sale_is_demanded_and_its_answer_confirms_it(orders: Service, kafka_bootstrap: str) -> None:
    tenant = f"orders-{secrets.token_hex(4)}"
    sent = 0

    async def say(message: Any) -> None:
        nonlocal sent
        sent += 1
        await command.send(kafka_bootstrap, message, tenant=tenant, command_id=f"{tenant}-{sent}", source="/test")

    connection = ConnectionChanged(
        connection_id="connection-a", version=1, connector="shopify", environment="sandbox", account="one",
        state=ConnectionState.LIVE, pool="shared", quantity_trait=QuantityTrait.ABSOLUTE, reserves_unpaid=False,
        restores_on_cancel=True,
    )  # fmt: skip
    await say(connection)
    await say(sale())
    demand = await first_demand(kafka_bootstrap, tenant)
    assert (demand.revision, demand.lines[0].ordered) == (1, 2)

    await say(answer(demand))

    async def confirmed() -> list[Any]:
        async with orders.pool.acquire() as pooled:
            return await store.list_orders(pooled, tenant, "confirmed", "", 10)

    [row] = await until(confirmed)
    assert row["order_id"] == "order-a"

    async def connected() -> bool:
        async with orders.pool.acquire() as pooled:
            [known] = await store.find_orders(pooled, tenant, "1001", None)
            return bool(known["connector"] == "shopify")

    assert await until(connected)

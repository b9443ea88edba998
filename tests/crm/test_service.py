"""crm as it runs: on a real Kafka and PostgreSQL, from a buyer to the fact about a customer."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer

from contracts.crm.v1 import CustomerIdentified
from services.bus import BusSettings
from services.crm.app import build
from services.runtime import Service, command
from tests.crm.given import ANA, SETTINGS, buyer


@pytest_asyncio.fixture
async def crm(kafka_bootstrap: str, database: str) -> AsyncIterator[Service]:
    """The service, running."""
    settings = BusSettings(
        kafka_bootstrap_servers=kafka_bootstrap, postgres_dsn=database, log_format="text",
        admin_port=0, personal_key="AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    )  # fmt: skip
    service = build(settings, SETTINGS)
    running = asyncio.create_task(service.run(handle_signals=False))
    await asyncio.wait({running, asyncio.create_task(service.started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    yield service
    service.stop()
    await running


@pytest.mark.asyncio
async def test_a_report_that_could_not_be_handled_does_not_outlive_the_erasure(
    crm: Service, kafka_bootstrap: str
) -> None:
    tenant = f"crm-{secrets.token_hex(4)}"
    order_id = f"order-{tenant}"
    await command.send(
        kafka_bootstrap, buyer(order_id=order_id, **ANA), tenant=tenant, command_id=f"{tenant}-1", source="/test"
    )
    statement = "SELECT customer_id FROM customers WHERE tenant = $1"
    customer_id = None
    while customer_id is None:
        await asyncio.sleep(0.05)
        customer_id = await crm.pool.fetchval(statement, tenant)
    await crm.pool.execute(
        """
        INSERT INTO dead_letters (id, consumer, stream, partition, "offset", event_id, error, correlation_id, record)
        VALUES ('l1', 'crm', 'channels.buyers.v1', 0, 10, 'e1', 'unfit', $1, 'sealed')
        """,
        order_id,
    )
    assert crm.admin
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{crm.admin.port}", params={"tenant": tenant}) as http:
        assert (await http.post(f"/admin/customers/{customer_id}/erase")).is_success
    letter = await crm.pool.fetchrow("SELECT state, record FROM dead_letters")
    assert letter
    assert (letter["state"], letter["record"]) == ("discarded", None)


@pytest.mark.asyncio
async def test_a_buyer_on_the_stream_becomes_a_customer(crm: Service, kafka_bootstrap: str) -> None:
    tenant = f"crm-{secrets.token_hex(4)}"
    await command.send(kafka_bootstrap, buyer(**ANA), tenant=tenant, command_id=f"{tenant}-1", source="/test")
    consumer = AIOKafkaConsumer("crm.customers.v1", bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async for record in consumer:
            if record.key.decode().startswith(f"{tenant}:"):
                fact = CustomerIdentified.model_validate_json(record.value)
                assert fact.customer_refs == ("ref-a",)
                assert b"ana@loja" not in record.value
                break
    finally:
        await consumer.stop()

"""crm as it runs: on a real Kafka and PostgreSQL, from a buyer to the fact about a customer."""

import asyncio
import secrets
from collections.abc import AsyncIterator

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
        personal_key="MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE=",
    )  # fmt: skip
    service = build(settings, SETTINGS)
    running = asyncio.create_task(service.run(handle_signals=False))
    await asyncio.wait({running, asyncio.create_task(service.started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    yield service
    service.stop()
    await running


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

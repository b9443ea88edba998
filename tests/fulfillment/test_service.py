"""Fulfillment as it runs: on a real Kafka and PostgreSQL, from a command and its buyer to a label."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer

from contracts.fulfillment.v1 import LabelCreated
from services.bus import BusSettings
from services.fulfillment import store
from services.fulfillment.app import build
from services.fulfillment.labels import Place
from services.fulfillment.rates import Rate
from services.fulfillment.settings import FulfillmentSettings
from services.runtime import Service, command
from tests.fulfillment.given import ORDER, buyer, prepare


@pytest_asyncio.fixture
async def fulfillment(kafka_bootstrap: str, database: str) -> AsyncIterator[Service]:
    """The service, running, with automatic packing."""
    bus = BusSettings(
        kafka_bootstrap_servers=kafka_bootstrap,
        postgres_dsn=database,
        log_format="text",
        personal_key=base64.b64encode(b"k" * 32).decode(),
    )
    settings = FulfillmentSettings(secrets_key="07" * 32, auto_pack=True, poll_interval_s=0.1)
    service = build(bus, settings)
    running = asyncio.create_task(service.run(handle_signals=False))
    await asyncio.wait({running, asyncio.create_task(service.started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    yield service
    service.stop()
    await running


async def first_label(bootstrap: str, tenant: str) -> LabelCreated:
    """The first label that is told of the tenant's order."""
    consumer = AIOKafkaConsumer("fulfillment.shipments.v1", bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async for record in consumer:
            headers = dict(record.headers)
            if record.key.decode() == f"{tenant}:{ORDER}" and headers["ce_type"].endswith(b".label-created.v1"):
                return LabelCreated.model_validate_json(record.value)
    finally:
        await consumer.stop()
    raise AssertionError("the stream ended")


@pytest.mark.asyncio
async def test_a_command_and_its_buyer_become_a_label(fulfillment: Service, kafka_bootstrap: str) -> None:
    tenant = f"ship-{secrets.token_hex(4)}"
    rate = Rate("ECT", "pac", "01000000", "09999999", 30_000, 1990, "BRL", 3, 7)
    async with fulfillment.transaction() as tx:
        await store.put_rates(tx.connection, tenant, [rate])
        await store.put_origin(
            tx.connection, tenant, "main", Place("Loja", "Rua Um", "1", "", "", "Recife", "PE", "50000-000")
        )
    for number, message in enumerate((prepare(), buyer())):
        command_id = f"{tenant}-{number}"
        await command.send(kafka_bootstrap, message, tenant=tenant, command_id=command_id, source="/test")

    label = await first_label(kafka_bootstrap, tenant)

    assert (label.carrier, label.service) == ("ECT", "pac")
    assert "Flores" not in label.model_dump_json()

"""Fulfillment as it runs: on a real Kafka and PostgreSQL, from a question and a command to a label and to the door."""

import asyncio
import base64
import secrets
import socket
from collections.abc import AsyncIterator
from typing import TypeVar

import httpx
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer

from contracts.catalogue import CATALOGUE
from contracts.envelope import Message
from contracts.fulfillment.v1 import DeliveryQuoted, LabelCreated, QuoteDelivery, ShipmentDelivered
from services.bus import BusSettings
from services.fulfillment import store
from services.fulfillment.app import build
from services.fulfillment.settings import FulfillmentSettings
from services.runtime import Service, command
from tests.fulfillment.given import LINE, ORDER, buyer, prepare
from tests.fulfillment.office import ORIGIN, PAC, sender
from tests.sandbox.running import Sandbox

M = TypeVar("M", bound=Message)


@pytest_asyncio.fixture
async def fulfillment(kafka_bootstrap: str, database: str) -> AsyncIterator[Service]:
    """The service, running, with automatic packing."""
    bus = BusSettings(
        kafka_bootstrap_servers=kafka_bootstrap,
        postgres_dsn=database,
        log_format="text",
        admin_port=0,
        personal_key=base64.b64encode(bytes(range(32))).decode(),
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = build(bus, FulfillmentSettings(secrets_key=bytes(range(7, 39)).hex(), auto_pack=True, door_port=port))
    running = asyncio.create_task(service.run(handle_signals=False))
    await asyncio.wait({running, asyncio.create_task(service.started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    yield service
    service.stop()
    await running


async def first(bootstrap: str, tenant: str, kind: type[M]) -> M:
    """The first fact of its kind that is told of the tenant's order."""
    name = CATALOGUE.by_model[kind].name.encode()
    consumer = AIOKafkaConsumer("fulfillment.shipments.v1", bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async for record in consumer:
            if record.key.decode() == f"{tenant}:{ORDER}" and dict(record.headers)["ce_type"] == name:
                return kind.model_validate_json(record.value)
    finally:
        await consumer.stop()
    raise AssertionError("the stream ended")


@pytest.mark.asyncio
async def test_from_a_question_to_the_door(
    fulfillment: Service, kafka_bootstrap: str, carrier_process: Sandbox
) -> None:
    tenant = f"ship-{secrets.token_hex(4)}"
    async with fulfillment.transaction() as tx:
        await store.put_rates(tx.connection, tenant, [PAC])
        await store.put_origin(tx.connection, tenant, "main", ORIGIN)
    question = QuoteDelivery(order_id=ORDER, quote_id="q", connection_id="shop", lines=(LINE,), currency="BRL")
    for number, message in enumerate((question, prepare(), buyer())):
        command_id = f"{tenant}-{number}"
        await command.send(kafka_bootstrap, message, tenant=tenant, command_id=command_id, source="/test")

    quoted = await first(kafka_bootstrap, tenant, DeliveryQuoted)
    label = await first(kafka_bootstrap, tenant, LabelCreated)
    assert [option.option_id for option in quoted.options] == ["ECT/pac"]
    assert (label.carrier, label.service) == ("ECT", "pac")
    assert "Flores" not in label.model_dump_json()

    assert fulfillment.admin
    admin = f"http://127.0.0.1:{fulfillment.admin.port}/admin"
    async with sender(carrier_process, kind="table", speed=86_400 * 50) as couriers, httpx.AsyncClient() as http:
        credentials = {name: couriers.told["credentials"][name] for name in ("access_token", "client_secret")}
        base_url = couriers.told["base_url"]
        given = {"carrier": "table", "environment": "sandbox", "base_url": base_url, "credentials": credentials}
        kept = await http.put(f"{admin}/carriers", json=given, params={"tenant": tenant})
        await couriers.change(webhook_url=kept.json()["door_url"])
        bearer = {"authorization": f"Bearer {credentials['access_token']}"}
        await http.post(
            f"{base_url}/table/v1/parcels", json={"tracking_code": label.tracking_code, "days": 1}, headers=bearer
        )
        delivered = await first(kafka_bootstrap, tenant, ShipmentDelivered)

    assert delivered.tracking_code == label.tracking_code

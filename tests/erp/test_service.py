"""Erp as it runs: on a real Kafka and PostgreSQL, from facts to the journal and from an invoice to its event."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer

from contracts.erp.v1 import InvoiceIssued
from contracts.payments.v1 import PaymentCaptured
from services.bus import BusSettings
from services.erp import store
from services.erp.app import build
from services.erp.settings import ErpSettings
from services.runtime import Service, command
from tests.erp.given import NOW, SECRETS_KEY, TAX_ID, dispatched, key, movement, payment, placed


@pytest_asyncio.fixture
async def erp(kafka_bootstrap: str, database: str) -> AsyncIterator[Service]:
    """The service, running."""
    settings = BusSettings(
        kafka_bootstrap_servers=kafka_bootstrap, postgres_dsn=database, log_format="text", admin_port=0
    )
    service = build(settings, ErpSettings(secrets_key=SECRETS_KEY))
    running = asyncio.create_task(service.run(handle_signals=False))
    await asyncio.wait({running, asyncio.create_task(service.started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    yield service
    service.stop()
    await running


async def issued(bootstrap: str, tenant: str) -> InvoiceIssued:
    """The first invoice of `tenant` on the stream of documents."""
    consumer = AIOKafkaConsumer("erp.documents.v1", bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async for record in consumer:
            if record.key.decode() == f"{tenant}:order-a":
                return InvoiceIssued.model_validate_json(record.value)
    finally:
        await consumer.stop()
    raise AssertionError("the stream ended")


@pytest.mark.asyncio
async def test_facts_become_rows_and_an_invoice_is_told(
    erp: Service, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.erp.invoices.CLOCK_TOLERANCE", NOW - NOW.replace(year=2016))
    tenant = f"erp-{secrets.token_hex(4)}"
    facts = [placed(), payment(PaymentCaptured, 1, captured_minor=5000), dispatched(), movement()]
    for number, message in enumerate(facts):
        await command.send(kafka_bootstrap, message, tenant=tenant, command_id=f"{tenant}-{number}", source="/test")
    kinds: set[str] = set()
    while kinds != {"sale", "payment", "shipment", "movement"}:
        await asyncio.sleep(0.05)
        async with erp.pool.acquire() as connection:
            kinds = {row["kind"] for row in await store.read_journal(connection, tenant, 0, 100)}

    assert erp.admin
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{erp.admin.port}/admin", params={"tenant": tenant}
    ) as http:
        assert (await http.post("/companies", json={"tax_id": TAX_ID})).status_code == 200
        given = {"order_id": "order-a", "key": key(), "total_minor": 5000, "issued_at": NOW.isoformat()}
        answer = await http.post("/invoices", json=given)

    assert answer.status_code == 200
    assert (await issued(kafka_bootstrap, tenant)).document_id == answer.json()["document_id"]

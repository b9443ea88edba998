"""Inventory as it runs: commands and demand over Kafka, levels and outcomes on Kafka."""

import asyncio
import secrets

import pytest
from pydantic import SecretStr

from contracts.inventory.v1 import PutItem, PutLocation, ReceiveStock
from services.bus import BusSettings
from services.inventory.app import build
from services.inventory.settings import InventorySettings
from services.runtime.command import send
from tests.inventory.given import demand, line
from tests.outbox import waiting


@pytest.mark.asyncio
async def test_stock_put_by_command_is_reserved_by_demand(kafka_bootstrap: str, database: str) -> None:
    tenant = f"t-{secrets.token_hex(4)}"
    settings = BusSettings(kafka_bootstrap_servers=kafka_bootstrap, postgres_dsn=SecretStr(database))
    service = build(settings, InventorySettings())
    running = asyncio.create_task(service.run(handle_signals=False))
    try:
        await service.started.wait()
        steps = (
            (PutLocation(location="main", name="Main"), "SELECT count(*) FROM locations WHERE tenant = $1"),
            (PutItem(sku="MUG", name="Mug"), "SELECT count(*) FROM items WHERE tenant = $1"),
            (
                ReceiveStock(sku="MUG", location="main", quantity=3),
                "SELECT sum(available) FROM stock WHERE tenant = $1",
            ),
            (demand("a", line(ordered=2)), "SELECT sum(reserved) FROM stock WHERE tenant = $1"),
        )
        for message, done in steps:
            await send(kafka_bootstrap, message, tenant=tenant, command_id=secrets.token_hex(8))
            async with asyncio.timeout(60):
                while not await service.pool.fetchval(done, tenant):  # noqa: ASYNC110 - another process's commit
                    await asyncio.sleep(0.02)

        async def sent(topic: str) -> int:
            records = await waiting(service.pool, topic, "outbox_sent")
            return sum(one.key.startswith(f"{tenant}:") for one in records)

        for topic, count in (
            ("inventory.levels.v1", 2),
            ("inventory.reservations.v1", 1),
            ("inventory.items.v1", 1),
            ("inventory.movements.v1", 5),
        ):
            async with asyncio.timeout(60):
                while await sent(topic) != count:  # noqa: ASYNC110 - the relay's commit
                    await asyncio.sleep(0.02)
    finally:
        service.stop()
        await running

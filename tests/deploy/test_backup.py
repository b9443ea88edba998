"""A backup is one moment of all databases; a restore brings it back, with what was said until then on a new log."""

import asyncio
import json
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from typer.testing import CliRunner

from contracts.envelope import Message
from contracts.inventory.v1 import PutItem, PutLocation, ReceiveStock
from deploy.local import backup
from deploy.local.postgres import Postgres
from deploy.local.stack import Stack, start_attached
from services.console import instance as instances
from services.console.cli import app
from services.console.client import Admin
from services.console.people import Order, book, new_command_id
from services.console.verification import verify

SERVICES = ("inventory", "orders")


@pytest.fixture
def place() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="saldo-backup-"))
    base.chmod(0o711)
    yield base
    for name in ("one", "two"):
        Postgres(base / name / "postgres", 0, "").wipe()
    shutil.rmtree(base, ignore_errors=True)


def restored(*arguments: str) -> str:
    """What `saldo restore` prints; it has to go well."""
    done = CliRunner().invoke(app, ["restore", *arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def booked(client: Admin, message: Message) -> None:
    """A person's command, booked by inventory."""
    assert [answer.booked for answer in book(client, [Order(new_command_id(), message)])] == [True]


async def levels(dsn: str) -> list[tuple[Any, ...]]:
    """(SKU, epoch, available) of all stock."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT sku, epoch, sum(available)::int AS available FROM skus JOIN stock USING (tenant, sku) "
            "GROUP BY sku, epoch ORDER BY sku"
        )
    finally:
        await connection.close()
    return [tuple(row) for row in rows]


async def said(bootstrap: str, topic: str) -> list[tuple[str, dict[str, Any]]]:
    """(Event id, body) of everything on a topic once it holds something."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, number) for number in range(6)])
        found: list[tuple[str, dict[str, Any]]] = []
        async with asyncio.timeout(60):
            while not found or (await asyncio.sleep(0.5)):
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    found += [(dict(one.headers)["ce_id"].decode(), json.loads(one.value)) for one in records]
    finally:
        await consumer.stop()
    return found


def test_what_was_there_at_the_backup_is_there_again_and_is_said_again(place: Path) -> None:
    one, two, folder = place / "one", place / "two", place / "copy"
    with start_attached(Stack(one, services=SERVICES, sandboxes=())) as running:
        endpoints = instances.read_endpoints(running.endpoints, one)
        with Admin(endpoints, "acme") as client:
            booked(client, PutLocation(location="main", name="Main"))
            booked(client, PutItem(sku="CUP", name="Cup"))
            booked(client, ReceiveStock(sku="CUP", location="main", quantity=7))
            before = asyncio.run(said(endpoints.kafka, "inventory.levels.v1"))
            backup.take(one, folder)
            booked(client, ReceiveStock(sku="CUP", location="main", quantity=5))
            assert asyncio.run(levels(endpoints.verify_dsns["inventory"])) == [("CUP", 0, 12)]
        with pytest.raises(backup.BackupError, match="is running: stop it with `saldo down`"):
            backup.put_back(one, folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    told = json.loads(restored(str(folder), "--instance", str(two)))

    assert told["sent_again"]["inventory"] > 0
    with start_attached(Stack(two, services=SERVICES, sandboxes=())) as running:
        endpoints = instances.read_endpoints(running.endpoints, two)
        assert asyncio.run(levels(endpoints.verify_dsns["inventory"])) == [("CUP", 1, 7)]
        after = asyncio.run(said(endpoints.kafka, "inventory.levels.v1"))
        assert [event for event in after if event in before] == before
        assert all(body["available"] == 7 for _, body in after)
        outcomes = asyncio.run(verify(endpoints.verify_dsns, None))
        assert [outcome.contradictions for outcome in outcomes if outcome.contradictions] == []
        with Admin(endpoints, "acme") as client:
            booked(client, ReceiveStock(sku="CUP", location="main", quantity=1))
        assert asyncio.run(levels(endpoints.verify_dsns["inventory"])) == [("CUP", 1, 8)]


def test_what_is_no_backup_replaces_nothing(place: Path) -> None:
    one, folder = place / "one", place / "copy"
    with pytest.raises(backup.BackupError, match="nothing is running in"):
        backup.take(one, folder)
    assert not folder.exists()
    with start_attached(Stack(one, services=(), sandboxes=())):
        backup.take(one, folder)
        with pytest.raises(backup.BackupError, match="is there already: name a new folder"):
            backup.take(one, folder)
    kept = (one / "secrets.json").read_text()
    refused = CliRunner().invoke(app, ["restore", str(folder), "--instance", str(one)])
    assert "has data: say --replace to throw it away" in str(refused.exception)
    damaged = folder / "data" / "global" / "pg_control"
    damaged.write_bytes(damaged.read_bytes()[::-1])
    for wrong, reason in ((folder, "pg_control is not what was written"), (place, "holds no whole backup")):
        with pytest.raises(backup.BackupError, match=reason):
            backup.put_back(one, wrong)
    assert (one / "secrets.json").read_text() == kept
    with start_attached(Stack(one, services=(), sandboxes=())):
        pass

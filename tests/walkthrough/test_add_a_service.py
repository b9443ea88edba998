"""README's walkthrough, executed: the service in it runs outside the repository against the built wheel."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import uuid_utils
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from contracts.catalogue import CATALOGUE
from contracts.envelope import Envelope
from contracts.inventory.v1 import LocationLevel, StockLevelChanged
from services.runtime.topics import ensure_topics
from tests.conformance.outsider import empty

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
WALKTHROUGH = README.split("## Add a service")[1].split("\n## ")[0]


def block(language: str, number: int = 0) -> str:
    """A fenced block of a language in the walkthrough, the first one by default."""
    return str(re.findall(rf"```{language}\n(.*?)```", WALKTHROUGH, re.DOTALL)[number])


def free_port() -> int:
    """A loopback port nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a newcomer would build it, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@asynccontextmanager
async def running(folder: Path, wheel: Path, env: dict[str, str]) -> AsyncIterator[None]:
    """The walkthrough's service as a process of its own, ready; stopped at the end."""
    with (folder / "log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "reorder.py", cwd=folder, stdout=log, stderr=log,
            env=os.environ | env | {"PYTHONPATH": str(wheel)},
        )  # fmt: skip
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(60):
            while True:
                assert child.returncode is None, (folder / "log").read_text()
                try:
                    if (await client.get(f"http://127.0.0.1:{env['SALDO_ADMIN_PORT']}/readyz")).is_success:
                        break
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
        yield
    finally:
        child.terminate()
        await asyncio.wait_for(child.wait(), 30)
    assert child.returncode == 0, (folder / "log").read_text()


def level(sku: str, version: int, available: int) -> tuple[StockLevelChanged, Envelope]:
    """A level of a SKU as inventory publishes it."""
    message = StockLevelChanged(
        sku=sku, epoch=0, version=version, available=available, reserved=0,
        levels=(LocationLevel(location="main", pool="shared", available=available, reserved=0),),
    )  # fmt: skip
    id_ = str(uuid_utils.uuid7())
    return message, Envelope(
        id=id_, type=CATALOGUE.of(message).name, source="test", time=datetime.now(UTC), subject=sku, tenant="acme",
        correlation_id=id_,
    )  # fmt: skip


def test_the_walkthrough_is_short() -> None:
    assert len(block("python").splitlines()) < 60


@pytest.mark.asyncio
async def test_the_walkthroughs_own_test_passes(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reorder.py").write_text(block("python"), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block("python", 1), "test_reorder.py", "exec"), names)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(block("sql"))
        await names["test_an_older_level_changes_nothing"](connection)
    finally:
        await connection.close()


@pytest.mark.asyncio
async def test_the_walkthroughs_service_runs_against_the_wheel(
    wheel: Path, tmp_path: Path, kafka_bootstrap: str, database: str
) -> None:
    folder = tmp_path / "a service of one's own"
    (folder / "migrations").mkdir(parents=True)
    (folder / "reorder.py").write_text(block("python"), "utf-8")
    (folder / "migrations" / "0001_low.sql").write_text(block("sql"), "utf-8")
    where = subprocess.run(
        [sys.executable, "-c", "import contracts, services.bus; print(contracts.__file__, services.bus.__file__)"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(wheel)}, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert all(path.startswith(str(wheel)) for path in where), "the repository was imported instead of the wheel"
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap, "POSTGRES_DSN": database,
        "SALDO_ADMIN_PORT": str(free_port()), "SALDO_ADMIN_TOKEN": "walkthrough",
    }  # fmt: skip
    sku = f"SKU-{uuid_utils.uuid7()}"
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, acks="all")
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest")
    await producer.start()
    await consumer.start()
    try:
        async with running(folder, wheel, env):
            consumer.subscribe(["reorder.suggestions.v1"])
            # A late duplicate of an older version must not change what the newer one said.
            for message, envelope in (level(sku, 2, 3), level(sku, 1, 50), level(sku, 3, 2)):
                await producer.send_and_wait(
                    "inventory.levels.v1", message.model_dump_json().encode(), key=f"acme:{sku}".encode(),
                    headers=envelope.to_headers(),
                )  # fmt: skip
            bodies: list[bytes] = []
            async with asyncio.timeout(60):
                while len(bodies) < 2:
                    record = await consumer.getone()
                    if record.key == f"acme:{sku}".encode():
                        bodies.append(record.value)
            assert [body.decode() for body in bodies] == [
                f'{{"sku":"{sku}","available":3}}', f'{{"sku":"{sku}","available":2}}',
            ]  # fmt: skip
            connection = await asyncpg.connect(database)
            try:
                assert await connection.fetchval("SELECT version FROM low WHERE sku = $1", sku) == 3
            finally:
                await connection.close()
    finally:
        await consumer.stop()
        await producer.stop()


@pytest.mark.asyncio
async def test_the_contract_kit_passes_the_walkthroughs_service(
    wheel: Path, tmp_path: Path, kafka_bootstrap: str, database: str
) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "reorder.py").write_text(block("python").replace("reorder", "reorder-kit"), "utf-8")
    (tmp_path / "migrations" / "0001_low.sql").write_text(block("sql"), "utf-8")
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap, "POSTGRES_DSN": database,
        "SALDO_ADMIN_PORT": str(free_port()), "SALDO_ADMIN_TOKEN": "walkthrough",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "services.console.cli", "contracts", "conformance", "--bootstrap", kafka_bootstrap,
        "--service", "reorder-kit", "--yes-this-is-a-test-broker", "--json",
    ]  # fmt: skip
    await ensure_topics(kafka_bootstrap, CATALOGUE)
    await empty(kafka_bootstrap, "inventory.levels.v1")
    async with running(tmp_path, wheel, env):
        kit = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(wheel)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        printed, errors = await kit.communicate()
    await empty(kafka_bootstrap, "inventory.levels.v1")
    assert printed, errors.decode()
    report = json.loads(printed)
    assert [finding for finding in report["findings"] if finding["result"] == "fail"] == []
    assert kit.returncode == 0, errors.decode()
    assert report["reads"] == ["inventory.levels.v1"]
    assert report["writes"] == ["reorder-kit.suggestions.v1"]
    passed = {finding["check"] for finding in report["findings"] if finding["result"] == "pass"}
    assert {
        "duplicates",
        "reordering",
        "poison",
        "beside poison",
        "broken traces",
        "traces",
        "order in a key",
    } <= passed

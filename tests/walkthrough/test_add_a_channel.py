"""docs/add-a-channel.md, executed: its package is built, installed beside channels, and sells and shows a number."""

import asyncio
import base64
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uuid_utils
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from contracts.catalogue import CATALOGUE
from contracts.envelope import Envelope
from contracts.inventory.v1 import LocationLevel, StockLevelChanged

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "add-a-channel.md").read_text("utf-8")
KEY = "the-shops-own-key"
TOKEN = "walkthrough"
TENANT = "acme"


def block(language: str) -> str:
    """The only fenced block of a language on the page."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    return str(found)


@dataclass
class TinyMarketplace:
    """The marketplace that the page describes: products with their numbers, orders, and what was asked of it."""

    units: dict[str, int]
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    written: list[list[dict[str, Any]]] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def sell(self, order_id: str, code: str, units: int) -> None:
        """A buyer buys: the marketplace lowers its number itself."""
        self.units[code] -= units
        now = datetime.now(UTC).isoformat()
        line = {"no": 1, "code": code, "sku": "CUP", "units": units, "price": "19.90"}
        self.orders[order_id] = {"id": order_id, "created": now, "changed": now, "state": "paid", "lines": [line]}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Listen; yields the base URL."""

        @web.middleware
        async def with_key(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            return await handler(request) if request.headers.get("x-key") == KEY else web.Response(status=401)

        async def listed(request: web.Request) -> web.Response:
            since = datetime.fromisoformat(request.query["since"])
            found = [one for one in self.orders.values() if datetime.fromisoformat(one["changed"]) >= since]
            return web.json_response([{"id": one["id"]} for one in found])

        async def shown(request: web.Request) -> web.Response:
            return web.json_response(self.orders[request.match_info["id"]])

        async def products(_: web.Request) -> web.Response:
            rows = [{"code": code, "sku": "CUP", "title": "Cup", "units": units} for code, units in self.units.items()]
            return web.json_response(rows)

        async def write(request: web.Request) -> web.Response:
            rows = await request.json()
            self.written.append(rows)
            self.heard.set()
            self.units.update({row["code"]: row["units"] for row in rows if row["code"] in self.units})
            refused = [row["code"] for row in rows if row["code"] not in self.units]
            return web.json_response({"request": f"r{len(self.written)}", "refused": refused})

        app = web.Application(middlewares=[with_key])
        app.add_routes(
            [
                web.get("/orders", listed),
                web.get("/orders/{id}", shown),
                web.get("/products", products),
                web.put("/stock", write),
            ]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()


def free_port() -> int:
    """A loopback port nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package, built as a newcomer would and unpacked where Python finds it."""
    folder = tmp_path_factory.mktemp("a package of one's own")
    (folder / "tiny.py").write_text(block("python"), "utf-8")
    (folder / "pyproject.toml").write_text(block("toml"), "utf-8")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(folder)],
        check=True, capture_output=True,
    )  # fmt: skip
    with zipfile.ZipFile(next((folder / "dist").glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@asynccontextmanager
async def channels(folder: Path, env: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """The channels service as a process, ready; yields a client of its admin listener."""
    with (folder / "log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.channels.app", cwd=ROOT, stdout=log, stderr=log, env=os.environ | env
        )
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{env['SALDO_ADMIN_PORT']}",
            headers={"authorization": f"Bearer {TOKEN}"},
            params={"tenant": TENANT},
            trust_env=False,
            timeout=30,
        ) as client:
            async with asyncio.timeout(60):
                while True:
                    assert child.returncode is None, (folder / "log").read_text()
                    try:
                        if (await client.get("/readyz")).is_success:
                            break
                    except httpx.TransportError:
                        pass
                    await asyncio.sleep(0.1)
            yield client
    finally:
        if child.returncode is None:
            child.terminate()
            await asyncio.wait_for(child.wait(), 30)
    assert child.returncode == 0, (folder / "log").read_text()


async def post(client: httpx.AsyncClient, path: str, body: Any = None) -> Any:
    """A command on the admin listener that has to succeed."""
    answer = await client.post(f"/admin/{path}", json={} if body is None else body)
    assert answer.is_success, answer.text
    return answer.json()


async def put_level(kafka_bootstrap: str, sku: str, version: int, available: int) -> None:
    """Say as inventory does how much there is."""
    message = StockLevelChanged(
        sku=sku, epoch=0, version=version, available=available, reserved=0,
        levels=(LocationLevel(location="main", pool="shared", available=available, reserved=0),),
    )  # fmt: skip
    event_id = str(uuid_utils.uuid7())
    envelope = Envelope(
        id=event_id, type=CATALOGUE.of(message).name, source="test", time=datetime.now(UTC), subject=sku,
        tenant=TENANT, correlation_id=event_id,
    )  # fmt: skip
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(
            "inventory.levels.v1", message.model_dump_json().encode(), key=f"{TENANT}:{sku}".encode(),
            headers=envelope.to_headers(),
        )  # fmt: skip
    finally:
        await producer.stop()


async def next_sale(consumer: AIOKafkaConsumer, connection_id: str) -> dict[str, Any]:
    """The next sale that channels reports for a connection."""
    while True:
        sale: dict[str, Any] = json.loads((await consumer.getone()).value)
        if sale.get("connection_id") == connection_id:
            return sale


@pytest.mark.asyncio
async def test_the_pages_channel_takes_in_an_order_and_shows_a_number(
    installed: Path, tmp_path: Path, kafka_bootstrap: str, database: str
) -> None:
    tiny = TinyMarketplace({"P1": 0, "P2": 7})
    sku = f"CUP-{uuid_utils.uuid7()}"
    env = {
        "PYTHONPATH": str(installed), "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap, "POSTGRES_DSN": database,
        "SALDO_ADMIN_PORT": str(free_port()), "SALDO_ADMIN_TOKEN": TOKEN, "SALDO_DOOR_PORT": str(free_port()),
        "SALDO_SECRETS_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
    }  # fmt: skip
    async with tiny.running() as base_url, channels(tmp_path, env) as client:
        new = {"connector": "tiny", "account": "shop", "base_url": base_url, "credentials": {"key": KEY}}
        wrong = await post(client, "connections", new | {"account": "other", "credentials": {"key": "wrong"}})
        problems = (await post(client, f"connections/{wrong['connection_id']}/validate"))["problems"]
        assert "check base_url and the key" in problems[0]
        connection_id = (await post(client, "connections", new))["connection_id"]
        told = await post(client, f"connections/{connection_id}/listings")
        async with asyncio.timeout(60):
            while told["state"] == "running":
                await asyncio.sleep(0.05)
                told = (await client.get(f"/admin/connections/{connection_id}/import")).json()
        assert (told["state"], told["listings"]) == ("done", 2)
        await post(client, "listings/link", {"connection_id": connection_id, "listing": "P1", "sku": sku})
        assert (await post(client, f"connections/{connection_id}/validate"))["problems"] == []
        await post(client, f"connections/{connection_id}/enable")

        await put_level(kafka_bootstrap, sku, version=1, available=12)
        async with asyncio.timeout(60):
            while tiny.units["P1"] != 12:
                tiny.heard.clear()
                await tiny.heard.wait()
        assert tiny.units["P2"] == 7, "an advert that is linked to nothing was written to"

        tiny.sell("T-1", "P1", 2)
        consumer = AIOKafkaConsumer(
            "channels.sales.v1", bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            async with asyncio.timeout(60):
                sale = await next_sale(consumer, connection_id)
        finally:
            await consumer.stop()
        assert (sale["external_id"], sale["status"], sale["total_minor"]) == ("T-1", "paid", 3980)
        (line,) = sale["lines"]
        assert (line["sku"], line["quantity"], line["unit_price_minor"]) == (sku, 2, 1990)
    assert [[row["code"] for row in rows] for rows in tiny.written] == [["P1"]] * len(tiny.written)
    assert KEY not in (tmp_path / "log").read_text()

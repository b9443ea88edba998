"""Running sandboxes, a control client for each, and a receiver of webhooks."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from services.sandbox.client import SandboxClient
from tests.sandbox.running import TOKEN, Sandbox, running

_names = itertools.count(1)


@pytest.fixture(scope="session")
def shopify_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("shopify", tmp_path_factory)


@pytest.fixture(scope="session")
def skyhub_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("skyhub", tmp_path_factory)


@pytest.fixture(scope="session")
def mercadolivre_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("mercadolivre", tmp_path_factory)


@pytest.fixture(scope="session")
def vtex_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("vtex", tmp_path_factory)


@dataclass
class Shop:
    """A fresh shop: what `PUT /shops` answered, the control client, and a session with the shop's credentials.

    `tokens` is the answer to Mercado Livre's first exchange of the refresh token, empty elsewhere.
    """

    name: str
    told: dict[str, Any]
    control: SandboxClient
    http: aiohttp.ClientSession
    tokens: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return str(self.told["base_url"])

    @property
    def location(self) -> str:
        return str(self.told["locations"][0])

    async def put(self, **quantities: int) -> dict[str, dict[str, Any]]:
        rows = [
            {"sku": sku, "title": f"Produto {sku}", "quantity": quantity, "price_minor": 1990}
            for sku, quantity in quantities.items()
        ]
        return {row["sku"]: row for row in await self.control.put_products(self.name, rows)}

    async def rows(self, *kinds: str) -> list[dict[str, Any]]:
        found = [row async for row in self.control.books() if row["shop"] == self.name]
        return [row for row in found if not kinds or row["kind"] in kinds]

    async def wait_for_rows(self, kind: str, count: int) -> list[dict[str, Any]]:
        """The rows of a kind, as soon as there are so many; what the shop does by itself is seen in its books."""
        for _ in range(1000):
            if len(rows := await self.rows(kind)) >= count:
                return rows
            await asyncio.sleep(0.02)
        raise AssertionError(f"there are only {len(rows)} rows of kind {kind}, not {count}")

    async def graphql(self, document: str, /, *, version: str = "2025-07", **variables: Any) -> dict[str, Any]:
        address = f"{self.url}/admin/api/{version}/graphql.json"
        async with self.http.post(address, json={"query": document, "variables": variables}) as answer:
            assert answer.status == 200, await answer.text()
            told: dict[str, Any] = await answer.json()
            return told


def credentials_as_headers(told: dict[str, Any]) -> dict[str, str]:
    """What a client of this shop sends with every request."""
    credentials = told["credentials"]
    if told["marketplace"] == "shopify":
        return {"X-Shopify-Access-Token": credentials["access_token"]}
    if told["marketplace"] == "vtex":
        return {"X-VTEX-API-AppKey": credentials["app_key"], "X-VTEX-API-AppToken": credentials["app_token"]}
    return {
        "x-user-email": credentials["user_email"],
        "x-api-key": credentials["api_key"],
        "x-accountmanager-key": credentials["accountmanager_key"],
    }


async def refresh(told: dict[str, Any], refresh_token: str) -> tuple[int, dict[str, Any]]:
    """Exchange a refresh token of Mercado Livre."""
    credentials = told["credentials"]
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    form |= {name: credentials[name] for name in ("client_id", "client_secret")}
    async with aiohttp.ClientSession() as http, http.post(f"{told['base_url']}/oauth/token", data=form) as answer:
        return answer.status, await answer.json()


async def open_shop(process: Sandbox, **settings: Any) -> AsyncIterator[Shop]:
    name = f"loja-{next(_names)}"
    async with SandboxClient(process.base_url, TOKEN) as control:
        told = await control.put_shop(name, **settings)
        tokens: dict[str, Any] = {}
        if told["marketplace"] == "mercadolivre":
            status, tokens = await refresh(told, told["credentials"]["refresh_token"])
            assert status == 200, tokens
            headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        else:
            headers = credentials_as_headers(told)
        async with aiohttp.ClientSession(headers=headers) as http:
            yield Shop(name, told, control, http, tokens)


@pytest_asyncio.fixture
async def shopify_shop(shopify_process: Sandbox) -> AsyncIterator[Shop]:
    async for shop in open_shop(shopify_process, webhook_retry_s=[0.05] * 8, webhook_timeout_s=1):
        yield shop


@pytest_asyncio.fixture
async def skyhub_shop(skyhub_process: Sandbox) -> AsyncIterator[Shop]:
    generous = {
        f"skyhub_{name}_per_s": 1000
        for name in ("products", "variations", "queues", "order_writes", "order_reads", "store_writes")
    }
    async for shop in open_shop(skyhub_process, limits=generous):
        yield shop


@pytest_asyncio.fixture
async def meli_shop(mercadolivre_process: Sandbox) -> AsyncIterator[Shop]:
    names = ("orders", "shipments", "stock", "search", "feeds", "token", "items", "reports")
    generous = {f"meli_{name}_per_s": 1000 for name in names}
    settings = {"webhook_retry_s": [0.05] * 7, "webhook_timeout_s": 5}
    async for shop in open_shop(mercadolivre_process, limits=generous, **settings):
        yield shop


@pytest_asyncio.fixture
async def vtex_shop(vtex_process: Sandbox) -> AsyncIterator[Shop]:
    generous = {f"vtex_{name}_per_s": 1000 for name in ("feed", "orders", "stock", "reports", "other")}
    settings = {"webhook_retry_s": [0.05] * 3, "inventory_lock_s": 0}
    async for shop in open_shop(vtex_process, limits=generous, **settings):
        yield shop


@dataclass
class Receiver:
    """A webhook address that keeps what it gets and answers as told (200 when nothing is left to tell)."""

    address: str
    got: "asyncio.Queue[tuple[dict[str, str], bytes]]" = field(default_factory=asyncio.Queue)
    answers: list[int] = field(default_factory=list)
    delay_s: float = 0

    async def pointers(self, count: int) -> list[dict[str, Any]]:
        """The JSON of the next calls."""
        return [json.loads((await self.next())[1]) for _ in range(count)]

    async def next(self) -> tuple[dict[str, str], bytes]:
        return await asyncio.wait_for(self.got.get(), 20)


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    kept = Receiver("")

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        status = kept.answers.pop(0) if kept.answers else 200
        kept.got.put_nowait((dict(request.headers), body))
        await asyncio.sleep(kept.delay_s)
        return web.Response(status=status)

    application = web.Application()
    application.router.add_post("/hook", receive)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    kept.address = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield kept
    await runner.cleanup()


@pytest.fixture
def books_path(tmp_path: Path) -> Path:
    return tmp_path / "books.sqlite"

"""A VTEX account in its sandbox: a bare session to it, and a whole connection of a channels process.

Everything that passes between us and the sandbox is compared with VTEX's published descriptions, where they are here.
"""

import asyncio
import itertools
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from contracts.channels.v1 import SaleReported, SaleStatus
from contracts.envelope import Envelope
from contracts.inventory.v1 import CauseOutcome, LevelCause, LocationLevel, StockLevelChanged
from services.border.client import open_client
from services.border.vault import Vault
from services.bus import BusSettings, Received
from services.bus.work import uuid7
from services.channels.connections.registry import Open, Registry
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import Session
from services.channels.intake import pull, store
from services.channels.intake.context import Intake
from services.channels.intake.door import Door
from services.channels.linking import keep_listings
from services.channels.settings import ChannelsSettings
from services.channels.stock.breaker import Breaker
from services.channels.stock.domain import NORMAL, URGENT
from services.channels.stock.handlers import take_levels
from services.channels.stock.ledger import Ledger
from services.channels.stock.limiter import Lane, Turnstile
from services.channels.stock.listings import ListingRow
from services.channels.stock.metrics import StockMetrics
from services.channels.stock.push import Pusher
from services.channels.stock.reconcile import Reconciler
from services.channels.stock.settings import StockSettings
from services.runtime import Service
from services.runtime.migrate import migrate
from services.sandbox.client import SandboxClient
from tests.channels.conftest import MIGRATIONS, Kit
from tests.channels.test_connectors import Free
from tests.sandbox import vtex_specs
from tests.sandbox.running import TOKEN, Sandbox, running

VTEX = CONNECTORS["vtex"]
GENEROUS = {f"vtex_{name}_per_s": 1000 for name in ("feed", "orders", "stock", "reports", "other")}
_names = itertools.count(1)


@pytest.fixture(scope="session")
def vtex_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("vtex", tmp_path_factory)


def compare(client: httpx.AsyncClient, problems: list[str]) -> None:
    """Note what a client sends and gets that VTEX does not describe."""

    async def look(response: httpx.Response) -> None:
        await response.aread()
        request = response.request
        if not vtex_specs.SPECS.is_dir() or request.url.path.startswith(vtex_specs.UNDESCRIBED):
            return
        sent = json.loads(request.content) if request.content else None
        is_json = response.headers.get("content-type", "").startswith("application/json")
        told = response.json() if is_json and response.content else response.text
        found = vtex_specs.problems(request.method, request.url.path, sent, response.status_code, told)
        problems.extend(f"{request.method} {request.url.path}: {problem}" for problem in found)

    client.event_hooks["response"] = [look]


@dataclass
class Account:
    """A fresh account, and a session to it as a connection would have it."""

    control: SandboxClient
    name: str
    told: Mapping[str, Any]
    session: Session

    @property
    def limiter(self) -> Free:
        assert isinstance(self.session.limiter, Free)
        return self.session.limiter

    @property
    def warehouse(self) -> str:
        return str(self.told["locations"][0])

    async def put(self, **quantities: int) -> dict[str, str]:
        """Things on sale; returns VTEX's number of each."""
        rows = [{"sku": sku, "title": sku, "quantity": units, "price_minor": 1990} for sku, units in quantities.items()]
        return {row["sku"]: str(row["variant_id"]) for row in await self.control.put_products(self.name, rows)}

    async def rows(self, *kinds: str) -> list[dict[str, Any]]:
        found = [row async for row in self.control.books() if row["shop"] == self.name]
        return [row for row in found if row["kind"] in kinds]

    async def wait_for_rows(self, kind: str, count: int) -> list[dict[str, Any]]:
        """The rows of a kind as soon as there are so many: what the account does by itself shows in its books."""
        for _ in range(1000):
            if len(rows := await self.rows(kind)) >= count:
                return rows
            await asyncio.sleep(0.02)
        raise AssertionError(f"there are only {len(rows)} rows of kind {kind}, not {count}")


async def open_account(process: Sandbox, problems: list[str], **settings: Any) -> AsyncIterator[Account]:
    name = f"conta-{next(_names)}"
    given = {"limits": GENEROUS, "inventory_lock_s": 0, "webhook_retry_s": [0.05] * 5} | settings
    async with SandboxClient(process.base_url, TOKEN) as control:
        told = await control.put_shop(name, **given)
        client = open_client(public_only=False, timeout_s=10)
        compare(client, problems)
        session = Session(
            "c1",
            told["base_url"],
            name,
            told["credentials"] | {"hook_secret": "the hook's secret"},
            {"warehouse_id": str(told["locations"][0])},
            client,
            Free(),
        )
        yield Account(control, name, told, session)
        await client.aclose()


@pytest.fixture
def undescribed() -> Iterator[list[str]]:
    """What was sent or answered and is in no description; it has to stay empty."""
    problems: list[str] = []
    yield problems
    assert problems == []


@pytest_asyncio.fixture
async def account(vtex_process: Sandbox, undescribed: list[str]) -> AsyncIterator[Account]:
    async for opened in open_account(vtex_process, undescribed):
        yield opened


@dataclass
class House:
    """A live connection of a channels process, its door on a port of its own, and an inventory of one location.

    Time can be moved on: `ahead`. Between two numbers of a record lie some seconds.
    """

    kit: Kit
    account: Account
    entry: Open
    ids: dict[str, str]
    pushers: list[Pusher]
    stock: StockSettings
    available: dict[str, int]
    ahead: timedelta = field(default_factory=timedelta)
    decided: dict[tuple[str, str, str], int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    seen: int = 0

    @property
    def connection_id(self) -> str:
        return self.entry.connection.connection_id

    async def buy(self, pay: str = "now", **lines: int) -> str:
        told = await self.account.control.buy(self.account.name, lines, pay=pay)
        assert "order_id" in told, told
        return str(told["order_id"])

    async def numbers(self) -> dict[str, int]:
        """What a buyer can buy."""
        return await self.account.control.numbers(self.account.name)

    async def inventory(self, sku: str) -> tuple[int, int]:
        """(total, reserved) as VTEX shows them."""
        path = f"/api/logistics/pvt/inventory/skus/{self.ids[sku]}"
        credentials = self.account.told["credentials"]
        headers = {"x-vtex-api-appkey": credentials["app_key"], "x-vtex-api-apptoken": credentials["app_token"]}
        answer = await self.entry.session.http.get(self.entry.session.base_url + path, headers=headers)
        row = answer.json()["balance"][0]
        return row["totalQuantity"], row["reservedQuantity"]

    async def feed(self) -> int:
        """Take what the feed has; returns how many events came."""
        return await pull.empty_queue(self.kit.service, self.kit.intake, self.entry)

    async def read(self) -> None:
        """Absorb, and read what was pointed to, until nothing is left."""
        service = self.kit.service
        await self.kit.absorb()
        while True:
            # Counted first: what the door absorbs in between is there to be claimed.
            new = await self.kit.count("intake", "state = 'new'")
            async with service.pool.acquire() as database:
                free = {self.connection_id: 10}
                wanted = await store.claim_fetches(database, free, service.clock(), timedelta(seconds=60))
            if not wanted and not new:
                return
            if not wanted:  # The door absorbs at this moment.
                await self.kit.absorb()
                continue
            answers = [await pull.fetch_one(service, self.kit.intake, self.entry, one) for one in wanted]
            await pull.keep_fetched(service, self.kit.intake, answers)
            await self.kit.absorb()

    async def hear(self) -> None:
        """Feed and orders."""
        await self.feed()
        await self.read()

    async def sales(self) -> list[SaleReported]:
        """Every sale reported, in order."""
        bodies = [body for body in await self.kit.published() if "external_id" in body]
        return [SaleReported.model_validate(body) for body in bodies]

    async def decide(self) -> None:
        """Inventory reserves and releases what was reported since the last time, and says so."""
        reported = await self.sales()
        causes: dict[str, list[LevelCause]] = {}
        for sale in reported[self.seen :]:
            for line in sale.lines:
                assert line.sku is not None
                asked = 0 if sale.status is SaleStatus.CANCELLED else line.quantity - line.cancelled
                key = sale.order_id, line.line_id, line.sku
                if moved := asked - self.decided.get(key, 0):
                    self.decided[key] = asked
                    self.available[line.sku] -= moved
                    outcome = CauseOutcome.RESERVED if moved > 0 else CauseOutcome.RELEASED
                    causes.setdefault(line.sku, []).append(self._cause(sale, line.line_id, moved, outcome))
        self.seen = len(reported)
        for sku, of_sku in causes.items():
            await self.level(sku, *of_sku)

    def _cause(self, sale: SaleReported, line_id: str, units: int, outcome: CauseOutcome) -> LevelCause:
        return LevelCause(
            order_id=sale.order_id,
            sale_revision=sale.revision,
            line_id=line_id,
            connection_id=self.connection_id,
            units=units,
            outcome=outcome,
            sold_at=sale.sold_at,
            received_at=sale.received_at,
        )

    async def elsewhere(self, sku: str, units: int) -> None:
        """Units are sold at another channel (below zero: they come in)."""
        self.available[sku] -= units
        await self.level(sku)

    async def level(self, sku: str, *causes: LevelCause) -> None:
        """Inventory tells the level."""
        self.versions[sku] = self.versions.get(sku, 0) + 1
        units = self.available[sku]
        message = StockLevelChanged(
            sku=sku,
            epoch=1,
            version=self.versions[sku],
            levels=(LocationLevel(location="1", pool="shared", available=units, reserved=0, held_by=None),),
            available=units,
            reserved=0,
            causes=causes,
        )
        tenant = self.entry.connection.tenant
        envelope = Envelope(
            id=uuid7(),
            type="saldo.inventory.stock-level-changed.v1",
            source="inventory",
            time=self.kit.service.clock(),
            subject=sku,
            tenant=tenant,
            correlation_id="",
            traceparent="",
        )
        event = Received(message, envelope, f"{tenant}:{sku}")
        async with self.kit.service.transaction() as tx:
            await take_levels(self.kit.intake.stock, self.stock.low_stock, [event], tx)

    async def push(self) -> None:
        """Both lanes until nothing is due; some seconds have passed since the last number."""
        self.ahead += timedelta(seconds=10)
        while sum([await pusher.push() for pusher in self.pushers]):
            pass

    async def settle(self) -> None:
        """Everything is heard, decided and sent."""
        await self.hear()
        await self.decide()
        await self.push()

    def reconciler(self) -> Reconciler:
        return Reconciler(self.kit.intake.registry, self.kit.intake.stock, self.stock)

    async def record(self, sku: str) -> Any:
        return await self.kit.service.pool.fetchrow("SELECT * FROM stock_records WHERE item = $1", self.ids[sku])


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


async def open_house(
    database: str, process: Sandbox, problems: list[str], opening: Mapping[str, int], **settings: Any
) -> AsyncIterator[House]:
    vault = Vault(secrets.token_hex(32))
    intake = Intake(ChannelsSettings(secrets_key=SecretStr("unused"), door_port=free_port()), Registry(vault), vault)
    moved: list[House] = []

    def clock() -> datetime:
        return datetime.now(UTC) + (moved[0].ahead if moved else timedelta())

    bus = BusSettings(postgres_dsn=SecretStr(database))
    service = Service(name="channels", settings=bus, migrations=MIGRATIONS, clock=clock)
    await migrate(database, "channels", MIGRATIONS)
    await service.pool
    kit = Kit(service, intake, vault)
    listening = asyncio.create_task(Door(service, intake).run())
    try:
        async for account in open_account(process, problems, **settings):
            ids = await account.put(**opening)
            connection = await kit.connect(
                connector="vtex",
                account=account.name,
                base_url=account.told["base_url"],
                credentials=account.told["credentials"],
                warehouse_id=account.warehouse,
                **{f"limit.{endpoint}": "1000/1000" for endpoint in VTEX.traits.limits},
            )
            entry = intake.registry.get(connection.connection_id)
            assert entry is not None
            compare(entry.session.http, problems)
            async with service.transaction() as tx:
                rows = [ListingRow(one, one, account.warehouse, sku, sku, sku, 1) for sku, one in ids.items()]
                await keep_listings(tx, connection, rows)
            stock = StockSettings(spacing_ms=0, late_execution_s=0.0)
            ledger = Ledger(service, stock, StockMetrics())
            turnstile, breaker = Turnstile(Free()), Breaker(time.monotonic)
            pushers = [
                Pusher(service, entry, lane, Lane(turnstile, urgent=lane == URGENT), breaker, stock, ledger)
                for lane in (URGENT, NORMAL)
            ]
            house = House(kit, account, entry, ids, pushers, stock, dict(opening))
            moved.append(house)
            await VTEX.subscribe(entry.session, intake.door_of(connection, entry.session))
            for sku in opening:
                await house.level(sku)
            await house.push()
            yield house
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        await intake.registry.close()
        await service.pool.close()
        service.tracing.close()


@pytest_asyncio.fixture
async def house(database: str, vtex_process: Sandbox, undescribed: list[str]) -> AsyncIterator[House]:
    async for opened in open_house(database, vtex_process, undescribed, {"a": 10, "b": 10}):
        yield opened

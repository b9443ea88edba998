"""The stock side on a fresh database, with channels that live in memory; the outbox shows what is published."""

import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest_asyncio
from pydantic import SecretStr

import services.channels
from contracts.channels.v1 import QuantityTrait, SaleLine, SaleReported, SaleStatus
from contracts.envelope import Envelope
from contracts.inventory.v1 import CauseOutcome, LevelCause, LocationLevel, StockLevelChanged
from services.bus import BusSettings, Received
from services.bus.work import uuid7
from services.channels.connectors.connector import Session, StockWrite, Traits, WriteOutcome, WriteStatus
from services.channels.stock import facts, handlers, listings
from services.channels.stock.breaker import Breaker
from services.channels.stock.domain import NORMAL, URGENT
from services.channels.stock.ledger import Ledger
from services.channels.stock.limiter import Lane, Turnstile
from services.channels.stock.listings import ListingRow
from services.channels.stock.metrics import StockMetrics
from services.channels.stock.push import Pusher
from services.channels.stock.reconcile import Reconciler
from services.channels.stock.settings import StockSettings
from services.channels.stock.wake import Wake
from services.runtime import Service
from services.runtime.migrate import migrate
from tests.outbox import waiting

MIGRATIONS = Path(services.channels.__file__).parent / "migrations"


class FreeLimiter:
    """Lets everything pass and remembers who asked."""

    def __init__(self) -> None:
        self.acquired: list[tuple[str, float]] = []

    async def acquire(self, endpoint: str, cost: float = 1.0) -> None:
        self.acquired.append((endpoint, cost))

    def throttled(self, endpoint: str, retry_after_s: float) -> None: ...

    def observed(self, endpoint: str, available: float, restore_per_s: float) -> None: ...


@dataclass
class Channel:
    """A channel in memory. `script` holds what the next writes raise; `during` runs inside the next write."""

    traits: Traits
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    batches: list[list[StockWrite]] = field(default_factory=list)
    reads: list[list[tuple[str, str]]] = field(default_factory=list)
    script: list[Exception] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)
    executes_unknown: bool = False
    during: Any = None

    async def write_stock(self, session: Session, writes: Sequence[StockWrite]) -> Sequence[WriteOutcome]:
        await session.limiter.acquire("write")
        self.batches.append(list(writes))
        if self.during is not None:
            during, self.during = self.during, None
            await during()
        if self.script:
            if self.executes_unknown:
                self._execute(writes)
            raise self.script.pop(0)
        request = f"request-{len(self.batches)}"
        stale = [w for w in writes if w.expected is not None and self.numbers.get((w.item, w.location)) != w.expected]
        if stale:
            return [WriteOutcome(WriteStatus.STALE, request)] * len(writes)
        self._execute([write for write in writes if write.item not in self.refuse])
        return [
            WriteOutcome(WriteStatus.REFUSED, request, "no such item")
            if write.item in self.refuse
            else WriteOutcome(WriteStatus.ACCEPTED, request)
            for write in writes
        ]

    def _execute(self, writes: Sequence[StockWrite]) -> None:
        for write in writes:
            self.numbers[write.item, write.location] = write.quantity

    async def read_stock(self, session: Session, items: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        await session.limiter.acquire("read")
        self.reads.append(list(items))
        return {item: self.numbers[item] for item in items if item in self.numbers}


def traits(**changes: Any) -> Traits:
    values: dict[str, Any] = {
        "connector": "memory",
        "intake": "push",
        "quantity_trait": QuantityTrait.ABSOLUTE,
        "reserves_unpaid": True,
        "restores_on_cancel": True,
        "orders_have_version": True,
        "compares": True,
        "max_batch": 250,
        "write_timeout_s": 1.0,
        "spacing_ms": 0,
        "unpaid_deadline_h": 0,
        "poll_interval_s": 1.0,
        "poll_overlap_s": 1.0,
        "limits": {},
        "credentials": (),
    }
    return Traits(**(values | changes))


@dataclass
class Shop:
    """A live connection with its channel, lanes, and one word for each thing that is done with it."""

    desk: "Desk"
    connection_id: str
    channel: Channel
    limiter: FreeLimiter
    entry: Any
    breaker: Breaker
    urgent: Pusher
    normal: Pusher

    async def push(self) -> int:
        """Both lanes until nothing is due; returns how many records were claimed."""
        claimed = 0
        while count := await self.urgent.push() + await self.normal.push():
            claimed += count
        return claimed

    async def put(self, *rows: ListingRow, **more: Any) -> None:
        async with self.desk.work.transaction() as tx:
            await listings.upsert_listings(
                tx.connection,
                self.desk.tenant,
                self.connection_id,
                rows,
                restores_on_cancel=self.channel.traits.restores_on_cancel,
                **more,
            )

    def record(self, item: str, location: str = "1") -> str:
        return listings.record_id(self.desk.tenant, self.connection_id, item, location)

    async def row(self, item: str, location: str = "1") -> Any:
        return await self.desk.work.pool.fetchrow(
            "SELECT * FROM stock_records WHERE stock_record = $1", self.record(item, location)
        )

    async def sell(
        self,
        order_id: str,
        item: str,
        units: int = 1,
        *,
        revision: int = 1,
        cancelled: int = 0,
        pack: int = 1,
        sold_at: datetime | None = None,
    ) -> None:
        """The channel sells, and intake hears of it."""
        line = SaleLine(
            line_id="1",
            sku="x",
            quantity=units * pack,
            cancelled=cancelled * pack,
            listing=item,
            stock_record=self.record(item),
        )
        sale = SaleReported(
            connection_id=self.connection_id,
            external_id=order_id,
            order_id=order_id,
            revision=revision,
            status=SaleStatus.CANCELLED if cancelled == units else SaleStatus.PAID,
            sold_at=sold_at or self.desk.now,
            received_at=self.desk.now,
            customer_ref="c",
            currency="BRL",
            lines=(line,),
        )
        async with self.desk.work.transaction() as tx:
            await facts.note_own_sales(tx.connection, [(self.desk.tenant, sale)], tx.now)


@dataclass
class Desk:
    """The database and the clock. Time stands still unless moved."""

    work: Service
    tenant: str
    settings: StockSettings
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    wake: Wake = field(default_factory=Wake)
    ledger: Ledger = field(init=False)
    versions: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.work, self.settings, StockMetrics())

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def open(self, name: str = "azul", limiter: Any = None, **changes: Any) -> Shop:
        channel = Channel(traits(**changes))
        connection_id = f"connection-{name}"
        free = limiter or FreeLimiter()
        session = Session(connection_id, "http://x", name, {}, {}, cast("httpx.AsyncClient", None), free)
        entry = SimpleNamespace(
            connection=SimpleNamespace(tenant=self.tenant, connection_id=connection_id, settings={}),
            connector=channel,
            session=session,
        )
        # The clock is read anew each time: `now` is replaced when time moves.
        breaker = Breaker(lambda: self.now.timestamp())  # noqa: PLW0108
        turnstile = Turnstile(free)
        lanes = [
            Pusher(self.work, entry, lane, Lane(turnstile, urgent=lane == URGENT), breaker, self.settings, self.ledger)  # type: ignore[arg-type]
            for lane in (URGENT, NORMAL)
        ]
        return Shop(self, connection_id, channel, free, entry, breaker, *lanes)

    def reconciler(self) -> Reconciler:
        return Reconciler(SimpleNamespace(live=list), self.wake, self.settings)

    async def reconcile(self, shop: Shop) -> None:
        await self.reconciler().reconcile(self.work, shop.entry)  # type: ignore[arg-type]

    async def level(
        self, sku: str, available: int, *causes: LevelCause, version: int | None = None, **more: Any
    ) -> None:
        """Inventory says what is available."""
        self.versions[sku] = version or self.versions.get(sku, 0) + 1
        await self.levels(self.event(sku, available, *causes, version=self.versions[sku], **more))

    async def levels(self, *events: Received[StockLevelChanged]) -> None:
        async with self.work.transaction() as tx:
            await handlers.take_levels(self.wake, self.settings.low_stock, events, tx)

    def event(
        self,
        sku: str,
        available: int,
        *causes: LevelCause,
        version: int,
        epoch: int = 1,
        held_by: str | None = None,
        **more: Any,
    ) -> Received[StockLevelChanged]:
        level = StockLevelChanged(
            sku=sku,
            epoch=epoch,
            version=version,
            levels=(LocationLevel(location="1", pool="shared", available=available, reserved=0, held_by=held_by),),
            available=available,
            reserved=0,
            causes=causes,
            **more,
        )
        envelope = Envelope(
            id=uuid7(),
            type="saldo.inventory.stock-level-changed.v1",
            source="inventory",
            time=self.now,
            subject=sku,
            tenant=self.tenant,
            correlation_id=causes[0].order_id if causes else "",
            traceparent="",
        )
        return Received(level, envelope, f"{self.tenant}:{sku}")

    def cause(self, shop: Shop, order_id: str, units: int, outcome: CauseOutcome = CauseOutcome.RESERVED) -> LevelCause:
        return LevelCause(
            order_id=order_id,
            sale_revision=1,
            line_id="1",
            connection_id=shop.connection_id,
            units=units,
            outcome=outcome,
            sold_at=self.now,
            received_at=self.now,
        )

    async def published(self) -> list[dict[str, Any]]:
        return [json.loads(one.payload) for one in await waiting(self.work.pool)]

    async def poll_done(self, shop: Shop, begun_at: datetime) -> None:
        """A complete poll of the orders began then and has brought everything."""
        await self.work.pool.execute(
            """
            INSERT INTO connections (connection_id, tenant, connector, environment, account, category, base_url,
                created_at)
            VALUES ($1, $2, 'memory', 'sandbox', $1, 'marketplace', 'http://x', now()) ON CONFLICT DO NOTHING
            """,
            shop.connection_id,
            self.tenant,
        )
        await self.work.pool.execute(
            """
            INSERT INTO polls (connection_id, begun_at, finished_at, through_intake_id) VALUES ($1, $2, $2, 0)
            ON CONFLICT (connection_id) DO UPDATE SET begun_at = excluded.begun_at, finished_at = excluded.finished_at
            """,
            shop.connection_id,
            begun_at,
        )


def row(
    item: str, sku: str | None = None, pack: int = 1, listing: str | None = None, location: str = "1"
) -> ListingRow:
    """A listing of an item, linked where a SKU is given."""
    return ListingRow(listing or item, item, location, sku or item, item, sku, pack)


@pytest_asyncio.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    settings = BusSettings(postgres_dsn=SecretStr(database))
    await migrate(database, "channels", MIGRATIONS)
    clock = SimpleNamespace(now=lambda: datetime.now(UTC))
    work = Service(name="channels", settings=settings, clock=lambda: clock.now())  # noqa: PLW0108
    await work.pool
    opened = Desk(work, f"loja-{secrets.token_hex(3)}", StockSettings(spacing_ms=0))
    clock.now = lambda: opened.now
    try:
        yield opened
    finally:
        await work.pool.close()
        work.tracing.close()

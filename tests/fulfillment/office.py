"""Fulfillment without the bus: its tables, its carriers, its loops by hand; and an account of the carrier's sandbox."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import asyncpg

from contracts.envelope import Message
from services.border import door
from services.bus import Transaction
from services.fulfillment import store
from services.fulfillment.accounts import Carriers
from services.fulfillment.book import Book
from services.fulfillment.carriers.carrier import Account
from services.fulfillment.door import Door
from services.fulfillment.labels import Place
from services.fulfillment.quote import Quoter
from services.fulfillment.rates import Rate
from services.fulfillment.track import Tracker
from services.fulfillment.wake import Wake
from services.sandbox.carrier_client import CarrierClient
from tests.fulfillment.bench import SETTINGS, VAULT, Connection, hear
from tests.fulfillment.given import NOW, buyer, prepare
from tests.sandbox.running import TOKEN, Sandbox

AUTO = SETTINGS.model_copy(update={"auto_pack": True, "track_every_s": 3600.0})
ORIGIN = Place("Loja Exemplo", "Rua Um", "1", "", "Centro", "Recife", "PE", "50000-000")
PAC = Rate("ECT", "pac", "01000000", "09999999", 30_000, 1990, "BRL", 3, 7)
KINDS = {"melhorenvio": {"contact_email": "ti@example.com", "late_s": "1"}, "table": {}}
M = TypeVar("M", bound=Message)
_names = itertools.count()


@dataclass
class Office:
    """`now` is its clock, which goes on by itself only in `until`."""

    connection: Connection
    pool: asyncpg.Pool
    told: list[Message] = field(default_factory=list)
    now: datetime = NOW

    def __post_init__(self) -> None:
        self.carriers = Carriers(lambda: self.pool, VAULT, AUTO)
        self.book = Book(self.transaction, self.carriers.of, VAULT, AUTO)
        self.quoter = Quoter(self.transaction, self.carriers, VAULT, AUTO)
        self.tracker = Tracker(self.transaction, self.carriers, AUTO)
        self.door = Door(self.transaction, self.carriers, AUTO, Wake())

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Transaction]:
        async with self.pool.acquire() as connection, connection.transaction():
            tx = Transaction(connection, self.now, lambda: f"id-{next(_names)}")
            yield tx
        self.told += [one.message for one in tx.publications]

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        return self._open()

    def of(self, kind: type[M]) -> list[M]:
        return [fact for fact in self.told if isinstance(fact, kind)]

    async def put(self, kind: str, told: Any, **settings: str) -> str:
        """An account at the sandbox, whose answer was `told`; its id."""
        names = {"melhorenvio": ("access_token", "refresh_token", "client_id", "client_secret")}
        chosen = names.get(kind, ("access_token", "client_secret"))
        credentials = {name: told["credentials"][name] for name in chosen}
        account = Account("acme", kind, "sandbox", told["base_url"], KINDS[kind] | settings, credentials)
        async with self._open() as tx:
            await self.carriers.put(tx.connection, account)
        return account.account_id

    async def packed(self, **fields: Any) -> None:
        """A shipment that may have its label."""
        await hear(self.connection, buyer())
        await hear(self.connection, prepare(**fields), settings=AUTO)

    async def until(self, work: Callable[[], Awaitable[Any]], done: Callable[[], bool]) -> None:
        """Do `work` until `done`, a second of the office's clock later each time."""
        for _ in range(600):
            await work()
            if done():
                return
            self.now += timedelta(seconds=1)
            await asyncio.sleep(0.02)
        raise AssertionError(f"it does not come: {self.told}")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """The door, open at the address that it yields."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        task = asyncio.create_task(door.listen(self.door.app, host="127.0.0.1", port=port))
        await asyncio.sleep(0)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def office(connection: Connection, database: str) -> AsyncIterator[Office]:
    """An office whose company has one location and one rate."""
    await store.put_rates(connection, "acme", [PAC])
    await store.put_origin(connection, "acme", "main", ORIGIN)
    async with asyncpg.create_pool(database, min_size=1, max_size=6) as pool:
        opened = Office(connection, pool)
        try:
            yield opened
        finally:
            await opened.carriers.close()


@dataclass
class Sender:
    """An account at the sandbox and its control client."""

    name: str
    told: dict[str, Any]
    control: CarrierClient

    async def change(self, **settings: Any) -> None:
        self.told = await self.control.put_shop(self.name, **settings)

    async def rows(self, *kinds: str) -> list[dict[str, Any]]:
        return [row async for row in self.control.books() if row["shop"] == self.name and row["kind"] in kinds]


@asynccontextmanager
async def sender(process: Sandbox, **settings: Any) -> AsyncIterator[Sender]:
    """A new account at the sandbox."""
    name = f"loja-{next(_names)}"
    async with CarrierClient(process.base_url, TOKEN) as control:
        yield Sender(name, await control.put_shop(name, **{"auto_post": False, **settings}), control)

"""A small catalogue of its own for every test, so that tests do not meet on the shared broker."""

import asyncio
import contextlib
import inspect
import json
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from contracts.catalogue import Catalogue, MessageType, Stream, StreamKind
from contracts.envelope import Envelope, Message
from services.bus import BusSettings, Poison, Received, Subscription, Transaction
from services.bus.consumer import Consumer
from services.bus.record import Packed
from services.runtime import Service
from services.runtime.migrate import migrate

MIGRATIONS = Path(__file__).parent / "migrations"


class Deposited(Message):
    """So much was put into an account. `trouble` makes the sample handler fail."""

    account: str
    amount: int
    trouble: str = ""


class BalanceChanged(Message):
    """The balance of an account after a deposit."""

    account: str
    balance: int
    version: int


class Retired(Message):
    """A message of the owner that the sample service does not handle."""

    account: str


@dataclass(frozen=True)
class Streams:
    """The catalogue of one test."""

    catalogue: Catalogue
    deposits: Stream
    balances: Stream

    @property
    def deposit_type(self) -> str:
        return self.catalogue.by_model[Deposited].name


def make_streams(owner: str = "", *, personal: bool = False, urgent: bool = False, partitions: int = 3) -> Streams:
    owner = owner or f"bank{secrets.token_hex(4)}"
    deposits = Stream(
        f"{owner}.deposits.v1", owner, StreamKind.FACTS, 24, "Deposits.", partitions=partitions, personal=personal
    )
    balances = Stream(
        f"{owner}.balances.v1", owner, StreamKind.STATE, 24, "Balances.", partitions=partitions, urgent=urgent
    )
    types = (
        MessageType(Deposited, deposits, ("account",)),
        MessageType(Retired, deposits, ("account",)),
        MessageType(BalanceChanged, balances, ("account",)),
    )
    return Streams(Catalogue(types), deposits, balances)


LOCK = "SELECT account FROM accounts WHERE account = ANY($1::text[]) ORDER BY account FOR UPDATE"


async def deposit(events: Sequence[Received[Deposited]], tx: Transaction) -> None:
    """The sample handler, batch form: locks its accounts, adds up in order, publishes one balance an account."""
    totals: dict[str, list[Received[Deposited]]] = {}
    for event in events:
        misbehave(event.message)
        totals.setdefault(event.message.account, []).append(event)
    names = sorted(totals)
    await tx.connection.execute(
        "INSERT INTO accounts (account) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", names
    )
    await tx.connection.fetch(LOCK, names)
    await tx.connection.execute(
        "INSERT INTO entries (account, amount, event_id) SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[])",
        [event.message.account for event in events],
        [event.message.amount for event in events],
        [event.envelope.id for event in events],
    )
    changed = await tx.connection.fetch(
        "UPDATE accounts SET balance = balance + added, version = version + count FROM "
        "(SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS t (name, added, count)) AS t "
        "WHERE account = name RETURNING account, balance, version",
        names,
        [sum(event.message.amount for event in totals[name]) for name in names],
        [len(totals[name]) for name in names],
    )
    for row in sorted(changed):
        causes = [event.cause for event in totals[row["account"]]]
        tx.publish(BalanceChanged(**dict(row)), tenant=totals[row["account"]][0].tenant, cause=causes)


def misbehave(message: Deposited) -> None:
    if message.trouble == "poison":
        raise Poison("this deposit cannot be booked")
    if message.trouble == "bug":
        raise KeyError("a bug")


def settings(kafka_bootstrap: str, database: str, **more) -> BusSettings:
    given = {"kafka_bootstrap_servers": kafka_bootstrap, "postgres_dsn": database, "environment": "test"}
    return BusSettings(**given, backoff_cap_s=0.3, **more)


def make_service(
    kafka_bootstrap: str, database: str, streams: Streams, *, handler=deposit, name="bank", **more
) -> Service:
    keywords = {key: more.pop(key) for key in ("loops", "announcers", "routers", "clock") if key in more}
    return Service(
        name=name,
        settings=settings(kafka_bootstrap, database, **more),
        migrations=MIGRATIONS,
        subscriptions=[Subscription(stream=streams.deposits.name, handles=(Deposited,), handler=handler)],
        catalogue=streams.catalogue,
        **keywords,
    )


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    task = asyncio.create_task(service.run(handle_signals=False))
    waiting = asyncio.create_task(service.started.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waiting.cancel()
        task.result()
    try:
        yield service
    finally:
        service.stop()
        await task


class FakeKafka:
    """Remembers what was committed; for tests that hand batches to a consumer themselves."""

    def __init__(self) -> None:
        self.committed: dict[TopicPartition, int] = {}

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        self.committed.update(offsets)

    def highwater(self, position: TopicPartition) -> int:
        return self.committed[position]

    def assignment(self) -> set[TopicPartition]:
        return set(self.committed)


@contextlib.asynccontextmanager
async def by_hand(database: str, streams: Streams, **more) -> AsyncIterator[tuple[Service, Consumer]]:
    """A service that is not running: the database is real, the test hands records to its one consumer."""
    service = make_service("127.0.0.1:1", database, streams, **more)
    await migrate(database, service.name, MIGRATIONS)
    await service.pool
    await service._keeper.keep_days()
    consumer = service._consumers[streams.deposits.name]
    consumer.subscriber = SimpleNamespace(consumer=FakeKafka())
    try:
        yield service, consumer
    finally:
        consumer.stop.set()
        await service.pool.close()
        service.tracing.close()


def log(streams: Streams, records: Sequence["Sent"], first_offset: int = 0) -> list[Packed]:
    """Records as they come from partition 0 of the log."""
    return [
        Packed(streams.deposits.name, 0, offset, one.key, one.value, one.headers)
        for offset, one in enumerate(records, start=first_offset)
    ]


@dataclass(frozen=True)
class Sent:
    """One record as a test sends it."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def record(
    streams: Streams, account: str, amount: int = 1, *, event_id: str = "", tenant: str = "acme", **more
) -> Sent:
    body = {"account": account, "amount": amount, "trouble": more.pop("trouble", ""), **more.pop("extra", {})}
    envelope = Envelope(
        id=event_id or secrets.token_hex(8),
        type=more.pop("type_name", streams.deposit_type),
        source="test",
        time=more.pop("time", None) or datetime.now(UTC),
        subject=account,
        tenant=tenant,
        correlation_id=more.pop("correlation_id", account),
        traceparent=more.pop("traceparent", ""),
    )
    assert not more
    return Sent(f"{tenant}:{account}".encode(), json.dumps(body).encode(), list(envelope.to_headers()))


async def send(kafka_bootstrap: str, stream: Stream, records: Sequence[Sent]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        for one in records:
            await producer.send_and_wait(stream.name, value=one.value, key=one.key, headers=one.headers)
    finally:
        await producer.stop()


async def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
    """Wait for a condition, awaited if need be; the limit only ends a test that will not pass."""
    give_up = time.monotonic() + timeout_s
    while not (await met if inspect.isawaitable(met := condition()) else met):
        assert time.monotonic() < give_up, "the condition did not come true"
        await asyncio.sleep(0.05)


async def until_count(database: str, statement: str, count: int, timeout_s: float = 30.0) -> None:
    async def reached() -> bool:
        return await value(database, statement) == count

    await until(reached, timeout_s)


async def value(database: str, statement: str, *arguments):
    connection = await asyncpg.connect(database)
    try:
        return await connection.fetchval(statement, *arguments)
    finally:
        await connection.close()


async def rows(database: str, statement: str, *arguments) -> list[tuple]:
    connection = await asyncpg.connect(database)
    try:
        return [tuple(row) for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


async def read_all(kafka_bootstrap: str, stream: Stream) -> list:
    """Every record of a stream now, by partition and offset."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        parts = [TopicPartition(stream.name, number) for number in range(stream.partitions)]
        consumer.assign(parts)
        ends = await consumer.end_offsets(parts)
        for part in parts:
            consumer.seek(part, 0)
        found: list = []
        while any([await consumer.position(part) < ends[part] for part in parts]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                found.extend(batch)
        return found
    finally:
        await consumer.stop()


def spans_of(path: Path, correlation_id: str) -> list[dict[str, Any]]:
    """Every span of the traces that a flow took part in, oldest first."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute(
            "SELECT * FROM spans WHERE trace_id IN (SELECT trace_id FROM spans WHERE correlation_id = ?) "
            "ORDER BY start_ns",
            (correlation_id,),
        ).fetchall()
    return [{**row, "attributes": json.loads(row["attributes"]), "links": json.loads(row["links"])} for row in rows]


async def amounts(database: str, account: str) -> list[int]:
    """The effects on an account, in order."""
    return [
        row[0] for row in await rows(database, "SELECT amount FROM entries WHERE account = $1 ORDER BY entry", account)
    ]

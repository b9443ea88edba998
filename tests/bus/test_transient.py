"""What passes by itself is waited for: nothing is lost, nothing becomes a dead letter, the process stays."""

import asyncio
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from services.bus import Poison, Transient
from services.bus.consumer import RECORD_TRIES
from services.bus.failures import Kind, describe, kind_of
from tests.bus.model import (
    Deposited,
    amounts,
    by_hand,
    deposit,
    log,
    make_service,
    make_streams,
    record,
    running,
    send,
    until,
    until_count,
    value,
)
from tests.bus.proxy import proxied


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (asyncpg.ConnectionDoesNotExistError(), Kind.CONNECTION),
        (asyncpg.DiskFullError(), Kind.CONNECTION),
        (asyncpg.AdminShutdownError(), Kind.CONNECTION),
        (asyncpg.ReadOnlySQLTransactionError(), Kind.CONNECTION),
        (asyncpg.IdleInTransactionSessionTimeoutError(), Kind.CONNECTION),
        (asyncpg.PostgresIOError(), Kind.CONNECTION),
        (asyncpg.InternalServerError(), Kind.CONNECTION),
        (ConnectionResetError(), Kind.CONNECTION),
        (TimeoutError(), Kind.CONNECTION),
        (Transient(), Kind.CONNECTION),
        (asyncpg.DeadlockDetectedError(), Kind.RECORD),
        (asyncpg.SerializationError(), Kind.RECORD),
        (asyncpg.LockNotAvailableError(), Kind.RECORD),
        (asyncpg.QueryCanceledError(), Kind.RECORD),
        (asyncpg.UniqueViolationError(), Kind.OTHER),
        (asyncpg.DataError(), Kind.OTHER),
        (asyncpg.InterfaceError("the server expects 2 arguments for this query, 1 was passed"), Kind.OTHER),
        (Poison(), Kind.OTHER),
        (KeyError(), Kind.OTHER),
    ],
)
@pytest.mark.rule(9)
def test_failures_are_classified(failure: Exception, kind: Kind) -> None:
    assert kind_of(failure) is kind


def test_a_cause_is_one_line_without_the_body() -> None:
    with pytest.raises(ValueError, match="amount") as caught:
        Deposited.model_validate_json('{"account": "a", "amount": "Ana"}')
    assert describe(caught.value) == "ValidationError: amount: int_parsing"
    assert describe(ValueError("first\nsecond")) == "ValueError: first"


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.rule(9)
async def test_postgres_gone_for_a_moment_loses_nothing(kafka_bootstrap, database):
    streams, parts = make_streams(), urlsplit(database)
    async with proxied(parts.hostname, parts.port) as proxy:
        through = database.replace(f":{parts.port}/", f":{proxy.port}/")
        service = make_service(kafka_bootstrap, through, streams)
        async with running(service), httpx.AsyncClient() as client:
            ready = f"http://127.0.0.1:{service.admin.port}/readyz"

            async def answers(status: int) -> bool:
                return (await client.get(ready)).status_code == status

            await send(kafka_bootstrap, streams.deposits, [record(streams, "a", 1)])
            await until_count(database, "SELECT count(*) FROM entries", 1)
            await until(lambda: answers(200))
            await proxy.cut()
            await send(kafka_bootstrap, streams.deposits, [record(streams, "a", n) for n in range(2, 6)])
            await until(lambda: answers(503))
            await proxy.mend()
            await until_count(database, "SELECT count(*) FROM entries", 5)
            await until_count(database, "SELECT count(*) FROM outbox", 0)
            await until(lambda: answers(200))
    assert await amounts(database, "a") == [1, 2, 3, 4, 5]
    assert await value(database, "SELECT count(*) FROM dead_letters") == 0


@pytest.mark.asyncio(loop_scope="session")
async def test_kafka_gone_for_a_moment_loses_nothing(kafka_bootstrap, database):
    """The relay's way to the broker is cut; what is committed meanwhile waits in the outbox."""
    streams = make_streams()
    service = make_service(kafka_bootstrap, database, streams)
    broken = {"left": 2}
    make_producer = service._relays[0]._producer_of

    def flaky(bootstrap: str):
        if broken["left"]:
            broken["left"] -= 1
            return make_producer("127.0.0.1:1")
        return make_producer(bootstrap)

    service._relays[0]._producer_of = flaky
    async with running(service):
        await send(kafka_bootstrap, streams.deposits, [record(streams, "a", n) for n in range(5)])
        await until_count(database, "SELECT count(*) FROM entries", 5)
        await until_count(database, "SELECT count(*) FROM outbox", 0)
    assert broken["left"] == 0


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.rule(9)
async def test_a_connection_that_the_server_ended_in_a_handler_is_waited_for(database):
    """As after a process that was frozen for longer than a transaction may be idle."""
    streams, tries = make_streams(), []

    async def handler(events, tx):
        tries.append(len(events))
        if len(tries) == 1:
            pid = await tx.connection.fetchval("SELECT pg_backend_pid()")
            await value(database, "SELECT pg_terminate_backend($1)", pid)
            await asyncio.sleep(0.2)
        await deposit(events, tx)

    async with by_hand(database, streams, handler=handler) as (_, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1), record(streams, "b", 2)]))
    assert tries == [2, 2]
    assert await value(database, "SELECT count(*) FROM dead_letters") == 0
    assert await amounts(database, "a") == [1]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.rule(9)
async def test_a_record_class_failure_is_tried_five_times_then_alone_then_buried(database):
    streams, tries = make_streams(), []

    async def handler(events, tx):
        tries.append([event.message.amount for event in events])
        if 1 in tries[-1]:
            raise asyncpg.DeadlockDetectedError("deadlock detected")
        await deposit(events, tx)

    async with by_hand(database, streams, handler=handler) as (_, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1), record(streams, "b", 2)]))
    assert tries == [[1, 2]] * RECORD_TRIES + [[1]] * RECORD_TRIES + [[2]]
    assert await amounts(database, "b") == [2]
    assert await value(database, "SELECT error FROM dead_letters") == "DeadlockDetectedError: deadlock detected"


@pytest.mark.asyncio(loop_scope="session")
async def test_the_pauses_between_the_five_tries_outlast_a_lock(database, monkeypatch):
    streams, pauses = make_streams(), []

    async def remembered(event, timeout_s):
        pauses.append(timeout_s)
        return event.is_set()

    async def handler(events, tx):
        raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout")

    monkeypatch.setattr("services.bus.failures.waited", remembered)
    async with by_hand(database, streams, handler=handler) as (service, consumer):
        service.settings.backoff_cap_s = 5.0
        await consumer.take(log(streams, [record(streams, "a", 1)]))
    assert len(pauses) == RECORD_TRIES - 1
    assert pauses == sorted(pauses)
    lock_timeout_s = 5
    assert sum(pauses) > lock_timeout_s / 2  # At worst: each pause is jittered down to a half of itself.


@pytest.mark.asyncio(loop_scope="session")
async def test_a_handler_that_says_transient_is_waited_for(database):
    streams, tries = make_streams(), []

    async def handler(events, tx):
        tries.append(1)
        if len(tries) < 8:
            raise Transient("the reference data is not here yet")
        await deposit(events, tx)

    async with by_hand(database, streams, handler=handler) as (service, consumer):
        service.settings.backoff_cap_s = 0.01
        await consumer.take(log(streams, [record(streams, "a", 1)]))
    assert await amounts(database, "a") == [1]
    assert await value(database, "SELECT count(*) FROM dead_letters") == 0


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("statement", "given"),
    [
        ("SELECT $1::text", "Ana Souza \ud800"),
        ("SELECT $1::int", "Ana Souza"),
        ("SELECT $1::text[]", ["Ana Souza", "\ud800"]),
        ("SELECT ($1::text)::int", "Ana Souza"),
        ("SELECT ($1::text)::timestamptz", "Ana\nSouza"),
    ],
)
async def test_what_fits_no_type_is_not_repeated(database, statement, given):
    connection = await asyncpg.connect(database)
    with pytest.raises(asyncpg.DataError) as raised:
        await connection.fetch(statement, given)
    await connection.close()
    told = describe(raised.value)
    assert "invalid" in told
    assert "Ana" not in told
    assert "Souza" not in told

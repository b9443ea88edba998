"""The process dies at every step, once at each; in the end every record took effect once and was published."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from services.runtime.topics import ensure_topics
from tests.bus.model import amounts, make_streams, read_all, record, rows, send, until_count, value
from tests.bus.test_relay import first_copies

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOT = Path(__file__).parents[2]
POINTS = [
    f"{step}.{side}"
    for step in ("inbox", "handler", "outbox", "commit", "offsets", "relay.send", "relay.mark")
    for side in ("before", "after")
]


async def start(kafka_bootstrap: str, database: str, owner: str, faults: str = "") -> asyncio.subprocess.Process:
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap,
        "POSTGRES_DSN": database,
        "SALDO_ENVIRONMENT": "test",
        "SALDO_FAULTS": faults,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bus.worker", owner, cwd=ROOT, env=environment, stdout=asyncio.subprocess.DEVNULL
    )


@pytest.mark.parametrize("points", [POINTS[:5], POINTS[5:10], POINTS[10:]], ids=lambda points: points[0])
async def test_a_process_that_dies_at_any_step_leaves_the_same_end(kafka_bootstrap, database, points):
    streams = make_streams()
    await ensure_topics(kafka_bootstrap, streams.catalogue)
    number = 0
    for point in points:
        process = await start(kafka_bootstrap, database, streams.deposits.owner, f"{point}:after=2")
        while process.returncode is None:
            number += 1
            await send(kafka_bootstrap, streams.deposits, [record(streams, f"a{number % 3}", number)])
            await asyncio.sleep(0.1)
        assert process.returncode == 137, point
    last = await start(kafka_bootstrap, database, streams.deposits.owner)
    number += 1  # One that only this process can take: what it leaves behind is not read before it is up.
    await send(kafka_bootstrap, streams.deposits, [record(streams, f"a{number % 3}", number)])
    try:
        await until_count(database, "SELECT count(*) FROM entries", number)
        await until_count(database, "SELECT count(*) FROM outbox", 0)
        published = await read_all(kafka_bootstrap, streams.balances)
    finally:
        last.send_signal(signal.SIGTERM)
        assert await last.wait() == 0
    for account in range(3):
        assert await amounts(database, f"a{account}") == [n for n in range(1, number + 1) if n % 3 == account]
        versions = first_copies(published, f"a{account}")
        assert versions == sorted(versions)
    balances = await rows(
        database, "SELECT sum(amount), max(balance) FROM entries JOIN accounts USING (account) GROUP BY account"
    )
    assert all(total == balance for total, balance in balances)
    assert await value(database, "SELECT count(*) FROM dead_letters") == 0


async def test_sigterm_finishes_what_is_begun_and_leaves_cleanly(kafka_bootstrap, database):
    streams = make_streams()
    await ensure_topics(kafka_bootstrap, streams.catalogue)
    await send(kafka_bootstrap, streams.deposits, [record(streams, "a", n) for n in range(200)])
    process = await start(kafka_bootstrap, database, streams.deposits.owner)
    await until_count(database, "SELECT (to_regclass('entries') IS NOT NULL)::int", 1)
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    assert await value(database, "SELECT count(*) FROM outbox") == 0
    booked = await amounts(database, "a")
    again = await start(kafka_bootstrap, database, streams.deposits.owner)
    try:
        await until_count(database, "SELECT count(*) FROM entries", 200)
    finally:
        again.send_signal(signal.SIGTERM)
        await again.wait()
    assert await amounts(database, "a") == list(range(200))
    assert booked == list(range(len(booked)))

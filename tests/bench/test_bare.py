"""The bare script is a fair measure: it does the same durable work in batches of the same size, and counts right."""

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from deploy.local.postgres import SETTINGS
from services.bus import BusSettings
from services.bus.group import BATCH_RECORDS
from tests.bench import bare
from tests.bench.pipeline import BARE_FLOOR_PER_S, PARTS, Plan, Round, report
from tests.tables import opened

SALE = {
    "order_id": "order", "sale_revision": 1, "connection_id": "shop", "sold_at": "2026-03-14T12:00:00Z",
    "received_at": "2026-03-14T12:00:00Z",
}  # fmt: skip


@pytest_asyncio.fixture
async def connection(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setenv("SALDO_BENCH_RUN", "test")
    async with opened(database) as connection:
        await connection.execute(bare.SCHEMA)
        await connection.execute("INSERT INTO skus VALUES ('MUG', 0)")
        await connection.execute("INSERT INTO levels VALUES ('MUG', 'available', 3), ('MUG', 'reserved', 0)")
        yield connection


def demand(number: int, units: int) -> Any:
    body = {**SALE, "order_id": f"order-{number}", "lines": [{"line_id": "1", "sku": "MUG", "ordered": units}]}
    event_id = f"00000000-0000-7000-8000-{number:012}"
    return SimpleNamespace(headers=[("ce_id", event_id.encode())], value=json.dumps(body).encode())


class FakeProducer:
    """Acknowledges everything."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    async def send(self, _topic: str, body: bytes, **_: Any) -> "asyncio.Future[None]":
        self.sent.append(json.loads(body))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


@pytest.mark.asyncio
@pytest.mark.rule(34)
async def test_it_counts_each_record_once_in_durable_tables_and_empties_its_outbox(connection: Any) -> None:
    for batch in ([demand(1, 2), demand(1, 2)], [demand(1, 2), demand(2, 2)]):
        await bare.handle_batch(connection, batch, bare.reserve)
    held = await connection.fetch("SELECT order_id, reserved, short FROM reservations ORDER BY 1")
    assert [tuple(row) for row in held] == [("order-1", 2, 0), ("order-2", 1, 1)]
    levels = await connection.fetch("SELECT state, quantity FROM levels ORDER BY 1")
    assert [tuple(row) for row in levels] == [("available", 0), ("reserved", 3)]
    assert await connection.fetchval("SELECT sum(quantity) FROM movements") == 3
    assert await connection.fetchval("SELECT count(*) FROM inbox") == 2
    logged = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    assert await connection.fetchval(f"{logged} AND relpersistence <> 'p'") == 0
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("UPDATE levels SET quantity = -1")

    producer, idle = FakeProducer(), Idle()
    pool = SimpleNamespace(acquire=lambda: Lent(connection))
    relaying = asyncio.create_task(bare.relay(pool, producer, idle))  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        await idle.reached.wait()
    relaying.cancel()
    await asyncio.gather(relaying, return_exceptions=True)
    assert [body["version"] for body in producer.sent] == [1, 2]
    assert await connection.fetchval("SELECT count(*) FROM outbox") == 0


class Idle:
    """The wake of a relay, which says when there is nothing left to do."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    def clear(self) -> None:
        self.reached.set()

    async def wait(self) -> None:
        await asyncio.sleep(3600)


class Lent:
    """The connection, as a pool lends it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def __aenter__(self) -> Any:
        return self.connection

    async def __aexit__(self, *_: object) -> None: ...


@pytest.mark.rule(34)
def test_both_sides_have_the_same_batches_on_the_same_servers() -> None:
    assert bare.BATCH_RECORDS_MAX == BATCH_RECORDS
    assert BusSettings.model_fields["relay_chunk"].default == bare.RELAY_ROWS
    assert (SETTINGS["fsync"], SETTINGS["synchronous_commit"]) == ("on", "on")
    assert int(SETTINGS["max_wal_size"].removesuffix("GB")) >= 4


@pytest.mark.rule(34)
def test_the_ratio_is_of_medians_and_a_run_on_a_busy_machine_is_void() -> None:
    def rounds(*rates: float) -> list[Round]:
        return [Round(rate, dict.fromkeys(PARTS, 1.0), rate) for rate in rates]

    plan = Plan(sales=10, skus=1, rounds=3, seed=1)
    told = report(plan, {"bare": rounds(2_000, 9_000, 1_900), "saldo": rounds(1_000, 100, 1_100)})
    assert (told["ratio"], told["void"]) == (0.5, False)
    assert told["trace_ratio"] == {"saldo": 0.01, "bare": 0}
    slow = BARE_FLOOR_PER_S - 1
    assert report(plan, {"bare": rounds(slow, slow, slow), "saldo": rounds(1, 1, 1)})["void"]

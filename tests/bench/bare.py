"""The floor of the pipeline bench: the same hops in the same processes with the same durable work, and nothing between.

`python -m tests.bench.bare orders|inventory` runs one of two processes on plain aiokafka and asyncpg:

- orders: sales → inbox, order row, outbox → commit → demand on Kafka;
- inventory: demand → inbox, lock the SKUs, decide, ledger, counters, reservations, outbox → commit → levels on Kafka.

Each batch is one durable transaction; offsets follow the commit; the outbox is sent by an idempotent producer with
acks=all and deleted by the acknowledged rows. Batch sizes are those of the services. No spans, no dead letters, no
upcasting, no policy, no kits: this is what a careful engineer would write in an afternoon, and it is what the services
are measured against.

Environment: KAFKA_BOOTSTRAP_SERVERS, POSTGRES_DSN, SALDO_BENCH_RUN (part of every topic's name).
"""

import asyncio
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import uuid_utils
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from pydantic_core import from_json, to_json

BATCH_RECORDS_MAX = 1_000
BATCH_TIMEOUT_MS = 20
RELAY_ROWS = 2_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS inbox (id uuid PRIMARY KEY);
CREATE TABLE IF NOT EXISTS outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL, topic text NOT NULL, key text NOT NULL,
    payload bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS orders (order_id text PRIMARY KEY, revision int NOT NULL, state text NOT NULL, body bytea);
CREATE TABLE IF NOT EXISTS skus (sku text PRIMARY KEY, version bigint NOT NULL) WITH (fillfactor = 60);
CREATE TABLE IF NOT EXISTS levels (
    sku text, state text, quantity int NOT NULL CHECK (quantity >= 0), PRIMARY KEY (sku, state)
) WITH (fillfactor = 60);
CREATE TABLE IF NOT EXISTS movements (
    order_id text, line text, from_state text, to_state text, sku text NOT NULL, quantity int NOT NULL,
    PRIMARY KEY (order_id, line, from_state, to_state)
);
CREATE TABLE IF NOT EXISTS reservations (
    order_id text, line text, sku text NOT NULL, reserved int NOT NULL, short int NOT NULL, PRIMARY KEY (order_id, line)
);
"""

Outgoing = tuple[str, str, bytes]
"""Topic, key, body."""
Handler = Callable[["asyncpg.Connection[asyncpg.Record]", list[dict[str, Any]]], Awaitable[list[Outgoing]]]


def topic(stream: str) -> str:
    """The name of a stream's topic in this run."""
    return f"bare.{os.environ['SALDO_BENCH_RUN']}.{stream}"


async def take_orders(connection: "asyncpg.Connection[asyncpg.Record]", sales: list[dict[str, Any]]) -> list[Outgoing]:
    """Keep each sale as an order and demand its stock."""
    await connection.execute(
        "INSERT INTO orders SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::bytea[])"
        " ON CONFLICT DO NOTHING",
        [sale["order_id"] for sale in sales],
        [sale["revision"] for sale in sales],
        [sale["status"] for sale in sales],
        [to_json(sale) for sale in sales],
    )
    out: list[Outgoing] = []
    for sale in sales:
        demand = {
            "order_id": sale["order_id"],
            "revision": 1,
            "sale_revision": sale["revision"],
            "connection_id": sale["connection_id"],
            "sold_at": sale["sold_at"],
            "received_at": sale["received_at"],
            "lines": [{"line_id": x["line_id"], "sku": x["sku"], "ordered": x["quantity"]} for x in sale["lines"]],
        }
        out.append((topic("demand"), sale["order_id"], to_json(demand)))
    return out


async def reserve(connection: "asyncpg.Connection[asyncpg.Record]", demands: list[dict[str, Any]]) -> list[Outgoing]:
    """Give each demanded line what is there, in order of arrival, and tell the new levels with their causes."""
    skus = sorted({line["sku"] for demand in demands for line in demand["lines"]})
    versions = {
        row["sku"]: row["version"]
        for row in await connection.fetch(
            "SELECT sku, version FROM skus WHERE sku = ANY($1) ORDER BY sku FOR UPDATE", skus
        )
    }
    available: dict[str, int] = defaultdict(int)
    reserved: dict[str, int] = defaultdict(int)
    for row in await connection.fetch("SELECT sku, state, quantity FROM levels WHERE sku = ANY($1)", skus):
        (available if row["state"] == "available" else reserved)[row["sku"]] = row["quantity"]
    causes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    lines: list[tuple[str, str, str, int, int]] = []
    for demand in demands:
        for line in demand["lines"]:
            sku, wanted = line["sku"], line["ordered"]
            given = min(wanted, available[sku])
            available[sku] -= given
            reserved[sku] += given
            lines.append((demand["order_id"], line["line_id"], sku, given, wanted - given))
            causes[sku].append(
                {
                    "order_id": demand["order_id"],
                    "sale_revision": demand["sale_revision"],
                    "line_id": line["line_id"],
                    "connection_id": demand["connection_id"],
                    "units": wanted,
                    "outcome": "reserved" if given == wanted else "short",
                    "sold_at": demand["sold_at"],
                    "received_at": demand["received_at"],
                }
            )
    await save_reservations(connection, lines, versions, available, reserved)
    return [
        (
            topic("levels"),
            sku,
            to_json(
                {
                    "sku": sku,
                    "version": versions[sku] + 1,
                    "available": available[sku],
                    "reserved": reserved[sku],
                    "causes": causes[sku],
                }
            ),
        )
        for sku in versions
    ]


async def save_reservations(
    connection: "asyncpg.Connection[asyncpg.Record]",
    lines: Sequence[tuple[str, str, str, int, int]],
    versions: dict[str, int],
    available: dict[str, int],
    reserved: dict[str, int],
) -> None:
    """Reservations, ledger, counters and versions of a batch, one statement each."""
    orders, names, skus, given, short = (list(column) for column in zip(*lines, strict=True))
    await connection.execute(
        "INSERT INTO reservations SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[])",
        orders,
        names,
        skus,
        given,
        short,
    )
    await connection.execute(
        "INSERT INTO movements SELECT o, l, 'available', 'reserved', s, q"
        " FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS t(o, l, s, q) WHERE q > 0",
        orders,
        names,
        skus,
        given,
    )
    touched = list(versions)
    await connection.execute(
        "UPDATE levels SET quantity = t.q FROM unnest($1::text[], $2::text[], $3::int[]) AS t(sku, state, q)"
        " WHERE levels.sku = t.sku AND levels.state = t.state",
        touched * 2,
        ["available"] * len(touched) + ["reserved"] * len(touched),
        [available[sku] for sku in touched] + [reserved[sku] for sku in touched],
    )
    await connection.execute("UPDATE skus SET version = version + 1 WHERE sku = ANY($1)", touched)


async def handle_batch(
    connection: "asyncpg.Connection[asyncpg.Record]", records: Sequence[ConsumerRecord], handler: Handler
) -> None:
    """One batch, one durable transaction: inbox, handler, outbox."""
    by_id = {dict(record.headers)["ce_id"].decode(): record.value for record in records}
    async with connection.transaction():
        rows = await connection.fetch(
            "INSERT INTO inbox SELECT * FROM unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING id", sorted(by_id)
        )
        new = {str(row["id"]) for row in rows}
        outgoing = await handler(connection, [from_json(body) for id_, body in by_id.items() if id_ in new])
        await connection.execute(
            "INSERT INTO outbox (id, topic, key, payload)"
            " SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[])",
            [str(uuid_utils.uuid7()) for _ in outgoing],
            [item[0] for item in outgoing],
            [item[1] for item in outgoing],
            [item[2] for item in outgoing],
        )


async def consume(consumer: AIOKafkaConsumer, pool: "asyncpg.Pool[asyncpg.Record]", handler: Handler,
                  wake: asyncio.Event) -> None:  # fmt: skip
    """Batches for ever; offsets are committed after the transaction."""
    while True:
        fetched = await consumer.getmany(timeout_ms=BATCH_TIMEOUT_MS, max_records=BATCH_RECORDS_MAX)
        records = [record for part in fetched.values() for record in part]
        if not records:
            continue
        async with pool.acquire() as connection:
            await handle_batch(connection, records, handler)  # type: ignore[arg-type]
        wake.set()
        await consumer.commit({part: items[-1].offset + 1 for part, items in fetched.items()})


async def relay(pool: "asyncpg.Pool[asyncpg.Record]", producer: AIOKafkaProducer, wake: asyncio.Event) -> None:
    """Outbox rows to Kafka in order; exactly the acknowledged ones are deleted."""
    async with pool.acquire() as connection:
        while True:
            rows = await connection.fetch(f"SELECT * FROM outbox ORDER BY seq LIMIT {RELAY_ROWS}")
            if not rows:
                wake.clear()
                try:
                    await asyncio.wait_for(wake.wait(), 0.25)
                except TimeoutError:
                    continue
                continue
            sent = [
                await producer.send(
                    row["topic"], row["payload"], key=row["key"].encode(), headers=[("ce_id", str(row["id"]).encode())]
                )
                for row in rows
            ]
            await asyncio.gather(*sent)
            await connection.execute("DELETE FROM outbox WHERE seq = ANY($1)", [row["seq"] for row in rows])


async def main(role: str) -> None:
    """Run one of the two processes until it is told to stop."""
    stream, handler = {"orders": ("sales", take_orders), "inventory": ("demand", reserve)}[role]
    bootstrap = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    pool = await asyncpg.create_pool(os.environ["POSTGRES_DSN"], min_size=2, max_size=4)
    await pool.execute(SCHEMA)
    consumer = AIOKafkaConsumer(
        topic(stream), bootstrap_servers=bootstrap, group_id=f"bare.{role}", auto_offset_reset="earliest",
        enable_auto_commit=False, max_partition_fetch_bytes=4 << 20,
    )  # fmt: skip
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=2)
    await asyncio.gather(consumer.start(), producer.start())
    sys.stdout.write(json.dumps({"ready": role}) + "\n")
    sys.stdout.flush()
    wake, stop = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    loops = (consume(consumer, pool, handler, wake), relay(pool, producer, wake), stop.wait())
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await asyncio.gather(consumer.stop(), producer.stop())
    await pool.close()
    for task in done:
        task.result()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))

"""Pipeline bench: sales on Kafka → order → reservation → level on Kafka, ours and the bare script in the same run.

A B A B A B on the same servers: each round preloads the sales, starts the orders process, and reads the levels until
every line of every sale is covered by a cause. A rate is sales ÷ (Kafka timestamp of the last level − of the first
demand), the sales of the first batch left out of both sides. Both sides get the same sales, batch sizes and durable
PostgreSQL; ours traces at a sampling ratio of 0.01, the bare script not at all. Neither keeps copies of what it sent
(`OUTBOX_KEEP_H=0`; production keeps them for 24 hours, for `republish`). Ours also tells what the bare script does not:
the life of every order (placed, paid, confirmed), how its demand was met, and the ledger. Its tables are all written
with the level. What is told of it on other streams goes out after the levels while there is a backlog, so that part of
it is told after the last level: `confirmed_per_s` is the rate to the last `OrderConfirmed`, when all is told. No round
begins before that. `ratio` is ours ÷ bare of the medians, to the last level.

Run by `saldo bench pipeline`. Writes `var/bench/pipeline.json`. Exit code 2 where the bare script stays below
1,400 orders/s: then the machine was too busy, and the run says nothing.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import uuid_utils
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from contracts.catalogue import CATALOGUE, INVENTORY_COMMANDS, LEVELS, ORDERS, SALES
from contracts.channels.v1 import SaleLine, SaleReported, SaleStatus
from contracts.envelope import Envelope
from contracts.inventory.v1 import PutItem, PutLocation, ReceiveStock
from contracts.orders.v1 import OrderConfirmed, OrderShort
from deploy.local.ports import keep_ports
from deploy.local.servers import Servers

BARE_FLOOR_PER_S = 1_400
PARTITIONS = 6
TENANT = "bench"
LOCATION = "main"
LIMIT_S = 600
OUTBOX_KEEP_H = 0
PARTS = ("orders", "inventory", "servers")
console = Console(stderr=True)


@dataclass(frozen=True)
class Plan:
    """How much to send: `sales` a round, over `skus` with `units` each, in `rounds` of both sides.

    An order has two lines of drawn SKUs; where `hot`, one line, and all orders of a round want the same SKU.
    """

    sales: int
    skus: int
    rounds: int
    seed: int
    units: int = 1_000_000
    hot: bool = False

    @property
    def lines(self) -> int:
        """Of an order."""
        return 1 if self.hot else 2

    def wanted(self, draw: random.Random, number: int) -> list[str]:
        """The SKUs of an order of round `number`."""
        places = [number] if self.hot else draw.sample(range(self.skus), self.lines)
        return [f"SKU-{place:05}" for place in places]


@dataclass(frozen=True)
class Round:
    """What one round of one side took: `rate` in orders/s, and the µs of CPU an order cost by process.

    Starting a process is left out. `servers` are Kafka and PostgreSQL, preloading left out. `memory_mb` is the most
    that each process took.
    """

    rate: float
    cpu_us_per_order: dict[str, float]
    confirmed_rate: float = 0.0
    memory_mb: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One side of the comparison: how its processes are started, and which topics carry its hops.

    `facts` carries an `OrderConfirmed` for every sale in the end; empty where there is nothing of the kind.
    """

    name: str
    argv: dict[str, list[str]]
    env: dict[str, dict[str, str]]
    sales: str
    demand: str
    levels: str
    facts: str = ""
    reserved: str = ""
    """The statement that tells what is reserved of each SKU in the database of its inventory."""


def sale(order: str, skus: list[str], at: datetime) -> SaleReported:
    """A paid sale of two lines."""
    lines = tuple(
        SaleLine(line_id=f"{n}", sku=sku, quantity=1, unit_price_minor=1_990, listing=sku, stock_record=sku)
        for n, sku in enumerate(skus)
    )
    return SaleReported(
        connection_id="bench-connection", external_id=order, order_id=order, revision=1, status=SaleStatus.PAID,
        sold_at=at, received_at=at, customer_ref="c", currency="BRL", lines=lines, total_minor=3_980,
    )  # fmt: skip


async def preload(producer: AIOKafkaProducer, topic: str, plan: Plan, number: int) -> None:
    """Put the round's sales on Kafka, keyed by order."""
    draw = random.Random(plan.seed + number)
    at = datetime.now(UTC)
    for _ in range(plan.sales):
        order = str(uuid_utils.uuid7())
        await put(producer, sale(order, plan.wanted(draw, number), at), topic=topic, id_=order)
    await producer.flush()


@asynccontextmanager
async def process(side: Side, role: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """One process of a side, ready to work; ended by SIGTERM, and killed if it does not listen."""
    with log.open("ab") as out:
        child = await asyncio.create_subprocess_exec(
            *side.argv[role], env=os.environ | side.env[role], stdout=out, stderr=out
        )
        try:
            yield child
        finally:
            if child.returncode is None:
                child.terminate()
                try:
                    await asyncio.wait_for(child.wait(), 20)
                except TimeoutError:
                    child.kill()
                    await child.wait()


async def ready(side: Side, role: str, log: Path) -> None:
    """Wait until a process says that it is ready: the service on /readyz, the bare script in its log."""
    port = side.env[role].get("SALDO_ADMIN_PORT")
    deadline = time.monotonic() + 60
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline:
            if port is None:
                if f'{{"ready": "{role}"}}' in await asyncio.to_thread(log.read_text):
                    return
            else:
                try:
                    if (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
            await asyncio.sleep(0.1)
    raise RuntimeError(f"{side.name} {role} did not get ready within 60 s; its log is {log}")


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used (user and system), from /proc; 0 where there is none (macOS)."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """The most memory that a process ever had resident, from /proc; 0 where there is none (macOS)."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def servers_cpu_s() -> float:
    """CPU seconds of Kafka and PostgreSQL, which this process started, with the backends that have ended."""
    found: dict[int, tuple[int, str, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        used = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        found[int(stat.parent.name)] = int(fields[1]), name, used
    total = 0.0
    for pid, (_, name, used) in found.items():
        above = pid
        while above in found and above != os.getpid():
            above = found[above][0]
        total += used if name in {"java", "postgres"} and above == os.getpid() else 0
    return total


async def measure(bootstrap: str, producer: AIOKafkaProducer, side: Side, plan: Plan, number: int, logs: Path) -> Round:
    """One round: inventory up, sales preloaded, orders started, levels read until everything is covered."""
    consumer = AIOKafkaConsumer(
        side.demand, side.levels, bootstrap_servers=bootstrap, auto_offset_reset="latest", group_id=None,
        max_partition_fetch_bytes=8 << 20,
    )  # fmt: skip
    facts = None
    if side.facts:
        facts = AIOKafkaConsumer(side.facts, bootstrap_servers=bootstrap, auto_offset_reset="latest", group_id=None)
    inventory_log, orders_log = logs / f"{side.name}-inventory.log", logs / f"{side.name}-orders.log"
    for log in (inventory_log, orders_log):
        log.write_bytes(b"")
    await consumer.start()
    try:
        await consumer.seek_to_end()
        if facts:
            await facts.start()
            await facts.seek_to_end()
            facts.pause(*facts.assignment())
        async with process(side, "inventory", inventory_log) as inventory:
            await ready(side, "inventory", inventory_log)
            await preload(producer, side.sales, plan, number)
            before = {"inventory": cpu_s(inventory.pid), "servers": servers_cpu_s()}
            async with process(side, "orders", orders_log) as orders:
                await ready(side, "orders", orders_log)
                before["orders"] = cpu_s(orders.pid)
                first_ms, first_batch, last_ms = await asyncio.wait_for(watch(consumer, side, plan), LIMIT_S)
                took_s = (last_ms - first_ms) / 1000
                after = {"orders": cpu_s(orders.pid), "inventory": cpu_s(inventory.pid), "servers": servers_cpu_s()}
                confirmed_s = await asyncio.wait_for(confirmed(facts, first_ms, plan), LIMIT_S) if facts else 0.0
                memory = {"inventory": peak_mb(inventory.pid), "orders": peak_mb(orders.pid)}
    finally:
        await consumer.stop()
        if facts:
            await facts.stop()
    cpu = {role: (after[role] - before[role]) / plan.sales * 1e6 for role in PARTS}
    told = plan.sales - first_batch
    return Round(told / took_s, cpu, told / confirmed_s if confirmed_s else 0.0, memory)


async def confirmed(consumer: AIOKafkaConsumer, first_ms: int, plan: Plan) -> float:
    """Seconds from the first demand to the last `OrderConfirmed`, or `OrderShort` where units are few."""
    consumer.resume(*consumer.assignment())
    names = {CATALOGUE.by_model[fact].name.encode() for fact in (OrderConfirmed, OrderShort)}
    left, last_ms = plan.sales, first_ms
    while left > 0:
        for records in (await consumer.getmany(timeout_ms=200, max_records=5_000)).values():
            for record in records:
                if dict(record.headers)["ce_type"] in names:
                    left, last_ms = left - 1, max(last_ms, record.timestamp)
    return (last_ms - first_ms) / 1000


async def watch(consumer: AIOKafkaConsumer, side: Side, plan: Plan) -> tuple[int, int, int]:
    """(timestamp of the first demand, demands that carry it, timestamp of the last level), in ms."""
    left, first_ms, first_batch, last_ms = plan.sales * plan.lines, 0, 0, 0
    while left > 0:
        fetched = await consumer.getmany(timeout_ms=200, max_records=5_000)
        for part, records in fetched.items():
            for record in records:
                if part.topic == side.demand:
                    first_ms = first_ms or record.timestamp
                    first_batch += record.timestamp <= first_ms + 2
                    continue
                level = json.loads(record.value)
                left -= len(level["causes"]) + level.get("causes_omitted", 0)
                last_ms = max(last_ms, record.timestamp)
    return first_ms, first_batch, last_ms


async def prepare_bare(servers: Servers, plan: Plan, run: str) -> Side:
    """Databases with stock, topics, and the way to start the bare script."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers.kafka_bootstrap)
    await admin.start()
    try:
        names = [f"bare.{run}.{stream}" for stream in ("sales", "demand", "levels")]
        await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
    finally:
        await admin.close()
    env = {}
    for role in ("orders", "inventory"):
        dsn = await servers.create_database(f"bare_{role}", f"bare_{role}", "bench")
        env[role] = {
            "KAFKA_BOOTSTRAP_SERVERS": servers.kafka_bootstrap, "POSTGRES_DSN": dsn, "SALDO_BENCH_RUN": run,
        }  # fmt: skip
    from tests.bench.bare import SCHEMA

    connection = await asyncpg.connect(env["inventory"]["POSTGRES_DSN"])
    try:
        await connection.execute(SCHEMA)
        skus = [f"SKU-{n:05}" for n in range(plan.skus)]
        await connection.execute("INSERT INTO skus SELECT unnest($1::text[]), 0", skus)
        await connection.execute("INSERT INTO levels SELECT unnest($1::text[]), 'available', $2::int", skus, plan.units)
        await connection.execute("INSERT INTO levels SELECT unnest($1::text[]), 'reserved', 0", skus)
    finally:
        await connection.close()
    argv = {role: [sys.executable, "-m", "tests.bench.bare", role] for role in env}
    reserved = "SELECT sku, quantity FROM levels WHERE state = 'reserved'"
    return Side("bare", argv, env, *names, reserved=reserved)


async def prepare_ours(servers: Servers, producer: AIOKafkaProducer, plan: Plan, logs: Path) -> Side:
    """Databases, and stock put in through inventory's own commands."""
    ports = keep_ports(logs, ("orders", "inventory"))
    env = {}
    for role in ("orders", "inventory"):
        dsn = await servers.create_database(role, role, "bench")
        env[role] = {
            "KAFKA_BOOTSTRAP_SERVERS": servers.kafka_bootstrap, "POSTGRES_DSN": dsn, "SALDO_ADMIN_TOKEN": "bench",
            "SALDO_ADMIN_PORT": str(ports[role]), "SALDO_TRACE_RATIO": "0.01",
            "SALDO_SPANS_PATH": str(logs / f"{role}.spans.sqlite"), "OUTBOX_KEEP_H": str(OUTBOX_KEEP_H),
        }  # fmt: skip
    argv = {role: [sys.executable, "-m", f"services.{role}.app"] for role in env}
    reserved = "SELECT sku, sum(reserved)::int AS quantity FROM stock GROUP BY sku"
    side = Side("saldo", argv, env, SALES.name, INVENTORY_COMMANDS.name, LEVELS.name, ORDERS.name, reserved)
    log = logs / "saldo-prepare.log"
    log.write_bytes(b"")
    # Both services start once, so that every topic exists before the sales are preloaded.
    async with process(side, "orders", log):
        await ready(side, "orders", log)
    async with process(side, "inventory", log):
        await ready(side, "inventory", log)
        await put(producer, PutLocation(location=LOCATION, name="Main"))
        for n in range(plan.skus):
            await put(producer, PutItem(sku=f"SKU-{n:05}", name=f"Item {n}"))
        await producer.flush()
        await settled(ports["inventory"])
        for n in range(plan.skus):
            await put(producer, ReceiveStock(sku=f"SKU-{n:05}", location=LOCATION, quantity=plan.units))
        await producer.flush()
        await settled(ports["inventory"], movements=plan.skus)
    return side


async def put(producer: AIOKafkaProducer, message: Any, *, topic: str = "", id_: str = "") -> None:
    """A message straight onto its stream, or onto another `topic`, under a new id unless it has one."""
    entry = CATALOGUE.of(message)
    id_, subject = id_ or str(uuid_utils.uuid7()), entry.aggregate(message)
    envelope = Envelope(
        id=id_, type=entry.name, source="bench", time=datetime.now(UTC), subject=subject, tenant=TENANT,
        correlation_id=id_,
    )  # fmt: skip
    await producer.send(
        topic or entry.stream.name, message.model_dump_json().encode(), key=f"{TENANT}:{subject}".encode(),
        headers=envelope.to_headers(),
    )  # fmt: skip


async def settled(port: int, movements: int = 0) -> None:
    """Wait until inventory has worked off its commands and, where told, has that many movements."""
    headers = {"Authorization": "Bearer bench"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
        for _ in range(600):
            answer = await client.get("/admin/ledger", params={"tenant": TENANT})
            if answer.is_success and answer.json()["movements"] >= movements and movements:
                return
            if not movements and len((await client.get("/admin/locations", params={"tenant": TENANT})).json()):
                return
            await asyncio.sleep(0.2)
    raise RuntimeError("inventory did not book the opening stock within two minutes")


async def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """All rounds, and the report."""
    shutil.rmtree(folder, ignore_errors=True)
    logs = folder / "log"
    logs.mkdir(parents=True)
    rounds: dict[str, list[Round]] = {"bare": [], "saldo": []}
    async with Servers(folder) as servers:
        producer = AIOKafkaProducer(bootstrap_servers=servers.kafka_bootstrap, acks="all", linger_ms=5)
        await producer.start()
        try:
            console.print("preparing both sides …")
            sides = [
                await prepare_bare(servers, plan, "pipeline"),
                await prepare_ours(servers, producer, plan, logs),
            ]
            for number in range(plan.rounds):
                for side in sides:
                    result = await measure(servers.kafka_bootstrap, producer, side, plan, number, logs)
                    rounds[side.name].append(result)
                    console.print(f"round {number + 1} {side.name:5} {result.rate:8,.0f} orders/s")
        finally:
            await producer.stop()
        reserved = {side.name: await reserved_of(side) for side in sides}
    return report(plan, rounds) | {"reserved": reserved} if plan.hot else report(plan, rounds)


async def reserved_of(side: Side) -> dict[str, int]:
    """Units reserved in the end, by SKU."""
    connection = await asyncpg.connect(side.env["inventory"]["POSTGRES_DSN"])
    try:
        return {row["sku"]: row["quantity"] for row in await connection.fetch(side.reserved) if row["quantity"]}
    finally:
        await connection.close()


def report(plan: Plan, rounds: dict[str, list[Round]]) -> dict[str, Any]:
    """Medians, the ratio, and what the machine was."""
    medians = {name: statistics.median(item.rate for item in items) for name, items in rounds.items()}
    confirmed_rate = statistics.median(item.confirmed_rate for item in rounds["saldo"])
    return {
        "bench": "hot" if plan.hot else "pipeline",
        "at": datetime.now(UTC).isoformat(),
        "plan": plan.__dict__,
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "trace_ratio": {"saldo": 0.01, "bare": 0},
        "outbox_keep_h": OUTBOX_KEEP_H,
        "orders_per_s": {
            name: {"median": round(medians[name]), "rounds": [round(x.rate) for x in items]}
            for name, items in rounds.items()
        },
        "confirmed_per_s": {
            "median": round(confirmed_rate),
            "rounds": [round(x.confirmed_rate) for x in rounds["saldo"]],
        },
        "cpu_us_per_order": {
            name: {role: round(statistics.median(x.cpu_us_per_order[role] for x in items)) for role in PARTS}
            for name, items in rounds.items()
        },
        "ratio": round(medians["saldo"] / medians["bare"], 3),
        "void": medians["bare"] < BARE_FLOOR_PER_S,
    }


def main(argv: list[str] | None = None) -> int:
    """Parse, run, write, print; 2 where the run is void."""
    parser = argparse.ArgumentParser(prog="saldo bench pipeline", description=__doc__)
    parser.add_argument("--sales", type=int, default=20_000)
    parser.add_argument("--skus", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(argv)
    plan = Plan(options.sales, options.skus, options.rounds, options.seed)
    result = asyncio.run(run(plan, Path("var/bench/pipeline")))
    return told(result)


def told(result: dict[str, Any]) -> int:
    """Write and print a report; 2 where the run is void."""
    Path(f"var/bench/{result['bench']}.json").write_text(json.dumps(result, indent=2) + "\n")
    title = f"{result['bench']}: ratio {result['ratio']}"
    table = Table("", "orders/s", *(f"{part} µs" for part in PARTS), title=title)
    for name in ("bare", "saldo"):
        cpu = result["cpu_us_per_order"][name]
        rate = result["orders_per_s"][name]["median"]
        table.add_row(name, f"{rate:,}", *(f"{cpu[part]}" for part in PARTS))
    Console().print(table)
    console.print(f"with everything told, to the last fact: {result['confirmed_per_s']['median']:,} orders/s")
    if result["void"]:
        console.print(f"void: the bare script stayed below {BARE_FLOOR_PER_S} orders/s; run again on an idle machine")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

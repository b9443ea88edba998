"""Scale bench: what an order costs with a thousand, a hundred thousand, a million SKUs, and a million orders behind.

At each size both sides, ours and the bare script, get their stock and orders anew: a few SKUs through their own doors
and one order, multiplied by PostgreSQL (`multiply`). The orders behind stand confirmed with their units reserved,
placed evenly from seven hours to one hour ago. Then sales run as in the pipeline bench, on SKUs drawn from all, A B A B
after a warm-up. An order's cost is CPU (orders, inventory, Kafka, PostgreSQL) and time, medians of the rounds; its
growth is over the first size with as many orders behind, or else with as many SKUs. The memory of a service is the most
it ever took. `read_in_sequence` tells how many rows an order made our databases read without an index, by table.

No checkpoint falls into a run, or between it and the multiplying (`WAL`): pages are logged whole when first written
after one, which is most of the cost of the few thousand orders that follow, and nothing of those after them.
`page_images` tells how many of those an order had nevertheless.

Run by `saldo bench scale`. Writes `var/bench/scale.json`. Exit code 1 where our cost grows by more than 1.25 times what
the bare script's does, or a service took more than 250 MB.
"""

import argparse
import asyncio
import os
import platform
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.table import Table

from deploy.local.servers import Servers
from tests.bench.multiply import Connection, multiply, uuid7
from tests.bench.pipeline import PARTS, Plan, Round, Side, console, measure, prepare_bare, prepare_ours
from tests.bench.stage import write_report
from tests.tables import opened

GROWTH_MAX = 1.25
MEMORY_MAX_MB = 250
FIRST = 10
"""SKUs put in through the sides' own doors; copies are numbered from here on."""
SKU = "SKU-00000"
STEP = 7919
"""A prime, by which orders behind go from SKU to SKU, so that neighbours in one table are none in the other."""
WAL = {"max_wal_size": "48GB", "checkpoint_timeout": "1h"}
COSTS = ("cpu_us", "time_us")


class Size(NamedTuple):
    """How many SKUs there are, and how many orders lie behind."""

    skus: int
    orders: int


SIZES = (Size(1_000, 10_000), Size(100_000, 10_000), Size(1_000_000, 10_000), Size(100_000, 1_000_000))


@dataclass
class Measured:
    """All rounds at one size, by side."""

    size: Size
    rounds: dict[str, list[Round]] = field(default_factory=lambda: {"bare": [], "saldo": []})
    read_in_sequence: dict[str, float] = field(default_factory=dict)
    page_images: dict[str, float] = field(default_factory=lambda: {"bare": 0.0, "saldo": 0.0})

    def cost(self, side: str) -> dict[str, float]:
        """Median µs of an order."""
        rounds = self.rounds[side]
        return {
            "cpu_us": statistics.median(sum(one.cpu_us_per_order.values()) for one in rounds),
            "time_us": statistics.median(1e6 / one.rate for one in rounds),
        }

    def parts(self, side: str) -> dict[str, int]:
        """Median µs of CPU of an order, by process."""
        rounds = self.rounds[side]
        return {part: round(statistics.median(one.cpu_us_per_order[part] for one in rounds)) for part in PARTS}

    @property
    def memory_mb(self) -> dict[str, float]:
        """The most that each service took."""
        rounds = self.rounds["saldo"]
        return {role: max(one.memory_mb[role] for one in rounds) for role in rounds[0].memory_mb}


MOVEMENT_ID = {"movements.movement_id": "md5(new.n || t.movement_id::text)::uuid"}
LEVELS = {
    "saldo": """
    UPDATE stock SET reserved = held, available = available + reserved - held
    FROM (SELECT tenant, sku, location, pool, sum(quantity)::bigint AS held FROM reservations WHERE state = 'reserved'
          GROUP BY tenant, sku, location, pool) AS lines
    WHERE (stock.tenant, stock.sku, stock.location, stock.pool)
        = (lines.tenant, lines.sku, lines.location, lines.pool) AND reserved <> held;
    UPDATE skus SET version = newest
    FROM (SELECT tenant, sku, max(sku_version) AS newest FROM movements GROUP BY tenant, sku) AS booked
    WHERE (skus.tenant, skus.sku) = (booked.tenant, booked.sku) AND version < newest
    """,
    "bare": """
    UPDATE levels SET quantity = CASE state WHEN 'reserved' THEN held ELSE quantity - held END
    FROM (SELECT sku, sum(quantity)::integer AS held FROM movements GROUP BY sku) AS booked
    WHERE levels.sku = booked.sku
    AND booked.sku NOT IN (SELECT sku FROM levels WHERE state = 'reserved' AND quantity > 0);
    UPDATE skus SET version = times
    FROM (SELECT sku, count(*) AS times FROM movements GROUP BY sku) AS booked
    WHERE skus.sku = booked.sku
    """,
}
"""Counters and versions of SKUs as the copied bookings would have left them."""


def numbered(number: str) -> str:
    """SQL of the name of the SKU with this number."""
    return f"'SKU-' || lpad(({number})::text, greatest(5, length(({number})::text)), '0')"


async def add_skus(connection: Connection, skus: int) -> None:
    """As many more SKUs as are missing from `skus`, each as the first one is, with its stock and how that was booked.

    It was booked so long ago that the inbox has forgotten it.
    """
    names = {SKU: numbered(f"n + {FIRST}")}
    if await connection.fetchval("SELECT to_regclass('stock_commands') IS NOT NULL"):
        for row in await connection.fetch("SELECT command_id FROM stock_commands WHERE sku = $1", SKU):
            names[row["command_id"]] = uuid7(row["command_id"], datetime.now(UTC))
    await multiply(connection, [SKU], names, skus - FIRST, own=MOVEMENT_ID)
    await connection.execute("TRUNCATE inbox")


async def add_orders(side: str, orders: Connection, inventory: Connection, size: Size) -> None:
    """The one order there is, `size.orders` times over in all its rows, each of two other SKUs; levels follow."""
    now = datetime.now(UTC)
    names = {await orders.fetchval("SELECT order_id FROM orders"): uuid7("order", now)}
    for connection in (orders, inventory):
        for row in await connection.fetch("SELECT id::text FROM inbox"):
            names.setdefault(row["id"], uuid7(row["id"], now))
    sold = [row["sku"] for row in await inventory.fetch("SELECT sku FROM reservations ORDER BY sku")]
    copies = size.skus - FIRST
    skus = {
        sku: numbered(f"{FIRST} + (n::bigint * {STEP} + {shift}) % {copies}")
        for sku, shift in zip(sold, (0, copies // 2), strict=True)
    }
    version = f"t.sku_version + 2 * (new.n / {copies}) + (t.sku = '{sold[1]}')::integer"
    ago = f"interval '7 hours' - interval '6 hours' * n / {size.orders}"
    for connection in (orders, inventory):
        own = MOVEMENT_ID | {"movements.sku_version": version}
        await multiply(connection, list(names), names | skus, size.orders, ago=ago, own=own)
    await inventory.execute(LEVELS[side])


async def read_in_sequence(side: Side) -> Counter[str]:
    """Rows that the databases of a side ever read without an index, by table; partitions count as their day's."""
    found: Counter[str] = Counter()
    for role, env in side.env.items():
        async with opened(env["POSTGRES_DSN"]) as connection:
            for row in await connection.fetch("SELECT relname, seq_tup_read FROM pg_stat_user_tables"):
                found[f"{role}.{row['relname']}"] = row["seq_tup_read"]
    return found


async def page_images(servers: Servers) -> int:
    """Pages that were ever logged whole."""
    async with opened(servers.postgres_admin_dsn) as connection:
        return int(await connection.fetchval("SELECT wal_fpi FROM pg_stat_wal"))


async def prepare(side: Side, size: Size, one_order: Any) -> None:
    """Bring a side to its size, and its tables to rest; `one_order` has it take one."""
    async with (
        opened(side.env["orders"]["POSTGRES_DSN"]) as orders,
        opened(side.env["inventory"]["POSTGRES_DSN"]) as inventory,
    ):
        await add_skus(inventory, size.skus)
        await one_order(side)
        await add_orders(side.name, orders, inventory, size)
        for connection in (orders, inventory):
            for row in await connection.fetch(
                "SELECT format('%I', relname) AS name FROM pg_class"
                " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
            ):
                await connection.execute(f"VACUUM (ANALYZE) {row['name']}")


async def measure_size(size: Size, plan: Plan, warm: int, folder: Path) -> Measured:
    """All rounds at one size, on servers of its own."""
    logs = folder / "log"
    logs.mkdir(parents=True)
    measured = Measured(size)
    running = Servers(folder, WAL)
    try:
        async with running as servers:
            producer = AIOKafkaProducer(bootstrap_servers=servers.kafka_bootstrap, acks="all", linger_ms=5)
            await producer.start()
            try:
                few = Plan(1, FIRST, 1, plan.seed)
                sides = [
                    await prepare_bare(servers, few, "scale"),
                    await prepare_ours(servers, producer, few, logs),
                ]

                async def sell(side: Side, of: Plan, number: int) -> Round:
                    return await measure(servers.kafka_bootstrap, producer, side, of, number, logs)

                for side in sides:
                    begun = time.monotonic()
                    await prepare(side, size, lambda side: sell(side, few, 0))
                    console.print(f"{side.name:5} prepared in {time.monotonic() - begun:.0f} s")
                for side in sides:
                    await sell(side, Plan(warm, size.skus, 1, plan.seed), 1)
                before = await read_in_sequence(sides[1])
                for number in range(plan.rounds):
                    for side in sides:
                        images = await page_images(servers)
                        result = await sell(side, plan, number + 2)
                        of_all = plan.sales * plan.rounds
                        measured.page_images[side.name] += (await page_images(servers) - images) / of_all
                        measured.rounds[side.name].append(result)
                        cpu = sum(result.cpu_us_per_order.values())
                        console.print(f"round {number + 1} {side.name:5} {result.rate:8,.0f} orders/s, {cpu:4.0f} µs")
                read = await read_in_sequence(sides[1]) - before
            finally:
                await producer.stop()
    finally:
        running.remove()
    sold = plan.sales * plan.rounds
    measured.read_in_sequence = {name: rows / sold for name, rows in read.items() if rows >= sold}
    return measured


def base_of(size: Size, sizes: Sequence[Size]) -> Size:
    """What a size is compared with: the first with as many orders behind, or else with as many SKUs, or else itself."""
    alike = [one for one in sizes if one.orders == size.orders] + [one for one in sizes if one.skus == size.skus]
    return next((one for one in alike if one != size), size) if size != sizes[0] else size


def report(measured: Sequence[Measured], plan: Plan, warm: int) -> dict[str, Any]:
    """Costs and growth by size, what is missed, and what the machine was."""
    by_size = {one.size: one for one in measured}
    rows, missed = [], []
    for one in measured:
        base = by_size[base_of(one.size, list(by_size))]
        cost = {side: one.cost(side) for side in one.rounds}
        growth = {side: {name: cost[side][name] / base.cost(side)[name] for name in COSTS} for side in one.rounds}
        ratio = {name: round(growth["saldo"][name] / growth["bare"][name], 3) for name in COSTS}
        memory = {role: round(most) for role, most in one.memory_mb.items()}
        told = f"{one.size.skus:,} SKUs, {one.size.orders:,} orders behind"
        missed += [f"{told}: {name} grows {by} times as much" for name, by in ratio.items() if by > GROWTH_MAX]
        missed += [f"{told}: {role} took {most} MB" for role, most in memory.items() if most > MEMORY_MAX_MB]
        rows.append(
            one.size._asdict()
            | {"base": base.size._asdict(), "ratio": ratio, "memory_mb": memory}
            | {"growth": {side: {name: round(by, 3) for name, by in of.items()} for side, of in growth.items()}}
            | {"us_per_order": {side: {name: round(us) for name, us in of.items()} for side, of in cost.items()}}
            | {"cpu_us_per_order": {side: one.parts(side) for side in one.rounds}}
            | {"page_images": {side: round(images, 2) for side, images in one.page_images.items()}}
            | {"read_in_sequence": {name: round(per_order) for name, per_order in one.read_in_sequence.items()}}
        )
    return {
        "bench": "scale",
        "at": datetime.now(UTC).isoformat(),
        "plan": {"sales": plan.sales, "warm": warm, "rounds": plan.rounds, "seed": plan.seed},
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "postgres": WAL,
        "sizes": rows,
        "missed": missed,
    }


def told(result: dict[str, Any]) -> None:
    """Print a report."""
    table = Table(
        "SKUs", "orders", *(f"{what} {side}" for what in ("CPU µs", "time µs") for side in ("bare", "ours")),
        "growth of CPU", "of time", "MB", title=f"scale: growth over the bare script's, at most {GROWTH_MAX}",
    )  # fmt: skip
    for row in result["sizes"]:
        costs = [
            f"{row['us_per_order'][side][name]:,} ({row['growth'][side][name]:.2f})"
            for name in COSTS
            for side in ("bare", "saldo")
        ]
        memory = ", ".join(f"{role} {most}" for role, most in row["memory_mb"].items())
        ratios = (f"{row['ratio'][name]:.2f}" for name in COSTS)
        table.add_row(f"{row['skus']:,}", f"{row['orders']:,}", *costs, *ratios, memory)
    Console(width=160).print(table)
    for row in result["sizes"]:
        parts = (
            f"{side} {', '.join(f'{part} {us}' for part, us in of.items())}, {row['page_images'][side]} page images"
            for side, of in row["cpu_us_per_order"].items()
        )
        print(f"{row['skus']:,} SKUs, {row['orders']:,} orders: CPU µs of {'; '.join(parts)}")
        for name, rows in row["read_in_sequence"].items():
            print(f"{row['skus']:,} SKUs, {row['orders']:,} orders: {rows} rows of {name} an order without an index")
    for miss in result["missed"]:
        print(f"missed: {miss}")


def size(text: str) -> Size:
    """A size from the command line; more than the first SKUs are needed, an even number of them."""
    skus, _, orders = text.partition(":")
    if not (skus.isdecimal() and orders.isdecimal() and int(skus) > FIRST and int(skus) % 2 == 0 and int(orders) > 0):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no SKUS:ORDERS: give an even number of SKUs above {FIRST} and a number of orders, "
            "such as 1000:10000"
        )
    return Size(int(skus), int(orders))


def main() -> int:
    """Parse, run, write, print; 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="saldo bench scale", description=__doc__)
    parser.add_argument("--sizes", type=size, nargs="+", default=SIZES, metavar="SKUS:ORDERS")
    parser.add_argument("--sales", type=int, default=10_000)
    parser.add_argument("--warm", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    folder = Path("var/bench/scale")
    shutil.rmtree(folder, ignore_errors=True)
    measured = []
    for one in given.sizes:
        console.print(f"{one.skus:,} SKUs, {one.orders:,} orders behind …")
        plan = Plan(given.sales, one.skus, given.rounds, given.seed)
        measured.append(asyncio.run(measure_size(one, plan, given.warm, folder / f"{one.skus}-{one.orders}")))
    result = report(measured, plan, given.warm)
    write_report("scale", result)
    told(result)
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())

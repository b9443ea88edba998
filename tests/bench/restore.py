"""Restore bench: how long it takes from a lost machine to books that agree again, with so many orders behind them.

A company with one shop of Mercado Livre and one of Shopify, every service running. The orders are paid sales put on
Kafka, worked off as they come. Then buyers come to both shops all the while: `saldo backup` copies all databases under
them, they buy on for a while, and the machine is lost: its databases, its log of messages and its secrets are deleted.
The shops are outside and keep what they sold. `saldo restore`, everything up again, and the time runs until

* nothing waits in an outbox, on a stream or to be announced, seen three times in a row,
* every order is there: those from Kafka, which are all older than the backup, and what the shops sold before and after
  it, the latter heard again, since both connectors poll,
* both shops show the numbers that inventory has,

and `saldo verify` says that the books of every company add up. What is judged is the sum of backup, restore, start,
re-synchronisation and verify.

Run by `saldo bench restore`. Writes `var/bench/restore.json`. Exit code 1 where it takes more than ten minutes, does
not come to rest within twenty, or `saldo verify` finds a contradiction.
"""

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import uuid_utils
from aiokafka import AIOKafkaProducer

from contracts.catalogue import SALES
from deploy.local import stack
from deploy.local.postgres import Postgres
from services.console.instance import Endpoints
from tests.bench.pipeline import put, sale
from tests.bench.stage import many_products, open_company, write_report
from tests.flow.company import SHOP_SETTINGS, Company, Shop

LIMIT_S: Final = 600.0
PATIENCE_S: Final = 1200.0
LOAD_PATIENCE_S: Final = 3600.0
SHOPS: Final = {"mercadolivre": 1, "shopify": 1}
BUYERS_PER_S: Final = 2.0
LATER_S: Final = 10.0
LOOK_S: Final = 2.5
"""Longer than the pause between two looks of a service at its own lag."""
LOOKS: Final = 3
JUDGED: Final = ("backup", "restore", "start", "re-synchronisation", "verify")
LOST: Final = ("kafka", "spans", "secrets.json")

_SALDO: Final = "from services.console.cli import main; main()"
_WAITING: Final = """
SELECT (SELECT coalesce(sum(count), 0) FROM outbox)
     + (SELECT count(*) FROM announcements WHERE cursor IS NOT NULL) + (SELECT count(*) FROM parked)
"""


@dataclass
class Bench:
    """A run: its instance, what each step took in seconds, and what the shops sold."""

    folder: Path
    took_s: dict[str, float] = field(default_factory=dict)
    bought: list[tuple[Shop, str]] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """The seconds of a step."""
        print(f"{step} …", flush=True)
        begun = time.monotonic()
        yield
        self.took_s[step] = round(time.monotonic() - begun, 1)

    def saldo(self, *arguments: str, codes: Sequence[int] = (0,)) -> Any:
        """What a command of `saldo` prints as JSON. Raises `RuntimeError` where it ends with another exit code."""
        done = subprocess.run(
            [sys.executable, "-c", _SALDO, *arguments, "--instance", str(self.folder), "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in codes:
            raise RuntimeError(f"saldo {arguments[0]}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)


async def load(endpoints: Endpoints, orders: int, skus: Sequence[str], draw: random.Random) -> None:
    """Put paid sales on Kafka, two lines each, and wait until all is worked off."""
    producer = AIOKafkaProducer(bootstrap_servers=endpoints.kafka, acks="all", linger_ms=5)
    await producer.start()
    try:
        now = datetime.now(UTC)
        for _ in range(orders):
            order = str(uuid_utils.uuid7())
            await put(producer, sale(order, draw.sample(skus, 2), now), topic=SALES.name, id_=order)
        await producer.flush()
    finally:
        await producer.stop()
    await at_rest(endpoints, LOAD_PATIENCE_S)


async def asked(dsn: str, statement: str, *arguments: Any) -> list[Any]:
    """Rows of a database."""
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(statement, *arguments))
    finally:
        await connection.close()


async def waiting(endpoints: Endpoints) -> dict[str, int]:
    """What is on its way, by service: records in outboxes and on streams, announcements, parked ones; those at rest are
    left out.
    """
    found = {}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for name, dsn in endpoints.verify_dsns.items():
            ((count,),) = await asked(dsn, _WAITING)
            metrics = (await client.get(f"{endpoints.admin[name].base_url}/metrics")).text
            found[name] = int(count) + lag(metrics)
    return {name: count for name, count in found.items() if count}


def lag(metrics: str) -> int:
    """Records that a service is behind, from its metrics as they are printed."""
    lines = [line.rpartition(" ") for line in metrics.splitlines()]
    return sum(int(float(value)) for name, _, value in lines if name.startswith("kafka_consumer_group_lag{"))


async def at_rest(endpoints: Endpoints, patience_s: float) -> None:
    """Return when nothing was on its way in some looks in a row. Raises `TimeoutError` with what is."""
    deadline, quiet, told_at = time.monotonic() + patience_s, 0, time.monotonic()
    while quiet < LOOKS:
        left = await waiting(endpoints)
        quiet = 0 if left else quiet + 1
        if time.monotonic() > deadline:
            raise TimeoutError(f"still on its way: {left}")
        if left and time.monotonic() > told_at + 30:
            told_at = time.monotonic()
            print(f"  on its way: {left}", flush=True)
        await asyncio.sleep(LOOK_S)


@contextlib.asynccontextmanager
async def buyers(company: Company, bought: list[tuple[Shop, str]], draw: random.Random) -> AsyncIterator[None]:
    """Buyers at both shops, none waiting for another, for as long as the block runs; what they bought is appended."""
    skus = list(company.plan.opening)

    async def buy() -> None:
        shop = draw.choice(company.shops)
        bought.append((shop, await shop.buy({draw.choice(skus): 1})))

    async def come(group: asyncio.TaskGroup) -> None:
        while True:
            group.create_task(buy())
            await asyncio.sleep(1 / BUYERS_PER_S)

    async with asyncio.TaskGroup() as group:
        coming = group.create_task(come(group))
        yield
        coming.cancel()


async def agree(company: Company, bench: Bench, orders: int) -> None:
    """Return when every order is there and every shop shows what inventory has. Raises `TimeoutError` with what lacks.

    The orders from Kafka are told by their connection, which is none of the company's.
    """
    dsns = company.system.endpoints.verify_dsns
    ours = [shop.connection_id for shop in company.shops]
    ids = [company.order_id(shop, order) for shop, order in bench.bought]
    deadline = time.monotonic() + PATIENCE_S
    while True:
        await at_rest(company.system.endpoints, PATIENCE_S)
        ((kept,),) = await asked(dsns["orders"], "SELECT count(*) FROM orders WHERE connection_id <> ALL($1)", ours)
        ((heard,),) = await asked(dsns["orders"], "SELECT count(*) FROM orders WHERE order_id = ANY($1)", ids)
        levels = await asked(dsns["inventory"], "SELECT sku, sum(available)::int FROM stock GROUP BY sku")
        shown = [await shop.sandbox.numbers(shop.name) for shop in company.shops]
        wrong = sum(numbers.get(sku) != available for numbers in shown for sku, available in levels)
        if (kept, heard, wrong) == (orders, len(ids), 0):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{kept} of {orders} orders, {heard} of {len(ids)} of the shops, {wrong} numbers wrong")


def lose(folder: Path) -> None:
    """Delete what lay on the machine. The shops are outside, and the ports are their way to it."""
    Postgres(folder / "postgres", 0, "").wipe()
    for name in LOST:
        place = folder / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()


async def run(bench: Bench, copy: Path, orders: int, seed: int) -> dict[str, Any]:
    """Everything, once."""
    draw, system = random.Random(seed), stack.Stack(bench.folder, sandboxes=tuple(SHOPS))
    running = await asyncio.to_thread(stack.start_attached, system)
    try:
        async with open_company(bench.folder, running.endpoints, many_products(), SHOPS, **SHOP_SETTINGS) as company:
            endpoints = company.system.endpoints
            with bench.timed("orders"):
                await load(endpoints, orders, list(company.plan.opening), draw)
            async with buyers(company, bench.bought, draw):
                with bench.timed("backup"):
                    await asyncio.to_thread(bench.saldo, "backup", str(copy))
                at_backup = len(bench.bought)
                await asyncio.sleep(LATER_S)
            await asyncio.to_thread(running.stop)
            lose(bench.folder)
            with bench.timed("restore"):
                sent = (await asyncio.to_thread(bench.saldo, "restore", str(copy)))["sent_again"]
            with bench.timed("start"):
                running = await asyncio.to_thread(stack.start_attached, system)
            with bench.timed("re-synchronisation"):
                await agree(company, bench, orders)
            with bench.timed("verify"):
                verified = await asyncio.to_thread(bench.saldo, "verify", "--all-tenants", codes=(0, 1))
    finally:
        await asyncio.to_thread(running.stop)
    return {
        "orders": orders,
        "sold_by_shops": {"until_backup": at_backup, "after": len(bench.bought) - at_backup},
        "backup_mb": round(sum(file.stat().st_size for file in copy.rglob("*") if file.is_file()) / 1e6, 1),
        "sent_again": sent,
        "took_s": bench.took_s,
        "judged_s": round(sum(bench.took_s[step] for step in JUDGED), 1),
        "verified": verified,
    }


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="saldo bench restore", description=__doc__)
    parser.add_argument("--orders", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="saldo-bench-restore-"))
    base.chmod(0o711)  # As root, PostgreSQL runs as another user and has to reach its data.
    bench = Bench(base / "instance")
    try:
        report = asyncio.run(run(bench, base / "copy", given.orders, given.seed))
    except (TimeoutError, RuntimeError) as failure:
        print(f"{failure}; until then: {bench.took_s}")
        return 1
    finally:
        Postgres(base / "instance" / "postgres", 0, "").wipe()
        shutil.rmtree(base, ignore_errors=True)
    write_report("restore", report)
    return tell(report)


def tell(report: Mapping[str, Any]) -> int:
    """Print a report; the exit code."""
    for step, seconds in report["took_s"].items():
        print(f"{step:<20}{seconds:>8.1f} s{'' if step in JUDGED else '   not judged'}")
    print(f"{'together':<20}{report['judged_s']:>8.1f} s, at most {LIMIT_S:g}")
    sold, sent = report["sold_by_shops"], sum(report["sent_again"].values())
    print(
        f"{report['orders']:,} orders, {sold['until_backup']} of the shops until the backup and {sold['after']} "
        f"after it, all there; backup {report['backup_mb']:,.0f} MB; {sent:,} messages sent again"
    )
    wrong = [one for one in report["verified"]["checks"] if one["contradictions"]]
    print(f"verify: {len(report['verified']['checks']) - len(wrong)} of {len(report['verified']['checks'])} hold")
    return 0 if report["verified"]["conserved"] and report["judged_s"] <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())

"""Soak bench: what grows while Saldo sells for long, with autovacuum, retention and pruning at work.

Four shops, one of each marketplace, every limit off, buyers in an open loop at half the knee. Three things have to stay
flat, of each service where they are a service's: the time in which the relay finds the oldest rows of its outbox, the
memory (resident, from /proc), and p99 from a sale to the numbers of the other three shops by the sandboxes' own books.
Each is read every second, or from every sale, and put together for each third of the run; the last may be 1.2 times the
second. No more is allowed for noise than that. What the noise was is told beside it: how far the halves of the second
third, which should be equal, are apart. At the end books, levels, numbers and the databases have to agree.

What is forgotten after weeks is forgotten here after a minute (`FORGETTING`), as settings say, every few seconds:
absorbed bodies and measures of propagation. Inbox and sent copies go by whole days, so a day that is over is made from
today's rows every `DAY_EVERY_S`, and the service's own housekeeping, every 30 s instead of every hour, finds and drops
it beside the traffic. Not pruned in so short a run: Kafka's logs, stories of closed orders, own sales (60 days).

Run by `saldo bench soak`. Writes `var/bench/soak.json`. Exit code 1 where something is not flat or the books do not
agree, 2 where autovacuum or pruning did nothing: then the run says nothing.
"""

import argparse
import asyncio
import contextlib
import functools
import itertools
import random
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx

from services.console.demo.propagation import percentile
from services.console.demo.verdict import judge
from services.console.verification import verify
from tests.bench.propagation import read
from tests.bench.stage import (
    SERVICES,
    STOCK_ALONE,
    many_products,
    open_company,
    running,
    sell,
    warm_up,
    write_report,
)
from tests.flow.company import Company, System

FOUR: Final = {"mercadolivre": 1, "vtex": 1, "shopify": 1, "skyhub": 1}
GROWTH_MAX: Final = 1.2
THIRDS: Final = ("first", "second", "last")
SAMPLE_S: Final = 1.0
DAY_EVERY_S: Final = 60.0
DAY_ROWS: Final = 20_000
"""At most so many of today's rows make up a day that is over."""
A_MINUTE_DAYS: Final = str(60 / 86_400)
FORGETTING: Final = {
    "SALDO_KEEP_DAYS_EVERY_S": "30",
    "SALDO_INTAKE_KEEP_DAYS": A_MINUTE_DAYS,
    "SALDO_STOCK_MEASURES_KEEP_DAYS": A_MINUTE_DAYS,
    "SALDO_STOCK_PRUNE_EVERY_S": "10",
}
BY_DAYS: Final = ("inbox", "outbox_sent")
PRUNED_ROWS: Final = (("channels", "intake"), ("channels", "propagation"))
CLAIM: Final = "saldo_outbox_claim_seconds"

_OLD_DAY: Final = """
SELECT to_date(min(right(c.relname, 8)), 'YYYYMMDD') - 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = $1::regclass
"""
_FILL: Final = {
    "inbox": "INSERT INTO inbox SELECT $1, consumer, source, id FROM inbox WHERE day = current_date LIMIT $2",
    "outbox_sent": "INSERT INTO outbox_sent SELECT seq, topic, slot, count, records, created_at, $1, sent_at"
    " FROM outbox_sent WHERE day = current_date LIMIT $2",
}
_TABLES: Final = """
SELECT regexp_replace(relname, '_[0-9]{8}$', '') AS table, sum(pg_total_relation_size(relid))::bigint AS bytes,
       sum(n_live_tup)::bigint AS live, sum(n_dead_tup)::bigint AS dead, sum(n_tup_del)::bigint AS deleted,
       sum(autovacuum_count)::bigint AS vacuums
FROM pg_stat_user_tables GROUP BY 1 ORDER BY 2 DESC
"""

Table = Mapping[str, int]
Window = tuple[float, float]
"""Begin and end, milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a service: how many claims it made so far, the seconds they took together, and its memory in MB."""

    at_ms: float
    claims: float
    claims_s: float
    memory_mb: float


@dataclass
class Watch:
    """What is read while buyers come: `tables` at the beginning and at the end of each third, by service."""

    samples: dict[str, list[Sample]] = field(default_factory=lambda: {name: [] for name in SERVICES})
    tables: list[dict[str, dict[str, Table]]] = field(default_factory=list)
    days: list[tuple[str, str]] = field(default_factory=list)
    """Service and partition of each day that was over; one that was dropped may be made again."""


def cut(begun: float, ended: float, parts: int) -> list[Window]:
    """A span of time in equal parts."""
    length = (ended - begun) / parts
    return [(begun + length * number, begun + length * (number + 1)) for number in range(parts)]


def figures(samples: Sequence[Sample], window: Window) -> dict[str, float]:
    """Of a service in a window: a claim in ms, over all of them and by seconds (p50, p99), and the memory in MB.

    Raises `ValueError` where the window holds fewer than two samples or no claim.
    """
    inside = [sample for sample in samples if window[0] <= sample.at_ms <= window[1]]
    seconds = [
        (after.claims_s - before.claims_s) / (after.claims - before.claims) * 1000
        for before, after in itertools.pairwise(inside)
        if after.claims > before.claims
    ]
    if not seconds:
        raise ValueError("a service could not be read, or claimed nothing: see its log")
    claims = inside[-1].claims - inside[0].claims
    return {
        "claim_ms": round((inside[-1].claims_s - inside[0].claims_s) / claims * 1000, 3),
        "claim_p50_ms": round(percentile(seconds, 0.5) or 0, 3),
        "claim_p99_ms": round(percentile(seconds, 0.99) or 0, 3),
        "memory_mb": round(statistics.median(sample.memory_mb for sample in inside), 1),
        "memory_max_mb": round(max(sample.memory_mb for sample in inside), 1),
    }


@dataclass(frozen=True, slots=True)
class Flatness:
    """One measure: its value in each third, and in the halves of the second one."""

    name: str
    thirds: tuple[float, float, float]
    halves: tuple[float, float]

    @property
    def growth(self) -> float:
        """From the second third to the last."""
        return round(self.thirds[2] / self.thirds[1], 3)

    @property
    def noise(self) -> float:
        """How many times the smaller half of the second third fits into the other."""
        return round(max(self.halves) / min(self.halves), 3)

    @property
    def is_flat(self) -> bool:
        """Whether the last third is as it may be."""
        return self.growth <= GROWTH_MAX


def flatness(name: str, measure: Callable[[Window], float], begun: float, ended: float) -> Flatness:
    """A measure over the windows of a run."""
    thirds = cut(begun, ended, 3)
    first, second, last = map(measure, thirds)
    half, other = map(measure, cut(*thirds[1], 2))
    return Flatness(name, (first, second, last), (half, other))


@contextlib.asynccontextmanager
async def at_work(*deeds: Any) -> AsyncIterator[None]:
    """These coroutines beside the block; what fails in one of them fails the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(deed) for deed in deeds]
        yield
        for task in tasks:
            task.cancel()


async def sample(system: System, watch: Watch) -> None:
    """Look at every service every second, until cancelled; one that does not answer is left out once."""
    pids = {name: system.process(name)["pid"] for name in SERVICES}
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        due = time.monotonic()
        while True:
            for name in SERVICES:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await client.get(f"{system.endpoints.admin[name].base_url}/metrics")
                    watch.samples[name].append(read_sample(answer.text, memory_mb(pids[name])))
            due += SAMPLE_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))


def read_sample(metrics: str, memory: float) -> Sample:
    """A sample of now, from metrics as they are printed."""
    told = {what: float(value) for what, value in re.findall(rf"^{CLAIM}_(count|sum) (\S+)$", metrics, re.MULTILINE)}
    return Sample(time.time() * 1000, told["count"], told["sum"], memory)


def memory_mb(pid: int) -> float:
    """What a process has in memory, as Linux tells it."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


async def end_days(dsns: Mapping[str, str], watch: Watch) -> None:
    """Make a day that is over in every table that is kept by days, again and again, until cancelled."""
    while True:
        for service in SERVICES:
            connection = await asyncpg.connect(dsns[service])
            try:
                for table in BY_DAYS:
                    async with connection.transaction():
                        day = await connection.fetchval(_OLD_DAY, table)
                        await connection.execute("SELECT keep_days($1, $2, $2)", table, day)
                        await connection.execute(_FILL[table], day, DAY_ROWS)
                    watch.days.append((service, f"{table}_{day:%Y%m%d}"))
            finally:
                await connection.close()
        await asyncio.sleep(DAY_EVERY_S)


async def tables_of(dsns: Mapping[str, str]) -> dict[str, dict[str, Table]]:
    """Sizes, rows, dead rows, rows deleted and autovacuums so far of every table, by service; days are one table."""
    found = {}
    for service in SERVICES:
        connection = await asyncpg.connect(dsns[service])
        try:
            rows = [dict(row) for row in await connection.fetch(_TABLES)]
        finally:
            await connection.close()
        found[service] = {row.pop("table"): row for row in rows}
    return found


async def days_left(dsns: Mapping[str, str], days: Sequence[tuple[str, str]]) -> int:
    """How many of these days are still there."""
    left = 0
    for service in SERVICES:
        connection = await asyncpg.connect(dsns[service])
        try:
            names = [name for of, name in days if of == service]
            left += await connection.fetchval("SELECT count(*) FROM pg_class WHERE relname = ANY($1)", names)
        finally:
            await connection.close()
    return left


async def keep_tables(dsns: Mapping[str, str], watch: Watch, seconds: float) -> None:
    """Read the tables now and at the end of each third."""
    watch.tables.append(await tables_of(dsns))
    for _ in THIRDS:
        await asyncio.sleep(seconds / 3)
        watch.tables.append(await tables_of(dsns))


async def run(folder: Path, endpoints: dict[str, Any], rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Open the shops, let buyers come, wait for the last number, and put everything together."""
    draw, watch = random.Random(seed), Watch()
    async with open_company(folder, endpoints, many_products(), FOUR) as company:
        dsns = company.system.endpoints.dsns
        await warm_up(company, draw)
        print(f"{rate:g} orders/s for {seconds:g} s …", flush=True)
        reading = asyncio.create_task(keep_tables(dsns, watch, seconds))
        async with at_work(sample(company.system, watch), end_days(dsns, watch)):
            begun_ms, ended_ms = await sell(company, rate, seconds, draw)
        await reading
        print("sold, waiting for the last number", flush=True)
        return await compose(company, watch, begun_ms, ended_ms) | {"rate_per_s": rate}


async def compose(company: Company, watch: Watch, begun_ms: float, ended_ms: float) -> dict[str, Any]:
    """The report of a run."""
    evidence = await company.evidence(timeout_s=120)
    endpoints = company.system.endpoints
    checks = await verify({name: endpoints.verify_dsns[name] for name in SERVICES}, company.tenant)

    @functools.cache
    def spread(window: Window) -> dict[str, Any]:
        of_window = read(evidence, company.shops, 0, int(window[0]), int(window[1])).figures
        return {name: of_window[name] for name in ("sold", "late", "count", "p50", "p95", "p99", "max")}

    def of(service: str, what: str) -> Callable[[Window], float]:
        return lambda window: figures(watch.samples[service], window)[what]

    measures = {"p99 of propagation, ms": lambda window: float(spread(window)["p99"])}
    measures |= {f"claim of {name}, ms": of(name, "claim_ms") for name in SERVICES}
    measures |= {f"memory of {name}, MB": of(name, "memory_mb") for name in SERVICES}
    thirds = cut(begun_ms, ended_ms, 3)
    flat = [flatness(name, measure, begun_ms, ended_ms) for name, measure in measures.items()]
    wrong = [f"{one.check.what}: {one.contradictions[0]}" for one in checks if one.contradictions]
    return {
        "connections": len(company.shops),
        "seconds": round((ended_ms - begun_ms) / 1000, 1),
        "forgetting": FORGETTING,
        "flatness": [
            {"what": one.name, "thirds": one.thirds, "growth": one.growth, "noise": one.noise, "flat": one.is_flat}
            for one in flat
        ],
        "thirds": [
            {
                "propagation_ms": spread(window),
                "services": {name: figures(watch.samples[name], window) for name in SERVICES},
                "tables": tables,
            }
            for window, tables in zip(thirds, watch.tables[1:], strict=True)
        ],
        "at_work": worked(watch.tables[0], watch.tables[-1])
        | {"days_over": len(watch.days), "days_dropped": len(watch.days) - await days_left(endpoints.dsns, watch.days)},
        "books": [*judge(evidence, timed=False).failures, *wrong],
    }


def worked(before: Mapping[str, Mapping[str, Table]], after: Mapping[str, Mapping[str, Table]]) -> dict[str, Any]:
    """Rows deleted from what is pruned by rows, and autovacuums by service, between two readings of the tables."""
    return {
        "rows_pruned": {
            table: after[service][table]["deleted"] - before[service][table]["deleted"]
            for service, table in PRUNED_ROWS
        },
        "autovacuums": {
            service: sum(table["vacuums"] for table in after[service].values())
            - sum(table["vacuums"] for table in before[service].values())
            for service in after
        },
    }


def idle(at_work: Mapping[str, Any]) -> list[str]:
    """What should have been at work and was not."""
    return [
        *(f"nothing of {table} was pruned" for table, rows in at_work["rows_pruned"].items() if not rows),
        *(["no day that was over was dropped"] if not at_work["days_dropped"] else []),
        *(["nothing was vacuumed"] if not any(at_work["autovacuums"].values()) else []),
    ]


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="saldo bench soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=10.0, help="Orders a second: half the knee.")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with running("soak", **STOCK_ALONE, environment=FORGETTING) as (folder, endpoints):
        report = asyncio.run(run(folder, endpoints, given.rate, given.minutes * 60, given.seed))
    write_report("soak", report)
    return tell(report)


def tell(report: Mapping[str, Any]) -> int:
    """Print a report; the exit code."""
    print(f"{'':<28}{'first':>9}{'second':>9}{'last':>9}{'growth':>9}{'noise':>9}")
    for one in report["flatness"]:
        values = "".join(f"{value:>9.2f}" for value in (*one["thirds"], one["growth"], one["noise"]))
        print(f"{one['what']:<28}{values}{'' if one['flat'] else f'   more than {GROWTH_MAX}'}")
    print(f"\n{'table, end of each third':<28}{'MB':>27}{'dead rows':>27}{'vacuums':>9}")
    for service in SERVICES:
        of_thirds = [third["tables"][service] for third in report["thirds"]]
        for table in list(of_thirds[-1])[:6]:
            rows = [tables[table] for tables in of_thirds]
            sizes = "".join(f"{row['bytes'] / 1e6:>9.1f}" for row in rows)
            dead = "".join(f"{row['dead']:>9}" for row in rows)
            print(f"{service + ' ' + table:<28}{sizes}{dead}{rows[-1]['vacuums']:>9}")
    at_work = report["at_work"]
    print(
        f"\npruned: {at_work['rows_pruned']}, {at_work['days_dropped']} of {at_work['days_over']} days that were over"
    )
    print(f"autovacuums: {at_work['autovacuums']}")
    for failure in report["books"]:
        print(f"books: {failure}")
    if nothing := idle(at_work):
        print(f"void: {'; '.join(nothing)}")
        return 2
    return 0 if not report["books"] and all(one["flat"] for one in report["flatness"]) else 1


if __name__ == "__main__":
    sys.exit(main())

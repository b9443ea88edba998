"""Fan-out bench: ten thousand sales of one product within ten seconds, and ten shops that have to follow.

The sales are put on Kafka as channels reports them, a thousand a second, as of a shop that stands beside the ten (its
connection is unknown, so that its own numbers are nobody's business). The first number leaves at once; after that a
listing is written once in 200 ms at most, with what is newest by then: some 51 writes a shop, whatever is sold. Counted
are the sandboxes' own books.

Run by `saldo bench fanout`. Writes `var/bench/fanout.json`. Exit code 1 where a shop does not show what is left, or
more than 520 writes were needed.
"""

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from uuid_utils import uuid7

from services.console.demo.collector import BookReader
from services.console.demo.evidence import Heard
from tests.bench.pipeline import put, sale
from tests.bench.stage import STOCK_ALONE, open_company, running, write_report
from tests.flow.company import plan

SKU, UNITS = "P", 1_000_000
WRITES_MAX = 520
TICK_S = 0.05


async def sell(bootstrap: str, sales: int, seconds: float) -> float:
    """Put the sales on Kafka evenly; returns the moment of the first, milliseconds."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5)
    await producer.start()
    try:
        begun, begun_ms, sent = time.perf_counter(), time.time() * 1000, 0
        while sent < sales:
            due = min(sales, int((time.perf_counter() - begun + TICK_S) / seconds * sales))
            for _ in range(due - sent):
                await put(producer, sale(str(uuid7()), [SKU], datetime.now(UTC)))
            sent = due
            await asyncio.sleep(TICK_S)
        await producer.flush()
        return begun_ms
    finally:
        await producer.stop()


async def run(folder: Path, endpoints: dict[str, Any], sales: int, seconds: float) -> dict[str, Any]:
    """Open the shops, sell, wait until every shop shows what is left, and read their books."""
    async with open_company(folder, endpoints, plan(**{SKU: UNITS})) as company:
        begun_ms = await sell(company.system.endpoints.kafka, sales, seconds)
        await company.until_shown({SKU: UNITS - sales})
        reader = BookReader(company.sandboxes)
        await reader.read()
        books = reader.evidence(company.plan, [shop.channel for shop in company.shops], Heard()).books
        writes = {
            shop.channel.name: [one.at_ms for one in books[shop.connection_id].written if one.at_ms >= begun_ms]
            for shop in company.shops
        }
    return {
        "sales": sales,
        "seconds": seconds,
        "writes": {name: len(moments) for name, moments in writes.items()},
        "first_ms": {name: round(min(moments) - begun_ms) for name, moments in writes.items()},
        "last_ms": {name: round(max(moments) - begun_ms) for name, moments in writes.items()},
        "writes_in_all": sum(map(len, writes.values())),
    }


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="saldo bench fanout", description=__doc__)
    parser.add_argument("--sales", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    with running("fanout", **STOCK_ALONE) as (folder, endpoints):
        report = asyncio.run(run(folder, endpoints, given.sales, given.seconds))
    write_report("fanout", report)
    for name, writes in report["writes"].items():
        print(f"{name:<28}{writes:>5} writes, {report['first_ms'][name]:>6} to {report['last_ms'][name]:>6} ms")
    print(f"{report['writes_in_all']} writes in all, at most {WRITES_MAX}; every shop shows what is left")
    return 0 if report["writes_in_all"] <= WRITES_MAX else 1


if __name__ == "__main__":
    sys.exit(main())

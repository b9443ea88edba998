"""Label bench: from a paid sale to the label of its last parcel, at a steady rate, on the whole stack of processes.

Buyers come in an open loop to shops whose limits are off; every order is paid, reserved, invoiced, packed and labelled
by the services as the demo's people have it done, at once and with its automatic invoice file. All services run, each
shop hears every number, and parcels travel to their doors. Which shops is an argument: each further one has to be told
of every sale, which costs more than the order's own way. The demo, with seven connections and the own shop's buyers,
gives the same figure for all of it (`sale_to_label_ms` in its report).

Run by `saldo bench label`. Writes `var/bench/label.json`. Exit code 1 where p95 is above 5 s, an order has no label at
the end, or the verdict on the orders' way fails.
"""

import argparse
import asyncio
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.console.demo.propagation import summary
from services.console.demo.run import ENVIRONMENT
from tests.bench.stage import WARM_RATE, WARM_S, many_products, open_company, running, sell, warm_up, write_report
from tests.flow.retailer import at_work

P95_MS = 5_000.0


async def run(
    folder: Path, endpoints: dict[str, Any], shops: Mapping[str, int], rate: float, seconds: float
) -> dict[str, Any]:
    """Sell at the rate and wait for every parcel; returns the figures of what was sold after warming up."""
    draw = random.Random(1)
    async with open_company(folder, endpoints, many_products(), shops) as company, at_work(company) as retailer:
        await warm_up(company, draw)
        begun_ms, ended_ms = await sell(company, rate, seconds, draw)
        orders = int(WARM_RATE * WARM_S) + int(rate * seconds)
        await retailer.until_over(orders)
        path, wrong = await retailer.verdicts()
        journeys = [one for one in retailer.collector.journeys.by_order.values() if one.placed]
        sold = [one for one in journeys if begun_ms <= one.placed.sold_at.timestamp() * 1000 <= ended_ms]
        labels_ms = [took for one in sold if (took := one.sale_to_label_ms(0)) is not None]
    return {
        "shops": dict(shops),
        "rate_per_s": rate,
        "sold": len(sold),
        "sold_per_s": round(len(sold) / ((ended_ms - begun_ms) / 1000), 1),
        "without_label": len(sold) - len(labels_ms),
        "sale_to_label_ms": summary(sorted(labels_ms)),
        "failures": [*path.failures, *wrong],
    }


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="saldo bench label", description="From a paid sale to its label.")
    parser.add_argument("--rate", type=float, default=20.0, help="Orders a second.")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--shops", nargs="+", default=["shopify=2"], help="How many of which marketplace.")
    given = parser.parse_args()
    shops = {name: int(number) for name, _, number in (text.partition("=") for text in given.shops)}
    with running("label", environment=ENVIRONMENT) as (folder, endpoints):
        report = asyncio.run(run(folder, endpoints, shops, given.rate, given.seconds))
    write_report("label", report)
    took = report["sale_to_label_ms"]
    print(f"{report['sold']} orders at {report['sold_per_s']}/s, {report['without_label']} without a label")
    told = ", ".join(f"{name} {took[name] or 0:.0f} ms" for name in ("p50", "p95", "p99", "max"))
    print(f"from paid sale to label: {told}")
    for failure in report["failures"]:
        print(failure)
    good = not report["failures"] and not report["without_label"] and (took["p95"] or P95_MS + 1) <= P95_MS
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

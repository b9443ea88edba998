"""Propagation bench: from a sale at one of ten shops to the numbers of the other nine, and the floor of the same run.

Four shops of Mercado Livre, two of VTEX, two of Shopify, two of SkyHub, with every limit off: what is measured is ours.
Buyers come in an open loop at each of the given rates, one line of one unit, drawn over all shops and products. Both
ends are the sandboxes' own books, in milliseconds: the sale, and the first number at each other shop that covers it.
The floor (`bare_path`) makes the same hops and commits in the same order with nothing between, on the same servers'
programs, just before.

A rate is carried where every sale reached every shop by ten seconds after the last one and p99 is below a second; the
knee is the highest one carried with all below it, and nothing is claimed beyond.

Run by `saldo bench propagation`. Writes `var/bench/propagation.json`.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.servers import Servers
from services.console.demo.acceptance import Truth, match
from services.console.demo.accounts import settle
from services.console.demo.evidence import Evidence
from services.console.demo.propagation import percentile, reached_at_ms, reaches, summary
from tests.bench import bare_path
from tests.bench.stage import (
    SHOPS,
    STOCK_ALONE,
    many_products,
    open_company,
    running,
    sell,
    warm_up,
    write_report,
)
from tests.flow.company import Shop

SETTLE_S = 10.0
CARRIED_P99_MS = 1_000
FLOOR_RATE = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """One rate: what was asked, what was sold, and the milliseconds from each sale to each other shop, by marketplace.

    `late` is how many of them had not reached their shop `SETTLE_S` after the last sale.
    """

    rate: float
    sold: int
    seconds: float
    late: int
    from_sale_ms: Mapping[str, Sequence[float]]

    @property
    def figures(self) -> dict[str, Any]:
        """Summaries over all shops and by marketplace."""
        values = sorted(value for of in self.from_sale_ms.values() for value in of)
        whole = summary(values)
        return {
            "rate_per_s": self.rate,
            "sold": self.sold,
            "sold_per_s": round(self.sold / self.seconds, 1),
            "late": self.late,
            **whole,
            "carried": not self.late and (whole["p99"] or 0) < CARRIED_P99_MS,
            "percentiles_ms": [percentile(values, share / 100) for share in range(1, 101)],
            "by_marketplace": {name: summary(values) for name, values in self.from_sale_ms.items()},
        }


def read(evidence: Evidence, shops: Sequence[Shop], rate: float, begun_ms: int, ended_ms: int) -> Load:
    """What became of the sales between two moments."""
    marketplaces = {shop.connection_id: shop.marketplace for shop in shops}
    found: dict[str, list[float]] = {marketplace: [] for marketplace in SHOPS}
    late, sold = 0, set()
    acceptances, truth = match(evidence), Truth(evidence)
    for (order_id, connection_id), reach in reaches(evidence, settle(evidence)).items():
        if begun_ms <= reach.sold_at_ms <= ended_ms:
            sold.add(order_id)
            at_ms = reached_at_ms(connection_id, reach, acceptances, truth)
            if reach.targets and at_ms is not None:
                found[marketplaces[connection_id]].append(at_ms - reach.sold_at_ms)
                late += at_ms > ended_ms + SETTLE_S * 1000
    return Load(rate, len(sold), (ended_ms - begun_ms) / 1000, late, found)


async def run(folder: Path, endpoints: dict[str, Any], rates: Sequence[float], seconds: float, seed: int) -> list[Load]:
    """Set up the ten shops and let buyers come at each rate."""
    draw = random.Random(seed)
    async with open_company(folder, endpoints, many_products()) as company:
        await warm_up(company, draw)
        windows = []
        for rate in rates:
            windows.append((rate, *await sell(company, rate, seconds, draw)))
            print(f"{rate:g} orders/s for {seconds:g} s: sold, waiting for the last number", flush=True)
            await asyncio.sleep(SETTLE_S)
        evidence = await company.evidence(timeout_s=60)
        return [read(evidence, company.shops, *window) for window in windows]


def floor(seconds: float) -> dict[str, float | int | None]:
    """The floor at its rate, on servers of its own that stop again."""
    folder = Path(tempfile.mkdtemp(prefix="saldo-bench-floor-"))
    folder.chmod(0o711)  # As root, PostgreSQL runs as another user and has to reach its data.
    servers = Servers(folder)
    try:
        with servers:
            measured = bare_path.measure(servers.kafka_bootstrap, servers.postgres_admin_dsn, FLOOR_RATE, seconds)
            return summary(asyncio.run(measured))
    finally:
        servers.remove()


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description="From a sale to nine other shops.")
    parser.add_argument("--rates", type=float, nargs="+", default=[5.0, 10.0, 20.0, 50.0])
    parser.add_argument("--seconds", type=float, default=30.0, help="Of buyers at each rate.")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(f"the floor at {FLOOR_RATE:g} orders/s …", flush=True)
    bare = floor(given.seconds)
    print("opening ten shops …", flush=True)
    with running("propagation", **STOCK_ALONE) as (folder, endpoints):
        loads = asyncio.run(run(folder, endpoints, given.rates, given.seconds, given.seed))
    told = [load.figures for load in loads]
    carried = [all(one["carried"] for one in told[: place + 1]) for place in range(len(told))]
    knee = max((load.rate for load, good in zip(loads, carried, strict=True) if good), default=None)
    at_floor = next((one for one in told if one["rate_per_s"] == FLOOR_RATE), None)
    ratio = round(at_floor["p50"] / bare["p50"], 2) if at_floor and at_floor["p50"] and bare["p50"] else None
    report = {"floor": {"rate_per_s": FLOOR_RATE, **bare}, "p50_ratio": ratio, "knee_per_s": knee, "loads": told}
    write_report("propagation", report)
    print(f"{'orders/s':>10}{'sold/s':>8}{'measured':>10}{'p50':>8}{'p95':>8}{'p99':>8}{'max ms':>8}{'late':>7}")
    print(f"{'floor':>10}{FLOOR_RATE:>8g}" + _row(bare))
    for one in told:
        print(f"{one['rate_per_s']:>10g}{one['sold_per_s']:>8g}" + _row(one) + f"{one['late']:>7}")
        for name, figures in one["by_marketplace"].items():
            print(f"{name:>18}" + _row(figures))
    print(f"p50 at {FLOOR_RATE:g}/s: {ratio} × the floor; knee: {knee} orders/s")
    return 0 if knee is not None else 1


def _row(figures: Mapping[str, Any]) -> str:
    return f"{figures['count']:>10}" + "".join(f"{figures[name] or 0:>8.0f}" for name in ("p50", "p95", "p99", "max"))


if __name__ == "__main__":
    sys.exit(main())

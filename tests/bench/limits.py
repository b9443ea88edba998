"""Limits bench: the ten shops of the propagation bench with the documented limits on, the shops' and ours.

Two questions, each on a stack of its own; both ends are the sandboxes' own books.

*Staleness*: buyers come faster than Mercado Livre and VTEX take numbers. From each sale to the first number at each
other shop that covers it, beside an ideal sender (`ideal_delays_ms`) that replays the same sales through the limiter
that we keep: it knows of a sale at once, its calls take no time, it always sends the newest numbers, what has waited
longest first. Where even its p99 stays below half a second the limit binds nobody, and our own milliseconds are all
there is to say. Printed beside it is the ideal sender at the shop's own limit, of which ours stays a tenth below.

*Urgency*: a sale of many products at once leaves `--waiting` ordinary numbers to be written at those channels. Behind
them products of which five are left are sold until none is, at somewhat less than half of what the slowest channel
takes: their numbers have to overtake all others.

The limits are turned on once the shops show what is there, or opening them would take an hour.

Run by `saldo bench limits`. Writes `var/bench/limits.json`. Exit code 1 where a target is missed.
"""

import argparse
import asyncio
import math
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from uuid_utils import uuid7

from services.channels.connectors import CONNECTORS
from services.console.demo.acceptance import Truth, match
from services.console.demo.accounts import settle
from services.console.demo.collector import BookReader
from services.console.demo.evidence import Evidence, Heard, SendLimits
from services.console.demo.markets import MARKETS
from services.console.demo.propagation import (
    LIMIT_BOUND_P99_MS,
    ideal_delays_ms,
    percentile,
    reached_at_ms,
    reaches,
    summary,
)
from services.sandbox.settings import ShopLimits
from tests.bench.pipeline import put, sale
from tests.bench.stage import SHOPS, STOCK_ALONE, UNITS, open_company, running, sell, warm_up, write_report
from tests.flow.company import Company, Shop, plan, until

RATIO_MAX: Final = 1.3
URGENT_MS: Final = 2_000.0
URGENT_CALLS: Final = 3
"""An urgent number is there within two seconds, or within the time of three calls where the channel takes fewer."""
SCARCE: Final = 5
SLOW: Final = ("mercadolivre", "vtex")
"""They take a number a call, the others hundreds: only there does anything wait."""
LINES: Final = 20
AHEAD_S: Final = 60.0
"""So long it takes from the sale of many products until buyers of the scarce ones come."""
OPENING_S: Final = 900.0
"""Patience with shops of many thousand products."""
SETTLE_S: Final = 10.0

_WRITES: Final = {
    "mercadolivre": ("stock", 1),
    "vtex": ("stock", 1),
    "shopify": ("graphql", 10),
    "skyhub": ("store_batch", 1),
}
"""Of each connector the endpoint of its stock writes, and what one call costs there. Mercado Livre's is written on the
version of the last write; the two calls more after a sale of its own, which moved that version, are ours to pay."""


def documented(marketplace: str) -> SendLimits:
    """What the marketplace takes."""
    return MARKETS[marketplace].send_limits(ShopLimits().model_dump())


def kept(marketplace: str) -> SendLimits:
    """What our connector asks of it."""
    endpoint, cost = _WRITES[marketplace]
    limit = CONNECTORS[marketplace].traits.limits[endpoint]
    return SendLimits(limit.rate_per_s / cost, limit.burst / cost, documented(marketplace).max_batch)


async def limits_on(company: Company) -> None:
    """The documented limits at every shop, and the connectors' own for every connection."""
    for shop in company.shops:
        told = await shop.sandbox.put_shop(shop.name, limits=ShopLimits().model_dump())
        settings = MARKETS[shop.marketplace].settings(shop.told)
        await company.post(
            "channels",
            "connections",
            {
                "connector": shop.marketplace,
                "environment": "sandbox",
                "account": shop.name,
                "base_url": told["base_url"],
                "credentials": shop.told["credentials"],
                "settings": {name: text for name, text in settings.items() if not name.startswith("limit.")},
            },
        )
    # Connections are looked at once a second.
    await asyncio.sleep(3)


# -- staleness ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Staleness:
    """Of one connection, milliseconds from each sale elsewhere to the number that covers it: ours, those of an ideal
    sender at our own limit, and of one at the channel's.
    """

    marketplace: str
    ours: Sequence[float]
    ideal: Sequence[float]
    at_documented: Sequence[float]

    @property
    def bound(self) -> bool:
        """Whether the limit alone makes the channel slow."""
        return (percentile(self.ideal, 0.99) or 0) > LIMIT_BOUND_P99_MS

    @property
    def ratios(self) -> dict[str, float]:
        """Ours ÷ ideal, for each figure; empty where the limit does not bind."""
        ours, ideal = figures(self.ours), figures(self.ideal)
        return {name: round(ours[name] / ideal[name], 3) for name in ideal} if self.bound else {}

    @property
    def told(self) -> dict[str, Any]:
        """For the report."""
        return {
            "marketplace": self.marketplace,
            "ours_ms": figures(self.ours),
            "ideal_ms": figures(self.ideal),
            "ideal_at_documented_ms": figures(self.at_documented),
            "limit_bound": self.bound,
            "ratios": self.ratios,
        }


def figures(values: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles, 0 of nothing."""
    mean = sum(values) / len(values) if values else 0.0
    shares = {name: percentile(values, share) or 0.0 for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    return {"mean": round(mean, 1)} | {name: round(value, 1) for name, value in shares.items()}


def staleness(evidence: Evidence, begun_ms: int) -> dict[str, Staleness]:
    """By the connection's name, over the sales from a moment on that change anything there."""
    acceptances, truth = match(evidence), Truth(evidence)
    ours: dict[str, list[float]] = {channel.connection_id: [] for channel in evidence.channels}
    trace: dict[str, list[tuple[int, str]]] = {channel.connection_id: [] for channel in evidence.channels}
    for (_, connection_id), reach in reaches(evidence, settle(evidence)).items():
        if reach.sold_at_ms < begun_ms or not reach.targets:
            continue
        at_ms = reached_at_ms(connection_id, reach, acceptances, truth)
        if at_ms is not None:
            ours[connection_id].append(at_ms - reach.sold_at_ms)
            trace[connection_id] += [(reach.sold_at_ms, target.listing_sku) for target in reach.targets]
    return {
        channel.name: Staleness(
            channel.marketplace,
            ours[channel.connection_id],
            ideal_delays_ms(trace[channel.connection_id], kept(channel.marketplace)),
            ideal_delays_ms(trace[channel.connection_id], documented(channel.marketplace)),
        )
        for channel in evidence.channels
    }


async def measure_staleness(
    folder: Path, endpoints: dict[str, Any], rate: float, seconds: float, products: int, draw: random.Random
) -> dict[str, Staleness]:
    """Buyers at ten limited shops, and what became of their sales."""
    goods = plan(**{f"P{number:03}": UNITS for number in range(products)})
    async with open_company(folder, endpoints, goods) as company:
        await warm_up(company, draw)
        await company.evidence()
        await limits_on(company)
        begun_ms, _ = await sell(company, rate, seconds, draw)
        print(f"{rate:g} orders/s for {seconds:g} s: sold, waiting for the last number", flush=True)
        return staleness(await company.evidence(timeout_s=300), begun_ms)


# -- urgency -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Urgency:
    """Of one connection, milliseconds from each sale elsewhere to a number that is no higher than what is left.

    `never`: so many did not get there at all.
    """

    marketplace: str
    from_sale_ms: Sequence[float]
    never: int

    @property
    def limit_ms(self) -> float:
        """The target for the 99th percentile."""
        return max(URGENT_MS, URGENT_CALLS * 1000 / kept(self.marketplace).requests_per_s)

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return not self.never and (percentile(self.from_sale_ms, 0.99) or 0) <= self.limit_ms

    @property
    def told(self) -> dict[str, Any]:
        """For the report."""
        return {
            "marketplace": self.marketplace,
            **summary(self.from_sale_ms),
            "never": self.never,
            "target_p99_ms": round(self.limit_ms),
            "met": self.met,
        }


def urgency(evidence: Evidence, scarce: Sequence[str]) -> dict[str, Urgency]:
    """By the connection's name, over all sales of scarce products."""
    truth = Truth(evidence)
    found: dict[str, Urgency] = {}
    for channel in evidence.channels:
        delays: list[float] = []
        never = 0
        for seller, books in evidence.books.items():
            for sold in books.sold:
                if seller == channel.connection_id or sold.sku not in scarce:
                    continue
                right_ms = truth.right_from(channel.connection_id, sold.sku, sold.at_ms, math.inf)
                if right_ms is None:
                    never += 1
                elif right_ms > sold.at_ms:
                    delays.append(right_ms - sold.at_ms)
        found[channel.name] = Urgency(channel.marketplace, delays, never)
    return found


async def sell_all(bootstrap: str, skus: Sequence[str]) -> None:
    """One unit of each, as sales of a shop beside the ten: whose numbers change is all that matters of them."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5)
    await producer.start()
    try:
        for start in range(0, len(skus), LINES):
            await put(producer, sale(str(uuid7()), list(skus[start : start + LINES]), datetime.now(UTC)))
        await producer.flush()
    finally:
        await producer.stop()


async def waiting(shops: Sequence[Shop], skus: Sequence[str]) -> int:
    """How many numbers of these products still have to be written."""
    shown = [await shop.sandbox.numbers(shop.name) for shop in shops]
    return sum(numbers[sku] == UNITS for numbers in shown for sku in skus)


async def buy_scarce(company: Company, scarce: Sequence[str], rate: float, draw: random.Random) -> None:
    """Buyers of one product after the other, none waiting for another, until all is sold."""
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as buyers:
        for number in range(SCARCE * len(scarce)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            shop = draw.choice(company.shops)
            buyers.create_task(shop.sandbox.buy(shop.name, {scarce[number % len(scarce)]: 1}))


async def measure_urgency(
    folder: Path, endpoints: dict[str, Any], backlog: int, seconds: float, draw: random.Random
) -> tuple[dict[str, Urgency], dict[str, Any]]:
    """Fill the slow channels' ordinary lanes, sell out what is scarce, and read the books."""
    slow = [kept(name).requests_per_s for name in SLOW for _ in range(SHOPS[name])]
    rate = 0.45 * min(slow)
    scarce = [f"S{number:03}" for number in range(math.ceil(rate * seconds / SCARCE))]
    drained = sum(slow) * (seconds + AHEAD_S)
    ordinary = [f"P{number:05}" for number in range(math.ceil((backlog + drained) / len(slow)))]
    goods = plan(**dict.fromkeys(scarce, SCARCE), **dict.fromkeys(ordinary, UNITS))
    async with open_company(folder, endpoints, goods, patience_s=OPENING_S) as company:
        await limits_on(company)
        limited = [shop for shop in company.shops if shop.marketplace in SLOW]
        quick = [shop for shop in company.shops if shop.marketplace not in SLOW]
        await sell_all(company.system.endpoints.kafka, ordinary)
        await until(lambda: waiting(quick, ordinary), lambda left: not left, "the sale of all products", OPENING_S)
        before = await waiting(limited, ordinary)
        print(f"{before} ordinary numbers wait; buyers of {len(scarce)} scarce products at {rate:g}/s", flush=True)
        await buy_scarce(company, scarce, rate, draw)
        after = await waiting(limited, ordinary)
        await asyncio.sleep(SETTLE_S)
        reader = BookReader(company.sandboxes)
        await reader.read()
        evidence = reader.evidence(company.plan, [shop.channel for shop in company.shops], Heard())
        about = {"rate_per_s": round(rate, 3), "waiting_before": before, "waiting_after": after, "asked": backlog}
        return urgency(evidence, scarce), about


# -- the whole ---------------------------------------------------------------------------------------------------------


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(prog="saldo bench limits", description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, default=10.0, help="Orders a second, for the staleness.")
    parser.add_argument("--seconds", type=float, default=120.0, help="Of buyers, for each of both.")
    parser.add_argument("--products", type=int, default=200, help="For the staleness.")
    parser.add_argument("--waiting", type=int, default=50_000, help="Ordinary numbers that wait all the while.")
    parser.add_argument("--only", choices=("staleness", "urgency"))
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    report: dict[str, Any] = {"rate_per_s": given.rate, "seconds": given.seconds}
    good = True
    if given.only != "urgency":
        print("opening ten shops …", flush=True)
        with running("limits", **STOCK_ALONE) as (folder, endpoints):
            stale = asyncio.run(measure_staleness(folder, endpoints, given.rate, given.seconds, given.products, draw))
        report["staleness"] = {name: one.told for name, one in stale.items()}
        good &= tell_staleness(stale)
    if given.only != "staleness":
        print("opening ten shops with many products …", flush=True)
        with running("limits", **STOCK_ALONE) as (folder, endpoints):
            urgent, about = asyncio.run(measure_urgency(folder, endpoints, given.waiting, given.seconds, draw))
        report["urgency"] = about | {"connections": {name: one.told for name, one in urgent.items()}}
        good &= tell_urgency(urgent, about)
    write_report("limits", report)
    return 0 if good else 1


def tell_staleness(stale: Mapping[str, Staleness]) -> bool:
    """The table; whether every limit-bound connection is within the ratio, and there is one."""
    print(f"{'staleness, ms':<32}{'mean':>9}{'p50':>9}{'p95':>9}{'p99':>9}")
    for name, one in stale.items():
        told = one.told
        for label, row in ((name, told["ours_ms"]), ("  ideal", told["ideal_ms"])):
            print(f"{label:<32}" + "".join(f"{row[figure]:>9.0f}" for figure in row))
        if one.bound:
            print(
                f"{'  ideal, all that is documented':<32}"
                + "".join(f"{value:>9.0f}" for value in told["ideal_at_documented_ms"].values())
            )
            print(f"{'  ours ÷ ideal':<32}" + "".join(f"{value:>9.2f}" for value in one.ratios.values()))
        else:
            print("  not bound by its limit")
    bound = [one for one in stale.values() if one.bound]
    worst = max((value for one in bound for value in one.ratios.values()), default=0.0)
    print(f"{len(bound)} connections are limit-bound; the largest ratio is {worst:.2f}, at most {RATIO_MAX}")
    return bool(bound) and worst <= RATIO_MAX


def tell_urgency(urgent: Mapping[str, Urgency], about: Mapping[str, Any]) -> bool:
    """The table; whether every connection meets its target, behind as many waiting numbers as asked."""
    before, after = about["waiting_before"], about["waiting_after"]
    print(f"{'urgent numbers, ms':<24}{'sales':>7}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}{'target':>8}{'never':>7}")
    for name, one in urgent.items():
        told = one.told
        row = "".join(f"{told[figure] or 0:>8.0f}" for figure in ("p50", "p95", "p99", "max", "target_p99_ms"))
        print(f"{name:<24}{told['count']:>7}{row}{told['never']:>7}" + ("" if one.met else "  MISSED"))
    print(f"{before} ordinary numbers waited before, {after} after; asked were {about['asked']}")
    return after >= about["asked"] and all(one.met for one in urgent.values())


if __name__ == "__main__":
    sys.exit(main())

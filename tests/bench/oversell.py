"""Oversell bench: one seeded day of sales over ten shops with scarce stock, by how soon the others hear of a sale.

A simulation. The same buyers come four times: to shops that a hub brings up to date every 60, 15 and 5 minutes, as the
hubs on the market do, and to shops that hear of every sale after as long as Saldo took in the propagation bench (a
percentile drawn for each sale and shop). A shop sells while the number that it shows is above zero and lowers it by its
own sales at once. A sale is a shortfall where all units had been sold by then. Buyers come as a Poisson stream that
follows the hours of a day; products are wanted by Zipf's law, and each has a few units in the morning.

Run by `saldo bench oversell`, after `saldo bench propagation`. Writes `var/bench/oversell.json` and `oversell.svg`.
Exit code 1 where Saldo's shortfalls are above 2 % of those of 15 minutes.
"""

import argparse
import heapq
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

SHOPS, PRODUCTS = 10, 20_000
UNITS_MAX = 12
DAY_S = 86_400.0
SHARE_MAX = 0.02
FOLDER = Path(__file__).parents[2] / "var" / "bench"

Arrival = tuple[float, int, int]
"""Second of the day, shop, product."""


def arrivals(buyers: int, draw: random.Random) -> list[Arrival]:
    """The day's buyers in order of time: few at night, most in the evening."""
    weights = [1 / rank for rank in range(1, PRODUCTS + 1)]
    products = draw.choices(range(PRODUCTS), weights, k=buyers)
    hours = draw.choices(range(24), [1.2 + math.sin((hour - 14) / 24 * math.tau) for hour in range(24)], k=buyers)
    return sorted(
        ((hour + draw.random()) * 3600, draw.randrange(SHOPS), product)
        for hour, product in zip(hours, products, strict=True)
    )


def sold_out_of_step(day: Sequence[Arrival], stock: Sequence[int], hear: Callable[[float], float]) -> tuple[int, int]:
    """(sales, shortfalls) of a day on which another shop hears of a sale at `hear(moment)`."""
    left = list(stock)
    shown = [list(stock) for _ in range(SHOPS)]
    news: list[tuple[float, int, int]] = []
    sales = shortfalls = 0
    for at_s, shop, product in day:
        while news and news[0][0] <= at_s:
            _, hearing, of = heapq.heappop(news)
            shown[hearing][of] -= 1
        if shown[shop][product] <= 0:
            continue
        sales += 1
        shortfalls += left[product] <= 0
        left[product] -= 1
        shown[shop][product] -= 1
        for other in range(SHOPS):
            if other != shop:
                heapq.heappush(news, (hear(at_s), other, product))
    return sales, shortfalls


def every(minutes: float) -> Callable[[float], float]:
    """A hub that tells all shops of everything at once, every so many minutes."""
    return lambda at_s: math.ceil(at_s / (minutes * 60)) * minutes * 60


def measured(percentiles_ms: Sequence[float], draw: random.Random) -> Callable[[float], float]:
    """After as long as one of the measured sales took."""
    return lambda at_s: at_s + draw.choice(percentiles_ms) / 1000


def picture(shares: Sequence[tuple[str, float]]) -> str:
    """Shortfalls a thousand sales as bars, in SVG."""
    most = max(share for _, share in shares)
    rows = []
    for place, (name, share) in enumerate(shares):
        y, width = 40 + place * 34, share / most * 420
        rows.append(
            f'<text x="150" y="{y + 15}" text-anchor="end">{name}</text>'
            f'<rect x="160" y="{y}" width="{max(width, 1):.1f}" height="20" fill="#2b6cb0"/>'
            f'<text x="{166 + width:.1f}" y="{y + 15}">{share:.2f}</text>'
        )
    height = 50 + len(shares) * 34
    title = "Shortfalls per 1,000 sales, ten shops, scarce stock, one day"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {height}" font-family="sans-serif" font-size="13">'
        f'<rect width="680" height="{height}" fill="white"/><text x="20" y="24" font-size="15">{title}</text>'
        f"{''.join(rows)}</svg>\n"
    )


def main() -> int:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(prog="saldo bench oversell", description=__doc__)
    parser.add_argument("--buyers", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=20.0, help="Of the propagation bench whose figures are used.")
    given = parser.parse_args()
    path = FOLDER / "propagation.json"
    loads = json.loads(path.read_text())["loads"] if path.exists() else []
    load = next((one for one in loads if one["rate_per_s"] == given.rate), None)
    if load is None:
        print(f"no propagation was measured at {given.rate:g} orders/s: run `saldo bench propagation` first")
        return 2
    draw = random.Random(given.seed)
    day = arrivals(given.buyers, draw)
    stock = [draw.randint(1, UNITS_MAX) for _ in range(PRODUCTS)]
    ways = {f"every {minutes} minutes": every(minutes) for minutes in (60, 15, 5)}
    ways["Saldo"] = measured(load["percentiles_ms"], random.Random(given.seed))
    told = {}
    for name, hear in ways.items():
        sales, shortfalls = sold_out_of_step(day, stock, hear)
        told[name] = {"sales": sales, "shortfalls": shortfalls, "per_1000": round(shortfalls / sales * 1000, 3)}
        print(f"{name:<18}{sales:>8} sales{shortfalls:>7} shortfalls{told[name]['per_1000']:>10.2f} per 1,000 sales")
    share = told["Saldo"]["per_1000"] / told["every 15 minutes"]["per_1000"]
    figures = f"p50 {load['p50']:.0f} ms, p99 {load['p99']:.0f} ms"
    print(f"Saldo, with {figures}: {share:.2%} of the shortfalls of every 15 minutes")
    report = {"seed": given.seed, "buyers": given.buyers, "ways": told, "share_of_15_minutes": round(share, 4)}
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "oversell.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    (FOLDER / "oversell.svg").write_text(picture([(name, one["per_1000"]) for name, one in told.items()]), "utf-8")
    return 0 if share <= SHARE_MAX else 1


if __name__ == "__main__":
    sys.exit(main())

"""Buyers who buy whether or not anybody keeps up: an open loop, drawn from a seed, within each channel's intake."""

import asyncio
import heapq
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from services.console.demo.evidence import Channel
from services.console.demo.markets import MARKETS
from services.console.demo.seed import Catalogue
from services.sandbox.client import SandboxClient, SandboxError

SCARCE_WISH, KIT_WISH = 0.12, 0.08
CANCEL_SHARE, UNPAID_SHARE, GIVEN_UP_SHARE = 0.04, 0.4, 0.15
CHANGE_OF_MIND_S = (1.0, 6.0)
PAID_LATER = frozenset({"skyhub", "mercadolivre", "vtex", "shop"})
"""Where orders come unpaid, too."""

Then = Literal["nothing", "pay", "cancel"]


@dataclass(frozen=True, slots=True)
class Purchase:
    """A buyer's deed: at `at_s` into the run, lines by SKU, paid at once or not, and what follows `later_s` after."""

    at_s: float
    connection_id: str
    lines: Mapping[str, int]
    paid: bool
    then: Then
    later_s: float
    buyer: int


@dataclass(slots=True)
class Tally:
    """What became of the purchases so far; `by_connection` counts accepted orders."""

    attempted: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    by_connection: dict[str, int] = field(default_factory=dict)


def rates(channels: Sequence[Channel], rate: float) -> dict[str, float]:
    """Orders a second by connection: equal shares; who takes in less is capped, and the rest goes to the others."""
    equal = rate / len(channels)
    shops = Counter(channel.marketplace for channel in channels)
    caps = {name: MARKETS[name].intake_per_s for name in shops}
    capped = {
        channel.connection_id: min(equal, cap / shops[channel.marketplace])
        for channel in channels
        if (cap := caps[channel.marketplace]) is not None
    }
    others = len(channels) - len(capped)
    of_other = (rate - sum(capped.values())) / others if others else 0.0
    return {channel.connection_id: capped.get(channel.connection_id, of_other) for channel in channels}


def plan_purchases(
    channels: Sequence[Channel],
    catalogue: Catalogue,
    *,
    rate: float,
    seconds: float | None,
    orders: int | None,
    seed: int,
) -> list[Purchase]:
    """Every purchase of a run in order of time: Poisson arrivals per connection until `seconds` or `orders` end it."""
    per_connection = rates(channels, rate)
    streams = [
        _arrivals(channel, catalogue, per_connection[channel.connection_id], seed)
        for channel in channels
        if per_connection[channel.connection_id] > 0
    ]
    planned: list[Purchase] = []
    for purchase in heapq.merge(*streams, key=lambda purchase: purchase.at_s):
        if (orders is not None and len(planned) >= orders) or (seconds is not None and purchase.at_s >= seconds):
            return planned
        planned.append(purchase)
    return planned


def _arrivals(channel: Channel, catalogue: Catalogue, rate: float, seed: int) -> Iterator[Purchase]:
    draw = random.Random(f"{seed} {channel.name}")  # noqa: S311 - a repeatable crowd, not a secret
    ordinary = [sku for sku in catalogue.plan.opening if sku not in catalogue.scarce]
    kits = list(catalogue.plan.kits)
    at_s = 0.0
    while True:
        at_s += draw.expovariate(rate)
        lines: dict[str, int] = {}
        for _ in range(draw.choices((1, 2, 3), (75, 18, 7))[0]):
            wish = draw.random()
            if wish < SCARCE_WISH:
                sku = draw.choice(catalogue.scarce)
            elif wish < SCARCE_WISH + KIT_WISH:
                sku = draw.choice(kits)
            else:
                sku = draw.choice(ordinary)
            lines[sku] = draw.choices((1, 2, 3), (85, 11, 4))[0]
        paid, then = _habit(channel, draw)
        yield Purchase(
            at_s, channel.connection_id, lines, paid, then, draw.uniform(*CHANGE_OF_MIND_S), draw.getrandbits(30)
        )


def _habit(channel: Channel, draw: random.Random) -> tuple[bool, Then]:
    if channel.marketplace in PAID_LATER and draw.random() < UNPAID_SHARE:
        return False, "cancel" if draw.random() < GIVEN_UP_SHARE else "pay"
    # Who has paid in the own shop asks a person to cancel; the marketplaces decide it themselves.
    share = 0.0 if channel.marketplace == "shop" else CANCEL_SHARE
    return True, "cancel" if draw.random() < share else "nothing"


async def buy_all(
    purchases: Sequence[Purchase],
    channels: Sequence[Channel],
    sandboxes: Mapping[str, SandboxClient],
    tally: Tally,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Let every buyer act at the planned moment; returns when the last deed is done."""
    by_id = {channel.connection_id: channel for channel in channels}
    begun = clock()
    async with asyncio.TaskGroup() as deeds:
        for purchase in purchases:
            await asyncio.sleep(max(0.0, begun + purchase.at_s - clock()))
            channel = by_id[purchase.connection_id]
            deeds.create_task(_buy(purchase, channel, sandboxes[channel.marketplace], tally))


async def _buy(purchase: Purchase, channel: Channel, sandbox: SandboxClient, tally: Tally) -> None:
    tally.attempted += 1
    try:
        told = await sandbox.buy(
            channel.shop, purchase.lines, pay="now" if purchase.paid else "later", buyer=purchase.buyer
        )
        if "order_id" not in told:
            tally.refused += 1
            return
        tally.accepted += 1
        tally.by_connection[channel.connection_id] = tally.by_connection.get(channel.connection_id, 0) + 1
        if purchase.then == "nothing":
            return
        await asyncio.sleep(purchase.later_s)
        if purchase.then == "pay":
            await sandbox.pay(channel.shop, told["order_id"])
        else:
            await sandbox.cancel(channel.shop, told["order_id"])
    except (SandboxError, OSError, TimeoutError):
        # The books say what really happened; a buyer whose request failed does not stop the others.
        tally.failed += 1

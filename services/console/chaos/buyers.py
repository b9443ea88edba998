"""Buyers at the sandboxes who do not let go: who is not heard pays or cancels again until somebody listens."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import aiohttp

from services.console.chaos.history import History
from services.console.demo.buyers import PAID_LATER, Purchase, plan_purchases
from services.console.demo.evidence import Channel
from services.console.demo.seed import Scene
from services.sandbox.client import SandboxClient, SandboxError

PAID_SHARE: Final = 0.12
"""Of buyers those who take their order to the door; the others think better of it, unpaid where their channel has
that."""
SECOND_THOUGHTS_S: Final = (1.0, 30.0)
AGAIN_S: Final = 1.0
TRIES: Final = 60
CONFLICT: Final = 409


def plan_buyers(scene: Scene, rate: float, seconds: float, seed: int) -> list[Purchase]:
    """Buyers of the demonstration, `rate` a second, most of whom think better of it; the same for the same seed."""
    purchases = plan_purchases(scene.channels, scene.catalogue, rate=rate, seconds=seconds, orders=None, seed=seed)
    markets = {channel.connection_id: channel.marketplace for channel in scene.channels}
    draw = random.Random(f"second thoughts {seed}")  # noqa: S311 - a repeatable crowd, not a secret

    def thought_over(purchase: Purchase) -> Purchase:
        if draw.random() < PAID_SHARE:
            return purchase
        later_s, paid = draw.uniform(*SECOND_THOUGHTS_S), markets[purchase.connection_id] not in PAID_LATER
        return replace(purchase, paid=paid, then="cancel", later_s=later_s)

    return [thought_over(purchase) for purchase in purchases]


@dataclass
class Crowd:
    """Lets every buyer act. `acknowledged` has (connection, order) of those that a channel confirmed to its buyer."""

    sandboxes: Mapping[str, SandboxClient]
    history: History
    acknowledged: list[tuple[str, str]] = field(default_factory=list)
    refused: int = 0
    unheard: int = 0

    async def run(self, purchases: Sequence[Purchase], channels: Sequence[Channel], begun: float) -> None:
        """Every purchase at its moment, counted from `begun` on the loop's clock; return when the last deed is done."""
        by_id, loop = {channel.connection_id: channel for channel in channels}, asyncio.get_running_loop()
        async with asyncio.TaskGroup() as deeds:
            for purchase in purchases:
                await asyncio.sleep(max(0.0, begun + purchase.at_s - loop.time()))
                deeds.create_task(self._buy(purchase, by_id[purchase.connection_id]))

    async def _buy(self, purchase: Purchase, channel: Channel) -> None:
        sandbox = self.sandboxes[channel.marketplace]
        try:
            told = await sandbox.buy(
                channel.shop, purchase.lines, pay="now" if purchase.paid else "later", buyer=purchase.buyer
            )
        except (SandboxError, aiohttp.ClientError, OSError, TimeoutError) as error:
            # Nobody knows whether it was sold: the books do.
            self.unheard += 1
            self.history.note("order unheard", connection=channel.connection_id, error=type(error).__name__)
            return
        if "order_id" not in told:
            self.refused += 1
            return
        order = str(told["order_id"])
        self.acknowledged.append((channel.connection_id, order))
        self.history.note("order", connection=channel.connection_id, order=order, lines=dict(purchase.lines))
        if purchase.paid and not told["paid"]:
            await self._insist("pay", order, lambda: sandbox.pay(channel.shop, order))
        await asyncio.sleep(purchase.later_s)
        if purchase.then == "pay":
            await self._insist("pay", order, lambda: sandbox.pay(channel.shop, order))
        elif purchase.then == "cancel":
            await self._insist("cancel", order, lambda: sandbox.cancel(channel.shop, order))

    async def _insist(self, what: str, order: str, deed: Callable[[], Awaitable[Any]]) -> None:
        last = ""
        for _ in range(TRIES):
            try:
                await deed()
            except SandboxError as error:
                # A conflict is an answer: it is sent, or cancelled already. Only a basket may yet be paid.
                if error.status == CONFLICT and (what == "cancel" or error.body.get("reason") == "cancelled"):
                    break
                last = str(error)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                last = type(error).__name__
            else:
                break
            self.history.note("insists", deed=what, order=order, last=last)
            await asyncio.sleep(AGAIN_S)
        else:
            self.history.note("gave up", deed=what, order=order, last=last)
            return
        self.history.note(what, order=order)

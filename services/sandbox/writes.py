"""A stock write as every marketplace does it: note the attempt, let the vices have their turn, check, do, note."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from services.sandbox.books import Fact, now_ms
from services.sandbox.market import Account, Market
from services.sandbox.shop import Change, WriteContext

# A client that waits for a timed-out answer is let go after this time with 504.
TIMEOUT_HOLD_S = 30.0
_LATE_BY_MS = 5_000


@dataclass(frozen=True, slots=True)
class Write:
    """What a client asks: absolute numbers, or differences (`delta`). `stocked`: the item must be at the location.

    `version` is the product's that the client read, where the marketplace compares versions; null compares none.
    """

    operation: str
    changes: list[Change]
    context: WriteContext
    delta: bool = False
    stocked: bool = True
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """done: `facts` are the `write` rows. refused: `problems` by place. throttled, unavailable, timeout: vices."""

    kind: Literal["done", "refused", "throttled", "unavailable", "timeout"]
    facts: list[Fact] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)


Finished = Callable[[Outcome], None]


class Writer:
    """Does the stock writes of one market."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._late: set[asyncio.Task[None]] = set()

    def perform(self, account: Account, write: Write, finished: Finished | None = None) -> Outcome:
        """Do one write now, or refuse it, or leave it for later as the vice `write_timeout` wants.

        `finished` is called once with what became of it, be it now or late.
        """
        at_ms = now_ms()
        attempt = {"operation": write.operation, "count": len(write.changes)}
        self._market.commit(account, [("write_attempt", write.context.fields | attempt)], at_ms)
        temper = account.temper
        if temper.strikes("write_throttled", at_ms) is not None:
            return self._turn_away(account, write, "throttled", finished)
        if temper.strikes("write_error", at_ms) is not None:
            return self._turn_away(account, write, "unavailable", finished)
        late_ms = temper.strikes("write_timeout", at_ms)
        if late_ms is not None:
            late = replace(write, context=replace(write.context, late=True))
            task = asyncio.create_task(self._do_late(account, late, (late_ms or _LATE_BY_MS) / 1000, finished))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            return Outcome("timeout")
        return self._do(account, write, finished)

    def refuse(self, account: Account, write: Write, why: str) -> None:
        """Book a write that the marketplace's limits turned away."""
        self._market.commit(account, account.shop.refused_write(write.changes, write.context, why), now_ms())

    async def stop(self) -> None:
        """Forget the writes that were to be executed late."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    def _turn_away(
        self, account: Account, write: Write, why: Literal["throttled", "unavailable"], finished: Finished | None
    ) -> Outcome:
        self.refuse(account, write, why)
        outcome = Outcome(why)
        if finished is not None:
            finished(outcome)
        return outcome

    async def _do_late(self, account: Account, write: Write, delay_s: float, finished: Finished | None) -> None:
        await asyncio.sleep(delay_s)
        if self._market.accounts.get(account.name) is account:
            self._do(account, write, finished)

    def _do(self, account: Account, write: Write, finished: Finished | None) -> Outcome:
        at_ms = now_ms()
        shop = account.shop
        stale = account.temper.strikes("stale_compare", at_ms) is not None
        problems = shop.check(
            write.changes, delta=write.delta, stocked=write.stocked, stale=stale, version=write.version
        )
        if problems:
            why = "stale" if any(code == "stale" for _, code in problems) else problems[0][1]
            outcome = Outcome("refused", shop.refused_write(write.changes, write.context, why), problems)
        else:
            silent = account.temper.strikes("silent_reject", at_ms) is not None
            facts = shop.write(write.changes, write.context, at_ms, delta=write.delta, silent=silent)
            outcome = Outcome("done", facts)
        self._market.commit(account, outcome.facts, at_ms)
        if finished is not None:
            finished(outcome)
        return outcome

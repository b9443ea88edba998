"""`saldo verify --watch`: the same checks again and again, as metrics and lines that somebody is woken by."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import final

import asyncpg
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.console.verification import ROWS_SHOWN, Check, Outcome, verify

SECOND_LOOK_S = 5.0
"""What is wrong for the first time is looked at again so soon, however seldom the looks are."""

UNREADABLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


@dataclass(frozen=True, slots=True)
class Look:
    """One run of all checks. `standing` are the contradictions that the look before had, too, by their check.

    `problem` says why there is no result: then nothing was proved, and nothing disproved.
    """

    at: datetime
    duration_s: float
    outcomes: Sequence[Outcome]
    standing: Mapping[Check, Sequence[str]]
    problem: str = ""

    @property
    def suspects(self) -> bool:
        """Whether something is wrong that the look before did not have."""
        return sum(len(one.contradictions) for one in self.outcomes) > sum(map(len, self.standing.values()))


def standing(before: Sequence[Outcome], now: Sequence[Outcome]) -> dict[Check, list[str]]:
    """What is wrong in two looks, in the words of the second.

    What is on its way may be seen by one look and has arrived by the next. A contradiction is known by what it is
    about, the words before the first `: `; its numbers may go on changing. Where a look shows no more than the first
    of many, two such looks need not show the same ones.
    """
    seen = {outcome.check: outcome.contradictions for outcome in before}
    found = {}
    for outcome in now:
        earlier = seen.get(outcome.check, [])
        about = set(map(_about, earlier))
        many = min(len(earlier), len(outcome.contradictions)) >= ROWS_SHOWN
        if stood := [one for one in outcome.contradictions if many or _about(one) in about]:
            found[outcome.check] = stood
    return found


def _about(contradiction: str) -> str:
    return contradiction.partition(": ")[0]


@final
class WatchMetrics:
    """What Prometheus is told, in a registry of its own: to alert on, and on the age of the last success."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        named = ["service", "invariant"]
        self._holds = Gauge("saldo_verify_holds", "1 where the last look found it so.", named, registry=registry)
        self._differences = Gauge(
            "saldo_verify_differences", f"Wrong in two looks; {ROWS_SHOWN} at most are counted.", named,
            registry=registry,
        )  # fmt: skip
        self._duration = Gauge("saldo_verify_duration_seconds", "Of the last look.", registry=registry)
        self._last_look = Gauge("saldo_verify_last_look_timestamp_seconds", "With a result.", registry=registry)
        self._last_success = Gauge(
            "saldo_verify_last_success_timestamp_seconds", "The last look at which all held.", registry=registry
        )
        self._unread = Counter("saldo_verify_unread", "Looks at which a database did not answer.", registry=registry)

    def tell(self, look: Look) -> None:
        """Take a look's results over; of one without result only that it was none."""
        if look.problem:
            self._unread.inc()
            return
        for outcome in look.outcomes:
            labels = outcome.check.service, outcome.check.what
            self._holds.labels(*labels).set(not outcome.contradictions)
            self._differences.labels(*labels).set(len(look.standing.get(outcome.check, ())))
        self._duration.set(look.duration_s)
        self._last_look.set(look.at.timestamp())
        if not any(outcome.contradictions for outcome in look.outcomes):
            self._last_success.set(look.at.timestamp())


async def looks(dsns: Mapping[str, str], tenant: str | None, every_s: float) -> AsyncIterator[Look]:
    """Look for ever, every `every_s` from the end of the look before, sooner after a first contradiction."""
    before: Sequence[Outcome] = ()
    while True:
        look = await _looked(dsns, tenant, before)
        if not look.problem:
            before = look.outcomes
        yield look
        await asyncio.sleep(min(every_s, SECOND_LOOK_S) if look.suspects else every_s)


async def _looked(dsns: Mapping[str, str], tenant: str | None, before: Sequence[Outcome]) -> Look:
    at, began = datetime.now(UTC), time.monotonic()
    try:
        outcomes = await verify(dsns, tenant)
    except UNREADABLE as error:
        return Look(at, time.monotonic() - began, (), {}, f"a database cannot be read ({error}): see `saldo status`")
    return Look(at, time.monotonic() - began, outcomes, standing(before, outcomes))

"""What no message asks for: gauges, draining that was interrupted, days that come and days that are over."""

import asyncio
from collections.abc import Collection
from datetime import timedelta
from typing import Final, final

import structlog

from services.bus.consumer import Consumer
from services.bus.failures import waited
from services.bus.work import Work
from services.deadletters.letters import DeadLetters
from services.deadletters.lists import REPLAYS_MAX

KEEP_EVERY_S: Final = 2.0
PARTITIONS_AHEAD: Final = timedelta(days=3)
OUTBOX_AGE_LIMIT_S: Final = 60.0

_log = structlog.get_logger("saldo.runtime")

_STATE: Final = """
SELECT (SELECT coalesce(sum(count), 0) FROM outbox) AS waiting,
       (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM outbox)::float AS age_s,
       (SELECT count(*) FROM parked_keys) AS parked,
       open, for_person, oldest_s
FROM (SELECT count(*) AS open, count(*) FILTER (WHERE attempts > $1) AS for_person,
             coalesce(extract(epoch FROM now() - min(first_at)), 0)::float AS oldest_s
      FROM dead_letters WHERE state = 'open') AS letters
"""


@final
class Keeper:
    """Keeps the tables of one service in order.

    `reason` says why it is not ready, if so; `alerts` what a person should look at.
    """

    def __init__(self, work: Work, consumers: Collection[Consumer], letters: DeadLetters) -> None:
        self._work, self._consumers, self._letters = work, consumers, letters
        self.reason = ""
        self.alerts: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Housekeeping until `stop`, every 2 s, and of the days every `keep_days_every_s`."""
        rounds, days_rounds = 0, int(self._work.settings.keep_days_every_s / KEEP_EVERY_S)
        while not await waited(stop, KEEP_EVERY_S):
            rounds += 1
            await self._keep()
            if rounds % days_rounds == 0:
                await self.keep_days()

    async def _keep(self) -> None:
        row = await self._work.pool.fetchrow(_STATE, REPLAYS_MAX)
        assert row
        metrics, age_s = self._work.metrics, row["age_s"]
        metrics.outbox_records.set(row["waiting"])
        metrics.outbox_age.set(age_s)
        metrics.parked_keys.set(row["parked"])
        metrics.dead_letters.set(row["open"])
        metrics.dead_letters_for_person.set(row["for_person"])
        metrics.dead_letters_age.set(row["oldest_s"])
        self._alert(row["open"], row["for_person"], row["oldest_s"])
        self.reason = f"outbox: the oldest record waits for {age_s:.0f} s" if age_s > OUTBOX_AGE_LIMIT_S else ""
        for consumer in self._consumers:
            consumer.lags()
        if row["parked"]:
            await self._letters.drain_stalled()

    def _alert(self, count: int, for_person: int, oldest_s: float) -> None:
        """Say once in the log, and to whoever asks, that dead letters wait too long."""
        before, self.alerts = self.alerts, []
        if for_person or oldest_s > self._work.settings.dead_letter_alert_s:
            vain = f", {for_person} of them replayed in vain {REPLAYS_MAX} times" if for_person else ""
            age = timedelta(seconds=int(oldest_s))
            self.alerts = [
                f"open dead letters: {count}{vain}, the oldest waits for {age}: see `saldo deadletters groups`"
            ]
            if not before:
                _log.error("dead letters wait", open=count, for_person=for_person, oldest_age_s=int(oldest_s))

    async def keep_days(self) -> None:
        """Partitions for the whole window, horizon back to three days ahead; older days are dropped."""
        today = self._work.clock()
        kept = today - timedelta(hours=self._work.settings.outbox_keep_h)
        last = (today + PARTITIONS_AHEAD).date()
        for parent, first in (("inbox", today - self._work.horizon), ("outbox_sent", kept)):
            await self._work.pool.execute("SELECT keep_days($1, $2, $3)", parent, first.date(), last)

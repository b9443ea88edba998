"""Too much poison is a bad deploy, not bad data: the consumer stops and parks nothing more until it is released."""

import asyncio
import contextlib
from collections import deque
from datetime import datetime, timedelta
from typing import Final, final

from services.bus.failures import DATABASE_ERRORS, waited
from services.bus.work import Work

KEYS: Final = 20
RATIO: Final = 0.05
RECORDS: Final = 1_000
WINDOW: Final = timedelta(minutes=5)
LOOK_EVERY_S: Final = 0.5


@final
class Brake:
    """The brake of one consumer: a row, so that it holds in every process of this build.

    `reason` says why it is engaged and what to do, empty if it is not. `taken` counts the records that came.
    """

    def __init__(self, work: Work, stream: str) -> None:
        self._work, self._stream = work, stream
        self.reason = ""
        self.taken = 0
        self._poisoned: deque[tuple[int, datetime, str]] = deque(maxlen=RECORDS)

    def count(self, aggregate: str, error: str) -> str:
        """Count one poisoned record; why the brake must be engaged now, empty if it need not."""
        now = self._work.clock()
        self._poisoned.append((self.taken, now, aggregate))
        recent = [entry for entry in self._poisoned if now - entry[1] <= WINDOW]
        keys = {key for _, _, key in recent}
        of_last = sum(1 for taken, _, _ in recent if taken > self.taken - RECORDS)
        if len(keys) <= KEYS and not (self.taken >= RECORDS and of_last >= RATIO * RECORDS):
            return ""
        return f"{len(keys)} keys and {of_last} of the last records poisoned, last: {error}"

    async def engage(self, reason: str) -> None:
        """Stop the consumer, here and after a restart."""
        await self._work.pool.execute(
            "INSERT INTO brakes (consumer, stream, build, reason) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            self._work.service, self._stream, self._work.settings.build, reason,
        )  # fmt: skip
        await self._read()

    async def load(self) -> None:
        """At the start: a brake of another build is released, one of this build holds from the first record."""
        await self._work.pool.execute(
            "DELETE FROM brakes WHERE consumer = $1 AND stream = $2 AND build <> $3",
            self._work.service, self._stream, self._work.settings.build,
        )  # fmt: skip
        await self._read()

    async def release(self) -> bool:
        """Let the consumer go on, in whatever process it stands; False if it was not stopped."""
        statement = "DELETE FROM brakes WHERE consumer = $1 AND stream = $2"
        return await self._work.pool.execute(statement, self._work.service, self._stream) == "DELETE 1"

    async def released(self, stop: asyncio.Event) -> bool:
        """Wait until a person resumes the consumer; False if `stop` was set before."""
        while self.reason:
            if await waited(stop, LOOK_EVERY_S):
                return False
            with contextlib.suppress(*DATABASE_ERRORS):
                await self._read()
        self._poisoned.clear()
        return True

    async def _read(self) -> None:
        reason = await self._work.pool.fetchval(
            "SELECT reason FROM brakes WHERE consumer = $1 AND stream = $2", self._work.service, self._stream
        )
        self.reason = f"brake: {reason}; deploy a fixed build or resume the consumer" if reason is not None else ""

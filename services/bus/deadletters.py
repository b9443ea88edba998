"""What a person does with dead letters, and how an aggregate gets going again: replay, discard, drain, erase."""

from collections.abc import Mapping
from typing import Any, Final, final

from services.bus import inbox
from services.bus.consumer import Consumer
from services.bus.failures import Kind, Poison, describe, kind_of
from services.bus.record import Incoming, Verdict, unpack
from services.bus.transaction import Transaction
from services.bus.work import Work

_LIST: Final = """
SELECT id, consumer, stream, partition, "offset", key, aggregate, event_id, type, tenant, error, attempts, first_at,
       last_at, state, reason, traceparent, correlation_id FROM dead_letters
WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR stream = $3)
ORDER BY id DESC LIMIT $4
"""
_HEAD_OPEN: Final = "SELECT 1 FROM dead_letters WHERE consumer = $1 AND aggregate = $2 AND state = 'open'"
_LOCK_KEY: Final = "SELECT key FROM parked_keys WHERE consumer = $1 AND key = $2 FOR UPDATE"
_STALLED: Final = """
SELECT key FROM parked_keys AS k WHERE consumer = $1 AND NOT EXISTS (
    SELECT 1 FROM dead_letters AS d WHERE d.consumer = k.consumer AND d.aggregate = k.key AND d.state = 'open')
"""


class NotOpen(Exception):
    """There is no such open dead letter."""


class ReplayFailed(Exception):
    """The handler failed again; the dead letter stays open with the new cause."""


@final
class DeadLetters:
    """Replays through the handlers of this build. Locks in the order parked key → dead letter → inbox."""

    def __init__(self, work: Work, consumers: Mapping[str, Consumer]) -> None:
        self._work, self._consumers = work, consumers

    async def listed(
        self, tenant: str | None, state: str | None, stream: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Newest first, without payloads."""
        return [dict(row) for row in await self._work.pool.fetch(_LIST, tenant, state, stream, limit)]

    async def shown(self, letter_id: str, *, payload: bool) -> dict[str, Any]:
        """One dead letter; its headers and body only on request and never those of a personal stream."""
        row = await self._work.pool.fetchrow("SELECT * FROM dead_letters WHERE id = $1", letter_id)
        if row is None:
            raise NotOpen(f"dead letter {letter_id} does not exist")
        letter = dict(row)
        stored = letter.pop("record")
        if payload and stored is not None and not self._work.seal.is_personal(row["stream"]):
            record = unpack(stored)
            letter["payload"] = _readable(record.value)
            letter["headers"] = [(name, _readable(value)) for name, value in record.headers]
        return letter

    async def replay(self, letter_id: str) -> int:
        """Run the handler on an open dead letter (no inbox row: it has one) and drain what waits behind it.

        Returns how many waiting events were drained. Raises `NotOpen` or `ReplayFailed`.
        """
        try:
            async with self._work.transaction() as tx:
                letter = await self._locked(tx.connection, letter_id)
                if letter["record"] is None:
                    raise Poison("the record was erased: discard it")
                await self._handle(self._read(letter["stream"], letter["record"]), tx)
                await tx.connection.execute(
                    "UPDATE dead_letters SET state = 'replayed', attempts = attempts + 1, last_at = now() "
                    "WHERE id = $1",
                    letter_id,
                )
        except NotOpen:
            raise
        except Exception as failure:
            await self._work.pool.execute(
                "UPDATE dead_letters SET attempts = attempts + 1, last_at = now(), error = $2 "
                "WHERE id = $1 AND state = 'open'",
                letter_id, describe(failure),
            )  # fmt: skip
            raise ReplayFailed(f"the replay failed, the dead letter stays open: {describe(failure)}") from failure
        return await self.drain(letter["aggregate"])

    async def discard(self, letter_id: str, reason: str) -> int:
        """Give an open dead letter up, for a reason that is kept, and drain what waits behind it."""
        async with self._work.transaction() as tx:
            letter = await self._locked(tx.connection, letter_id)
            await tx.connection.execute(
                "UPDATE dead_letters SET state = 'discarded', reason = $2, last_at = now() WHERE id = $1",
                letter_id, reason,
            )  # fmt: skip
        return await self.drain(letter["aggregate"])

    async def erase(self, correlation_id: str) -> int:
        """Forget the records of a flow on personal streams: their dead letters are discarded, waiting ones removed."""
        personal = [stream for stream in self._consumers if self._work.seal.is_personal(stream)]
        async with self._work.transaction() as tx:
            erased = await tx.connection.fetch(
                "UPDATE dead_letters SET record = NULL, key = NULL, last_at = now(), "
                "reason = CASE state WHEN 'open' THEN 'erased' ELSE reason END, "
                "state = CASE state WHEN 'open' THEN 'discarded' ELSE state END "
                "WHERE correlation_id = $1 AND stream = ANY($2::text[]) RETURNING id",
                correlation_id, personal,
            )  # fmt: skip
            removed = await tx.connection.fetch(
                "DELETE FROM parked WHERE correlation_id = $1 AND stream = ANY($2::text[]) RETURNING arrival",
                correlation_id, personal,
            )  # fmt: skip
        await self.drain_stalled()
        return len(erased) + len(removed)

    async def drain_stalled(self) -> None:
        """Go on with keys whose head is solved: after a crash in the middle, or a database that was away."""
        for row in await self._work.pool.fetch(_STALLED, self._work.service):
            await self.drain(row["key"])

    async def drain(self, aggregate: str | None) -> int:
        """Events of a key in order, one transaction each, until none is left or one fails; then the key is free."""
        drained = 0
        while aggregate is not None:
            head: Any = None
            step: Incoming | None = None
            try:
                async with self._work.transaction() as tx:
                    head = await self._head(tx.connection, aggregate)
                    if head is None:
                        return drained
                    step = self._read(head["stream"], head["record"])
                    if await self._claimed(tx, step):
                        await self._handle(step, tx)
                    await tx.connection.execute("DELETE FROM parked WHERE arrival = $1", head["arrival"])
            except Exception as failure:
                if step is None or kind_of(failure) is Kind.CONNECTION or not await self._work.database_writes():
                    raise
                if await self._entomb(aggregate, head["arrival"], step, describe(failure)):
                    return drained
            drained += 1
        return drained

    async def _head(self, connection: Any, aggregate: str) -> Any:
        """The next waiting record of a locked key; None if it may not go on, or is free now.

        Every look is a statement of its own after the lock: `FOR SHARE` of a consumer against one single
        `DELETE … WHERE NOT EXISTS` would strand an event for ever.
        """
        service = self._work.service
        if not await connection.fetchval(_LOCK_KEY, service, aggregate):
            return None
        if await connection.fetchval(_HEAD_OPEN, service, aggregate):
            return None
        head = await connection.fetchrow(
            "SELECT arrival, stream, record FROM parked WHERE consumer = $1 AND key = $2 ORDER BY arrival LIMIT 1",
            service, aggregate,
        )  # fmt: skip
        if head is None:
            await connection.execute("DELETE FROM parked_keys WHERE consumer = $1 AND key = $2", service, aggregate)
        return head

    async def _entomb(self, aggregate: str, arrival: int, step: Incoming, error: str) -> bool:
        """A waiting record that failed becomes the new head of its key: its dead letter, with its inbox row.

        False if it has a dead letter already: it came again, behind itself, and the key can go on.
        """
        buried = False
        async with self._work.transaction() as tx:
            await tx.connection.fetchval(_LOCK_KEY, self._work.service, aggregate)
            removed = await tx.connection.fetchval("DELETE FROM parked WHERE arrival = $1 RETURNING 1", arrival)
            if removed and await self._claimed(tx, step):
                step.aggregate = aggregate
                buried = await inbox.dead_letter(tx, self._work.service, step, error, self._work.seal)
        self._work.metrics.records.labels(step.record.topic, "dead" if buried else "duplicate").inc()
        return buried

    async def _claimed(self, tx: Transaction, step: Incoming) -> bool:
        """Whether the event is new. One that waited beyond the inbox's days, or is undecodable, has no inbox row."""
        if step.identity is None or step.identity[0] < (tx.now - self._work.horizon).date():
            return True
        return bool(await inbox.claim(tx.connection, self._work.service, [step]))

    async def _handle(self, event: Incoming, tx: Transaction) -> None:
        if event.verdict is Verdict.SKIPPED:
            return
        if event.received is None:
            raise Poison(event.error)
        await self._consumers[event.record.topic].handle([event.received], tx, replayed=True)

    async def _locked(self, connection: Any, letter_id: str) -> Any:
        """An open dead letter under lock, its key locked before it."""
        aggregate = await connection.fetchval("SELECT aggregate FROM dead_letters WHERE id = $1", letter_id)
        await connection.fetchval(_LOCK_KEY, self._work.service, aggregate)
        letter = await connection.fetchrow(
            "SELECT * FROM dead_letters WHERE id = $1 AND state = 'open' FOR UPDATE", letter_id
        )
        if letter is None:
            raise NotOpen(f"dead letter {letter_id} does not exist or is not open")
        return letter

    def _read(self, stream: str, stored: bytes) -> Incoming:
        return self._consumers[stream].reader.read(unpack(self._work.seal.opened(stream, stored)), None)


def _readable(part: bytes | None) -> str | None:
    return None if part is None else part.decode(errors="backslashreplace")

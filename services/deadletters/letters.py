"""What becomes of dead letters, and how an aggregate gets going again: replay, replace, discard, drain, erase."""

from collections.abc import Mapping
from typing import Any, Final, final

from services.bus import inbox
from services.bus.consumer import Consumer
from services.bus.failures import Kind, Poison, describe, kind_of
from services.bus.record import AHEAD, Incoming, Packed, Verdict, pack, unpack
from services.bus.transaction import Transaction
from services.bus.work import Work
from services.deadletters import lists

DRAIN_AT_ONCE: Final = 1_000
"""Events of a key that are drained in one go; the next round of housekeeping goes on with the rest."""

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


class ForPerson(ReplayFailed):
    """The dead letter was replayed in vain too often: a person has to look at it first."""


class _RolledBack(Exception):
    """Everything that a dry run did is undone."""


@final
class DeadLetters:
    """Replays through the handlers of this build. Locks in the order parked key → dead letter → inbox."""

    def __init__(self, work: Work, consumers: Mapping[str, Consumer]) -> None:
        self._work, self._consumers = work, consumers

    async def replay(self, letter_id: str, *, again: bool = False) -> int:
        """Run the handler on an open dead letter and drain what waits behind it. The event keeps its id.

        Returns how many waiting events were drained. `again` replays one that failed too often, too. Raises `NotOpen`,
        or `ReplayFailed` after counting the try; a database that is away counts as none and is raised as it comes.
        """
        try:
            async with self._work.transaction() as tx:
                letter = await self._replay(letter_id, tx, again=again)
                await tx.connection.execute(
                    "UPDATE dead_letters SET state = 'replayed', last_at = now(), "
                    "attempts = attempts + CASE WHEN record IS NULL THEN 0 ELSE 1 END WHERE id = $1",
                    letter_id,
                )
        except (NotOpen, ForPerson):
            raise
        except Exception as failure:
            cause = await self._cause(failure)
            await self._work.pool.execute(
                "UPDATE dead_letters SET attempts = attempts + 1, last_at = now(), error = $2 "
                "WHERE id = $1 AND state = 'open'",
                letter_id, cause,
            )  # fmt: skip
            raise ReplayFailed(f"the replay failed, the dead letter stays open: {cause}") from failure
        return await self.drain(letter["aggregate"])

    async def tried(self, letter_id: str, *, again: bool = False) -> int:
        """A replay that is rolled back at its end and counts as none; returns how many events wait behind the letter.

        Raises as `replay` does.
        """
        try:
            async with self._work.transaction() as tx:
                letter = await self._replay(letter_id, tx, again=again)
                if letter["record"] is None:
                    raise Poison(f"only {letter['stream']} itself can tell, when it reads the record again")
                raise _RolledBack
        except _RolledBack:
            return await lists.waiting(self._work, letter["aggregate"])
        except (NotOpen, ForPerson):
            raise
        except Exception as failure:
            raise ReplayFailed(f"the dry run failed: {await self._cause(failure)}") from failure

    async def replace(
        self, letter_id: str, body: str, headers: Mapping[str, str], *, author: str, reason: str
    ) -> tuple[str, int]:
        """Handle a new event in the place of an open dead letter, which is closed, kept, and says who wanted it.

        The new event has the old one's key and headers, changed by `headers`, an id of its own, and tells what it
        replaces. Only this service sees it. Returns its id and how many waiting events were drained behind it. Raises
        `NotOpen`, or `ReplayFailed` when the new event cannot be handled either: then nothing was changed.
        """
        try:
            async with self._work.transaction() as tx:
                letter = await self._locked(tx.connection, letter_id)
                given = {**headers, "ce_id": tx.new_id(), "ce_author": author, "ce_reason": reason}
                record = self._rewritten(letter, body.encode(), given)
                step = self._consumers[record.topic].reader.read(record, None)
                if step.verdict is Verdict.SKIPPED:
                    raise Poison(
                        f"{self._work.service} does not handle {step.headers['ce_type']}: give another ce_type"
                    )
                if letter["aggregate"] not in (None, step.aggregate):
                    raise Poison(f"the new event is of {step.aggregate}, what waits is of {letter['aggregate']}")
                # Without an inbox row: nothing can bring this event again.
                await self._handle(step, tx)
                await tx.connection.execute(
                    "UPDATE dead_letters SET state = 'replaced', author = $2, reason = $3, replaced_by = $4, "
                    "replacement = $5, last_at = now() WHERE id = $1",
                    letter_id, author, reason, given["ce_id"], self._work.seal.sealed(record.topic, pack(record)),
                )  # fmt: skip
        except NotOpen:
            raise
        except Exception as failure:
            cause = await self._cause(failure)
            raise ReplayFailed(f"the new event cannot be handled either, nothing was changed: {cause}") from failure
        return given["ce_id"], await self.drain(letter["aggregate"])

    async def discard(self, letter_id: str, *, reason: str, author: str) -> int:
        """Give an open dead letter up, for a reason that is kept, and drain what waits behind it."""
        async with self._work.transaction() as tx:
            letter = await self._locked(tx.connection, letter_id)
            await tx.connection.execute(
                "UPDATE dead_letters SET state = 'discarded', reason = $2, author = $3, last_at = now() WHERE id = $1",
                letter_id, reason, author,
            )  # fmt: skip
        return await self.drain(letter["aggregate"])

    async def erase(self, correlation_id: str) -> int:
        """Forget the records of a flow on personal streams: their dead letters are discarded, waiting ones removed."""
        personal = [stream for stream in self._consumers if self._work.seal.is_personal(stream)]
        async with self._work.transaction() as tx:
            erased = await tx.connection.fetch(
                "UPDATE dead_letters SET record = NULL, replacement = NULL, key = NULL, last_at = now(), "
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
        """Events of a key in order, one transaction each, until none is left or one fails; then the key is free.

        At most `DRAIN_AT_ONCE`; returns how many.
        """
        drained = 0
        while aggregate is not None and drained < DRAIN_AT_ONCE:
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

    async def _replay(self, letter_id: str, tx: Transaction, *, again: bool) -> Any:
        """Run the handler on a letter and return it. Its inbox row was written with it, unless it parks nothing:
        then the event may have come by another way meanwhile, and took effect there."""
        letter = await self._locked(tx.connection, letter_id)
        if letter["attempts"] > lists.REPLAYS_MAX and not again:
            raise ForPerson(
                f"dead letter {letter_id} was handled in vain {letter['attempts']} times, last: {letter['error']}: "
                "look at it, then replay it with --again, replace or discard it"
            )
        if letter["record"] is None:
            # The service keeps the record itself; its own loop follows what became of the letter.
            return letter
        event = self._read(letter["stream"], letter["record"])
        if letter["aggregate"] is not None or await self._claimed(tx, event):
            await self._handle(event, tx)
        return letter

    def _rewritten(self, letter: Any, body: bytes, given: Mapping[str, str]) -> Packed:
        """The record of a letter with another body, and with headers `given` over those of its own that are text."""
        if letter["record"] is None:
            raise Poison(f"{letter['stream']} is no stream: what it keeps can be replayed or discarded, not replaced")
        old = self._unpacked(letter["stream"], letter["record"])
        old_id = letter["event_id"]
        readable = self._consumers[letter["stream"]].reader.read(old, None).headers
        headers = {**readable, **given, "ce_causationid": old_id, "ce_replaces": old_id}
        kept = [(name, value.encode()) for name, value in headers.items() if value]
        return old._replace(value=body, headers=kept)

    async def _cause(self, failure: Exception) -> str:
        """Why a record cannot be handled. Raises `ConnectionError` where it was not the record's fault."""
        if kind_of(failure) is Kind.CONNECTION or not await self._work.database_writes():
            raise ConnectionError(describe(failure)) from failure
        return describe(failure)

    async def _claimed(self, tx: Transaction, step: Incoming) -> bool:
        """Whether the event is new. One that waited beyond the inbox's days, or is undecodable, has no inbox row."""
        if step.identity and step.identity[0] > (tx.now - AHEAD).date():
            raise Poison(f"ce_time is of {step.identity[0]}: replay it when that day has come, or replace it")
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
        record = self._unpacked(stream, stored)
        return self._consumers[stream].reader.read(record, None)

    def _unpacked(self, stream: str, stored: bytes) -> Packed:
        if stream not in self._consumers:
            raise Poison(
                f"this build of {self._work.service} does not read {stream}: discard it, or bring the reader back"
            )
        return unpack(self._work.seal.opened(stream, stored))

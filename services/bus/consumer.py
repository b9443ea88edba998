"""One stream, one consumer: a batch of records is one transaction; what fails is tried again, alone, then buried.

Every record ends in exactly one of: done, skipped, parked, dead-lettered. Offsets follow the commit. FastStream
swallows what a handler raises and would go on past it, so nothing but a cancellation leaves `Consumer.take`.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any, Final, final

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from opentelemetry.trace import Span

from contracts.catalogue import Catalogue
from contracts.envelope import Message
from services.bus import inbox
from services.bus.failures import DATABASE_ERRORS, Backoff, Halt, Kind, Poison, describe, kind_of, waited
from services.bus.record import Aggregate, Incoming, Reader, Record, Verdict
from services.bus.sealing import Seal
from services.bus.transaction import Received, Transaction
from services.bus.work import Work

Handler = Callable[[Sequence[Any], Transaction], Awaitable[None]]

RECORD_TRIES: Final = 5
BRAKE_KEYS: Final = 20
BRAKE_RATIO: Final = 0.05
BRAKE_RECORDS: Final = 1_000
BRAKE_WINDOW: Final = timedelta(minutes=5)
STALL_S: Final = 60.0

_log = structlog.get_logger("saldo.bus")


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a service reads of one stream.

    `handles` are models in their newest major. `handler(events, tx)` gets a batch in order and the open transaction.
    `aggregate(key, headers)` names what is parked together, without more the key; it never sees the body.
    """

    stream: str
    handles: tuple[type[Message], ...]
    handler: Handler
    aggregate: Aggregate = lambda key, _: key


def each(handler: Callable[[Received[Any], Transaction], Awaitable[None]]) -> Handler:
    """A batch handler out of one for a single event; it is still one transaction a batch."""

    async def batch(events: Sequence[Received[Any]], tx: Transaction) -> None:
        for event in events:
            await handler(event, tx)

    return batch


class Stopped(Exception):
    """The service is shutting down: what is not committed will be delivered again."""


class _ParkedMeanwhile(Exception):
    """Another stream parked the same aggregate: the record has to run the whole path again."""


@final
class Consumer:
    """Takes the records of one subscription. `stop` ends its waits; `reason` says why it is not ready, if so."""

    def __init__(
        self, subscription: Subscription, work: Work, seal: Seal, catalogue: Catalogue, horizon: timedelta
    ) -> None:
        self.stream, self.handler = subscription.stream, subscription.handler
        self.name = work.service
        self.group_id = f"{work.service}.{subscription.stream}"
        self.reader = Reader(subscription.stream, subscription.handles, subscription.aggregate, catalogue, horizon)
        self.stop = asyncio.Event()
        self.waiting = self.halted = ""
        self.braked = False
        self.subscriber: Any = None
        self.progress_at = time.monotonic()
        self._next: dict[TopicPartition, int] = {}
        self._work, self._seal = work, seal
        self._taken = 0
        self._poisoned: deque[tuple[int, datetime, str]] = deque(maxlen=BRAKE_RECORDS)
        names = ("done", "duplicate", "skipped", "parked", "dead")
        self._outcomes = {name: work.metrics.records.labels(self.stream, name) for name in names}

    async def take(self, records: Sequence[Record]) -> None:
        """Bring a batch to its end and commit its offsets; returns without the commit only when stopped."""
        began, self.progress_at = time.perf_counter(), time.monotonic()
        try:
            if self.braked:
                await self._hold_brake()
            now = self._work.clock()
            batch = [self.reader.read(record, now) for record in records]
            self._taken += len(batch)
            for segment in _segments(batch):
                await self._settle(segment)
            self._work.faults.point("offsets.before")
            await self._commit_offsets(records)
            self._work.faults.point("offsets.after")
        except Stopped:
            return
        except Halt as halt:
            await self._hold(str(halt))
        except Exception as failure:  # noqa: BLE001 - nothing may leave, or FastStream goes on past the batch
            await self._hold(f"fault of the bus: {describe(failure)}", failure)
        self.progress_at = time.monotonic()
        self._work.metrics.batch_records.labels(self.stream).observe(len(records))
        self._work.metrics.process_seconds.labels(self.stream).observe(time.perf_counter() - began)

    async def _settle(self, batch: list[Incoming]) -> None:
        ended = False
        while not ended:
            try:
                await self._persist(partial(self._attempt, batch))
                ended = True
            except Stopped:
                raise
            except Exception as failure:  # noqa: BLE001 - whatever a handler raises: this is where it is judged
                if len(batch) == 1:
                    ended = await self._failed_alone(batch[0], failure)
                    continue
                error = describe(failure)
                _log.warning("batch failed, its records go alone", stream=self.stream, records=len(batch), error=error)
                for event in batch:
                    await self._settle([event])
                ended = True

    async def _persist(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Try again what passes by itself: for ever on the connection class, five times on the record class."""
        cap_s, tries = self._work.settings.backoff_cap_s, 0
        # Few tries have to outlast what they wait for, somebody's lock: their pauses grow to the lock timeout's order.
        backoffs = {Kind.CONNECTION: Backoff(self.stop, cap_s), Kind.RECORD: Backoff(self.stop, cap_s, growth=5)}
        while not self.stop.is_set():
            try:
                await attempt()
            except Exception as failure:
                kind = kind_of(failure)
                tries += kind is Kind.RECORD
                if kind is Kind.OTHER or tries >= RECORD_TRIES:
                    raise
                if kind is Kind.CONNECTION:
                    self.waiting = describe(failure)
                    _log.warning("waiting", stream=self.stream, error=self.waiting)
                self._work.metrics.waits.labels(self.stream, kind.value).inc()
                await backoffs[kind].wait()
            else:
                self.waiting = ""
                return
        raise Stopped

    async def _attempt(self, batch: list[Incoming]) -> None:
        """The whole path, once: parked keys, inbox, handler, outbox, commit."""
        work, counts = self._work, dict.fromkeys(self._outcomes, 0)
        spans: dict[str, Span] = {}
        start_ns = time.time_ns()
        async with work.transaction(spans) as tx:
            parked_keys = await inbox.locked_keys(tx.connection, self.name, batch)
            events = []
            if parked_keys:
                held = [event for event in batch if event.aggregate in parked_keys]
                waiting = [event for event in held if event.verdict is not Verdict.SKIPPED]
                await inbox.park(tx.connection, self.name, waiting, self._seal)
                counts["parked"] = len(waiting)
            for event in batch:
                if event.verdict is Verdict.EVENT:
                    if event.aggregate not in parked_keys:
                        events.append(event)
                elif event.verdict is Verdict.SKIPPED:
                    counts["skipped"] += 1
                elif event.verdict is Verdict.REFUSED:
                    buried = await inbox.dead_letter(tx, self.name, event, event.error, self._seal)
                    counts["dead" if buried else "duplicate"] += 1
                elif event.aggregate not in parked_keys:
                    raise Poison(event.error)
            work.faults.point("inbox.before")
            fresh = await inbox.claim(tx.connection, self.name, events)
            work.faults.point("inbox.after")
            counts["done"] = len(fresh)
            counts["duplicate"] += len(events) - len(fresh)
            received: list[Received[Any]] = [event.received for event in fresh if event.received]
            spans.update(work.tracing.processing(self.group_id, self.stream, received, start_ns))
            work.faults.point("handler.before")
            if received:
                await self.handler(received, tx)
            work.faults.point("handler.after")
        for outcome, count in counts.items():
            if count:
                self._outcomes[outcome].inc(count)

    async def _failed_alone(self, event: Incoming, failure: Exception) -> bool:
        """Poison is what fails alone while the database can write; anything else is waited for. False: try again."""
        if not await self._work.database_writes():
            self.waiting = "the database cannot write"
            await waited(self.stop, self._work.settings.backoff_cap_s)
            return False
        if await self._brakes(event, failure):
            return False
        try:
            await self._persist(partial(self._bury, event, describe(failure)))
        except _ParkedMeanwhile:
            return False
        return True

    async def _bury(self, event: Incoming, error: str) -> None:
        """One transaction: claim the inbox row; only with it, park the aggregate and write the dead letter."""
        try:
            async with self._work.transaction() as tx:
                if event.identity and not await inbox.claim(tx.connection, self.name, [event]):
                    raise _Superfluous
                if event.aggregate and not await inbox.park_key(tx.connection, self.name, event.aggregate):
                    raise _ParkedMeanwhile
                if not await inbox.dead_letter(tx, self.name, event, error, self._seal):
                    raise _Superfluous
        except _Superfluous:
            self._outcomes["duplicate"].inc()
            return
        self._outcomes["dead"].inc()
        _log.error(
            "dead letter", stream=self.stream, partition=event.record.partition, offset=event.record.offset,
            event_id=event.headers.get("ce_id", "")[:200], error=error,
        )  # fmt: skip

    async def _brakes(self, event: Incoming, failure: Exception) -> bool:
        """Count one poisoned record; too many are a bad deploy, not bad data: stop, park nothing more.

        True after the brake was engaged and released again.
        """
        now = self._work.clock()
        self._poisoned.append((self._taken, now, event.aggregate or ""))
        recent = [entry for entry in self._poisoned if now - entry[1] <= BRAKE_WINDOW]
        keys = {key for _, _, key in recent}
        of_last = sum(1 for taken, _, _ in recent if taken > self._taken - BRAKE_RECORDS)
        if len(keys) <= BRAKE_KEYS and not (self._taken >= BRAKE_RECORDS and of_last >= BRAKE_RATIO * BRAKE_RECORDS):
            return False
        reason = f"{len(keys)} keys and {of_last} of the last records poisoned, last: {describe(failure)}"
        await self._persist(partial(self._engage, reason))
        await self._hold_brake()
        return True

    async def _engage(self, reason: str) -> None:
        await self._work.pool.execute(
            "INSERT INTO brakes (consumer, stream, build, reason) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            self.name, self.stream, self._work.settings.build, reason,
        )  # fmt: skip
        await self._read_brake()

    async def load_brake(self) -> None:
        """At the start: a brake of another build is released, one of this build holds from the first record."""
        self.waiting = ""
        await self._work.pool.execute(
            "DELETE FROM brakes WHERE consumer = $1 AND stream = $2 AND build <> $3",
            self.name, self.stream, self._work.settings.build,
        )  # fmt: skip
        await self._read_brake()

    async def _read_brake(self) -> None:
        reason = await self._work.pool.fetchval(
            "SELECT reason FROM brakes WHERE consumer = $1 AND stream = $2", self.name, self.stream
        )
        self.braked = reason is not None
        self.halted = f"brake: {reason}; deploy a fixed build or resume the consumer" if self.braked else ""

    async def _hold_brake(self) -> None:
        """Wait until a person resumes the consumer, which removes the row."""
        _log.critical("consumer stopped", stream=self.stream, reason=self.halted)
        while self.braked:
            if await waited(self.stop, 0.5):
                raise Stopped
            with contextlib.suppress(*DATABASE_ERRORS):
                await self._read_brake()
        self._poisoned.clear()

    async def _hold(self, reason: str, fault: Exception | None = None) -> None:
        """Stand still until the process ends: offsets stay, the next build reads the same records."""
        self.halted = reason
        _log.critical("consumer stopped", stream=self.stream, reason=reason, exc_info=fault)
        await self.stop.wait()

    async def _commit_offsets(self, records: Sequence[Record]) -> None:
        kafka = self.subscriber.consumer
        offsets: dict[TopicPartition, int] = {}
        for record in records:
            offsets[TopicPartition(record.topic, record.partition)] = record.offset + 1
        try:
            await kafka.commit(offsets)
        except (KafkaError, IllegalStateError) as failure:
            # The group was rebalanced meanwhile: the records come again and the inbox knows them.
            self._work.metrics.commit_failures.labels(self.stream).inc()
            _log.warning("offsets not committed", stream=self.stream, error=describe(failure))
        self._next.update(offsets)
        self.lags()

    def _assignment(self) -> set[TopicPartition]:
        kafka = self.subscriber and self.subscriber.consumer
        return kafka.assignment() if kafka else set()

    def lags(self) -> dict[int, int]:
        """How many records each assigned partition is behind, as far as it was read from; also sets the gauge."""
        lags = {}
        for position in self._assignment() & self._next.keys():
            lag = max(0, (self.subscriber.consumer.highwater(position) or 0) - self._next[position])
            lags[position.partition] = lag
            self._work.metrics.lag.labels(self.stream, position.partition).set(lag)
        return lags

    @property
    def reason(self) -> str:
        """Why this consumer is not ready; empty if it is."""
        if self.halted or self.waiting:
            return self.halted or self.waiting
        if not self._assignment():
            return "no partition assigned"
        idle_s, lag = time.monotonic() - self.progress_at, sum(self.lags().values())
        return f"no progress for {idle_s:.0f} s with lag {lag}" if lag and idle_s > STALL_S else ""


class _Superfluous(Exception):
    """The record took effect or was buried already: nothing is written."""


def _segments(batch: list[Incoming]) -> Iterator[list[Incoming]]:
    """The batch cut at unreadable records, so that one of them does not send all others through alone."""
    for unreadable, group in groupby(batch, key=lambda event: event.verdict is Verdict.UNREADABLE):
        events = list(group)
        yield from ([event] for event in events) if unreadable else [events]

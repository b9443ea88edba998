"""One stream, one consumer: a batch of records is one transaction; what fails is tried again, alone, then buried.

Every record ends in exactly one of: done, skipped, parked, dead-lettered. Offsets follow the commit. FastStream
swallows what a handler raises and would go on past it, so nothing but a cancellation leaves `Consumer.take`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Final, final

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from contracts.envelope import Message
from services.bus import inbox
from services.bus.brake import Brake
from services.bus.failures import Backoff, Halt, Kind, Poison, describe, kind_of, waited
from services.bus.record import Aggregate, Incoming, Reader, Record, Verdict
from services.bus.transaction import Received, Transaction
from services.bus.work import Work

Handler = Callable[[Sequence[Any], Transaction], Awaitable[None]]

RECORD_TRIES: Final = 5
STALL_S: Final = 60.0
BACKLOG_RECORDS: Final = 1_000
BACKLOG_STALE_S: Final = 5.0

_log = structlog.get_logger("saldo.bus")


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a service reads of one stream.

    `handles` are models in their newest major. `handler(events, tx)` gets a batch in order and the open transaction.
    `aggregate(key, headers)` names what is parked together, without more the key; it never sees the body. A reader that
    nobody waits for rests for `linger_s` between two batches, and does in one transaction what came meanwhile.
    """

    stream: str
    handles: tuple[type[Message], ...]
    handler: Handler
    aggregate: Aggregate = lambda key, _: key
    linger_s: float = 0.0


class Stopped(Exception):
    """The service is shutting down: what is not committed will be delivered again."""


class _ParkedMeanwhile(Exception):
    """Another stream parked the same aggregate: the record has to run the whole path again."""


@final
class Consumer:
    """Takes the records of one subscription. `stop` ends its waits; `reason` says why it is not ready, if so."""

    def __init__(self, subscription: Subscription, work: Work) -> None:
        self.stream, self.linger_s, self._handler = subscription.stream, subscription.linger_s, subscription.handler
        self.group_id = f"{work.service}.{subscription.stream}"
        self.reader = Reader(self.stream, subscription.handles, subscription.aggregate, work.catalogue, work.horizon)
        self.brake = Brake(work, self.stream)
        self.stop = asyncio.Event()
        self.waiting = self.halted = ""
        self.subscriber: Any = None
        self.progress_at = time.monotonic()
        self._next: dict[TopicPartition, int] = {}
        self._work, self._name = work, work.service
        names = ("done", "duplicate", "skipped", "parked", "dead")
        self._outcomes = {name: work.metrics.records.labels(self.stream, name) for name in names}

    async def begin(self, subscriber: Any) -> None:
        """Take records from a new subscriber of FastStream, again or for the first time."""
        await self.brake.load()
        self.waiting = self.halted = ""
        self._next.clear()
        self.stop.clear()
        self.subscriber = subscriber
        subscriber(self.take)

    async def take(self, records: Sequence[Record]) -> None:
        """Bring a batch to its end and commit its offsets; returns without the commit only when stopped."""
        began, self.progress_at = time.perf_counter(), time.monotonic()
        try:
            if self.brake.reason:
                await self._hold_brake()
            now = self._work.clock()
            batch = [self.reader.read(record, now) for record in records]
            self.brake.taken += len(batch)
            concerning = [event for event in batch if event.verdict is not Verdict.SKIPPED]
            self._outcomes["skipped"].inc(len(batch) - len(concerning))
            for segment in _segments(concerning):
                await self._settle(segment)
            self._work.faults.point("offsets.before")
            await self._commit_offsets(records)
            self._work.faults.point("offsets.after")
        except Stopped:
            return
        except Halt as halt:
            await self.hold(str(halt))
        except Exception as failure:  # noqa: BLE001 - nothing may leave, or FastStream goes on past the batch
            await self.hold(f"fault of the bus: {describe(failure)}", failure)
        self.progress_at = time.monotonic()
        self._work.metrics.batch_records.labels(self.stream).observe(len(records))
        self._work.metrics.process_seconds.labels(self.stream).observe(time.perf_counter() - began)

    async def _settle(self, batch: list[Incoming]) -> None:
        while True:
            try:
                await self._persist(partial(self._attempt, batch))
                return
            except Stopped:
                raise
            except Exception as failure:  # noqa: BLE001 - whatever a handler raises: this is where it is judged
                if len(batch) == 1:
                    if await self._failed_alone(batch[0], failure):
                        return
                    continue
                error = describe(failure)
                _log.warning("batch failed, its records go alone", stream=self.stream, records=len(batch), error=error)
                for event in batch:
                    await self._settle([event])
                return

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
        start_ns = time.time_ns()
        async with work.transaction() as tx:
            parked_keys = await inbox.locked_keys(tx.connection, self._name, batch)
            events, parked = [], []
            for event in batch:
                if event.verdict is Verdict.REFUSED:
                    buried = await inbox.dead_letter(tx, self._name, event, event.error, work.seal)
                    counts["dead" if buried else "duplicate"] += 1
                elif event.aggregate in parked_keys:
                    parked.append(event)
                elif event.verdict is Verdict.UNREADABLE:
                    raise Poison(event.error)
                else:
                    events.append(event)
            if parked:
                await inbox.park(tx.connection, self._name, parked, work.seal)
            counts["parked"] = len(parked)
            work.faults.point("inbox.before")
            fresh = await inbox.claim(tx.connection, self._name, events)
            work.faults.point("inbox.after")
            counts["done"] = len(fresh)
            counts["duplicate"] += len(events) - len(fresh)
            received: list[Received[Any]] = [event.received for event in fresh if event.received]
            work.faults.point("handler.before")
            if received:
                await self.handle(received, tx, start_ns)
                work.faults.point("handler.after", self.stream)
        for outcome, count in counts.items():
            if count:
                self._outcomes[outcome].inc(count)

    async def handle(
        self, events: Sequence[Received[Any]], tx: Transaction, start_ns: int | None = None, *, replayed: bool = False
    ) -> None:
        """Run the handler on `events`, in spans of theirs that begin at `start_ns`, or now."""
        spans = self._work.tracing.processing(self.group_id, self.stream, events, start_ns, replayed=replayed)
        tx.spans.update(spans)
        await self._handler(events, tx)

    async def _failed_alone(self, event: Incoming, failure: Exception) -> bool:
        """Poison is what fails alone while the database can write; anything else is waited for. False: try again."""
        if not await self._work.database_writes():
            self.waiting = "the database cannot write"
            await waited(self.stop, self._work.settings.backoff_cap_s)
            return False
        if reason := self.brake.count(event.aggregate or "", describe(failure)):
            await self._persist(partial(self.brake.engage, reason))
            await self._hold_brake()
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
                if event.identity and not await inbox.claim(tx.connection, self._name, [event]):
                    raise _Superfluous
                if event.aggregate and not await inbox.park_key(tx.connection, self._name, event.aggregate):
                    raise _ParkedMeanwhile
                if not await inbox.dead_letter(tx, self._name, event, error, self._work.seal):
                    raise _Superfluous
        except _Superfluous:
            self._outcomes["duplicate"].inc()
            return
        self._outcomes["dead"].inc()
        _log.error(
            "dead letter", stream=self.stream, partition=event.record.partition, offset=event.record.offset,
            event_id=event.headers.get("ce_id", "")[:200], error=error,
        )  # fmt: skip

    async def _hold_brake(self) -> None:
        _log.critical("consumer stopped", stream=self.stream, reason=self.brake.reason)
        if not await self.brake.released(self.stop):
            raise Stopped

    async def hold(self, reason: str, fault: Exception | None = None) -> None:
        """Stand still until the process ends: offsets stay, the next build reads the same records."""
        self.halted = reason
        _log.critical("consumer stopped", stream=self.stream, reason=reason, exc_info=fault)
        await self.stop.wait()

    async def _commit_offsets(self, records: Sequence[Record]) -> None:
        kafka = self.subscriber.consumer
        offsets = {TopicPartition(record.topic, record.partition): record.offset + 1 for record in records}
        try:
            await kafka.commit(offsets)
        except (KafkaError, IllegalStateError) as failure:
            # The group was rebalanced meanwhile: the records come again and the inbox knows them.
            self._work.metrics.commit_failures.labels(self.stream).inc()
            _log.warning("offsets not committed", stream=self.stream, error=describe(failure))
        # Of partitions that went to another member nothing is known any more.
        assigned = self._assignment()
        self._next = {position: at for position, at in (self._next | offsets).items() if position in assigned}
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
    def has_backlog(self) -> bool:
        """Whether it gets on with more than a full batch: not while it waits, stands still or is braked."""
        is_moving = time.monotonic() - self.progress_at < BACKLOG_STALE_S
        return is_moving and sum(self.lags().values()) > BACKLOG_RECORDS

    @property
    def reason(self) -> str:
        """Why this consumer is not ready; empty if it is."""
        if cause := self.halted or self.brake.reason or self.waiting:
            return cause
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

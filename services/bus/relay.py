"""From the outbox to Kafka, in order.

Why the first copy of every event arrives in order, whatever happens. Per key, order of rows = order of commits, so a
relay that sees row n of a key sees every earlier row of it that is not yet deleted, and a row is deleted only after the
broker acknowledged all its records. A relay takes the oldest rows, one chunk at a time, and hands their records over as
batches of one partition each, oldest first within it, to an idempotent producer that keeps the order of a partition and
accepts nothing behind a gap; a key has one partition and one slot, and the slots are divided among the shards when rows
are read, not when they are written. It begins the next chunk only when the whole one is acknowledged. So when any relay
sends row n, each earlier row of that key is in the log already or goes out before it from the same relay. A crash
between acknowledgement and delete, two relays at once (a lock lost unnoticed), a changed number of shards or a producer
rebuilt after an unknown outcome can only send a row once more, later: duplicates, which the readers' inboxes absorb.
`republish` puts rows back under their old numbers, for the same reason.

In a rush, while this process works off a backlog and sends urgent topics, those that the numbers of other channels wait
for, it sends only them. One chunk in two seconds is for whatever is oldest, and every chunk while that has waited for
over 20 s. A topic is urgent as a whole, so this changes no order within a key and topic.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, Final, final
from zlib import crc32

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    BrokerResponseError,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    KafkaError,
    OutOfOrderSequenceNumber,
    UnknownProducerId,
)

from services.bus.arrays import array
from services.bus.failures import Backoff, describe, waited
from services.bus.members import Holder
from services.bus.outbox import unpack
from services.bus.work import Work

BUSY_POLL_S: Final = 0.025
IDLE_POLL_S: Final = 0.25
SEND_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 5.0
REFUSALS: Final = 3
REST_S: Final = 2.0
WAIT_LIMIT_S: Final = 20.0
CHANNEL: Final = "saldo_outbox"

_OLDEST: Final = """
SELECT seq, topic, count, records, extract(epoch FROM clock_timestamp() - created_at)::float AS age_s FROM (
    SELECT *, sum(count) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS total
    FROM outbox WHERE slot % $1 = $2 AND ($4::text[] IS NULL OR topic = ANY($4)) ORDER BY seq LIMIT $3
) AS oldest WHERE total - count < $3 ORDER BY seq
"""
"""Rows until they hold `$3` records, of the topics `$4` or of all."""
_MOVE: Final = """
WITH sent AS (DELETE FROM outbox WHERE seq = ANY($1::text::bigint[]) RETURNING *)
INSERT INTO outbox_sent (seq, topic, slot, count, records, created_at)
SELECT seq, topic, slot, count, records, created_at FROM sent WHERE NOT personal
"""
_DELETE: Final = "DELETE FROM outbox WHERE seq = ANY($1::text::bigint[])"
_PRODUCER_STATE: Final = (OutOfOrderSequenceNumber, UnknownProducerId, InvalidProducerEpoch, InvalidProducerIdMapping)

_log = structlog.get_logger("saldo.bus")


def partition_of(key: bytes, partitions: Sequence[int], available: object = ()) -> int:
    """The partition of a key: CRC-32 modulo their number, as librdkafka's `consistent` partitioner has it.

    The signature is that of aiokafka's partitioners, whose own is Murmur2 in Python and twenty times slower."""
    del available
    return crc32(key) % len(partitions)


def new_producer(bootstrap: str) -> AIOKafkaProducer:
    """The one way records are produced: idempotent, acknowledged by all in-sync replicas, no transaction."""
    return AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, partitioner=partition_of, linger_ms=0,
        max_batch_size=128 * 1024, compression_type="zstd", request_timeout_ms=10_000,
    )  # fmt: skip


_Batch = tuple[str, int, Any, set[int]]
"""Topic, partition, the producer's batch, and the `seq` of the rows it has records of."""


class Refused(Exception):
    """The broker does not take the head row, and a new try would not change that."""


@final
class Relay:
    """Sends the rows of one shard while it holds the shard's lock; `reason` says why it is not ready, if so."""

    def __init__(
        self,
        work: Work,
        shard: int,
        producer: Callable[[str], Any] = new_producer,
        in_rush: Callable[[], bool] = lambda: False,
    ) -> None:
        self._work, self._shard, self._producer_of, self._in_rush = work, shard, producer, in_rush
        self._urgent = [stream.name for stream in work.catalogue.streams.values() if stream.urgent]
        self._urgent_at = self._rest_at = 0.0
        # A delete that a crash of the server takes back only sends a row again: it need not wait for the disk.
        dsn = work.settings.postgres_dsn.get_secret_value()
        self._holder = Holder(dsn, "saldo.relay", {"synchronous_commit": "off"})
        self._move = _MOVE if work.settings.outbox_keep_h else _DELETE
        self._wake = asyncio.Event()
        self._told = True
        self._refused: tuple[int, int] = (0, 0)
        self.holds = False
        self.reason = ""

    def wake(self) -> None:
        """Rows were committed: called after every commit of this process."""
        self._told = False
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop`; waits for ever for PostgreSQL and Kafka, ends only on a shard stopped by refusals."""
        backoff = Backoff(stop, self._work.settings.backoff_cap_s)
        while not stop.is_set():
            try:
                await self._holder.open()
                if await self._lock(stop):
                    await self._relay(stop, backoff)
            except Refused as refused:
                self.reason = f"outbox shard {self._shard} stopped: {refused}"
                _log.critical("relay stopped", shard=self._shard, reason=self.reason)
                await stop.wait()
            except Exception as failure:  # noqa: BLE001 - whatever the clients raise, the rows are still there
                self.reason = f"outbox shard {self._shard} waits: {describe(failure)}"
                _log.warning("relay waits", shard=self._shard, error=describe(failure))
                await backoff.wait()
            finally:
                self.holds = False
                await self._holder.close()

    async def _lock(self, stop: asyncio.Event) -> bool:
        """Wait for the shard; meanwhile tell its holder, in another process, once for all commits since last time."""
        while not stop.is_set() and not self._holder.lost.is_set():
            if await self._holder.try_lock(self._shard):
                await self._holder.connection.add_listener(CHANNEL, lambda *_: self._wake.set())
                return True
            self.reason = ""
            if not self._told:
                self._told = True
                await self._holder.fetch("SELECT pg_notify($1, '')", CHANNEL)
            self._wake.clear()
            await waited(self._wake, IDLE_POLL_S)
        return False

    async def _relay(self, stop: asyncio.Event, backoff: Backoff) -> None:
        producer = self._producer_of(self._work.settings.kafka_bootstrap_servers)
        try:
            await producer.start()
            self.holds, self.reason, backoff.tries = True, "", 0
            poll_s = BUSY_POLL_S
            while not self._holder.lost.is_set():
                self._wake.clear()
                sent = await self._chunk(producer)
                if sent >= self._work.settings.relay_chunk:
                    continue
                if not sent and stop.is_set():
                    return
                poll_s = BUSY_POLL_S if sent else min(poll_s * 1.5, IDLE_POLL_S)
                await waited(self._wake, poll_s)
        finally:
            # The old producer flushes when it is stopped, which hangs without a broker: it gets a time of its own.
            with contextlib.suppress(TimeoutError, KafkaError, OSError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await producer.stop()

    async def _chunk(self, producer: Any) -> int:
        """Send the oldest rows and move exactly the acknowledged ones away; raises after moving if one failed.

        Returns the number of records that were sent.
        """
        work, began = self._work, time.perf_counter()
        settings = work.settings
        now = time.monotonic()
        rush = self._in_rush() and now < min(self._urgent_at, self._rest_at) + REST_S
        topics = self._urgent if rush else None
        with work.metrics.claim_seconds.time():
            rows = await self._holder.fetch(_OLDEST, settings.relay_shards, self._shard, settings.relay_chunk, topics)
        if any(row["topic"] in self._urgent for row in rows):
            self._urgent_at = now
        if not rush and not (rows and rows[0]["age_s"] > WAIT_LIMIT_S):
            self._rest_at = now
        if not rows:
            return 0
        work.faults.point("relay.send.before")
        unsent, failure = await self._send(producer, rows)
        work.faults.point("relay.send.after")
        acknowledged = [row for row in rows if row["seq"] not in unsent]
        if acknowledged:
            work.faults.point("relay.mark.before")
            await self._holder.fetch(self._move, array([row["seq"] for row in acknowledged]))
            work.faults.point("relay.mark.after")
            for row in acknowledged:
                work.metrics.sent.labels(row["topic"]).inc(row["count"])
        if failure:
            work.metrics.send_failures.inc()
            self._judge(next(row for row in rows if row["seq"] in unsent), failure)
            raise failure
        work.metrics.send_seconds.observe(time.perf_counter() - began)
        return sum(row["count"] for row in rows)

    async def _send(self, producer: Any, rows: Sequence[Any]) -> tuple[set[int], Exception | None]:
        """The `seq` of the rows that are not acknowledged as a whole, and why.

        The first refusal stops handing over: behind a batch that failed before it had a number, the producer would
        accept the next one of its partition.
        """
        batches: list[_Batch] = []
        futures: list[asyncio.Future[Any]] = []
        failure: Exception | None = None
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                batches = await _batches(producer, rows)
                for topic, partition, batch, _ in batches:
                    if any(future.done() and (future.cancelled() or future.exception()) for future in futures):
                        break
                    futures.append(await producer.send_batch(batch, topic, partition=partition))
                await asyncio.gather(*futures, return_exceptions=True)
        except (KafkaError, OSError) as refused:  # TimeoutError is an OSError
            failure = refused
        unsent: set[int] = set() if batches else {row["seq"] for row in rows}
        for (_, _, _, seqs), future in zip_longest(batches, futures):
            if future is None or not future.done() or future.cancelled():
                failure = failure or TimeoutError("no acknowledgement")
                unsent |= seqs
            elif isinstance(refusal := future.exception(), Exception):
                failure = failure or refusal
                unsent |= seqs
        return unsent, failure

    def _judge(self, head: Any, failure: Exception) -> None:
        """Raise `Refused` when the broker refused the same head row three times."""
        heals = isinstance(failure, _PRODUCER_STATE) or getattr(failure, "retriable", False)
        if isinstance(failure, BrokerResponseError) and not heals:
            (seq, times), at = self._refused, head["seq"]
            self._refused = (at, times + 1 if seq == at else 1)
            if self._refused[1] >= REFUSALS:
                raise Refused(f"row {at} for {head['topic']} was refused {REFUSALS} times: {describe(failure)}")


async def _batches(producer: Any, rows: Sequence[Any]) -> list[_Batch]:
    """The records of the rows in batches; those of a partition follow each other in the order of their rows."""
    partitions = {topic: await producer.partitions_for(topic) for topic in {row["topic"] for row in rows}}
    batches: list[_Batch] = []
    filling: dict[tuple[str, int], _Batch] = {}
    for row in rows:
        seq, topic = row["seq"], row["topic"]
        for key, headers, value in unpack(row["records"]):
            place = topic, partition_of(key, partitions[topic])
            batch = filling.get(place)
            if batch is None or batch[2].append(timestamp=None, key=key, value=value, headers=headers) is None:
                batch = filling[place] = (*place, producer.create_batch(), set())
                batches.append(batch)
                batch[2].append(timestamp=None, key=key, value=value, headers=headers)
            batch[3].add(seq)
    return batches

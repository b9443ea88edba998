"""A service: its consumers, relay, loops and admin listener in one process, from migration to a clean stop."""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import asyncpg
import structlog
import uuid_utils
import uvloop
from aiokafka.errors import KafkaError
from fastapi import APIRouter
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import FAKE_CONSUMER, KafkaMessage

from contracts.catalogue import CATALOGUE, Catalogue
from services.bus import announce
from services.bus.admin import AdminServer, bus_router, create_app
from services.bus.announce import Announcer
from services.bus.consumer import Consumer, Subscription
from services.bus.deadletters import DeadLetters
from services.bus.failures import DATABASE_ERRORS, Backoff, describe, waited
from services.bus.faults import Faults
from services.bus.members import Holder, claim_slot
from services.bus.metrics import Metrics
from services.bus.migrate import migrate
from services.bus.outbox import Outbox
from services.bus.relay import Relay
from services.bus.sealing import Seal
from services.bus.settings import BusSettings
from services.bus.topics import ensure_topics
from services.bus.tracing import Tracing
from services.bus.transaction import Transaction
from services.bus.work import Work

Loop = Callable[["Service"], Awaitable[None]]

UTC_NOW: Final = partial(datetime.now, UTC)
PARTITIONS_AHEAD: Final = timedelta(days=3)
INBOX_MARGIN: Final = timedelta(days=2)
SESSION_TIMEOUT_MS: Final = 30_000
MAX_POLL_INTERVAL_MS: Final = 3_600_000
BATCH_RECORDS: Final = 1_000
BATCH_TIMEOUT_MS: Final = 10
SHUTDOWN_S: Final = 15.0
OUTBOX_AGE_LIMIT_S: Final = 60.0
KEEP_EVERY_S: Final = 2.0
ANNOUNCE_EVERY_S: Final = 5.0

_log = structlog.get_logger("saldo.bus")
_LOST: Final = (*DATABASE_ERRORS, KafkaError)


def uuid7() -> str:
    """A new UUIDv7 (RFC 9562)."""
    return str(uuid_utils.uuid7())


@final
class Service:
    """Runs one service.

    `migrations` is the folder of the service's own NNNN_name.sql. `loops` are cancelled at shutdown and started again
    with backoff when they fail. `announcers` publish the state streams page by page. `routers` answer under /admin.
    """

    def __init__(
        self,
        *,
        name: str,
        settings: BusSettings,
        migrations: Path | None = None,
        subscriptions: Sequence[Subscription] = (),
        loops: Sequence[Loop] = (),
        announcers: Mapping[str, Announcer] | None = None,
        routers: Sequence[APIRouter] = (),
        catalogue: Catalogue = CATALOGUE,
        clock: Callable[[], datetime] = UTC_NOW,
    ) -> None:
        self.name, self.settings, self.catalogue, self.clock = name, settings, catalogue, clock
        self.faults = Faults(settings.faults, settings.environment)
        self.tracing = Tracing(name, settings)
        self.metrics = Metrics()
        self.started, self.stopping = asyncio.Event(), asyncio.Event()
        self.admin: AdminServer | None = None
        self._outbox_age_s = 0.0
        self._migrations, self._loops, self._announcers = migrations, loops, dict(announcers or {})
        streams = [subscription.stream for subscription in subscriptions]
        if len(set(streams)) != len(streams):
            raise ValueError(f"{name} subscribes twice to one stream: one subscription a stream")
        for stream in streams:
            readers = catalogue.streams[stream].readers
            if readers and name not in readers:
                raise ValueError(f"{name} may not read {stream}: only {', '.join(readers)}")
        retention_h = max((catalogue.streams[stream].retention_h for stream in streams), default=0)
        self._horizon = timedelta(hours=retention_h) + INBOX_MARGIN
        outbox = Outbox(name, catalogue, self.tracing)
        self._work = Work(name, settings, outbox, self.tracing, self.faults, self.metrics, clock, uuid7, self._wake)
        seal = Seal(name, streams, catalogue, settings)
        self._consumers = {
            one.stream: Consumer(one, self._work, seal, catalogue, self._horizon) for one in subscriptions
        }
        self.dead_letters = DeadLetters(self._work, seal, self._consumers, self._horizon)
        self._relays = [Relay(self._work, shard) for shard in range(settings.relay_shards)]
        self._routers = [bus_router(self._work, self.dead_letters, self._consumers, self._announcers), *routers]

    @property
    def pool(self) -> "asyncpg.Pool[asyncpg.Record]":
        """The pool of the service's database, while it runs."""
        return self._work.pool

    def transaction(self) -> contextlib.AbstractAsyncContextManager[Transaction]:
        """A transaction for loops and admin commands: commit, outbox and relay's wake-up at the end of the block."""
        return self._work.transaction()

    def stop(self) -> None:
        """Begin the shutdown; `run` returns when it is done."""
        self.stopping.set()

    def main(self) -> None:
        """Run as a process of its own."""
        # What a batch makes lives for milliseconds and has no cycles, while code and schemas live for ever: without
        # this, the collector looks at hundreds of thousands of objects several times a batch and finds nothing. What
        # a full batch holds at once must stay below the threshold: then nothing but garbage with cycles reaches it.
        gc.freeze()
        gc.set_threshold(500_000, 5, 10)
        uvloop.run(self.run())

    async def run(self, *, handle_signals: bool = True) -> None:
        """Run until SIGTERM, SIGINT or `stop`. Waits for its servers; raises on a refused migration or setting."""
        configure_logging(self.settings.log_format, self.name)
        if handle_signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self.stop)
        self.admin = AdminServer(create_app(self.settings, self.reasons, self._work, self._routers), self.settings)
        serving = asyncio.create_task(self.admin.serve())
        background: list[asyncio.Task[None]] = []
        relaying: list[asyncio.Task[None]] = []
        relay_stop = asyncio.Event()
        try:
            if await self._prepare():
                relaying = [asyncio.create_task(relay.run(relay_stop)) for relay in self._relays]
                consuming = asyncio.create_task(self._consume())
                tasks = (Service._keep, Service._announce, *self._loops)
                background = [asyncio.create_task(self._supervised(task)) for task in tasks]
                self.started.set()
                _log.info("started", service=self.name, build=self.settings.build)
                await self.stopping.wait()
                await consuming
        finally:
            self.stopping.set()
            await _cancelled(background)
            relay_stop.set()
            for task in relaying:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(task, SHUTDOWN_S)
            await self._close(serving)
            _log.info("stopped", service=self.name)

    async def _close(self, serving: asyncio.Task[None]) -> None:
        assert self.admin
        self.admin.should_exit = True
        await asyncio.wait({serving}, timeout=5)
        with contextlib.suppress(TimeoutError, asyncpg.InterfaceError):
            await asyncio.wait_for(self.pool.close(), 5)
        await asyncio.to_thread(self.tracing.close)

    async def _prepare(self) -> bool:
        """Migrations, pool, partitions, topics; waits while a server is away. False: stopped before it got so far."""
        backoff = Backoff(self.stopping, self.settings.backoff_cap_s)
        dsn = self.settings.postgres_dsn.get_secret_value()
        while not self.stopping.is_set():
            try:
                await migrate(dsn, self.name, self._migrations)
                await self.pool
                await self._keep_days()
                await ensure_topics(
                    self.settings.kafka_bootstrap_servers, self.catalogue, self.settings.replication_factor
                )
                return True
            except _LOST as failure:
                if isinstance(failure, asyncpg.PostgresError) and failure.sqlstate[:2] in {"28", "3D", "42"}:
                    raise  # A wrong password, database or migration does not pass by itself.
                _log.warning("waiting for the servers", error=describe(failure))
                await backoff.wait()
        return False

    async def _consume(self) -> None:
        """With a slot, this process is a member of its groups; without, it stops before it asks again."""
        backoff = Backoff(self.stopping, self.settings.backoff_cap_s)
        while self._consumers and not self.stopping.is_set():
            holder = Holder(self.settings.postgres_dsn.get_secret_value(), f"saldo.member.{self.name}")
            try:
                await holder.open()
                slot = await claim_slot(holder, self.settings.replicas, self.stopping)
                if slot is not None:
                    await self._member(slot, holder, backoff)
            except Exception as failure:  # noqa: BLE001 - whatever the client raises, a service goes on consuming
                _log.warning("not consuming", error=describe(failure), exc_info=not isinstance(failure, _LOST))
                await backoff.wait()
            finally:
                await holder.close()

    async def _member(self, slot: int, holder: Holder, backoff: Backoff) -> None:
        broker = KafkaBroker(
            self.settings.kafka_bootstrap_servers, consumer_only=True, allow_auto_create_topics=False,
            apply_types=False, graceful_timeout=SHUTDOWN_S, logger=None,
        )  # fmt: skip
        for consumer in self._consumers.values():
            await consumer.load_brake()
            consumer.stop.clear()
            consumer.subscriber = self._subscriber(broker, consumer, slot)
            consumer.subscriber(consumer.take)
        try:
            await broker.start()
            backoff.tries = 0
            waits = {asyncio.create_task(self.stopping.wait()), asyncio.create_task(holder.lost.wait())}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await _cancelled(waits)
        finally:
            for consumer in self._consumers.values():
                consumer.stop.set()
            await broker.stop()

    def _subscriber(self, broker: KafkaBroker, consumer: Consumer, slot: int) -> Any:
        return broker.subscriber(
            consumer.stream, batch=True, group_id=consumer.group_id,
            group_instance_id=f"{self.name}.{consumer.stream}.{slot}", auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL, no_reply=True, max_records=BATCH_RECORDS,
            batch_timeout_ms=BATCH_TIMEOUT_MS, session_timeout_ms=SESSION_TIMEOUT_MS,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS, parser=_passed_through, decoder=_raw_records,
        )  # fmt: skip

    async def _supervised(self, loop: Loop) -> None:
        backoff = Backoff(self.stopping, 30.0)
        while not self.stopping.is_set():
            try:
                await loop(self)
                return
            except Exception as failure:  # noqa: BLE001 - a loop of the service may fail with anything; it begins again
                # By its name alone: what a loop was made with may hold keys.
                name = getattr(getattr(loop, "func", loop), "__qualname__", "")
                _log.error("loop failed, it begins again", loop=name, error=describe(failure), exc_info=True)
                await backoff.wait()

    async def _keep(self) -> None:
        """Housekeeping: gauges, draining that was interrupted, and once an hour the partitions."""
        round_ = 0
        while not await waited(self.stopping, KEEP_EVERY_S):
            round_ += 1
            row = await self.pool.fetchrow(
                "SELECT (SELECT coalesce(sum(count), 0) FROM outbox) AS waiting, "
                "(SELECT count(*) FROM parked_keys) AS parked, "
                "(SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM outbox)::float AS age_s, "
                "(SELECT count(*) FROM dead_letters WHERE state = 'open') AS open"
            )
            assert row
            self.metrics.outbox_records.set(row["waiting"])
            self.metrics.outbox_age.set(row["age_s"])
            self.metrics.parked_keys.set(row["parked"])
            self.metrics.dead_letters.set(row["open"])
            self._outbox_age_s = float(row["age_s"])
            for consumer in self._consumers.values():
                consumer.lags()
            if row["parked"]:
                await self.dead_letters.drain_stalled()
            if round_ % int(3600 / KEEP_EVERY_S) == 0:
                await self._keep_days()

    async def _announce(self) -> None:
        while not await waited(self.stopping, ANNOUNCE_EVERY_S):
            await announce.announce_due(self._work, self._announcers)

    async def _keep_days(self) -> None:
        """Partitions for the whole window, horizon back to three days ahead; older days are dropped."""
        today = self.clock()
        kept = today - timedelta(hours=self.settings.outbox_keep_h)
        last = (today + PARTITIONS_AHEAD).date()
        for parent, first in (("inbox", today - self._horizon), ("outbox_sent", kept)):
            await self.pool.execute("SELECT keep_days($1, $2, $3)", parent, first.date(), last)

    def _wake(self) -> None:
        for relay in self._relays:
            relay.wake()

    async def reasons(self) -> list[str]:
        """Why this process is not ready; empty when it is."""
        if not self.started.is_set() or self.stopping.is_set():
            return ["stopping" if self.stopping.is_set() else "starting: migrations, topics"]
        reasons = []
        try:
            async with asyncio.timeout(2):
                await self.pool.fetchval("SELECT 1")
        except DATABASE_ERRORS as failure:
            reasons.append(f"database: {describe(failure)}")
        if not await _reachable(self.settings.kafka_bootstrap_servers):
            reasons.append("broker: does not answer")
        if self._outbox_age_s > OUTBOX_AGE_LIMIT_S:
            reasons.append(f"outbox: the oldest record waits for {self._outbox_age_s:.0f} s")
        reasons += [f"relay: {relay.reason}" for relay in self._relays if relay.reason]
        reasons += [f"{stream}: {one.reason}" for stream, one in self._consumers.items() if one.reason]
        return reasons


async def _passed_through(records: Any) -> KafkaMessage:
    """FastStream's parser decodes headers and loses the batch over a bad one; ours is `record.Reader`."""
    return KafkaMessage(body=b"", raw_message=records, headers={}, consumer=FAKE_CONSUMER)


async def _raw_records(message: Any) -> Any:
    return message.raw_message


async def _reachable(bootstrap: str) -> bool:
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        with contextlib.suppress(OSError):
            async with asyncio.timeout(2):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                return True
    return False


async def _cancelled(tasks: Sequence[asyncio.Task[Any]] | set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def configure_logging(log_format: str, service: str) -> None:
    """structlog to stdout, one JSON object a line; never a payload. Libraries speak from warnings on."""
    renderer: Any = structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)

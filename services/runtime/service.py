"""A service: its consumers, relay, loops and admin listener in one process, from migration to a clean stop."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, final

import asyncpg
import structlog
import uvloop
from fastapi import APIRouter

from contracts.catalogue import CATALOGUE, Catalogue
from services.bus.announce import Announcer, announce_due
from services.bus.consumer import Consumer, Subscription
from services.bus.failures import DATABASE_ERRORS, SERVER_ERRORS, Backoff, describe, waited
from services.bus.group import Group
from services.bus.relay import Relay
from services.bus.settings import BusSettings
from services.bus.tracing import Tracing
from services.bus.transaction import Transaction
from services.bus.work import Work
from services.deadletters.letters import DeadLetters
from services.runtime.admin import AdminServer, bus_router, create_app
from services.runtime.kafka_client import mend_client
from services.runtime.keeper import Keeper
from services.runtime.logs import configure_logging
from services.runtime.migrate import migrate
from services.runtime.spans import span_processor
from services.runtime.topics import ensure_topics

Loop = Callable[["Service"], Awaitable[None]]

UTC_NOW: Final = partial(datetime.now, UTC)
SHUTDOWN_S: Final = 15.0
ANNOUNCE_EVERY_S: Final = 5.0
LOOP_PAUSE_CAP_S: Final = 30.0

_log = structlog.get_logger("saldo.runtime")


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
        self.name, self.settings, self.clock = name, settings, clock
        self.started, self.stopping = asyncio.Event(), asyncio.Event()
        self.admin: AdminServer | None = None
        self._migrations, self._loops, self._announcers = migrations, loops, dict(announcers or {})
        streams = [subscription.stream for subscription in subscriptions]
        if len(set(streams)) != len(streams):
            raise ValueError(f"{name} subscribes twice to one stream: one subscription a stream")
        for stream in streams:
            readers = catalogue.streams[stream].readers
            if readers and name not in readers:
                raise ValueError(f"{name} may not read {stream}: only {', '.join(readers)}")
        self.tracing = Tracing(name, settings.trace_ratio, span_processor(settings))
        self._work = Work(name, settings, catalogue, streams, self.tracing, clock, self._wake)
        self.faults, self.metrics = self._work.faults, self._work.metrics
        self._consumers = {one.stream: Consumer(one, self._work) for one in subscriptions}
        self._group = Group(self._work, self._consumers)
        self.dead_letters = DeadLetters(self._work, self._consumers)
        self._keeper = Keeper(self._work, self._consumers.values(), self.dead_letters)
        self._relays = [Relay(self._work, shard, in_rush=self._in_rush) for shard in range(settings.relay_shards)]
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
        # What a batch makes lives for milliseconds and leaves no cycles, while code and schemas live for ever: without
        # this, the collector looks at hundreds of thousands of objects several times a batch and finds nothing. What
        # a full batch holds at once must stay below the threshold: then nothing but garbage with cycles reaches it.
        gc.freeze()
        gc.set_threshold(500_000, 5, 10)
        uvloop.run(self.run())

    async def run(self, *, handle_signals: bool = True) -> None:
        """Run until SIGTERM, SIGINT or `stop`. Waits for its servers; raises on a refused migration or setting."""
        configure_logging(self.settings.log_format, self.name)
        mend_client()
        if handle_signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self.stop)
        app = create_app(self.reasons, self._work, self._routers, lambda: self._keeper.alerts)
        self.admin = AdminServer(app, self.settings)
        serving = asyncio.create_task(self.admin.serve())
        background: list[asyncio.Task[None]] = []
        relaying: list[asyncio.Task[None]] = []
        relay_stop = asyncio.Event()
        try:
            if await self._prepare():
                relaying = [asyncio.create_task(relay.run(relay_stop)) for relay in self._relays]
                consuming = asyncio.create_task(self._group.run(self.stopping))
                loops: list[Callable[[], Awaitable[None]]] = [partial(self._keeper.run, self.stopping), self._announce]
                loops += [partial(loop, self) for loop in self._loops]
                background = [asyncio.create_task(self._supervised(loop)) for loop in loops]
                self.started.set()
                _log.info("started", service=self.name, build=self.settings.build)
                await self.stopping.wait()
                await consuming
        finally:
            self.stopping.set()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
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
                await self._keeper.keep_days()
                await ensure_topics(
                    self.settings.kafka_bootstrap_servers, self._work.catalogue, self.settings.replication_factor
                )
                return True
            except SERVER_ERRORS as failure:
                if isinstance(failure, asyncpg.PostgresError) and failure.sqlstate[:2] in {"28", "3D", "42"}:
                    raise  # A wrong password, database or migration does not pass by itself.
                _log.warning("waiting for the servers", error=describe(failure))
                await backoff.wait()
        return False

    async def _supervised(self, loop: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(self.stopping, LOOP_PAUSE_CAP_S)
        while not self.stopping.is_set():
            try:
                await loop()
                return
            except Exception as failure:  # noqa: BLE001 - a loop of the service may fail with anything; it begins again
                # By its name alone: what a loop was made with may hold keys.
                name = getattr(getattr(loop, "func", loop), "__qualname__", "")
                _log.error("loop failed, it begins again", loop=name, error=describe(failure), exc_info=True)
                await backoff.wait()

    async def _announce(self) -> None:
        while not await waited(self.stopping, ANNOUNCE_EVERY_S):
            await announce_due(self._work, self._announcers)

    def _in_rush(self) -> bool:
        return any(consumer.has_backlog for consumer in self._consumers.values())

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
        if self._keeper.reason:
            reasons.append(self._keeper.reason)
        reasons += [f"relay: {relay.reason}" for relay in self._relays if relay.reason]
        reasons += [f"{stream}: {one.reason}" for stream, one in self._consumers.items() if one.reason]
        return reasons


async def _reachable(bootstrap: str) -> bool:
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        with contextlib.suppress(OSError):
            async with asyncio.timeout(2):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                return True
    return False

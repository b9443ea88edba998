"""What consumers, relay, loops and admin commands of one service share: one way to open a transaction."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, final

import asyncpg
import uuid_utils
from opentelemetry.trace import Span

from contracts.catalogue import Catalogue
from services.bus.failures import DATABASE_ERRORS
from services.bus.faults import Faults
from services.bus.metrics import Metrics
from services.bus.outbox import Outbox
from services.bus.sealing import Seal
from services.bus.settings import BusSettings
from services.bus.tracing import Tracing
from services.bus.transaction import Transaction

POOL_SIZE: Final = 12
INBOX_MARGIN: Final = timedelta(days=2)
SESSION: Final = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
    # Every statement of a service is a look-up by key. A plan made while a table was new and empty, and kept by the
    # prepared statement, would scan it for ever after.
    "enable_seqscan": "off",
    # And they are planned once a connection: planning one costs more than running it.
    "plan_cache_mode": "force_generic_plan",
    "timezone": "UTC",
}
"""Without the timeouts a frozen process holds its locks without end; the rest is said beside it."""


def uuid7() -> str:
    """A new UUIDv7 (RFC 9562)."""
    return str(uuid_utils.uuid7())


async def _keep_session(_: Any) -> None:
    """Nothing of a session outlives a transaction here, so a round trip a release is saved."""


def _is_lost(acquired: Any) -> bool:
    """Whether the server ended a connection; the pool may have taken it back already, and then it tells nothing."""
    try:
        return bool(acquired.is_closed())
    except asyncpg.InterfaceError:
        return True


@final
class Work:
    """The parts; made once, by `Service`. `streams` are those it reads.

    Raises `ValueError` for settings that do not fit: see `Seal` and `Faults`.
    """

    def __init__(
        self,
        service: str,
        settings: BusSettings,
        catalogue: Catalogue,
        streams: Sequence[str],
        tracing: Tracing,
        clock: Callable[[], datetime],
        wake_relay: Callable[[], None],
    ) -> None:
        self.service, self.settings, self.catalogue = service, settings, catalogue
        self.tracing, self.clock, self.wake_relay = tracing, clock, wake_relay
        self.faults = Faults(
            settings.faults, settings.environment, settings.faults_folder and settings.faults_folder / service
        )
        self.seal = Seal(service, streams, catalogue, settings)
        self.metrics = Metrics()
        retention_h = max((catalogue.streams[stream].retention_h for stream in streams), default=0)
        self.horizon = timedelta(hours=retention_h) + INBOX_MARGIN
        """As old as an event may be when it comes; the inbox remembers for as long."""
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    @property
    def pool(self) -> "asyncpg.Pool[asyncpg.Record]":
        """The pool, made when it is first asked for: it belongs to the loop it is made in."""
        if self._pool is None:
            self._pool = asyncpg.create_pool(
                self.settings.postgres_dsn.get_secret_value(), min_size=1, max_size=POOL_SIZE, timeout=10,
                command_timeout=30, reset=_keep_session,
                server_settings={**SESSION, "application_name": f"saldo-{self.service}"},
            )  # fmt: skip
        return self._pool

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction whose publications are written as its last statement; the relay is woken after the commit.

        A lost connection leaves as `ConnectionError`, whatever asyncpg called it.
        """
        try:
            acquired = await self.pool.acquire(timeout=10)
        except asyncpg.InterfaceError as failure:
            raise ConnectionError(str(failure)) from failure
        try:
            async with acquired.transaction():
                now, spans = self.clock(), dict[str, Span]()
                outbox = Outbox(self.service, self.catalogue, self.tracing, now, spans)
                tx = Transaction(acquired, now, uuid7, outbox, spans)
                yield tx
                self.faults.point("outbox.before")
                written = await outbox.write(acquired)
                self.faults.point("outbox.after")
                self.faults.point("commit.before")
            self.faults.point("commit.after")
        except asyncpg.InterfaceError as failure:
            if _is_lost(acquired):
                raise ConnectionError(str(failure)) from failure
            raise
        finally:
            await self.pool.release(acquired)
        for span in tx.spans.values():
            span.end()
        if written:
            self.wake_relay()
        for call in tx.committed:
            call()

    async def database_writes(self) -> bool:
        """True if a fresh connection can write and commit: then it is the record that is bad, not the database.

        `SELECT 1` would succeed on a full disk and on a primary that became read-only.
        """
        dsn = self.settings.postgres_dsn.get_secret_value()
        try:
            connection = await asyncpg.connect(dsn, timeout=5, command_timeout=5, server_settings=SESSION)
            try:
                await connection.execute(
                    "INSERT INTO probe (id, at) VALUES (1, now()) ON CONFLICT (id) DO UPDATE SET at = excluded.at"
                )
            finally:
                connection.terminate()
        except DATABASE_ERRORS:
            return False
        return True

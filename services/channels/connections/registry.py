"""Open ways to every connection: credentials decrypted once, one HTTP client and one limiter each.

Shared by the door, the intake loops and the stock sender, so that all of them together keep a channel's limits.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog

from contracts.channels.v1 import ConnectionState
from services.border import client
from services.border.limiter import Limiter
from services.border.vault import SealBroken, Vault
from services.channels.connections import store
from services.channels.connections.lifecycle import Refused, limits_of, open_credentials
from services.channels.connections.store import Connection
from services.channels.connections.tokens import LEASE_S, Keeper
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import Connector, Refreshes, Session

if TYPE_CHECKING:
    from services.runtime import Service

_REFRESH_S: Final = 1.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Open:
    """A connection with its connector and an open session."""

    connection: Connection
    connector: Connector
    session: Session

    @property
    def live(self) -> bool:
        return self.connection.state is ConnectionState.LIVE


def open_session(
    connection: Connection,
    credentials: Mapping[str, str],
    pool: "asyncpg.Pool[asyncpg.Record]",
    vault: Vault,
    clock: Callable[[], float] = time.monotonic,
    reach: Callable[[str], None] = lambda _: None,
    document: Callable[[str], Awaitable[bytes]] | None = None,
    exchanges: set[asyncio.Task[None]] | None = None,
    lease_s: float = LEASE_S,
) -> Session:
    """A way to a connection's account; the caller closes `session.http`. `reach` is told of fault points.

    Whoever dies at a renewal of its tokens holds them up for `lease_s`.
    """
    connector = CONNECTORS[connection.connector]
    traits = connector.traits
    session = Session(
        connection_id=connection.connection_id,
        base_url=connection.base_url,
        account=connection.account,
        credentials=credentials,
        settings=connection.settings,
        http=client.open_client(public_only=connection.environment != "sandbox", timeout_s=traits.write_timeout_s),
        limiter=Limiter(limits_of(traits, connection.settings), clock),
        document=document,
        database=pool if traits.local else None,
    )
    if not isinstance(connector, Refreshes):
        return session
    keeper = Keeper(pool, vault, connection, connector, session, reach, exchanges, lease_s=lease_s)
    return replace(session, token=keeper.token, token_refused=keeper.refused)


def _same_way(session: Session, row: Connection, credentials: Mapping[str, str]) -> bool:
    return (session.base_url, session.settings, session.credentials) == (row.base_url, row.settings, credentials)


class Registry:
    """The open connections of this process. `refresh` follows the table; `changed` tells loops to look again."""

    def __init__(
        self,
        vault: Vault,
        clock: Callable[[], float] = time.monotonic,
        document: Callable[[str], Awaitable[bytes]] | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        self._vault, self._lease_s = vault, lease_s
        self.document = document
        self._clock = clock
        self._open: dict[str, Open] = {}
        self._exchanges: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._reach: Callable[[str], None] = lambda _: None
        self.generation = 0
        self.loaded = asyncio.Event()
        """Set once all is read: before that, nobody may be told that a connection is not there."""

    def get(self, connection_id: str) -> Open | None:
        """An open connection in any state but draft."""
        return self._open.get(connection_id)

    def all(self) -> list[Open]:
        """Every open connection."""
        return list(self._open.values())

    def live(self) -> list[Open]:
        """Every live connection."""
        return [entry for entry in self._open.values() if entry.live]

    def tenant_of(self, connection_id: str) -> str | None:
        """Whose connection it is."""
        entry = self._open.get(connection_id)
        return entry.connection.tenant if entry else None

    async def refresh(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """Open what is new or changed, close what is gone."""
        async with self._turn:
            await self._refresh(pool)

    async def _refresh(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        async with pool.acquire() as connection:
            rows = [row for row in await store.all_of(connection, None) if row.state is not ConnectionState.DRAFT]
            stale = [row for row in rows if not self._is_current(row)]
            keys = [row.connection_id for row in stale]
            sealed = await store.sealed_credentials(connection, keys) if stale else {}
        wanted = {row.connection_id for row in rows}
        closing = [self._open.pop(key).session for key in list(self._open) if key not in wanted]
        for row in stale:
            known = self._open.pop(row.connection_id, None)
            entry = self._opened(row, sealed[row.connection_id], known, pool)
            if entry:
                self._open[row.connection_id] = entry
            if known and (entry is None or entry.session is not known.session):
                closing.append(known.session)
        if stale or closing:
            self.generation += 1
        self.loaded.set()
        for session in closing:
            await session.http.aclose()

    def _is_current(self, row: Connection) -> bool:
        entry = self._open.get(row.connection_id)
        return entry is not None and entry.connection.version == row.version

    def _opened(
        self,
        row: Connection,
        sealed: Mapping[str, bytes],
        known: Open | None,
        pool: "asyncpg.Pool[asyncpg.Record]",
    ) -> Open | None:
        connector = CONNECTORS.get(row.connector)
        if connector is None:
            _log.error("connection has no connector in this build", connection=row.connection_id, name=row.connector)
            return None
        try:
            credentials = open_credentials(self._vault, row, sealed)
            if known and _same_way(known.session, row, credentials):
                # A call under way must not be cut off because the connection was paused or renamed its pool.
                return Open(row, connector, known.session)
            session = open_session(
                row, credentials, pool, self._vault, self._clock, self._reach, self.document, self._exchanges,
                self._lease_s,
            )  # fmt: skip
        except (SealBroken, Refused) as error:
            _log.error("connection cannot be opened", connection=row.connection_id, reason=str(error))
            return None
        return Open(row, connector, session)

    async def run(self, service: "Service") -> None:
        """Follow the table until cancelled, then close everything.

        Where the table cannot be read, what is open stays so: else whoever comes meanwhile would be told that there is
        no such connection, and calls under way would be cut off.
        """
        self._reach = service.faults.point
        try:
            while True:
                await self.refresh(service.pool)
                await asyncio.sleep(_REFRESH_S)
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every session, once no exchange of tokens is under way: its answer would be lost."""
        await asyncio.gather(*self._exchanges, return_exceptions=True)
        entries, self._open = list(self._open.values()), {}
        for entry in entries:
            await entry.session.http.aclose()

"""Access tokens of accounts whose refresh tokens work once: one exchange in flight, its answer saved before it is used.

RFC 6749 section 6, with refresh token rotation as RFC 9700 section 4.14.2 describes it. Whoever finds the access token
at its end claims the row, commits, exchanges the refresh token, and writes both new tokens with the next generation in
one statement. Everybody else, in this process or another, waits for that generation.

A process that dies between the channel's answer and that statement has lost the tokens: the next one finds the refresh
token used up, and a person has to authorise the account again. Where the answer was lost on its way, the same token is
tried once more, which helps where the channel takes its last one again for a while.
"""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import structlog

from services.border.vault import SealBroken, Vault
from services.channels.alerts import Alert, Database, raise_alerts, resolve_alerts
from services.channels.connections import store
from services.channels.connections.store import Connection
from services.channels.connectors.connector import (
    Granted,
    OutcomeUnknown,
    Refreshes,
    Session,
    TokenEnded,
    Unreachable,
)

LEASE_S: Final = 90.0
_MARGIN_S: Final = 300.0
_LOOK_S: Final = 0.1
_AGAIN_S: Final = 2.0
_FIELD: Final = "tokens"
_log = structlog.get_logger(__name__)


def seal_tokens(vault: Vault, tenant: str, connection_id: str, *, access: str, refresh: str) -> bytes:
    """The tokens of an account as they are stored."""
    content = json.dumps([access, refresh]).encode()
    return vault.seal(content, tenant=tenant, owner=connection_id, field=_FIELD)


async def authorised(connection: Database, vault: Vault, kept: Connection, refresh_token: str) -> None:
    """A person has authorised the account (anew): the tokens of before are gone, and the row's generation moves on."""
    sealed = seal_tokens(vault, kept.tenant, kept.connection_id, access="", refresh=refresh_token)
    await store.put_tokens(connection, kept.connection_id, sealed)


class Keeper:
    """Gives the access token of one account. Made for each session.

    `reach` is told of fault points; `exchanges` holds what is under way, for whoever closes the session. Whoever died
    at a renewal has held it up for `lease_s`.
    """

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        vault: Vault,
        connection: Connection,
        connector: Refreshes,
        session: Session,
        reach: Callable[[str], None] = lambda _: None,
        exchanges: "set[asyncio.Task[None]] | None" = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        lease_s: float = LEASE_S,
    ) -> None:
        self._pool, self._vault, self._connection = pool, vault, connection
        self._connector, self._session = connector, session
        self._reach, self._clock, self._lease = reach, clock, timedelta(seconds=lease_s)
        self._exchanges = exchanges if exchanges is not None else set()
        self._turn = asyncio.Lock()
        self._access, self._refused = "", ""
        self._renew_at = datetime.min.replace(tzinfo=UTC)

    def __repr__(self) -> str:
        return f"Keeper({self._connection.connection_id})"

    def refused(self, access_token: str) -> None:
        """The channel takes this token for ended, whatever we know of it."""
        self._refused = access_token

    async def token(self) -> str:
        """An access token good for a while. Raises `TokenEnded` where only a person can help."""
        if self._good(self._access, self._renew_at):
            return self._access
        async with self._turn:
            while not self._good(self._access, self._renew_at):
                await self._look()
        return self._access

    def _good(self, access: str, renew_at: datetime) -> bool:
        return bool(access) and access != self._refused and self._clock() < renew_at

    async def _look(self) -> None:
        """Take what is kept, or else renew it, or wait for whoever does."""
        connection_id = self._connection.connection_id
        async with self._pool.acquire() as database:
            row = await store.tokens_of(database, connection_id)
            if row is None or row.broken:
                raise TokenEnded("the account has to be authorised again: add the connection with a new refresh_token")
            access, refresh = self._opened(row.sealed)
            if self._good(access, row.renew_at):
                self._access, self._renew_at = access, row.renew_at
                return
            now = self._clock()
            claimed = await store.claim_tokens(database, connection_id, row.generation, now + self._lease, now)
        if claimed:
            self._reach("token.claimed")
            # Whoever asked may be cancelled; an answer that nobody saves would lock us out.
            exchange = asyncio.create_task(self._exchange(row.generation, refresh), name=f"token {connection_id}")
            self._exchanges.add(exchange)
            exchange.add_done_callback(self._exchanges.discard)
            await asyncio.shield(exchange)
        else:
            await asyncio.sleep(_LOOK_S)

    def _opened(self, sealed: bytes) -> tuple[str, str]:
        place = {"tenant": self._connection.tenant, "owner": self._connection.connection_id}
        try:
            access, refresh = json.loads(self._vault.open(sealed, **place, field=_FIELD))
        except SealBroken:
            raise TokenEnded("the account's tokens do not open with this SALDO_SECRETS_KEY") from None
        return access, refresh

    async def _exchange(self, generation: int, refresh: str) -> None:
        connection_id = self._connection.connection_id
        try:
            granted = await self._granted(refresh)
        except TokenEnded as ended:
            await self._break(generation, str(ended))
            raise
        except BaseException:
            async with self._pool.acquire() as database:
                await store.release_tokens(database, connection_id, generation)
            raise
        self._reach("token.answered")
        now = self._clock()
        # Well before its end, and not at once where a token lives shortly.
        renew_at = now + timedelta(seconds=max(granted.expires_in_s - _MARGIN_S, granted.expires_in_s / 2))
        sealed = seal_tokens(
            self._vault,
            self._connection.tenant,
            connection_id,
            access=granted.access_token,
            refresh=granted.refresh_token,
        )
        async with self._pool.acquire() as database, database.transaction():
            if await store.save_tokens(database, connection_id, generation, sealed, renew_at):
                self._access, self._renew_at = granted.access_token, renew_at
            await resolve_alerts(database, connection_id, "reauthorise", [connection_id], now)

    async def _granted(self, refresh: str) -> Granted:
        try:
            return await self._connector.refresh(self._session, refresh)
        except OutcomeUnknown as unknown:
            _log.warning("outcome of a token refresh is unknown", connection=self._connection.connection_id)
            try:
                return await self._connector.refresh(self._session, refresh)
            except OutcomeUnknown:
                # Of the call that wanted the token nothing was done.
                raise Unreachable(_AGAIN_S) from unknown

    async def _break(self, generation: int, reason: str) -> None:
        connection = self._connection
        text = (
            f"the channel takes no refresh token of this account any more ({reason}): authorise it again and add the "
            "connection with the new refresh_token; until then nothing is read or written there"
        )
        alert = Alert(connection.tenant, connection.connection_id, "reauthorise", connection.connection_id, text, True)
        async with self._pool.acquire() as database, database.transaction():
            if await store.break_tokens(database, connection.connection_id, generation):
                await raise_alerts(database, [alert], self._clock())

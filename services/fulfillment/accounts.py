"""Accounts of companies at carriers: kept with sealed credentials, opened as carriers that can be asked."""

import asyncio
import json
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, final

import asyncpg
import httpx
import structlog

from services.border.accounts import (
    AccountInvalid,
    check_base_url,
    check_credentials,
    open_credentials,
    seal_credentials,
)
from services.border.client import open_client
from services.border.errors import Limit, OutcomeUnknown, Rejected, Throttled, Unreachable
from services.border.limiter import Limiter
from services.border.together import Together
from services.border.vault import SealBroken, Vault
from services.bus.failures import describe
from services.fulfillment import store
from services.fulfillment.carriers import melhorenvio, table
from services.fulfillment.carriers.carrier import Account, Carrier, Session
from services.fulfillment.carriers.melhorenvio import MelhorEnvio
from services.fulfillment.carriers.table import TableCarrier
from services.fulfillment.rates import Rate
from services.fulfillment.settings import FulfillmentSettings

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

CALL_TIMEOUT_S: Final = 15.0
_AUTHORISE_S: Final = 60.0
_BUSY_S: Final = 0.5

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """What an account at this carrier has: credentials and settings that it needs, and how fast it may be asked."""

    credentials: tuple[str, ...]
    settings: tuple[str, ...]
    limits: Callable[[Mapping[str, str]], Mapping[str, Limit]]


KINDS: Final[Mapping[str, Kind]] = {
    "melhorenvio": Kind(melhorenvio.CREDENTIALS, melhorenvio.REQUIRED, melhorenvio.limits),
    "table": Kind(table.CREDENTIALS, (), lambda _: {}),
}


@dataclass(slots=True)
class _Open:
    state: str
    tenant: str
    carrier: Carrier
    http: httpx.AsyncClient
    read_at_s: float = -math.inf


@final
class Carriers:
    """Who can be asked to carry a company's parcels: the company's own rates, and whom it has an account with."""

    def __init__(self, pool: Callable[[], Pool], vault: Vault, settings: FulfillmentSettings) -> None:
        self._pool, self._vault, self._settings = pool, vault, settings
        self._open: dict[str, _Open] = {}
        self._carriers: dict[str, tuple[float, Mapping[str, Carrier]]] = {}
        self._reading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._rates = Together(self._read_rates)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def of(self, tenant: str) -> Mapping[str, Carrier]:
        """Every carrier of a company, by name; an account that does not open is left out and keeps nobody else back."""
        async with self._reading[tenant]:
            if (known := self._carriers.get(tenant)) and self._is_fresh(known[0]):
                return known[1]
            began_s, carriers = time.monotonic(), dict[str, Carrier](table=self._table())
            for row in await store.live_accounts(self._pool(), tenant):
                try:
                    carriers[row["carrier"]] = (await self._opened(row)).carrier
                except (SealBroken, KeyError, ValueError) as failure:
                    _log.error("an account cannot be opened", account=row["account_id"], error=describe(failure))
            self._carriers[tenant] = began_s, carriers
            return carriers

    async def at(self, account_id: str) -> tuple[str, Carrier] | None:
        """The company and the carrier of a live account; None where there is none."""
        if (known := self._open.get(account_id)) and self._is_fresh(known.read_at_s):
            return known.tenant, known.carrier
        began_s = time.monotonic()
        row = await store.read_account(self._pool(), account_id)
        if row is None or row["state"] != "live":
            return None
        opened = await self._opened(row)
        opened.read_at_s = began_s
        return opened.tenant, opened.carrier

    async def put(self, connection: store.Connection, account: Account) -> None:
        """Keep an account as the company's live one at its carrier. Raises `AccountInvalid`."""
        _check(account)
        await store.put_account(connection, account)
        await store.put_credentials(connection, account.account_id, self._sealed(account, account.credentials))
        self._forget()

    def _is_fresh(self, read_at_s: float) -> bool:
        return time.monotonic() - read_at_s < self._settings.accounts_kept_s

    def _forget(self) -> None:
        """What is asked for next is read again."""
        self._carriers.clear()
        for one in self._open.values():
            one.read_at_s = -math.inf

    async def close(self) -> None:
        """Close every client."""
        for one in self._open.values():
            await one.http.aclose()
        self._open.clear()

    def _sealed(self, account: Account, credentials: Mapping[str, str]) -> dict[str, bytes]:
        return seal_credentials(self._vault, account.tenant, account.account_id, credentials)

    async def _read_rates(self, tenants: Sequence[str]) -> list[Sequence[Rate]]:
        async with self._pool().acquire() as connection:
            found = await store.read_rates(connection, set(tenants))
        return [found[tenant] for tenant in tenants]

    def _table(self, session: Session | None = None) -> TableCarrier:
        return TableCarrier(self._rates, session, cubic_divisor=self._settings.cubic_divisor)

    def _credentials(self, row: asyncpg.Record) -> dict[str, str]:
        kept = dict(zip(row["fields"], row["sealed"], strict=True))
        return open_credentials(self._vault, row["tenant"], row["account_id"], kept)

    async def _opened(self, row: asyncpg.Record) -> _Open:
        account_id, credentials = row["account_id"], self._credentials(row)
        account = Account(
            row["tenant"], row["carrier"], row["environment"], row["base_url"], json.loads(row["settings"]), credentials
        )
        state = repr((account, sorted(credentials.items())))
        async with self._turns[account_id]:
            known = self._open.get(account_id)
            if known and known.state == state:
                return known
            http = known.http if known else self._client(account)
            limiter = Limiter(KINDS[account.carrier].limits(account.settings), time.monotonic)
            token = self._token_of(account)
            session = Session(http, limiter, account.base_url.rstrip("/"), credentials, account.settings, token)
            carrier: Carrier = self._table(session) if account.carrier == "table" else MelhorEnvio(session)
            self._open[account_id] = _Open(state, account.tenant, carrier, http)
            return self._open[account_id]

    def _client(self, account: Account) -> httpx.AsyncClient:
        return open_client(public_only=account.environment != "sandbox", timeout_s=CALL_TIMEOUT_S)

    def _token_of(self, account: Account) -> Callable[[str | None], Awaitable[str]]:
        async def token(refused: str | None) -> str:
            return account.credentials["access_token"] if refused is None else await self._renewed(account, refused)

        return token

    async def _renewed(self, account: Account, refused: str) -> str:
        """Another access token than the one that was refused; one process asks for it, once.

        Raises `Throttled` while another one does, `Unreachable` where it cannot be had: what waits for it waits on.
        """
        account_id = account.account_id
        if not await store.claim_renewal(self._pool(), account_id, CALL_TIMEOUT_S * 2):
            raise Throttled(_BUSY_S)
        # Read now that nobody else renews: whoever did so a moment ago has left new ones.
        row = await store.read_account(self._pool(), account_id)
        assert row is not None
        credentials = self._credentials(row)
        if credentials["access_token"] != refused:
            await store.end_renewal(self._pool(), account_id)
            self._forget()
            return credentials["access_token"]
        opened = self._open[account_id]
        limiter = Limiter({}, time.monotonic)
        session = Session(
            opened.http, limiter, account.base_url.rstrip("/"), credentials, account.settings, self._token_of(account)
        )
        try:
            fresh = await melhorenvio.renewed(session)
        except (Rejected, OutcomeUnknown, ValueError):
            _log.error("a carrier gives no new token: authorise the account again", account=account_id)
            raise Unreachable(_AUTHORISE_S) from None
        async with self._pool().acquire() as connection, connection.transaction():
            await store.put_credentials(connection, account_id, self._sealed(account, fresh))
            await store.end_renewal(connection, account_id)
        self._forget()
        return fresh["access_token"]


def _check(account: Account) -> None:
    kind = KINDS.get(account.carrier)
    if kind is None:
        raise AccountInvalid(f"there is no carrier of that name: one of {', '.join(sorted(KINDS))}")
    check_credentials(account.credentials, kind.credentials)
    if missing := {name for name in kind.settings if not account.settings.get(name)}:
        raise AccountInvalid(f"settings are missing: {', '.join(sorted(missing))}")
    try:
        kind.limits(account.settings)
        float(account.settings.get("late_s", "0"))
    except (ValueError, ZeroDivisionError):
        raise AccountInvalid("late_s and requests_per_minute are numbers") from None
    check_base_url(account.base_url, account.environment)

"""Accounts of companies at gateways: kept with sealed credentials, opened as sessions."""

import asyncio
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final
from uuid import NAMESPACE_URL, uuid5

import asyncpg

from services.border.accounts import (
    AccountInvalid,
    check_base_url,
    check_credentials,
    open_credentials,
    seal_credentials,
)
from services.border.client import open_client
from services.border.errors import Rejected
from services.border.limiter import Limiter
from services.border.vault import Vault
from services.payments.gateways.gateway import Gateway, Session
from services.payments.settings import PaymentsSettings
from services.payments.store import Connection, Pool

_AUTHORITY = "ca_pem"
"""The authority to trust beside the public ones, as a sandbox's."""
_SECRET = "webhook_secret"  # noqa: S105 - the name of a field
"""What webhooks are known by, where it was agreed on elsewhere; `subscribe` keeps one by itself."""


@final
@dataclass(frozen=True, slots=True)
class Account:
    """An account as a person gives it. `merchant` is who we are at the gateway: Stripe's `acct_…`, Pix's client id."""

    tenant: str
    gateway: str
    environment: str
    base_url: str
    merchant: str
    settings: Mapping[str, Any]
    credentials: Mapping[str, str] = field(repr=False)

    @property
    def place(self) -> str:
        """The base URL without a slash at its end."""
        return self.base_url.rstrip("/")

    @property
    def account_id(self) -> str:
        """The same for the same merchant at a place, so that an account that is given again is the one there is."""
        identity = [self.tenant, self.gateway, self.environment, self.place, self.merchant]
        return str(uuid5(NAMESPACE_URL, json.dumps(identity)))


@final
class Accounts:
    """Opens one session an account, and another once what is kept about it has changed."""

    def __init__(self, pool: Callable[[], Pool], vault: Vault, gateways: Mapping[str, Gateway]) -> None:
        self._pool, self._vault, self._gateways = pool, vault, gateways
        self._open: dict[str, tuple[str, Session]] = {}
        self._opening = asyncio.Lock()

    async def put(self, connection: Connection, account: Account) -> None:
        """Keep an account as the company's live one at its gateway. Raises `AccountInvalid`.

        Of its credentials nothing stays that is not given, but the secret of its webhooks.
        """
        await self._check(account)
        await connection.execute(
            "UPDATE gateway_accounts SET state = 'paused' WHERE tenant = $1 AND gateway = $2 AND account_id <> $3",
            account.tenant, account.gateway, account.account_id,
        )  # fmt: skip
        await connection.execute(
            """
            INSERT INTO gateway_accounts (account_id, tenant, gateway, environment, base_url, settings, merchant)
            VALUES ($1, $2, $3, $4, $5, $6, $7)
            ON CONFLICT (account_id) DO UPDATE SET settings = excluded.settings, state = 'live'
            """,
            account.account_id, account.tenant, account.gateway, account.environment, account.place,
            json.dumps(dict(account.settings)), account.merchant,
        )  # fmt: skip
        await connection.execute(
            "DELETE FROM gateway_credentials WHERE account_id = $1 AND field <> ALL($2::text[])",
            account.account_id, [_SECRET, *account.credentials],
        )  # fmt: skip
        await self._seal(connection, account.tenant, account.account_id, account.credentials)

    async def _check(self, account: Account) -> None:
        gateway = self._gateways.get(account.gateway)
        if gateway is None:
            raise AccountInvalid(f"there is no gateway of that name: one of {sorted(self._gateways)}")
        check_credentials(account.credentials, gateway.traits.credentials, (_AUTHORITY, _SECRET))
        check_base_url(account.base_url, account.environment)
        try:
            session = await _opened(gateway, account)
        except (OSError, ValueError, TypeError):
            raise AccountInvalid(
                "the certificates cannot be loaded: give certificate_pem with its key_pem, not encrypted, and ca_pem, "
                "each as PEM"
            ) from None
        await session.http.aclose()

    async def _seal(
        self, connection: "Connection | Pool", tenant: str, account_id: str, credentials: Mapping[str, str]
    ) -> None:
        await connection.executemany(
            """
            INSERT INTO gateway_credentials (account_id, field, sealed) VALUES ($1, $2, $3)
            ON CONFLICT (account_id, field) DO UPDATE SET sealed = excluded.sealed
            """,
            [
                (account_id, name, sealed)
                for name, sealed in sorted(seal_credentials(self._vault, tenant, account_id, credentials).items())
            ],
        )

    async def subscribe(self, tenant: str, account_id: str, settings: PaymentsSettings) -> str:
        """Have the gateway send its webhooks to our door; returns the address, without the secret it may end in.

        Once more gives another secret. Raises `Rejected`, `Throttled` and `OutcomeUnknown` as a gateway does,
        `AccountInvalid` where its door is closed.
        """
        gateway, session = await self.session(tenant, account_id)
        url = settings.door_of(account_id, certified=gateway.traits.certified)
        if not url:
            raise AccountInvalid("the door for client certificates is closed: set PAYMENTS_PIX_DOOR_PORT")
        secret = await gateway.subscribe(session, url)
        await self._seal(self._pool(), tenant, account_id, {_SECRET: secret})
        return url

    async def at_door(self, account_id: str) -> tuple[str, Gateway, Mapping[str, str]]:
        """Whose account it is, its gateway and credentials. Raises `Rejected` where there is none."""
        tenant = await self._pool().fetchval("SELECT tenant FROM gateway_accounts WHERE account_id = $1", account_id)
        gateway, session = await self.session(tenant or "", account_id)
        return tenant, gateway, session.credentials

    async def session(self, tenant: str, account_id: str) -> tuple[Gateway, Session]:
        """The gateway and a session of an account. Raises `Rejected` where there is no such account."""
        row = await self._pool().fetchrow(
            "SELECT * FROM gateway_accounts WHERE tenant = $1 AND account_id = $2", tenant, account_id
        )
        if row is None or row["gateway"] not in self._gateways:
            raise Rejected("the company has no such account at a gateway")
        kept = await self._pool().fetch(
            "SELECT field, sealed FROM gateway_credentials WHERE account_id = $1 ORDER BY field", account_id
        )
        gateway, state = self._gateways[row["gateway"]], repr((row, kept))
        async with self._opening:
            known = self._open.get(account_id)
            if known is None or known[0] != state:
                session = await _opened(gateway, self._account(row, kept))
                self._open[account_id] = state, session
                if known:
                    # A call that is under way ends with an unknown outcome, and what it did is looked for.
                    await known[1].http.aclose()
                return gateway, session
        return gateway, known[1]

    def _account(self, row: asyncpg.Record, kept: list[asyncpg.Record]) -> Account:
        tenant, account_id = row["tenant"], row["account_id"]
        credentials = open_credentials(self._vault, tenant, account_id, {one["field"]: one["sealed"] for one in kept})
        settings = json.loads(row["settings"])
        return Account(
            tenant, row["gateway"], row["environment"], row["base_url"], row["merchant"], settings, credentials
        )

    async def close(self) -> None:
        """Close every session."""
        for _, session in self._open.values():
            await session.http.aclose()
        self._open.clear()


async def _opened(gateway: Gateway, account: Account) -> Session:
    """Raises `OSError`, `ValueError` or `TypeError` where a certificate cannot be loaded."""
    # In a thread: reading the authorities' certificates takes the event loop's time.
    certificate = await asyncio.to_thread(_tls, account.credentials)
    traits, public_only = gateway.traits, account.environment != "sandbox"
    http = open_client(public_only=public_only, timeout_s=traits.call_timeout_s, certificate=certificate)
    limiter = Limiter(traits.limits, time.monotonic)
    return Session(http, limiter, account.place, account.credentials, account.settings)


def _tls(credentials: Mapping[str, str]) -> ssl.SSLContext | None:
    """A context of the account's own, where it has a certificate or another authority to trust.

    Python reads our certificate from files alone, deleted at once.
    """
    if not {"certificate_pem", _AUTHORITY} & set(credentials):
        return None
    context = ssl.create_default_context()
    if _AUTHORITY in credentials:
        context.load_verify_locations(cadata=credentials[_AUTHORITY])
    if "certificate_pem" not in credentials:
        return context
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_text(credentials["certificate_pem"])
        key.write_text(credentials["key_pem"])
        # Without a password given, OpenSSL would ask for one at the terminal and wait.
        context.load_cert_chain(certificate, key, password="")
    return context

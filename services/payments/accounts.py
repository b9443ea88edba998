"""Accounts of companies at gateways: kept with sealed credentials, opened as sessions."""

import json
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, final
from uuid import NAMESPACE_URL, uuid5

import asyncpg

from services.border.client import open_client
from services.border.errors import Rejected
from services.border.limiter import Limiter
from services.border.vault import Vault
from services.payments.gateways.gateway import Gateway, Session
from services.payments.store import Connection

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
_AUTHORITY = "ca_pem"
"""A credential that any account may have: the authority to trust beside the public ones, as a sandbox's."""


class AccountInvalid(ValueError):
    """The account cannot be kept; the text says what to change."""


@final
@dataclass(frozen=True, slots=True)
class Account:
    """An account as a person gives it."""

    tenant: str
    gateway: str
    environment: str
    base_url: str
    settings: Mapping[str, Any]
    credentials: Mapping[str, str] = field(repr=False)

    @property
    def account_id(self) -> str:
        """The same for the same place, so that an account that is given again is the one that is there."""
        place = [self.tenant, self.gateway, self.environment, self.base_url]
        return str(uuid5(NAMESPACE_URL, json.dumps(place)))


@final
class Accounts:
    """Opens one session an account, and another once what is kept about it has changed."""

    def __init__(self, pool: Callable[[], Pool], vault: Vault, gateways: Mapping[str, Gateway]) -> None:
        self._pool, self._vault, self._gateways = pool, vault, gateways
        self._open: dict[str, tuple[str, Session]] = {}

    async def put(self, connection: Connection, account: Account) -> None:
        """Keep an account as the company's live one at its gateway. Raises `AccountInvalid`."""
        gateway = self._gateways.get(account.gateway)
        if gateway is None:
            raise AccountInvalid(f"there is no gateway of that name: one of {sorted(self._gateways)}")
        if missing := set(gateway.traits.credentials) - set(account.credentials):
            raise AccountInvalid(f"credentials are missing: {', '.join(sorted(missing))}")
        if surplus := set(account.credentials) - {*gateway.traits.credentials, _AUTHORITY}:
            raise AccountInvalid(
                f"{len(surplus)} credentials are unknown: give {', '.join(gateway.traits.credentials)}"
            )
        await connection.execute(
            "UPDATE gateway_accounts SET state = 'paused' WHERE tenant = $1 AND gateway = $2 AND account_id <> $3",
            account.tenant, account.gateway, account.account_id,
        )  # fmt: skip
        await connection.execute(
            """
            INSERT INTO gateway_accounts (account_id, tenant, gateway, environment, base_url, settings)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (account_id) DO UPDATE SET settings = excluded.settings, state = 'live'
            """,
            account.account_id, account.tenant, account.gateway, account.environment, account.base_url.rstrip("/"),
            json.dumps(dict(account.settings)),
        )  # fmt: skip
        await connection.executemany(
            """
            INSERT INTO gateway_credentials (account_id, field, sealed) VALUES ($1, $2, $3)
            ON CONFLICT (account_id, field) DO UPDATE SET sealed = excluded.sealed
            """,
            [
                (account.account_id, name, self._sealed(account, name, value))
                for name, value in sorted(account.credentials.items())
            ],
        )

    def _sealed(self, account: Account, name: str, value: str) -> bytes:
        return self._vault.seal(value.encode(), tenant=account.tenant, owner=account.account_id, field=name)

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
        known = self._open.get(account_id)
        if known is None or known[0] != state:
            known = state, self._opened(gateway, row, kept)
            self._open[account_id] = known
        return gateway, known[1]

    def _opened(self, gateway: Gateway, row: asyncpg.Record, kept: list[asyncpg.Record]) -> Session:
        tenant, account_id = row["tenant"], row["account_id"]
        credentials = {
            one["field"]: self._vault.open(one["sealed"], tenant=tenant, owner=account_id, field=one["field"]).decode()
            for one in kept
        }
        traits = gateway.traits
        http = open_client(
            public_only=row["environment"] != "sandbox", timeout_s=traits.call_timeout_s, certificate=_tls(credentials)
        )
        settings = json.loads(row["settings"])
        return Session(http, Limiter(traits.limits, time.monotonic), row["base_url"], credentials, settings)

    async def close(self) -> None:
        """Close every session."""
        for _, session in self._open.values():
            await session.http.aclose()
        self._open.clear()


def _tls(credentials: Mapping[str, str]) -> ssl.SSLContext | None:
    """A context with our certificate, where the account has one. Python reads it from files alone, deleted at once."""
    if "certificate_pem" not in credentials:
        return None
    context = ssl.create_default_context()
    if _AUTHORITY in credentials:
        context.load_verify_locations(cadata=credentials[_AUTHORITY])
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_text(credentials["certificate_pem"])
        key.write_text(credentials["key_pem"])
        context.load_cert_chain(certificate, key)
    return context

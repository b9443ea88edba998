"""Rows of connections and their sealed credentials."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from contracts.channels.v1 import ConnectionState
from services.channels.alerts import Database


@dataclass(frozen=True, slots=True)
class Connection:
    """A tenant's account at a channel. `settings` are the connector's own; `version` grows with each change."""

    connection_id: str
    tenant: str
    connector: str
    environment: str
    account: str
    category: str
    base_url: str
    pool: str
    settings: Mapping[str, str]
    state: ConnectionState
    version: int
    created_at: datetime
    validated_at: datetime | None


_SELECT: Final = """
    SELECT connection_id, tenant, connector, environment, account, category, base_url, pool, settings, state, version,
        created_at, validated_at
    FROM connections """


def _connection(row: asyncpg.Record) -> Connection:
    values = dict(row)
    values["settings"] = json.loads(values["settings"])
    values["state"] = ConnectionState(values["state"])
    return Connection(**values)


async def insert(connection: Database, new: Connection) -> bool:
    """Add a connection; False where it is there already."""
    status = await connection.execute(
        """
        INSERT INTO connections (connection_id, tenant, connector, environment, account, category, base_url, pool,
            settings, state, version, created_at, validated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11, $12, $13)
        ON CONFLICT DO NOTHING
        """,
        new.connection_id,
        new.tenant,
        new.connector,
        new.environment,
        new.account,
        new.category,
        new.base_url,
        new.pool,
        json.dumps(dict(new.settings)),
        new.state.value,
        new.version,
        new.created_at,
        new.validated_at,
    )
    return status.endswith(" 1")


async def lock(connection: Database, connection_id: str, tenant: str | None) -> Connection | None:
    """One connection, locked: whoever announces it holds this row. What refers to it is written meanwhile."""
    row = await connection.fetchrow(
        _SELECT + "WHERE connection_id = $1 AND ($2::text IS NULL OR tenant = $2) FOR NO KEY UPDATE",
        connection_id,
        tenant,
    )
    return _connection(row) if row else None


async def find(connection: Database, connection_id: str, tenant: str | None) -> Connection | None:
    """One connection of a tenant, or of any."""
    row = await connection.fetchrow(
        _SELECT + "WHERE connection_id = $1 AND ($2::text IS NULL OR tenant = $2)",
        connection_id,
        tenant,
    )
    return _connection(row) if row else None


async def all_of(connection: Database, tenant: str | None) -> list[Connection]:
    """Every connection of a tenant, or of all."""
    rows = await connection.fetch(
        _SELECT + "WHERE $1::text IS NULL OR tenant = $1 ORDER BY tenant, connector, account",
        tenant,
    )
    return [_connection(row) for row in rows]


async def lock_page(connection: Database, tenant: str | None, after: str, limit: int) -> list[Connection]:
    """A page by id, locked, for announcing; what refers to these connections is written meanwhile."""
    rows = await connection.fetch(
        _SELECT + "WHERE connection_id > $1 AND ($2::text IS NULL OR tenant = $2)"
        " ORDER BY connection_id LIMIT $3 FOR NO KEY UPDATE",
        after,
        tenant,
        limit,
    )
    return [_connection(row) for row in rows]


async def update(connection: Database, changed: Connection) -> None:
    """Write what may change; the caller holds the row's lock and has raised `version`."""
    await connection.execute(
        """
        UPDATE connections SET base_url = $2, pool = $3, settings = $4::jsonb, state = $5, version = $6,
            validated_at = $7, category = $8 WHERE connection_id = $1
        """,
        changed.connection_id,
        changed.base_url,
        changed.pool,
        json.dumps(dict(changed.settings)),
        changed.state.value,
        changed.version,
        changed.validated_at,
        changed.category,
    )


async def owner_of_account(connection: Database, wanted: Connection) -> str | None:
    """The id of another connection that is live or paused on the same account at the same place."""
    owner: str | None = await connection.fetchval(
        """
        SELECT connection_id FROM connections WHERE connector = $1 AND base_url = $2 AND account = $3
            AND state IN ('live', 'paused') AND connection_id <> $4
        """,
        wanted.connector,
        wanted.base_url,
        wanted.account,
        wanted.connection_id,
    )
    return owner


async def replace_credentials(connection: Database, connection_id: str, sealed: Mapping[str, bytes]) -> None:
    """Put these credentials in the place of all earlier ones."""
    await connection.execute("DELETE FROM credentials WHERE connection_id = $1", connection_id)
    await connection.executemany(
        "INSERT INTO credentials (connection_id, field, sealed) VALUES ($1, $2, $3)",
        [(connection_id, field, blob) for field, blob in sealed.items()],
    )


@dataclass(frozen=True, slots=True)
class Tokens:
    """The sealed tokens of an account, when they are to be renewed, and whether only a person can do that."""

    sealed: bytes
    generation: int
    renew_at: datetime
    broken: bool


async def tokens_of(connection: Database, connection_id: str) -> Tokens | None:
    """The tokens of a connection that has such."""
    row = await connection.fetchrow(
        "SELECT sealed, generation, renew_at, broken FROM tokens WHERE connection_id = $1", connection_id
    )
    return Tokens(**row) if row else None


async def put_tokens(connection: Database, connection_id: str, sealed: bytes) -> None:
    """Begin anew with these tokens, to be renewed at once; an exchange under way for earlier ones is not saved."""
    await connection.execute(
        """
        INSERT INTO tokens (connection_id, sealed, generation, renew_at) VALUES ($1, $2, 0, to_timestamp(0))
        ON CONFLICT (connection_id) DO UPDATE SET sealed = excluded.sealed, generation = tokens.generation + 1,
            renew_at = to_timestamp(0), claimed_until = NULL, broken = false
        """,
        connection_id,
        sealed,
    )


async def claim_tokens(
    connection: Database, connection_id: str, generation: int, until: datetime, now: datetime
) -> bool:
    """Whether this caller is the one that renews this generation."""
    status = await connection.execute(
        """
        UPDATE tokens SET claimed_until = $3 WHERE connection_id = $1 AND generation = $2 AND NOT broken
            AND (claimed_until IS NULL OR claimed_until < $4)
        """,
        connection_id,
        generation,
        until,
        now,
    )
    return status.endswith(" 1")


async def release_tokens(connection: Database, connection_id: str, generation: int) -> None:
    """Nothing came of a claim: the next one may try."""
    await connection.execute(
        "UPDATE tokens SET claimed_until = NULL WHERE connection_id = $1 AND generation = $2",
        connection_id,
        generation,
    )


async def save_tokens(
    connection: Database, connection_id: str, generation: int, sealed: bytes, renew_at: datetime
) -> bool:
    """Put what `generation` was exchanged for in its place; False where it is not the newest any more."""
    status = await connection.execute(
        """
        UPDATE tokens SET sealed = $3, renew_at = $4, generation = generation + 1, claimed_until = NULL
        WHERE connection_id = $1 AND generation = $2
        """,
        connection_id,
        generation,
        sealed,
        renew_at,
    )
    return status.endswith(" 1")


async def break_tokens(connection: Database, connection_id: str, generation: int) -> bool:
    """The channel takes these tokens no more; False where they are not the newest any more."""
    status = await connection.execute(
        "UPDATE tokens SET broken = true, claimed_until = NULL WHERE connection_id = $1 AND generation = $2",
        connection_id,
        generation,
    )
    return status.endswith(" 1")


async def sealed_credentials(connection: Database, connection_ids: Sequence[str]) -> dict[str, dict[str, bytes]]:
    """Sealed credentials by connection and field."""
    rows = await connection.fetch(
        "SELECT connection_id, field, sealed FROM credentials WHERE connection_id = ANY($1::text[])", connection_ids
    )
    found: dict[str, dict[str, bytes]] = {connection_id: {} for connection_id in connection_ids}
    for row in rows:
        found[row["connection_id"]][row["field"]] = row["sealed"]
    return found


async def sealed_tenant_keys(connection: Database, tenants: Sequence[str]) -> dict[str, bytes]:
    """Each tenant's sealed key for customer_ref, where it has one."""
    rows = await connection.fetch("SELECT tenant, sealed FROM tenant_keys WHERE tenant = ANY($1::text[])", tenants)
    return {row["tenant"]: row["sealed"] for row in rows}


async def insert_tenant_key(connection: Database, tenant: str, sealed: bytes) -> None:
    """Keep a tenant's first key; a second one never replaces it."""
    await connection.execute("INSERT INTO tenant_keys VALUES ($1, $2) ON CONFLICT DO NOTHING", tenant, sealed)

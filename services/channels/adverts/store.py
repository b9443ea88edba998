"""SQL of imports of adverts. The connection comes first."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from services.channels.alerts import Database


class Import(NamedTuple):
    """An import that this process may go on with, and the claim that says so."""

    connection_id: str
    tenant: str
    claim: int


async def begin(connection: Database, tenant: str, connection_id: str, now: datetime) -> None:
    """Begin an import of a connection's adverts; one that runs goes on instead."""
    fresh = await connection.fetchval(
        """
        INSERT INTO listing_imports (connection_id, tenant, state, started_at, changed_at, due_at)
        VALUES ($1, $2, 'running', $3, $3, $3)
        ON CONFLICT (connection_id) DO UPDATE SET state = 'running', listings = 0, linked = 0, tries = 0, error = '',
            started_at = $3, changed_at = $3, finished_at = NULL, due_at = $3, claimed_until = NULL
        WHERE listing_imports.state <> 'running' RETURNING connection_id
        """,
        connection_id,
        tenant,
        now,
    )
    if fresh is not None:
        await connection.execute("DELETE FROM listing_imports_kept WHERE connection_id = $1", connection_id)


async def claim(connection: Database, now: datetime, lease: timedelta) -> Import | None:
    """The import that has been due for longest and that nobody works at, for as long as the lease."""
    row = await connection.fetchrow(
        """
        UPDATE listing_imports SET claim = claim + 1, claimed_until = $1::timestamptz + $2
        WHERE connection_id = (
            SELECT connection_id FROM listing_imports
            WHERE state = 'running' AND due_at <= $1 AND (claimed_until IS NULL OR claimed_until <= $1)
            ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
        ) RETURNING connection_id, tenant, claim
        """,
        now,
        lease,
    )
    return Import(*row) if row else None


async def kept(connection: Database, connection_id: str) -> set[str]:
    """The adverts that the import has kept."""
    rows = await connection.fetch("SELECT listing FROM listing_imports_kept WHERE connection_id = $1", connection_id)
    return {row["listing"] for row in rows}


async def note(
    connection: Database, job: Import, adverts: Sequence[str], linked: int, now: datetime, lease: timedelta
) -> bool:
    """Count adverts that were kept, and how many of them are linked; False where somebody else has the claim now."""
    row = await connection.fetchval(
        """
        UPDATE listing_imports SET listings = listings + $3, linked = linked + $4, tries = 0, error = '',
            changed_at = $5, claimed_until = $5::timestamptz + $6
        WHERE connection_id = $1 AND claim = $2 AND state = 'running' RETURNING claim
        """,
        job.connection_id,
        job.claim,
        len(adverts),
        linked,
        now,
        lease,
    )
    if row is None:
        return False
    await connection.execute(
        "INSERT INTO listing_imports_kept (connection_id, listing) SELECT $1, unnest($2::text[])",
        job.connection_id,
        list(adverts),
    )
    return True


async def put_off(connection: Database, job: Import, due_at: datetime, error: str, now: datetime) -> int:
    """Try again later; returns how many tries in a row have brought nothing, 0 where somebody else has the claim."""
    tries = await connection.fetchval(
        """
        UPDATE listing_imports SET tries = tries + 1, error = $4, due_at = $3, claimed_until = NULL, changed_at = $5
        WHERE connection_id = $1 AND claim = $2 AND state = 'running' RETURNING tries
        """,
        job.connection_id,
        job.claim,
        due_at,
        error,
        now,
    )
    return int(tries or 0)


async def finish(connection: Database, job: Import, error: str, now: datetime) -> None:
    """End the import: done, or failed where there is an error."""
    ended = await connection.fetchval(
        """
        UPDATE listing_imports SET state = CASE WHEN $3 = '' THEN 'done' ELSE 'failed' END, error = $3,
            claimed_until = NULL, changed_at = $4, finished_at = $4
        WHERE connection_id = $1 AND claim = $2 AND state = 'running' RETURNING claim
        """,
        job.connection_id,
        job.claim,
        error,
        now,
    )
    if ended is not None:
        await connection.execute("DELETE FROM listing_imports_kept WHERE connection_id = $1", job.connection_id)


async def shown(connection: Database, connection_id: str) -> dict[str, Any] | None:
    """The newest import of a connection, as people see it."""
    row = await connection.fetchrow(
        """
        SELECT state, listings, linked, listings - linked AS unlinked, tries, error, started_at, changed_at, finished_at
        FROM listing_imports WHERE connection_id = $1
        """,
        connection_id,
    )
    return dict(row) if row else None

"""Numbered SQL files, each applied once in a transaction of its own; what was applied may not change."""

import asyncio
import hashlib
import re
from pathlib import Path
from typing import Final, NamedTuple, final

import asyncpg

import services.bus

BUS_MIGRATIONS: Final = Path(services.bus.__file__).parent / "migrations"
_LOCK: Final = 0x5A1D0
_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@final
class MigrationRefused(Exception):
    """The files and the database do not fit together; the text says which and what to do."""


@final
class Migration(NamedTuple):
    """One file: `scope` keeps the bus's numbers apart from the service's, `checksum` is the SHA-256 of the text."""

    scope: str
    number: int
    name: str
    checksum: str
    sql: str


def load(scope: str, folder: Path | None) -> list[Migration]:
    """The migrations of a folder in order. Raises `MigrationRefused` on a wrong name or a gap in the numbers."""
    found = []
    for position, path in enumerate(sorted(folder.glob("*.sql")) if folder else (), start=1):
        match = _NAME.fullmatch(path.name)
        if not match or int(match[1]) != position:
            raise MigrationRefused(f"{path.name}: expected a file named {position:04}_what_it_does.sql")
        sql = path.read_text(encoding="utf-8")
        found.append(Migration(scope, position, path.name, hashlib.sha256(sql.encode()).hexdigest(), sql))
    return found


async def migrate(dsn: str, service: str, folder: Path | None) -> list[str]:
    """Bring the database up to date and return the names applied.

    One process at a time (session advisory lock, asked for in a loop). Migrations have their own timeouts: a lock is
    waited for at most 30 s, a statement may take an hour.
    """
    wanted = [*load("bus", BUS_MIGRATIONS), *load(service, folder)]
    connection = await asyncpg.connect(
        dsn, timeout=10, server_settings={"lock_timeout": "30s", "statement_timeout": "1h"}
    )
    try:
        # Another process migrates: there is nothing in this one that could tell.
        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (scope text, number integer, name text NOT NULL, "
            "checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (scope, number))"
        )
        rows = await connection.fetch("SELECT scope, number, checksum FROM schema_migrations")
        applied = {(row["scope"], row["number"]): row["checksum"] for row in rows}
        done = []
        for migration in wanted:
            checksum = applied.get((migration.scope, migration.number))
            if checksum is None:
                async with connection.transaction():
                    await connection.execute(migration.sql)
                    await connection.execute(
                        "INSERT INTO schema_migrations (scope, number, name, checksum) VALUES ($1, $2, $3, $4)",
                        *migration[:4],
                    )
                done.append(migration.name)
            elif checksum != migration.checksum:
                raise MigrationRefused(
                    f"{migration.scope}/{migration.name} was changed after it was applied: put it back, add a new file"
                )
        return done
    finally:
        await connection.close()

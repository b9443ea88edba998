"""A database with the tables of one service, and not those of the bus."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import asyncpg


async def create_tables(database: str, service: ModuleType) -> None:
    """Run the service's own migrations in a fresh database."""
    async with opened(database) as connection:
        for migration in sorted((Path(str(service.__file__)).parent / "migrations").glob("*.sql")):
            await connection.execute(migration.read_text("utf-8"))


@contextlib.asynccontextmanager
async def opened(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection, closed in the end."""
    connection = await asyncpg.connect(database)
    try:
        yield connection
    finally:
        await connection.close()

"""A database with the tables of payments."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest_asyncio

import services.payments

MIGRATIONS = Path(services.payments.__file__).parent / "migrations"


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a fresh database of payments."""
    connection = await asyncpg.connect(database)
    for migration in sorted(MIGRATIONS.glob("*.sql")):
        await connection.execute(migration.read_text("utf-8"))
    yield connection
    await connection.close()

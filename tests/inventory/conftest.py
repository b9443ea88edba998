"""A database with the tables of inventory."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest_asyncio

import services.inventory

MIGRATIONS = Path(services.inventory.__file__).parent / "migrations"


@pytest_asyncio.fixture
async def stock_database(database: str) -> str:
    """The address of a fresh database of inventory."""
    connection = await asyncpg.connect(database)
    for migration in sorted(MIGRATIONS.glob("*.sql")):
        await connection.execute(migration.read_text("utf-8"))
    await connection.close()
    return database


@pytest_asyncio.fixture
async def connection(stock_database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to it."""
    connection = await asyncpg.connect(stock_database)
    yield connection
    await connection.close()

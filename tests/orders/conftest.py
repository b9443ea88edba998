"""A database with the tables of orders, and transactions as the bus opens them."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest_asyncio

import services.orders

MIGRATIONS = Path(services.orders.__file__).parent / "migrations"


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a fresh database of orders."""
    connection = await asyncpg.connect(database)
    for migration in sorted(MIGRATIONS.glob("*.sql")):
        await connection.execute(migration.read_text("utf-8"))
    yield connection
    await connection.close()

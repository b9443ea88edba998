"""A database with the tables of crm, and a vault."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

import services.crm
from services.border.vault import Vault

MIGRATIONS = Path(services.crm.__file__).parent / "migrations"


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a fresh database of crm."""
    connection = await asyncpg.connect(database)
    for migration in sorted(MIGRATIONS.glob("*.sql")):
        await connection.execute(migration.read_text("utf-8"))
    yield connection
    await connection.close()


@pytest.fixture
def vault() -> Vault:
    return Vault("11" * 32)

"""A database with the tables of crm, and a vault."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

import services.crm
from services.border.vault import Vault
from tests.tables import create_tables, opened


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a fresh database of crm."""
    await create_tables(database, services.crm)
    async with opened(database) as connection:
        yield connection


@pytest.fixture
def vault() -> Vault:
    return Vault("11" * 32)

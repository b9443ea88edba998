"""A database with the tables of crm, a vault, and as much of a running service as crm asks for."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

import services.crm
from services.border.vault import Vault
from tests.crm.given import Running
from tests.tables import create_tables, opened


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a fresh database of crm."""
    await create_tables(database, services.crm)
    async with opened(database) as connection:
        yield connection


@pytest.fixture
def vault() -> Vault:
    return Vault(bytes(range(32)).hex())


@pytest_asyncio.fixture
async def running(connection: "asyncpg.Connection[asyncpg.Record]", database: str) -> AsyncIterator[Running]:
    """A service on the tables of `connection`."""
    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool:
        yield Running(pool)

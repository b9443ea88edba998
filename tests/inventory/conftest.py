"""A database with the tables of inventory."""

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

import services.inventory
from tests.tables import create_tables, opened


@pytest_asyncio.fixture
async def stock_database(database: str) -> str:
    """The address of a fresh database of inventory."""
    await create_tables(database, services.inventory)
    return database


@pytest_asyncio.fixture
async def connection(stock_database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to it."""
    async with opened(stock_database) as connection:
        yield connection

"""A database with the tables of fulfillment."""

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

import services.fulfillment
from tests.tables import create_tables, opened


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a fresh database of fulfillment."""
    await create_tables(database, services.fulfillment)
    async with opened(database) as connection:
        yield connection

"""A database with the tables of orders, and transactions as the bus opens them."""

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

import services.orders
from tests.tables import create_tables, opened


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a fresh database of orders."""
    await create_tables(database, services.orders)
    async with opened(database) as connection:
        yield connection

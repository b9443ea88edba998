"""A database with the tables of fulfillment."""

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
import pytest_asyncio

import services.fulfillment
from tests.fulfillment.office import Office
from tests.fulfillment.office import office as opened_office
from tests.sandbox.running import Sandbox, running
from tests.tables import create_tables, opened


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a fresh database of fulfillment."""
    await create_tables(database, services.fulfillment)
    async with opened(database) as connection:
        yield connection


@pytest_asyncio.fixture
async def office(connection: "asyncpg.Connection[asyncpg.Record]", database: str) -> AsyncIterator[Office]:
    """Fulfillment without the bus."""
    async with opened_office(connection, database) as one:
        yield one


@pytest.fixture(scope="session")
def carrier_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The carrier's sandbox."""
    yield from running("carrier", tmp_path_factory)

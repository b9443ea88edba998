"""A database with the tables of payments; the service running beside a gateway sandbox."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import asyncpg
import pytest
import pytest_asyncio

import services.payments
from services.payments.gateways.pix import Pix
from services.payments.gateways.stripe import Stripe
from tests.payments.running import Running, payments_running
from tests.sandbox.running import Sandbox, running
from tests.tables import create_tables, fresh_database, opened


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a fresh database of payments."""
    await create_tables(database, services.payments)
    async with opened(database) as connection:
        yield connection


@pytest.fixture(scope="package")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("gateway", tmp_path_factory)


@pytest_asyncio.fixture(scope="module")
async def payments(kafka_bootstrap: str, postgres_admin_dsn: str, sandbox: Sandbox) -> AsyncIterator[Running]:
    """What a call of unknown outcome did may be seen sooner than at the real gateways."""
    with pytest.MonkeyPatch.context() as patch:
        for gateway in (Stripe, Pix):
            patch.setattr(gateway, "traits", replace(gateway.traits, late_s=0.2))
        async with (
            fresh_database(postgres_admin_dsn) as database,
            payments_running(kafka_bootstrap, database, sandbox) as made,
        ):
            yield made

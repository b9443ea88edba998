"""A database with the tables of erp, and its routes over them."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest_asyncio
from fastapi import FastAPI

from services.border.vault import Vault
from services.bus import BusSettings
from services.erp.admin import admin_router
from services.erp.app import MIGRATIONS, build
from services.erp.settings import ErpSettings
from services.runtime.migrate import migrate
from tests.erp.given import SECRETS_KEY


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a fresh database of erp."""
    await migrate(database, "erp", MIGRATIONS)
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def admin(connection: asyncpg.Connection, database: str) -> AsyncIterator[httpx.AsyncClient]:
    """The routes of erp over the test's database; nothing consumes, nothing is relayed."""
    settings = ErpSettings(secrets_key=SECRETS_KEY, content_url="http://erp:8099")
    service = build(BusSettings(kafka_bootstrap_servers="127.0.0.1:1", postgres_dsn=database), settings)
    await service.pool
    app = FastAPI()
    app.include_router(admin_router(lambda: service, Vault(SECRETS_KEY), settings), prefix="/admin")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://erp") as client:
        yield client
    await service.pool.close()

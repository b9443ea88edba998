"""Databases of tests' own; one with the tables of a service, and not those of the bus."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from deploy.local.postgres import create_database


async def create_tables(database: str, service: ModuleType) -> None:
    """Run the service's own migrations in a fresh database."""
    async with opened(database) as connection:
        for migration in sorted((Path(str(service.__file__)).parent / "migrations").glob("*.sql")):
            await connection.execute(migration.read_text("utf-8"))


@contextlib.asynccontextmanager
async def opened(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection, closed in the end."""
    connection = await asyncpg.connect(database)
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def fresh_database(postgres_admin_dsn: str) -> AsyncIterator[str]:
    """The address of a fresh, empty database, as the role that owns it; dropped afterwards."""
    name, password = f"test_{secrets.token_hex(8)}", secrets.token_hex(16)
    await create_database(postgres_admin_dsn, name, name, password)
    parts = urlsplit(postgres_admin_dsn)
    address = parts.netloc.rpartition("@")[2]
    try:
        yield urlunsplit(("postgresql", f"{name}:{password}@{address}", f"/{name}", parts.query, ""))
    finally:
        connection = await asyncpg.connect(postgres_admin_dsn)
        try:
            await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            await connection.execute(f'DROP ROLE "{name}"')
        finally:
            await connection.close()

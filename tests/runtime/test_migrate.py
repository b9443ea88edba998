"""Migrations: applied once, in order, by one process; what was applied may not change."""

import asyncio

import asyncpg
import pytest

from services.runtime.migrate import BUS_MIGRATIONS, MigrationRefused, load, migrate
from tests.bus.model import rows, value

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_two_processes_apply_every_file_once(database, tmp_path):
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (a integer)")
    (tmp_path / "0002_second.sql").write_text("INSERT INTO first VALUES (2)")
    applied = await asyncio.gather(*(migrate(database, "bank", tmp_path) for _ in range(3)))
    assert sorted(map(len, applied)) == [0, 0, len(load("bus", BUS_MIGRATIONS)) + 2]
    assert await rows(database, "SELECT a FROM first") == [(2,)]


async def test_a_changed_file_is_refused_and_a_failing_one_leaves_nothing(database, tmp_path):
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (a integer)")
    await migrate(database, "bank", tmp_path)
    (tmp_path / "0002_second.sql").write_text("CREATE TABLE second (a integer); SELECT 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(database, "bank", tmp_path)
    assert await value(database, "SELECT to_regclass('second')") is None
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (a bigint)")
    with pytest.raises(MigrationRefused, match="was changed after it was applied"):
        await migrate(database, "bank", tmp_path)


async def test_a_gap_in_the_numbers_is_refused(database, tmp_path):
    (tmp_path / "0002_second.sql").write_text("SELECT 1")
    with pytest.raises(MigrationRefused, match="expected a file named 0001_"):
        await migrate(database, "bank", tmp_path)

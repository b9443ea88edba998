"""The guards of the ledger, each taken away."""

from typing import Any

import pytest

from services.inventory import handlers, store
from tests.guards import both, noticed, without
from tests.inventory import test_domain, test_handlers
from tests.inventory.given import Connection


@pytest.mark.asyncio
@both
@pytest.mark.rule(19)
async def test_the_row_lock_of_a_sku_is_missed(
    stock_database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    if missing:
        without(monkeypatch, store, "_LOCK_SKUS", "FOR UPDATE OF skus")
    with noticed(missing):
        await test_handlers.test_two_workers_on_one_hot_sku_reserve_exactly_what_there_is(stock_database, connection)


@pytest.mark.asyncio
@pytest.mark.parametrize("state", ["available", "reserved", "shipped", "damaged", "inbound"])
@pytest.mark.rule(18)
async def test_the_check_of_stock_below_zero_is_missed(connection: Connection, state: str) -> None:
    await connection.execute(f"ALTER TABLE stock DROP CONSTRAINT stock_{state}_check")
    with noticed(missing=True):
        await test_handlers.test_the_database_refuses_stock_below_zero(connection)


@pytest.mark.asyncio
@both
@pytest.mark.rule(18)
async def test_the_key_of_movements_is_missed(connection: Connection, missing: bool) -> None:
    if missing:
        await connection.execute("ALTER TABLE movements DROP CONSTRAINT movements_pkey")
    with noticed(missing):
        await test_handlers.test_the_database_refuses_a_movement_booked_twice(connection)


@pytest.mark.asyncio
@both
@pytest.mark.rule(17)
async def test_the_revision_of_a_demand_is_missed(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    if missing:
        without(monkeypatch, handlers, "meet", "demand.revision <= order.revision", "False")
    with noticed(missing):
        await test_handlers.test_the_same_demand_twice_and_an_old_one_leave_nothing(connection)


@both
@pytest.mark.rule(17)
def test_what_fills_shortfalls_first_is_missed(monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    def nobody(_ledger: Any) -> None: ...

    if missing:
        monkeypatch.setattr("services.inventory.ledger.Ledger.fill", nobody)
    with noticed(missing):
        test_domain.test_a_cancel_fills_the_oldest_shortfall_before_anything_is_shown()


@pytest.mark.asyncio
@both
@pytest.mark.rule(23)
async def test_the_id_of_a_command_is_missed(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    if missing:
        without(monkeypatch, handlers, "obey", "warehouse.done.get(command_id)", "None")
    with noticed(missing):
        await test_handlers.test_a_command_repeated_books_nothing_twice(connection)

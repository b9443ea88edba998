"""Each contradiction in the databases is found, and nothing else is; by a transaction that cannot write."""

from pathlib import Path

import asyncpg
import pytest

from services.console.verification import CHECKS, verify
from services.runtime.migrate import migrate

SERVICES = Path(__file__).parents[2] / "services"
MOVE = """
INSERT INTO movements (movement_id, tenant, sku, from_location, from_pool, from_state, to_location, to_pool, to_state,
                       quantity, cause, line, epoch, sku_version, at)
VALUES (gen_random_uuid(), $1, 'A', 'main', 'shared', $2, 'main', 'shared', $3, $4, 'test', '1', 0, 1, now())
"""
STOCK = "INSERT INTO stock VALUES ($1, 'A', 'main', 'shared', 7, 3, 0, 0, 0)"
HOLD = """
INSERT INTO reservations (tenant, order_id, line_id, sold_sku, sku, state, location, pool, origin, quantity, per_unit,
                          sold_at)
VALUES ($1, 'o', '1', 'A', 'A', 'reserved', 'main', 'shared', '', 3, 1, now())
"""
ORDER = """
INSERT INTO orders (tenant, order_id, connection_id, external_id, state, version, sale_revision, units_ordered,
                    units_cancelled, units_reserved, units_short, units_open, sold_at, changed_at, stamp, sale, body)
VALUES ($1, 'o', 'c', 'x', 'confirmed', 1, 1, 5, 1, 2, 1, 1, now(), now(), 's', '{}', '{}')
"""


async def stocked(dsn: str) -> None:
    """Ten units came in, three of them are reserved for one order line."""
    await migrate(dsn, "inventory", SERVICES / "inventory" / "migrations")
    connection = await asyncpg.connect(dsn)
    try:
        for tenant in ("demo", "other"):
            await connection.execute(MOVE, tenant, "supplier", "available", 10)
            await connection.execute(MOVE, tenant, "available", "reserved", 3)
            await connection.execute(STOCK, tenant)
            await connection.execute(HOLD, tenant)
    finally:
        await connection.close()


async def contradictions(service: str, dsn: str, tenant: str | None = "demo") -> dict[str, list[str]]:
    outcomes = await verify({service: dsn}, tenant)
    assert [outcome.check for outcome in outcomes] == [check for check in CHECKS if check.service == service]
    return {outcome.check.what: outcome.contradictions for outcome in outcomes if outcome.contradictions}


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.asyncio
async def test_books_that_add_up_are_proved(database: str) -> None:
    await stocked(database)
    assert await contradictions("inventory", database) == {}
    assert await contradictions("inventory", database, None) == {}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (
            "UPDATE stock SET available = 8 WHERE tenant = 'demo'",
            {
                "every counter is the sum of its movements": [
                    "demo A at main, pool shared, available: counter 8, movements 7"
                ]
            },
        ),
        (
            "DELETE FROM movements WHERE tenant = 'demo' AND to_state = 'reserved'",
            {
                "every counter is the sum of its movements": [
                    "demo A at main, pool shared, available: counter 7, movements 10",
                    "demo A at main, pool shared, reserved: counter 3, movements 0",
                ]
            },
        ),
        (
            "UPDATE reservations SET quantity = 2 WHERE tenant = 'demo'",
            {
                "reserved and shipped are the sums of the order lines that hold them": [
                    "demo A at main, pool shared, reserved: counter 3, order lines 2"
                ]
            },
        ),
        (
            (
                "ALTER TABLE stock DROP CONSTRAINT stock_damaged_check; "
                "UPDATE stock SET damaged = -1 WHERE tenant = 'demo'"
            ),
            {
                "every counter is the sum of its movements": [
                    "demo A at main, pool shared, damaged: counter -1, movements 0"
                ],
                "no counter is below zero": ["demo A at main, pool shared"],
            },
        ),
    ],
)
async def test_a_contradiction_of_the_ledger_is_named(
    database: str, statement: str, found: dict[str, list[str]]
) -> None:
    await stocked(database)
    await execute(database, statement)
    told = await contradictions("inventory", database)
    assert {what: sorted(rows) for what, rows in told.items()} == found
    assert await contradictions("inventory", database, "other") == {}
    assert await contradictions("inventory", database, None) == told


@pytest.mark.asyncio
async def test_a_unit_with_two_outcomes_is_found_in_orders(database: str) -> None:
    await migrate(database, "orders", SERVICES / "orders" / "migrations")
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(ORDER, "demo")
    finally:
        await connection.close()
    assert await contradictions("orders", database) == {}
    # The database itself refuses such rows; the check has to find them where it did not.
    await execute(
        database,
        "ALTER TABLE orders DROP CONSTRAINT orders_check; UPDATE orders SET units_reserved = 3 WHERE tenant = 'demo'",
    )
    assert list((await contradictions("orders", database)).values()) == [
        ["demo o: 5 ordered, 1 cancelled, 3 reserved, 1 short, 1 open"]
    ]

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
                    units_cancelled, units_reserved, units_short, units_open, sold_at, placed_at, changed_at, stamp,
                    sale, body)
VALUES ($1, 'o', 'c', 'x', 'confirmed', 1, 1, 5, 1, 2, 1, 1, now(), now(), now(), 's', '{}', '{}')
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


PAID = """
INSERT INTO payments (tenant, payment_id, order_id, status, captured_minor, refunded_minor, body, cause_event,
                      cause_flow, cause_trace)
VALUES ('demo', 'o:p1', 'o', 'captured', 500, 200, '{}', 'e', 'f', '');
INSERT INTO money_movements VALUES
    ('demo', 'o:p1:captured:500', 'customer:o', 'gateway:g:a', 'BRL', 500, now()),
    ('demo', 'o:p1:refunded:300', 'gateway:g:a', 'customer:o', 'BRL', 300, now()),
    ('demo', 'o:p1:refund_failed:100', 'customer:o', 'gateway:g:a', 'BRL', 100, now()),
    ('demo', 'o:p10:captured:7', 'customer:o', 'gateway:g:a', 'BRL', 7, now());
INSERT INTO payments (tenant, payment_id, order_id, status, captured_minor, refunded_minor, body, cause_event,
                      cause_flow, cause_trace)
VALUES ('demo', 'o:p10', 'o', 'captured', 7, 0, '{}', 'e', 'f', '');
INSERT INTO money_balances VALUES ('demo', 'customer:o', 'BRL', -307), ('demo', 'gateway:g:a', 'BRL', 307)
"""


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("SELECT 1", []),
        (
            "UPDATE money_balances SET amount_minor = 306 WHERE account = 'gateway:g:a'",
            ["demo gateway:g:a: balance 306 BRL, movements 307", "demo: all balances together are -1 BRL"],
        ),
        (
            "UPDATE payments SET refunded_minor = 300 WHERE payment_id = 'o:p1'",
            ["demo o:p1: 500 taken and 300 back, booked are 500 and 200"],
        ),
        (
            "DELETE FROM money_movements WHERE cause LIKE 'o:p10:%'",
            [
                "demo customer:o: balance -307 BRL, movements -300",
                "demo gateway:g:a: balance 307 BRL, movements 300",
                "demo o:p10: 7 taken and 0 back, booked are 0 and 0",
            ],
        ),
    ],
)
async def test_a_contradiction_of_money_is_named(database: str, statement: str, rows: list[str]) -> None:
    await migrate(database, "payments", SERVICES / "payments" / "migrations")
    await execute(database, PAID)
    await execute(database, statement)
    told = await contradictions("payments", database)
    assert sorted(row for found in told.values() for row in found) == rows
    assert await contradictions("payments", database, "other") == {}


SHIPMENT = """
INSERT INTO buyers (tenant, order_id) VALUES ('demo', 'o');
INSERT INTO shipments (tenant, shipment_id, order_id, state, version, invoice_required, invoice_key, carrier,
                       tracking_code, unmapped, blocked, cause, body, changed_at)
VALUES ('demo', 'o:s1', 'o', 'labelled', 3, true, repeat('1', 44), 'c', 'T1', false, '', '{}', '{}', now());
INSERT INTO carrier_calls (tenant, shipment_id, n, provider, carrier, service, state, begun_at, ended_at)
VALUES ('demo', 'o:s1', 1, 'table', 'c', 's', 'refused', now(), now()),
       ('demo', 'o:s1', 2, 'table', 'c', 's', 'done', now(), now())
"""


@pytest.mark.asyncio
async def test_a_second_label_and_one_without_an_invoice_are_found(database: str) -> None:
    await migrate(database, "fulfillment", SERVICES / "fulfillment" / "migrations")
    await execute(database, SHIPMENT)
    assert await contradictions("fulfillment", database) == {}
    await execute(database, "UPDATE carrier_calls SET state = 'done'")
    # The database itself refuses a label without an invoice; the check has to find it where it did not.
    await execute(
        database, "ALTER TABLE shipments DROP CONSTRAINT shipments_check1; UPDATE shipments SET invoice_key = NULL"
    )
    assert list((await contradictions("fulfillment", database)).values()) == [
        ["demo o:s1: 2 labels bought", "demo o:s1: a label without an invoice"]
    ]


INVOICE = """
INSERT INTO orders VALUES ('demo', 'o', 1, '{}', 'e', 'f', '');
INSERT INTO documents (tenant, document_id, order_id, invoice_key, invoice_no, series, total_minor, currency, issued_at,
                       state, content_url, keep_until)
VALUES ('demo', 'd1', 'o', repeat('1', 44), '1', '1', 500, 'BRL', now(), 'replaced', '', '2031-12-31'),
       ('demo', 'd2', 'o', repeat('2', 44), '2', '1', 400, 'BRL', now(), 'standing', '', '2031-12-31');
INSERT INTO journal (tenant, event_id, line, at, kind, order_id, reference, sku, amount_minor, currency, from_account,
                     to_account)
VALUES ('demo', 'e1', '', now(), 'invoice', 'o', 'd1', '', 500, 'BRL', '', ''),
       ('demo', 'e2', '', now(), 'invoice', 'o', 'd1', '', -500, 'BRL', '', ''),
       ('demo', 'e3', '', now(), 'invoice', 'o', 'd2', '', 400, 'BRL', '', '')
"""


@pytest.mark.asyncio
async def test_an_invoice_that_the_journal_misses_is_found(database: str) -> None:
    await migrate(database, "erp", SERVICES / "erp" / "migrations")
    await execute(database, INVOICE)
    assert await contradictions("erp", database) == {}
    await execute(database, "DELETE FROM journal WHERE event_id IN ('e2', 'e3')")
    assert sorted(next(iter((await contradictions("erp", database)).values()))) == [
        f"demo order o, invoice {'1' * 44} is replaced: 500, the journal has 500",
        f"demo order o, invoice {'2' * 44} is standing: 400, the journal has 0",
    ]

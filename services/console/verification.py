"""`saldo verify`: the books add up, looked at in the services' databases by a role that can only read.

Each check is one statement that returns what is wrong, so that nothing has to be trusted but the database.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

ROWS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Check:
    """A statement over one service's database whose rows are contradictions; `$1` is the tenant or null for all."""

    service: str
    what: str
    sql: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check found: an empty list proves it."""

    check: Check
    contradictions: list[str]
    examined: int


_MOVED = """
    SELECT tenant, sku, location, pool, state, sum(quantity) AS quantity FROM (
        SELECT tenant, sku, to_location AS location, to_pool AS pool, to_state AS state, quantity FROM movements
        UNION ALL
        SELECT tenant, sku, from_location, from_pool, from_state, -quantity FROM movements
    ) AS both_sides
    WHERE state IN ('available', 'reserved', 'shipped', 'damaged', 'inbound')
    GROUP BY tenant, sku, location, pool, state
"""
_COUNTED = """
    SELECT tenant, sku, location, pool, state, quantity FROM stock,
        LATERAL (VALUES ('available', available), ('reserved', reserved), ('shipped', shipped), ('damaged', damaged),
                        ('inbound', inbound)) AS counter (state, quantity)
"""
_MONEY_MOVED = """
    SELECT tenant, account, currency, sum(amount_minor) AS amount_minor FROM (
        SELECT tenant, to_account AS account, currency, amount_minor FROM money_movements
        UNION ALL
        SELECT tenant, from_account, currency, -amount_minor FROM money_movements
    ) AS both_sides
    GROUP BY tenant, account, currency
"""

CHECKS = (
    Check(
        "inventory",
        "every counter is the sum of its movements",
        f"""
        SELECT format('%s %s at %s, pool %s, %s: counter %s, movements %s', tenant, sku, location, pool, state,
                      coalesce(counted.quantity, 0), coalesce(moved.quantity, 0))
        FROM ({_COUNTED}) AS counted FULL JOIN ({_MOVED}) AS moved USING (tenant, sku, location, pool, state)
        WHERE coalesce(counted.quantity, 0) <> coalesce(moved.quantity, 0) AND ($1::text IS NULL OR tenant = $1)
        """,  # noqa: S608 - constants of this module
    ),
    Check(
        "inventory",
        "reserved and shipped are the sums of the order lines that hold them",
        f"""
        SELECT format('%s %s at %s, pool %s, %s: counter %s, order lines %s', tenant, sku, location, pool, state,
                      coalesce(counted.quantity, 0), coalesce(held.quantity, 0))
        FROM (SELECT * FROM ({_COUNTED}) AS every WHERE state IN ('reserved', 'shipped')) AS counted
        FULL JOIN (
            SELECT tenant, sku, location, pool, state, sum(quantity) AS quantity FROM reservations
            WHERE state IN ('reserved', 'shipped') GROUP BY tenant, sku, location, pool, state
        ) AS held USING (tenant, sku, location, pool, state)
        WHERE coalesce(counted.quantity, 0) <> coalesce(held.quantity, 0) AND ($1::text IS NULL OR tenant = $1)
        """,  # noqa: S608 - constants of this module
    ),
    Check(
        "inventory",
        "no counter is below zero",
        """
        SELECT format('%s %s at %s, pool %s', tenant, sku, location, pool) FROM stock
        WHERE least(available, reserved, shipped, damaged, inbound) < 0 AND ($1::text IS NULL OR tenant = $1)
        """,
    ),
    Check(
        "orders",
        "every unit of an order is reserved, short, cancelled or open, and only one of them",
        """
        SELECT format('%s %s: %s ordered, %s cancelled, %s reserved, %s short, %s open', tenant, order_id,
                      units_ordered, units_cancelled, units_reserved, units_short, units_open) FROM orders
        WHERE units_ordered <> units_cancelled + units_reserved + units_short + units_open
            AND ($1::text IS NULL OR tenant = $1)
        """,
    ),
    Check(
        "orders",
        "no sale of a connection is two orders",
        """
        SELECT format('%s %s of connection %s is %s orders', tenant, external_id, connection_id, count(*)) FROM orders
        WHERE $1::text IS NULL OR tenant = $1
        GROUP BY tenant, connection_id, external_id HAVING count(*) > 1
        """,
    ),
    Check(
        "payments",
        "every balance of money is the sum of its movements, and all balances together are nothing",
        f"""
        SELECT format('%s %s: balance %s %s, movements %s', tenant, account, coalesce(kept.amount_minor, 0), currency,
                      coalesce(moved.amount_minor, 0))
        FROM money_balances AS kept FULL JOIN ({_MONEY_MOVED}) AS moved USING (tenant, account, currency)
        WHERE coalesce(kept.amount_minor, 0) <> coalesce(moved.amount_minor, 0) AND ($1::text IS NULL OR tenant = $1)
        UNION ALL
        SELECT format('%s: all balances together are %s %s', tenant, sum(amount_minor), currency) FROM money_balances
        WHERE $1::text IS NULL OR tenant = $1
        GROUP BY tenant, currency HAVING sum(amount_minor) <> 0
        """,  # noqa: S608 - constants of this module
    ),
    Check(
        "payments",
        "what a payment took and gave back is booked, once",
        """
        SELECT format('%s %s: %s taken and %s back, booked are %s and %s', tenant, payment_id, captured_minor,
                      refunded_minor, taken, back)
        FROM payments, LATERAL (
            SELECT coalesce(sum(amount_minor) FILTER (WHERE split_part(kind, ':', 1) = 'captured'), 0) AS taken,
                   coalesce(sum(CASE split_part(kind, ':', 1) WHEN 'refunded' THEN amount_minor
                                WHEN 'refund_failed' THEN -amount_minor END), 0) AS back
            FROM (SELECT amount_minor, right(cause, -length(payment_id) - 1) AS kind FROM money_movements AS booked
                  WHERE booked.tenant = payments.tenant AND starts_with(cause, payment_id || ':')) AS of_payment
        ) AS booked
        WHERE (captured_minor, refunded_minor) <> (taken, back) AND ($1::text IS NULL OR tenant = $1)
        """,
    ),
    Check(
        "fulfillment",
        "no parcel has two labels, and none that needs an invoice has one without its key",
        """
        SELECT format('%s %s: %s labels bought', tenant, shipment_id, count(*)) FROM carrier_calls
        WHERE state = 'done' AND ($1::text IS NULL OR tenant = $1)
        GROUP BY tenant, shipment_id HAVING count(*) > 1
        UNION ALL
        SELECT format('%s %s: a label without an invoice', tenant, shipment_id) FROM shipments
        WHERE invoice_required AND invoice_key IS NULL AND tracking_code <> '' AND ($1::text IS NULL OR tenant = $1)
        """,
    ),
    Check(
        "erp",
        "the journal has every invoice that stands with its total, and nothing of one that was replaced",
        """
        SELECT format('%s order %s, invoice %s is %s: %s, the journal has %s', tenant, order_id, invoice_key, state,
                      total_minor, booked)
        FROM documents, LATERAL (
            SELECT coalesce(sum(amount_minor), 0) AS booked FROM journal
            WHERE journal.tenant = documents.tenant AND kind = 'invoice' AND reference = document_id
        ) AS in_journal
        WHERE booked <> CASE state WHEN 'standing' THEN total_minor ELSE 0 END AND ($1::text IS NULL OR tenant = $1)
        """,
    ),
)

_EXAMINED = {
    "inventory": "SELECT count(*) FROM movements WHERE $1::text IS NULL OR tenant = $1",
    "orders": "SELECT count(*) FROM orders WHERE $1::text IS NULL OR tenant = $1",
    "payments": "SELECT count(*) FROM payments WHERE $1::text IS NULL OR tenant = $1",
    "fulfillment": "SELECT count(*) FROM shipments WHERE $1::text IS NULL OR tenant = $1",
    "erp": "SELECT count(*) FROM documents WHERE $1::text IS NULL OR tenant = $1",
}


async def verify(dsns: Mapping[str, str], tenant: str | None) -> list[Outcome]:
    """Run the checks of the named services, one read-only snapshot a database. Raises `OSError` or asyncpg's errors."""
    outcomes = []
    for service in sorted({check.service for check in CHECKS} & dsns.keys()):
        connection = await asyncpg.connect(dsns[service], timeout=10, command_timeout=120)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                examined = await connection.fetchval(_EXAMINED[service], tenant)
                for check in CHECKS:
                    if check.service == service:
                        rows = await connection.fetch(f"{check.sql} LIMIT {ROWS_SHOWN}", tenant)
                        outcomes.append(Outcome(check, [row[0] for row in rows], examined))
        finally:
            await connection.close()
    return outcomes

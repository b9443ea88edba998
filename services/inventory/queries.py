"""Read-only questions about items, stock and the ledger: one function a statement, the connection first."""

import asyncpg

from services.inventory.store import Connection

CONSERVATION = """
WITH booked AS (
    SELECT tenant, sku, to_location AS location, to_pool AS pool, to_state AS state, quantity FROM movements
    UNION ALL
    SELECT tenant, sku, from_location, from_pool, from_state, -quantity FROM movements
), ledger AS (
    SELECT tenant, sku, location, pool, state, sum(quantity) AS quantity FROM booked
    WHERE state IN ('available', 'reserved', 'shipped', 'damaged', 'inbound')
    GROUP BY tenant, sku, location, pool, state
), counters AS (
    SELECT tenant, sku, location, pool, counted.* FROM stock CROSS JOIN LATERAL (
        VALUES ('available', available), ('reserved', reserved), ('shipped', shipped), ('damaged', damaged),
               ('inbound', inbound)
    ) AS counted (state, quantity)
), lines AS (
    SELECT tenant, sku, location, pool, state, sum(quantity) AS quantity FROM reservations
    WHERE state IN ('reserved', 'shipped') GROUP BY tenant, sku, location, pool, state
)
SELECT sku, location, pool, state, coalesce(counters.quantity, 0)::bigint AS counter,
       coalesce(ledger.quantity, 0)::bigint AS ledger,
       CASE WHEN state IN ('reserved', 'shipped') THEN coalesce(lines.quantity, 0)::bigint END AS lines
FROM counters FULL JOIN ledger USING (tenant, sku, location, pool, state)
FULL JOIN lines USING (tenant, sku, location, pool, state)
WHERE tenant = $1 AND (
    coalesce(counters.quantity, 0) <> coalesce(ledger.quantity, 0)
    OR state IN ('reserved', 'shipped') AND coalesce(counters.quantity, 0) <> coalesce(lines.quantity, 0)
)
ORDER BY sku, location, pool, state
LIMIT 100
"""
"""Every counter is the sum of its movements, and reserved and shipped stock is what order lines say: the exceptions."""


async def list_items(connection: Connection, tenant: str, after: str, limit: int) -> list[asyncpg.Record]:
    """A page of items by SKU."""
    return await connection.fetch(
        "SELECT * FROM items WHERE tenant = $1 AND sku > $2 ORDER BY sku LIMIT $3", tenant, after, limit
    )


async def list_locations(connection: Connection, tenant: str) -> list[asyncpg.Record]:
    """Every location, in the order in which reservations draw on them."""
    return await connection.fetch(
        "SELECT location, name, held_by, priority FROM locations WHERE tenant = $1 ORDER BY priority, location", tenant
    )


async def list_stock(
    connection: Connection, tenant: str, sku: str | None, after: str, limit: int
) -> list[asyncpg.Record]:
    """Counters per place, of one SKU or of a page of SKUs."""
    return await connection.fetch(
        """
        WITH page AS (
            SELECT * FROM skus WHERE tenant = $1 AND ($2::text IS NULL OR sku = $2) AND sku > $3 ORDER BY sku LIMIT $4
        )
        SELECT page.sku, epoch, version, location, pool, available, reserved, shipped, damaged, inbound, held_by
        FROM page LEFT JOIN stock USING (tenant, sku) LEFT JOIN locations USING (tenant, location)
        ORDER BY sku, location, pool
        """,
        tenant,
        sku,
        after,
        limit,
    )


async def ledger_sums(connection: Connection, tenant: str, sku: str) -> list[asyncpg.Record]:
    """Per account of a SKU, what came in and went out by the kind of its cause and the account on the other side."""
    return await connection.fetch(
        """
        SELECT location, pool, state, split_part(cause, ':', 1) AS cause, other, sum(quantity)::bigint AS quantity,
               count(*) AS movements
        FROM (
            SELECT to_location AS location, to_pool AS pool, to_state AS state, cause, from_state AS other, quantity
            FROM movements WHERE tenant = $1 AND sku = $2
            UNION ALL
            SELECT from_location, from_pool, from_state, cause, to_state, -quantity
            FROM movements WHERE tenant = $1 AND sku = $2
        ) AS booked
        WHERE state IN ('available', 'reserved', 'shipped', 'damaged', 'inbound')
        GROUP BY location, pool, state, split_part(cause, ':', 1), other
        ORDER BY location, pool, state, cause, other
        """,
        tenant,
        sku,
    )


async def last_movements(connection: Connection, tenant: str, sku: str, limit: int) -> list[asyncpg.Record]:
    """The newest rows of the ledger of a SKU."""
    return await connection.fetch(
        """
        SELECT movement_id::text, from_location, from_pool, from_state, to_location, to_pool, to_state, quantity, cause,
               line, epoch, sku_version, at, effective_at
        FROM movements WHERE tenant = $1 AND sku = $2 ORDER BY epoch DESC, sku_version DESC LIMIT $3
        """,
        tenant,
        sku,
        limit,
    )


async def claims_on(connection: Connection, tenant: str, sku: str, state: str, limit: int) -> list[asyncpg.Record]:
    """Order lines that hold (`reserved`) or miss (`short`) units of a SKU, the oldest sale first."""
    return await connection.fetch(
        """
        SELECT order_id, line_id, sold_sku, location, reservations.pool, quantity, reservations.sold_at, connection_id,
               correlation_id, traceparent
        FROM reservations JOIN orders USING (tenant, order_id)
        WHERE tenant = $1 AND sku = $2 AND state = $3 AND quantity > 0
        ORDER BY reservations.sold_at, order_id, line_id LIMIT $4
        """,
        tenant,
        sku,
        state,
        limit,
    )


async def kits_with(connection: Connection, tenant: str, sku: str) -> list[asyncpg.Record]:
    """Kits that a SKU is a component of, and how many units of it one takes."""
    return await connection.fetch(
        """
        SELECT sku, component_quantities[array_position(component_skus, $2)] AS quantity FROM items
        WHERE tenant = $1 AND component_skus <> '{}' AND component_skus @> ARRAY[$2::text] ORDER BY sku
        """,
        tenant,
        sku,
    )


async def pools(connection: Connection, tenant: str) -> list[asyncpg.Record]:
    """Which connection draws on which pool."""
    return await connection.fetch(
        "SELECT pool, connection_id, connector, account, state FROM connections WHERE tenant = $1 ORDER BY 1, 3, 4",
        tenant,
    )


async def order_lines(connection: Connection, tenant: str, order_id: str) -> list[asyncpg.Record]:
    """Where the units of an order's lines are."""
    return await connection.fetch(
        """
        SELECT order_id, revision, connection_id, expired, hold_until, line_id, sold_sku, sku, state, location,
               reservations.pool, origin, quantity, per_unit
        FROM orders JOIN reservations USING (tenant, order_id)
        WHERE tenant = $1 AND order_id = $2
        ORDER BY line_id, sold_sku, sku, state, location, reservations.pool, origin
        """,
        tenant,
        order_id,
    )


async def find_command(connection: Connection, tenant: str, command_id: str) -> asyncpg.Record | None:
    """What became of a command."""
    return await connection.fetchrow(
        "SELECT command_id, kind, sku, booked, outcome, at FROM stock_commands WHERE tenant = $1 AND command_id = $2",
        tenant,
        command_id,
    )


async def count_movements(connection: Connection, tenant: str) -> int:
    """Rows of the ledger."""
    return int(await connection.fetchval("SELECT count(*) FROM movements WHERE tenant = $1", tenant))


async def conservation_faults(connection: Connection, tenant: str) -> list[asyncpg.Record]:
    """Accounts whose counter, ledger and order lines disagree: none, ever."""
    return await connection.fetch(CONSERVATION, tenant)


async def list_shortfalls(connection: Connection, tenant: str, limit: int) -> list[asyncpg.Record]:
    """Open shortfalls, the oldest sale first."""
    return await connection.fetch(
        """
        SELECT order_id, revision, connection_id, line_id, sold_sku, sku, quantity AS missing, policy, orders.pool,
               reservations.sold_at
        FROM reservations JOIN orders USING (tenant, order_id)
        WHERE tenant = $1 AND reservations.state = 'short' AND quantity > 0
        ORDER BY reservations.sold_at, order_id, line_id LIMIT $2
        """,
        tenant,
        limit,
    )

"""The tables of inventory: one function a statement, the connection first.

Every lock is taken in one sorted statement per kind, kinds always in the order location, order, SKU; every read follows
in a statement of its own, because a statement that waited for a lock still sees what was there before it waited.
Passing `nowait` takes a lock out of turn: it never waits, so it can be in no deadlock, and where the row is not free
the transaction is given up and tried again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg

from contracts.inventory.v1 import Component, CountStock, ItemChanged
from services.bus import columns
from services.inventory.commands import Result, Since
from services.inventory.ledger import COUNTED, Location, Movement, Order, Sku

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
Key: TypeAlias = tuple[str, str]
"""Tenant, and order id, SKU or location."""

_ORDER_COLUMNS = (
    "tenant", "order_id", "revision", "sale_revision", "connection_id", "pool", "policy", "all_or_nothing",
    "hold_until", "expired", "sold_at", "received_at", "event_id", "correlation_id", "traceparent",
)  # fmt: skip
_RESERVATION_COLUMNS = (
    "tenant", "order_id", "line_id", "sold_sku", "sku", "state", "location", "pool", "origin", "quantity", "per_unit",
    "only_location", "sold_at",
)  # fmt: skip
_MOVEMENT_COLUMNS = (
    "movement_id", "tenant", "sku", "from_location", "from_pool", "from_state", "to_location", "to_pool", "to_state",
    "quantity", "cause", "line", "epoch", "sku_version", "effective_at", "at",
)  # fmt: skip
_LOCK_ORDERS = """
SELECT orders.* FROM orders
JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, order_id) USING (tenant, order_id)
ORDER BY tenant, order_id FOR UPDATE OF orders
"""
_LOCK_SKUS = """
SELECT tenant, sku, epoch, version FROM skus
JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, sku) USING (tenant, sku)
ORDER BY tenant, sku FOR UPDATE OF skus
"""


async def insert_orders(connection: Connection, orders: Mapping[Key, Order]) -> None:
    """Add orders that are new. COPY, because it costs a fraction of an insert's arrays; their key refuses one that has
    come in between, and the transaction is tried again."""
    await connection.copy_records_to_table(
        "orders",
        records=[_order_row(key[0], orders[key]) for key in sorted(orders)],
        columns=_ORDER_COLUMNS,
    )


async def update_orders(connection: Connection, orders: Mapping[Key, Order]) -> None:
    """Write the newest demand of orders that are locked."""
    await connection.execute(
        """
        UPDATE orders SET
            revision = new.revision, sale_revision = new.sale_revision, connection_id = new.connection_id,
            pool = new.pool, policy = new.policy, all_or_nothing = new.all_or_nothing, hold_until = new.hold_until,
            expired = new.expired, sold_at = new.sold_at, received_at = new.received_at, event_id = new.event_id,
            correlation_id = new.correlation_id, traceparent = new.traceparent
        FROM unnest(
            $1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::bigint[], $5::text::text[],
            $6::text::text[], $7::text::text[], $8::text::boolean[],
            $9::text::timestamptz[], $10::text::boolean[], $11::text::timestamptz[], $12::text::timestamptz[],
            $13::text::text[], $14::text::text[],
            $15::text::text[]
        ) AS new (
            tenant, order_id, revision, sale_revision, connection_id, pool, policy, all_or_nothing, hold_until, expired,
            sold_at, received_at, event_id, correlation_id, traceparent
        )
        WHERE orders.tenant = new.tenant AND orders.order_id = new.order_id
        """,
        *columns((_order_row(tenant, order) for (tenant, _), order in orders.items()), 15),
    )


async def lock_orders(connection: Connection, keys: Collection[Key], *, nowait: bool = False) -> dict[Key, Order]:
    """Lock the orders that are known, sorted, and read them without their lines."""
    rows = await connection.fetch(_LOCK_ORDERS + (" NOWAIT" if nowait else ""), *columns(keys, 2))
    return {
        (row["tenant"], row["order_id"]): Order(
            order_id=row["order_id"],
            revision=row["revision"],
            sale_revision=row["sale_revision"],
            connection_id=row["connection_id"],
            pool=row["pool"],
            policy=row["policy"],
            all_or_nothing=row["all_or_nothing"],
            hold_until=row["hold_until"],
            expired=row["expired"],
            sold_at=row["sold_at"],
            received_at=row["received_at"],
            cause=(row["event_id"], row["correlation_id"], row["traceparent"]),
        )
        for row in rows
    }


async def read_reservations(connection: Connection, keys: Collection[Key]) -> list[asyncpg.Record]:
    """The lines of orders, row by row."""
    return await connection.fetch(
        """
        SELECT reservations.* FROM reservations
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, order_id) USING (tenant, order_id)
        ORDER BY tenant, order_id, line_id, sold_sku, sku, state, location, pool, origin
        """,
        *columns(keys, 2),
    )


async def skus_of_orders(connection: Connection, keys: Collection[Key]) -> set[Key]:
    """Every SKU that a line of these orders is about."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT tenant, sku FROM reservations
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, order_id) USING (tenant, order_id)
        """,
        *columns(keys, 2),
    )
    return {(row["tenant"], row["sku"]) for row in rows}


async def short_orders(connection: Connection, skus: Collection[Key]) -> set[Key]:
    """Orders that miss units of any of these SKUs."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT tenant, order_id FROM reservations
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, sku) USING (tenant, sku)
        WHERE state = 'short' AND quantity > 0
        """,
        *columns(skus, 2),
    )
    return {(row["tenant"], row["order_id"]) for row in rows}


async def holding_orders(connection: Connection, places: Collection[tuple[str, str, str]]) -> set[Key]:
    """Orders with reserved units at any of these (tenant, SKU, location)."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT tenant, order_id FROM reservations
        JOIN unnest($1::text::text[], $2::text::text[], $3::text::text[]) AS wanted (tenant, sku, location)
            USING (tenant, sku, location)
        WHERE state = 'reserved' AND quantity > 0
        """,
        *columns(places, 3),
    )
    return {(row["tenant"], row["order_id"]) for row in rows}


async def due_orders(connection: Connection, now: datetime, limit: int) -> set[Key]:
    """Orders whose hold has run out, the longest waiting first."""
    rows = await connection.fetch(
        """
        SELECT tenant, order_id FROM orders WHERE hold_until <= $1 AND NOT expired ORDER BY hold_until LIMIT $2
        """,
        now,
        limit,
    )
    return {(row["tenant"], row["order_id"]) for row in rows}


async def read_kits(connection: Connection, skus: Collection[Key]) -> tuple[dict[Key, list[tuple[str, int]]], set[Key]]:
    """Of these SKUs, the components of those that are kits, and those that have no lock row yet."""
    rows = await connection.fetch(
        """
        SELECT wanted.tenant, wanted.sku, component_skus, component_quantities, skus.sku IS NULL AS missing
        FROM unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, sku)
        LEFT JOIN items ON (items.tenant, items.sku) = (wanted.tenant, wanted.sku) AND component_skus <> '{}'
        LEFT JOIN skus ON (skus.tenant, skus.sku) = (wanted.tenant, wanted.sku)
        WHERE items.sku IS NOT NULL OR skus.sku IS NULL
        """,
        *columns(skus, 2),
    )
    kits = {
        (row["tenant"], row["sku"]): list(zip(row["component_skus"], row["component_quantities"], strict=True))
        for row in rows
        if row["component_skus"]
    }
    return kits, {(row["tenant"], row["sku"]) for row in rows if row["missing"]}


async def insert_skus(connection: Connection, skus: Collection[Key]) -> None:
    """Make sure that the lock rows exist, sorted: afterwards every one of them can be locked."""
    await connection.execute(
        """
        INSERT INTO skus (tenant, sku) SELECT * FROM unnest($1::text::text[], $2::text::text[]) ON CONFLICT DO NOTHING
        """,
        *columns(sorted(skus), 2),
    )


async def lock_skus(connection: Connection, skus: Collection[Key], *, nowait: bool = False) -> dict[Key, Sku]:
    """Lock SKUs, sorted, and read their versions."""
    rows = await connection.fetch(_LOCK_SKUS + (" NOWAIT" if nowait else ""), *columns(skus, 2))
    return {(tenant, sku): Sku(sku, epoch, version) for tenant, sku, epoch, version in rows}


async def lock_sku_page(connection: Connection, tenant: str | None, after: Key, limit: int) -> dict[Key, Sku]:
    """Lock the next SKUs that ever had a level, in order of (tenant, SKU), of one tenant or of all."""
    rows = await connection.fetch(
        """
        SELECT tenant, sku, epoch, version FROM skus
        WHERE (tenant, sku) > ($2, $3) AND ($1::text IS NULL OR tenant = $1) AND version > 0
        ORDER BY tenant, sku LIMIT $4 FOR UPDATE
        """,
        tenant,
        *after,
        limit,
    )
    return {(tenant, sku): Sku(sku, epoch, version) for tenant, sku, epoch, version in rows}


async def read_stock(connection: Connection, skus: Mapping[Key, Sku]) -> None:
    """Read the counters of locked SKUs into them."""
    rows = await connection.fetch(
        """
        SELECT tenant, sku, location, pool, available, reserved, shipped, damaged, inbound FROM stock
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, sku) USING (tenant, sku)
        """,
        *columns(skus, 2),
    )
    for tenant, code, location, pool, *counters in rows:
        sku = skus[tenant, code]
        sku.add_place((location, pool))
        for state, units in zip(COUNTED, counters, strict=True):
            if units:
                sku.counters[location, pool, state] = units


async def read_locations(connection: Connection, tenants: Collection[str]) -> dict[str, dict[str, Location]]:
    """Every location of these tenants."""
    found: dict[str, dict[str, Location]] = {tenant: {} for tenant in tenants}
    rows = await connection.fetch("SELECT * FROM locations WHERE tenant = ANY($1)", sorted(tenants))
    for row in rows:
        found[row["tenant"]][row["location"]] = Location(row["location"], row["name"], row["held_by"], row["priority"])
    return found


async def share_locations(connection: Connection, keys: Collection[Key]) -> None:
    """Keep these locations as they are until the commit, sorted."""
    await connection.execute(
        """
        SELECT FROM locations
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, location) USING (tenant, location)
        ORDER BY tenant, location FOR SHARE OF locations
        """,
        *columns(keys, 2),
    )


async def lock_locations(connection: Connection, keys: Collection[Key]) -> None:
    """Lock these locations, sorted."""
    await connection.execute(
        """
        SELECT FROM locations
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, location) USING (tenant, location)
        ORDER BY tenant, location FOR UPDATE OF locations
        """,
        *columns(keys, 2),
    )


async def occupied_locations(connection: Connection, keys: Collection[Key]) -> set[Key]:
    """Of these locations, those where any stock lies."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT tenant, location FROM stock
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, location) USING (tenant, location)
        WHERE available + reserved + damaged + inbound > 0
        """,
        *columns(keys, 2),
    )
    return {(row["tenant"], row["location"]) for row in rows}


async def put_locations(connection: Connection, locations: Iterable[tuple[str, Location]]) -> None:
    """Create or change locations."""
    await connection.execute(
        """
        INSERT INTO locations (tenant, location, name, held_by, priority)
        SELECT * FROM unnest(
            $1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::integer[]
        )
        ON CONFLICT (tenant, location)
        DO UPDATE SET name = EXCLUDED.name, held_by = EXCLUDED.held_by, priority = EXCLUDED.priority
        """,
        *columns(((tenant, at.location, at.name, at.held_by, at.priority) for tenant, at in locations), 5),
    )


async def read_items(connection: Connection, skus: Collection[Key]) -> dict[Key, ItemChanged]:
    """These items, and the kits of the same companies that have one of these SKUs as a component."""
    rows = await connection.fetch(
        """
        SELECT items.* FROM items
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, sku) USING (tenant, sku)
        UNION ALL
        SELECT * FROM items
        WHERE component_skus <> '{}' AND component_skus && $2::text::text[] AND tenant = ANY($1::text::text[])
        """,
        *columns(skus, 2),
    )
    return {(row["tenant"], row["sku"]): _item(row) for row in rows}


async def lock_item_page(
    connection: Connection, tenant: str | None, after: Key, limit: int
) -> list[tuple[str, ItemChanged]]:
    """Lock the next items in order of (tenant, SKU), of one tenant or of all."""
    rows = await connection.fetch(
        """
        SELECT * FROM items WHERE (tenant, sku) > ($2, $3) AND ($1::text IS NULL OR tenant = $1)
        ORDER BY tenant, sku LIMIT $4 FOR UPDATE
        """,
        tenant,
        *after,
        limit,
    )
    return [(row["tenant"], _item(row)) for row in rows]


async def put_items(connection: Connection, items: Iterable[tuple[str, ItemChanged]]) -> None:
    """Create or change items."""
    await connection.executemany(
        """
        INSERT INTO items (
            tenant, sku, epoch, version, name, active, unit, gtin, weight_g, dimensions_mm, tax_class, component_skus,
            component_quantities
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        ON CONFLICT (tenant, sku) DO UPDATE SET
            epoch = EXCLUDED.epoch, version = EXCLUDED.version, name = EXCLUDED.name, active = EXCLUDED.active,
            unit = EXCLUDED.unit, gtin = EXCLUDED.gtin, weight_g = EXCLUDED.weight_g,
            dimensions_mm = EXCLUDED.dimensions_mm, tax_class = EXCLUDED.tax_class,
            component_skus = EXCLUDED.component_skus, component_quantities = EXCLUDED.component_quantities
        """,
        [
            (
                tenant,
                item.sku,
                item.epoch,
                item.version,
                item.name,
                item.active,
                item.unit,
                item.gtin,
                item.weight_g,
                item.dimensions_mm,
                item.tax_class,
                [part.sku for part in item.components],
                [part.quantity for part in item.components],
            )
            for tenant, item in items
        ],
    )


async def read_commands(connection: Connection, keys: Collection[Key]) -> dict[Key, Result]:
    """What became of these commands, of those that are known."""
    rows = await connection.fetch(
        """
        SELECT stock_commands.* FROM stock_commands
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, command_id) USING (tenant, command_id)
        """,
        *columns(keys, 2),
    )
    return {
        (row["tenant"], row["command_id"]): Result(
            row["command_id"], row["kind"], row["sku"], row["booked"], row["outcome"]
        )
        for row in rows
    }


async def insert_commands(connection: Connection, results: Iterable[tuple[str, Result]], now: datetime) -> None:
    """Remember what became of commands. Their key refuses a second time."""
    await connection.execute(
        """
        INSERT INTO stock_commands (tenant, command_id, kind, sku, booked, outcome, at)
        SELECT *, $7::timestamptz FROM unnest(
            $1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::boolean[],
            $6::text::text[]
        )
        """,
        *columns(((tenant, *result) for tenant, result in results), 6),
        now,
    )


async def read_stocktakings(connection: Connection, skus: Collection[Key]) -> list[asyncpg.Record]:
    """Which opening stock was taken on by which command, and when each place was last counted."""
    return await connection.fetch(
        """
        SELECT stocktakings.* FROM stocktakings
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, sku) USING (tenant, sku)
        """,
        *columns(skus, 2),
    )


async def put_stocktakings(
    connection: Connection, rows: Iterable[tuple[str, str, str, str | None, datetime | None]]
) -> None:
    """Keep (tenant, SKU, location, opened by, counted at)."""
    await connection.execute(
        """
        INSERT INTO stocktakings (tenant, sku, location, opened_by, counted_at)
        SELECT * FROM unnest(
            $1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::timestamptz[]
        )
        ON CONFLICT (tenant, sku, location)
        DO UPDATE SET opened_by = EXCLUDED.opened_by, counted_at = EXCLUDED.counted_at
        """,
        *columns(rows, 5),
    )


async def read_since(connection: Connection, counts: Sequence[tuple[str, CountStock]]) -> list[Since]:
    """What was booked on hand at each count's SKU and location since its position, in the order of `counts`.

    The position is the level's version where the counter knew it, else the moment of the count.
    """
    rows = await connection.fetch(
        """
        SELECT coalesce(sum(change), 0)::bigint AS change,
               coalesce(sum(change) FILTER (WHERE effective_at <= counted_at), 0)::bigint AS corrected
        FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::timestamptz[], $5::text::bigint[])
             WITH ORDINALITY AS counted (tenant, sku, location, counted_at, position, number)
        LEFT JOIN LATERAL (
            SELECT effective_at, quantity * (
                (to_location = location AND to_state IN ('available', 'reserved', 'damaged'))::integer
                - (from_location = location AND from_state IN ('available', 'reserved', 'damaged'))::integer
            ) AS change
            FROM movements
            WHERE movements.tenant = counted.tenant AND movements.sku = counted.sku
            AND CASE WHEN position IS NULL THEN at > counted_at ELSE sku_version > position END
        ) AS booked ON true
        GROUP BY number ORDER BY number
        """,
        *columns(((tenant, c.sku, c.location, c.counted_at, c.version) for tenant, c in counts), 5),
    )
    return [Since(row["change"], row["corrected"]) for row in rows]


async def insert_reservations(connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Write where units of lines of new orders are."""
    await connection.copy_records_to_table("reservations", records=rows, columns=_RESERVATION_COLUMNS)


async def write_reservations(connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Write where units of order lines are."""
    await connection.execute(
        """
        INSERT INTO reservations (
            tenant, order_id, line_id, sold_sku, sku, state, location, pool, origin, quantity, per_unit, only_location,
            sold_at
        )
        SELECT * FROM unnest(
            $1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::text[],
            $6::text::text[], $7::text::text[], $8::text::text[], $9::text::text[],
            $10::text::bigint[], $11::text::integer[], $12::text::text[], $13::text::timestamptz[]
        )
        ON CONFLICT (tenant, order_id, line_id, sold_sku, sku, state, location, pool, origin)
        DO UPDATE SET quantity = EXCLUDED.quantity, only_location = EXCLUDED.only_location
        """,
        *columns(rows, 13),
    )


async def delete_reservations(connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Forget where no unit of an order line is any more: (tenant, order id, line id, sold SKU, SKU, and where)."""
    await connection.execute(
        """
        DELETE FROM reservations USING unnest(
            $1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::text[], $6::text::text[],
            $7::text::text[], $8::text::text[], $9::text::text[]
        ) AS gone (tenant, order_id, line_id, sold_sku, sku, state, location, pool, origin)
        WHERE (reservations.tenant, reservations.order_id, reservations.line_id, reservations.sold_sku,
               reservations.sku, reservations.state, reservations.location, reservations.pool, reservations.origin)
            = (gone.tenant, gone.order_id, gone.line_id, gone.sold_sku, gone.sku, gone.state, gone.location, gone.pool,
               gone.origin)
        """,
        *columns(rows, 9),
    )


async def write_stock(connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Write counters of locked SKUs."""
    await connection.execute(
        """
        INSERT INTO stock (tenant, sku, location, pool, available, reserved, shipped, damaged, inbound)
        SELECT * FROM unnest(
            $1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::bigint[],
            $6::text::bigint[], $7::text::bigint[], $8::text::bigint[],
            $9::text::bigint[]
        )
        ON CONFLICT (tenant, sku, location, pool) DO UPDATE SET
            available = EXCLUDED.available, reserved = EXCLUDED.reserved, shipped = EXCLUDED.shipped,
            damaged = EXCLUDED.damaged, inbound = EXCLUDED.inbound
        """,
        *columns(rows, 9),
    )


async def write_versions(connection: Connection, rows: Iterable[tuple[str, str, int]]) -> None:
    """Write (tenant, SKU, version) of locked SKUs."""
    await connection.execute(
        """
        UPDATE skus SET version = new.version
        FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[]) AS new (tenant, sku, version)
        WHERE skus.tenant = new.tenant AND skus.sku = new.sku
        """,
        *columns(rows, 3),
    )


async def insert_movements(
    connection: Connection, movements: Iterable[tuple[str, str, Movement]], now: datetime
) -> None:
    """Append to the ledger (movement id, tenant, movement). The key refuses a movement booked twice."""
    await connection.copy_records_to_table(
        "movements",
        records=[(name, tenant, m[0], *m[1], *m[2], *m[3:9], now) for name, tenant, m in movements],
        columns=_MOVEMENT_COLUMNS,
    )


async def put_connections(connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Keep what channels says of its connections; an older version changes nothing."""
    await connection.executemany(
        """
        INSERT INTO connections (tenant, connection_id, epoch, version, connector, account, state, pool)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (tenant, connection_id) DO UPDATE SET
            epoch = EXCLUDED.epoch, version = EXCLUDED.version, connector = EXCLUDED.connector,
            account = EXCLUDED.account, state = EXCLUDED.state, pool = EXCLUDED.pool
        WHERE (connections.epoch, connections.version) < (EXCLUDED.epoch, EXCLUDED.version)
        """,
        rows,
    )


def _order_row(tenant: str, order: Order) -> tuple[Any, ...]:
    return (
        tenant,
        order.order_id,
        order.revision,
        order.sale_revision,
        order.connection_id,
        order.pool,
        order.policy,
        order.all_or_nothing,
        order.hold_until,
        order.expired,
        order.sold_at,
        order.received_at,
        *order.cause,
    )


def _item(row: asyncpg.Record) -> ItemChanged:
    return ItemChanged(
        sku=row["sku"],
        version=row["version"],
        epoch=row["epoch"],
        name=row["name"],
        active=row["active"],
        unit=row["unit"],
        gtin=row["gtin"],
        weight_g=row["weight_g"],
        dimensions_mm=tuple(row["dimensions_mm"]) if row["dimensions_mm"] else None,
        tax_class=row["tax_class"],
        components=tuple(
            Component(sku=sku, quantity=quantity)
            for sku, quantity in zip(row["component_skus"], row["component_quantities"], strict=True)
        ),
    )

"""The SQL of orders: one function a statement, the connection first."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Final, TypeAlias

import asyncpg
from pydantic import TypeAdapter

from contracts.channels.v1 import ConnectionChanged, SaleStatus
from contracts.envelope import Message
from services.bus import array, columns
from services.orders.domain import Order, standing
from services.orders.recent import Key, Known

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
_order = TypeAdapter(Order)
_APART: Final = {"sale", "demand"}


def read(row: asyncpg.Record) -> Order:
    """An order from its row (sale, demand, body), written by this build or an older one."""
    parts = f'{{"sale":{row["sale"]},"demand":{row["demand"] or "null"},{row["body"][1:]}'
    return _order.validate_json(parts, extra="ignore")


def _json(message: Message) -> str:
    return message.__pydantic_serializer__.to_json(message).decode()


LOCK_ORDERS: Final = """
    SELECT tenant, order_id,
        CASE WHEN stamp <> known THEN sale END AS sale,
        CASE WHEN stamp <> known THEN demand END AS demand,
        CASE WHEN stamp <> known THEN body END AS body
    FROM orders JOIN unnest($1::text::text[], $2::text::text[], $3::text::text[])
        AS wanted (tenant, order_id, known) USING (tenant, order_id)
    ORDER BY tenant, order_id FOR UPDATE OF orders
"""


async def lock_orders(connection: Connection, keys: Iterable[Key], known: Mapping[Key, Known]) -> dict[Key, Order]:
    """Lock those of `keys` that exist, in one sorted statement, and read those whose stamp is not the `known` one."""
    wanted = [(*key, known[key].stamp if key in known else "") for key in keys]
    rows = await connection.fetch(LOCK_ORDERS, *columns(wanted, 3))
    orders = {}
    for row in rows:
        key = (row["tenant"], row["order_id"])
        orders[key] = known[key].order if row["body"] is None else read(row)
    return orders


_units: Final = attrgetter("ordered", "cancelled", "reserved", "short", "open")
_COLUMNS = (
    "tenant", "order_id", "state", "version", "sale_revision", "units_ordered", "units_cancelled", "units_reserved",
    "units_short", "units_open", "payment_due", "sale", "demand", "body", "changed_at", "stamp", "connection_id",
    "external_id", "sold_at",
)  # fmt: skip


def _rows(
    orders: Mapping[Key, Order], before: Mapping[Key, Order], stamp: str, now: datetime, payment_default: timedelta
) -> list[Sequence[object]]:
    """The rows of `orders`, without the sale and the demand where they are those of `before`: most answers change
    neither."""
    rows: list[Sequence[object]] = []
    for (tenant, order_id), order in orders.items():
        sale, demand, was = order.sale, order.demand, before.get((tenant, order_id))
        units = map(sum, zip(*map(_units, standing(order)), strict=True)) if sale.lines else (0,) * 5
        waits = order.status is SaleStatus.AWAITING_PAYMENT
        rows.append(
            (
                tenant,
                order_id,
                order.state.kind,
                order.version,
                sale.revision,
                *units,
                (sale.payment_due or sale.sold_at + payment_default) if waits else None,
                None if was and was.sale is sale else _json(sale),
                None if demand is None or (was and was.demand is demand) else _json(demand),
                _order.serializer.to_json(order, exclude=_APART).decode(),
                now,
                stamp,
                sale.connection_id,
                sale.external_id,
                sale.sold_at,
            )
        )
    return rows


async def insert_orders(
    connection: Connection, orders: Mapping[Key, Order], stamp: str, now: datetime, payment_default: timedelta
) -> None:
    """Write orders heard of for the first time. One that exists after all is a unique violation, never overwritten."""
    await connection.copy_records_to_table(
        "orders", records=_rows(orders, {}, stamp, now, payment_default), columns=_COLUMNS
    )


async def update_orders(
    connection: Connection,
    orders: Mapping[Key, Order],
    before: Mapping[Key, Order],
    stamp: str,
    now: datetime,
    payment_default: timedelta,
) -> None:
    """Write orders whose rows are locked and were `before`."""
    written = list(zip(*_rows(orders, before, stamp, now, payment_default), strict=True))
    await connection.execute(
        """
        UPDATE orders SET state = new.state, version = new.version, sale_revision = new.sale_revision,
            units_ordered = new.units_ordered, units_cancelled = new.units_cancelled,
            units_reserved = new.units_reserved, units_short = new.units_short, units_open = new.units_open,
            payment_due = new.payment_due, sale = coalesce(new.sale, orders.sale),
            demand = coalesce(new.demand, orders.demand), body = new.body, changed_at = $15, stamp = $16
        FROM unnest(
            $1::text::text[], $2::text::text[], $3::text::text[], $4::text::int[], $5::text::int[],
            $6::text::bigint[], $7::text::bigint[], $8::text::bigint[], $9::text::bigint[], $10::text::bigint[],
            $11::text::timestamptz[], $12::text[], $13::text[], $14::text[]
        ) AS new (
            tenant, order_id, state, version, sale_revision, units_ordered, units_cancelled, units_reserved,
            units_short, units_open, payment_due, sale, demand, body
        )
        WHERE orders.tenant = new.tenant AND orders.order_id = new.order_id
        """,
        *map(array, written[:11]),
        *written[11:14],
        now,
        stamp,
    )


async def raise_alerts(connection: Connection, alerts: Iterable[tuple[str, str, str]], now: datetime) -> None:
    """Raise (tenant, order id, kind), or count one more where it stands already."""
    await connection.execute(
        """
        INSERT INTO alerts (tenant, order_id, kind, raised_at, repeated_at)
        SELECT *, $4, $4 FROM unnest($1::text::text[], $2::text::text[], $3::text::text[])
        ON CONFLICT (tenant, order_id, kind) DO UPDATE SET repeated_at = excluded.repeated_at, times = alerts.times + 1
        """,
        *columns(alerts, 3),
        now,
    )


async def clear_alerts(connection: Connection, alerts: Iterable[tuple[str, str, str]]) -> None:
    """Take back (tenant, order id, kind), where it stands."""
    await connection.execute(
        """
        DELETE FROM alerts
        USING unnest($1::text::text[], $2::text::text[], $3::text::text[]) AS gone (tenant, order_id, kind)
        WHERE alerts.tenant = gone.tenant AND alerts.order_id = gone.order_id AND alerts.kind = gone.kind
        """,
        *columns(alerts, 3),
    )


async def claim_unpaid(
    connection: Connection, now: datetime, margin: timedelta, interval: timedelta, limit: int
) -> list[asyncpg.Record]:
    """Mark and return orders unpaid past their deadline plus `margin` that were not asked about within `interval`.

    Rows of tenant, order_id, payment_due; they stay locked until the transaction ends.
    """
    return await connection.fetch(
        """
        UPDATE orders SET asked_at = $1 FROM (
            SELECT tenant, order_id FROM orders
            WHERE payment_due < $1::timestamptz - $2::interval
                AND (asked_at IS NULL OR asked_at <= $1::timestamptz - $3::interval)
            ORDER BY tenant, order_id LIMIT $4 FOR UPDATE SKIP LOCKED
        ) AS due
        WHERE orders.tenant = due.tenant AND orders.order_id = due.order_id
        RETURNING orders.tenant, orders.order_id, orders.payment_due
        """,
        now,
        margin,
        interval,
        limit,
    )


async def lock_finished(connection: Connection, before: datetime, limit: int) -> dict[Key, Order]:
    """Lock and read finished orders that nothing has happened to since `before`."""
    rows = await connection.fetch(
        """
        SELECT tenant, order_id, sale, demand, body FROM orders
        WHERE finished_at < $1
        ORDER BY tenant, order_id LIMIT $2 FOR UPDATE SKIP LOCKED
        """,
        before,
        limit,
    )
    return {(row["tenant"], row["order_id"]): read(row) for row in rows}


async def put_connections(connection: Connection, changes: Mapping[Key, ConnectionChanged]) -> None:
    """Keep what is newer by (epoch, version) than what is known, by (tenant, connection id)."""
    rows = [
        (
            *key,
            change.epoch,
            change.version,
            change.connector,
            change.account,
            change.state.value,
            change.reserves_unpaid,
            change.restores_on_cancel,
        )
        for key, change in sorted(changes.items())
    ]
    await connection.execute(
        """
        INSERT INTO connections
        SELECT * FROM unnest(
            $1::text::text[], $2::text::text[], $3::text::int[], $4::text::int[], $5::text::text[], $6::text::text[],
            $7::text::text[], $8::text::bool[], $9::text::bool[]
        )
        ON CONFLICT (tenant, connection_id) DO UPDATE SET epoch = excluded.epoch, version = excluded.version,
            connector = excluded.connector, account = excluded.account, state = excluded.state,
            reserves_unpaid = excluded.reserves_unpaid, restores_on_cancel = excluded.restores_on_cancel
        WHERE (connections.epoch, connections.version) < (excluded.epoch, excluded.version)
        """,
        *columns(rows, 9),
    )


async def list_orders(
    connection: Connection, tenant: str, state: str | None, after: str, limit: int
) -> list[asyncpg.Record]:
    """Orders by id from `after` on, with their connection's connector and account where known."""
    return await connection.fetch(
        """
        SELECT orders.order_id, orders.version, orders.changed_at, sale, demand, body, connector, account
        FROM orders LEFT JOIN connections USING (tenant, connection_id)
        WHERE tenant = $1 AND ($2::text IS NULL OR orders.state = $2) AND orders.order_id > $3
        ORDER BY orders.order_id LIMIT $4
        """,
        tenant,
        state,
        after,
        limit,
    )


async def find_orders(
    connection: Connection, tenant: str, identity: str, connection_id: str | None
) -> list[asyncpg.Record]:
    """Orders with this order id, or with this external id on `connection_id` (on any, where it is None)."""
    return await connection.fetch(
        """
        SELECT orders.order_id, orders.version, orders.changed_at, sale, demand, body, connector, account
        FROM orders LEFT JOIN connections USING (tenant, connection_id)
        WHERE tenant = $1 AND (orders.order_id = $2 OR orders.external_id = $2)
            AND ($3::text IS NULL OR connection_id = $3)
        ORDER BY orders.order_id LIMIT 20
        """,
        tenant,
        identity,
        connection_id,
    )


async def summarize(connection: Connection, tenant: str) -> list[asyncpg.Record]:
    """Per connection and state: orders, and units by outcome."""
    return await connection.fetch(
        """
        SELECT connection_id, state, count(*) AS orders, sum(units_ordered)::bigint AS ordered,
            sum(units_cancelled)::bigint AS cancelled, sum(units_reserved)::bigint AS reserved,
            sum(units_short)::bigint AS short, sum(units_open)::bigint AS open
        FROM orders WHERE tenant = $1 GROUP BY connection_id, state ORDER BY connection_id, state
        """,
        tenant,
    )


async def list_alerts(connection: Connection, tenant: str, limit: int) -> list[asyncpg.Record]:
    """What a person should look at, newest first."""
    return await connection.fetch(
        """
        SELECT kind, order_id, connection_id, external_id, raised_at, repeated_at, times
        FROM alerts JOIN orders USING (tenant, order_id)
        WHERE tenant = $1 ORDER BY raised_at DESC, order_id, kind LIMIT $2
        """,
        tenant,
        limit,
    )

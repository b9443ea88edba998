"""The SQL of orders: one function a statement, the connection first."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeAlias

import asyncpg
from pydantic import TypeAdapter

from contracts.channels.v1 import ConnectionChanged, SaleReported, SaleStatus
from contracts.envelope import Message
from services.bus import Received, array, columns
from services.orders.order import Order
from services.orders.process import NOTHING, Process, deadline
from services.orders.recent import Key, Known
from services.orders.standing import units
from services.orders.wanted import paid_by_us

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
_order = TypeAdapter(Order)
_process = TypeAdapter(Process)
_APART: Final = {"sale", "demand", "process"}


def read(row: asyncpg.Record) -> Order:
    """An order from its row (sale, demand, process, body), written by this build or an older one."""
    process = f'"process":{row["process"]},' if row["process"] else ""
    parts = f'{{"sale":{row["sale"]},"demand":{row["demand"] or "null"},{process}{row["body"][1:]}'
    return _order.validate_json(parts, extra="ignore")


def _json(message: Message) -> str:
    return message.__pydantic_serializer__.to_json(message).decode()


LOCK_ORDERS: Final = """
    SELECT tenant, order_id,
        CASE WHEN stamp <> known THEN sale END AS sale,
        CASE WHEN stamp <> known THEN demand END AS demand,
        CASE WHEN stamp <> known THEN process END AS process,
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


def _told(sale: SaleReported, began: Received[Any] | None) -> str:
    """The JSON of a sale: as it came, where it is the one that its order began with."""
    return began.body.decode() if began and began.body and began.message is sale else _json(sale)


_COLUMNS = (
    "tenant", "order_id", "state", "version", "sale_revision", "units_ordered", "units_cancelled", "units_reserved",
    "units_short", "units_open", "payment_due", "sale", "demand", "body", "process", "deadline_at", "changed_at",
    "stamp", "connection_id", "external_id", "sold_at", "placed_at", "traceparent",
)  # fmt: skip


class Written(NamedTuple):
    """What the rows of one write have in common: their stamp, their moment, and the lengths of deadlines by name."""

    stamp: str
    now: datetime
    lengths: Mapping[str, timedelta]


def _rows(
    orders: Mapping[Key, Order], before: Mapping[Key, Order], written: Written, begun: Mapping[Key, Received[Any]]
) -> list[Sequence[object]]:
    """The rows of `orders`, without the sale, the demand and the process where they are those of `before`: most answers
    change none."""
    rows: list[Sequence[object]] = []
    now, lengths = written.now, written.lengths
    for key, order in orders.items():
        tenant, order_id = key
        sale, demand, process, was = order.sale, order.demand, order.process, before.get(key)
        began = begun.get(key)
        waits = order.status is SaleStatus.AWAITING_PAYMENT and not paid_by_us(sale)
        rows.append(
            (
                tenant,
                order_id,
                order.state.kind,
                order.version,
                sale.revision,
                *units(order),
                (sale.payment_due or sale.sold_at + lengths["payment_default_h"]) if waits else None,
                None if was and was.sale is sale else _told(sale, began),
                None if demand is None or (was and was.demand is demand) else _json(demand),
                _order.serializer.to_json(order, exclude=_APART).decode(),
                None
                if process is NOTHING or (was and was.process is process)
                else _process.dump_json(process).decode(),
                None if process is NOTHING else deadline(process, sale, lengths),
                now,
                written.stamp,
                sale.connection_id,
                sale.external_id,
                sale.sold_at,
                now,
                began.envelope.traceparent if began else "",
            )
        )
    return rows


async def insert_orders(
    connection: Connection, orders: Mapping[Key, Order], written: Written, begun: Mapping[Key, Received[Any]]
) -> None:
    """Write orders heard of for the first time, `begun` by these events. One that exists after all is a unique
    violation, never overwritten."""
    await connection.copy_records_to_table("orders", records=_rows(orders, {}, written, begun), columns=_COLUMNS)


async def update_orders(
    connection: Connection, orders: Mapping[Key, Order], before: Mapping[Key, Order], written: Written
) -> None:
    """Write orders whose rows are locked and were `before`."""
    rows = list(zip(*_rows(orders, before, written, {}), strict=True))
    await connection.execute(
        """
        UPDATE orders SET state = new.state, version = new.version, sale_revision = new.sale_revision,
            units_ordered = new.units_ordered, units_cancelled = new.units_cancelled,
            units_reserved = new.units_reserved, units_short = new.units_short, units_open = new.units_open,
            payment_due = new.payment_due, sale = coalesce(new.sale, orders.sale),
            demand = coalesce(new.demand, orders.demand), body = new.body,
            process = coalesce(new.process, orders.process), deadline_at = new.deadline_at,
            confirmed_at = coalesce(
                orders.confirmed_at, CASE WHEN new.state IN ('confirmed', 'invoiced') THEN $17::timestamptz END
            ),
            changed_at = $17, stamp = $18, closed_at = CASE WHEN new.state = 'closed' THEN $17::timestamptz END
        FROM unnest(
            $1::text::text[], $2::text::text[], $3::text::text[], $4::text::int[], $5::text::int[],
            $6::text::bigint[], $7::text::bigint[], $8::text::bigint[], $9::text::bigint[], $10::text::bigint[],
            $11::text::timestamptz[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text::timestamptz[]
        ) AS new (
            tenant, order_id, state, version, sale_revision, units_ordered, units_cancelled, units_reserved,
            units_short, units_open, payment_due, sale, demand, body, process, deadline_at
        )
        WHERE orders.tenant = new.tenant AND orders.order_id = new.order_id
        """,
        *map(array, rows[:11]),
        *rows[11:15],
        array(rows[15]),
        written.now,
        written.stamp,
    )


async def raise_alerts(
    connection: Connection, alerts: Iterable[tuple[str, str, str, datetime | None]], now: datetime
) -> None:
    """Raise (tenant, order id, kind, what is due when), or count one more where it stands already."""
    await connection.execute(
        """
        INSERT INTO alerts (tenant, order_id, kind, due_at, raised_at, repeated_at)
        SELECT *, $5, $5 FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::timestamptz[])
        ON CONFLICT (tenant, order_id, kind) DO UPDATE SET repeated_at = excluded.repeated_at, times = alerts.times + 1,
            due_at = excluded.due_at, overdue = alerts.overdue AND alerts.due_at IS NOT DISTINCT FROM excluded.due_at
        """,
        *columns(alerts, 4),
        now,
    )


async def repeat_overdue(connection: Connection, now: datetime, limit: int) -> int:
    """Count alerts once more whose time ran out; returns how many."""
    rows = await connection.fetch(
        """
        UPDATE alerts SET repeated_at = $1, times = times + 1, overdue = true
        WHERE (tenant, order_id, kind) IN (
            SELECT tenant, order_id, kind FROM alerts WHERE due_at <= $1 AND NOT overdue
            ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ) RETURNING kind
        """,
        now,
        limit,
    )
    return len(rows)


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

    Rows of tenant, order_id, payment_due, traceparent; they stay locked until the transaction ends.
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
        RETURNING orders.tenant, orders.order_id, orders.payment_due, orders.traceparent
        """,
        now,
        margin,
        interval,
        limit,
    )


async def lock_finished(connection: Connection, before: datetime, limit: int) -> list[asyncpg.Record]:
    """Lock and read finished orders that nothing has happened to since `before`: as `lock_due`."""
    return await connection.fetch(
        """
        SELECT tenant, order_id, sale, demand, process, body, traceparent FROM orders
        WHERE finished_at < $1
        ORDER BY tenant, order_id LIMIT $2 FOR UPDATE SKIP LOCKED
        """,
        before,
        limit,
    )


async def lock_due(connection: Connection, now: datetime, limit: int) -> list[asyncpg.Record]:
    """Lock and read orders whose stage has lasted too long: rows that `read` takes, with key and trace context."""
    return await connection.fetch(
        """
        SELECT tenant, order_id, sale, demand, process, body, traceparent FROM orders
        WHERE deadline_at <= $1
        ORDER BY tenant, order_id LIMIT $2 FOR UPDATE SKIP LOCKED
        """,
        now,
        limit,
    )


async def lock_order(connection: Connection, tenant: str, order_id: str) -> asyncpg.Record | None:
    """Lock and read one order, if there is one: as `lock_due`."""
    return await connection.fetchrow(
        """
        SELECT tenant, order_id, sale, demand, process, body, traceparent FROM orders
        WHERE tenant = $1 AND order_id = $2 FOR UPDATE
        """,
        tenant,
        order_id,
    )


async def lock_looked(connection: Connection, state: str, since: datetime) -> datetime | None:
    """Up to when orders in `state` were looked through, `since` if never; None while another process does it."""
    await connection.execute("INSERT INTO looked VALUES ($1, $2) ON CONFLICT DO NOTHING", state, since)
    upto: datetime | None = await connection.fetchval(
        "SELECT upto FROM looked WHERE state = $1 FOR UPDATE SKIP LOCKED", state
    )
    return upto


async def put_looked(connection: Connection, state: str, upto: datetime) -> None:
    """Orders in `state` were looked through up to this moment of their placing."""
    await connection.execute("UPDATE looked SET upto = $2 WHERE state = $1", state, upto)


async def lock_staying(
    connection: Connection, state: str, after: datetime, before: datetime, limit: int
) -> list[asyncpg.Record]:
    """Lock and read orders placed within (after, before] that are still in `state` with no deadline: as `lock_due`."""
    return await connection.fetch(
        """
        SELECT tenant, order_id, sale, demand, process, body, traceparent FROM orders
        WHERE placed_at > $2 AND placed_at <= $3 AND state = $1 AND deadline_at IS NULL
        LIMIT $4 FOR UPDATE SKIP LOCKED
        """,
        state,
        after,
        before,
        limit,
    )


async def insert_story(connection: Connection, rows: Iterable[Sequence[object]]) -> None:
    """Add what happened: (tenant, order id, version, what, at, detail as JSON, traceparent)."""
    await connection.execute(
        """
        INSERT INTO story
        SELECT * FROM unnest(
            $1::text::text[], $2::text::text[], $3::text::int[], $4::text::text[], $5::text::timestamptz[],
            $6::text::text[], $7::text::text[]
        ) ON CONFLICT DO NOTHING
        """,
        *columns(rows, 7),
    )


async def read_story(connection: Connection, tenant: str, order_id: str) -> list[asyncpg.Record]:
    """What happened to an order, oldest first."""
    return await connection.fetch(
        "SELECT version, what, at, detail, traceparent FROM story WHERE tenant = $1 AND order_id = $2 "
        "ORDER BY at, version, what",
        tenant,
        order_id,
    )


async def forget_stories(connection: Connection, before: datetime, limit: int) -> int:
    """Delete the stories of orders that were closed before a moment, the oldest first; returns of how many orders."""
    status = await connection.execute(
        """
        WITH over AS (
            SELECT tenant, order_id FROM orders WHERE closed_at < $1
            ORDER BY closed_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ), forgotten AS (
            DELETE FROM story USING over WHERE story.tenant = over.tenant AND story.order_id = over.order_id
        )
        UPDATE orders SET closed_at = NULL FROM over
        WHERE orders.tenant = over.tenant AND orders.order_id = over.order_id
        """,
        before,
        limit,
    )
    return int(status.rpartition(" ")[2])


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


IN_WORK: Final = ("held", "short", "invoiced", "packed", "cancelling")
"""States that few orders are in at any moment: those are found without a walk through all the others."""
_LISTED: Final = """
    SELECT orders.order_id, orders.version, changed_at, placed_at, confirmed_at, traceparent,
        deadline_at, sale, demand, process, body, connector, account
    FROM orders LEFT JOIN connections USING (tenant, connection_id) """
_PAGE: Final = " AND orders.order_id > $3 ORDER BY orders.order_id LIMIT $4"
LIST_ORDERS: Final = _LISTED + "WHERE tenant = $1 AND ($2::text IS NULL OR orders.state = $2)" + _PAGE
LIST_IN_WORK: Final = _LISTED + "WHERE tenant = $1 AND in_work = $2" + _PAGE


async def list_orders(
    connection: Connection, tenant: str, state: str | None, after: str, limit: int
) -> list[asyncpg.Record]:
    """Orders by id from `after` on, with their connection's connector and account where known."""
    return await connection.fetch(LIST_IN_WORK if state in IN_WORK else LIST_ORDERS, tenant, state, after, limit)


async def find_orders(
    connection: Connection, tenant: str, identity: str, connection_id: str | None
) -> list[asyncpg.Record]:
    """Orders with this order id, or with this external id on `connection_id` (on any, where it is None)."""
    return await connection.fetch(
        """
        SELECT orders.order_id, orders.version, changed_at, placed_at, confirmed_at, traceparent,
            deadline_at, sale, demand, process, body, connector, account
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
        SELECT kind, order_id, connection_id, external_id, raised_at, repeated_at, times, due_at, overdue
        FROM alerts JOIN orders USING (tenant, order_id)
        WHERE tenant = $1 ORDER BY raised_at DESC, order_id, kind LIMIT $2
        """,
        tenant,
        limit,
    )

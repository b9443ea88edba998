"""The SQL of targets and of what is booked in them: one function a statement, the connection first."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
from pydantic import TypeAdapter

from contracts.inventory.v1 import ItemChanged
from services.bus import Cause, columns
from services.erp.domain import Order
from services.erp.store import Connection, Key

_order = TypeAdapter(Order)


class Due(NamedTuple):
    """An order that is to be booked, with the fact that was heard of it last."""

    order_id: str
    order: Order
    tries: int
    cause: Cause


async def put_target(connection: Connection, target: Mapping[str, Any]) -> None:
    """Keep a company's ERP, and look at it at once; given again, it is changed. `since` of None: as it is, else now."""
    await connection.execute(
        """
        INSERT INTO targets (tenant, target, environment, base_url, database, warehouse, login_sealed, since,
            items_due_at, paused_until)
        VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($8::timestamptz, $9), $9, $9)
        ON CONFLICT (tenant, target) DO UPDATE SET environment = excluded.environment, base_url = excluded.base_url,
            database = excluded.database, warehouse = excluded.warehouse, login_sealed = excluded.login_sealed,
            since = coalesce($8::timestamptz, targets.since), items_due_at = excluded.items_due_at,
            paused_until = excluded.paused_until
        """,
        *(
            target[name]
            for name in (
                "tenant", "target", "environment", "base_url", "database", "warehouse", "login_sealed", "since", "now"
            )
        ),
    )  # fmt: skip


async def targets(connection: Connection, tenant: str) -> list[asyncpg.Record]:
    """A company's targets without their logins, and how many sales wait for each."""
    return await connection.fetch(
        """
        SELECT target, environment, base_url, database, warehouse, since, looked_at, told,
            (SELECT count(*) FROM bookings b
             WHERE (b.tenant, b.target) = (t.tenant, t.target) AND b.state IN ('wanted', 'going')) AS waiting
        FROM targets t WHERE tenant = $1 ORDER BY target
        """,
        tenant,
    )


async def read_target(connection: Connection, tenant: str, target: str) -> asyncpg.Record | None:
    """A target with its sealed login."""
    return await connection.fetchrow("SELECT * FROM targets WHERE tenant = $1 AND target = $2", tenant, target)


async def ask(connection: Connection, tenant: str, target: str, now: datetime) -> bool:
    """Have a target looked at as soon as may be, whatever it was waiting for; False: there is none."""
    done = await connection.execute(
        "UPDATE targets SET items_due_at = $3, paused_until = $3 WHERE tenant = $1 AND target = $2", tenant, target, now
    )
    return str(done) == "UPDATE 1"


async def ask_bookings(connection: Connection, tenant: str, target: str, now: datetime) -> None:
    """Nothing that waits to be tried again waits any longer; what is going does, because its outcome may be unknown."""
    await connection.execute(
        "UPDATE bookings SET due_at = $3 WHERE tenant = $1 AND target = $2 AND state = 'wanted' AND due_at > $3",
        tenant,
        target,
        now,
    )


async def due_targets(connection: Connection, now: datetime) -> list[Key]:
    """Targets whose products are to be read, or that sales are to be booked in."""
    rows = await connection.fetch(
        """
        SELECT tenant, target FROM targets t WHERE paused_until <= $1 AND (items_due_at <= $1 OR EXISTS (
            SELECT FROM bookings b WHERE (b.tenant, b.target) = (t.tenant, t.target)
                AND state IN ('wanted', 'going') AND due_at <= $1))
        ORDER BY tenant, target
        """,
        now,
    )
    return [(row["tenant"], row["target"]) for row in rows]


async def claim_items(connection: Connection, tenant: str, target: str, now: datetime, next_at: datetime) -> bool:
    """Whether the products are to be read now; whoever asks next waits for `next_at`."""
    done = await connection.execute(
        "UPDATE targets SET items_due_at = $4 WHERE tenant = $1 AND target = $2 AND items_due_at <= $3",
        tenant,
        target,
        now,
        next_at,
    )
    return str(done) == "UPDATE 1"


async def tell(
    connection: Connection, tenant: str, target: str, began_at: datetime, paused_until: datetime,
    told: Mapping[str, Any],
) -> None:  # fmt: skip
    """Keep what came of a look that began at `began_at`; what `told` does not name stays as it was told."""
    await connection.execute(
        """
        UPDATE targets SET looked_at = $3, paused_until = greatest(paused_until, $4),
            told = (told::jsonb || $5::jsonb)::text
        WHERE tenant = $1 AND target = $2
        """,
        tenant,
        target,
        began_at,
        paused_until,
        json.dumps(told),
    )


async def want(connection: Connection, keys: Collection[Key], now: datetime) -> None:
    """Have those of `keys` booked whose goods have left, in every target of their company."""
    await connection.execute(
        """
        INSERT INTO bookings (tenant, target, order_id, state, due_at, changed_at)
        SELECT tenant, target, order_id, 'wanted', $3, $3 FROM orders
        JOIN unnest($1::text::text[], $2::text::text[]) AS changed (tenant, order_id) USING (tenant, order_id)
        JOIN targets USING (tenant) WHERE left_at >= since ORDER BY tenant, target, order_id
        ON CONFLICT DO NOTHING
        """,
        *columns(sorted(keys), 2),
        now,
    )


async def want_all(connection: Connection, tenant: str, target: str, now: datetime) -> None:
    """Have everything booked that has left since the target's time: for one that orders were here before."""
    await connection.execute(
        """
        INSERT INTO bookings (tenant, target, order_id, state, due_at, changed_at)
        SELECT tenant, target, order_id, 'wanted', $3, $3 FROM orders JOIN targets USING (tenant)
        WHERE tenant = $1 AND target = $2 AND left_at >= since ORDER BY order_id
        ON CONFLICT DO NOTHING
        """,
        tenant,
        target,
        now,
    )


async def claim(
    connection: Connection, tenant: str, target: str, now: datetime, until: datetime, limit: int
) -> list[Due]:
    """Take up to `limit` orders to be booked, oldest first; nobody else takes them before `until`."""
    rows = await connection.fetch(
        """
        WITH due AS (
            SELECT tenant, target, order_id FROM bookings
            WHERE tenant = $1 AND target = $2 AND state IN ('wanted', 'going') AND due_at <= $3
            ORDER BY due_at, order_id LIMIT $5 FOR UPDATE SKIP LOCKED
        )
        UPDATE bookings b SET state = 'going', tries = tries + 1, due_at = $4, changed_at = $3
        FROM due JOIN orders o USING (tenant, order_id)
        WHERE (b.tenant, b.target, b.order_id) = (due.tenant, due.target, due.order_id)
        RETURNING b.order_id, b.tries, o.body, o.event_id, o.correlation_id, o.traceparent
        """,
        tenant,
        target,
        now,
        until,
        limit,
    )
    return [
        Due(
            row["order_id"], _order.validate_json(row["body"]), row["tries"],
            Cause(row["event_id"], row["correlation_id"], row["traceparent"]),
        )
        for row in sorted(rows, key=lambda row: str(row["order_id"]))
    ]  # fmt: skip


async def settle(
    connection: Connection, tenant: str, target: str, order_id: str, state: str, now: datetime, **fields: Any
) -> bool:
    """Write what became of an order that was going; False where somebody else has settled it since."""
    done = await connection.execute(
        """
        UPDATE bookings SET state = $4, reference = $5, reason = $6, due_at = $7, changed_at = $8
        WHERE tenant = $1 AND target = $2 AND order_id = $3 AND state = 'going'
        """,
        tenant,
        target,
        order_id,
        state,
        fields.get("reference", ""),
        fields.get("reason", ""),
        fields.get("due_at", now),
        now,
    )
    return str(done) == "UPDATE 1"


async def retry(connection: Connection, tenant: str, order_id: str, now: datetime) -> list[str]:
    """Have what was refused of an order tried again; the targets that it is tried in."""
    rows = await connection.fetch(
        """
        UPDATE bookings SET state = 'wanted', tries = 0, reason = '', due_at = $3, changed_at = $3
        WHERE tenant = $1 AND order_id = $2 AND state = 'rejected' RETURNING target
        """,
        tenant,
        order_id,
        now,
    )
    return [row["target"] for row in rows]


async def list_bookings(
    connection: Connection, tenant: str, state: str | None, after: str, limit: int
) -> list[asyncpg.Record]:
    """A page of bookings by order."""
    return await connection.fetch(
        """
        SELECT target, order_id, state, reference, reason, tries, due_at, changed_at FROM bookings
        WHERE tenant = $1 AND order_id > $3 AND ($2::text IS NULL OR state = $2) ORDER BY order_id, target LIMIT $4
        """,
        tenant,
        state,
        after,
        limit,
    )


async def put_items(connection: Connection, items: Mapping[Key, ItemChanged]) -> None:
    """Keep items where they are newer than what is kept."""
    rows = [(*key, item.epoch, item.version, item.model_dump_json()) for key, item in sorted(items.items())]
    await connection.execute(
        """
        INSERT INTO items (tenant, sku, epoch, version, body)
        SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::int[], $4::text::int[], $5::text::text[])
        ON CONFLICT (tenant, sku) DO UPDATE SET epoch = excluded.epoch, version = excluded.version, body = excluded.body
        WHERE (items.epoch, items.version) < (excluded.epoch, excluded.version)
        """,
        *columns(rows, 5),
    )


async def read_items(connection: Connection, tenant: str, skus: Collection[str]) -> dict[str, ItemChanged]:
    """Those of `skus` that inventory has."""
    rows = await connection.fetch(
        "SELECT body FROM items WHERE tenant = $1 AND sku = ANY($2::text[])", tenant, list(skus)
    )
    items = [ItemChanged.model_validate_json(row["body"]) for row in rows]
    return {item.sku: item for item in items}


async def send_once(connection: Connection, tenant: str, target: str, sku: str, command_id: str) -> bool:
    """Whether this command is another one than the last that was sent for the SKU."""
    row = await connection.fetchrow(
        """
        INSERT INTO sent_items VALUES ($1, $2, $3, $4)
        ON CONFLICT (tenant, target, sku) DO UPDATE SET command_id = excluded.command_id
        WHERE sent_items.command_id <> excluded.command_id RETURNING sku
        """,
        tenant,
        target,
        sku,
        command_id,
    )
    return row is not None

"""The SQL of erp: one function a statement, the connection first."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

import asyncpg
from pydantic import TypeAdapter

from services.bus import Cause, columns
from services.erp.domain import Order, Payment, Row

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
Key: TypeAlias = tuple[str, str]

JOURNAL_LOCK: Final = 0x5A1D0E
_order = TypeAdapter(Order)


class Entry(NamedTuple):
    """A row of the journal with where it comes from."""

    tenant: str
    event_id: str
    at: datetime
    row: Row


async def lock_orders(connection: Connection, keys: Collection[Key]) -> dict[Key, Order]:
    """Lock and read those of `keys` that exist, in one sorted statement."""
    rows = await connection.fetch(
        """
        SELECT tenant, order_id, body FROM orders
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, order_id) USING (tenant, order_id)
        ORDER BY tenant, order_id FOR UPDATE OF orders
        """,
        *columns(keys, 2),
    )
    return {(row["tenant"], row["order_id"]): _order.validate_json(row["body"]) for row in rows}


async def put_orders(connection: Connection, orders: Mapping[Key, tuple[Order, Cause]]) -> None:
    """Write orders as they are now, sorted."""
    rows = [
        (*key, order.version, _order.dump_json(order).decode(), order.left_at and order.left_at.isoformat(), *cause)
        for key, (order, cause) in sorted(orders.items(), key=lambda one: one[0])
    ]
    await connection.execute(
        """
        INSERT INTO orders (tenant, order_id, version, body, left_at, event_id, correlation_id, traceparent)
        SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::int[], $4::text::text[],
            $5::text::timestamptz[], $6::text::text[], $7::text::text[], $8::text::text[])
        ON CONFLICT (tenant, order_id) DO UPDATE SET version = excluded.version, body = excluded.body,
            left_at = excluded.left_at, event_id = excluded.event_id, correlation_id = excluded.correlation_id,
            traceparent = excluded.traceparent
        """,
        *columns(rows, 8),
    )


async def lock_order(connection: Connection, tenant: str, order_id: str) -> tuple[Order, Cause] | None:
    """Lock and read one order and the fact that was heard of it last; None if it is not known."""
    row = await connection.fetchrow(
        "SELECT body, event_id, correlation_id, traceparent FROM orders WHERE tenant = $1 AND order_id = $2 FOR UPDATE",
        tenant,
        order_id,
    )
    if row is None:
        return None
    return _order.validate_json(row["body"]), Cause(row["event_id"], row["correlation_id"], row["traceparent"])


async def lock_payments(connection: Connection, keys: Collection[Key]) -> dict[Key, Payment]:
    """Lock and read those of `keys` that exist, in one sorted statement."""
    rows = await connection.fetch(
        """
        SELECT tenant, payment_id, version, captured_minor, refunded_minor, lost_minor FROM payments
        JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, payment_id) USING (tenant, payment_id)
        ORDER BY tenant, payment_id FOR UPDATE OF payments
        """,
        *columns(keys, 2),
    )
    return {(row["tenant"], row["payment_id"]): Payment(*row[2:]) for row in rows}


async def put_payments(connection: Connection, payments: Mapping[Key, Payment]) -> None:
    """Write payments as they are now, sorted."""
    rows = [
        (*key, one.version, one.captured_minor, one.refunded_minor, one.lost_minor)
        for key, one in sorted(payments.items())
    ]
    await connection.execute(
        """
        INSERT INTO payments (tenant, payment_id, version, captured_minor, refunded_minor, lost_minor)
        SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::int[], $4::text::bigint[],
            $5::text::bigint[], $6::text::bigint[])
        ON CONFLICT (tenant, payment_id) DO UPDATE SET version = excluded.version,
            captured_minor = excluded.captured_minor, refunded_minor = excluded.refunded_minor,
            lost_minor = excluded.lost_minor
        """,
        *columns(rows, 6),
    )


async def lock_journal(connection: Connection) -> None:
    """Wait until nobody else adds to the journal, and keep others waiting until the end of this transaction."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", JOURNAL_LOCK)


async def append(connection: Connection, entries: Iterable[Entry]) -> None:
    """Add to the journal what it has not; call `lock_journal` before, and nothing that waits after."""
    rows = [(one.tenant, one.event_id, one.at.isoformat(), *one.row) for one in entries]
    await connection.execute(
        """
        INSERT INTO journal (tenant, event_id, at, kind, order_id, reference, line, sku, quantity, amount_minor,
            currency, from_account, to_account)
        SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::timestamptz[], $4::text::text[],
            $5::text::text[], $6::text::text[], $7::text::text[], $8::text::text[], $9::text::bigint[],
            $10::text::bigint[], $11::text::text[], $12::text::text[], $13::text::text[])
        ON CONFLICT DO NOTHING
        """,
        *columns(rows, 13),
    )


async def read_journal(connection: Connection, tenant: str, after: int, limit: int) -> list[asyncpg.Record]:
    """A page of the journal, from the row that follows number `after`."""
    return await connection.fetch(
        """
        SELECT seq, event_id, line, at, kind, order_id, reference, sku, quantity, amount_minor, currency, from_account,
            to_account
        FROM journal WHERE tenant = $1 AND seq > $2 ORDER BY tenant, seq LIMIT $3
        """,
        tenant,
        after,
        limit,
    )


async def add_company(connection: Connection, tenant: str, tax_id: str) -> None:
    """Know a tax id of a company; a second time changes nothing."""
    await connection.execute(
        "INSERT INTO companies (tenant, tax_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", tenant, tax_id
    )


async def tax_ids(connection: Connection, tenant: str) -> list[str]:
    """The tax ids of a company."""
    rows = await connection.fetch("SELECT tax_id FROM companies WHERE tenant = $1 ORDER BY tax_id", tenant)
    return [row["tax_id"] for row in rows]


async def find_document(connection: Connection, tenant: str, invoice_key: str) -> asyncpg.Record | None:
    """The document with this key."""
    return await connection.fetchrow(
        "SELECT * FROM documents WHERE tenant = $1 AND invoice_key = $2", tenant, invoice_key
    )


async def standing_document(connection: Connection, tenant: str, order_id: str) -> asyncpg.Record | None:
    """The invoice of an order that stands."""
    return await connection.fetchrow(
        "SELECT * FROM documents WHERE tenant = $1 AND order_id = $2 AND state = 'standing'", tenant, order_id
    )


async def read_document(connection: Connection, tenant: str, document_id: str) -> asyncpg.Record | None:
    """A document by its id."""
    return await connection.fetchrow(
        "SELECT * FROM documents WHERE tenant = $1 AND document_id = $2", tenant, document_id
    )


async def replace_document(connection: Connection, tenant: str, document_id: str) -> None:
    """A document stands no more."""
    await connection.execute(
        "UPDATE documents SET state = 'replaced' WHERE tenant = $1 AND document_id = $2", tenant, document_id
    )


async def insert_document(connection: Connection, document: Mapping[str, Any]) -> asyncpg.Record | None:
    """A document that stands, as its row; None where its key is there already."""
    return await connection.fetchrow(
        """
        INSERT INTO documents (tenant, document_id, order_id, invoice_key, invoice_no, series, total_minor, currency,
            issued_at, state, content_url, content_sealed, sha256, keep_until, version)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'standing', $10, $11, $12, $13, $14)
        ON CONFLICT (tenant, invoice_key) DO NOTHING RETURNING *
        """,
        *(
            document[name]
            for name in (
                "tenant", "document_id", "order_id", "invoice_key", "invoice_no", "series", "total_minor", "currency",
                "issued_at", "content_url", "content_sealed", "sha256", "keep_until", "version",
            )
        ),
    )  # fmt: skip


async def delete_documents(connection: Connection, now: datetime, limit: int) -> int:
    """Delete up to `limit` documents whose last day is over, in the last time zone too; returns how many."""
    rows = await connection.fetch(
        """
        WITH over AS (
            SELECT tenant, document_id FROM documents
            WHERE keep_until < ($1::timestamptz AT TIME ZONE 'UTC' - interval '12 hours')::date
            ORDER BY keep_until, tenant, document_id LIMIT $2 FOR UPDATE SKIP LOCKED
        )
        DELETE FROM documents USING over
        WHERE (documents.tenant, documents.document_id) = (over.tenant, over.document_id) RETURNING 1
        """,
        now,
        limit,
    )
    return len(rows)

"""The SQL of crm: one function a statement, the connection first."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"


async def lock(connection: Connection, tenants: Collection[str], *, shared: bool = False) -> None:
    """One at a time decides who is who in a company; what only adds to orders shares the lock, so that nothing is
    added to what is being erased."""
    mode = "_shared" if shared else ""
    statement = f"SELECT pg_advisory_xact_lock{mode}(hashtextextended('crm:' || $1, 0))"
    for tenant in sorted(tenants):
        await connection.execute(statement, tenant)


async def tenant_key(connection: Connection, tenant: str) -> bytes | None:
    """The sealed key of a company, if it has one."""
    sealed: bytes | None = await connection.fetchval("SELECT sealed FROM tenant_keys WHERE tenant = $1", tenant)
    return sealed


async def insert_tenant_key(connection: Connection, tenant: str, made: bytes) -> None:
    """Give a company its sealed key, unless it has one."""
    await connection.execute("INSERT INTO tenant_keys VALUES ($1, $2) ON CONFLICT DO NOTHING", tenant, made)


async def erased(connection: Connection, tenant: str, kind: str, keys: Sequence[bytes]) -> dict[bytes, datetime]:
    """When those of `keys` that are erased were."""
    rows = await connection.fetch(
        "SELECT key, at FROM erased WHERE tenant = $1 AND kind = $2 AND key = ANY($3::bytea[])", tenant, kind, keys
    )
    return {row["key"]: row["at"] for row in rows}


async def customers_of(connection: Connection, tenant: str, refs: Collection[str]) -> dict[str, str]:
    """The own customer of each reference that is known."""
    rows = await connection.fetch(
        "SELECT customer_ref, customer_id FROM customers WHERE tenant = $1 AND customer_ref = ANY($2::text[])",
        tenant, list(refs),
    )  # fmt: skip
    return {row["customer_ref"]: row["customer_id"] for row in rows}


async def insert_customers(connection: Connection, tenant: str, customers: dict[str, str], now: datetime) -> None:
    """Write new references (reference → own customer), in order of age."""
    await connection.execute(
        """
        INSERT INTO customers (tenant, customer_ref, customer_id, stands_for, seen_at)
        SELECT $1, ref, id, id, $4 FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS new (ref, id, age)
        ORDER BY age
        """,
        tenant, list(customers), list(customers.values()), now,
    )  # fmt: skip


async def see(connection: Connection, tenant: str, refs: Collection[str], now: datetime) -> None:
    """Something was heard of these references."""
    await connection.execute(
        "UPDATE customers SET seen_at = $3 WHERE tenant = $1 AND customer_ref = ANY($2::text[])",
        tenant, list(refs), now,
    )  # fmt: skip


async def put_reports(connection: Connection, rows: Sequence[Sequence[object]]) -> None:
    """Keep the newest report of each order's buyer: (tenant, order, reference, allowed, revision, at, sealed)."""
    await connection.executemany(
        """
        INSERT INTO orders (tenant, order_id, customer_ref, contact_allowed, sale_revision, reported_at, sealed)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (tenant, order_id) DO UPDATE SET customer_ref = excluded.customer_ref, sealed = excluded.sealed,
            contact_allowed = excluded.contact_allowed, sale_revision = excluded.sale_revision,
            reported_at = excluded.reported_at
        WHERE (orders.sale_revision, coalesce(orders.reported_at, '-infinity'))
            < (excluded.sale_revision, excluded.reported_at)
        """,
        rows,
    )


async def put_orders(connection: Connection, rows: Sequence[Sequence[object]]) -> None:
    """Keep where an order came from: (tenant, order, reference, connection)."""
    await connection.executemany(
        """
        INSERT INTO orders (tenant, order_id, customer_ref, connection_id) VALUES ($1, $2, $3, $4)
        ON CONFLICT (tenant, order_id) DO UPDATE SET connection_id = excluded.connection_id
        """,
        rows,
    )


async def insert_keys(connection: Connection, rows: Iterable[Sequence[object]]) -> None:
    """Keep what references were seen with: (tenant, kind, key, customer, at)."""
    await connection.executemany("INSERT INTO keys VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING", rows)


async def neighbours(
    connection: Connection, tenant: str, ids: Collection[str], now: datetime, references_max: int
) -> set[str]:
    """Whoever shares a key, a customer or a person's link with one of `ids`.

    A key of too many references is not followed, but for once: in the transaction at `now` that made it so.
    """
    rows = await connection.fetch(
        """
        WITH given AS (SELECT unnest($2::text[]) AS customer_id)
        SELECT others.customer_id FROM given JOIN keys mine ON mine.tenant = $1 AND mine.customer_id = given.customer_id
            JOIN keys others ON others.tenant = $1 AND others.kind = mine.kind AND others.key = mine.key
        WHERE (SELECT count(*) FROM keys k WHERE k.tenant = $1 AND k.kind = mine.kind AND k.key = mine.key
            AND k.added_at <> $3) <= $4
        UNION SELECT others.customer_id FROM given JOIN customers mine USING (customer_id)
            JOIN customers others ON others.tenant = $1 AND others.stands_for = mine.stands_for WHERE mine.tenant = $1
        UNION SELECT other FROM links JOIN given ON one = customer_id WHERE tenant = $1
        UNION SELECT one FROM links JOIN given ON other = customer_id WHERE tenant = $1
        """,
        tenant, list(ids), now, references_max,
    )  # fmt: skip
    return {row["customer_id"] for row in rows}


async def records(
    connection: Connection, tenant: str, ids: Collection[str], references_max: int
) -> list[asyncpg.Record]:
    """References with their keys, eldest first; keys of too many references are left out."""
    return await connection.fetch(
        """
        SELECT customer_id, customer_ref, stands_for, version, apart,
            coalesce(documents, '{}') AS documents, coalesce(emails, '{}') AS emails, coalesce(phones, '{}') AS phones
        FROM customers LEFT JOIN LATERAL (
            SELECT array_agg(key) FILTER (WHERE kind = 'document') AS documents,
                array_agg(key) FILTER (WHERE kind = 'email') AS emails,
                array_agg(key) FILTER (WHERE kind = 'phone') AS phones
            FROM keys WHERE keys.tenant = customers.tenant AND keys.customer_id = customers.customer_id
                AND (SELECT count(*) FROM keys k WHERE k.tenant = keys.tenant AND k.kind = keys.kind
                    AND k.key = keys.key) <= $3
        ) AS known ON true
        WHERE tenant = $1 AND customer_id = ANY($2::text[]) ORDER BY seq
        """,
        tenant, list(ids), references_max,
    )  # fmt: skip


async def links(connection: Connection, tenant: str, ids: Collection[str]) -> list[tuple[str, str]]:
    """Pairs among `ids` that a person has joined."""
    rows = await connection.fetch(
        "SELECT one, other FROM links WHERE tenant = $1 AND one = ANY($2::text[]) ORDER BY one, other",
        tenant, list(ids),
    )  # fmt: skip
    return [(row["one"], row["other"]) for row in rows]


async def update_standing(connection: Connection, tenant: str, rows: Sequence[tuple[str, str, int]]) -> None:
    """Write who stands for whom, and versions: (customer, stands for, version)."""
    await connection.executemany(
        "UPDATE customers SET stands_for = $3, version = $4 WHERE tenant = $1 AND customer_id = $2",
        [(tenant, *row) for row in rows],
    )


async def insert_merge(connection: Connection, tenant: str, merge_id: str, *values: object) -> None:
    """Write a merge: kept, gone, members, decided by, at."""
    await connection.execute(
        """
        INSERT INTO merges (tenant, merge_id, kept, gone, members, decided_by, at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        tenant, merge_id, *values,
    )  # fmt: skip


async def undo_merge(connection: Connection, tenant: str, gone: str, now: datetime) -> None:
    """The merge that `gone` went by is over."""
    await connection.execute(
        "UPDATE merges SET undone_at = $3 WHERE tenant = $1 AND gone = $2 AND undone_at IS NULL", tenant, gone, now
    )


async def standing_merge(connection: Connection, tenant: str, gone: str) -> asyncpg.Record | None:
    """The merge that `gone` went by, if it stands."""
    return await connection.fetchrow(
        "SELECT * FROM merges WHERE tenant = $1 AND gone = $2 AND undone_at IS NULL", tenant, gone
    )


async def reviews_among(connection: Connection, tenant: str, ids: Collection[str]) -> list[asyncpg.Record]:
    """Reviews in which one of `ids` is named."""
    return await connection.fetch(
        "SELECT * FROM reviews WHERE tenant = $1 AND (one = ANY($2::text[]) OR other = ANY($2::text[]))",
        tenant, list(ids),
    )  # fmt: skip


async def delete_reviews(connection: Connection, tenant: str, review_ids: Sequence[str]) -> None:
    """Forget reviews whose reason has gone."""
    await connection.execute(
        "DELETE FROM reviews WHERE tenant = $1 AND review_id = ANY($2::text[])", tenant, review_ids
    )


async def put_review(
    connection: Connection, tenant: str, review_id: str, one: str, other: str, reason: str, state: str, now: datetime
) -> None:
    """Ask a person about a pair (`open`), or keep that it stays two (`kept`)."""
    await connection.execute(
        """
        INSERT INTO reviews VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (tenant, one, other) DO UPDATE
            SET state = excluded.state, reason = excluded.reason, at = excluded.at
        """,
        tenant, review_id, one, other, reason, state, now,
    )  # fmt: skip


async def insert_events(connection: Connection, rows: Sequence[Sequence[object]]) -> None:
    """Add to the timeline: (tenant, event, order, at, kind, what as JSON)."""
    await connection.executemany("INSERT INTO events VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING", rows)


async def insert_invoices(connection: Connection, rows: Sequence[Sequence[object]]) -> None:
    """Keep which documents an order has at erp: (tenant, document, order, issued at)."""
    await connection.executemany("INSERT INTO invoices VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING", rows)


async def placed(connection: Connection, tenant: str, order_ids: Collection[str]) -> set[str]:
    """Those of the orders of which it is known, or was until he was erased, who placed them."""
    rows = await connection.fetch(
        """
        SELECT order_id FROM orders WHERE tenant = $1 AND order_id = ANY($2::text[])
        UNION SELECT order_id FROM held_orders WHERE tenant = $1 AND order_id = ANY($2::text[])
        """,
        tenant, list(order_ids),
    )  # fmt: skip
    return {row["order_id"] for row in rows}


async def insert_unplaced(connection: Connection, tenant: str, order_ids: Collection[str], now: datetime) -> None:
    """Keep in mind those of the orders of which it is not known who placed them."""
    # In order of keys: two batches with the same rows wait for each other instead of deadlocking.
    await connection.execute(
        """
        INSERT INTO unplaced SELECT $1, order_id, $3 FROM unnest($2::text[]) AS heard (order_id)
        WHERE NOT EXISTS (SELECT FROM orders o WHERE o.tenant = $1 AND o.order_id = heard.order_id)
            AND NOT EXISTS (SELECT FROM held_orders h WHERE h.tenant = $1 AND h.order_id = heard.order_id)
        ORDER BY order_id ON CONFLICT DO NOTHING
        """,
        tenant, list(order_ids), now,
    )  # fmt: skip


async def unplaced(connection: Connection, before: datetime, limit: int) -> list[tuple[str, str]]:
    """Orders (tenant, id) that were heard of before `before`, and then not with who placed them."""
    rows = await connection.fetch(
        "SELECT tenant, order_id FROM unplaced WHERE heard_at < $1 ORDER BY heard_at LIMIT $2", before, limit
    )
    return [(row["tenant"], row["order_id"]) for row in rows]


async def delete_unplaced(connection: Connection, tenant: str, order_id: str) -> None:
    """Look at an order no more."""
    await connection.execute("DELETE FROM unplaced WHERE tenant = $1 AND order_id = $2", tenant, order_id)


async def find(connection: Connection, tenant: str, customer_id: str) -> list[dict[str, Any]]:
    """The references of the customer that `customer_id` is or is part of, eldest first; empty: nobody."""
    rows = await connection.fetch(
        """
        SELECT customer_id, customer_ref, stands_for, version, seen_at FROM customers
        WHERE tenant = $1 AND stands_for = (SELECT stands_for FROM customers WHERE tenant = $1 AND customer_id = $2)
        ORDER BY seq
        """,
        tenant, customer_id,
    )  # fmt: skip
    return [dict(row) for row in rows]


async def orders_of(connection: Connection, tenant: str, refs: Collection[str]) -> list[str]:
    """The orders of these references."""
    rows = await connection.fetch(
        "SELECT order_id FROM orders WHERE tenant = $1 AND customer_ref = ANY($2::text[]) ORDER BY order_id",
        tenant, list(refs),
    )  # fmt: skip
    return [row["order_id"] for row in rows]


async def order_rows(connection: Connection, tenant: str, refs: Collection[str]) -> list[asyncpg.Record]:
    """The orders of these references with their sealed buyers."""
    return await connection.fetch(
        """
        SELECT order_id, customer_ref, connection_id, contact_allowed, reported_at, sealed FROM orders
        WHERE tenant = $1 AND customer_ref = ANY($2::text[]) ORDER BY reported_at DESC NULLS LAST, order_id
        """,
        tenant, list(refs),
    )  # fmt: skip


async def open_orders(
    connection: Connection, tenant: str, order_ids: Sequence[str], ends: Collection[str], since: datetime
) -> list[str]:
    """Those of the orders of which something was heard `since`, and none of the kinds of events that are their end."""
    rows = await connection.fetch(
        """
        SELECT order_id FROM orders o LEFT JOIN LATERAL (
            SELECT max(at) AS at, bool_or(kind = ANY($3::text[])) AS ended FROM events e
            WHERE e.tenant = o.tenant AND e.order_id = o.order_id
        ) AS heard ON true
        WHERE tenant = $1 AND order_id = ANY($2::text[]) AND ended IS NOT TRUE
            AND greatest(heard.at, reported_at) >= $4 ORDER BY order_id
        """,
        tenant, order_ids, list(ends), since,
    )  # fmt: skip
    return [row["order_id"] for row in rows]


async def hold(
    connection: Connection, tenant: str, order_ids: Sequence[str], customer_id: str, version: int,
    erased_at: datetime, until: datetime,
) -> None:  # fmt: skip
    """The customer is erased, and these orders of his are when they end, or it is `until`; of them stays what happened,
    and nothing of him."""
    await connection.execute(
        "INSERT INTO held_orders SELECT $1, order_id, $3, $4, $5, $6 FROM unnest($2::text[]) AS held (order_id)",
        tenant, order_ids, customer_id, version, erased_at, until,
    )  # fmt: skip
    await connection.execute("DELETE FROM orders WHERE tenant = $1 AND order_id = ANY($2::text[])", tenant, order_ids)


async def held_among(connection: Connection, tenant: str, order_ids: Collection[str]) -> set[str]:
    """Those of the orders that are held."""
    rows = await connection.fetch(
        "SELECT order_id FROM held_orders WHERE tenant = $1 AND order_id = ANY($2::text[])", tenant, list(order_ids)
    )
    return {row["order_id"] for row in rows}


async def held_of(connection: Connection, tenant: str, identity: str) -> list[asyncpg.Record]:
    """The held orders of an erased customer, or the one with this id: order, customer, erased at, until."""
    return await connection.fetch(
        """
        SELECT order_id, customer_id, erased_at, until FROM held_orders
        WHERE tenant = $1 AND (customer_id = $2 OR order_id = $2) ORDER BY until, order_id
        """,
        tenant, identity,
    )  # fmt: skip


async def held_due(connection: Connection, now: datetime, limit: int) -> list[tuple[str, str]]:
    """Held orders (tenant, id) whose time is over."""
    rows = await connection.fetch(
        "SELECT tenant, order_id FROM held_orders WHERE until <= $1 ORDER BY until LIMIT $2", now, limit
    )
    return [(row["tenant"], row["order_id"]) for row in rows]


async def lock_held(connection: Connection, tenant: str, order_ids: Collection[str]) -> list[asyncpg.Record]:
    """Lock the held orders of every customer who has one of these: order, customer, version."""
    return await connection.fetch(
        """
        SELECT order_id, customer_id, version FROM held_orders WHERE tenant = $1 AND customer_id IN (
            SELECT customer_id FROM held_orders WHERE tenant = $1 AND order_id = ANY($2::text[]))
        ORDER BY order_id FOR UPDATE
        """,
        tenant, list(order_ids),
    )  # fmt: skip


async def release(
    connection: Connection, tenant: str, customer_id: str, order_ids: Sequence[str], version: int
) -> None:
    """These orders are held no more; the customer is at this version."""
    await connection.execute(
        "DELETE FROM held_orders WHERE tenant = $1 AND order_id = ANY($2::text[])", tenant, order_ids
    )
    await connection.execute(
        "UPDATE held_orders SET version = $3 WHERE tenant = $1 AND customer_id = $2", tenant, customer_id, version
    )


async def invoices_of(connection: Connection, tenant: str, order_ids: Sequence[str]) -> list[tuple[str, datetime]]:
    """The fiscal documents of these orders: (id, issued at)."""
    rows = await connection.fetch(
        """
        SELECT document_id, issued_at FROM invoices WHERE tenant = $1 AND order_id = ANY($2::text[])
        ORDER BY document_id
        """,
        tenant, order_ids,
    )  # fmt: skip
    return [(row["document_id"], row["issued_at"]) for row in rows]


async def parcels_of(connection: Connection, tenant: str, order_ids: Sequence[str]) -> list[tuple[str, str, datetime]]:
    """What happened to the parcels of these orders: (shipment, kind, at)."""
    rows = await connection.fetch(
        """
        SELECT what ->> 'shipment_id' AS shipment_id, kind, at FROM events
        WHERE tenant = $1 AND order_id = ANY($2::text[]) AND what ? 'shipment_id'
        """,
        tenant, order_ids,
    )  # fmt: skip
    return [(row["shipment_id"], row["kind"], row["at"]) for row in rows]


async def timeline(connection: Connection, tenant: str, order_ids: Sequence[str]) -> list[asyncpg.Record]:
    """What happened to these orders, oldest first."""
    return await connection.fetch(
        """
        SELECT at, order_id, kind, what FROM events WHERE tenant = $1 AND order_id = ANY($2::text[])
        ORDER BY at, event_id
        """,
        tenant, order_ids,
    )  # fmt: skip


async def bury(connection: Connection, tenant: str, kind: str, keys: Sequence[bytes], now: datetime) -> None:
    """Leave tombstones."""
    await connection.execute(
        """
        INSERT INTO erased SELECT $1, $2, key, $4 FROM unnest($3::bytea[]) AS gone (key)
        ON CONFLICT (tenant, kind, key) DO UPDATE SET at = excluded.at
        """,
        tenant, kind, keys, now,
    )  # fmt: skip


async def delete_orders(connection: Connection, tenant: str, order_ids: Sequence[str]) -> None:
    """Delete orders, their sealed buyers and their timelines. Ids of fiscal documents stay with erp."""
    for table in ("orders", "events", "invoices", "unplaced"):
        await connection.execute(
            f"DELETE FROM {table} WHERE tenant = $1 AND order_id = ANY($2::text[])",  # noqa: S608 - four constants
            tenant, order_ids,
        )  # fmt: skip


async def delete_customers(connection: Connection, tenant: str, ids: Collection[str]) -> None:
    """Delete references with their keys, reviews, merges, links and consents."""
    await connection.execute(
        "DELETE FROM customers WHERE tenant = $1 AND customer_id = ANY($2::text[])", tenant, list(ids)
    )


async def insert_letters_due(connection: Connection, tenant: str, order_ids: Sequence[str]) -> None:
    """The dead letters of these orders are to be erased."""
    await connection.execute(
        "INSERT INTO letters_due SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING", tenant, order_ids
    )


async def letters_due(connection: Connection, limit: int) -> list[tuple[str, str]]:
    """Orders (tenant, id) whose dead letters are to be erased."""
    rows = await connection.fetch("SELECT tenant, order_id FROM letters_due ORDER BY 1, 2 LIMIT $1", limit)
    return [(row["tenant"], row["order_id"]) for row in rows]


async def delete_letters_due(connection: Connection, tenant: str, order_id: str) -> None:
    """The dead letters of this order are erased."""
    await connection.execute("DELETE FROM letters_due WHERE tenant = $1 AND order_id = $2", tenant, order_id)


async def silent(connection: Connection, before: datetime, limit: int) -> list[tuple[str, str]]:
    """Customers (tenant, id) of whom, under no reference, anything was heard since `before`."""
    rows = await connection.fetch(
        """
        SELECT tenant, stands_for FROM customers c LEFT JOIN LATERAL (
            SELECT max(e.at) AS at FROM orders o JOIN events e USING (tenant, order_id)
            WHERE o.tenant = c.tenant AND o.customer_ref = c.customer_ref
        ) AS heard ON true
        WHERE stands_for IN (SELECT old.stands_for FROM customers old WHERE old.tenant = c.tenant AND old.seen_at < $1)
        GROUP BY tenant, stands_for HAVING greatest(max(seen_at), max(heard.at)) < $1 ORDER BY 1, 2 LIMIT $2
        """,
        before, limit,
    )  # fmt: skip
    return [(row["tenant"], row["stands_for"]) for row in rows]


async def heard_at(connection: Connection, tenant: str, refs: Collection[str]) -> datetime:
    """When something was heard of a customer with these references, under any of them, for the last time."""
    at: datetime = await connection.fetchval(
        """
        SELECT greatest(
            (SELECT max(seen_at) FROM customers WHERE tenant = $1 AND customer_ref = ANY($2::text[])),
            (SELECT max(e.at) FROM orders o JOIN events e USING (tenant, order_id)
             WHERE o.tenant = $1 AND o.customer_ref = ANY($2::text[])))
        """,
        tenant, list(refs),
    )  # fmt: skip
    return at


async def list_customers(connection: Connection, tenant: str, after: str, limit: int) -> list[asyncpg.Record]:
    """A page of customers by id, with how many references each has."""
    return await connection.fetch(
        """
        SELECT c.customer_id, c.version, c.seen_at,
            (SELECT count(*) FROM customers r WHERE r.tenant = $1 AND r.stands_for = c.customer_id) AS "references"
        FROM customers c WHERE tenant = $1 AND stands_for = customer_id AND customer_id > $2
        ORDER BY customer_id LIMIT $3
        """,
        tenant, after, limit,
    )  # fmt: skip


async def owner_of_key(connection: Connection, tenant: str, kind: str, key: bytes) -> list[str]:
    """The customers that were seen with a key."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT stands_for FROM keys JOIN customers USING (tenant, customer_id)
        WHERE tenant = $1 AND kind = $2 AND key = $3 ORDER BY 1
        """,
        tenant, kind, key,
    )  # fmt: skip
    return [row["stands_for"] for row in rows]


async def owner_of_order(connection: Connection, tenant: str, order_id: str) -> list[str]:
    """The customer of an order."""
    rows = await connection.fetch(
        """
        SELECT stands_for FROM orders JOIN customers USING (tenant, customer_ref)
        WHERE tenant = $1 AND order_id = $2
        """,
        tenant, order_id,
    )  # fmt: skip
    return [row["stands_for"] for row in rows]


async def list_reviews(connection: Connection, tenant: str, limit: int) -> list[asyncpg.Record]:
    """Pairs that wait for a person, oldest first."""
    return await connection.fetch(
        """
        SELECT review_id, one, other, reason, at FROM reviews WHERE tenant = $1 AND state = 'open'
        ORDER BY at, review_id LIMIT $2
        """,
        tenant, limit,
    )  # fmt: skip


async def link(connection: Connection, tenant: str, one: str, other: str, now: datetime) -> None:
    """A person joins two references."""
    await connection.execute(
        "INSERT INTO links VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING", tenant, one, other, now
    )


async def unlink(connection: Connection, tenant: str, ids: Collection[str]) -> None:
    """Undo what a person joined between `ids` and others."""
    await connection.execute(
        "DELETE FROM links WHERE tenant = $1 AND (one = ANY($2::text[])) <> (other = ANY($2::text[]))",
        tenant, list(ids),
    )  # fmt: skip


async def part(connection: Connection, tenant: str, ids: Collection[str], merge_id: str) -> None:
    """A person parts references from all others that their keys would join them with."""
    await connection.execute(
        "UPDATE customers SET apart = $3 WHERE tenant = $1 AND customer_id = ANY($2::text[])",
        tenant, list(ids), merge_id,
    )  # fmt: skip


async def consents_of(connection: Connection, tenant: str, ids: Collection[str]) -> list[asyncpg.Record]:
    """The newest word of a customer for each purpose; of two at one moment, the no."""
    return await connection.fetch(
        """
        SELECT DISTINCT ON (purpose) purpose, granted, source, at FROM consents
        WHERE tenant = $1 AND customer_id = ANY($2::text[]) ORDER BY purpose, at DESC, granted
        """,
        tenant, list(ids),
    )  # fmt: skip


async def put_consent(
    connection: Connection, tenant: str, customer_id: str, purpose: str, granted: bool, source: str, now: datetime
) -> int:
    """Keep what a customer said; returns the customer's new version."""
    await connection.execute(
        """
        INSERT INTO consents VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (tenant, customer_id, purpose) DO UPDATE
            SET granted = excluded.granted, source = excluded.source, at = excluded.at
        """,
        tenant, customer_id, purpose, granted, source, now,
    )  # fmt: skip
    return int(
        await connection.fetchval(
            "UPDATE customers SET version = version + 1 WHERE tenant = $1 AND customer_id = $2 RETURNING version",
            tenant, customer_id,
        )
    )  # fmt: skip


async def by_age(connection: Connection, tenant: str, ids: Sequence[str]) -> list[str]:
    """These references, eldest first."""
    rows = await connection.fetch(
        "SELECT customer_id FROM customers WHERE tenant = $1 AND customer_id = ANY($2::text[]) ORDER BY seq",
        tenant, ids,
    )  # fmt: skip
    return [row["customer_id"] for row in rows]

"""Rows of what came in: bodies, orders, buyers, polls."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from contracts.channels.v1 import SaleStatus
from services.bus import array
from services.channels.alerts import Database
from services.channels.intake.domain import Kept

_ABSORB_LOCK: Final = 0x5A1D0_AB50


@dataclass(frozen=True, slots=True)
class Body:
    """A body as it is stored: sealed, with the span under which it came. `fetch_seq` only where it was asked for."""

    tenant: str
    connection_id: str
    topic: str
    delivery_id: str
    sealed: bytes
    received_at: datetime
    traceparent: str
    fetch_seq: int | None = None
    event_id: str = ""


async def insert_bodies(connection: Database, bodies: Sequence[Body]) -> None:
    """Keep bodies in their order; one that is there already (connection, topic, delivery id) is left alone."""
    await connection.execute(
        """
        INSERT INTO intake (tenant, connection_id, topic, delivery_id, sealed, received_at, traceparent, fetch_seq,
            event_id)
        SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[],
            $5::text::bytea[], $6::text::timestamptz[], $7::text::text[], $8::text::bigint[], $9::text::text[])
        ON CONFLICT (connection_id, topic, delivery_id) DO NOTHING
        """,
        array([body.tenant for body in bodies]),
        array([body.connection_id for body in bodies]),
        array([body.topic for body in bodies]),
        array([body.delivery_id for body in bodies]),
        array([_hex(body.sealed) for body in bodies]),
        array([body.received_at for body in bodies]),
        array([body.traceparent for body in bodies]),
        array([body.fetch_seq for body in bodies]),
        array([body.event_id for body in bodies]),
    )


async def absorb_lock(connection: Database) -> None:
    """Wait until nobody absorbs, and keep it so until the end of the transaction."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _ABSORB_LOCK)


@dataclass(frozen=True, slots=True)
class NewBody:
    """A body waiting to be absorbed."""

    intake_id: int
    body: Body


def _hex(value: bytes | None) -> str | None:
    """Bytes as PostgreSQL reads them in a text."""
    return None if value is None else f"\\x{value.hex()}"


async def try_absorb_lock(connection: Database) -> bool:
    """Whether this transaction is the one that absorbs: order of arrival decides where a channel has no versions."""
    got: bool = await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _ABSORB_LOCK)
    return got


async def new_bodies(
    connection: Database, connection_ids: Sequence[str], limit: int, only: int | None = None
) -> list[NewBody]:
    """Bodies not absorbed yet, oldest first; `only` this one where given."""
    rows = await connection.fetch(
        """
        SELECT intake_id, tenant, connection_id, topic, delivery_id, sealed, received_at, traceparent, fetch_seq,
            event_id
        FROM intake
        WHERE state = 'new' AND connection_id = ANY($1::text::text[]) AND ($3::bigint IS NULL OR intake_id = $3)
        ORDER BY intake_id LIMIT $2
        """,
        array(connection_ids),
        limit,
        only,
    )
    return [NewBody(row["intake_id"], Body(**{k: v for k, v in row.items() if k != "intake_id"})) for row in rows]


async def any_new(connection: Database, connection_ids: Sequence[str]) -> bool:
    """Whether there is a body to absorb."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM intake WHERE state = 'new' AND connection_id = ANY($1::text::text[]))",
        array(connection_ids),
    )
    return found


async def finish_bodies(
    connection: Database, intake_ids: Sequence[int], states: Sequence[str], errors: Sequence[str], orders: Sequence[str]
) -> None:
    """Record what became of bodies, and the order each was about (empty: not known)."""
    await connection.execute(
        """
        UPDATE intake SET state = done.state, error = done.error, order_id = nullif(done.order_id, '')
        FROM unnest($1::text::bigint[], $2::text::text[], $3::text::text[], $4::text::text[])
            AS done (intake_id, state, error, order_id)
        WHERE intake.intake_id = done.intake_id
        """,
        array(intake_ids),
        array(states),
        array(errors),
        array(orders),
    )


@dataclass(slots=True)
class OrderRow:
    """An order's row while its lock is held; written back with `save_orders`."""

    order_id: str
    tenant: str
    connection_id: str
    external_id: str
    notified_seq: int
    fetched_seq: int
    revision: int
    kept_version: str
    status: str
    kept_digest: bytes | None
    snapshot: str | None
    customer_ref: str
    unlinked: list[str]
    received_at: datetime
    traceparent: str
    erased: bool

    @property
    def kept(self) -> Kept:
        return Kept(self.revision, self.kept_version, SaleStatus(self.status), self.kept_digest or b"")


_ORDER: Final = """
    SELECT order_id, tenant, connection_id, external_id, notified_seq, fetched_seq, revision, kept_version, status,
        kept_digest, snapshot, customer_ref, unlinked, received_at, traceparent, erased
    FROM intake_orders """


async def lock_orders(
    connection: Database, new: Sequence[tuple[str, str, str, str, datetime, str]]
) -> dict[str, OrderRow]:
    """Make sure of a row for each (order, tenant, connection, external id, received, traceparent), lock, then read."""
    columns = list(zip(*sorted(new), strict=True))
    await connection.execute(
        """
        INSERT INTO intake_orders (order_id, tenant, connection_id, external_id, received_at, traceparent)
        SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[],
            $5::text::timestamptz[], $6::text::text[])
        ON CONFLICT DO NOTHING
        """,
        *map(array, columns),
    )
    return await lock_known(connection, columns[0])


async def lock_known(connection: Database, order_ids: Sequence[str]) -> dict[str, OrderRow]:
    """Lock and read the rows that exist, in order of their ids."""
    rows = await connection.fetch(
        _ORDER + "WHERE order_id = ANY($1::text::text[]) ORDER BY order_id FOR UPDATE", array(order_ids)
    )
    return {row["order_id"]: OrderRow(**row) for row in rows}


async def save_orders(connection: Database, rows: Sequence[OrderRow]) -> None:
    """Write back what was decided."""
    await connection.execute(
        """
        UPDATE intake_orders AS kept SET notified_seq = new.notified_seq, fetched_seq = new.fetched_seq,
            revision = new.revision, kept_version = new.kept_version, status = new.status,
            kept_digest = new.kept_digest, snapshot = new.snapshot::jsonb, customer_ref = new.customer_ref,
            unlinked = ARRAY(SELECT jsonb_array_elements_text(new.unlinked::jsonb))
        FROM unnest($1::text::text[], $2::text::bigint[], $3::text::bigint[], $4::text::int[], $5::text::text[],
                $6::text::text[], $7::text::bytea[], $8::text::text[], $9::text::text[], $10::text::text[])
            AS new (order_id, notified_seq, fetched_seq, revision, kept_version, status, kept_digest, snapshot,
                customer_ref, unlinked)
        WHERE kept.order_id = new.order_id
        """,
        array([row.order_id for row in rows]),
        array([row.notified_seq for row in rows]),
        array([row.fetched_seq for row in rows]),
        array([row.revision for row in rows]),
        array([row.kept_version for row in rows]),
        array([row.status for row in rows]),
        array([_hex(row.kept_digest) for row in rows]),
        array([row.snapshot for row in rows]),
        array([row.customer_ref for row in rows]),
        array([json.dumps(row.unlinked) for row in rows]),
    )


async def orders_waiting_for(connection: Database, connection_id: str, items: Sequence[str]) -> list[str]:
    """Orders with a line of one of these items that was linked to nothing when they were published."""
    rows = await connection.fetch(
        "SELECT order_id FROM intake_orders WHERE connection_id = $1 AND unlinked && $2::text::text[]"
        " ORDER BY order_id",
        connection_id,
        array(items),
    )
    return [row["order_id"] for row in rows]


async def kept_orders(connection: Database, order_ids: Sequence[str]) -> dict[str, Kept]:
    """What is kept of these orders, without locks."""
    rows = await connection.fetch(
        "SELECT order_id, revision, kept_version, status, kept_digest FROM intake_orders"
        " WHERE order_id = ANY($1::text::text[])",
        array(order_ids),
    )
    return {
        row["order_id"]: Kept(
            row["revision"], row["kept_version"], SaleStatus(row["status"]), row["kept_digest"] or b""
        )
        for row in rows
    }


async def orders_by_alias(
    connection: Database, named: Sequence[tuple[str, str]], now: datetime
) -> dict[tuple[str, str], list[str]]:
    """The channel's ids of orders by (connection, alias); that the alias was heard is noted for orders yet to come."""
    await connection.execute(
        """
        INSERT INTO intake_aliases (connection_id, alias, external_id, heard_at)
        SELECT connection_id, alias, '', $3 FROM unnest($1::text::text[], $2::text::text[]) AS n (connection_id, alias)
        ON CONFLICT (connection_id, alias, external_id) DO UPDATE SET heard_at = excluded.heard_at
        """,
        *(array([row[place] for row in named]) for place in range(2)),
        now,
    )
    rows = await connection.fetch(
        """
        SELECT connection_id, alias, array_agg(external_id ORDER BY external_id) AS external_ids FROM intake_aliases
            JOIN unnest($1::text::text[], $2::text::text[]) AS n (connection_id, alias) USING (connection_id, alias)
        WHERE external_id <> '' GROUP BY connection_id, alias
        """,
        *(array([row[place] for row in named]) for place in range(2)),
    )
    return {(row["connection_id"], row["alias"]): row["external_ids"] for row in rows}


async def keep_aliases(
    connection: Database, named: Sequence[tuple[str, str, str, datetime]], now: datetime
) -> set[tuple[str, str, str]]:
    """Keep (connection, alias, the order's id at the channel, when it was read).

    Returns those kept anew whose alias was heard after they were read.
    """
    rows = await connection.fetch(
        """
        WITH kept AS (
            INSERT INTO intake_aliases (connection_id, alias, external_id, heard_at)
            SELECT n.connection_id, n.alias, n.external_id, $5
            FROM unnest($1::text::text[], $2::text::text[], $3::text::text[]) AS n (connection_id, alias, external_id)
            ON CONFLICT DO NOTHING RETURNING connection_id, alias, external_id
        )
        SELECT kept.* FROM kept JOIN intake_aliases heard USING (connection_id, alias)
            JOIN unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::timestamptz[])
                AS n (connection_id, alias, external_id, read_at) USING (connection_id, alias)
        WHERE heard.external_id = '' AND n.external_id = kept.external_id AND heard.heard_at >= n.read_at
        """,
        *(array([row[place] for row in named]) for place in range(4)),
        now,
    )
    return {(row["connection_id"], row["alias"], row["external_id"]) for row in rows}


async def listings_of_record(connection: Database, tenant: str, stock_record: str) -> list[str]:
    """Every advert that shows the number of a record."""
    rows = await connection.fetch(
        "SELECT listing FROM listings WHERE tenant = $1 AND stock_record = $2 ORDER BY listing", tenant, stock_record
    )
    return [row["listing"] for row in rows]


# -- orders to be fetched ------------------------------------------------------------------------------------------


async def ask_fetch(connection: Database, order_ids: Sequence[str], now: datetime) -> list[tuple[str, str, str]]:
    """Have orders read again; returns (tenant, connection, order) of those that are known."""
    rows = await connection.fetch(
        """
        WITH wanted AS (
            SELECT order_id FROM intake_orders WHERE order_id = ANY($1::text::text[]) ORDER BY order_id FOR UPDATE
        )
        UPDATE intake_orders SET notified_seq = notified_seq + 1, fetch_at = $2 FROM wanted
        WHERE intake_orders.order_id = wanted.order_id
        RETURNING intake_orders.tenant, intake_orders.connection_id, intake_orders.order_id
        """,
        array(order_ids),
        now,
    )
    return [(row["tenant"], row["connection_id"], row["order_id"]) for row in rows]


@dataclass(frozen=True, slots=True)
class Fetch:
    """An order to be read again, with the notification that the read will answer."""

    order_id: str
    connection_id: str
    external_id: str
    seq: int
    traceparent: str


async def claim_fetches(connection: Database, free: Mapping[str, int], now: datetime, lease: timedelta) -> list[Fetch]:
    """The next orders to read, as many of each connection as it has `free` readers. Each is leased, so that one read is
    in flight and a lost one is tried again.
    """
    rows = await connection.fetch(
        """
        WITH due AS (
            SELECT o.order_id FROM unnest($1::text::text[], $2::text::int[]) AS k (connection_id, most)
                CROSS JOIN LATERAL (
                    SELECT order_id FROM intake_orders
                    WHERE connection_id = k.connection_id AND fetched_seq < notified_seq
                        AND (fetch_at IS NULL OR fetch_at <= $3)
                    ORDER BY fetch_at NULLS FIRST LIMIT k.most FOR UPDATE SKIP LOCKED
                ) AS o
        )
        UPDATE intake_orders SET fetch_at = $3::timestamptz + $4::interval FROM due
        WHERE intake_orders.order_id = due.order_id
        RETURNING intake_orders.order_id, connection_id, external_id, notified_seq AS seq, traceparent
        """,
        array(list(free)),
        array(list(free.values())),
        now,
        lease,
    )
    return [Fetch(**row) for row in rows]


async def fetched(connection: Database, read: Sequence[Fetch], now: datetime) -> None:
    """Reads answered the notifications up to their `seq`; what was asked since is due at once."""
    await connection.execute(
        """
        WITH answered AS MATERIALIZED (
            SELECT o.order_id, a.seq FROM intake_orders o
                JOIN unnest($1::text::text[], $2::text::bigint[]) AS a (order_id, seq) USING (order_id)
            ORDER BY o.order_id FOR UPDATE OF o
        )
        UPDATE intake_orders o SET fetched_seq = greatest(o.fetched_seq, a.seq), fetch_at = $3 FROM answered a
        WHERE o.order_id = a.order_id
        """,
        array([one.order_id for one in read]),
        array([one.seq for one in read]),
        now,
    )


async def fetch_later(connection: Database, order_id: str, at: datetime) -> None:
    """The channel asked to wait: nothing was read."""
    await connection.execute("UPDATE intake_orders SET fetch_at = $2 WHERE order_id = $1", order_id, at)


# -- polls ---------------------------------------------------------------------------------------------------------


async def open_pull(connection: Database, connection_id: str, now: datetime) -> bool:
    """A process begins to pull; True where an earlier one never said that it ended."""
    left_open: bool | None = await connection.fetchval(
        "SELECT open_since IS NOT NULL FROM polls WHERE connection_id = $1", connection_id
    )
    await connection.execute(
        """
        INSERT INTO polls (connection_id, open_since) VALUES ($1, $2)
        ON CONFLICT (connection_id) DO UPDATE SET open_since = excluded.open_since
        """,
        connection_id,
        now,
    )
    return bool(left_open)


async def close_pull(connection: Database, connection_id: str) -> None:
    """The process ends with nothing under way."""
    await connection.execute("UPDATE polls SET open_since = NULL WHERE connection_id = $1", connection_id)


async def polled_until(connection: Database, connection_id: str) -> datetime | None:
    """When the newest complete poll began: everything changed before is stored."""
    begun_at: datetime | None = await connection.fetchval(
        "SELECT begun_at FROM polls WHERE connection_id = $1", connection_id
    )
    return begun_at


async def complete_poll(connection: Database, connection_id: str, begun_at: datetime, now: datetime) -> None:
    """A poll begun at `begun_at` has returned everything changed before, and all of it is stored."""
    await connection.execute(
        """
        UPDATE polls SET begun_at = $2, finished_at = greatest($2::timestamptz, $3::timestamptz),
            through_intake_id = (SELECT coalesce(max(intake_id), 0) FROM intake WHERE connection_id = $1)
        WHERE connection_id = $1
        """,
        connection_id,
        begun_at,
        now,
    )


async def insert_dead_letter(connection: Database, letter_id: str, stream: str, new: NewBody, error: str) -> None:
    """Show a poisoned body among the dead letters. Its bytes stay sealed in `intake`, so the letter holds none."""
    await connection.execute(
        """
        INSERT INTO dead_letters (id, consumer, stream, partition, "offset", key, event_id, type, tenant, error,
            traceparent)
        VALUES ($1, 'channels', $2, 0, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (consumer, stream, partition, "offset", event_id)
        DO UPDATE SET state = 'open', error = excluded.error, attempts = dead_letters.attempts + 1, last_at = now()
        """,
        letter_id,
        stream,
        new.intake_id,
        new.body.connection_id,
        new.body.delivery_id,
        new.body.topic,
        new.body.tenant,
        error,
        new.body.traceparent,
    )


async def close_dead_letter(connection: Database, stream: str, intake_id: int, state: str, reason: str) -> None:
    """What became of a poisoned body: `replayed` or `discarded`."""
    await connection.execute(
        """
        UPDATE dead_letters SET state = $3, reason = $4, last_at = now()
        WHERE consumer = 'channels' AND stream = $1 AND partition = 0 AND "offset" = $2 AND state = 'open'
        """,
        stream,
        intake_id,
        state,
        reason,
    )


# -- buyers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Buyer:
    """A buyer of one order, sealed."""

    order_id: str
    tenant: str
    connection_id: str
    customer_ref: str
    sealed: bytes
    digest: bytes


async def buyer_digests(connection: Database, order_ids: Sequence[str]) -> dict[str, tuple[str, bytes]]:
    """What is kept of each order's buyer: (customer_ref, digest)."""
    rows = await connection.fetch(
        "SELECT order_id, customer_ref, digest FROM buyers WHERE order_id = ANY($1::text::text[])", array(order_ids)
    )
    return {row["order_id"]: (row["customer_ref"], row["digest"]) for row in rows}


async def lock_customers(connection: Database, customer_refs: Sequence[str], now: datetime) -> None:
    """Take the locks under which buyers are reported, in one sorted statement."""
    await connection.execute(
        """
        INSERT INTO customers (customer_ref, seen_at) SELECT ref, $2 FROM unnest($1::text::text[]) AS ref
        ON CONFLICT (customer_ref) DO UPDATE SET seen_at = excluded.seen_at
        """,
        array(sorted(set(customer_refs))),
        now,
    )


async def save_buyers(connection: Database, buyers: Sequence[Buyer]) -> None:
    """Keep the newest data of each order's buyer."""
    await connection.execute(
        """
        INSERT INTO buyers (order_id, tenant, connection_id, customer_ref, sealed, digest)
        SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[],
            $5::text::bytea[], $6::text::bytea[])
        ON CONFLICT (order_id) DO UPDATE SET customer_ref = excluded.customer_ref, sealed = excluded.sealed,
            digest = excluded.digest
        """,
        array([buyer.order_id for buyer in buyers]),
        array([buyer.tenant for buyer in buyers]),
        array([buyer.connection_id for buyer in buyers]),
        array([buyer.customer_ref for buyer in buyers]),
        array([_hex(buyer.sealed) for buyer in buyers]),
        array([_hex(buyer.digest) for buyer in buyers]),
    )


async def set_erase_at(connection: Database, final: Sequence[str], still_open: Sequence[str], at: datetime) -> None:
    """Buyers of final orders are to be forgotten at `at`, or when it was said first; those of open ones are kept."""
    await connection.execute(
        """
        UPDATE buyers SET erase_at = CASE WHEN order_id = ANY($1::text::text[]) THEN $3::timestamptz END
        WHERE order_id = ANY($1::text::text[]) AND erase_at IS NULL
            OR order_id = ANY($2::text::text[]) AND erase_at IS NOT NULL
        """,
        array(final),
        array(still_open),
        at,
    )


async def buyers_of(connection: Database, order_ids: Sequence[str]) -> list[Buyer]:
    """The kept buyers of these orders."""
    rows = await connection.fetch(
        "SELECT order_id, tenant, connection_id, customer_ref, sealed, digest FROM buyers"
        " WHERE order_id = ANY($1::text::text[]) ORDER BY order_id",
        array(order_ids),
    )
    return [Buyer(**row) for row in rows]


# -- keeping and forgetting ------------------------------------------------------------------------------------------


async def prune(connection: Database, received_before: datetime, now: datetime) -> tuple[int, int]:
    """Delete old bodies that were absorbed or discarded, and buyers whose time is over; returns how many of each.

    A poisoned one may be a sale and is the only copy of it: it stays until a person has replayed or discarded it.
    """
    bodies = await connection.execute(
        """
        DELETE FROM intake WHERE intake_id IN (
            SELECT intake_id FROM intake WHERE received_at < $1 AND state NOT IN ('new', 'poisoned')
            ORDER BY received_at LIMIT 5000)
        """,
        received_before,
    )
    buyers = await connection.execute("DELETE FROM buyers WHERE erase_at < $1", now)
    await connection.execute("DELETE FROM intake_aliases WHERE external_id IS NULL AND heard_at < $1", received_before)
    return int(bodies.rsplit(" ", 1)[1]), int(buyers.rsplit(" ", 1)[1])


async def erase_orders(connection: Database, tenant: str, order_ids: Sequence[str]) -> tuple[int, int]:
    """Delete every body about these orders and their buyers, and keep none from now on; returns how many of each.

    The orders' snapshots hold no personal data and stay.
    """
    await connection.execute(
        """
        WITH meant AS (
            SELECT order_id FROM intake_orders WHERE tenant = $1 AND order_id = ANY($2::text::text[])
            ORDER BY order_id FOR UPDATE
        )
        UPDATE intake_orders SET erased = true FROM meant WHERE intake_orders.order_id = meant.order_id
        """,
        tenant,
        array(order_ids),
    )
    bodies = await connection.execute(
        "DELETE FROM intake WHERE tenant = $1 AND order_id = ANY($2::text::text[])", tenant, array(order_ids)
    )
    buyers = await connection.execute(
        "DELETE FROM buyers WHERE tenant = $1 AND order_id = ANY($2::text::text[])", tenant, array(order_ids)
    )
    return int(bodies.rsplit(" ", 1)[1]), int(buyers.rsplit(" ", 1)[1])


async def delete_bodies(connection: Database, intake_ids: Sequence[int]) -> None:
    """Keep nothing of what was just absorbed."""
    await connection.execute("DELETE FROM intake WHERE intake_id = ANY($1::text::bigint[])", array(intake_ids))


async def follow_letters(connection: Database, stream: str) -> bool:
    """A dead letter was discarded, and so is its body: no poll waits for it any more. Or it is to be read again.

    True if there are bodies to be read.
    """
    rows = await connection.fetch(
        """
        UPDATE intake SET state = CASE d.state WHEN 'replayed' THEN 'new' ELSE 'discarded' END FROM dead_letters d
        WHERE intake.state = 'poisoned' AND d.consumer = 'channels' AND d.stream = $1 AND d.partition = 0
            AND d."offset" = intake.intake_id AND d.state IN ('replayed', 'discarded')
        RETURNING d.state
        """,
        stream,
    )
    return any(row["state"] == "replayed" for row in rows)


async def list_bodies(
    connection: Database, tenant: str | None, order_id: str | None, state: str | None, limit: int
) -> list[dict[str, Any]]:
    """What came in, newest first, without the bodies themselves."""
    rows = await connection.fetch(
        """
        SELECT intake_id, tenant, connection_id, topic, delivery_id, received_at, state, error, order_id FROM intake
        WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR order_id = $2)
            AND ($3::text IS NULL OR state = $3)
        ORDER BY intake_id DESC LIMIT $4
        """,
        tenant,
        order_id,
        state,
        limit,
    )
    return [dict(row) for row in rows]


async def one_body(connection: Database, tenant: str | None, intake_id: int) -> NewBody | None:
    """One sealed body."""
    row = await connection.fetchrow(
        """
        SELECT tenant, connection_id, topic, delivery_id, sealed, received_at, traceparent, fetch_seq, event_id
        FROM intake
        WHERE intake_id = $1 AND ($2::text IS NULL OR tenant = $2)
        """,
        intake_id,
        tenant,
    )
    return NewBody(intake_id, Body(**row)) if row else None


async def move_poisoned(connection: Database, tenant: str | None, intake_id: int, state: str, error: str) -> bool:
    """Set a poisoned body to `new` (absorb it again) or `discarded`; False where it is not poisoned."""
    status = await connection.execute(
        """
        UPDATE intake SET state = $3, error = $4
        WHERE intake_id = $1 AND ($2::text IS NULL OR tenant = $2) AND state = 'poisoned'
        """,
        intake_id,
        tenant,
        state,
        error,
    )
    return status.endswith(" 1")

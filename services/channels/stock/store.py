"""Rows of the stock side. One function a statement or a few that belong together; the connection comes first.

Whoever hears of something (a sale, a level) changes tallies and appends to `stock_changes`; only whoever holds a
record's lease writes its `stock_records` row. Locks are taken in one order by everyone, sorted within a kind: the level
of a SKU, stock records, own sales, `record_skus`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid5

import asyncpg

from contracts.channels.v1 import SaleReported, SaleStatus
from services.channels.alerts import Database
from services.channels.ids import NAMESPACE
from services.channels.stock import domain
from services.channels.stock.domain import Baseline, Part, Record, Tally

_IMPORT_ROWS: Final = 50
SALES_WINDOW_S: Final = 30.0
"""Sales of the last this many seconds tell the rate at which a record may be selling unheard."""

_STILL_RESERVED: Final = frozenset(
    {SaleStatus.PLACED, SaleStatus.AWAITING_PAYMENT, SaleStatus.PAID, SaleStatus.CANCEL_REQUESTED}
)
"""States in which a channel that keeps its own reservations still counts the units of an order as reserved."""


Due = tuple[str, int]
"""A connection and one of its lanes."""


@dataclass(frozen=True, slots=True)
class ListingRow:
    """An advert to be kept: where its number lives at the channel, and the SKU of ours it sells, if known."""

    listing: str
    item: str
    location: str
    seller_sku: str
    title: str
    sku: str | None = None
    pack: int = 1


@dataclass(frozen=True, slots=True)
class Link:
    """What a channel's item is to us: `pack` units of `sku` in one sold there, and the record a sale lowers."""

    sku: str
    pack: int
    listing: str
    stock_record: str


@dataclass(frozen=True, slots=True)
class Level:
    """The level of a SKU: counters are (location, pool, available, held_by), `sold` grows with this batch's sales."""

    tenant: str
    sku: str
    epoch: int
    version: int
    counters: tuple[tuple[str, str, int, str | None], ...]
    sold: int


@dataclass(frozen=True, slots=True)
class SaleCause:
    """A sale or cancel that a level covers, with the event and span to go on from."""

    tenant: str
    sku: str
    epoch: int
    version: int
    order_id: str
    line_id: str
    sale_revision: int
    connection_id: str
    units: int
    outcome: str
    sold_at: datetime
    received_at: datetime
    event_id: str
    correlation_id: str
    traceparent: str


@dataclass(frozen=True, slots=True)
class Change:
    """A SKU whose record numbers may change. `sales_only`: by nothing but sales and cancels.

    `causes` are (event id, correlation id, traceparent) of what changed it.
    """

    tenant: str
    sku: str
    available: int
    sales_only: bool
    causes: tuple[tuple[str, str, str], ...]


class LinkConflict(ValueError):
    """A stock record cannot be two things; the text says what to do."""


def record_id(tenant: str, connection_id: str, item: str, location: str) -> str:
    """The id of a stock record is derived, so that importing a listing again finds the same record."""
    parts = json.dumps([tenant, connection_id, item, location], ensure_ascii=False, separators=(",", ":"))
    return str(uuid5(NAMESPACE, parts))


# Listings and links.


async def upsert_listings(
    connection: Database,
    tenant: str,
    connection_id: str,
    rows: Sequence[ListingRow],
    *,
    restores_on_cancel: bool,
    pool: str = "shared",
    locations: Sequence[str] | None = None,
) -> None:
    """Keep listings and their stock records; what is there already keeps its link unless the row names a SKU.

    `restores_on_cancel` and `pool` are the connection's. Every record touched becomes dirty.
    Raises `LinkConflict` where two listings of one record name different SKUs or packs.
    """
    records: dict[str, ListingRow] = {}
    for row in rows:
        key = record_id(tenant, connection_id, row.item, row.location)
        other = records.get(key)
        if other and other.sku and row.sku and (other.sku, other.pack) != (row.sku, row.pack):
            raise LinkConflict(
                f"listings {other.listing} and {row.listing} show one number at the channel, so both must be linked "
                f"to one SKU and pack, not to {other.sku} × {other.pack} and {row.sku} × {row.pack}"
            )
        if other is None or row.sku:
            records[key] = row
    keys = sorted(records)
    await connection.execute(
        """
        INSERT INTO stock_records (tenant, stock_record, connection_id, item, location, sku, pack, pool, locations,
            restores_on_cancel)
        SELECT $1, r.stock_record, $2, r.item, r.location, r.sku, r.pack, $8, $9, $10
        FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::int[])
            AS r (stock_record, item, location, sku, pack)
        ORDER BY r.stock_record
        ON CONFLICT (tenant, stock_record) DO UPDATE SET pool = excluded.pool, locations = excluded.locations,
            restores_on_cancel = excluded.restores_on_cancel,
            sku = coalesce(excluded.sku, stock_records.sku),
            pack = CASE WHEN excluded.sku IS NULL THEN stock_records.pack ELSE excluded.pack END
        """,
        tenant,
        connection_id,
        keys,
        [records[key].item for key in keys],
        [records[key].location for key in keys],
        [records[key].sku for key in keys],
        [records[key].pack for key in keys],
        pool,
        list(locations) if locations is not None else None,
        restores_on_cancel,
    )
    await connection.execute(
        """
        INSERT INTO listings (tenant, connection_id, listing, stock_record, seller_sku, title)
        SELECT $1, $2, * FROM unnest($3::text[], $4::text[], $5::text[], $6::text[])
        ON CONFLICT (tenant, connection_id, listing) DO UPDATE SET stock_record = excluded.stock_record,
            seller_sku = excluded.seller_sku, title = excluded.title
        """,
        tenant,
        connection_id,
        [row.listing for row in rows],
        [record_id(tenant, connection_id, row.item, row.location) for row in rows],
        [row.seller_sku for row in rows],
        [row.title for row in rows],
    )
    await explode(connection, tenant, keys)


async def link_listing(
    connection: Database, tenant: str, connection_id: str, listing: str, sku: str, pack: int = 1
) -> str | None:
    """Link the stock record of a listing to a SKU; returns the record's id, or None where there is no such listing."""
    stock_record: str | None = await connection.fetchval(
        """
        UPDATE stock_records r SET sku = $4, pack = $5 FROM listings l
        WHERE l.tenant = $1 AND l.connection_id = $2 AND l.listing = $3
            AND r.tenant = l.tenant AND r.stock_record = l.stock_record
        RETURNING r.stock_record
        """,
        tenant,
        connection_id,
        listing,
        sku,
        pack,
    )
    if stock_record is not None:
        await explode(connection, tenant, [stock_record])
    return stock_record


async def explode(connection: Database, tenant: str, stock_records: Sequence[str]) -> None:
    """Write which physical SKUs these records take (the components of a kit, or the SKU itself) and dirty them.

    The caller holds the records' locks. A SKU that stays keeps its tallies; what a record takes anew starts at zero.
    """
    await connection.execute(
        """
        WITH wanted AS (
            SELECT r.tenant, r.stock_record, coalesce(c.part ->> 0, r.sku) AS sku,
                sum(r.pack * coalesce((c.part ->> 1)::int, 1))::int AS factor
            FROM stock_records r LEFT JOIN items i ON i.tenant = r.tenant AND i.sku = r.sku
                LEFT JOIN LATERAL jsonb_array_elements(i.components) AS c (part) ON true
            WHERE r.tenant = $1 AND r.stock_record = ANY($2::text[]) AND r.sku IS NOT NULL
            GROUP BY 1, 2, 3
        ), gone AS (
            DELETE FROM record_skus s WHERE s.tenant = $1 AND s.stock_record = ANY($2::text[])
                AND NOT EXISTS (SELECT FROM wanted w WHERE w.stock_record = s.stock_record AND w.sku = s.sku)
        )
        INSERT INTO record_skus (tenant, stock_record, sku, factor) SELECT * FROM wanted
        ON CONFLICT (tenant, stock_record, sku) DO UPDATE SET factor = excluded.factor
        """,
        tenant,
        stock_records,
    )
    await connection.execute(
        """
        WITH linked AS (
            UPDATE stock_records SET next_at = '-infinity', failures = 0
            WHERE tenant = $1 AND stock_record = ANY($2::text[]) AND sku IS NOT NULL
            RETURNING tenant, stock_record, connection_id
        )
        INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, changed_at)
        SELECT tenant, stock_record, connection_id, 1, true, now() FROM linked
        """,
        tenant,
        stock_records,
    )
    if len(stock_records) >= _IMPORT_ROWS:
        # Until these tables are looked at, the planner takes them for empty and joins them by trying every pair.
        await connection.execute("ANALYZE stock_records, record_skus")


async def sku_for_item(
    connection: Database, tenant: str, connection_id: str, adverts: Sequence[str]
) -> dict[str, Link]:
    """What each advert of a channel is to us; adverts that are linked to none of our SKUs are left out."""
    rows = await connection.fetch(
        """
        SELECT l.listing, r.sku, r.pack, r.stock_record
        FROM listings l JOIN stock_records r USING (tenant, stock_record)
        WHERE l.tenant = $1 AND l.connection_id = $2 AND l.listing = ANY($3::text[]) AND r.sku IS NOT NULL
        """,
        tenant,
        connection_id,
        adverts,
    )
    return {row["listing"]: Link(row["sku"], row["pack"], row["listing"], row["stock_record"]) for row in rows}


async def listings_of(connection: Database, tenant: str, connection_id: str | None) -> list[dict[str, Any]]:
    """Listings with what they are linked to and the numbers of their record, for people."""
    rows = await connection.fetch(
        """
        SELECT l.connection_id, l.listing, l.stock_record, l.seller_sku, l.title, r.item, r.location, r.sku, r.pack,
            r.wanted, r.accepted, r.observed, r.suspect
        FROM listings l JOIN stock_records r USING (tenant, stock_record)
        WHERE l.tenant = $1 AND ($2::text IS NULL OR l.connection_id = $2) ORDER BY l.connection_id, l.listing
        """,
        tenant,
        connection_id,
    )
    return [dict(row) for row in rows]


async def records_of(connection: Database, tenant: str, connection_id: str | None) -> list[dict[str, Any]]:
    """Stock records with wanted, sent, accepted, observed and suspect, for people and the verdict."""
    rows = await connection.fetch(
        """
        SELECT stock_record, connection_id, item, location, sku, pack, buffer, cap, wanted, sent, accepted,
            accepted_at, observed, observed_at, suspect, refusal, EXISTS (SELECT FROM stock_changes c
                WHERE c.tenant = r.tenant AND c.stock_record = r.stock_record) AS dirty
        FROM stock_records r WHERE tenant = $1 AND ($2::text IS NULL OR connection_id = $2)
        ORDER BY connection_id, item, location
        """,
        tenant,
        connection_id,
    )
    return [dict(row) for row in rows]


async def summary(connection: Database, tenant: str | None) -> list[dict[str, Any]]:
    """Per connection: records, how many are dirty, suspect, refused, unlinked."""
    rows = await connection.fetch(
        """
        SELECT tenant, connection_id, count(*) AS records, count(*) FILTER (WHERE EXISTS (SELECT FROM stock_changes c
                WHERE c.tenant = r.tenant AND c.stock_record = r.stock_record)) AS dirty,
            count(*) FILTER (WHERE suspect) AS suspect, count(*) FILTER (WHERE refusal <> '') AS refused,
            count(*) FILTER (WHERE sku IS NULL) AS unlinked
        FROM stock_records r WHERE $1::text IS NULL OR tenant = $1
        GROUP BY tenant, connection_id ORDER BY tenant, connection_id
        """,
        tenant,
    )
    return [dict(row) for row in rows]


# Own sales.


async def note_own_sale(connection: Database, tenant: str, sale: SaleReported) -> set[Due]:
    """Keep what stands of one order of a channel; where a transaction takes in several, use `note_own_sales`."""
    return await note_own_sales(connection, [(tenant, sale)], sale.received_at)


async def note_own_sales(connection: Database, sales: Sequence[tuple[str, SaleReported]], now: datetime) -> set[Due]:
    """Keep what stands of a channel's own order lines (tenant, snapshot), in the transaction that publishes them.

    Counts what the channel has lowered by itself (net of cancels that it restores), and dirties the records; returns
    the lanes that have something to do. A revision that is not newer than the kept one changes nothing; lines without a
    stock record are passed over. One call for all orders of a transaction takes its locks sorted.
    """
    newest = {(tenant, sale.order_id): sale for tenant, sale in sorted(sales, key=lambda pair: pair[1].revision)}
    rows = [
        (tenant, line.stock_record, sale, line)
        for (tenant, _), sale in sorted(newest.items())
        for line in sale.lines
        if line.stock_record and line.fulfilled_by == "us"
    ]
    if not rows:
        return set()
    changed = await connection.fetch(
        """
        WITH told AS (
            SELECT t.*, s.sku, t.net * s.factor / r.pack AS asked, t.gross * s.factor / r.pack AS lowered,
                r.connection_id, r.restores_on_cancel, o.asked AS asked_before, o.asked_max AS max_before
            FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::int[], $7::bool[],
                    $8::timestamptz[], $9::timestamptz[], $10::int[])
                AS t (tenant, stock_record, order_id, line_id, revision, net, held, sold_at, received_at, gross)
            JOIN stock_records r USING (tenant, stock_record) JOIN record_skus s USING (tenant, stock_record)
            LEFT JOIN own_sales o
                ON (o.tenant, o.order_id, o.line_id, o.sku) = (t.tenant, t.order_id, t.line_id, s.sku)
            WHERE o.revision IS NULL OR o.revision < t.revision
        ), kept AS (
            INSERT INTO own_sales AS o (tenant, order_id, line_id, sku, stock_record, revision, asked, asked_max, held,
                sold_at, received_at)
            SELECT tenant, order_id, line_id, sku, stock_record, revision, asked, lowered, held, sold_at,
                received_at FROM told ORDER BY tenant, order_id, line_id, sku
            ON CONFLICT (tenant, order_id, line_id, sku) DO UPDATE SET revision = excluded.revision,
                asked = excluded.asked, asked_max = greatest(o.asked_max, excluded.asked_max), held = excluded.held
            RETURNING o.tenant, o.order_id, o.line_id, o.sku
        ), heard AS (
            -- Joined with what was kept, so that the locks of own sales come before those of the tallies.
            SELECT tenant, stock_record, sku, sum(CASE
                WHEN restores_on_cancel THEN asked - coalesce(asked_before, 0)
                ELSE greatest(0, lowered - coalesce(max_before, 0)) END)::bigint AS units
            FROM told JOIN kept USING (tenant, order_id, line_id, sku) GROUP BY tenant, stock_record, sku
        ), locked AS MATERIALIZED (
            SELECT s.tenant, s.stock_record, s.sku, h.units FROM record_skus s JOIN heard h
                USING (tenant, stock_record, sku)
            ORDER BY s.tenant, s.stock_record, s.sku FOR UPDATE OF s
        ), counted AS (
            UPDATE record_skus s SET heard = s.heard + l.units FROM locked l
            WHERE s.tenant = l.tenant AND s.stock_record = l.stock_record AND s.sku = l.sku
        )
        INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, changed_at)
        SELECT DISTINCT tenant, stock_record, connection_id, 1, false, $11::timestamptz FROM told
        RETURNING connection_id, lane
        """,
        [row[0] for row in rows],
        [row[1] for row in rows],
        [sale.order_id for _, _, sale, _ in rows],
        [line.line_id for _, _, _, line in rows],
        [sale.revision for _, _, sale, _ in rows],
        [0 if sale.status is SaleStatus.CANCELLED else line.quantity - line.cancelled for _, _, sale, line in rows],
        [sale.status in _STILL_RESERVED for _, _, sale, _ in rows],
        [sale.sold_at for _, _, sale, _ in rows],
        [sale.received_at for _, _, sale, _ in rows],
        [line.quantity for _, _, _, line in rows],
        now,
    )
    return {(row["connection_id"], row["lane"]) for row in changed}


# Inventory's state.


async def lock_levels(
    connection: Database, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Lock the levels of (tenant, sku) pairs; those known are returned with epoch, version and units available."""
    rows = await connection.fetch(
        """
        SELECT tenant, sku, epoch, version, counters FROM levels
        WHERE (tenant, sku) IN (SELECT * FROM unnest($1::text[], $2::text[])) ORDER BY tenant, sku FOR UPDATE
        """,
        [tenant for tenant, _ in keys],
        [sku for _, sku in keys],
    )
    return {
        (row["tenant"], row["sku"]): (
            row["epoch"],
            row["version"],
            sum(counter[2] for counter in json.loads(row["counters"])),
        )
        for row in rows
    }


async def put_levels(connection: Database, levels: Sequence[Level]) -> None:
    """Keep levels that are newer than the kept ones; the caller has locked those."""
    await connection.execute(
        """
        INSERT INTO levels (tenant, sku, epoch, version, counters, sold)
        SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::jsonb[], $6::bigint[])
        ON CONFLICT (tenant, sku) DO UPDATE SET epoch = excluded.epoch, version = excluded.version,
            counters = excluded.counters, sold = levels.sold + excluded.sold
        """,
        [level.tenant for level in levels],
        [level.sku for level in levels],
        [level.epoch for level in levels],
        [level.version for level in levels],
        [json.dumps(level.counters) for level in levels],
        [level.sold for level in levels],
    )


async def count_decided(connection: Database, causes: Sequence[SaleCause]) -> None:
    """Count own units that inventory has decided, on the order lines and on their records.

    Where a channel does not put cancelled units back, releases leave the record's count alone: what the channel has
    lowered stays lowered.
    """
    await connection.execute(
        """
        WITH moved AS (
            SELECT tenant, order_id, line_id, sku, sum(units) AS units, sum(greatest(units, 0)) AS sold
            FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
                AS c (tenant, order_id, line_id, sku, units)
            GROUP BY tenant, order_id, line_id, sku
        ), owned AS MATERIALIZED (
            SELECT m.* FROM own_sales o JOIN moved m USING (tenant, order_id, line_id, sku)
            ORDER BY o.tenant, o.order_id, o.line_id, o.sku FOR UPDATE OF o
        ), lines AS (
            UPDATE own_sales o SET decided = o.decided + m.units FROM owned m
            WHERE o.tenant = m.tenant AND o.order_id = m.order_id AND o.line_id = m.line_id AND o.sku = m.sku
            RETURNING o.tenant, o.stock_record, o.sku, m.units, m.sold
        ), records AS (
            SELECT l.tenant, l.stock_record, l.sku,
                sum(CASE WHEN r.restores_on_cancel THEN l.units ELSE l.sold END) AS units
            FROM lines l JOIN stock_records r USING (tenant, stock_record) GROUP BY 1, 2, 3
        ), locked AS MATERIALIZED (
            SELECT s.tenant, s.stock_record, s.sku, r.units FROM record_skus s JOIN records r
                USING (tenant, stock_record, sku)
            ORDER BY s.tenant, s.stock_record, s.sku FOR UPDATE OF s
        )
        UPDATE record_skus s SET decided = s.decided + l.units FROM locked l
        WHERE s.tenant = l.tenant AND s.stock_record = l.stock_record AND s.sku = l.sku
        """,
        [cause.tenant for cause in causes],
        [cause.order_id for cause in causes],
        [cause.line_id for cause in causes],
        [cause.sku for cause in causes],
        [cause.units for cause in causes],
    )


async def open_propagation(connection: Database, causes: Sequence[SaleCause]) -> None:
    """A measure row for each sale and record that it has to reach: not the selling one, and none never written."""
    await connection.execute(
        """
        INSERT INTO propagation (tenant, sku, epoch, version, order_id, line_id, sale_revision, outcome,
            sold_connection_id, sold_at, received_at, event_id, correlation_id, traceparent, stock_record)
        SELECT c.*, s.stock_record
        FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::text[], $6::text[], $7::int[], $8::text[],
                $9::text[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::text[], $14::text[])
            AS c (tenant, sku, epoch, version, order_id, line_id, sale_revision, outcome, sold_connection_id, sold_at,
                received_at, event_id, correlation_id, traceparent)
        JOIN record_skus s USING (tenant, sku) JOIN stock_records r USING (tenant, stock_record)
        LEFT JOIN own_sales o ON o.tenant = c.tenant AND o.order_id = c.order_id AND o.line_id = c.line_id
            AND o.sku = c.sku
        WHERE r.known IS NOT NULL AND o.stock_record IS DISTINCT FROM s.stock_record
        ON CONFLICT DO NOTHING
        """,
        [cause.tenant for cause in causes],
        [cause.sku for cause in causes],
        [cause.epoch for cause in causes],
        [cause.version for cause in causes],
        [cause.order_id for cause in causes],
        [cause.line_id for cause in causes],
        [cause.sale_revision for cause in causes],
        [cause.outcome for cause in causes],
        [cause.connection_id for cause in causes],
        [cause.sold_at for cause in causes],
        [cause.received_at for cause in causes],
        [cause.event_id for cause in causes],
        [cause.correlation_id for cause in causes],
        [cause.traceparent for cause in causes],
    )


async def dirty_consumers(connection: Database, changes: Sequence[Change], low_stock: int, now: datetime) -> set[Due]:
    """Dirty every record that takes a changed SKU; returns the lanes that have something to do: the urgent one for
    records of which little is left.
    """
    rows = await connection.fetch(
        """
        INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, causes, changed_at)
        SELECT s.tenant, s.stock_record, r.connection_id,
            CASE WHEN (c.available - r.buffer) / s.factor <= $7 THEN 0 ELSE 1 END, NOT c.sales_only, c.causes, $6
        FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bool[], $5::text[])
            AS c (tenant, sku, available, sales_only, causes)
        JOIN record_skus s USING (tenant, sku) JOIN stock_records r USING (tenant, stock_record)
        RETURNING connection_id, lane
        """,
        [change.tenant for change in changes],
        [change.sku for change in changes],
        [change.available for change in changes],
        [change.sales_only for change in changes],
        [json.dumps(change.causes) for change in changes],
        now,
        low_stock,
    )
    return {(row["connection_id"], row["lane"]) for row in rows}


async def put_items(
    connection: Database, items: Sequence[tuple[str, str, int, int, Sequence[tuple[str, int]]]]
) -> list[tuple[str, str]]:
    """Keep (tenant, sku, epoch, version, components) where newer; returns (tenant, sku) whose components changed."""
    rows = await connection.fetch(
        """
        WITH told AS (
            SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::jsonb[])
                AS t (tenant, sku, epoch, version, components)
        ), before AS (
            SELECT i.tenant, i.sku, i.components FROM items i JOIN told USING (tenant, sku)
        ), kept AS (
            INSERT INTO items AS i SELECT * FROM told ORDER BY tenant, sku
            ON CONFLICT (tenant, sku) DO UPDATE SET epoch = excluded.epoch, version = excluded.version,
                components = excluded.components
            WHERE (i.epoch, i.version) < (excluded.epoch, excluded.version)
            RETURNING i.tenant, i.sku, i.components
        )
        SELECT k.tenant, k.sku FROM kept k LEFT JOIN before b USING (tenant, sku)
        WHERE k.components IS DISTINCT FROM coalesce(b.components, '[]'::jsonb)
        """,
        [item[0] for item in items],
        [item[1] for item in items],
        [item[2] for item in items],
        [item[3] for item in items],
        [json.dumps(item[4]) for item in items],
    )
    return [(row["tenant"], row["sku"]) for row in rows]


async def lock_records_of_items(connection: Database, keys: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Lock the records linked to these (tenant, sku); their ids by tenant."""
    rows = await connection.fetch(
        """
        SELECT tenant, stock_record FROM stock_records
        WHERE (tenant, sku) IN (SELECT * FROM unnest($1::text[], $2::text[])) ORDER BY tenant, stock_record FOR UPDATE
        """,
        [tenant for tenant, _ in keys],
        [sku for _, sku in keys],
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["tenant"], []).append(row["stock_record"])
    return found


# The sender.


async def due_lanes(connection: Database, connections: Sequence[tuple[str, str]], now: datetime) -> set[Due]:
    """Lanes of these (tenant, connection) that have a record to be sent now."""
    rows = await connection.fetch(
        """
        SELECT k.connection_id, n.lane
        FROM unnest($1::text[], $2::text[]) AS k (tenant, connection_id), (VALUES (0), (1)) AS n (lane)
        WHERE EXISTS (SELECT FROM stock_changes c JOIN stock_records r USING (tenant, stock_record)
            WHERE c.tenant = k.tenant AND c.connection_id = k.connection_id AND c.lane = n.lane
                AND r.next_at <= $3 AND (r.claimed_until IS NULL OR r.claimed_until < $3))
        """,
        [tenant for tenant, _ in connections],
        [connection_id for _, connection_id in connections],
        now,
    )
    return {(row["connection_id"], row["lane"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Claimed:
    """A record that this sender alone may write. `until` is what stands as its lease in the row, and so its fence.

    The rest comes with its inputs: `changes` are the rows of `stock_changes` that the number covers, of which the first
    was made at `changed_at`, by `causes`; `other` if something else than sales was among them or before; `unheard` is
    what is kept of each SKU as (unheard, until, slack). Changes that come during a claim belong to the next one.
    """

    tenant: str
    connection_id: str
    stock_record: str
    item: str
    location: str
    locations: tuple[str, ...] | None
    pool: str
    buffer: int
    cap: int | None
    known: Baseline | None
    attempts: tuple[Baseline, ...]
    failures: int
    guessed: bool
    until: datetime | None
    suspect_until: datetime | None
    changes: tuple[int, ...] = ()
    changed_at: datetime | None = None
    causes: tuple[tuple[str, str, str], ...] = ()
    other: bool = False
    unheard: Mapping[str, "Unheard"] = field(default_factory=dict)


Unheard = tuple[int, int, int]
"""Of one SKU of a record: `unheard`, `unheard_until` and `slack` of its row in `record_skus`."""


def _claimed(row: asyncpg.Record, late_s: float = 0.0) -> Claimed:
    """A record that still carries attempts was left in flight by a process that died: it is suspect until `late_s`
    after it was sent.
    """
    attempts = tuple(_from_json(each) for each in json.loads(row["attempts"]))
    suspect_until = row["suspect_until"]
    if attempts and not row["suspect"]:
        suspect_until = row["sent_at"] + timedelta(seconds=late_s)
    return Claimed(
        tenant=row["tenant"],
        connection_id=row["connection_id"],
        stock_record=row["stock_record"],
        item=row["item"],
        location=row["location"],
        locations=tuple(row["locations"]) if row["locations"] is not None else None,
        pool=row["pool"],
        buffer=row["buffer"],
        cap=row["cap"],
        known=_from_json(json.loads(row["known"])) if row["known"] else None,
        attempts=attempts,
        failures=row["failures"],
        guessed=row["guessed"],
        until=row["claimed_until"],
        suspect_until=suspect_until,
    )


def _to_json(baseline: Baseline) -> dict[str, Any]:
    return {
        "x": baseline.number,
        "t": {sku: [t.unheard, t.decided, t.heard, t.pending, t.sold, t.above] for sku, t in baseline.tallies.items()},
    }


def _from_json(value: Mapping[str, Any]) -> Baseline:
    return Baseline(value["x"], {sku: Tally(*units) for sku, units in value["t"].items()})


async def claim(
    connection: Database, tenant: str, connection_id: str, lane: int, limit: int, *, late_s: float, now: datetime
) -> list[Claimed]:
    """Lock dirty records whose time has come, oldest change first; those of another sender are passed over.

    The locks last to the end of the transaction, in which the record is leased (`keep`) or settled. Nobody who hears of
    a sale waits for them.
    """
    rows = await connection.fetch(
        """
        SELECT r.* FROM stock_changes c JOIN stock_records r USING (tenant, stock_record)
        WHERE c.tenant = $1 AND c.connection_id = $2 AND c.lane = $3 AND r.next_at <= $5
            AND (r.claimed_until IS NULL OR r.claimed_until < $5)
        ORDER BY c.change LIMIT $4 FOR UPDATE OF r SKIP LOCKED
        """,
        tenant,
        connection_id,
        lane,
        limit,
        now,
    )
    return [_claimed(row, late_s) for row in {row["stock_record"]: row for row in rows}.values()]


async def reclaim(
    connection: Database, tenant: str, stock_records: Sequence[str], lease_s: float, now: datetime
) -> list[Claimed]:
    """Claim these records, whatever their lane, unless another sender has them."""
    rows = await connection.fetch(
        """
        WITH due AS (
            SELECT tenant, stock_record FROM stock_records WHERE tenant = $1 AND stock_record = ANY($2::text[])
                AND (claimed_until IS NULL OR claimed_until < $4) ORDER BY stock_record FOR UPDATE
        )
        UPDATE stock_records r SET claimed_until = $3
        FROM due WHERE r.tenant = due.tenant AND r.stock_record = due.stock_record
        RETURNING r.*
        """,
        tenant,
        stock_records,
        now + timedelta(seconds=lease_s),
        now,
    )
    return [_claimed(row) for row in rows]


async def relock(
    connection: Database, tenant: str, claimed: Sequence[Claimed], lease_s: float, now: datetime
) -> list[Claimed]:
    """Lease records that this sender has claimed for another round of the same claim; what came since is seen.

    A record whose lease somebody else has taken up meanwhile is left out.
    """
    rows = await connection.fetch(
        """
        WITH mine AS (
            SELECT r.tenant, r.stock_record FROM stock_records r
                JOIN unnest($2::text[], $3::timestamptz[]) AS c (stock_record, until)
                    ON r.tenant = $1 AND r.stock_record = c.stock_record AND r.claimed_until = c.until
            ORDER BY r.stock_record FOR UPDATE OF r
        )
        UPDATE stock_records r SET claimed_until = $4 FROM mine
        WHERE r.tenant = mine.tenant AND r.stock_record = mine.stock_record RETURNING r.*
        """,
        tenant,
        [each.stock_record for each in claimed],
        [each.until for each in claimed],
        now + timedelta(seconds=lease_s),
    )
    return [_claimed(row) for row in rows]


async def inputs(
    connection: Database, claimed: Sequence[Claimed], lag_s: float, now: datetime
) -> list[tuple[Claimed, Record | None]]:
    """Everything the numbers of claimed records are computed from, in one statement; None where a SKU has no level yet.

    Handlers change these rows in one transaction each, so that one statement sees what fits together: a level and the
    change that came with it. What is committed later has a change of its own. `lag_s` is how long this channel's sales
    typically take to be heard.
    """
    rows = await connection.fetch(
        """
        SELECT r.stock_record, s.sku, s.factor, s.heard, s.decided, s.unheard, s.unheard_until, s.slack,
            l.epoch, l.version, l.counters, l.sold, r.approved, c.changes, c.changed_at, c.causes,
            r.other_change OR coalesce(c.other, false) AS other,
            coalesce((SELECT sum(o.asked - o.decided) FROM own_sales o WHERE o.tenant = s.tenant
                AND o.stock_record = s.stock_record AND o.sku = s.sku AND o.asked > o.decided), 0)::bigint AS pending,
            coalesce((SELECT sum(least(o.asked, o.decided)) FROM own_sales o WHERE o.tenant = s.tenant
                AND o.stock_record = s.stock_record AND o.sku = s.sku AND o.held), 0)::bigint AS held,
            coalesce((SELECT sum(greatest(0, least(e.unheard, e.unheard_until - e.decided)))
                FROM record_skus e WHERE e.tenant = s.tenant AND e.sku = s.sku
                AND e.stock_record <> s.stock_record), 0)::bigint AS elsewhere,
            coalesce((SELECT sum(o.asked) FROM record_skus e JOIN own_sales o USING (tenant, stock_record, sku)
                WHERE e.tenant = s.tenant AND e.sku = s.sku AND o.received_at > $3), 0)::float
                / (s.factor * (SELECT count(*) FROM record_skus e WHERE e.tenant = s.tenant AND e.sku = s.sku))
                AS recent
        FROM unnest($1::text[], $2::text[]) AS k (tenant, stock_record)
            JOIN stock_records r USING (tenant, stock_record)
            LEFT JOIN record_skus s USING (tenant, stock_record)
            LEFT JOIN levels l ON l.tenant = s.tenant AND l.sku = s.sku
            LEFT JOIN LATERAL (SELECT array_agg(c.change ORDER BY c.change) AS changes, min(c.changed_at) AS changed_at,
                    bool_or(c.other) AS other, array_agg(c.causes ORDER BY c.change) AS causes
                FROM stock_changes c WHERE c.tenant = k.tenant AND c.stock_record = k.stock_record) AS c ON true
        ORDER BY r.stock_record, s.sku
        """,
        [each.tenant for each in claimed],
        [each.stock_record for each in claimed],
        now - timedelta(seconds=SALES_WINDOW_S),
    )
    by_record: dict[str, list[asyncpg.Record]] = {each.stock_record: [] for each in claimed}
    for row in rows:
        by_record[row["stock_record"]].append(row)
    return [
        (_with_inputs(each, by_record[each.stock_record]), _record(each, by_record[each.stock_record], lag_s))
        for each in claimed
    ]


def _with_inputs(claimed: Claimed, rows: Sequence[asyncpg.Record]) -> Claimed:
    """The claim with what it covers, once: a later round of the same claim covers what the first one did."""
    row = rows[0]
    unheard = {row["sku"]: (row["unheard"], row["unheard_until"], row["slack"]) for row in rows if row["sku"]}
    claimed = replace(claimed, other=row["other"], unheard=unheard)
    if claimed.changes or row["changes"] is None:
        return claimed
    causes = dict.fromkeys(tuple(cause) for causes in row["causes"] for cause in json.loads(causes))
    return replace(claimed, changes=tuple(row["changes"]), changed_at=row["changed_at"], causes=tuple(causes))


def _record(claimed: Claimed, rows: Sequence[asyncpg.Record], lag_s: float) -> Record | None:
    if not rows or any(row["counters"] is None for row in rows):
        return None
    return Record(
        stock_record=claimed.stock_record,
        item=claimed.item,
        location=claimed.location,
        parts=tuple(
            Part(
                sku=row["sku"],
                factor=row["factor"],
                available=available(json.loads(row["counters"]), claimed),
                decided=row["decided"],
                heard=row["heard"],
                pending=row["pending"],
                held=row["held"],
                elsewhere=row["elsewhere"],
                sold=row["sold"],
                epoch=row["epoch"],
                version=row["version"],
            )
            for row in rows
        ),
        known=claimed.known,
        attempts=claimed.attempts,
        buffer=claimed.buffer,
        cap=claimed.cap,
        approved=_from_json(json.loads(rows[0]["approved"])) if rows[0]["approved"] else None,
        other_change=rows[0]["other"],
        risk=max(row["recent"] for row in rows) * lag_s / SALES_WINDOW_S,
    )


def available(counters: Iterable[Sequence[Any]], claimed: Claimed) -> int:
    """Units that a record may show: of its pool and the shared one, at its locations.

    Stock that a channel holds is counted by a record of that channel which names its location, and by none else.
    """
    return sum(
        units
        for location, pool, units, held_by in counters
        if pool in ("shared", claimed.pool)
        and (
            (claimed.locations is None or location in claimed.locations)
            if held_by is None
            else held_by == claimed.connection_id and location in (claimed.locations or ())
        )
    )


@dataclass(frozen=True, slots=True)
class Attempt:
    """A claim that goes on after its transaction: `number` is about to be written (`after` stands then), or, where
    they are None, the record is about to be read.
    """

    claimed: Claimed
    number: int | None = None
    after: Baseline | None = None


async def keep(
    connection: Database, attempts: Sequence[Attempt], lease_until: datetime, now: datetime
) -> dict[str, Claimed]:
    """Lease records and remember what is being sent, so that a process that dies in the call leaves its trace.

    Returns the claims with the lease they have now; one whose lease somebody else has taken up is left out.
    """
    attempts = sorted(attempts, key=lambda attempt: attempt.claimed.stock_record)
    rows = await connection.fetch(
        """
        UPDATE stock_records r SET claimed_until = $9, wanted = coalesce(a.number, r.wanted),
            sent = coalesce(a.number, r.sent), sent_at = CASE WHEN a.number IS NULL THEN r.sent_at ELSE $10 END,
            attempts = coalesce(a.attempts::jsonb, r.attempts), other_change = a.other,
            suspect = r.suspect OR a.suspect, suspect_until = a.suspect_until
        FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::int[], $5::text[], $6::bool[], $7::bool[],
                $8::timestamptz[])
            AS a (tenant, stock_record, until, number, attempts, other, suspect, suspect_until)
        WHERE r.tenant = a.tenant AND r.stock_record = a.stock_record AND r.claimed_until IS NOT DISTINCT FROM a.until
        RETURNING r.stock_record
        """,
        [attempt.claimed.tenant for attempt in attempts],
        [attempt.claimed.stock_record for attempt in attempts],
        [attempt.claimed.until for attempt in attempts],
        [attempt.number for attempt in attempts],
        [
            json.dumps([_to_json(each) for each in (*attempt.claimed.attempts, attempt.after)])
            if attempt.after
            else None
            for attempt in attempts
        ],
        [attempt.claimed.other for attempt in attempts],
        [bool(attempt.claimed.attempts) for attempt in attempts],
        [attempt.claimed.suspect_until for attempt in attempts],
        lease_until,
        now,
    )
    held = {row["stock_record"] for row in rows}
    kept = {
        attempt.claimed.stock_record: replace(
            attempt.claimed, until=lease_until, unheard=_raised(attempt.claimed.unheard, attempt.after)
        )
        for attempt in attempts
        if attempt.claimed.stock_record in held
    }
    raised = [
        (attempt.claimed, kept[key].unheard) for attempt in attempts if (key := attempt.claimed.stock_record) in kept
    ]
    await _remember_unheard(connection, raised, now)
    return kept


def _raised(before: Mapping[str, Unheard], after: Baseline | None) -> dict[str, Unheard]:
    """Of the numbers that may stand while one is being written the larger estimate counts."""
    units = dict(before)
    for sku, (unheard, until, slack) in _unheard((after,) if after else ()).items():
        unheard_before, until_before, _ = before.get(sku, (0, 0, 0))
        units[sku] = max(unheard_before, unheard), max(until_before, until), slack
    return units


def _unheard(baselines: Sequence[Baseline]) -> dict[str, Unheard]:
    """What other records' numbers have to know of a record on which these numbers may stand."""
    skus = {sku for baseline in baselines for sku in baseline.tallies}
    return {sku: (*domain.unheard_bounds(baselines, sku), domain.unheard_slack(baselines, sku)) for sku in skus}


async def _remember_unheard(
    connection: Database, told: Sequence[tuple[Claimed, Mapping[str, Unheard]]], now: datetime
) -> None:
    """Keep what is held to be unheard of records, for the other records' numbers; most of the time nothing changes.

    Where it falls by anything else than a decision (which dirties them all), the records that share a SKU are dirtied.
    """
    rows = sorted(
        (each.tenant, each.stock_record, sku, *units)
        for each, unheard in told
        for sku, units in unheard.items()
        if each.unheard.get(sku) != units
    )
    if not rows:
        return
    await connection.execute(
        """
        WITH told AS MATERIALIZED (
            SELECT s.tenant, s.stock_record, s.sku, u.unheard, u.until, u.slack,
                greatest(0, least(s.unheard, s.unheard_until - s.decided))
                    > greatest(0, least(u.unheard, u.until - s.decided)) AS fell
            FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
                AS u (tenant, stock_record, sku, unheard, until, slack)
            JOIN record_skus s USING (tenant, stock_record, sku)
            ORDER BY s.tenant, s.stock_record, s.sku FOR UPDATE OF s
        ), kept AS (
            UPDATE record_skus s SET unheard = t.unheard, unheard_until = t.until, slack = t.slack FROM told t
            WHERE s.tenant = t.tenant AND s.stock_record = t.stock_record AND s.sku = t.sku
        )
        INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, changed_at)
        SELECT DISTINCT o.tenant, o.stock_record, r.connection_id, 1, false, $7::timestamptz
        FROM told t JOIN record_skus o USING (tenant, sku)
            JOIN stock_records r ON r.tenant = o.tenant AND r.stock_record = o.stock_record
        WHERE t.fell AND o.stock_record <> t.stock_record
        """,
        *[list(column) for column in zip(*rows, strict=True)],
        now,
    )


@dataclass(frozen=True, slots=True)
class Settled:
    """The end of one claim of one record.

    `known` and `attempts` are what stands from now on. `changes` are what the number covers: none leaves the record
    dirty. `approve` makes the number the last approved one; `seen_at` dates what is known of unheard sales. `dirty`
    dirties the record anew.
    """

    claimed: Claimed
    known: Baseline | None
    attempts: tuple[Baseline, ...]
    next_at: datetime
    changes: tuple[int, ...] = ()
    number: int | None = None
    accepted_at: datetime | None = None
    observed: int | None = None
    seen_at: datetime | None = None
    approve: bool = False
    suspect_until: datetime | None = None
    guessed: bool = False
    failures: int = 0
    refusal: str = ""
    dirty: bool = False


async def settle(connection: Database, settled: Sequence[Settled], now: datetime) -> None:
    """End claims. Locks the records, sorted, first.

    A claim whose lease somebody else has taken up changes nothing: what that one has written since would be forgotten.
    """
    rows = sorted(settled, key=lambda each: each.claimed.stock_record)
    if not rows:
        return
    covered = [(each.claimed.stock_record, change) for each in rows for change in each.changes]
    ended = await connection.fetch(
        """
        WITH locked AS MATERIALIZED (
            SELECT r.tenant, r.stock_record FROM stock_records r
                JOIN unnest($1::text[], $2::text[]) AS k (tenant, stock_record) USING (tenant, stock_record)
            ORDER BY r.tenant, r.stock_record FOR UPDATE OF r
        ), ended AS (
            UPDATE stock_records r SET claimed_until = NULL, known = coalesce(e.known::jsonb, r.known),
                attempts = e.attempts::jsonb, next_at = e.next_at, wanted = coalesce(e.number, r.wanted),
                accepted = CASE WHEN e.accepted_at IS NULL THEN r.accepted ELSE e.number END,
                accepted_at = coalesce(e.accepted_at, r.accepted_at), observed = coalesce(e.observed, r.observed),
                observed_at = CASE WHEN e.observed IS NULL THEN r.observed_at ELSE $20 END,
                seen_at = coalesce(e.seen_at, r.seen_at),
                other_change_at = CASE WHEN e.approve AND e.other AND (r.approved ->> 'x')::int <> e.number THEN $20
                    ELSE r.other_change_at END,
                approved = CASE WHEN e.approve THEN coalesce(e.known::jsonb, r.known) ELSE r.approved END,
                other_change = (r.other_change OR e.other) AND NOT e.approve,
                suspect = e.suspect, suspect_until = coalesce(e.suspect_until, r.suspect_until), guessed = e.guessed,
                failures = e.failures, refusal = e.refusal
            FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::timestamptz[], $7::int[],
                    $8::timestamptz[], $9::int[], $10::timestamptz[], $11::bool[], $12::bool[], $13::bool[],
                    $14::timestamptz[], $15::bool[], $16::int[], $17::text[], $18::bool[])
                AS e (tenant, stock_record, until, known, attempts, next_at, number, accepted_at, observed, seen_at,
                    approve, other, suspect, suspect_until, guessed, failures, refusal, dirty)
                JOIN locked USING (tenant, stock_record)
            WHERE r.tenant = e.tenant AND r.stock_record = e.stock_record
                AND r.claimed_until IS NOT DISTINCT FROM e.until
            RETURNING r.tenant, r.stock_record, r.connection_id, e.dirty
        ), covered AS (
            DELETE FROM stock_changes c
            USING ended e JOIN unnest($19::text[], $21::bigint[]) AS d (stock_record, change) USING (stock_record)
            WHERE c.tenant = e.tenant AND c.stock_record = e.stock_record AND c.change = d.change
        ), dirtied AS (
            INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, changed_at)
            SELECT tenant, stock_record, connection_id, 1, false, $20 FROM ended WHERE dirty
        )
        SELECT stock_record FROM ended
        """,
        [each.claimed.tenant for each in rows],
        [each.claimed.stock_record for each in rows],
        [each.claimed.until for each in rows],
        [json.dumps(_to_json(each.known)) if each.known else None for each in rows],
        [json.dumps([_to_json(attempt) for attempt in each.attempts]) for each in rows],
        [each.next_at for each in rows],
        [each.number for each in rows],
        [each.accepted_at for each in rows],
        [each.observed for each in rows],
        [each.seen_at for each in rows],
        [each.approve for each in rows],
        [each.claimed.other for each in rows],
        # What may stand at the channel besides what is known has to be read back.
        [bool(each.attempts) for each in rows],
        [each.suspect_until or each.claimed.suspect_until for each in rows],
        [each.guessed for each in rows],
        [each.failures for each in rows],
        [each.refusal for each in rows],
        [each.dirty for each in rows],
        [stock_record for stock_record, _ in covered],
        now,
        [change for _, change in covered],
    )
    held = {row["stock_record"] for row in ended}
    standing = [
        (each.claimed, _unheard(((each.known,) if each.known else ()) + each.attempts))
        for each in rows
        if each.claimed.stock_record in held
    ]
    await _remember_unheard(connection, standing, now)


async def settle_propagation(
    connection: Database, tenant: str, covered: Sequence[tuple[str, str, int, int, bool]], now: datetime
) -> dict[str, list[asyncpg.Record]]:
    """Close the measure rows that (record, sku, epoch, version, unchanged) cover; returns them by record."""
    rows = await connection.fetch(
        """
        UPDATE propagation p SET settled_at = $7, unchanged = c.unchanged
        FROM unnest($2::text[], $3::text[], $4::int[], $5::bigint[], $6::bool[])
            AS c (stock_record, sku, epoch, version, unchanged)
        WHERE p.tenant = $1 AND p.stock_record = c.stock_record AND p.sku = c.sku AND p.settled_at IS NULL
            AND (p.epoch, p.version) <= (c.epoch, c.version)
        RETURNING p.stock_record, p.sku, p.order_id, p.line_id, p.sale_revision, p.sold_connection_id, p.version,
            p.sold_at, p.received_at, p.correlation_id
        """,
        tenant,
        [each[0] for each in covered],
        [each[1] for each in covered],
        [each[2] for each in covered],
        [each[3] for each in covered],
        [each[4] for each in covered],
        now,
    )
    found: dict[str, list[asyncpg.Record]] = {}
    for row in sorted(rows, key=lambda row: (row["sold_at"], row["version"])):
        found.setdefault(row["stock_record"], []).append(row)
    return found


# The brake.


async def brake_of(connection: Database, tenant: str, connection_id: str) -> bool:
    """Whether a mass change of this connection waits for a person."""
    found = await connection.fetchval(
        "SELECT 1 FROM stock_brakes WHERE tenant = $1 AND connection_id = $2", tenant, connection_id
    )
    return found is not None


async def changed_lately(
    connection: Database, tenant: str, connection_id: str, since: datetime
) -> tuple[int, int, int]:
    """Records changed by something else than sales since a moment, those of them at zero, and all records."""
    row = await connection.fetchrow(
        """
        SELECT count(*) FILTER (WHERE other_change_at > $3) AS changed,
            count(*) FILTER (WHERE other_change_at > $3 AND wanted = 0) AS zeroed, count(*) AS records
        FROM stock_records WHERE tenant = $1 AND connection_id = $2
        """,
        tenant,
        connection_id,
        since,
    )
    assert row is not None
    return row["changed"], row["zeroed"], row["records"]


async def set_brake(
    connection: Database, tenant: str, connection_id: str, changed: int, zeroed: int, records: int, now: datetime
) -> None:
    """Stop the mass changes of a connection."""
    await connection.execute(
        "INSERT INTO stock_brakes VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        tenant,
        connection_id,
        now,
        changed,
        zeroed,
        records,
    )


async def release_brake(connection: Database, tenant: str, connection_id: str) -> bool:
    """A person has looked: let the changes pass. False where there was no brake."""
    status = await connection.execute(
        "DELETE FROM stock_brakes WHERE tenant = $1 AND connection_id = $2", tenant, connection_id
    )
    # What was approved is what is wanted now: forgetting the old approval lets this change through, once.
    await connection.execute(
        """
        WITH released AS (
            UPDATE stock_records SET approved = NULL, next_at = '-infinity'
            WHERE tenant = $1 AND connection_id = $2 AND other_change RETURNING tenant, stock_record, connection_id
        )
        INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, changed_at)
        SELECT tenant, stock_record, connection_id, 1, true, now() FROM released
        """,
        tenant,
        connection_id,
    )
    return status.endswith(" 1")


# Reconciliation. Records are locked as they are chosen: a sender that claims, writes and settles one in between would
# leave a number behind that was seen after the poll, or a request under way, for which they were not chosen.


async def claim_suspects(
    connection: Database, tenant: str, connection_id: str, limit: int, lease_s: float, now: datetime
) -> list[Claimed]:
    """Suspect records whose request cannot be executed any more, to be read back."""
    keys = await connection.fetch(
        """
        SELECT stock_record FROM stock_records
        WHERE tenant = $1 AND connection_id = $2 AND suspect AND suspect_until <= $3
            AND (claimed_until IS NULL OR claimed_until < $3) ORDER BY suspect_until LIMIT $4 FOR UPDATE SKIP LOCKED
        """,
        tenant,
        connection_id,
        now,
        limit,
    )
    return await reclaim(connection, tenant, [row["stock_record"] for row in keys], lease_s, now) if keys else []


async def claim_for_reading(
    connection: Database, tenant: str, connection_id: str, limit: int, lease_s: float, before: datetime, now: datetime
) -> list[Claimed]:
    """Settled records not looked at since `before`, riskiest first: little stock, then long unseen."""
    keys = await connection.fetch(
        """
        SELECT stock_record FROM stock_records r WHERE tenant = $1 AND connection_id = $2 AND known IS NOT NULL
            AND NOT suspect AND NOT EXISTS (SELECT FROM stock_changes c
                WHERE c.tenant = r.tenant AND c.stock_record = r.stock_record)
            AND coalesce(observed_at, '-infinity') < $3 AND coalesce(accepted_at, '-infinity') < $3
            AND (claimed_until IS NULL OR claimed_until < $4)
        ORDER BY observed_at IS NOT NULL, accepted <= 5 DESC, observed_at LIMIT $5 FOR UPDATE SKIP LOCKED
        """,
        tenant,
        connection_id,
        before,
        now,
        limit,
    )
    return await reclaim(connection, tenant, [row["stock_record"] for row in keys], lease_s, now) if keys else []


async def complete_poll(connection: Database, connection_id: str) -> datetime | None:
    """When the newest complete poll of the orders began, once every body it brought has been absorbed."""
    begun_at: datetime | None = await connection.fetchval(
        """
        SELECT p.begun_at FROM polls p WHERE p.connection_id = $1 AND p.begun_at IS NOT NULL
            AND NOT EXISTS (SELECT FROM intake i WHERE i.connection_id = p.connection_id
                AND i.intake_id <= p.through_intake_id AND i.state IN ('new', 'poisoned'))
            -- What only points to an order is heard when it is fetched. One that a person has been told cannot be
            -- read must not keep all others from healing.
            AND NOT EXISTS (SELECT FROM intake_orders o WHERE o.connection_id = p.connection_id
                AND o.fetched_seq < o.notified_seq AND NOT EXISTS (SELECT FROM alerts a
                    WHERE a.connection_id = o.connection_id AND a.kind = 'order_unreadable' AND a.subject = o.order_id
                        AND a.resolved_at IS NULL))
        """,
        connection_id,
    )
    return begun_at


async def claim_to_heal(
    connection: Database, tenant: str, connection_id: str, begun_at: datetime, limit: int, lease_s: float, now: datetime
) -> list[tuple[Claimed, datetime]]:
    """Records that are held to have unheard sales, and when they were seen: before a complete poll began."""
    rows = await connection.fetch(
        """
        SELECT r.stock_record, r.seen_at FROM stock_records r
        WHERE r.tenant = $1 AND r.connection_id = $2 AND r.known IS NOT NULL AND NOT r.suspect AND r.seen_at < $3
            AND NOT EXISTS (SELECT FROM stock_changes c WHERE c.tenant = r.tenant AND c.stock_record = r.stock_record)
            AND (r.claimed_until IS NULL OR r.claimed_until < $4)
            AND EXISTS (SELECT FROM record_skus s WHERE s.tenant = r.tenant AND s.stock_record = r.stock_record
                AND (least(s.unheard, s.unheard_until - s.decided) > 0 OR s.heard - s.decided + s.slack > 0))
        ORDER BY r.stock_record LIMIT $5 FOR UPDATE OF r SKIP LOCKED
        """,
        tenant,
        connection_id,
        begun_at,
        now,
        limit,
    )
    if not rows:
        return []
    known = {row["stock_record"]: row for row in rows}
    claimed = await reclaim(connection, tenant, list(known), lease_s, now)
    return [(each, known[each.stock_record]["seen_at"]) for each in claimed]


async def compact_changes(connection: Database) -> int:
    """Forget changes that a later one of the same record says as well; returns how many rows went.

    Those of a connection that nobody sends to grow with every sale.
    """
    status = await connection.execute(
        """
        DELETE FROM stock_changes c WHERE EXISTS (SELECT FROM stock_changes later
            WHERE later.tenant = c.tenant AND later.stock_record = c.stock_record AND later.change > c.change
                AND later.lane <= c.lane AND later.other >= c.other)
        """
    )
    return int(status.rpartition(" ")[2])


async def prune(connection: Database, before: datetime) -> int:
    """Forget measures and decided own sales from before a moment; returns how many rows went."""
    measured = await connection.execute("DELETE FROM propagation WHERE coalesce(settled_at, received_at) < $1", before)
    sold = await connection.execute(
        "DELETE FROM own_sales WHERE received_at < $1 AND NOT held AND asked <= decided", before
    )
    return int(measured.rpartition(" ")[2]) + int(sold.rpartition(" ")[2])

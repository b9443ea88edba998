"""Rows of the stock side. One function a statement or a few that belong together; the connection comes first.

Locks are taken in one order by everyone: the level of a SKU, then stock records (sorted), then what hangs on them
(`record_skus`, `own_sales`, `propagation`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid5

import asyncpg

from contracts.channels.v1 import SaleReported, SaleStatus
from services.channels.alerts import Database
from services.channels.ids import NAMESPACE
from services.channels.stock import domain
from services.channels.stock.domain import Baseline, Part, Record, Tally

SALES_WINDOW_S: Final = 30.0
"""Sales of the last this many seconds tell the rate at which a record may be selling unheard."""

_STILL_RESERVED: Final = frozenset(
    {SaleStatus.PLACED, SaleStatus.AWAITING_PAYMENT, SaleStatus.PAID, SaleStatus.CANCEL_REQUESTED}
)
"""States in which a channel that keeps its own reservations still counts the units of an order as reserved."""


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
    """A SKU whose record numbers may change. `sales_only`: by nothing but sales and cancels. `low`: little is left."""

    tenant: str
    sku: str
    available: int
    sales_only: bool
    event_id: str
    correlation_id: str
    traceparent: str


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
        UPDATE stock_records SET wanted_seq = wanted_seq + 1, other_change = true, next_at = '-infinity', failures = 0
        WHERE tenant = $1 AND stock_record = ANY($2::text[]) AND sku IS NOT NULL
        """,
        tenant,
        stock_records,
    )


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
        SELECT stock_record, connection_id, item, location, sku, pack, buffer, cap, wanted, wanted_seq, sent, accepted,
            accepted_seq, accepted_at, observed, observed_at, suspect, refusal, wanted_seq > accepted_seq AS dirty
        FROM stock_records WHERE tenant = $1 AND ($2::text IS NULL OR connection_id = $2)
        ORDER BY connection_id, item, location
        """,
        tenant,
        connection_id,
    )
    return [dict(row) for row in rows]


async def summary(connection: Database, tenant: str | None) -> list[dict[str, Any]]:
    """Per connection: records, how many are dirty, suspect, refused, and when the oldest became dirty."""
    rows = await connection.fetch(
        """
        SELECT tenant, connection_id, count(*) AS records, count(*) FILTER (WHERE wanted_seq > accepted_seq) AS dirty,
            count(*) FILTER (WHERE suspect) AS suspect, count(*) FILTER (WHERE refusal <> '') AS refused,
            count(*) FILTER (WHERE sku IS NULL) AS unlinked
        FROM stock_records WHERE $1::text IS NULL OR tenant = $1
        GROUP BY tenant, connection_id ORDER BY tenant, connection_id
        """,
        tenant,
    )
    return [dict(row) for row in rows]


# Own sales.


async def note_own_sale(connection: Database, tenant: str, sale: SaleReported) -> None:
    """Keep what stands of one order of a channel; where a transaction takes in several, use `note_own_sales`."""
    await note_own_sales(connection, [(tenant, sale)])


async def note_own_sales(connection: Database, sales: Sequence[tuple[str, SaleReported]]) -> None:
    """Keep what stands of a channel's own order lines (tenant, snapshot), in the transaction that publishes them.

    Counts what the channel has lowered by itself (net of cancels that it restores), and dirties the records. A revision
    that is not newer than the kept one changes nothing; lines without a stock record are passed over. One call for all
    orders of a transaction takes the records' locks in one sorted statement.
    """
    newest = {(tenant, sale.order_id): sale for tenant, sale in sorted(sales, key=lambda pair: pair[1].revision)}
    rows = [
        (tenant, line.stock_record, sale, line)
        for (tenant, _), sale in sorted(newest.items())
        for line in sale.lines
        if line.stock_record and line.fulfilled_by == "us"
    ]
    if not rows:
        return
    tenants, records = [row[0] for row in rows], [row[1] for row in rows]
    await lock_records(connection, tenants, records)
    changed = await connection.fetch(
        """
        WITH told AS (
            SELECT t.*, s.sku, t.net * s.factor / r.pack AS asked,
                t.gross * s.factor / r.pack AS lowered, r.restores_on_cancel, o.asked AS asked_before,
                o.asked_max AS max_before
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
                received_at FROM told
            ON CONFLICT (tenant, order_id, line_id, sku) DO UPDATE SET revision = excluded.revision,
                asked = excluded.asked, asked_max = greatest(o.asked_max, excluded.asked_max), held = excluded.held
        ), heard AS (
            SELECT tenant, stock_record, sku, sum(CASE
                WHEN restores_on_cancel THEN asked - coalesce(asked_before, 0)
                ELSE greatest(0, lowered - coalesce(max_before, 0)) END)::bigint AS units
            FROM told GROUP BY tenant, stock_record, sku
        )
        UPDATE record_skus s SET heard = s.heard + h.units FROM heard h
        WHERE s.tenant = h.tenant AND s.stock_record = h.stock_record AND s.sku = h.sku
        RETURNING s.tenant, s.stock_record
        """,
        tenants,
        records,
        [sale.order_id for _, _, sale, _ in rows],
        [line.line_id for _, _, _, line in rows],
        [sale.revision for _, _, sale, _ in rows],
        [0 if sale.status is SaleStatus.CANCELLED else line.quantity - line.cancelled for _, _, sale, line in rows],
        [sale.status in _STILL_RESERVED for _, _, sale, _ in rows],
        [sale.sold_at for _, _, sale, _ in rows],
        [sale.received_at for _, _, sale, _ in rows],
        [line.quantity for _, _, _, line in rows],
    )
    dirty = sorted({(row["tenant"], row["stock_record"]) for row in changed})
    await connection.execute(
        """
        UPDATE stock_records r SET wanted_seq = r.wanted_seq + 1,
            wanted_at = CASE WHEN r.wanted_seq > r.accepted_seq THEN r.wanted_at ELSE now() END
        FROM unnest($1::text[], $2::text[]) AS d (tenant, stock_record)
        WHERE r.tenant = d.tenant AND r.stock_record = d.stock_record
        """,
        [tenant for tenant, _ in dirty],
        [stock_record for _, stock_record in dirty],
    )


async def lock_records(connection: Database, tenants: Sequence[str], stock_records: Sequence[str]) -> None:
    """Lock records, sorted."""
    await connection.execute(
        """
        SELECT FROM stock_records r WHERE (tenant, stock_record) IN
            (SELECT * FROM unnest($1::text[], $2::text[])) ORDER BY tenant, stock_record FOR UPDATE
        """,
        tenants,
        stock_records,
    )


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


async def lock_consumers(connection: Database, keys: Sequence[tuple[str, str]]) -> None:
    """Lock every stock record that takes one of these (tenant, sku)."""
    await connection.execute(
        """
        SELECT FROM stock_records r WHERE (tenant, stock_record) IN (
            SELECT s.tenant, s.stock_record FROM record_skus s
                JOIN unnest($1::text[], $2::text[]) AS k (tenant, sku) USING (tenant, sku))
        ORDER BY tenant, stock_record FOR UPDATE
        """,
        [tenant for tenant, _ in keys],
        [sku for _, sku in keys],
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
        ), lines AS (
            UPDATE own_sales o SET decided = o.decided + m.units FROM moved m
            WHERE o.tenant = m.tenant AND o.order_id = m.order_id AND o.line_id = m.line_id AND o.sku = m.sku
            RETURNING o.tenant, o.stock_record, o.sku, m.units, m.sold
        ), records AS (
            SELECT l.tenant, l.stock_record, l.sku,
                sum(CASE WHEN r.restores_on_cancel THEN l.units ELSE l.sold END) AS units
            FROM lines l JOIN stock_records r USING (tenant, stock_record) GROUP BY 1, 2, 3
        )
        UPDATE record_skus s SET decided = s.decided + r.units FROM records r
        WHERE s.tenant = r.tenant AND s.stock_record = r.stock_record AND s.sku = r.sku
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


async def dirty_consumers(connection: Database, changes: Sequence[Change], low_stock: int, now: datetime) -> None:
    """Dirty every record that takes a changed SKU; those of which little is left get the urgent lane."""
    await connection.execute(
        """
        UPDATE stock_records r SET wanted_seq = r.wanted_seq + 1,
            wanted_at = CASE WHEN r.wanted_seq > r.accepted_seq THEN r.wanted_at ELSE $8 END,
            lane = CASE WHEN d.left_over <= $9 THEN 0 WHEN r.wanted_seq > r.accepted_seq THEN r.lane ELSE 1 END,
            other_change = r.other_change OR d.other,
            cause_event_id = d.event_id, cause_correlation_id = d.correlation_id, cause_traceparent = d.traceparent
        FROM (
            SELECT DISTINCT ON (s.tenant, s.stock_record) s.tenant, s.stock_record,
                min((c.available - x.buffer) / s.factor) OVER w AS left_over, bool_or(NOT c.sales_only) OVER w AS other,
                c.event_id, c.correlation_id, c.traceparent
            FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bool[], $5::text[], $6::text[], $7::text[])
                AS c (tenant, sku, available, sales_only, event_id, correlation_id, traceparent)
            JOIN record_skus s USING (tenant, sku) JOIN stock_records x USING (tenant, stock_record)
            WINDOW w AS (PARTITION BY s.tenant, s.stock_record)
        ) d WHERE r.tenant = d.tenant AND r.stock_record = d.stock_record
        """,
        [change.tenant for change in changes],
        [change.sku for change in changes],
        [change.available for change in changes],
        [change.sales_only for change in changes],
        [change.event_id for change in changes],
        [change.correlation_id for change in changes],
        [change.traceparent for change in changes],
        now,
        low_stock,
    )


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


async def due_lanes(connection: Database, now: datetime) -> set[tuple[str, str, int]]:
    """(tenant, connection, lane) that have a record to be sent now."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT tenant, connection_id, lane FROM stock_records
        WHERE wanted_seq > accepted_seq AND next_at <= $1 AND (claimed_until IS NULL OR claimed_until < $1)
            AND sku IS NOT NULL
        """,
        now,
    )
    return {(row["tenant"], row["connection_id"], row["lane"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Claimed:
    """A record that this sender alone may write, `until` its lease ends; the lease's end is also its fence."""

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
    seq: int
    wanted_at: datetime
    failures: int
    guessed: bool
    cause: tuple[str, str, str]
    until: datetime


def _claimed(row: asyncpg.Record, now: datetime) -> Claimed:
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
        attempts=tuple(_from_json(each) for each in json.loads(row["attempts"])),
        seq=row["wanted_seq"],
        wanted_at=row["wanted_at"] or now,
        failures=row["failures"],
        guessed=row["guessed"],
        cause=(row["cause_event_id"], row["cause_correlation_id"], row["cause_traceparent"]),
        until=row["claimed_until"],
    )


def _to_json(baseline: Baseline) -> dict[str, Any]:
    return {
        "x": baseline.number,
        "t": {sku: [t.unheard, t.decided, t.heard, t.pending, t.sold, t.above] for sku, t in baseline.tallies.items()},
    }


def _from_json(value: Mapping[str, Any]) -> Baseline:
    return Baseline(value["x"], {sku: Tally(*units) for sku, units in value["t"].items()})


async def claim(
    connection: Database,
    tenant: str,
    connection_id: str,
    lane: int,
    limit: int,
    *,
    lease_s: float,
    late_s: float,
    now: datetime,
) -> list[Claimed]:
    """Claim dirty records whose time has come. What a number is computed from is read in a statement after the claim's
    commit: it holds everything up to the claimed sequence, and what comes later makes the record dirty again.

    A record that still carries attempts was left in flight by a process that died: it is suspect until `late_s` after
    it was sent.
    """
    rows = await connection.fetch(
        """
        WITH due AS (
            SELECT tenant, stock_record FROM stock_records
            WHERE tenant = $1 AND connection_id = $2 AND lane = $3 AND wanted_seq > accepted_seq AND next_at <= $6
                AND (claimed_until IS NULL OR claimed_until < $6) AND sku IS NOT NULL
            ORDER BY next_at, stock_record LIMIT $4 FOR UPDATE SKIP LOCKED
        )
        UPDATE stock_records r SET claimed_until = $5,
            suspect_until = CASE WHEN r.attempts <> '[]' AND NOT r.suspect THEN r.sent_at + $7::interval
                ELSE r.suspect_until END,
            suspect = r.suspect OR r.attempts <> '[]'
        FROM due WHERE r.tenant = due.tenant AND r.stock_record = due.stock_record
        RETURNING r.*
        """,
        tenant,
        connection_id,
        lane,
        limit,
        now + timedelta(seconds=lease_s),
        now,
        timedelta(seconds=late_s),
    )
    return [_claimed(row, now) for row in rows]


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
    return [_claimed(row, now) for row in rows]


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
    return [_claimed(row, now) for row in rows]


async def inputs(
    connection: Database, tenant: str, claimed: Sequence[Claimed], lag_s: float, now: datetime
) -> dict[str, Record | None]:
    """Everything the numbers of claimed records are computed from, in one statement; None where a SKU has no level yet.

    Handlers change these rows in one transaction each, so that one statement sees what fits together: a level and
    whether something else than sales changed it, or a mass change that came after the claim would pass the brake.
    `lag_s` is how long this channel's sales typically take to be heard.
    """
    rows = await connection.fetch(
        """
        SELECT s.stock_record, s.sku, s.factor, s.heard, s.decided, l.epoch, l.version, l.counters, l.sold,
            r.other_change, r.approved,
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
        FROM record_skus s JOIN stock_records r ON r.tenant = s.tenant AND r.stock_record = s.stock_record
            LEFT JOIN levels l ON l.tenant = s.tenant AND l.sku = s.sku
        WHERE s.tenant = $1 AND s.stock_record = ANY($2::text[]) ORDER BY s.stock_record, s.sku
        """,
        tenant,
        [each.stock_record for each in claimed],
        now - timedelta(seconds=SALES_WINDOW_S),
    )
    by_record: dict[str, list[asyncpg.Record]] = {each.stock_record: [] for each in claimed}
    for row in rows:
        by_record[row["stock_record"]].append(row)
    return {each.stock_record: _record(each, by_record[each.stock_record], lag_s) for each in claimed}


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
        other_change=rows[0]["other_change"],
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


async def causes_of(
    connection: Database, tenant: str, stock_records: Sequence[str], limit: int
) -> list[tuple[str, str, str]]:
    """(event, correlation, traceparent) of the sales that these records have not shown yet, oldest first."""
    rows = await connection.fetch(
        """
        SELECT event_id, correlation_id, traceparent FROM propagation
        WHERE tenant = $1 AND stock_record = ANY($2::text[]) AND settled_at IS NULL
        GROUP BY 1, 2, 3 ORDER BY min(sold_at) LIMIT $3
        """,
        tenant,
        stock_records,
        limit,
    )
    return [(row["event_id"], row["correlation_id"], row["traceparent"]) for row in rows]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A number about to be written: kept before the call, so that a process that dies in it leaves its trace.

    `before` are numbers of earlier calls whose outcome is still unknown.
    """

    stock_record: str
    until: datetime
    number: int
    before: tuple[Baseline, ...]
    after: Baseline


async def keep_attempts(connection: Database, tenant: str, attempts: Sequence[Attempt], now: datetime) -> set[str]:
    """Remember what is being sent; returns the records whose lease still holds. The caller holds the records' locks."""
    rows = await connection.fetch(
        """
        UPDATE stock_records r SET wanted = a.number, sent = a.number, sent_at = $5,
            attempts = a.attempts
        FROM unnest($2::text[], $3::int[], $4::jsonb[], $6::timestamptz[]) AS a (stock_record, number, attempts, until)
        WHERE r.tenant = $1 AND r.stock_record = a.stock_record AND r.claimed_until = a.until
        RETURNING r.stock_record
        """,
        tenant,
        [attempt.stock_record for attempt in attempts],
        [attempt.number for attempt in attempts],
        [json.dumps([_to_json(each) for each in (*attempt.before, attempt.after)]) for attempt in attempts],
        now,
        [attempt.until for attempt in attempts],
    )
    held = {row["stock_record"] for row in rows}
    standing = [(each.stock_record, (each.after,)) for each in attempts if each.stock_record in held]
    await _remember_unheard(connection, tenant, standing, raise_only=True)
    return held


async def _remember_unheard(
    connection: Database, tenant: str, standing: Sequence[tuple[str, Sequence[Baseline]]], *, raise_only: bool
) -> None:
    """Keep what is held to be unheard of a record, for the other records' numbers.

    Where it falls by anything else than a decision (which dirties them all), the record is marked, and `tell_others`
    dirties those that share a SKU in a transaction of its own: taking their locks here could meet somebody who holds
    them and waits for ours.
    """
    rows = [
        (stock_record, sku, *domain.unheard_bounds(baselines, sku), domain.unheard_slack(baselines, sku))
        for stock_record, baselines in standing
        for sku in sorted({sku for baseline in baselines for sku in baseline.tallies})
    ]
    await connection.execute(
        """
        WITH told AS (
            SELECT s.tenant, s.stock_record, s.sku, u.slack,
                CASE WHEN $7 THEN greatest(s.unheard, u.unheard) ELSE u.unheard END AS unheard,
                CASE WHEN $7 THEN greatest(s.unheard_until, u.until) ELSE u.until END AS until,
                greatest(0, least(s.unheard, s.unheard_until - s.decided)) AS before, s.decided
            FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
                AS u (stock_record, sku, unheard, until, slack)
            JOIN record_skus s ON s.tenant = $1 AND s.stock_record = u.stock_record AND s.sku = u.sku
        ), kept AS (
            UPDATE record_skus s SET unheard = t.unheard, unheard_until = t.until, slack = t.slack FROM told t
            WHERE s.tenant = t.tenant AND s.stock_record = t.stock_record AND s.sku = t.sku
        )
        UPDATE stock_records r SET tell_others = true
        WHERE r.tenant = $1 AND r.stock_record IN (
            SELECT stock_record FROM told WHERE greatest(0, least(unheard, until - decided)) < before)
        """,
        tenant,
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
        [row[3] for row in rows],
        [row[4] for row in rows],
        raise_only,
    )


async def tell_others(connection: Database, tenant: str) -> int:
    """Dirty the records that share a SKU with one whose unheard sales turned out fewer; returns how many."""
    status = await connection.execute(
        """
        WITH tellers AS (
            SELECT stock_record FROM stock_records WHERE tenant = $1 AND tell_others
        ), touched AS (
            SELECT r.stock_record, r.stock_record IN (SELECT stock_record FROM tellers) AS teller
            FROM stock_records r WHERE r.tenant = $1 AND r.stock_record IN (
                SELECT o.stock_record FROM record_skus s JOIN record_skus o USING (tenant, sku)
                WHERE s.tenant = $1 AND s.stock_record IN (SELECT stock_record FROM tellers)
            ) ORDER BY r.stock_record FOR UPDATE
        )
        UPDATE stock_records r SET wanted_seq = r.wanted_seq + 1, tell_others = r.tell_others AND NOT t.teller
        FROM touched t WHERE r.tenant = $1 AND r.stock_record = t.stock_record
        """,
        tenant,
    )
    return int(status.rpartition(" ")[2])


@dataclass(frozen=True, slots=True)
class Settled:
    """The end of one claim of one record.

    `known` and `attempts` are what stands from now on. `seq` is what the number covers: None leaves the record dirty.
    `approve` makes the number the last approved one; `seen_at` dates what is known of unheard sales.
    """

    stock_record: str
    until: datetime
    known: Baseline | None
    attempts: tuple[Baseline, ...]
    seq: int | None
    next_at: datetime
    number: int | None = None
    accepted_at: datetime | None = None
    observed: int | None = None
    seen_at: datetime | None = None
    approve: bool = False
    suspect: bool = False
    suspect_until: datetime | None = None
    guessed: bool = False
    failures: int = 0
    refusal: str = ""
    dirty: bool = False


async def settle(connection: Database, tenant: str, settled: Sequence[Settled], now: datetime) -> None:
    """End claims. Locks the records, sorted, first.

    A claim whose lease somebody else has taken up changes nothing: what that one has written since would be forgotten.
    """
    rows = sorted(settled, key=lambda each: each.stock_record)
    keys = [each.stock_record for each in rows]
    await lock_records(connection, [tenant] * len(keys), keys)
    ended = await connection.fetch(
        """
        UPDATE stock_records r SET claimed_until = NULL, known = coalesce(e.known, r.known), attempts = e.attempts,
            accepted_seq = greatest(r.accepted_seq, coalesce(e.seq, r.accepted_seq)), next_at = e.next_at,
            wanted = coalesce(e.number, r.wanted),
            accepted = CASE WHEN e.accepted_at IS NULL THEN r.accepted ELSE e.number END,
            accepted_at = coalesce(e.accepted_at, r.accepted_at), observed = coalesce(e.observed, r.observed),
            observed_at = CASE WHEN e.observed IS NULL THEN r.observed_at ELSE $17 END,
            seen_at = coalesce(e.seen_at, r.seen_at),
            other_change_at = CASE WHEN e.approve AND r.other_change AND (r.approved ->> 'x')::int <> e.number THEN $17
                ELSE r.other_change_at END,
            approved = CASE WHEN e.approve THEN coalesce(e.known, r.known) ELSE r.approved END,
            other_change = r.other_change AND NOT (e.approve AND r.wanted_seq = e.seq),
            suspect = e.suspect, suspect_until = coalesce(e.suspect_until, r.suspect_until), guessed = e.guessed,
            failures = e.failures, refusal = e.refusal, wanted_seq = r.wanted_seq + CASE WHEN e.dirty THEN 1 ELSE 0 END
        FROM unnest($2::text[], $3::jsonb[], $4::jsonb[], $5::bigint[], $6::timestamptz[], $7::int[], $8::timestamptz[],
                $9::int[], $10::timestamptz[], $11::bool[], $12::bool[], $13::timestamptz[], $14::bool[], $15::int[],
                $16::text[], $18::bool[], $19::timestamptz[])
            AS e (stock_record, known, attempts, seq, next_at, number, accepted_at, observed, seen_at, approve, suspect,
                suspect_until, guessed, failures, refusal, dirty, until)
        WHERE r.tenant = $1 AND r.stock_record = e.stock_record AND r.claimed_until = e.until
        RETURNING r.stock_record
        """,
        tenant,
        keys,
        [json.dumps(_to_json(each.known)) if each.known else None for each in rows],
        [json.dumps([_to_json(attempt) for attempt in each.attempts]) for each in rows],
        [each.seq for each in rows],
        [each.next_at for each in rows],
        [each.number for each in rows],
        [each.accepted_at for each in rows],
        [each.observed for each in rows],
        [each.seen_at for each in rows],
        [each.approve for each in rows],
        [each.suspect for each in rows],
        [each.suspect_until for each in rows],
        [each.guessed for each in rows],
        [each.failures for each in rows],
        [each.refusal for each in rows],
        now,
        [each.dirty for each in rows],
        [each.until for each in rows],
    )
    held = {row["stock_record"] for row in ended}
    standing = [
        (each.stock_record, ((each.known,) if each.known else ()) + each.attempts)
        for each in rows
        if each.stock_record in held and (each.known or each.attempts)
    ]
    await _remember_unheard(connection, tenant, standing, raise_only=False)


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
        UPDATE stock_records SET wanted_seq = wanted_seq + 1, approved = NULL, next_at = '-infinity'
        WHERE tenant = $1 AND connection_id = $2 AND other_change
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
        SELECT stock_record FROM stock_records WHERE tenant = $1 AND connection_id = $2 AND known IS NOT NULL
            AND NOT suspect AND wanted_seq = accepted_seq AND coalesce(observed_at, '-infinity') < $3
            AND coalesce(accepted_at, '-infinity') < $3 AND (claimed_until IS NULL OR claimed_until < $4)
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
            AND r.wanted_seq = r.accepted_seq AND (r.claimed_until IS NULL OR r.claimed_until < $4)
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


async def prune(connection: Database, before: datetime) -> int:
    """Forget measures and decided own sales from before a moment; returns how many rows went."""
    measured = await connection.execute("DELETE FROM propagation WHERE coalesce(settled_at, received_at) < $1", before)
    sold = await connection.execute(
        "DELETE FROM own_sales WHERE received_at < $1 AND NOT held AND asked <= decided", before
    )
    return int(measured.rpartition(" ")[2]) + int(sold.rpartition(" ")[2])

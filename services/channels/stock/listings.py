"""Listings, what they are linked to, and the stock records behind them. The connection comes first.

The unit of writing is a stock record: one number at a channel. Adverts point to one, many to one.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid5

from services.channels.alerts import Database
from services.channels.ids import NAMESPACE

_IMPORT_ROWS: Final = 50


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


class LinkConflict(ValueError):
    """A stock record cannot be two things; the text says what to do."""


def record_id(tenant: str, connection_id: str, item: str, location: str) -> str:
    """The id of a stock record is derived, so that importing a listing again finds the same record."""
    parts = json.dumps([tenant, connection_id, item, location], ensure_ascii=False, separators=(",", ":"))
    return str(uuid5(NAMESPACE, parts))


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
    wanted = await connection.fetch(
        """
        SELECT r.stock_record, coalesce(c.part ->> 0, r.sku) AS sku,
            sum(r.pack * coalesce((c.part ->> 1)::int, 1))::int AS factor, min(s.factor) IS NULL AS anew
        FROM stock_records r LEFT JOIN items i ON i.tenant = r.tenant AND i.sku = r.sku
            LEFT JOIN LATERAL jsonb_array_elements(i.components) AS c (part) ON true
            LEFT JOIN record_skus s ON s.tenant = r.tenant AND s.stock_record = r.stock_record
                AND s.sku = coalesce(c.part ->> 0, r.sku)
        WHERE r.tenant = $1 AND r.stock_record = ANY($2::text[]) AND r.sku IS NOT NULL
        GROUP BY 1, 2
        """,
        tenant,
        stock_records,
    )
    await _hold_levels(connection, tenant, {row["sku"] for row in wanted if row["anew"]})
    # Sorted like everybody's: the statement that follows deletes and inserts as it comes.
    await connection.execute(
        "SELECT FROM record_skus WHERE tenant = $1 AND stock_record = ANY($2::text[])"
        " ORDER BY tenant, stock_record, sku FOR UPDATE",
        tenant,
        stock_records,
    )
    await connection.execute(
        """
        WITH wanted AS (
            SELECT * FROM unnest($3::text[], $4::text[], $5::int[]) AS w (stock_record, sku, factor)
        ), gone AS (
            DELETE FROM record_skus s WHERE s.tenant = $1 AND s.stock_record = ANY($2::text[])
                AND NOT EXISTS (SELECT FROM wanted w WHERE w.stock_record = s.stock_record AND w.sku = s.sku)
        )
        INSERT INTO record_skus (tenant, stock_record, sku, factor) SELECT $1, * FROM wanted
        ON CONFLICT (tenant, stock_record, sku) DO UPDATE SET factor = excluded.factor
        """,
        tenant,
        stock_records,
        [row["stock_record"] for row in wanted],
        [row["sku"] for row in wanted],
        [row["factor"] for row in wanted],
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


async def _hold_levels(connection: Database, tenant: str, skus: Collection[str]) -> None:
    """Wait for levels of these SKUs that are being taken, and let none be taken until the transaction ends.

    Whoever takes a level dirties the records that take its SKU by then. One that is linked in between would be sent the
    level before, and hear of the new one from nobody.
    """
    waiting = set(skus)
    while waiting:
        held = await connection.fetch(
            "SELECT sku FROM levels WHERE tenant = $1 AND sku = ANY($2::text[]) ORDER BY tenant, sku FOR SHARE",
            tenant,
            sorted(waiting),
        )
        waiting -= {row["sku"] for row in held}
        # Where there is no level yet, its key is taken and given back: a first level waits for that as well.
        keys = await connection.fetch(
            """
            INSERT INTO levels (tenant, sku, epoch, version, counters) SELECT $1, sku, 0, 0, '[]'
            FROM unnest($2::text[]) AS sku ON CONFLICT DO NOTHING RETURNING sku
            """,
            tenant,
            sorted(waiting),
        )
        free = [row["sku"] for row in keys]
        await connection.execute("DELETE FROM levels WHERE tenant = $1 AND sku = ANY($2::text[])", tenant, free)
        waiting -= set(free)


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

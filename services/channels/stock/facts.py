"""What is heard of: own sales of a channel, levels and items of inventory. The connection comes first.

Whoever hears of something changes tallies and appends to `stock_changes`, and takes no lock of a stock record. Locks
are taken in one order by everyone, sorted within a kind: stock records, the level of a SKU, own sales, `record_skus`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, TypeAlias

from contracts.channels.v1 import SaleReported, SaleStatus
from services.bus import array
from services.channels.alerts import Database
from services.channels.stock.wake import Due

_DECIDED_WITHIN: Final = timedelta(seconds=0.5)
LINKS_MAX: Final = 128
"""A span has so many links at most: more causes of a change are not kept."""
OWN_SALES_KEPT: Final = timedelta(days=60)
"""How long own sales are kept after they are decided and no longer held."""
_STILL_RESERVED: Final = frozenset(
    {SaleStatus.PLACED, SaleStatus.AWAITING_PAYMENT, SaleStatus.PAID, SaleStatus.CANCEL_REQUESTED}
)
"""States in which a channel that keeps its own reservations still counts the units of an order as reserved."""

Counters: TypeAlias = tuple[tuple[str, str, int, str | None], ...]
"""Of a SKU's level: (location, pool, available, held_by)."""


@dataclass(frozen=True, slots=True)
class Level:
    """The level of a SKU; `sold` grows with this batch's sales."""

    tenant: str
    sku: str
    epoch: int
    version: int
    counters: Counters
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


_NOTE_OWN_SALES: Final = """
WITH told AS (
    SELECT t.*, s.sku, t.net * s.factor / r.pack AS asked, t.gross * s.factor / r.pack AS lowered,
        r.connection_id, r.restores_on_cancel, o.asked AS asked_before, o.asked_max AS max_before
    FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::int[],
            $6::text::int[], $7::text::bool[],
            $8::text::timestamptz[], $9::text::timestamptz[], $10::text::int[], $14::text::timestamptz[])
        AS t (tenant, stock_record, order_id, line_id, revision, net, held, sold_at, received_at, gross, released_at)
    JOIN stock_records r USING (tenant, stock_record) JOIN record_skus s USING (tenant, stock_record)
    LEFT JOIN own_sales o
        ON (o.tenant, o.order_id, o.line_id, o.sku) = (t.tenant, t.order_id, t.line_id, s.sku)
    -- Of an order that old nothing is kept any more: what is heard of it late is not counted as new.
    WHERE o.revision < t.revision OR o.revision IS NULL AND t.sold_at > $13
), kept AS (
    INSERT INTO own_sales AS o (tenant, order_id, line_id, sku, stock_record, revision, asked, asked_max, held,
        sold_at, received_at, released_at)
    SELECT tenant, order_id, line_id, sku, stock_record, revision, asked, lowered, held, sold_at,
        received_at, released_at FROM told ORDER BY tenant, order_id, line_id, sku
    ON CONFLICT (tenant, order_id, line_id, sku) DO UPDATE SET revision = excluded.revision,
        asked = excluded.asked, asked_max = greatest(o.asked_max, excluded.asked_max), held = excluded.held,
        -- The first time counts: every change of an order that follows is told with a later one.
        released_at = coalesce(o.released_at, excluded.released_at)
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
INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, changed_at, due_at)
SELECT DISTINCT tenant, stock_record, connection_id, 1, false, $11::timestamptz, $12::timestamptz FROM told
"""


async def note_own_sales(
    connection: Database,
    sales: Sequence[tuple[str, SaleReported]],
    now: datetime,
    released: Mapping[str, datetime] = MappingProxyType({}),
) -> None:
    """Keep what stands of a channel's own order lines (tenant, snapshot), in the transaction that publishes them.

    `released` is by order id when a channel stopped to answer for an order's units (`ChannelOrder.released_at`). Counts
    what the channel has lowered by itself (net of cancels that it restores), and dirties the records. A revision
    that is not newer than the kept one changes nothing; lines without a stock record are passed over. One call for all
    orders of a transaction takes its locks sorted.
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
    await connection.execute(
        _NOTE_OWN_SALES,
        array([row[0] for row in rows]),
        array([row[1] for row in rows]),
        array([sale.order_id for _, _, sale, _ in rows]),
        array([line.line_id for _, _, _, line in rows]),
        array([sale.revision for _, _, sale, _ in rows]),
        array(
            [0 if sale.status is SaleStatus.CANCELLED else line.quantity - line.cancelled for _, _, sale, line in rows]
        ),
        array([sale.status in _STILL_RESERVED and sale.order_id not in released for _, _, sale, _ in rows]),
        array([sale.sold_at for _, _, sale, _ in rows]),
        array([sale.received_at for _, _, sale, _ in rows]),
        array([line.quantity for _, _, _, line in rows]),
        now,
        now + _DECIDED_WITHIN,
        now - OWN_SALES_KEPT,
        array([released.get(sale.order_id) for _, _, sale, _ in rows]),
    )


async def lock_levels(
    connection: Database, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[int, int, Counters]]:
    """Lock the levels of (tenant, sku) pairs; those known are returned with epoch, version and counters."""
    rows = await connection.fetch(
        """
        SELECT tenant, sku, epoch, version, counters FROM levels
        WHERE (tenant, sku) IN (SELECT * FROM unnest($1::text::text[], $2::text::text[]))
        ORDER BY tenant, sku FOR UPDATE
        """,
        array([tenant for tenant, _ in keys]),
        array([sku for _, sku in keys]),
    )
    return {
        (row["tenant"], row["sku"]): (
            row["epoch"],
            row["version"],
            tuple((location, pool, units, held_by) for location, pool, units, held_by in json.loads(row["counters"])),
        )
        for row in rows
    }


async def put_levels(connection: Database, levels: Sequence[Level]) -> None:
    """Keep levels that are newer than the kept ones; the caller has locked those."""
    await connection.execute(
        """
        INSERT INTO levels (tenant, sku, epoch, version, counters, sold)
        SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::int[], $4::text::bigint[],
                $5::text::jsonb[], $6::text::bigint[])
        ON CONFLICT (tenant, sku) DO UPDATE SET epoch = excluded.epoch, version = excluded.version,
            counters = excluded.counters, sold = levels.sold + excluded.sold
        """,
        array([level.tenant for level in levels]),
        array([level.sku for level in levels]),
        array([level.epoch for level in levels]),
        array([level.version for level in levels]),
        array([json.dumps(level.counters) for level in levels]),
        array([level.sold for level in levels]),
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
            FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::bigint[])
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
        array([cause.tenant for cause in causes]),
        array([cause.order_id for cause in causes]),
        array([cause.line_id for cause in causes]),
        array([cause.sku for cause in causes]),
        array([cause.units for cause in causes]),
    )


async def open_propagation(connection: Database, causes: Sequence[SaleCause]) -> None:
    """A measure row for each sale and record that it has to reach: not the selling one, and none never written."""
    await connection.execute(
        """
        INSERT INTO propagation (tenant, sku, epoch, version, order_id, line_id, sale_revision, outcome,
            sold_connection_id, sold_at, received_at, event_id, correlation_id, traceparent, stock_record)
        SELECT c.*, s.stock_record
        FROM unnest($1::text::text[], $2::text::text[], $3::text::int[], $4::text::bigint[], $5::text::text[],
                $6::text::text[], $7::text::int[], $8::text::text[],
                $9::text::text[], $10::text::timestamptz[], $11::text::timestamptz[], $12::text::text[],
                $13::text::text[], $14::text::text[])
            AS c (tenant, sku, epoch, version, order_id, line_id, sale_revision, outcome, sold_connection_id, sold_at,
                received_at, event_id, correlation_id, traceparent)
        JOIN record_skus s USING (tenant, sku) JOIN stock_records r USING (tenant, stock_record)
        LEFT JOIN own_sales o ON o.tenant = c.tenant AND o.order_id = c.order_id AND o.line_id = c.line_id
            AND o.sku = c.sku
        WHERE r.known IS NOT NULL AND o.stock_record IS DISTINCT FROM s.stock_record
        ON CONFLICT DO NOTHING
        """,
        array([cause.tenant for cause in causes]),
        array([cause.sku for cause in causes]),
        array([cause.epoch for cause in causes]),
        array([cause.version for cause in causes]),
        array([cause.order_id for cause in causes]),
        array([cause.line_id for cause in causes]),
        array([cause.sale_revision for cause in causes]),
        array([cause.outcome for cause in causes]),
        array([cause.connection_id for cause in causes]),
        array([cause.sold_at for cause in causes]),
        array([cause.received_at for cause in causes]),
        array([cause.event_id for cause in causes]),
        array([cause.correlation_id for cause in causes]),
        array([cause.traceparent for cause in causes]),
    )


async def dirty_consumers(
    connection: Database, changes: Sequence[Change], low_stock: int, now: datetime
) -> list[tuple[Due, datetime]]:
    """Dirty every record that takes a changed SKU; returns the lanes that have something to do, and from when on: the
    urgent one for records of which little is left.
    """
    rows = await connection.fetch(
        """
        WITH consumers AS MATERIALIZED (
            SELECT s.tenant, s.stock_record, r.connection_id, r.next_at, c.causes, NOT c.sales_only AS other,
                CASE WHEN (c.available - r.buffer) / s.factor <= $7 THEN 0 ELSE 1 END AS lane
            FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::bool[], $5::text::text[])
                AS c (tenant, sku, available, sales_only, causes)
            JOIN record_skus s USING (tenant, sku) JOIN stock_records r USING (tenant, stock_record)
        ), dirtied AS (
            INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, causes, changed_at)
            SELECT tenant, stock_record, connection_id, lane, other, causes, $6 FROM consumers
        )
        SELECT DISTINCT connection_id, lane, greatest(next_at, $6) AS due_at FROM consumers
        """,
        array([change.tenant for change in changes]),
        array([change.sku for change in changes]),
        array([change.available for change in changes]),
        array([change.sales_only for change in changes]),
        array([json.dumps(change.causes) for change in changes]),
        now,
        low_stock,
    )
    return [((row["connection_id"], row["lane"]), row["due_at"]) for row in rows]


async def put_items(
    connection: Database, items: Sequence[tuple[str, str, int, int, Sequence[tuple[str, int]]]]
) -> list[tuple[str, str]]:
    """Keep (tenant, sku, epoch, version, components) where newer; returns (tenant, sku) whose components changed."""
    rows = await connection.fetch(
        """
        WITH told AS (
            SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::int[], $4::text::bigint[],
                    $5::text::jsonb[])
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
        array([item[0] for item in items]),
        array([item[1] for item in items]),
        array([item[2] for item in items]),
        array([item[3] for item in items]),
        array([json.dumps(item[4]) for item in items]),
    )
    return [(row["tenant"], row["sku"]) for row in rows]


async def lock_records_of_items(connection: Database, keys: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Lock the records linked to these (tenant, sku); their ids by tenant."""
    rows = await connection.fetch(
        """
        SELECT tenant, stock_record FROM stock_records
        WHERE (tenant, sku) IN (SELECT * FROM unnest($1::text::text[], $2::text::text[]))
        ORDER BY tenant, stock_record FOR UPDATE
        """,
        array([tenant for tenant, _ in keys]),
        array([sku for _, sku in keys]),
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["tenant"], []).append(row["stock_record"])
    return found

"""The SQL of fulfillment: one function a statement, the connection first."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

import asyncpg
from pydantic import TypeAdapter

from contracts.fulfillment.v1 import DeliveryOption, DeliveryQuoted, QuoteDelivery
from contracts.inventory.v1 import ItemChanged
from services.bus import Cause, columns
from services.fulfillment.carriers.carrier import Account
from services.fulfillment.domain import Shipment
from services.fulfillment.labels import Place
from services.fulfillment.mapping import NameMapping, folded
from services.fulfillment.packing import Item
from services.fulfillment.rates import Quote, Rate

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
Reader: TypeAlias = "Connection | asyncpg.Pool[asyncpg.Record]"
Key: TypeAlias = tuple[str, str]
"""Tenant and id."""

FOLLOWED: Final = ("labelled", "dispatched", "in_transit", "lost", "returning")
"""States in which the carrier may have news."""

_shipment: Final = TypeAdapter(Shipment)
_place: Final = TypeAdapter(Place)
_options: Final = TypeAdapter(tuple[DeliveryOption, ...])


@dataclass(frozen=True, slots=True)
class Buyer:
    """What is known of an order's buyer without opening it."""

    sale_revision: int | None
    heard_at: datetime | None
    erased_at: datetime | None


def _columns(keys: Iterable[Key]) -> list[str]:
    return columns(sorted(set(keys)), 2)


async def lock_orders(connection: Connection, keys: Collection[Key]) -> dict[Key, Buyer]:
    """Lock these orders, in one order for all, and make known those that are not; their buyers."""
    wanted = _columns(keys)
    await connection.execute(
        "INSERT INTO buyers (tenant, order_id) SELECT * FROM unnest($1::text::text[], $2::text::text[]) ORDER BY 1, 2"
        " ON CONFLICT DO NOTHING",
        *wanted,
    )
    rows = await connection.fetch(
        "SELECT tenant, order_id, sale_revision, heard_at, erased_at FROM buyers"
        " JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, order_id) USING (tenant, order_id)"
        " ORDER BY tenant, order_id FOR UPDATE OF buyers",
        *wanted,
    )
    return {
        (row["tenant"], row["order_id"]): Buyer(row["sale_revision"], row["heard_at"], row["erased_at"]) for row in rows
    }


async def shipments_of(connection: Connection, orders: Collection[Key]) -> dict[Key, Shipment]:
    """Every shipment of these orders, which are locked."""
    rows = await connection.fetch(
        "SELECT tenant, shipment_id, body FROM shipments"
        " JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, order_id) USING (tenant, order_id)"
        " ORDER BY tenant, shipment_id",
        *_columns(orders),
    )
    return {(row["tenant"], row["shipment_id"]): _shipment.validate_json(row["body"]) for row in rows}


def read(row: asyncpg.Record) -> Shipment:
    """A shipment from its row."""
    return _shipment.validate_json(row["body"])


def work_of(shipment: Shipment) -> str | None:
    """What a carrier is to be asked about this shipment now: for a `label`, to `stop` it, or nothing."""
    if shipment.state == "stopping":
        return "stop"
    return "label" if shipment.awaits_label or shipment.state == "buying" else None


async def save_shipments(
    connection: Connection,
    shipments: Mapping[Key, Shipment],
    causes: Mapping[Key, Cause],
    now: datetime,
    look_at: datetime,
) -> None:
    """Write these shipments, each with the newest cause of what is done for it later; those that are under way are
    looked for at `look_at`, if not sooner."""
    rows = []
    for (tenant, shipment_id), one in sorted(shipments.items()):
        label, prepare, work = one.label, one.prepare, work_of(one)
        rows.append(
            (
                tenant,
                shipment_id,
                one.order_id,
                one.state,
                one.version,
                prepare is not None and prepare.invoice_required,
                prepare.invoice_key if prepare else None,
                label.carrier if label else one.carrier,
                label.tracking_code if label else "",
                prepare is not None and not one.is_named and not one.cancelled,
                one.blocked,
                work,
                now if work else None,
                list(causes[tenant, shipment_id]),
                _shipment.dump_json(one).decode(),
                now,
                label.provider if label else "",
                label.reference if label else "",
                look_at if one.state in FOLLOWED else None,
            )
        )
    await connection.executemany(
        """
        INSERT INTO shipments (tenant, shipment_id, order_id, state, version, invoice_required, invoice_key, carrier,
            tracking_code, unmapped, blocked, work, due_at, cause, body, changed_at, provider, reference, look_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
        ON CONFLICT (tenant, shipment_id) DO UPDATE SET
            state = excluded.state, version = excluded.version, invoice_required = excluded.invoice_required,
            invoice_key = excluded.invoice_key, carrier = excluded.carrier, tracking_code = excluded.tracking_code,
            unmapped = excluded.unmapped, blocked = excluded.blocked, work = excluded.work,
            -- Work that is under way keeps its time, which is also the claim on it.
            due_at = CASE WHEN shipments.work = excluded.work THEN shipments.due_at ELSE excluded.due_at END,
            cause = excluded.cause, body = excluded.body, changed_at = excluded.changed_at, tried = '',
            provider = excluded.provider, reference = excluded.reference,
            look_at = coalesce(shipments.look_at, excluded.look_at)
        """,
        rows,
    )


async def put_buyers(
    connection: Connection, rows: Sequence[tuple[str, str, str, int, datetime, bytes]], erase_at: datetime
) -> None:
    """Keep these buyers: tenant, order, reference, revision of the sale, when it was said, sealed.

    They go at `erase_at`, if it is not to be sooner: not every order gets a parcel that ends.
    """
    await connection.executemany(
        "UPDATE buyers SET customer_ref = $3, sale_revision = $4, heard_at = $5, sealed = $6, ask_at = NULL,"
        " erase_at = coalesce(erase_at, $7) WHERE tenant = $1 AND order_id = $2",
        [(*row, erase_at) for row in rows],
    )


async def set_reminders(
    connection: Connection,
    rows: Sequence[tuple[str, str, datetime | None, datetime | None, list[str]]],
    now: datetime,
) -> None:
    """When the buyer of each order is asked for (None: not at all), when it goes (None: as before), and why.

    One that was to go already, and was kept for an open parcel alone, goes.
    """
    await connection.executemany(
        "UPDATE buyers SET ask_at = CASE WHEN $3::timestamptz IS NULL THEN NULL ELSE coalesce(ask_at, $3) END,"
        " erase_at = CASE WHEN erase_at <= $6 THEN erase_at ELSE coalesce($4::timestamptz, erase_at) END, cause = $5"
        " WHERE tenant = $1 AND order_id = $2",
        [(*row, now) for row in rows],
    )


async def claim_to_ask(connection: Connection, now: datetime, again: datetime, page: int) -> list[asyncpg.Record]:
    """Orders whose buyer is to be asked for now; each comes up once more at `again`."""
    return await connection.fetch(
        """
        UPDATE buyers SET ask_at = $2
        WHERE (tenant, order_id) IN (
            SELECT tenant, order_id FROM buyers WHERE ask_at <= $1 ORDER BY ask_at LIMIT $3 FOR UPDATE SKIP LOCKED
        )
        RETURNING tenant, order_id, cause
        """,
        now,
        again,
        page,
    )


async def mark_for_erasure(connection: Connection, keys: Collection[Key], now: datetime) -> None:
    """These buyers go as soon as no parcel of theirs is open."""
    await connection.execute(
        "UPDATE buyers SET erase_at = $3 FROM unnest($1::text::text[], $2::text::text[]) AS gone (tenant, order_id)"
        " WHERE buyers.tenant = gone.tenant AND buyers.order_id = gone.order_id",
        *_columns(keys),
        now,
    )


_DUE_TO_GO: Final = """
    SELECT tenant, order_id FROM buyers WHERE erase_at <= $1 AND NOT EXISTS (
        SELECT FROM shipments WHERE shipments.tenant = buyers.tenant AND shipments.order_id = buyers.order_id
            AND state NOT IN ('lost', 'delivered', 'returned', 'cancelled')
            AND (state NOT IN ('dispatched', 'in_transit', 'returning') OR changed_at > $1 - interval '180 days')
    )
    ORDER BY erase_at LIMIT $2 """
"""Buyers whose time has come and that no open parcel needs: one that is away and silent for half a year is not."""


async def due_to_go(connection: Connection, now: datetime, page: int) -> list[str]:
    """Orders whose buyers are about to be erased."""
    return [row["order_id"] for row in await connection.fetch(_DUE_TO_GO, now, page)]


async def erase_due(connection: Connection, now: datetime, page: int) -> int:
    """Erase the buyers, and their labels, whose time has come and that no open parcel needs; how many."""
    return len(
        await connection.fetch(
            f"""
            WITH gone AS (
                UPDATE buyers SET customer_ref = '', sale_revision = NULL, heard_at = NULL, sealed = NULL,
                    erase_at = NULL, erased_at = erase_at
                WHERE (tenant, order_id) IN ({_DUE_TO_GO} FOR UPDATE SKIP LOCKED)
                RETURNING tenant, order_id
            ),
            torn AS (
                DELETE FROM labels USING gone WHERE labels.tenant = gone.tenant AND labels.order_id = gone.order_id
            )
            SELECT FROM gone
            """,  # noqa: S608 - of constants alone
            now,
            page,
        )
    )


async def put_items(connection: Connection, items: Mapping[Key, ItemChanged]) -> None:
    """Keep the measures of these items where they are newer than what is kept."""
    await connection.executemany(
        """
        INSERT INTO items (tenant, sku, epoch, version, weight_g, dimensions_mm, components)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (tenant, sku) DO UPDATE SET epoch = excluded.epoch, version = excluded.version,
            weight_g = excluded.weight_g, dimensions_mm = excluded.dimensions_mm, components = excluded.components
        WHERE (items.epoch, items.version) < (excluded.epoch, excluded.version)
        """,
        [
            (
                tenant,
                sku,
                item.epoch,
                item.version,
                item.weight_g,
                list(item.dimensions_mm) if item.dimensions_mm else None,
                json.dumps({part.sku: part.quantity for part in item.components}),
            )
            for (tenant, sku), item in sorted(items.items())
        ],
    )


async def read_items(connection: Connection, keys: Collection[Key]) -> dict[Key, Item]:
    """What is known of these items and of what they are made of."""
    rows = await connection.fetch(
        """
        WITH wanted AS (SELECT * FROM unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, sku)),
        parts AS (
            SELECT items.tenant, part AS sku FROM items JOIN wanted USING (tenant, sku), jsonb_object_keys(components)
                AS part
            UNION SELECT * FROM wanted
        )
        SELECT items.* FROM items JOIN parts USING (tenant, sku)
        """,
        *_columns(keys),
    )
    return {(row["tenant"], row["sku"]): _item(row) for row in rows}


def _item(row: asyncpg.Record) -> Item:
    size: Any = row["dimensions_mm"]
    return Item(row["weight_g"], tuple(size) if size else None, json.loads(row["components"]))


async def read_mappings(connection: Connection, tenants: Collection[str]) -> dict[str, list[NameMapping]]:
    """What people have said of names, by tenant."""
    rows = await connection.fetch(
        "SELECT tenant, kind, given, ours, connection_id FROM mappings WHERE tenant = ANY($1::text[]) ORDER BY 1, 2, 3",
        list(tenants),
    )
    found: dict[str, list[NameMapping]] = {}
    for tenant, *rest in rows:
        found.setdefault(tenant, []).append(NameMapping(*rest))
    return found


async def put_mapping(connection: Connection, tenant: str, mapping: NameMapping) -> None:
    """Say what a name means; the newest word counts."""
    await connection.execute(
        "INSERT INTO mappings (tenant, kind, connection_id, given, ours) VALUES ($1, $2, $3, $4, $5)"
        " ON CONFLICT (tenant, kind, connection_id, given) DO UPDATE SET ours = excluded.ours",
        tenant,
        mapping.kind,
        mapping.connection_id,
        folded(mapping.given),
        mapping.ours,
    )


async def held(connection: Connection, tenant: str) -> list[asyncpg.Record]:
    """Shipments that wait for a name's meaning, or for what a carrier refused, and why each is there."""
    return await connection.fetch(
        "SELECT tenant, order_id, shipment_id, cause FROM shipments WHERE tenant = $1 AND (unmapped OR blocked <> '')"
        " ORDER BY shipment_id",
        tenant,
    )


async def claim_due(connection: Connection, now: datetime, until: datetime, page: int) -> list[asyncpg.Record]:
    """Shipments that a carrier is to be asked about now, claimed `until` then."""
    return await connection.fetch(
        """
        UPDATE shipments SET due_at = $2
        WHERE (tenant, shipment_id) IN (
            SELECT tenant, shipment_id FROM shipments WHERE due_at <= $1 ORDER BY due_at LIMIT $3
            FOR UPDATE SKIP LOCKED
        )
        RETURNING tenant, order_id, shipment_id, cause, tried
        """,
        now,
        until,
        page,
    )


async def put_off(connection: Connection, rows: Sequence[tuple[str, str, datetime, str]]) -> None:
    """What is to be done for these shipments is done then: tenant, shipment, when, the span of what was tried now."""
    await connection.executemany(
        "UPDATE shipments SET due_at = $3, tried = $4 WHERE tenant = $1 AND shipment_id = $2 AND work IS NOT NULL", rows
    )


async def last_calls(connection: Connection, keys: Collection[Key]) -> dict[Key, asyncpg.Record]:
    """The newest call about each of these shipments, where there is one."""
    rows = await connection.fetch(
        "SELECT DISTINCT ON (tenant, shipment_id) carrier_calls.* FROM carrier_calls"
        " JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, shipment_id) USING (tenant, shipment_id)"
        " ORDER BY tenant, shipment_id, n DESC",
        *_columns(keys),
    )
    return {(row["tenant"], row["shipment_id"]): row for row in rows}


async def begin_calls(
    connection: Connection, calls: Mapping[Key, tuple[str, Quote]], now: datetime
) -> dict[Key, asyncpg.Record]:
    """New calls about these shipments, each at a provider for a service, under way from now on."""
    rows = await connection.fetch(
        """
        INSERT INTO carrier_calls (tenant, shipment_id, n, provider, carrier, service, option, state, begun_at)
        SELECT tenant, shipment_id,
            (SELECT coalesce(max(n), 0) + 1 FROM carrier_calls AS before
                WHERE before.tenant = new.tenant AND before.shipment_id = new.shipment_id),
            provider, carrier, service, option, 'going', $7
        FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::text[],
            $6::text::text[]) AS new (tenant, shipment_id, provider, carrier, service, option)
        ORDER BY tenant, shipment_id
        RETURNING *
        """,
        *columns([(*key, provider, one.carrier, one.service, one.option) for key, (provider, one) in calls.items()], 6),
        now,
    )
    return {(row["tenant"], row["shipment_id"]): row for row in rows}


async def end_calls(connection: Connection, ends: Sequence[tuple[str, str, str]], now: datetime) -> None:
    """The calls that are under way came to this: tenant, shipment, state."""
    await connection.execute(
        """
        UPDATE carrier_calls SET state = ended.state, ended_at = $4
        FROM unnest($1::text::text[], $2::text::text[], $3::text::text[]) AS ended (tenant, shipment_id, state)
        WHERE carrier_calls.tenant = ended.tenant AND carrier_calls.shipment_id = ended.shipment_id
            AND carrier_calls.state = 'going'
        """,
        *columns(ends, 3),
        now,
    )


async def put_labels(connection: Connection, labels: Sequence[tuple[str, str, str, str, bytes]], now: datetime) -> None:
    """Keep labels: tenant, label, order, format and the label, sealed; the `fields` of one of ours, or the `pdf` of a
    carrier's."""
    await connection.executemany(
        "INSERT INTO labels (tenant, label_id, order_id, format, sealed, made_at) VALUES ($1, $2, $3, $4, $5, $6)",
        [(*label, now) for label in labels],
    )


async def read_label(connection: Connection, tenant: str, label_id: str) -> tuple[str, bytes] | None:
    """A label as it is kept, its format and itself sealed; None where there is none any more."""
    row = await connection.fetchrow(
        "SELECT format, sealed FROM labels WHERE tenant = $1 AND label_id = $2", tenant, label_id
    )
    return None if row is None else (row["format"], row["sealed"])


async def read_buyers(connection: Connection, keys: Collection[Key]) -> dict[Key, bytes]:
    """The buyers of these orders as they are kept, sealed; without those that are not there."""
    rows = await connection.fetch(
        "SELECT tenant, order_id, sealed FROM buyers"
        " JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, order_id) USING (tenant, order_id)"
        " WHERE sealed IS NOT NULL",
        *_columns(keys),
    )
    return {(row["tenant"], row["order_id"]): row["sealed"] for row in rows}


async def read_origins(connection: Connection, keys: Collection[Key]) -> dict[Key, Place]:
    """The companies' own addresses of locations, by tenant and location."""
    rows = await connection.fetch(
        "SELECT tenant, location, place FROM origins"
        " JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, location) USING (tenant, location)",
        *_columns(keys),
    )
    return {(row["tenant"], row["location"]): _place.validate_json(row["place"]) for row in rows}


async def first_origin(connection: Connection, tenant: str) -> Place | None:
    """Where a parcel leaves from while nobody knows which location has the goods: the first by name."""
    found = await connection.fetchval("SELECT place FROM origins WHERE tenant = $1 ORDER BY location LIMIT 1", tenant)
    return None if found is None else _place.validate_json(found)


async def put_origin(connection: Connection, tenant: str, location: str, place: Place) -> None:
    """Say where a location is."""
    await connection.execute(
        "INSERT INTO origins (tenant, location, place) VALUES ($1, $2, $3)"
        " ON CONFLICT (tenant, location) DO UPDATE SET place = excluded.place",
        tenant,
        location,
        _place.dump_json(place).decode(),
    )


async def read_rates(connection: Connection, tenants: Collection[str]) -> dict[str, list[Rate]]:
    """The companies' own rates; of each that was asked for, if only none."""
    rows = await connection.fetch(
        "SELECT tenant, carrier, service, from_code, to_code, up_to_g, price_minor, currency, days_min, days_max"
        " FROM rates WHERE tenant = ANY($1::text[])",
        list(tenants),
    )
    found: dict[str, list[Rate]] = {tenant: [] for tenant in tenants}
    for tenant, *rest in rows:
        found[tenant].append(Rate(*rest))
    return found


async def put_rates(connection: Connection, tenant: str, rates: Iterable[Rate]) -> None:
    """Put these rates in the place of all of their services, whose old ones go."""
    rows = list(rates)
    await connection.execute(
        "DELETE FROM rates USING unnest($2::text::text[], $3::text::text[]) AS gone (carrier, service)"
        " WHERE rates.tenant = $1 AND rates.carrier = gone.carrier AND rates.service = gone.service",
        tenant,
        *_columns((one.carrier, one.service) for one in rows),
    )
    await connection.executemany(
        "INSERT INTO rates (tenant, carrier, service, from_code, to_code, up_to_g, price_minor, currency, days_min,"
        " days_max) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        [
            (tenant, one.carrier, one.service, one.from_code, one.to_code, one.up_to_g, one.price_minor, one.currency,
             one.days_min, one.days_max)
            for one in rows
        ],
    )  # fmt: skip


async def list_shipments(
    connection: Connection, tenant: str, state: str | None, after: str, limit: int
) -> list[asyncpg.Record]:
    """A page of shipments by id."""
    return await connection.fetch(
        "SELECT shipment_id, unmapped, work, changed_at, body FROM shipments"
        " WHERE tenant = $1 AND ($2::text IS NULL OR state = $2) AND shipment_id > $3 ORDER BY shipment_id LIMIT $4",
        tenant,
        state,
        after,
        limit,
    )


async def find_shipment(connection: Connection, tenant: str, shipment_id: str) -> asyncpg.Record | None:
    """One shipment."""
    return await connection.fetchrow(
        "SELECT shipment_id, unmapped, work, changed_at, cause, body FROM shipments"
        " WHERE tenant = $1 AND shipment_id = $2",
        tenant,
        shipment_id,
    )


async def put_quotes(
    connection: Connection, asked: Sequence[tuple[str, QuoteDelivery, Cause, datetime | None]], now: datetime
) -> None:
    """Keep these questions: company, question, cause, and when it can be worked on (None: once the buyer is there)."""
    await connection.executemany(
        "INSERT INTO quotes (tenant, quote_id, order_id, body, cause, asked_at, due_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        [
            (tenant, one.quote_id, one.order_id, one.model_dump_json(), list(cause), now, due_at)
            for tenant, one, cause, due_at in asked
        ],
    )


async def quote_now(connection: Connection, orders: Collection[Key], now: datetime) -> bool:
    """The buyers of these orders are known: their open questions can be worked on, unless they wait for a newer one.
    False where there is none."""
    status = await connection.execute(
        """
        UPDATE quotes SET due_at = $3 FROM buyers
        JOIN unnest($1::text::text[], $2::text::text[]) AS known (tenant, order_id) USING (tenant, order_id)
        WHERE quotes.tenant = buyers.tenant AND quotes.order_id = buyers.order_id AND options IS NULL
            AND due_at IS NULL AND sale_revision >= (body ->> 'sale_revision')::integer
        """,
        *_columns(orders),
        now,
    )
    return status != "UPDATE 0"


async def claim_quotes(connection: Connection, now: datetime, until: datetime, page: int) -> list[asyncpg.Record]:
    """Questions that can be answered now, claimed `until` then."""
    return await connection.fetch(
        """
        UPDATE quotes SET due_at = $2
        WHERE (tenant, quote_id) IN (
            SELECT tenant, quote_id FROM quotes WHERE due_at <= $1 ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED
        )
        RETURNING tenant, quote_id, body, cause
        """,
        now,
        until,
        page,
    )


async def answer_quote(connection: Connection, tenant: str, quoted: DeliveryQuoted) -> bool:
    """Keep the answer; False where there is one already."""
    status = await connection.execute(
        "UPDATE quotes SET options = $3, due_at = NULL WHERE tenant = $1 AND quote_id = $2 AND options IS NULL",
        tenant,
        quoted.quote_id,
        _options.dump_json(quoted.options).decode(),
    )
    return status == "UPDATE 1"


async def offered(connection: Connection, orders: Collection[Key]) -> dict[Key, set[tuple[str, str]]]:
    """Carriers and services that were offered to the buyers of these orders, in our words."""
    rows = await connection.fetch(
        "SELECT tenant, order_id, options FROM quotes"
        " JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, order_id) USING (tenant, order_id)"
        " WHERE options IS NOT NULL",
        *_columns(orders),
    )
    found: dict[Key, set[tuple[str, str]]] = {}
    for row in rows:
        words = {(one.carrier, one.service) for one in _options.validate_json(row["options"])}
        found.setdefault((row["tenant"], row["order_id"]), set()).update(words)
    return found


async def forget_quotes(connection: Connection, before: datetime) -> None:
    """Delete questions from before then."""
    await connection.execute("DELETE FROM quotes WHERE asked_at < $1", before)


async def claim_looks(connection: Connection, now: datetime, until: datetime, page: int) -> list[asyncpg.Record]:
    """Parcels that their carriers are to be asked about now, claimed `until` then."""
    return await connection.fetch(
        """
        UPDATE shipments SET look_at = $2
        WHERE (tenant, shipment_id) IN (
            SELECT tenant, shipment_id FROM shipments WHERE look_at <= $1 ORDER BY look_at LIMIT $3
            FOR UPDATE SKIP LOCKED
        )
        RETURNING tenant, order_id, shipment_id, provider, reference, cause, look_at
        """,
        now,
        until,
        page,
    )


async def looked(
    connection: Connection, tenant: str, rows: Sequence[asyncpg.Record], again: datetime | None, oldest: datetime
) -> None:
    """These parcels were asked about: `again` while they are under way and something has changed since `oldest`.

    One of which news came while it was asked about is asked about at once.
    """
    await connection.execute(
        """
        UPDATE shipments SET look_at = CASE WHEN state = ANY($5::text[]) AND changed_at >= $6 THEN $4::timestamptz END
        FROM unnest($2::text[], $3::timestamptz[]) AS asked (shipment_id, claimed)
        WHERE tenant = $1 AND shipments.shipment_id = asked.shipment_id AND look_at = claimed
        """,
        tenant,
        [row["shipment_id"] for row in rows],
        [row["look_at"] for row in rows],
        again,
        list(FOLLOWED),
        oldest,
    )


async def named(
    connection: Connection, parcels: Collection[tuple[str, str, str]]
) -> dict[tuple[str, str, str], list[Cause]]:
    """Why the parcels (tenant, provider, reference) that webhooks name last changed; without those nobody knows."""
    rows = await connection.fetch(
        "SELECT tenant, provider, reference, cause FROM shipments"
        " JOIN unnest($1::text::text[], $2::text::text[], $3::text::text[]) AS told (tenant, provider, reference)"
        " USING (tenant, provider, reference) ORDER BY tenant, shipment_id",
        *columns(sorted(set(parcels)), 3),
    )
    found: dict[tuple[str, str, str], list[Cause]] = {}
    for row in rows:
        found.setdefault((row["tenant"], row["provider"], row["reference"]), []).append(Cause(*row["cause"]))
    return found


async def hint(connection: Connection, parcels: Mapping[tuple[str, str, str], str], now: datetime) -> None:
    """There is news of these parcels, each heard in the span of this traceparent; of another trace they keep theirs."""
    await connection.execute(
        """
        WITH told AS (
            SELECT tenant, shipment_id, news.traceparent FROM shipments
            JOIN unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[])
                AS news (tenant, provider, reference, traceparent) USING (tenant, provider, reference)
            ORDER BY tenant, shipment_id FOR UPDATE OF shipments
        )
        UPDATE shipments SET look_at = $5,
            cause[3] = CASE WHEN left(cause[3], 36) = left(told.traceparent, 36) THEN told.traceparent ELSE cause[3] END
        FROM told WHERE shipments.tenant = told.tenant AND shipments.shipment_id = told.shipment_id
        """,
        *columns([(*parcel, traceparent) for parcel, traceparent in parcels.items()], 4),
        now,
    )


async def follow(connection: Connection, tenant: str, provider: str, now: datetime) -> None:
    """Every parcel that is under way with this carrier is asked about: there is a new account."""
    await connection.execute(
        "UPDATE shipments SET look_at = $3 WHERE tenant = $1 AND provider = $2 AND state = ANY($4::text[])",
        tenant,
        provider,
        now,
        list(FOLLOWED),
    )


_ACCOUNTS: Final = """
    SELECT carrier_accounts.*, ARRAY(SELECT field FROM carrier_credentials AS c WHERE c.account_id =
            carrier_accounts.account_id ORDER BY field) AS fields,
        ARRAY(SELECT sealed FROM carrier_credentials AS c WHERE c.account_id = carrier_accounts.account_id
            ORDER BY field) AS sealed
    FROM carrier_accounts """


async def live_accounts(reader: Reader, tenant: str) -> list[asyncpg.Record]:
    """The accounts of a company that are in use, each with the `fields` of its credentials and these `sealed`."""
    return await reader.fetch(_ACCOUNTS + "WHERE tenant = $1 AND state = 'live'", tenant)


async def read_account(reader: Reader, account_id: str) -> asyncpg.Record | None:
    """One account, with the same."""
    return await reader.fetchrow(_ACCOUNTS + "WHERE account_id = $1", account_id)


async def list_accounts(connection: Connection, tenant: str) -> list[asyncpg.Record]:
    """What may be shown of a company's accounts."""
    return await connection.fetch(
        "SELECT account_id, carrier, environment, base_url, state FROM carrier_accounts WHERE tenant = $1"
        " ORDER BY carrier, account_id",
        tenant,
    )


async def put_account(connection: Connection, account: Account) -> None:
    """Keep an account as the one of its company that is in use at its carrier."""
    await connection.execute(
        "UPDATE carrier_accounts SET state = 'paused' WHERE tenant = $1 AND carrier = $2 AND account_id <> $3",
        account.tenant,
        account.carrier,
        account.account_id,
    )
    await connection.execute(
        """
        INSERT INTO carrier_accounts (account_id, tenant, carrier, environment, base_url, settings)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (account_id) DO UPDATE SET settings = excluded.settings, state = 'live', renewing_until = NULL
        """,
        account.account_id,
        account.tenant,
        account.carrier,
        account.environment,
        account.base_url.rstrip("/"),
        json.dumps(dict(account.settings)),
    )


async def put_credentials(connection: Connection, account_id: str, sealed: Mapping[str, bytes]) -> None:
    """Keep these credentials of an account; others stay."""
    await connection.executemany(
        "INSERT INTO carrier_credentials (account_id, field, sealed) VALUES ($1, $2, $3)"
        " ON CONFLICT (account_id, field) DO UPDATE SET sealed = excluded.sealed",
        [(account_id, name, value) for name, value in sealed.items()],
    )


async def claim_renewal(reader: Reader, account_id: str, lease_s: float) -> bool:
    """Whether it is ours to ask for new tokens now."""
    status = await reader.execute(
        "UPDATE carrier_accounts SET renewing_until = now() + make_interval(secs => $2)"
        " WHERE account_id = $1 AND (renewing_until IS NULL OR renewing_until < now())",
        account_id,
        lease_s,
    )
    return status == "UPDATE 1"


async def end_renewal(reader: Reader, account_id: str) -> None:
    """The new tokens are kept."""
    await reader.execute("UPDATE carrier_accounts SET renewing_until = NULL WHERE account_id = $1", account_id)

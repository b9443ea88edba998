"""What a shop of ours sells and how much of it it shows, with every change of a number in order.

Whoever changes numbers takes `lock` first and `save` last, in one transaction, after the rows of baskets.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, final

from services.bus import array
from services.channels.alerts import Database

Kind = Literal["write", "sale", "cancel"]


@final
@dataclass(slots=True)
class Product:
    """A product on sale and the number that the shop shows of it."""

    sku: str
    title: str
    price_minor: int
    quantity: int


@final
@dataclass(frozen=True, slots=True)
class Change:
    """A number that changed: pushed (`write`, with the push's `request_id`), or by a basket's line."""

    connection_id: str
    position: int
    kind: Kind
    sku: str
    number_before: int
    number_after: int
    external_id: str
    line_id: str
    request_id: str
    price_minor: int


@final
@dataclass(slots=True)
class Shelf:
    """Locked products by (connection, sku) with the changes made to their numbers, not yet saved."""

    products: dict[tuple[str, str], Product]
    positions: dict[str, int]
    changes: list[Change] = field(default_factory=list)

    def shown(self, connection_id: str, skus: Iterable[str]) -> dict[str, int]:
        """The numbers of these products; those that are not sold are left out."""
        return {sku: found.quantity for sku in skus if (found := self.products.get((connection_id, sku)))}

    def set(
        self,
        kind: Kind,
        connection_id: str,
        sku: str,
        number: int,
        *,
        external_id: str = "",
        line_id: str = "",
        request_id: str = "",
        price_minor: int = 0,
    ) -> None:
        """Show another number of a product that is there."""
        product = self.products[connection_id, sku]
        position = self.positions[connection_id] = self.positions[connection_id] + 1
        self.changes.append(
            Change(
                connection_id, position, kind, sku, product.quantity, number, external_id, line_id, request_id,
                price_minor,
            )
        )  # fmt: skip
        product.quantity = number


async def lock(connection: Database, wanted: Iterable[tuple[str, str]]) -> Shelf:
    """Lock the numbers of these (connection, sku), and let no other change of these shops pass by."""
    keys = sorted(set(wanted))
    shops = sorted({connection_id for connection_id, _ in keys})
    await connection.execute(
        "INSERT INTO shop_feeds (connection_id, position) SELECT shop, 0 FROM unnest($1::text::text[]) AS shop"
        " ON CONFLICT DO NOTHING",
        array(shops),
    )
    feeds = await connection.fetch(
        "SELECT connection_id, position FROM shop_feeds WHERE connection_id = ANY($1::text::text[])"
        " ORDER BY connection_id FOR UPDATE",
        array(shops),
    )
    rows = await connection.fetch(
        """
        SELECT p.connection_id, p.sku, p.title, p.price_minor, p.quantity FROM shop_products p
        JOIN unnest($1::text::text[], $2::text::text[]) AS w (connection_id, sku) USING (connection_id, sku)
        ORDER BY p.connection_id, p.sku FOR UPDATE OF p
        """,
        array([connection_id for connection_id, _ in keys]),
        array([sku for _, sku in keys]),
    )
    products = {
        (row["connection_id"], row["sku"]): Product(row["sku"], row["title"], row["price_minor"], row["quantity"])
        for row in rows
    }
    return Shelf(products, {row["connection_id"]: row["position"] for row in feeds})


async def save(connection: Database, shelf: Shelf, now: datetime) -> None:
    """Write back the numbers that changed, with their changes."""
    if not shelf.changes:
        return
    changed = sorted({(change.connection_id, change.sku) for change in shelf.changes})
    await connection.execute(
        """
        UPDATE shop_products p SET quantity = n.quantity
        FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[]) AS n (connection_id, sku, quantity)
        WHERE p.connection_id = n.connection_id AND p.sku = n.sku
        """,
        array([connection_id for connection_id, _ in changed]),
        array([sku for _, sku in changed]),
        array([shelf.products[key].quantity for key in changed]),
    )
    await connection.execute(
        """
        UPDATE shop_feeds f SET position = n.position
        FROM unnest($1::text::text[], $2::text::bigint[]) AS n (connection_id, position)
        WHERE f.connection_id = n.connection_id
        """,
        array(list(shelf.positions)),
        array(list(shelf.positions.values())),
    )
    await connection.execute(
        """
        INSERT INTO shop_changes (connection_id, position, kind, sku, number_before, number_after, external_id, line_id,
            request_id, price_minor, at)
        SELECT *, $11 FROM unnest($1::text::text[], $2::text::bigint[], $3::text::text[], $4::text::text[],
            $5::text::bigint[], $6::text::bigint[], $7::text::text[], $8::text::text[], $9::text::text[],
            $10::text::bigint[])
        """,
        array([change.connection_id for change in shelf.changes]),
        array([change.position for change in shelf.changes]),
        array([change.kind for change in shelf.changes]),
        array([change.sku for change in shelf.changes]),
        array([change.number_before for change in shelf.changes]),
        array([change.number_after for change in shelf.changes]),
        array([change.external_id for change in shelf.changes]),
        array([change.line_id for change in shelf.changes]),
        array([change.request_id for change in shelf.changes]),
        array([change.price_minor for change in shelf.changes]),
        now,
    )


async def put_products(
    connection: Database, tenant: str, connection_id: str, rows: Sequence[tuple[str, str, int]]
) -> None:
    """Keep (sku, title, price in minor units); what is on sale already keeps its number."""
    await connection.execute(
        """
        INSERT INTO shop_products (tenant, connection_id, sku, title, price_minor)
        SELECT $1, $2, * FROM unnest($3::text::text[], $4::text::text[], $5::text::bigint[])
        ON CONFLICT (connection_id, sku) DO UPDATE SET title = excluded.title, price_minor = excluded.price_minor
        """,
        tenant,
        connection_id,
        array([sku for sku, _, _ in rows]),
        array([title for _, title, _ in rows]),
        array([price_minor for _, _, price_minor in rows]),
    )


async def products(connection: Database, connection_id: str, after: str, limit: int) -> list[Product]:
    """A page of what a shop sells, by SKU."""
    rows = await connection.fetch(
        "SELECT sku, title, price_minor, quantity FROM shop_products WHERE connection_id = $1 AND sku > $2"
        " ORDER BY sku LIMIT $3",
        connection_id,
        after,
        limit,
    )
    return [Product(**row) for row in rows]


async def numbers(connection: Database, connection_id: str, skus: Sequence[str]) -> dict[str, int]:
    """The numbers shown of these products."""
    rows = await connection.fetch(
        "SELECT sku, quantity FROM shop_products WHERE connection_id = $1 AND sku = ANY($2::text::text[])",
        connection_id,
        array(skus),
    )
    return {row["sku"]: row["quantity"] for row in rows}


async def changes(connection: Database, connection_id: str, after: int, limit: int) -> list[Mapping[str, Any]]:
    """Changes of a shop's numbers after a position, in order."""
    rows = await connection.fetch(
        """
        SELECT position, kind, sku, number_before, number_after, external_id, line_id, request_id, price_minor, at
        FROM shop_changes WHERE connection_id = $1 AND position > $2 ORDER BY position LIMIT $3
        """,
        connection_id,
        after,
        limit,
    )
    return [dict(row) for row in rows]


async def prune(connection: Database, before: datetime) -> None:
    """Forget changes and keys from before a moment; pages of 5,000 each call."""
    await connection.execute(
        "DELETE FROM shop_changes WHERE (connection_id, position) IN"
        " (SELECT connection_id, position FROM shop_changes WHERE at < $1 ORDER BY at LIMIT 5000)",
        before,
    )
    await connection.execute(
        "DELETE FROM shop_keys WHERE (connection_id, key) IN"
        " (SELECT connection_id, key FROM shop_keys WHERE at < $1 ORDER BY at LIMIT 5000)",
        before,
    )

"""Which of our SKUs an advert sells: by a person's word, else by the SKU text that the advert carries.

Linking takes the absorb lock first: an order that is being absorbed either sees the link or is seen waiting for it.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from services.bus import Transaction
from services.channels.alerts import Database
from services.channels.connections import store as connection_store
from services.channels.connections.store import Connection
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import ChannelListing
from services.channels.intake import store as intake_store
from services.channels.intake.absorb import links_of, republish_waiting
from services.channels.intake.context import Intake
from services.channels.stock import listings
from services.channels.stock.listings import ListingRow

if TYPE_CHECKING:
    from services.runtime import Service

_LOOK_S: Final = 1.0
_PAGE: Final = 1000


async def keep_listings(tx: Transaction, connection: Connection, rows: Sequence[ListingRow]) -> int:
    """Keep adverts as given, link them where a row or their text says how, and let waiting sales go on.

    Returns how many are linked now. Raises `LinkConflict`.
    """
    await intake_store.absorb_lock(tx.connection)
    if rows:
        await _upsert(tx, connection, rows)
    await republish_waiting(tx, connection.connection_id, [row.listing for row in rows if row.sku], connection.pool)
    await link_by_text(tx, connection)
    adverts = [row.listing for row in rows]
    return len(await links_of(tx, connection.tenant, connection.connection_id, adverts))


def found_row(found: ChannelListing) -> ListingRow:
    """An advert as the channel shows it, without a link."""
    return ListingRow(found.listing, found.item, found.location, found.sku, found.title)


async def _upsert(tx: Transaction, connection: Connection, rows: Sequence[ListingRow]) -> None:
    await listings.upsert_listings(
        tx.connection,
        connection.tenant,
        connection.connection_id,
        rows,
        restores_on_cancel=CONNECTORS[connection.connector].traits.restores_on_cancel,
        pool=connection.pool,
    )


async def link(tx: Transaction, connection: Connection, listing: str, sku: str, pack: int) -> int | None:
    """Link an advert by a person's word; returns how many orders went on, None where there is no such advert."""
    await intake_store.absorb_lock(tx.connection)
    record = await listings.link_listing(tx.connection, connection.tenant, connection.connection_id, listing, sku, pack)
    if record is None:
        return None
    # One record may stand behind several adverts: all of them are linked now.
    adverts = await intake_store.listings_of_record(tx.connection, connection.tenant, record)
    return await republish_waiting(tx, connection.connection_id, adverts, connection.pool)


async def link_by_text(tx: Transaction, connection: Connection) -> int:
    """Link adverts without a link whose text is one of our SKUs; returns how many. The caller has the absorb lock."""
    rows = await unlinked_known(tx.connection, connection.connection_id, _PAGE)
    if rows:
        await _upsert(tx, connection, rows)
        await republish_waiting(tx, connection.connection_id, [row.listing for row in rows], connection.pool)
    return len(rows)


async def unlinked_known(connection: Database, connection_id: str, limit: int) -> list[ListingRow]:
    """Adverts linked to nothing whose text is the SKU of an item; where one record has several, the first."""
    # In two steps, because a plan made while the tables were empty joins all three by scanning: minutes, not ms.
    rows = await connection.fetch(
        """
        WITH known AS MATERIALIZED (
            SELECT l.tenant, l.stock_record, l.listing, l.seller_sku, l.title, i.sku
            FROM listings l JOIN items i ON i.tenant = l.tenant AND i.sku = l.seller_sku WHERE l.connection_id = $1
        )
        SELECT DISTINCT ON (r.stock_record) known.listing, r.item, r.location, seller_sku, title, known.sku
        FROM stock_records r JOIN known USING (tenant, stock_record)
        WHERE r.connection_id = $1 AND r.sku IS NULL ORDER BY r.stock_record, known.listing LIMIT $2
        """,
        connection_id,
        limit,
    )
    return [ListingRow(**dict(row)) for row in rows]


async def connections_to_link(connection: Database) -> set[str]:
    """Connections with an advert that `unlinked_known` finds."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT r.connection_id FROM stock_records r
        -- Most of the time no record is without a SKU. Written as a join, the other tables might be read first.
        WHERE r.sku IS NULL AND EXISTS (SELECT FROM listings l
            WHERE l.tenant = r.tenant AND l.stock_record = r.stock_record AND EXISTS (SELECT FROM items i
                WHERE i.tenant = l.tenant AND i.sku = l.seller_sku OFFSET 0)
            OFFSET 0)
        """
    )
    return {row["connection_id"] for row in rows}


async def link_loop(service: "Service", intake: Intake) -> None:
    """Link adverts by their text as soon as the item is known, whichever came first."""
    while True:
        async with service.pool.acquire() as database:
            waiting = await connections_to_link(database)
            connections = await connection_store.all_of(database, None) if waiting else []
        for connection in (one for one in connections if one.connection_id in waiting):
            async with service.transaction() as tx:
                await intake_store.absorb_lock(tx.connection)
                await link_by_text(tx, connection)
            intake.stock.dirtied()
        await asyncio.sleep(_LOOK_S)

"""What a shop sells: products with their prices, each an advert of the connection as well."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.channels.connections.store import Connection
from services.channels.connectors.shop import LOCATION
from services.channels.intake import store as intake_store
from services.channels.intake.context import Intake
from services.channels.linking import keep_listings
from services.channels.shop import numbers
from services.channels.shop.schemas import NewProduct
from services.channels.stock.listings import ListingRow

if TYPE_CHECKING:
    from services.runtime import Service


async def put_products(service: "Service", intake: Intake, connection: Connection, rows: Sequence[NewProduct]) -> int:
    """Put products on sale, or change their titles and prices; returns how many are linked to a SKU of the stock.

    A product named twice is as it was named last.
    """
    each = {row.sku: row for row in rows}
    adverts = [ListingRow(row.sku, row.sku, LOCATION, row.sku, row.title) for row in each.values()]
    async with service.transaction() as tx:
        # First of all, as everybody takes it first.
        await intake_store.absorb_lock(tx.connection)
        await numbers.put_products(
            tx.connection,
            connection.tenant,
            connection.connection_id,
            [(row.sku, row.title, row.price_minor) for row in each.values()],
        )
        linked = await keep_listings(tx, connection, adverts)
    intake.stock.dirtied()
    return linked

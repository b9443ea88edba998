"""What only the clock notices: a buyer that does not come, and one whose time to be forgotten has come."""

import asyncio
from datetime import timedelta

from services.fulfillment import store
from services.fulfillment.handlers import ask_for_buyers
from services.fulfillment.settings import FulfillmentSettings
from services.runtime import Service


async def watch(service: Service, *, settings: FulfillmentSettings) -> None:
    """Look for ever, a page a transaction, pausing when there is nothing left to do."""
    while True:
        async with service.transaction() as tx:
            asked = await ask_for_buyers(tx, settings)
            await store.forget_quotes(tx.connection, tx.now - timedelta(days=settings.quote_keep_days))
            going = await store.due_to_go(tx.connection, tx.now, settings.page)
        for order_id in going:
            # A report of a buyer belongs to the flow of its order. First, so that an end in between leaves nothing.
            await service.dead_letters.erase(order_id)
        if going:
            async with service.transaction() as tx:
                await store.erase_due(tx.connection, tx.now, settings.page)
        if max(asked, len(going)) < settings.page:
            await asyncio.sleep(settings.watch_interval_s)

"""Holds of the own shop's unpaid orders end by the clock; a marketplace's hold has none here: it ends by its word."""

import asyncio

import asyncpg

from services.inventory.handlers import expire_holds
from services.inventory.settings import InventorySettings
from services.runtime import Service


async def watch(service: Service, *, settings: InventorySettings) -> None:
    """End what is due for ever, a page a transaction, pausing when there is nothing left to do."""
    while True:
        due = 0
        try:
            async with service.transaction() as tx:
                due = await expire_holds(tx, settings.expiry_page)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            # An order that came in between is being changed: the next round sees it as it is then.
            due = 0
        if due < settings.expiry_page:
            await asyncio.sleep(settings.expiry_interval_s)

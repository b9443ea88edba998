"""Documents go when the law does not ask for them any more."""

import asyncio
from typing import Final

import structlog

from services.erp import store
from services.erp.settings import ErpSettings
from services.runtime import Service

PAGE: Final = 500

_log = structlog.get_logger("saldo.erp")


async def keep_retention(service: Service, *, settings: ErpSettings) -> None:
    """Delete documents after their time, again and again; never returns."""
    while True:
        if await sweep(service) < PAGE:
            await asyncio.sleep(settings.retention_interval_s)


async def sweep(service: Service) -> int:
    """Delete a page of documents whose last day is over everywhere; returns how many.

    The journal's rows stay: they hold sums and ids, and nothing of a person.
    """
    async with service.transaction() as tx:
        deleted = await store.delete_documents(tx.connection, tx.now, PAGE)
    if deleted:
        _log.info("documents deleted after their time", documents=deleted)
    return deleted

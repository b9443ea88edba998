"""To forget a customer: everything that is known of him goes in one transaction, and whoever else knows him is told.

LGPD (Lei 13.709/2018) article 16 and GDPR article 17 let stay what the law asks for: fiscal documents, which erp keeps
(Código Tributário Nacional, article 173: five years from the first day of the year that follows). What stays is listed.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from contracts.crm.v1 import CustomerErased, KeptRecord
from services.border.vault import Vault
from services.bus import Cause, Transaction
from services.crm import store
from services.crm.fingerprints import fingerprints
from services.crm.settings import CrmSettings
from services.crm.standing import around, settle

if TYPE_CHECKING:
    from services.runtime import Service

PARCEL_OVER: Final = frozenset({"ShipmentDelivered", "ShipmentCancelled", "ReturnReceived"})
PAGE: Final = 100

_log = structlog.get_logger("saldo.crm")


def fiscal_until(issued_at: datetime, keep_years: int) -> datetime:
    """The end of the last year in which a fiscal document must be kept."""
    return datetime(issued_at.year + keep_years, 12, 31, 23, 59, 59, tzinfo=UTC)


def kept_records(
    invoices: Sequence[tuple[str, datetime]], parcels: Sequence[tuple[str, str, datetime]], settings: CrmSettings
) -> tuple[KeptRecord, ...]:
    """What stays of invoices (id, issued at) and parcels (id, every event's kind, at), and until when.

    A parcel is open until an event says that it is over.
    """
    kept = [
        KeptRecord(
            kind="invoice", reference=reference, reason="fiscal_br", until=fiscal_until(issued_at, settings.keep_years)
        )
        for reference, issued_at in invoices
    ]
    over = {reference for reference, kind, _ in parcels if kind in PARCEL_OVER}
    heard: dict[str, datetime] = {}
    for reference, _, at in parcels:
        if reference not in over:
            heard[reference] = max(at, heard.get(reference, at))
    keep = timedelta(days=settings.parcel_keep_days)
    kept += [
        KeptRecord(kind="parcel", reference=reference, reason="parcel_open", until=at + keep)
        for reference, at in sorted(heard.items())
    ]
    return tuple(kept)


async def erase(
    tx: Transaction, tenant: str, customer_id: str, *, vault: Vault, settings: CrmSettings
) -> CustomerErased | None:
    """Erase the customer that `customer_id` is or is part of, and tell; None: there is none."""
    await store.lock(tx.connection, [tenant])
    found = await store.find(tx.connection, tenant, customer_id)
    if not found:
        return None
    eldest = found[0]["stands_for"]
    version = next(row["version"] for row in found if row["customer_id"] == eldest)
    ids, refs = {row["customer_id"] for row in found}, [row["customer_ref"] for row in found]
    order_ids = await store.orders_of(tx.connection, tenant, refs)
    invoices = await store.invoices_of(tx.connection, tenant, order_ids)
    parcels = await store.parcels_of(tx.connection, tenant, order_ids)
    others = await around(tx, tenant, ids, settings) - ids
    prints = await fingerprints(tx.connection, vault, tenant)
    await store.bury(tx.connection, tenant, "ref", [prints.of("ref", ref) for ref in refs], tx.now)
    await store.bury(tx.connection, tenant, "order", [prints.of("order", order) for order in order_ids], tx.now)
    await store.delete_orders(tx.connection, tenant, order_ids)
    await store.delete_customers(tx.connection, tenant, ids)
    cause = Cause("", eldest)
    fact = CustomerErased(
        customer_id=eldest, version=version + 1, customer_refs=tuple(refs), order_ids=tuple(order_ids),
        kept=kept_records(invoices, parcels, settings), at=tx.now,
    )  # fmt: skip
    tx.publish(fact, tenant=tenant, cause=cause)
    # Who was doubtful because of him may not be any more.
    await settle(tx, tenant, others, settings, by="keys", cause=lambda _: cause)
    return fact


async def forget_silent(service: "Service", *, vault: Vault, settings: CrmSettings) -> None:
    """Erase customers of whom nothing was heard for too long, one a transaction; never returns."""
    while True:
        before = service.clock() - settings.silent_keep
        async with service.pool.acquire() as connection:
            silent = await store.silent(connection, before, PAGE)
        for tenant, customer_id in silent:
            async with service.transaction() as tx:
                await erase(tx, tenant, customer_id, vault=vault, settings=settings)
        if silent:
            _log.info("silent customers erased", customers=len(silent))
        if len(silent) < PAGE:
            await asyncio.sleep(settings.retention_interval_s)

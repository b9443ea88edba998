"""To forget a customer: his reports, keys, timeline, consents and merges go in one transaction; who else knows is told.

His orders' dead letters go right after the commit. An order that was not known to be his is forgotten when it turns out
to be; of one that nobody is known to have placed the events go in time.

What stays here says nothing of him: fingerprints of his references and orders, under the company's own key, by which
what is still on its way is not taken in; and his customers' ids in merges of others that he once went along with. What
was published of him stays for as long as its stream keeps it: ids and references in crm's own, the reports of channels
in theirs.

An order that has not ended is to be delivered all the same: what it needs is not erased elsewhere until it ends, or its
time is over (LGPD, Lei 13.709/2018, articles 7 V and 15 I; GDPR articles 6(1)(b) and 17(1)(a)). Here all of him goes at
once.

LGPD article 16 I and GDPR article 17(3)(b) let stay what the law asks for: fiscal documents, which erp keeps (Código
Tributário Nacional, article 173: five years from the first day of the year that follows). `kept` lists these, and the
orders and parcels that are still on their way.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from contracts.crm.v1 import CustomerErased, KeptRecord
from services.border.vault import Vault
from services.bus import Cause, Transaction
from services.crm import store
from services.crm.fingerprints import Fingerprints, fingerprints
from services.crm.settings import CrmSettings
from services.crm.standing import around, settle

if TYPE_CHECKING:
    from services.runtime import Service

PARCEL_OVER: Final = frozenset({"ShipmentDelivered", "ShipmentCancelled", "ReturnReceived"})
ORDER_OVER: Final = frozenset({"OrderDelivered", "OrderCancelled", "OrderClosed"})
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
    held = await store.open_orders(tx.connection, tenant, order_ids, ORDER_OVER, tx.now - settings.order_keep)
    over, until = sorted(set(order_ids) - set(held)), tx.now + settings.order_keep
    parcels = await store.parcels_of(tx.connection, tenant, over)
    others = await around(tx, tenant, ids, settings) - ids
    prints = await fingerprints(tx.connection, vault, tenant)
    await store.bury(tx.connection, tenant, "ref", [prints.of("ref", ref) for ref in refs], tx.now)
    await forget_orders(tx, tenant, prints, over)
    await store.hold(tx.connection, tenant, held, eldest, version + 1, tx.now, until)
    await store.insert_letters_due(tx.connection, tenant, held)
    await store.delete_customers(tx.connection, tenant, ids)
    cause = Cause("", eldest)
    waiting = [KeptRecord(kind="order", reference=order_id, reason="order_open", until=until) for order_id in held]
    fact = CustomerErased(
        customer_id=eldest, version=version + 1, customer_refs=tuple(refs), order_ids=tuple(over),
        kept=(*kept_records(invoices, parcels, settings), *waiting), at=tx.now,
    )  # fmt: skip
    tx.publish(fact, tenant=tenant, cause=cause)
    # Who was doubtful because of him may not be any more.
    await settle(tx, tenant, others, settings, by="keys", cause=lambda _: cause)
    return fact


async def release(
    tx: Transaction, tenant: str, order_ids: Collection[str], prints: Fingerprints, settings: CrmSettings
) -> None:
    """Erase those of the orders that are held, since they have ended or their time is over, and tell."""
    held = await store.lock_held(tx.connection, tenant, order_ids)
    for customer_id in sorted({row["customer_id"] for row in held}):
        theirs = [row for row in held if row["customer_id"] == customer_id]
        ended, version = [row["order_id"] for row in theirs if row["order_id"] in order_ids], theirs[0]["version"] + 1
        invoices = await store.invoices_of(tx.connection, tenant, ended)
        parcels = await store.parcels_of(tx.connection, tenant, ended)
        await store.release(tx.connection, tenant, customer_id, ended, version)
        await forget_orders(tx, tenant, prints, ended)
        fact = CustomerErased(
            customer_id=customer_id, version=version, customer_refs=(), order_ids=tuple(ended),
            kept=kept_records(invoices, parcels, settings), at=tx.now,
        )  # fmt: skip
        tx.publish(fact, tenant=tenant, cause=Cause("", customer_id))


async def forget_orders(tx: Transaction, tenant: str, prints: Fingerprints, order_ids: Sequence[str]) -> None:
    """Delete all that is known of orders, and take nothing of them in any more. Their dead letters are due to go."""
    await store.bury(tx.connection, tenant, "order", [prints.of("order", order) for order in order_ids], tx.now)
    await store.delete_orders(tx.connection, tenant, order_ids)
    await store.insert_letters_due(tx.connection, tenant, order_ids)


async def erase_letters(service: "Service") -> None:
    """Erase the dead letters of orders that are forgotten: a report that could not be handled outlives no erasure."""
    while True:
        async with service.pool.acquire() as connection:
            due = await store.letters_due(connection, PAGE)
        if not due:
            return
        for tenant, order_id in due:
            # A report of a buyer belongs to the flow of its order.
            await service.dead_letters.erase(order_id)
            async with service.pool.acquire() as connection:
                await store.delete_letters_due(connection, tenant, order_id)


async def keep_retention(service: "Service", *, vault: Vault, settings: CrmSettings) -> None:
    """Delete what is too old, again and again; never returns."""
    while True:
        if await sweep(service, vault=vault, settings=settings) < PAGE:
            await asyncio.sleep(settings.retention_interval_s)


async def sweep(service: "Service", *, vault: Vault, settings: CrmSettings) -> int:
    """Look once for customers and orders that are too old, a page of each, and delete them, one a transaction.

    Customers are too old when nothing was heard of them for long, orders when nobody is known to have placed them, or
    when they were held for long enough. Returns how many there were of the most numerous kind.
    """
    now = service.clock()
    before = now - settings.silent_keep
    async with service.pool.acquire() as connection:
        silent = await store.silent(connection, before, PAGE)
        unplaced = await store.unplaced(connection, now - settings.unplaced_keep, PAGE)
        held = await store.held_due(connection, now, PAGE)
    erased = 0
    for tenant, customer_id in silent:
        async with service.transaction() as tx:
            # Something may have been heard of him since: only under the lock is he as silent as he seemed.
            await store.lock(tx.connection, [tenant])
            refs = [row["customer_ref"] for row in await store.find(tx.connection, tenant, customer_id)]
            if refs and await store.heard_at(tx.connection, tenant, refs) < before:
                await erase(tx, tenant, customer_id, vault=vault, settings=settings)
                erased += 1
    for tenant, order_id in unplaced:
        async with service.transaction() as tx:
            await store.lock(tx.connection, [tenant])
            if await store.placed(tx.connection, tenant, [order_id]):
                await store.delete_unplaced(tx.connection, tenant, order_id)
            else:
                await store.delete_orders(tx.connection, tenant, [order_id])
    for tenant, order_id in held:
        async with service.transaction() as tx:
            await store.lock(tx.connection, [tenant])
            await release(tx, tenant, [order_id], await fingerprints(tx.connection, vault, tenant), settings)
    await erase_letters(service)
    if erased:
        _log.info("silent customers erased", customers=erased)
    return max(len(silent), len(unplaced), len(held))

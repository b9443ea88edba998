"""What crm does with what it hears: buyers are recognised, what happens to their orders goes into their timeline."""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import Any, Final

from contracts.channels.v1 import BuyerReported
from contracts.erp.v1 import InvoiceIssued
from contracts.orders.v1 import OrderPlaced
from services.border.vault import Vault
from services.bus import Cause, Received, Transaction
from services.crm import store
from services.crm.erase import ORDER_OVER, forget_orders, release
from services.crm.fingerprints import Fingerprints, fingerprints
from services.crm.settings import CrmSettings
from services.crm.standing import settle
from services.crm.timeline import tell

BUYER_FIELD: Final = "buyer"


def _by_tenant(events: Sequence[Received[Any]]) -> dict[str, list[Received[Any]]]:
    found: dict[str, list[Received[Any]]] = defaultdict(list)
    for event in events:
        found[event.tenant].append(event)
    return found


async def recognise(
    events: Sequence[Received[BuyerReported]], tx: Transaction, *, vault: Vault, settings: CrmSettings
) -> None:
    """Keep what channels report of buyers, sealed, and decide who of them is one customer."""
    by_tenant = _by_tenant(events)
    await store.lock(tx.connection, by_tenant)
    for tenant, theirs in sorted(by_tenant.items()):
        prints = await fingerprints(tx.connection, vault, tenant)
        if taken := await _not_erased(tx, tenant, prints, theirs):
            await _recognise(tx, tenant, taken, prints, vault, settings)


async def _recognise(
    tx: Transaction, tenant: str, events: Sequence[Received[BuyerReported]], prints: Fingerprints, vault: Vault,
    settings: CrmSettings,
) -> None:  # fmt: skip
    refs = dict.fromkeys(event.message.customer_ref for event in events)
    known = await store.customers_of(tx.connection, tenant, refs)
    new = {ref: tx.new_id() for ref in refs if ref not in known}
    await store.insert_customers(tx.connection, tenant, new, tx.now)
    await store.see(tx.connection, tenant, refs, tx.now)
    own = known | new
    reports, keys = [], set()
    for event in events:
        buyer = event.message
        sealed = vault.seal(buyer.model_dump_json().encode(), tenant=tenant, owner=buyer.order_id, field=BUYER_FIELD)
        reports.append(
            (tenant, buyer.order_id, buyer.customer_ref, buyer.contact_allowed, buyer.sale_revision,
             event.envelope.time, sealed)
        )  # fmt: skip
        customer_id = own[buyer.customer_ref]
        keys |= {(tenant, *key, customer_id, tx.now) for key in prints.keys(buyer, settings.relays)}
    await store.put_reports(tx.connection, reports)
    await store.insert_keys(tx.connection, sorted(keys))
    causes = {event.message.customer_ref: event.cause for event in events}

    def cause(of: Collection[str]) -> Cause:
        return next((causes[ref] for ref in of if ref in causes), events[0].cause)

    await settle(tx, tenant, own.values(), settings, by="keys", cause=cause, newborn=new.values())


async def _not_erased(
    tx: Transaction, tenant: str, prints: Fingerprints, events: Sequence[Received[Any]]
) -> list[Received[Any]]:
    """Those of `events` that are not about an erased order, nor older than the erasure of their reference, nor of who
    placed an order that is held.

    What is older than the erasure of its reference tells of an order that was not known to belong to it: that order is
    forgotten as well, with what was heard of it, unless it stands by a report that came after the erasure.
    """
    orders = {event.message.order_id: prints.of("order", event.message.order_id) for event in events}
    refs = {
        event.message.customer_ref: prints.of("ref", event.message.customer_ref)
        for event in events
        if isinstance(event.message, BuyerReported | OrderPlaced)
    }
    gone_orders = await store.erased(tx.connection, tenant, "order", list(orders.values()))
    gone_refs = await store.erased(tx.connection, tenant, "ref", list(refs.values()))
    gone = {order_id for order_id, key in orders.items() if key in gone_orders}
    held = await store.held_among(tx.connection, tenant, orders)
    standing = await store.placed(tx.connection, tenant, orders) if gone_refs else set()
    taken: list[Received[Any]] = []
    late: set[str] = set()
    for event in events:
        order_id = event.message.order_id
        ref = refs.get(getattr(event.message, "customer_ref", ""))
        erased_at = gone_refs.get(ref) if ref else None
        if order_id in gone | late or (ref and order_id in held):
            continue
        if erased_at and event.envelope.time <= erased_at:
            late |= {order_id} - standing
            continue
        if ref:
            standing.add(order_id)
        taken.append(event)
    if late:
        await forget_orders(tx, tenant, prints, sorted(late))
    return [event for event in taken if event.message.order_id not in late]


async def remember(events: Sequence[Received[Any]], tx: Transaction, *, vault: Vault, settings: CrmSettings) -> None:
    """Add what happened to orders, payments, parcels and invoices to the timelines; a held order that ends goes."""
    by_tenant = _by_tenant(events)
    await store.lock(tx.connection, by_tenant, shared=True)
    for tenant, theirs in sorted(by_tenant.items()):
        prints = await fingerprints(tx.connection, vault, tenant)
        rows: list[tuple[Any, ...]] = []
        orders, invoices, ended = [], [], set()
        for event in await _not_erased(tx, tenant, prints, theirs):
            message, told = event.message, tell(event.message)
            rows.append((tenant, event.envelope.id, message.order_id, told.at, told.kind, json.dumps(told.what)))
            if isinstance(message, OrderPlaced):
                orders.append((tenant, message.order_id, message.customer_ref, message.connection_id))
            if told.kind in ORDER_OVER:
                ended.add(message.order_id)
            if isinstance(message, InvoiceIssued):
                invoices.append((tenant, message.document_id, message.order_id, message.issued_at))
        # In order of keys: two batches with the same rows wait for each other instead of deadlocking.
        await store.put_orders(tx.connection, sorted(orders))
        await store.insert_events(tx.connection, sorted(rows, key=itemgetter(1)))
        await store.insert_invoices(tx.connection, sorted(invoices))
        await store.insert_unplaced(tx.connection, tenant, {order_id for _, _, order_id, *_ in rows}, tx.now)
        if ended:
            await release(tx, tenant, ended, prints, settings)

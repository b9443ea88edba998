"""A customer as people see him, opened for whoever has the right to ask."""

import json
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from services.border.vault import Vault
from services.crm import documents, store
from services.crm.domain import contact
from services.crm.fingerprints import known_fingerprints
from services.crm.handlers import BUYER_FIELD
from services.crm.settings import CrmSettings

PURPOSE: Final = "marketing"


async def find_ids(
    connection: store.Connection, tenant: str, identity: str, vault: Vault, settings: CrmSettings
) -> list[str]:
    """The customers meant by an id of ours, an order, a document, an e-mail or a phone."""
    if found := await store.find(connection, tenant, identity):
        return [found[0]["stands_for"]]
    if owner := await store.owner_of_order(connection, tenant, identity):
        return owner
    prints = await known_fingerprints(connection, vault, tenant)
    if prints is None:
        return []
    normalised = {
        "document": documents.document(identity),
        "email": documents.email(identity, settings.relays),
        "phone": documents.phone(identity),
    }
    for kind, value in normalised.items():
        if value and (owners := await store.owner_of_key(connection, tenant, kind, prints.of(kind, value))):
            return owners
    return []


def tell_held(held: Sequence[asyncpg.Record]) -> str:
    """What is said of an erased customer whose orders have not ended: rows as of `store.held_of`, at least one."""
    one = held[0]
    orders = ", ".join(f"{row['order_id']} (at the latest {row['until']:%Y-%m-%d})" for row in held)
    return (
        f"customer {one['customer_id']} was erased on {one['erased_at']:%Y-%m-%d}. What is needed to deliver what he "
        f"bought is kept until the order ends (LGPD articles 7 V and 15 I, GDPR article 17(1)(a)): {orders}"
    )


async def show(
    connection: store.Connection, tenant: str, customer_id: str, vault: Vault, *, purpose: str = PURPOSE
) -> dict[str, Any]:
    """All that is known of a customer: this is his export as well. Every order's report is opened.

    `references` say for each channel whether he may be written to outside it for `purpose`, and why.
    """
    found = await store.find(connection, tenant, customer_id)
    eldest = found[0]["stands_for"]
    refs = [row["customer_ref"] for row in found]
    rows = await store.order_rows(connection, tenant, refs)
    order_ids = [row["order_id"] for row in rows]
    consents = [dict(row) for row in await store.consents_of(connection, tenant, [row["customer_id"] for row in found])]
    granted = {row["purpose"]: row["granted"] for row in consents}.get(purpose)
    references = []
    for ref in refs:
        theirs = [row for row in rows if row["customer_ref"] == ref]
        # The newest word of the channel counts.
        allowed = next((row["contact_allowed"] for row in theirs if row["reported_at"]), False)
        connections = sorted({row["connection_id"] for row in theirs if row["connection_id"]})
        references.append(
            {"customer_ref": ref, "connections": connections, **contact(granted=granted, allowed=allowed)._asdict()}
        )
    return {
        "customer_id": eldest,
        "version": next(row["version"] for row in found if row["customer_id"] == eldest),
        "merged": [row["customer_id"] for row in found if row["customer_id"] != eldest],
        "seen_at": max(row["seen_at"] for row in found),
        "references": references,
        "consents": consents,
        "reports": [
            json.loads(vault.open(row["sealed"], tenant=tenant, owner=row["order_id"], field=BUYER_FIELD))
            for row in rows
            if row["sealed"]
        ],
        "timeline": [
            dict(row) | {"what": json.loads(row["what"])} for row in await store.timeline(connection, tenant, order_ids)
        ],
    }

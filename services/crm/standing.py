"""From what is known to who is who: everything that may be affected is looked at anew, and the difference is told."""

from collections.abc import Callable, Collection, Mapping

import asyncpg

from contracts.crm.v1 import CustomerIdentified, CustomersMerged, CustomersUnmerged
from contracts.envelope import Message
from services.bus import Cause, Transaction
from services.crm import store
from services.crm.domain import Change, Merged, Record, Standing, Unmerged, changes, doubtful, identify, members
from services.crm.settings import CrmSettings

Causes = Callable[[Collection[str]], Cause]
"""Why something is told of a customer with these references."""


async def around(tx: Transaction, tenant: str, ids: Collection[str], settings: CrmSettings) -> set[str]:
    """All references that have to do with `ids`, over however many others."""
    found, next_ones = set(ids), set(ids)
    while next_ones:
        next_ones = await store.neighbours(tx.connection, tenant, next_ones, tx.now, settings.references_max) - found
        found |= next_ones
    return found


async def settle(
    tx: Transaction, tenant: str, ids: Collection[str], settings: CrmSettings, *, by: str, cause: Causes,
    newborn: Collection[str] = (),
) -> None:  # fmt: skip
    """Decide anew who is who around `ids`, write it and tell what changed. `newborn` are references without a past."""
    wanted = await around(tx, tenant, ids, settings)
    rows = {
        row["customer_id"]: row for row in await store.records(tx.connection, tenant, wanted, settings.references_max)
    }
    records = [_record(row) for row in rows.values()]
    links = await store.links(tx.connection, tenant, rows)
    standing = identify(records, links, settings.documents_max)
    before = {one: row["stands_for"] for one, row in rows.items() if one not in newborn}
    versions = {one: row["version"] for one, row in rows.items()}
    refs = {
        customer: tuple(rows[one]["customer_ref"] for one in rows if one in theirs)
        for customer, theirs in members(standing).items()
    }
    told = changes(before, standing)
    for change in told:
        versions[change.customer_id] += 1
        await _keep_merge(tx, tenant, change, by)
        fact = _fact(change, versions[change.customer_id], refs, by, tx)
        tx.publish(fact, tenant=tenant, cause=cause(refs.get(change.customer_id, ())))
    written = [
        (one, standing[one], versions[one])
        for one, row in rows.items()
        if (row["stands_for"], row["version"]) != (standing[one], versions[one])
    ]
    await store.update_standing(tx.connection, tenant, written)
    await _ask(tx, tenant, records, standing, settings)


def _record(row: asyncpg.Record) -> Record:
    return Record(
        row["customer_id"],
        frozenset(row["documents"]),
        frozenset(row["emails"]),
        frozenset(row["phones"]),
        row["apart"],
    )


async def _keep_merge(tx: Transaction, tenant: str, change: Change, by: str) -> None:
    if isinstance(change, Unmerged):
        await store.undo_merge(tx.connection, tenant, change.restored, tx.now)
    if isinstance(change, Merged):
        values = change.customer_id, change.gone, sorted(change.members), by, tx.now
        await store.insert_merge(tx.connection, tenant, tx.new_id(), *values)


def _fact(change: Change, version: int, refs: Mapping[str, tuple[str, ...]], by: str, tx: Transaction) -> Message:
    customer_id, theirs = change.customer_id, refs.get(change.customer_id, ())
    if isinstance(change, Merged):
        return CustomersMerged(
            customer_id=customer_id, version=version, merged_customer_id=change.gone, customer_refs=theirs, by=by,
            at=tx.now,
        )  # fmt: skip
    if isinstance(change, Unmerged):
        return CustomersUnmerged(
            customer_id=customer_id, version=version, restored_customer_id=change.restored, customer_refs=theirs,
            restored_customer_refs=refs[change.restored], at=tx.now,
        )  # fmt: skip
    return CustomerIdentified(customer_id=customer_id, version=version, customer_refs=theirs, at=tx.now)


async def _ask(tx: Transaction, tenant: str, records: list[Record], standing: Standing, settings: CrmSettings) -> None:
    """Bring the open reviews to what is doubtful now; what a person has answered stays answered."""
    wanted = {(one, other): reason for one, other, reason in doubtful(records, standing, settings.documents_max)}
    gone = []
    for row in await store.reviews_among(tx.connection, tenant, standing):
        reason = wanted.pop((row["one"], row["other"]), None)
        if row["state"] == "open" and reason is None:
            gone.append(row["review_id"])
        elif row["state"] == "open" and reason != row["reason"]:
            wanted[row["one"], row["other"]] = str(reason)
    await store.delete_reviews(tx.connection, tenant, gone)
    for (one, other), reason in sorted(wanted.items()):
        await store.put_review(tx.connection, tenant, tx.new_id(), one, other, reason, "open", tx.now)

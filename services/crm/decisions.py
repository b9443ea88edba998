"""What people decide: to join, to part, to leave apart, and what a customer said about being written to."""

from contracts.crm.v1 import ConsentChanged
from services.bus import Cause, Transaction
from services.crm import store
from services.crm.settings import CrmSettings
from services.crm.standing import settle


class Refused(Exception):
    """What was asked for cannot be done; the text says why and what to do."""


async def eldest(tx: Transaction, tenant: str, customer_id: str) -> str:
    """The customer that stands for `customer_id`. Raises `Refused` where there is none."""
    found = await store.find(tx.connection, tenant, customer_id)
    if not found:
        raise Refused(f"no customer {customer_id}: it may have been erased; see the list of customers")
    return str(found[0]["stands_for"])


async def merge(tx: Transaction, tenant: str, one: str, other: str, settings: CrmSettings) -> str:
    """Make one customer of two; returns the one that goes on, the elder. Raises `Refused`."""
    await store.lock(tx.connection, [tenant])
    pair = await eldest(tx, tenant, one), await eldest(tx, tenant, other)
    if pair[0] == pair[1]:
        raise Refused(f"{one} and {other} are one customer already")
    await store.link(tx.connection, tenant, min(pair), max(pair), tx.now)
    await settle(tx, tenant, pair, settings, by="review", cause=lambda _: Cause("", pair[0]))
    return await eldest(tx, tenant, one)


async def unmerge(tx: Transaction, tenant: str, gone: str, settings: CrmSettings) -> str:
    """Undo the merge that `gone` went by: each has again what was its own. Returns the one that it was part of.

    Where their keys join them they are parted for good, and nobody is asked about them. Raises `Refused`.
    """
    await store.lock(tx.connection, [tenant])
    was = await eldest(tx, tenant, gone)
    merged = await store.standing_merge(tx.connection, tenant, gone)
    if was == gone or merged is None:
        raise Refused(f"{gone} was not merged into another customer: give the one that went")
    members = merged["members"]
    cause = Cause("", was)
    await store.unlink(tx.connection, tenant, members)
    await settle(tx, tenant, members, settings, by="review", cause=lambda _: cause)
    if (now := await eldest(tx, tenant, gone)) != gone:
        await store.part(tx.connection, tenant, members, merged["merge_id"])
        await settle(tx, tenant, [now, *members], settings, by="review", cause=lambda _: cause)
        await _keep_apart(tx, tenant, was, gone)
    return was


async def keep(tx: Transaction, tenant: str, one: str, other: str) -> None:
    """Two customers stay two, and nobody is asked again. Raises `Refused`."""
    await store.lock(tx.connection, [tenant])
    if await eldest(tx, tenant, one) == await eldest(tx, tenant, other):
        raise Refused(f"{one} and {other} are one customer: give two customers, or undo the merge that joined them")
    await _keep_apart(tx, tenant, one, other)


async def _keep_apart(tx: Transaction, tenant: str, one: str, other: str) -> None:
    elder, younger = await store.by_age(tx.connection, tenant, [one, other])
    await store.put_review(tx.connection, tenant, tx.new_id(), elder, younger, "person", "kept", tx.now)


async def consent(
    tx: Transaction, tenant: str, customer_id: str, purpose: str, *, granted: bool, source: str
) -> ConsentChanged:
    """Keep what a customer said for a purpose, and tell. Raises `Refused`."""
    await store.lock(tx.connection, [tenant])
    customer = await eldest(tx, tenant, customer_id)
    version = await store.put_consent(tx.connection, tenant, customer, purpose, granted, source, tx.now)
    fact = ConsentChanged(
        customer_id=customer, version=version, purpose=purpose, granted=granted, source=source, at=tx.now
    )
    tx.publish(fact, tenant=tenant, cause=Cause("", customer))
    return fact

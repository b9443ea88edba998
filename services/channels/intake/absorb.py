"""Makes sales of what came in: one transaction a batch, under the lock row of each order.

Bodies are absorbed in the order of their arrival by one process at a time, because that order decides where a channel
has no versions. What cannot be read is set aside as poisoned, with a dead letter and an alert; the rest goes on.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog

from contracts.channels.v1 import BuyerReported, SaleReported
from services.border.vault import SealBroken
from services.bus import Cause, Transaction
from services.bus.failures import Kind, describe, kind_of, waited
from services.channels import ids
from services.channels.alerts import Alert, raise_alerts, resolve_alerts
from services.channels.connections.registry import Open
from services.channels.connectors.connector import ChannelOrder
from services.channels.intake import domain, store
from services.channels.intake.context import Intake
from services.channels.intake.domain import Heard, Link, Verdict
from services.channels.intake.store import Body, Fetch, NewBody, OrderRow
from services.channels.stock import facts, listings

if TYPE_CHECKING:
    from services.runtime import Service

INTAKE_STREAM: Final = "channels.intake"
"""The name under which bodies that cannot be read stand among the dead letters."""

ALIAS: Final = "@"
"""What a pointer begins with that names an order by one of its aliases."""

_WITHIN_S: Final = 1.5
"""So long bodies wait to be absorbed with what stores them: their senders, and those of the next ones, wait as well."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Read:
    """A body after mapping: an order, a pointer to one (`order` is None), or what is wrong with it (`error`)."""

    new: NewBody
    entry: Open
    order_id: str = ""
    external_id: str = ""
    order: ChannelOrder | None = None
    error: str = ""


@dataclass(slots=True)
class Accepted:
    """An order snapshot that was taken: what will be published and kept for it."""

    read: Read
    order: ChannelOrder
    row: OrderRow
    revision: int
    customer_ref: str


async def absorb_loop(service: "Service", intake: Intake) -> None:
    """Absorb what comes in until cancelled: at once when this process stored it, else within the idle time."""
    while True:
        if await absorb_once(service, intake):
            continue
        while not await waited(intake.arrived, intake.settings.absorb_idle_s):
            async with service.pool.acquire() as database:
                if await store.any_new(database, _live(intake)):
                    break
        intake.arrived.clear()


async def absorb_once(service: "Service", intake: Intake) -> int:
    """Absorb one batch; returns how many bodies were dealt with. A body that fails alone is poisoned.

    Raises what is no body's fault: a database that is away, a statement that PostgreSQL does not take.
    """
    try:
        return await _absorb(service, intake, intake.settings.absorb_batch_max)
    except Exception as failure:
        if not _is_of_a_body(failure):
            raise
        _log.warning("a batch of bodies failed, going one by one", error=describe(failure))
    async with service.pool.acquire() as connection:
        waiting = await store.new_bodies(connection, _live(intake), intake.settings.absorb_batch_max)
    for new in waiting:
        try:
            await _absorb(service, intake, 1, only=new.intake_id)
        except Exception as failure:
            if not _is_of_a_body(failure):
                raise
            async with service.transaction() as tx:
                await _set_aside(tx, [(new, describe(failure))])
    return len(waiting)


def _is_of_a_body(failure: Exception) -> bool:
    """Whether a body's content can be the reason: of the database's errors bad data, rows that are there twice, and
    broken constraints.
    """
    if isinstance(failure, asyncpg.PostgresError):
        return (failure.sqlstate or "")[:2] in ("21", "22", "23")
    return kind_of(failure) is Kind.OTHER and not isinstance(failure, asyncpg.InterfaceError)


def _live(intake: Intake) -> list[str]:
    return [entry.connection.connection_id for entry in intake.registry.live()]


async def store_and_absorb(
    service: "Service", intake: Intake, bodies: Sequence[Body], read: Sequence[Fetch] = ()
) -> None:
    """Store bodies and absorb what waits, in one transaction: one commit less between the sale and all others.

    `read` are the reads that brought these bodies; that they are answered is noted with them.

    Where absorbing fails, or waits for what somebody else has locked, they are only stored, and `absorb_loop` finds out
    whose fault it is. Raises where not even that can be done.
    """
    limit = intake.settings.absorb_batch_max
    try:
        async with asyncio.timeout(_WITHIN_S), service.transaction() as tx:
            await store.insert_bodies(tx.connection, bodies)
            absorbed = await _absorb_waiting(tx, intake, limit)
            # After the orders are locked in the order of their ids.
            await _note_read(tx, read)
            service.faults.point("intake.absorb.before")
        service.faults.point("intake.absorb.after")
    except Exception as failure:  # noqa: BLE001 - a body may hold anything; what matters is that it is kept
        _log.warning("bodies are stored and absorbed later", error=describe(failure))
        absorbed = 0
        async with service.transaction() as tx:
            await store.insert_bodies(tx.connection, bodies)
            await _note_read(tx, read)
    if not len(bodies) <= absorbed < limit:
        intake.arrived.set()


async def _note_read(tx: Transaction, read: Sequence[Fetch]) -> None:
    if not read:
        return
    await store.fetched(tx.connection, read, tx.now)
    for connection_id in sorted({one.connection_id for one in read}):
        orders = [one.order_id for one in read if one.connection_id == connection_id]
        await resolve_alerts(tx.connection, connection_id, "order_unreadable", orders, tx.now)


async def absorb_with(tx: Transaction, intake: Intake, bodies: Sequence[Body]) -> None:
    """Store bodies and absorb all that waits, these with it, in a transaction that has the absorb lock already.

    For whoever has to know at once what became of them: where absorbing fails, nothing is stored either.
    """
    await store.insert_bodies(tx.connection, bodies)
    limit = intake.settings.absorb_batch_max
    while await _absorb_waiting(tx, intake, limit) == limit:
        pass


async def _absorb(service: "Service", intake: Intake, limit: int, only: int | None = None) -> int:
    while True:
        # Whoever absorbs now has not seen what was stored since, so this one outwaits it; before its own transaction,
        # whose moment must not be older than what it absorbs: aliases heard of are compared with when orders were read.
        try:
            async with service.pool.acquire() as database:
                await store.absorb_lock(database)
        except asyncpg.LockNotAvailableError:
            _log.warning("somebody absorbs, or imports, for seconds: looked for again")
            return 0
        async with service.transaction() as tx:
            if not await store.try_absorb_lock(tx.connection):
                continue
            absorbed = await _absorb_waiting(tx, intake, limit, only)
            service.faults.point("intake.absorb.before")
        service.faults.point("intake.absorb.after")
        return absorbed


async def _absorb_waiting(tx: Transaction, intake: Intake, limit: int, only: int | None = None) -> int:
    """Absorb the oldest bodies; none where another transaction does. Returns how many were dealt with."""
    if not await store.try_absorb_lock(tx.connection):
        return 0
    bodies = await store.new_bodies(tx.connection, _live(intake), limit, only)
    if not bodies:
        return 0
    reads = await _resolve(tx, [read(intake, new) for new in bodies])
    good = [one for one in reads if not one.error and one.order_id]
    unknown = [one for one in reads if not one.error and not one.order_id]
    erased: list[int] = []
    if good:
        rows, asked = await _take(tx, intake, good)
        if asked:
            tx.after_commit(intake.wanted.set)
        erased = [one.new.intake_id for one in good if rows[one.order_id].erased]
    await store.finish_bodies(
        tx.connection,
        [one.new.intake_id for one in good + unknown],
        ["absorbed"] * len(good + unknown),
        [""] * len(good + unknown),
        [one.order_id for one in good + unknown],
    )
    if erased:
        await store.delete_bodies(tx.connection, erased)
    await _set_aside(tx, [(one.new, one.error) for one in reads if one.error])
    return len(bodies)


def read(intake: Intake, new: NewBody) -> Read:
    """Open and map a body. Never raises for what is in it."""
    entry = intake.registry.get(new.body.connection_id)
    assert entry is not None, "only bodies of open connections are absorbed"
    body, connection = new.body, entry.connection
    try:
        raw = intake.open_body(body)
        external_id = entry.connector.points_to(body.topic, raw)
        order = None if external_id else to_order(entry, raw)
        external_id = order.external_id if order else external_id
    except (ValueError, SealBroken) as error:
        return Read(new, entry, error=describe(error))
    if external_id.startswith(ALIAS):
        return Read(new, entry, external_id=external_id)
    order_id = ids.order_id(connection.tenant, connection.connection_id, external_id)
    return Read(new, entry, order_id, external_id, order)


async def _resolve(tx: Transaction, reads: Sequence[Read]) -> list[Read]:
    """Find the orders that pointers speak of by another name; a name may be that of several.

    An order that brings the name later is read again where it was read before the pointer came.
    """
    pointers = [(one.entry.connection.connection_id, one.external_id) for one in reads if one.external_id[:1] == ALIAS]
    if not pointers:
        return list(reads)
    known = await store.orders_by_alias(tx.connection, sorted(set(pointers)), tx.now)
    found = []
    for one in reads:
        connection = one.entry.connection
        meant = [
            replace(one, order_id=ids.order_id(connection.tenant, connection.connection_id, each), external_id=each)
            for each in known.get((connection.connection_id, one.external_id), ())
        ]
        found += meant or [one]
    return found


def to_order(entry: Open, body: bytes) -> ChannelOrder:
    """Map a body, with the deadlines that this connection gives to payments and to parcels. Raises `ValueError`."""
    settings = entry.connection.settings
    hours = settings.get("unpaid_deadline_h", entry.connector.traits.unpaid_deadline_h)
    order = domain.with_deadline(entry.connector.to_order(body), int(hours))
    order = domain.with_ship_by(order, int(settings["transit_days"]) if "transit_days" in settings else None)
    if len({line.line_id for line in order.lines}) < len(order.lines):
        raise ValueError("two lines of the order have one id: nobody could tell what becomes of which")
    return order


async def _take(tx: Transaction, intake: Intake, reads: Sequence[Read]) -> tuple[Mapping[str, OrderRow], bool]:
    """Decide about each body in order of arrival and write it all; returns the orders, and whether to read one."""
    rows = await store.lock_orders(
        tx.connection,
        list(
            {
                one.order_id: (
                    one.order_id,
                    one.entry.connection.tenant,
                    one.entry.connection.connection_id,
                    one.external_id,
                    one.new.body.received_at,
                    one.new.body.traceparent,
                )
                for one in reversed(reads)
            }.values()
        ),
    )
    keys = await intake.customer_keys_of(tx.connection, [one.entry.connection.tenant for one in reads])
    accepted: list[Accepted] = []
    asked = False
    for one in reads:
        row = rows[one.order_id]
        if one.order is None or (verdict := _judge(one, row)) is Verdict.FETCH:
            row.notified_seq += 1
            asked = True
        elif verdict is Verdict.PUBLISH:
            accepted.append(_accept(one, row, keys[one.entry.connection.tenant]))
    if accepted:
        await _apply(tx, intake, accepted)
        asked = await _keep_aliases(tx, accepted) or asked
    await store.save_orders(tx.connection, list(rows.values()))
    return rows, asked


def _judge(one: Read, row: OrderRow) -> Verdict:
    assert one.order is not None
    digest = domain.digest_of(domain.to_snapshot(one.order))
    versioned = one.entry.connector.traits.orders_have_version
    # A read answers the notifications that came before it began; one that was overtaken is no better than a push.
    fetched = one.new.body.fetch_seq is not None and one.new.body.fetch_seq >= row.notified_seq
    return domain.judge(row.kept, one.order, digest, versioned=versioned, fetched=fetched)


def _accept(one: Read, row: OrderRow, tenant_key: bytes) -> Accepted:
    assert one.order is not None
    snapshot = domain.to_snapshot(one.order)
    order = domain.settle_status(row.kept, one.order)
    row.kept_digest = domain.digest_of(snapshot)
    row.snapshot = domain.to_snapshot(order).decode()
    row.revision += 1
    row.kept_version = order.version
    row.status = order.status.value
    row.customer_ref = domain.customer_ref(tenant_key, row.connection_id, order)
    return Accepted(one, order, row, row.revision, row.customer_ref)


async def _keep_aliases(tx: Transaction, accepted: Sequence[Accepted]) -> bool:
    """Keep the other names of orders; True where one was heard meanwhile, so that its order has to be read again."""
    named = {
        (one.row.connection_id, ALIAS + alias, one.row.external_id): one
        for one in accepted
        for alias in one.order.aliases
    }
    if not named:
        return False
    rows = [(*key, named[key].read.new.body.received_at) for key in sorted(named)]
    overtaken = await store.keep_aliases(tx.connection, rows, tx.now)
    for key in overtaken:
        named[key].row.notified_seq += 1
    return bool(overtaken)


async def _apply(tx: Transaction, intake: Intake, accepted: Sequence[Accepted]) -> None:
    links = await _links(tx, [(one.row, one.order) for one in accepted])
    pools = {one.row.connection_id: one.read.entry.connection.pool for one in accepted}
    await _publish(
        tx,
        [(one.row, one.order, one.revision, one.read.new.body.traceparent) for one in accepted],
        links,
        pools,
    )
    await _report_buyers(tx, intake, accepted)


Snapshot = tuple[OrderRow, ChannelOrder, int, str]
"""An order's locked row, what is to be published of it, its revision, and the trace it came in with."""


async def links_of(tx: Transaction, tenant: str, connection_id: str, adverts: Collection[str]) -> dict[str, Link]:
    """What adverts of a connection are to us; those that are linked to no SKU are left out."""
    found = await listings.sku_for_item(tx.connection, tenant, connection_id, sorted(adverts))
    return {advert: Link(one.sku, one.pack, one.stock_record) for advert, one in found.items()}


async def _links(tx: Transaction, orders: Sequence[tuple[OrderRow, ChannelOrder]]) -> dict[str, dict[str, Link]]:
    """What each advert in these orders is to us, by connection and advert."""
    wanted: dict[tuple[str, str], set[str]] = {}
    for row, order in orders:
        wanted.setdefault((row.connection_id, row.tenant), set()).update(line.item for line in order.lines)
    return {
        connection_id: await links_of(tx, tenant, connection_id, adverts)
        for (connection_id, tenant), adverts in sorted(wanted.items())
    }


async def _publish(
    tx: Transaction,
    snapshots: Sequence[Snapshot],
    links: Mapping[str, Mapping[str, Link]],
    pools: Mapping[str, str],
) -> None:
    """Publish sales, count them for the records they lowered, and alert about items that are linked to nothing."""
    sales: list[tuple[str, SaleReported]] = []
    alerts: list[Alert] = []
    for row, order, revision, traceparent in snapshots:
        linked = links[row.connection_id]
        heard = Heard(row.connection_id, row.order_id, pools[row.connection_id], row.customer_ref, row.received_at)
        sale = domain.to_sale(order, heard, revision, linked)
        tx.publish(sale, tenant=row.tenant, cause=Cause("", row.order_id, traceparent), correlation_id=row.order_id)
        sales.append((row.tenant, sale))
        row.unlinked = domain.unlinked_items(order, linked)
        alerts += [_unknown_sku(row, item) for item in row.unlinked]
    released = {row.order_id: order.released_at for row, order, _, _ in snapshots if order.released_at}
    await facts.note_own_sales(tx.connection, sales, tx.now, released)
    await raise_alerts(tx.connection, alerts, tx.now)


def _unknown_sku(row: OrderRow, item: str) -> Alert:
    return Alert(
        tenant=row.tenant,
        connection_id=row.connection_id,
        kind="unknown_sku",
        subject=item,
        text=f"item {item} was sold and is linked to no SKU, so its stock is not lowered: link its listing with "
        "`saldo listing link`; the waiting orders follow by themselves",
        urgent=True,
    )


async def _report_buyers(tx: Transaction, intake: Intake, accepted: Sequence[Accepted]) -> None:
    """Report each buyer that is new or changed, and keep the data sealed until some days after the order is final."""
    newest = {one.row.order_id: one for one in accepted}
    known = await store.buyer_digests(tx.connection, list(newest))
    changed: list[store.Buyer] = []
    reports: list[tuple[Accepted, BuyerReported]] = []
    for order_id, one in newest.items():
        if one.order.buyer is None or one.row.erased:
            continue
        allowed = one.read.entry.connector.traits.contact_allowed
        whose = {"customer_ref": one.customer_ref, "order_id": order_id, "contact_allowed": allowed}
        report = one.order.buyer.model_copy(update=whose)
        tenant, connection_id = one.row.tenant, one.row.connection_id
        # Not of the revision: a sale that changes while its buyer does not reports no buyer.
        digest = intake.vault.digest(report.model_dump_json().encode(), tenant=tenant, owner=connection_id)
        if known.get(order_id) == (one.customer_ref, digest):
            continue
        report = report.model_copy(update={"sale_revision": one.revision})
        content = report.model_dump_json().encode()
        sealed = intake.vault.seal(content, tenant=tenant, owner=connection_id, field=f"buyer:{order_id}")
        changed.append(store.Buyer(order_id, tenant, connection_id, one.customer_ref, sealed, digest))
        reports.append((one, report))
    if changed:
        await store.lock_customers(tx.connection, [buyer.customer_ref for buyer in changed], tx.now)
        await store.save_buyers(tx.connection, changed)
    for one, report in reports:
        cause = Cause("", one.row.order_id, one.read.new.body.traceparent)
        tx.publish(report, tenant=one.row.tenant, cause=cause, correlation_id=one.row.order_id)
    final = [order_id for order_id, one in newest.items() if one.order.status in domain.FINAL]
    if final or known:
        erase_at = tx.now + timedelta(days=intake.settings.buyer_keep_days)
        await store.set_erase_at(tx.connection, final, sorted(set(newest) - set(final)), erase_at)


async def _set_aside(tx: Transaction, bad: Sequence[tuple[NewBody, str]]) -> None:
    """Poison bodies that cannot be made into sales: visible among the dead letters, with an urgent alert."""
    if not bad:
        return
    await store.finish_bodies(
        tx.connection,
        [new.intake_id for new, _ in bad],
        ["poisoned"] * len(bad),
        [error for _, error in bad],
        [""] * len(bad),
    )
    for new, error in bad:
        await store.insert_dead_letter(tx.connection, tx.new_id(), INTAKE_STREAM, new, error)
    await raise_alerts(
        tx.connection,
        [
            Alert(
                tenant=new.body.tenant,
                connection_id=new.body.connection_id,
                kind="unreadable_body",
                subject=str(new.intake_id),
                text=f"intake {new.intake_id} cannot be read: {error}; a sale may be missing. Replay it after the fix "
                f"with POST /admin/intake/{new.intake_id}/replay",
                urgent=True,
            )
            for new, error in bad
        ],
        tx.now,
    )


async def republish_waiting(tx: Transaction, connection_id: str, listings: Sequence[str], pool: str) -> int:
    """Listings were linked: report again exactly the orders with a line that waited for one. Returns how many.

    The caller took the absorb lock before it linked: else an order that is being absorbed could miss the link and be
    missed here.
    """
    waiting = await store.orders_waiting_for(tx.connection, connection_id, listings)
    rows = await store.lock_known(tx.connection, waiting)
    orders = [(row, domain.from_snapshot(row.snapshot)) for row in rows.values() if row.snapshot]
    if orders:
        links = await _links(tx, orders)
        for row, _ in orders:
            row.revision += 1
        snapshots = [(row, order, row.revision, row.traceparent) for row, order in orders]
        await _publish(tx, snapshots, links, {connection_id: pool})
        await store.save_orders(tx.connection, list(rows.values()))
    await resolve_alerts(tx.connection, connection_id, "unknown_sku", listings, tx.now)
    return len(orders)

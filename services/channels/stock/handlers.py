"""Inventory's state as it arrives: levels and items. Gather, decide, apply; a batch is one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from contracts.inventory.v1 import CauseOutcome, ItemChanged, StockLevelChanged
from services.bus import Cause, Received, Transaction
from services.channels.stock import facts, listings
from services.channels.stock.facts import Change, Counters, Level, SaleCause
from services.channels.stock.wake import Due, Wake

_DECIDED = frozenset({CauseOutcome.RESERVED, CauseOutcome.SHORT, CauseOutcome.RELEASED})
"""What counts for something new: the others move units that were decided before."""


@dataclass(slots=True)
class _Fold:
    """The newest level of one SKU in a batch, and every sale that the batch's newer levels cover."""

    version: tuple[int, int]
    before: Counters | None
    last: Received[StockLevelChanged] | None = None
    causes: list[SaleCause] = field(default_factory=list)
    events: dict[Cause, None] = field(default_factory=dict)
    omitted: int = 0


async def take_levels(
    wake: Wake, low_stock: int, events: Sequence[Received[StockLevelChanged]], tx: Transaction
) -> None:
    """Keep the newest level of each SKU, count own units decided, and dirty every record that takes a changed SKU.

    What leaves the house was reserved before: such a level has nothing new for any channel, and dirties nothing.
    A level that is not newer than the kept one is a late duplicate or an announcement: its causes were counted with
    the first copy, because the first copies of one SKU arrive in order.
    """
    keys = sorted({(event.tenant, event.message.sku) for event in events})
    kept = await facts.lock_levels(tx.connection, keys)
    folds = {key: _Fold(kept[key][:2], kept[key][2]) if key in kept else _Fold((-1, -1), None) for key in keys}
    for event in events:
        level = event.message
        fold = folds[event.tenant, level.sku]
        if (level.epoch, level.version) <= fold.version:
            continue
        fold.version, fold.last = (level.epoch, level.version), event
        fold.omitted += level.causes_omitted
        fold.causes += _causes(event)
        fold.events[event.cause] = None
    fresh = {key: fold for key, fold in folds.items() if fold.last is not None}
    if not fresh:
        return
    causes = [cause for fold in fresh.values() for cause in fold.causes]
    await facts.put_levels(tx.connection, [_level(fold) for fold in fresh.values()])
    if causes:
        await facts.count_decided(tx.connection, causes)
        await facts.open_propagation(tx.connection, causes)
    if changes := [_change(fold) for fold in fresh.values() if _is_news(fold)]:
        due = await facts.dirty_consumers(tx.connection, changes, low_stock, tx.now)
        tx.after_commit(lambda: _wake(wake, due, tx.now))


def _wake(wake: Wake, due: Sequence[tuple[Due, datetime]], now: datetime) -> None:
    """Wake the lanes at once that can send at once, the others when they can."""
    if at_once := {lane for lane, due_at in due if due_at <= now}:
        wake.dirtied(at_once)
    for lane, due_at in due:
        if due_at > now:
            wake.later((due_at - now).total_seconds(), [lane])


def _causes(event: Received[StockLevelChanged]) -> list[SaleCause]:
    level, cause = event.message, event.cause
    return [
        SaleCause(
            tenant=event.tenant,
            sku=level.sku,
            epoch=level.epoch,
            version=level.version,
            order_id=one.order_id,
            line_id=one.line_id,
            sale_revision=one.sale_revision,
            connection_id=one.connection_id,
            units=one.units,
            outcome=one.outcome.value,
            sold_at=one.sold_at,
            received_at=one.received_at,
            event_id=cause.event_id,
            correlation_id=cause.correlation_id,
            traceparent=cause.traceparent,
        )
        for one in level.causes
        if one.outcome in _DECIDED
    ]


def _level(fold: _Fold) -> Level:
    assert fold.last is not None
    level = fold.last.message
    return Level(
        tenant=fold.last.tenant,
        sku=level.sku,
        epoch=level.epoch,
        version=level.version,
        counters=_counters(level),
        sold=sum(cause.units for cause in fold.causes),
    )


def _counters(level: StockLevelChanged) -> Counters:
    return tuple((one.location, one.pool, one.available, one.held_by) for one in level.levels)


def _is_news(fold: _Fold) -> bool:
    assert fold.last is not None
    return bool(fold.causes or fold.omitted) or fold.before != _counters(fold.last.message)


def _change(fold: _Fold) -> Change:
    """What a batch changed about a SKU. Sales and cancels explain it if what is available fell by no more than sold."""
    assert fold.last is not None
    level = fold.last.message
    available = sum(one.available for one in level.levels)
    reserved = sum(cause.units for cause in fold.causes if cause.outcome != CauseOutcome.SHORT)
    return Change(
        tenant=fold.last.tenant,
        sku=level.sku,
        available=available,
        sales_only=bool(fold.causes or fold.omitted) and _explained(fold, available, reserved),
        causes=tuple(fold.events)[: facts.LINKS_MAX],
    )


def _explained(fold: _Fold, available: int, reserved: int) -> bool:
    if fold.before is None:
        return False
    return bool(fold.omitted) or sum(units for _, _, units, _ in fold.before) - available == reserved


async def take_items(wake: Wake, events: Sequence[Received[ItemChanged]], tx: Transaction) -> None:
    """Keep what each kit is made of; records linked to an item that changed take other SKUs from now on."""
    newest: dict[tuple[str, str], Received[ItemChanged]] = {}
    for event in events:
        key = (event.tenant, event.message.sku)
        other = newest.get(key)
        if other is None or (other.message.epoch, other.message.version) < (event.message.epoch, event.message.version):
            newest[key] = event
    rows = [
        (
            tenant,
            sku,
            event.message.epoch,
            event.message.version,
            [(c.sku, c.quantity) for c in event.message.components],
        )
        for (tenant, sku), event in sorted(newest.items())
    ]
    changed = await facts.put_items(tx.connection, rows)
    if not changed:
        return
    for tenant, records in sorted((await facts.lock_records_of_items(tx.connection, changed)).items()):
        await listings.explode(tx.connection, tenant, records)
    tx.after_commit(wake.dirtied)

"""Messages of inventory, made from what was decided, and the daily announcement of its two states."""

import json
from collections.abc import Iterable
from functools import lru_cache

from contracts.inventory.v1 import (
    AccountRef,
    AccountState,
    DemandMet,
    DemandShort,
    HoldExpired,
    MovementRecorded,
    ShippedQuantity,
    StockLevelChanged,
)
from services.bus import Transaction
from services.inventory import store
from services.inventory.ledger import (
    AVAILABLE,
    RESERVED,
    Account,
    Expired,
    Location,
    Movement,
    Outcome,
    Sku,
    SkuCause,
)

CAUSES_MAX = 1000


def level_message(sku: Sku, locations: dict[str, Location], causes: Iterable[SkuCause]) -> StockLevelChanged:
    """The level of a SKU. Stock that a channel holds is listed, and left out of the sums."""
    levels, available, reserved = [], 0, 0
    counters = sku.counters
    for location, pool in sku.places:
        known = locations.get(location)
        held_by = known.held_by if known else None
        free, kept = counters.get((location, pool, AVAILABLE), 0), counters.get((location, pool, RESERVED), 0)
        levels.append({"location": location, "pool": pool, "available": free, "reserved": kept, "held_by": held_by})
        if held_by is None:
            available += free
            reserved += kept
    told = list(causes)
    omitted = max(0, len(told) - CAUSES_MAX)
    # The whole in one validation costs half of one for each part.
    return StockLevelChanged.of(
        {
            "sku": sku.sku,
            "epoch": sku.epoch,
            "version": sku.version,
            "levels": levels,
            "available": available,
            "reserved": reserved,
            "causes": [_cause(cause) for cause in told[:CAUSES_MAX]],
            "causes_omitted": omitted,
            "oldest_sold_at": min(cause.order.sold_at for cause in told) if omitted else None,
        }
    )


def movement_message(movement: Movement, movement_id: str, tx: Transaction) -> MovementRecorded:
    """A row of the ledger as others see it."""
    return MovementRecorded.of(
        {
            "movement_id": movement_id,
            "sku": movement.sku,
            "from_account": _account(movement.source),
            "to_account": _account(movement.target),
            "quantity": movement.quantity,
            "epoch": movement.epoch,
            "sku_version": movement.version,
            "cause": movement.cause,
            "line": movement.line,
            "at": tx.now,
        }
    )


def report_message(report: Outcome | Expired, tx: Transaction) -> DemandMet | DemandShort | HoldExpired:
    """How an order's demand stands."""
    order = report.order
    if isinstance(report, Expired):
        return HoldExpired(order_id=order.order_id, revision=report.revision, expired_at=tx.now)
    kind = DemandShort if report.short else DemandMet
    lines = [
        {
            "line_id": line.line_id,
            "sku": line.sku,
            "reserved": line.reserved,
            "short": line.short,
            "shipped": line.shipped,
            "returned": line.returned,
            "locations": [_lying(location, quantity) for location, quantity in line.locations],
            "possible": line.possible,
        }
        for line in report.lines
    ]
    return kind.of({"order_id": order.order_id, "revision": report.revision, "lines": lines})


async def announce_levels(tx: Transaction, tenant: str | None, after: str, limit: int) -> str | None:
    """Publish a page of levels as they stand, each under the lock of its SKU; returns the cursor of the next page."""
    skus = await store.lock_sku_page(tx.connection, tenant, _position(after), limit)
    await store.read_stock(tx.connection, skus)
    locations = await store.read_locations(tx.connection, {owner for owner, _ in skus})
    for (owner, code), sku in skus.items():
        tx.publish(level_message(sku, locations[owner], ()), tenant=owner, cause=(), correlation_id=code)
    return json.dumps(list(skus)[-1]) if len(skus) == limit else None


async def announce_items(tx: Transaction, tenant: str | None, after: str, limit: int) -> str | None:
    """Publish a page of items as they stand, each under its lock; returns the cursor of the next page."""
    items = await store.lock_item_page(tx.connection, tenant, _position(after), limit)
    for owner, item in items:
        tx.publish(item, tenant=owner, cause=(), correlation_id=item.sku)
    return json.dumps([items[-1][0], items[-1][1].sku]) if len(items) == limit else None


def _position(after: str) -> store.Key:
    if not after:
        return "", ""
    tenant, sku = json.loads(after)
    return tenant, sku


def _cause(cause: SkuCause) -> dict[str, object]:
    order = cause.order
    return {
        "order_id": order.order_id,
        "sale_revision": cause.sale_revision,
        "line_id": cause.line_id,
        "connection_id": order.connection_id,
        "units": cause.units,
        "outcome": cause.outcome,
        "sold_at": order.sold_at,
        "received_at": order.received_at,
    }


@lru_cache(maxsize=4096)
def _lying(location: str, quantity: int) -> ShippedQuantity:
    return ShippedQuantity(location=location, quantity=quantity)


@lru_cache(maxsize=4096)
def _account(account: Account) -> AccountRef:
    location, pool, state = account
    return AccountRef(location=location, pool=pool, state=AccountState(state))

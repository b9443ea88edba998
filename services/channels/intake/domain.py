"""What a body that came in means for the order it is about. Pure."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from pydantic import TypeAdapter

from contracts.channels.v1 import SaleLine, SaleReported, SaleStatus
from services.channels.connectors.connector import ChannelLine, ChannelOrder

_RANK: Final = {
    SaleStatus.UNKNOWN: 0,
    SaleStatus.PLACED: 1,
    SaleStatus.AWAITING_PAYMENT: 1,
    SaleStatus.PAID: 2,
    SaleStatus.CANCEL_REQUESTED: 2,
    SaleStatus.SHIPPED: 3,
    SaleStatus.DELIVERED: 4,
    SaleStatus.RETURNED: 5,
    SaleStatus.CANCELLED: 5,
}
_NEVER_LEFT: Final = frozenset({SaleStatus.CANCELLED, SaleStatus.RETURNED})
FINAL: Final = _NEVER_LEFT | {SaleStatus.DELIVERED}
"""States after which a buyer's data is kept for some days only."""

_order_json: Final = TypeAdapter(ChannelOrder)


class Verdict(StrEnum):
    """What to do with a body."""

    PUBLISH = "publish"
    IGNORE = "ignore"
    FETCH = "fetch"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of an order. Revision 0: it was pointed to and never seen."""

    revision: int
    version: str
    status: SaleStatus
    digest: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """What a channel's item is to us: units of `sku` in one sold there, and the record whose number a sale lowers."""

    sku: str
    pack: int
    stock_record: str


def judge(kept: Kept, order: ChannelOrder, digest: bytes, *, versioned: bool, fetched: bool) -> Verdict:
    """Whether `order` replaces what is kept.

    With versions: an older one never does; an equal one with another content is fetched again, since two changes fell
    into one tick of the channel's clock, and what was fetched for that reason does. Without: the order of arrival and
    the rank of states decide, and a final state is never left.
    """
    if kept.revision == 0:
        return Verdict.PUBLISH
    if digest == kept.digest:
        return Verdict.IGNORE
    if versioned:
        if order.version < kept.version:
            return Verdict.IGNORE
        if order.version == kept.version and not fetched:
            return Verdict.FETCH
        return Verdict.PUBLISH
    if kept.status in _NEVER_LEFT and order.status is not kept.status:
        return Verdict.IGNORE
    if order.status is not SaleStatus.UNKNOWN and _RANK[order.status] < _RANK[kept.status]:
        return Verdict.IGNORE
    return Verdict.PUBLISH


def settle_status(kept: Kept, order: ChannelOrder) -> ChannelOrder:
    """A state that no mapping covers changes nothing about the last one that was understood."""
    if order.status is SaleStatus.UNKNOWN and kept.revision:
        return replace(order, status=kept.status)
    return order


def with_deadline(order: ChannelOrder, hours: int) -> ChannelOrder:
    """The marketplace's documented deadline for an unpaid order, where it documents one (`hours` above 0)."""
    if order.status is not SaleStatus.AWAITING_PAYMENT or order.payment_due or not hours:
        return order
    return replace(order, payment_due=order.sold_at + timedelta(hours=hours))


def with_ship_by(order: ChannelOrder, transit_days: int | None) -> ChannelOrder:
    """When an order has to leave whose channel says only when it is to arrive: so many days before."""
    if order.ship_by or order.deliver_by is None or transit_days is None:
        return order
    return replace(order, ship_by=order.deliver_by - timedelta(days=transit_days))


def without_person(order: ChannelOrder) -> ChannelOrder:
    """The order as it may be kept: nothing about the buyer, no token to pay with, nor what we told the channel."""
    checkout = order.checkout.model_copy(update={"token": ""}) if order.checkout else None
    return replace(order, buyer=None, buyer_id="", checkout=checkout, told=frozenset())


def to_snapshot(order: ChannelOrder) -> bytes:
    """JSON of an order without its buyer."""
    return _order_json.dump_json(without_person(order))


def from_snapshot(snapshot: str | bytes) -> ChannelOrder:
    """The order again."""
    return _order_json.validate_json(snapshot)


def digest_of(snapshot: bytes) -> bytes:
    """A fingerprint of what an order says to us, whatever else its body holds."""
    return hashlib.blake2b(snapshot, digest_size=16).digest()


def customer_ref(tenant_key: bytes, connection_id: str, order: ChannelOrder) -> str:
    """Who bought, to be told apart and never to be found out without the tenant's key.

    A guest without an id at the channel is a customer of one order.
    """
    who = f"buyer\n{order.buyer_id}" if order.buyer_id else f"order\n{order.external_id}"
    return hmac.new(tenant_key, f"{connection_id}\n{who}".encode(), hashlib.sha256).hexdigest()


def _line(line: ChannelLine, link: Link | None) -> SaleLine:
    pack = link.pack if link else 1
    return SaleLine(
        line_id=line.line_id,
        sku=link.sku if link else None,
        quantity=line.quantity * pack,
        cancelled=line.cancelled * pack,
        returned=line.returned * pack,
        # Per unit of the SKU, rounded down; the order's totals are what was paid.
        unit_price_minor=line.unit_price_minor // pack,
        discount_minor=line.discount_minor,
        listing=line.item,
        stock_record=link.stock_record if link else "",
        fulfilled_by=line.fulfilled_by,
    )


def unlinked_items(order: ChannelOrder, links: Mapping[str, Link]) -> list[str]:
    """Items of the order that are linked to none of our SKUs."""
    return sorted({line.item for line in order.lines if line.item not in links})


@dataclass(frozen=True, slots=True)
class Heard:
    """Where and when a sale was heard."""

    connection_id: str
    order_id: str
    pool: str
    customer_ref: str
    received_at: datetime


def to_sale(order: ChannelOrder, heard: Heard, revision: int, links: Mapping[str, Link]) -> SaleReported:
    """The snapshot that goes out. A line with an unknown item goes out without SKU and waits alone."""
    waiting = tuple(f"sku of item {item}" for item in unlinked_items(order, links))
    return SaleReported(
        connection_id=heard.connection_id,
        external_id=order.external_id,
        order_id=heard.order_id,
        revision=revision,
        status=order.status,
        sold_at=order.sold_at,
        received_at=heard.received_at,
        customer_ref=heard.customer_ref,
        pool=heard.pool,
        currency=order.currency,
        lines=tuple(_line(line, links.get(line.item)) for line in order.lines),
        total_minor=order.total_minor,
        freight_minor=order.freight_minor,
        shipping_service=order.shipping_service or None,
        shortfall_policy=order.shortfall_policy,
        all_or_nothing=order.all_or_nothing,
        ship_by=order.ship_by,
        payment_due=order.payment_due,
        unresolved=(*order.unresolved, *waiting),
        checkout=order.checkout,
        invoice=order.invoice,
    )

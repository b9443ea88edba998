"""A basket as intake is told of it, in the form of any channel's order. Pure."""

from contracts.channels.v1 import BuyerReported, Checkout, SaleStatus, ShortfallPolicy
from services.channels.connectors.connector import ChannelLine, ChannelOrder
from services.channels.shop.domain import Basket


def to_order(basket: Basket, buyer: BuyerReported | None, token: str) -> ChannelOrder:
    """The basket as any channel tells an order. `buyer` only where it is new; `token` until it is told of."""
    gone = basket.ended == "cancelled"
    chosen = basket.chosen
    return ChannelOrder(
        external_id=basket.external_id,
        version=f"{basket.version:08}",
        status=basket.status,
        sold_at=basket.created_at,
        currency=basket.currency,
        lines=tuple(
            ChannelLine(
                line_id=line.line_id,
                item=line.sku,
                sku=line.sku,
                quantity=line.quantity,
                cancelled=line.quantity if gone else 0,
                returned=line.quantity if basket.ended == "returned" else 0,
                unit_price_minor=line.unit_price_minor,
                discount_minor=0,
            )
            for line in basket.lines
        ),
        total_minor=basket.total_minor,
        freight_minor=basket.freight_minor,
        shipping_service=chosen.service if chosen else "",
        payment_due=basket.hold_until if basket.status is SaleStatus.AWAITING_PAYMENT else None,
        buyer_id="",
        buyer=buyer,
        checkout=Checkout(
            hold_until=basket.hold_until,
            method=basket.method,
            gateway=basket.gateway or None,
            token=token,
            carrier=chosen.carrier if chosen else None,
            attempt=basket.attempt,
        ),
        shortfall_policy=ShortfallPolicy.SHARED_POOL,
        all_or_nothing=True,
    )

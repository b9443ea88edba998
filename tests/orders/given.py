"""Sales and answers to begin a test with, and an inventory as simple as a contract allows."""

from datetime import UTC, datetime, timedelta
from typing import Any

from contracts.channels.v1 import Checkout, SaleLine, SaleReported, SaleStatus
from contracts.erp.v1 import InvoiceIssued
from contracts.fulfillment.v1 import (
    LabelCreated,
    ParcelFact,
    PrepareShipment,
    ShipmentDelivered,
    ShipmentDispatched,
)
from contracts.inventory.v1 import DemandMet, DemandShort, LineOutcome, OrderDemand, ShippedQuantity
from contracts.payments.v1 import PaymentMethod
from services.orders.domain import decide
from services.orders.order import Order

NOW = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
SOLD_AT = datetime(2026, 3, 14, 11, 59, tzinfo=UTC)
KIT = "KIT-BREAKFAST"
COMPONENTS = {KIT: {"MUG": 2, "TRAY": 1}}


def line(line_id: str = "1", sku: str | None = "MUG", quantity: int = 2, **fields: Any) -> SaleLine:
    record = f"record-{line_id}"
    return SaleLine(line_id=line_id, sku=sku, quantity=quantity, listing=record, stock_record=record, **fields)


def sale(revision: int = 1, status: SaleStatus = SaleStatus.PAID, *lines: SaleLine, **fields: Any) -> SaleReported:
    given = {
        "connection_id": "connection-a",
        "external_id": "1001",
        "order_id": "order-a",
        "sold_at": SOLD_AT,
        "received_at": SOLD_AT,
        "customer_ref": "customer-a",
        "currency": "BRL",
    }
    return SaleReported(revision=revision, status=status, lines=lines or (line(),), **(given | fields))


def answer(demand: OrderDemand, stock: dict[str, int] | None = None, location: str = "main") -> DemandMet | DemandShort:
    """What inventory says to `demand`, with `stock` of each part in all (unlimited if None)."""
    outcomes = []
    for asked in demand.lines:
        shipped = sum(was.quantity for was in asked.shipped)
        wanted = asked.ordered - asked.cancelled - shipped
        for sku, factor in COMPONENTS.get(asked.sku, {asked.sku: 1}).items():
            units = wanted * factor
            reserved = units if stock is None else max(0, min(units, stock.get(sku, 0) - shipped * factor))
            at = asked.location or location
            outcomes.append(
                LineOutcome(
                    line_id=asked.line_id,
                    sku=sku,
                    reserved=reserved,
                    short=units - reserved,
                    shipped=shipped * factor,
                    returned=sum(was.quantity for was in asked.returned) * factor,
                    locations=(ShippedQuantity(location=at, quantity=reserved),) if reserved else (),
                )
            )
    kind = DemandShort if any(outcome.short for outcome in outcomes) else DemandMet
    return kind(order_id=demand.order_id, revision=demand.revision, lines=tuple(outcomes))


def settle(order: Order | None, stock: dict[str, int] | None = None) -> Order:
    """`order` after inventory has answered everything that is open."""
    assert order
    while order.demand and not order.settled:
        order = decide(order, answer(order.demand, stock), NOW).order
        assert order
    return order


def checkout(attempt: int = 0, method: PaymentMethod | None = None, hold_min: int = 15) -> Checkout:
    """What a buyer of the own shop has chosen."""
    gateway = {PaymentMethod.CARD: "stripe", PaymentMethod.PIX: "pix"}.get(method) if method else None
    token = "tok-once" if method is PaymentMethod.CARD else ""
    hold_until = NOW + timedelta(minutes=hold_min)
    return Checkout(
        hold_until=hold_until, method=method, gateway=gateway, token=token, attempt=attempt, carrier="table"
    )


def basket(revision: int = 1, attempt: int = 0, method: PaymentMethod | None = None, **fields: Any) -> SaleReported:
    """A basket of the own shop: two mugs of 50.00 and 10.00 freight."""
    given = {"total_minor": 11_000, "freight_minor": 1_000, "checkout": checkout(attempt, method)}
    lines = fields.pop("lines", (line(unit_price_minor=5_000),))
    return sale(revision, fields.pop("status", SaleStatus.AWAITING_PAYMENT), *lines, **(given | fields))


def payment(kind: Any, version: int, authorized: int = 0, captured: int = 0, refunded: int = 0, **fields: Any) -> Any:
    """A fact about the first attempt to pay a basket, 110.00 by card unless said otherwise."""
    given = {
        "order_id": "order-a",
        "payment_id": "order-a:p1",
        "version": version,
        "connection_id": "connection-a",
        "method": PaymentMethod.CARD,
        "gateway": "stripe",
        "currency": "BRL",
        "amount_minor": 11_000,
        "authorized_minor": authorized,
        "captured_minor": captured,
        "refunded_minor": refunded,
        "at": NOW,
    }
    return kind(**(given | fields))


def invoice(number: int = 1, order_id: str = "order-a", total_minor: int = 11_000) -> InvoiceIssued:
    """The invoice of an order; a later one of a higher number takes its place."""
    return InvoiceIssued(
        order_id=order_id, document_id=f"document-{number}", invoice_no=str(number), series="1",
        invoice_key=f"{number:044}", issued_at=NOW + timedelta(minutes=number), total_minor=total_minor, currency="BRL",
    )  # fmt: skip


def shipment(kind: Any, asked: PrepareShipment, version: int, **fields: Any) -> Any:
    """A fact about the shipment that `asked` is about."""
    given = {
        "order_id": asked.order_id,
        "shipment_id": asked.shipment_id,
        "version": version,
        "revision": asked.revision,
        "location": asked.location,
        "lines": asked.lines,
        "at": NOW,
    }
    if issubclass(kind, ParcelFact):
        given |= {"carrier": "table", "service": "standard", "tracking_code": "SD1"}
    if kind is LabelCreated:
        given |= {"label_id": "label-1"}
    if kind is ShipmentDispatched:
        given |= {"dispatched_at": NOW}
    if kind is ShipmentDelivered:
        given |= {"delivered_at": NOW}
    return kind(**(given | fields))

"""Sales and answers to begin a test with, and an inventory as simple as a contract allows."""

from datetime import UTC, datetime
from typing import Any

from contracts.channels.v1 import SaleLine, SaleReported, SaleStatus
from contracts.inventory.v1 import DemandMet, DemandShort, LineOutcome, OrderDemand, ShippedQuantity
from services.orders.domain import Order, decide

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

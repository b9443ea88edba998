"""What there is to tell of an order that changed. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from contracts.channels.v1 import PaymentCollector, SaleStatus
from contracts.orders.v1 import (
    OrderCancelled,
    OrderCancelling,
    OrderChanged,
    OrderConfirmed,
    OrderDelivered,
    OrderFact,
    OrderHeld,
    OrderInvoiced,
    OrderPacked,
    OrderPaid,
    OrderPlaced,
    OrderReturned,
    OrderShipped,
    OrderShort,
    ShortLine,
)
from services.orders.order import (
    Cancelled,
    Cancelling,
    Confirmed,
    Delivered,
    Held,
    Invoiced,
    Order,
    Packed,
    Shipped,
    State,
)
from services.orders.process import (
    STAGES,
)
from services.orders.standing import hold, line_values, lines_told, owed, returned_lines, short_lines


def facts_of(
    before: Order | None, after: Order, state: State, waits: Held | None, missing: tuple[ShortLine, ...], now: datetime
) -> tuple[OrderFact, ...]:
    """What there is to tell, each fact one version above the one before it."""
    facts: list[OrderFact] = []

    def head() -> dict[str, object]:
        return head_of(after, after.version + len(facts) + 1, now)

    sale = after.sale

    def owing() -> dict[str, object]:
        return head() | {"due_minor": owed(after), "currency": sale.currency}

    if before is None:
        facts.append(_placed(after, head()))
    elif after.paid and not before.paid:
        facts.append(OrderPaid(**owing()))
    if before and before.sale is not sale and _is_changed(before, after):
        facts.append(OrderChanged(**owing(), lines=lines_told(after)))
    if waits and not (before and waits == hold(before)):
        facts.append(OrderHeld(**head(), reason=waits.reason, until=waits.until))
    if before and after.process is not before.process and (reason := _waits_for_person(before, after)):
        facts.append(OrderHeld(**head(), reason=reason))
    if missing and not (before and missing == short_lines(before)):
        facts.append(OrderShort(**head(), lines=missing))
    if not (before and before.state == state):
        match state:
            case Confirmed() | Invoiced() if not (before and isinstance(before.state, Confirmed | Invoiced | Packed)):
                facts.append(OrderConfirmed.of(head()))
            case Packed():
                parcels = after.process.parcels
                facts.append(OrderPacked(**head(), shipment_ids=tuple(one.shipment_id for one in parcels if one.open)))
            case Cancelling(reason=reason):
                facts.append(OrderCancelling(**head(), reason=reason))
            case Cancelled():
                facts.append(OrderCancelled(**owing(), reason=after.process.cancel or "channel"))
            case Shipped():
                facts.append(OrderShipped(**head()))
            case Delivered():
                facts.append(OrderDelivered(**owing()))
            case _:
                pass
    invoice = after.process.invoice
    if invoice and not (before and before.process.invoice == invoice):
        facts.append(
            OrderInvoiced(
                **head(), invoice_id=invoice.document_id, invoice_key=invoice.invoice_key,
                total_minor=invoice.total_minor, currency=invoice.currency,
            )
        )  # fmt: skip
    back = returned_lines(after)
    if back and not (before and back == returned_lines(before)):
        facts.append(OrderReturned(**owing(), lines=back))
    return tuple(facts)


def _placed(order: Order, head: Mapping[str, Any]) -> OrderPlaced:
    sale = order.sale
    # The whole in one validation costs two thirds of one for each part, here and of a demand.
    return OrderPlaced.of(
        {
            **head,
            "sold_at": sale.sold_at,
            "customer_ref": sale.customer_ref,
            "paid": order.paid,
            "payment_by": sale.checkout.payment_by if sale.checkout else PaymentCollector.CHANNEL,
            "due_minor": owed(order),
            "currency": sale.currency,
            "total_minor": sale.total_minor,
            "freight_minor": sale.freight_minor,
            "lines": [line_values(line, line.quantity) for line in sale.lines],
        }
    )


def _is_changed(before: Order, after: Order) -> bool:
    """Whether a newer snapshot asks for something else, or costs something else, and is not cancelled as a whole."""
    if after.status is SaleStatus.CANCELLED or before.status is SaleStatus.CANCELLED:
        return False
    old, new = before.sale, after.sale
    return lines_told(before) != lines_told(after) or (old.total_minor, old.freight_minor) != (
        new.total_minor,
        new.freight_minor,
    )


def _waits_for_person(before: Order, after: Order) -> str:
    """What a person is asked for, the first time that a stage has lasted too long."""
    stage = after.process.stage
    if not stage or not after.process.rounds or (before.process.stage == stage and before.process.rounds):
        return ""
    return STAGES[stage].held


def head_of(order: Order, version: int, now: datetime) -> dict[str, object]:
    sale = order.sale
    return {
        "order_id": sale.order_id,
        "version": version,
        "connection_id": sale.connection_id,
        "external_id": sale.external_id,
        "sale_revision": sale.revision,
        "at": now,
    }

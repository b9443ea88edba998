"""What of an event goes into a customer's timeline: named fields alone, none of which can hold personal data. Pure."""

from typing import Any, Final, NamedTuple

from contracts.envelope import Message, UtcDatetime
from contracts.erp.v1 import InvoiceIssued
from contracts.fulfillment import v1 as fulfillment
from contracts.orders import v1 as orders
from contracts.payments import v1 as payments

_PAYMENT: Final = ("payment_id", "method", "currency", "amount_minor", "captured_minor", "refunded_minor")
_SHIPMENT: Final = ("shipment_id", "location")
_PARCEL: Final = (*_SHIPMENT, "carrier", "service", "tracking_code")
_OWING: Final = ("due_minor", "currency")

ORDERS: Final[dict[type[Message], tuple[str, ...]]] = {
    orders.OrderPlaced: ("connection_id", "external_id", "sold_at", "paid", "total_minor", "currency"),
    orders.OrderConfirmed: (),
    orders.OrderPaid: _OWING,
    orders.OrderChanged: _OWING,
    orders.OrderCancelled: ("reason", *_OWING),
    orders.OrderShipped: (),
    orders.OrderDelivered: (),
    orders.OrderReturned: _OWING,
    orders.OrderClosed: ("reason",),
}
PAYMENTS: Final[dict[type[Message], tuple[str, ...]]] = {
    payments.PaymentAuthorized: _PAYMENT,
    payments.PaymentCaptured: _PAYMENT,
    payments.PaymentFailed: (*_PAYMENT, "reason"),
    payments.PaymentVoided: (*_PAYMENT, "reason"),
    payments.PaymentRefunded: (*_PAYMENT, "reason"),
    payments.PaymentDisputed: (*_PAYMENT, "reason"),
    payments.PaymentTakenOver: _PAYMENT,
}
SHIPMENTS: Final[dict[type[Message], tuple[str, ...]]] = {
    fulfillment.ShipmentPrepared: _SHIPMENT,
    fulfillment.LabelCreated: _PARCEL,
    fulfillment.ShipmentDispatched: _PARCEL,
    fulfillment.ShipmentTracked: (*_PARCEL, "status", "happened_at"),
    fulfillment.ShipmentDelivered: (*_PARCEL, "delivered_at"),
    fulfillment.ShipmentCancelled: _SHIPMENT,
    fulfillment.ShipmentFailed: (*_SHIPMENT, "reason", "final"),
    fulfillment.ReturnReceived: ("shipment_id", "return_id"),
}
DOCUMENTS: Final[dict[type[Message], tuple[str, ...]]] = {
    InvoiceIssued: ("document_id", "kind", "total_minor", "currency")
}
_FIELDS: Final = ORDERS | PAYMENTS | SHIPMENTS | DOCUMENTS
_MOMENTS: Final = ("at", "received_at", "issued_at")


class Told(NamedTuple):
    """One entry of a timeline; `kind` is the event's name."""

    at: UtcDatetime
    kind: str
    what: dict[str, Any]


def tell(message: Message) -> Told:
    """The entry of an event whose type is in one of the tables here."""
    at = next(getattr(message, name) for name in _MOMENTS if hasattr(message, name))
    what = message.model_dump(mode="json", include=set(_FIELDS[type(message)]))
    return Told(at, type(message).__name__, what)

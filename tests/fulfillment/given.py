"""Shipments, buyers and labels to begin a test with. Names and addresses are made up."""

from datetime import UTC, datetime
from typing import Any

from contracts.channels.v1 import BuyerAddress, BuyerReported
from contracts.fulfillment.v1 import CancelShipment, PrepareShipment, ReceivedLine, ShipmentLine
from contracts.inventory.v1 import AccountState
from services.fulfillment.domain import BuyerKnown, Buying, Decision, Event, LabelMade, Packed, Shipment, decide

NOW = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
ORDER, SHIPMENT = "order-a", "order-a:s1"
KEY = "35260312345678000195550010000000421000000428"
LINE = ShipmentLine(line_id="1", sku="MUG", quantity=2)
LABEL = LabelMade("label-1", "ECT", "pac", tracking_code="SD123456785BR", price_minor=1990, currency="BRL")
PACKED = Packed(700, (200, 150, 100))


def prepare(revision: int = 1, **fields: Any) -> PrepareShipment:
    shown = {
        "order_id": ORDER,
        "shipment_id": SHIPMENT,
        "connection_id": "connection-a",
        "location": "main",
        "lines": (LINE,),
        "currency": "BRL",
        "declared_minor": 9900,
        "invoice_required": True,
        "invoice_key": KEY,
    }
    return PrepareShipment(revision=revision, **(shown | fields))


def cancel(revision: int = 2) -> CancelShipment:
    return CancelShipment(order_id=ORDER, shipment_id=SHIPMENT, revision=revision, reason="channel")


def buyer(order_id: str = ORDER, **fields: Any) -> BuyerReported:
    street = BuyerAddress(
        kind="delivery", street="Rua das Flores", number="100", district="Centro", city="São Paulo", region="SP",
        postal_code="01001-000", country="BR",
    )  # fmt: skip
    return BuyerReported(customer_ref="ref-a", order_id=order_id, name="Ana Exemplo", addresses=(street,), **fields)


def back(quantity: int, state: AccountState = AccountState.AVAILABLE) -> ReceivedLine:
    return ReceivedLine(line_id="1", sku="MUG", quantity=quantity, location="main", state=state)


def told(*events: Event, before: Shipment | None = None) -> Decision:
    """Decide `events` one after another; all their facts, and the last refusal."""
    shipment = before or Shipment(SHIPMENT, ORDER)
    facts: list[Any] = []
    refused = ""
    for event in events:
        decision = decide(shipment, event, NOW)
        shipment, refused = decision.shipment, decision.refused
        facts += decision.facts
    return Decision(shipment, tuple(facts), refused)


def labelled(**fields: Any) -> Shipment:
    return told(prepare(**fields), BuyerKnown(0), PACKED, Buying(), LABEL).shipment

"""The verdict on the orders' way: each thing that may be wrong is noticed, and nothing else is."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.erp.v1 import InvoiceIssued
from contracts.fulfillment.v1 import (
    LabelCreated,
    ReceivedLine,
    ReturnReceived,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentLine,
)
from contracts.inventory.v1 import AccountRef, AccountState, MovementRecorded
from contracts.orders.v1 import OrderDelivered, OrderLine, OrderPaid, OrderPlaced, OrderShort, ShortLine
from contracts.payments.v1 import PaymentCaptured, PaymentMethod, PaymentRefunded, PaymentTakenOver
from services.console.demo.evidence import Plan
from services.console.demo.journeys import Journeys
from services.console.demo.office import invoice_xml
from services.console.demo.path import PathVerdict, judge, read_carrier, read_gateway
from services.erp.invoices import check_key, read_xml

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN = Plan({"CUP": 10, "SPOON": 20}, {"SET": {"CUP": 1, "SPOON": 2}})
ORDER = {"order_id": "o1", "connection_id": "c1", "external_id": "x1", "sale_revision": 1, "at": AT}
PAYMENT: dict[str, Any] = {
    "order_id": "o1", "payment_id": "o1:p1", "version": 2, "connection_id": "c1", "method": PaymentMethod.CARD,
    "gateway": "stripe", "reference": "pi_1", "currency": "BRL", "amount_minor": 500, "captured_minor": 500, "at": AT,
}  # fmt: skip
PARCEL: dict[str, Any] = {
    "order_id": "o1", "shipment_id": "o1:s1", "revision": 1, "location": "main", "carrier": "table", "service": "std",
    "tracking_code": "SD1", "lines": (ShipmentLine(line_id="1", sku="SET", quantity=1),), "at": AT,
}  # fmt: skip
DELIVERED = ShipmentDelivered(**PARCEL, version=4, delivered_at=AT)
CHARGED = {"kind": "charge", "reference": "pi_1", "captured": True, "amount_minor": 500}
COLLECTED = {"kind": "collected", "shipment_id": "o1:s1", "tracking_code": "SD1"}


def moved(
    sku: str, quantity: int, source: AccountState = AccountState.RESERVED, target: AccountState = AccountState.SHIPPED
) -> MovementRecorded:
    def place(state: AccountState) -> AccountRef:
        return AccountRef(location="main", pool="shared", state=state)

    return MovementRecorded(
        movement_id=f"m-{sku}-{source}-{target}", sku=sku, from_account=place(source),
        to_account=place(target), quantity=quantity, epoch=0, sku_version=2, cause="order:o1:2",
        line="o1/1/SET", at=AT,
    )  # fmt: skip


def messages() -> list[Any]:
    line = OrderLine(line_id="1", sku="SET", quantity=1)
    return [
        OrderPlaced(**ORDER, version=1, sold_at=AT - timedelta(seconds=3), customer_ref="b", paid=False, lines=(line,)),
        OrderDelivered(**ORDER, version=5, due_minor=500, currency="BRL"),
        PaymentCaptured(**PAYMENT),
        InvoiceIssued(
            order_id="o1", document_id="d1", invoice_no="1", series="1", invoice_key="1" * 44,
            issued_at=AT - timedelta(seconds=1), total_minor=500, currency="BRL",
        ),
        LabelCreated(**PARCEL, version=2, label_id="l1"),
        ShipmentDispatched(**PARCEL, version=3, dispatched_at=AT),
    ]  # fmt: skip


def verdict(**changed: Any) -> PathVerdict:
    journeys = Journeys()
    for message in changed.get("messages", messages()):
        journeys.add(message)
    return judge(
        journeys,
        read_gateway(changed.get("gateway", [CHARGED])),
        read_carrier(changed.get("carrier", [COLLECTED])),
        changed.get("told", []),
        changed.get("movements", [moved("CUP", 1), moved("SPOON", 2)]),
        PLAN,
        steps=changed.get("steps", {}),
        paid=changed.get("paid", {}),
        invoiced=True,
    )


def test_an_order_that_found_its_way_fails_nothing() -> None:
    passed = verdict()
    assert passed.failures == []
    assert (passed.captured_minor, passed.refunded_minor, passed.due_minor) == (500, 0, 500)
    assert passed.labels_ms == [3000.0]
    assert passed.journeys.parcel_counts["dispatched"] == 1
    assert passed.journeys.payment_counts["captured"] == 1


def test_a_parcel_that_left_an_order_called_off_left_from_what_was_available() -> None:
    reserved, available = AccountState.RESERVED, AccountState.AVAILABLE
    called_off = [
        *(moved(sku, units, reserved, available) for sku, units in (("CUP", 1), ("SPOON", 2))),
        *(moved(sku, units, available) for sku, units in (("CUP", 1), ("SPOON", 2))),
    ]
    assert verdict(movements=called_off).failures == []
    taken_back = moved("CUP", 1, AccountState.SHIPPED, reserved)
    assert "the ledger shipped {'SPOON': 2}" in verdict(movements=[*called_off, taken_back]).failures[0]


def test_a_buyer_who_pays_later_is_not_waited_for_by_us() -> None:
    key, sold_ms = (ORDER["connection_id"], ORDER["external_id"]), AT.timestamp() * 1000 - 3000
    assert verdict(paid={key: int(sold_ms) + 2000}).labels_ms == [1000.0]
    assert verdict(paid={key: int(sold_ms) - 50}).labels_ms == [3000.0]


def test_the_newest_version_counts_whatever_order_facts_come_in() -> None:
    backwards = [PaymentRefunded(**PAYMENT | {"version": 3, "refunded_minor": 500}, reason="return"), *messages()]
    refunded = {"kind": "refund", "reference": "pi_1", "status": "succeeded", "amount_minor": 500}
    assert "order o1 owes 500, 0 is kept" in verdict(messages=backwards, gateway=[CHARGED, refunded]).failures[0]


def without(kind: type) -> list[Any]:
    return [message for message in messages() if not isinstance(message, kind)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"messages": without(OrderDelivered)}, "1 orders have not come to an end: o1"),
        ({"gateway": []}, "the gateway has 0, 0"),
        ({"gateway": [CHARGED, CHARGED]}, "the gateway has 1000, 0"),
        ({"gateway": [CHARGED, CHARGED | {"captured": False}]}, "o1:p1 was charged 2 times"),
        ({"gateway": [CHARGED, CHARGED | {"reference": "pi_9"}]}, "nobody asked for pi_9"),
        ({"carrier": []}, "o1:s1 left as SD1, the carrier has nothing"),
        ({"carrier": [COLLECTED, COLLECTED]}, "o1:s1 was handed over 2 times"),
        ({"carrier": [COLLECTED, COLLECTED | {"tracking_code": "SD2"}]}, "the carrier has ['SD1', 'SD2']"),
        ({"movements": [moved("CUP", 1)]}, "the ledger shipped {'CUP': 1}"),
        ({"messages": without(InvoiceIssued)}, "1 parcels left without an invoice: o1:s1"),
        ({"steps": {"c1": frozenset({"invoice"})}, "messages": [*messages(), DELIVERED]}, "c1 x1 (invoice)"),
        ({"told": [("c1", "x1", "shipment", 5), ("c1", "x1", "invoice", 6)]}, "1 shipments were told before"),
    ],
)
def test_what_is_wrong_is_said(changed: dict[str, Any], said: str) -> None:
    assert [failure for failure in verdict(**changed).failures if said in failure]


def test_what_is_told_in_its_order_or_without_an_invoice_is_right() -> None:
    told = [("c1", "x1", "invoice", 5), ("c1", "x1", "shipment", 6), ("c2", "x1", "shipment", 1)]
    assert verdict(told=told).failures == []


def test_an_order_that_misses_stock_waits_and_is_no_failure() -> None:
    missing = OrderShort(**ORDER, version=6, lines=(ShortLine(line_id="1", sku="CUP", missing=1),))
    paid = OrderPaid(**ORDER, version=7)
    for said in ([missing], [missing, paid]):
        waiting = verdict(messages=[messages()[0], *said], gateway=[], carrier=[], movements=[])
        assert (waiting.failures, waiting.waiting) == ([], 1)
    assert verdict(messages=[messages()[0], paid], gateway=[], carrier=[], movements=[]).failures


def test_money_that_a_marketplace_took_is_none_of_our_gateways() -> None:
    taken = PaymentTakenOver(**PAYMENT | {"method": PaymentMethod.CHANNEL, "gateway": "skyhub", "reference": ""})
    theirs = verdict(messages=[taken], gateway=[])
    assert theirs.money == []
    assert theirs.captured_minor == 0
    assert theirs.journeys.payment_counts["taken_over"] == 1


def test_returns_are_counted_by_the_newest_word_on_each() -> None:
    def back(version: int, state: AccountState) -> ReturnReceived:
        line = ReceivedLine(line_id="1", sku="SET", quantity=1, location="main", state=state)
        return ReturnReceived(
            order_id="o1", shipment_id="o1:s1", version=version, return_id="r1", lines=(line,), received_at=AT
        )

    journeys = Journeys()
    for message in (back(9, AccountState.DAMAGED), back(8, AccountState.AVAILABLE), back(9, AccountState.DAMAGED)):
        journeys.add(message)
    assert journeys.return_counts == {"received": 1, "available": 0, "damaged": 1}


def test_an_invoice_of_the_demo_is_what_its_key_says_and_erp_takes() -> None:
    xml = invoice_xml(42, AT, 1_990, "o1")
    read = read_xml(xml)
    assert (read.total_minor, read.issued_at, check_key(read.key)) == (1_990, AT, [])

"""`saldo order` as a person runs it."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from services.console import story
from tests.console.conftest import Listener, Printed

Saldo = Callable[..., Printed]
TRACE = "0af7651916cd43dd8448eb211c80319c"
ORDER: dict[str, Any] = {
    "order_id": "order-a", "external_id": "1001", "connector": "shop", "account": "loja", "state": "packed",
    "held_for": None, "paid": True, "status": "paid", "sold_at": "2026-03-14T12:00:00Z", "payment_due": None,
    "unresolved": [], "due_minor": 123499, "currency": "BRL", "stage": "dispatch",
    "waits_for": "the carrier's collection", "then": "a person is told", "deadline_at": "2026-03-16T12:00:00Z",
    "answers": ["cancel", "wait"], "cancel": None, "invoice_key": None, "cancel_invoice_by": None,
    "refused": ["shipment:order-a:s1: not_supported"],
    "lines": [
        {"line_id": "1", "sku": "MUG", "ordered": 2, "cancelled": 1, "reserved": 1, "short": 0, "open": 0, "shipped": 0,
         "returned": 0},
    ],
    "payments": [
        {"payment_id": "order-a:p1", "status": "authorized", "amount_minor": 123499, "authorized_minor": 123499,
         "captured_minor": 0, "refunded_minor": 0, "disputed_minor": 0, "reason": ""},
    ],
    "parcels": [
        {"shipment_id": "order-a:s1", "location": "main", "units": 1, "revision": 1, "open": True, "carrier": "table",
         "tracking_code": "SD1", "dispatched_at": None, "delivered_at": None, "reason": ""},
    ],
    "story": [
        {"at": "2026-03-14T12:00:00Z", "service": "orders", "what": "OrderPlaced", "detail": {}, "trace": TRACE},
        {"at": "2026-03-14T12:00:09+00:00", "service": "orders", "what": "OrderPacked",
         "detail": {"shipment_ids": ["order-a:s1"]}, "trace": TRACE},
        {"at": "2026-03-14T12:00:10Z", "service": "orders", "what": "PersonSaid wait", "detail": {}, "trace": "ffff"},
    ],
}  # fmt: skip
CALL = {"kind": "charge", "n": 1, "amount_minor": 99, "outcome": "done", "tries": 2, "begun_at": "2026-03-14T12:00:01Z"}
PARCEL = {
    "shipment_id": "order-a:s1", "state": "labelled", "waits_for": None, "carrier": "table", "service": "standard",
    "weight_g": 500, "tracking_code": "SD1", "changed_at": "2026-03-14T12:00:08Z",
}  # fmt: skip


@pytest.fixture(autouse=True)
def known(listener: Listener) -> None:
    """Orders and inventory know the order."""
    listener.say("GET", "orders/1001", ORDER)
    listener.say("GET", "reservations", {"reservations": []})


def run_all(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Payments, fulfillment and erp run too, and know the order."""
    for service in ("PAYMENTS", "FULFILLMENT", "ERP"):
        monkeypatch.setenv(f"SALDO_ADMIN_{service}_URL", listener.url)
    listener.say("GET", "payments/order-a%3Ap1", {"payment_id": "order-a:p1", "calls": [CALL]})
    listener.say("GET", "parcels/order-a%3As1", PARCEL)
    taken = {"currency": "BRL", "paid": True, "due_minor": 500, "captured_minor": 800, "refunded_minor": 300}
    listener.say("GET", "taken-over/order-a", taken)


def test_a_story_is_told_in_one_sequence_by_all_who_run(
    saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [step["what"] for step in saldo("order", "show", "1001", "--json").json["story"]] == [
        "OrderPlaced", "OrderPacked", "PersonSaid wait",
    ]  # fmt: skip
    run_all(listener, monkeypatch)

    told = saldo("order", "show", "1001", "--json").json["story"]
    printed = saldo("order", "show", "1001").out

    assert [step["what"] for step in told] == [
        "OrderPlaced", "gateway charge: done", "parcel labelled", "OrderPacked", "PersonSaid wait",
    ]  # fmt: skip
    words = [
        "taken in", "after 2 tries, charge: done, BRL 0.99", "parcel 1 is labelled", "packed: parcel 1",
        "answered: wait",
    ]  # fmt: skip
    places = [printed.index(word) for word in words]
    assert places == sorted(places)
    # A trace is told where it changes, and no more often.
    assert (printed.count(TRACE), printed.count("ffff")) == (1, 1)


def test_a_page_tells_what_stands_what_is_waited_for_and_what_may_be_done(
    saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    run_all(listener, monkeypatch)

    page = " ".join(saldo("order", "show", "1001").out.split())

    assert "state ● packed its parcels wait for their carrier" in page
    assert "until 2026-03-16 12:00:00 UTC, then a person is told" in page
    assert "saldo order answer 1001 cancel cancel it" in page
    assert "line SKU ordered reserved cancelled 1 MUG 2 1 1" in page
    assert "payment 1 ● authorized BRL 1,234.99 BRL 1,234.99 BRL 0.00" in page
    assert "shop ● captured taken over from the marketplace BRL 5.00 - BRL 8.00 BRL 3.00" in page
    assert "parcel 1 ● labelled table standard SD1" in page
    assert "the channel will not hear of shipment:order-a:s1: not_supported" in page
    assert "{" not in page
    assert "detail" not in page


STEPS = {
    "OrderHeld": ({"reason": "payment"}, "waits for its payment"),
    "OrderShort": ({"lines": [{"line_id": "1", "sku": "MUG", "missing": 2}]}, "stock is missing: 2 × MUG"),
    "OrderCancelled": ({"reason": "payment_expired", "due_minor": 0}, "cancelled: it was not paid in time"),
    "OrderReturned": ({"lines": [{"sku": "MUG", "quantity": 1}]}, "came back: 1 × MUG"),
    "OrderPaid": ({"due_minor": 500, "currency": "JPY"}, "paid, JPY 500 due"),
    "RefundPayment o:p1 r3": (
        {"reason": "person", "refunded_total_minor": 500}, "asks to give back BRL 5.00 of payment 1: by a person"
    ),
    "PrepareShipment o:s2 r1": (
        {"location": "main", "lines": [{"sku": "MUG", "quantity": 1}]}, "asks for parcel 2 from main: 1 × MUG"
    ),
    "OrderProgress r4": ({"state": "packed"}, "has the channel told: packed"),
    "ProgressAccepted tracking:o:s1:0 r7": ({"step": "x"}, "heard of a scan of parcel 1"),
    "ProgressAccepted invoice r7": ({"step": "x"}, "heard of the invoice"),
    "ProgressRefused shipment:o:s1 r7": (
        {"reason": "not_supported"}, "refused to hear of the sending of parcel 1: not_supported"
    ),
    "ShipmentTracked attempt_failed": ({"shipment_id": "o:s1"}, "parcel 1: delivery was tried in vain"),
    "SomethingNew r1": ({}, "SomethingNew r1"),
}  # fmt: skip


@pytest.mark.parametrize("what", STEPS)
def test_a_step_is_told_in_words(what: str) -> None:
    detail, words = STEPS[what]

    told = story.told([{"at": "", "service": "orders", "what": what, "detail": detail, "trace": ""}], "BRL")

    assert [step.words for step in told] == [words]


def test_of_a_foreign_text_nothing_is_markup(saldo: Saldo, listener: Listener) -> None:
    lines = [ORDER["lines"][0] | {"line_id": "[/red]", "sku": "[b]"}]
    listener.say("GET", "orders/1001", ORDER | {"external_id": "[/red]", "account": "[b]", "lines": lines})
    page = saldo("order", "show", "1001")
    assert (page.code, "order [/red] of [b]" in page.out, "saldo order answer [/red] cancel" in page.out) == (
        0, True, True,
    )  # fmt: skip


def test_what_says_nothing_new_is_left_out() -> None:
    scan = {"at": "", "service": "orders", "what": "ShipmentTracked delivered", "trace": ""}
    about = {"detail": {"shipment_id": "o:s1"}}
    progress = {"at": "", "service": "orders", "detail": {"state": "shipped"}, "trace": ""}

    told = story.told(
        [
            progress | {"what": "OrderProgress r6"},
            progress | {"what": "OrderProgress r7"},
            scan | about,
            scan | about | {"what": "ShipmentDelivered"},
        ],
        "BRL",
    )

    assert [step.words for step in told] == ["has the channel told: shipped", "parcel 1: delivered"]


def test_an_answer_is_passed_on_and_a_refusal_is_told(saldo: Saldo, listener: Listener) -> None:
    listener.say("POST", "orders/order-a/answer", ORDER)

    printed = saldo("order", "answer", "1001", "wait")

    assert "the order is packed and waits for the carrier's collection" in printed.out
    assert listener.asked[-1][3] == {"answer": "wait"}
    listener.say("POST", "orders/order-a/answer", {"detail": "it takes cancel or wait, not lost"}, 409)
    refused = saldo("order", "answer", "1001", "lost")
    assert (refused.code, "not lost" in refused.err) == (1, True)

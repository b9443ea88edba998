"""`saldo order` as a person runs it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.console.conftest import Listener, Printed

Saldo = Callable[..., Printed]
TRACE = "0af7651916cd43dd8448eb211c80319c"
ORDER: dict[str, Any] = {
    "order_id": "order-a", "external_id": "1001", "state": "packed", "waits_for": "the carrier's collection",
    "payments": [{"payment_id": "order-a:p1", "status": "captured"}],
    "parcels": [{"shipment_id": "order-a:s1", "open": True}],
    "story": [
        {"at": "2026-03-14T12:00:00Z", "service": "orders", "what": "OrderPlaced", "detail": {}, "trace": TRACE},
        {"at": "2026-03-14T12:00:09Z", "service": "orders", "what": "OrderPacked", "detail": {}, "trace": TRACE},
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


def test_a_story_is_told_in_one_sequence_by_all_who_run(
    saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [step["what"] for step in saldo("order", "show", "1001", "--json").json["story"]] == [
        "OrderPlaced", "OrderPacked",
    ]  # fmt: skip
    for service in ("PAYMENTS", "FULFILLMENT", "ERP"):
        monkeypatch.setenv(f"SALDO_ADMIN_{service}_URL", listener.url)
    listener.say("GET", "payments/order-a%3Ap1", {"payment_id": "order-a:p1", "calls": [CALL]})
    listener.say("GET", "parcels/order-a%3As1", PARCEL)

    told = saldo("order", "show", "1001", "--json").json["story"]
    printed = saldo("order", "show", "1001").out

    assert [step["what"] for step in told] == ["OrderPlaced", "gateway charge: done", "parcel labelled", "OrderPacked"]
    assert TRACE in printed
    assert "gateway charge: done" in printed


def test_an_answer_is_passed_on_and_a_refusal_is_told(saldo: Saldo, listener: Listener) -> None:
    listener.say("POST", "orders/order-a/answer", ORDER)

    printed = saldo("order", "answer", "1001", "wait")

    assert "the order is packed and waits for the carrier's collection" in printed.out
    assert listener.asked[-1][3] == {"answer": "wait"}
    listener.say("POST", "orders/order-a/answer", {"detail": "it takes cancel or wait, not lost"}, 409)
    refused = saldo("order", "answer", "1001", "lost")
    assert (refused.code, "not lost" in refused.err) == (1, True)

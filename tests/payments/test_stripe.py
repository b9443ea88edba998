"""What is sent to Stripe and how its objects read, as its API reference shows them."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest

from services.border.errors import OutcomeUnknown, Rejected, Throttled, Unreachable
from services.payments.domain import Part, Portion, Status
from services.payments.gateways.gateway import Refund, Session, Wanted
from services.payments.gateways.stripe import Stripe, intent
from tests.payments.given import AMOUNT, NOW, PAYMENT
from tests.payments.server import Server, away, broken

INTENT: dict[str, Any] = {
    "id": "pi_3MtwBw", "object": "payment_intent", "amount": AMOUNT, "amount_capturable": 0, "amount_received": 0,
    "capture_method": "manual", "currency": "brl", "last_payment_error": None, "latest_charge": None,
    "metadata": {"saldo_payment_id": PAYMENT}, "next_action": None, "status": "requires_payment_method",
}  # fmt: skip
ERROR = {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds", "message": "No funds."}
REFUND = {
    "id": "re_1Nispe2", "object": "refund", "amount": 1_000, "currency": "brl", "payment_intent": "pi_3MtwBw",
    "metadata": {"saldo_refund_id": f"{PAYMENT}:refund:1"}, "status": "succeeded",
}  # fmt: skip

pytestmark = pytest.mark.asyncio


class StripeServer(Server):
    """Stripe, as far as one account sees it."""

    @property
    def account(self) -> Session:
        return self.session("https://api.stripe.com", {"secret_key": "sk_test_x"}, {})

    def form(self, place: int = 0) -> dict[str, list[str]]:
        return parse_qs(self.requests[place].content.decode())


WANTED = Wanted(PAYMENT, AMOUNT, "BRL", NOW + timedelta(minutes=15))


async def test_opening_creates_an_intent_that_charges_nothing() -> None:
    server = StripeServer((200, INTENT))
    seen = await Stripe().open(server.account, WANTED, "key-1")
    assert (seen.reference, seen.status) == ("pi_3MtwBw", Status.OPEN)
    request, form = server.requests[0], server.form()
    assert (request.method, request.url.path) == ("POST", "/v1/payment_intents")
    assert request.headers["idempotency-key"] == "key-1"
    assert request.headers["authorization"] == "Bearer sk_test_x"
    assert form["confirm"] == ["false"]
    assert (form["amount"], form["currency"], form["capture_method"]) == ([str(AMOUNT)], ["brl"], ["manual"])
    assert form["metadata[saldo_payment_id]"] == [PAYMENT]


async def test_a_charge_confirms_with_the_token() -> None:
    server = StripeServer((200, INTENT | {"status": "requires_capture", "latest_charge": "ch_1"}))
    seen = await Stripe().charge(server.account, "pi_3MtwBw", "pm_1", "key-1")
    assert (seen.status, seen.authorized_minor, seen.captured_minor) == (Status.AUTHORIZED, AMOUNT, 0)
    assert server.requests[0].url.path == "/v1/payment_intents/pi_3MtwBw/confirm"
    assert server.form() == {"payment_method": ["pm_1"]}


async def test_a_declined_card_is_an_answer() -> None:
    declined = INTENT | {"last_payment_error": ERROR}
    server = StripeServer((402, {"error": ERROR | {"payment_intent": declined}}))
    seen = await Stripe().charge(server.account, "pi_3MtwBw", "pm_1", "key-1")
    assert (seen.status, seen.reason) == (Status.FAILED, "insufficient")
    looked = await Stripe().look(StripeServer((200, declined)).account, "pi_3MtwBw", PAYMENT)
    assert looked == replace(seen, currency="BRL")  # The refusal itself names none.


async def test_a_bank_that_wants_to_see_the_buyer_is_pending() -> None:
    action = {"type": "redirect_to_url", "redirect_to_url": {"url": "https://bank.example/check", "return_url": None}}
    seen = intent(INTENT | {"status": "requires_action", "next_action": action})
    assert (seen.status, seen.next_url) == (Status.PENDING, "https://bank.example/check")


async def test_a_part_is_captured_and_given_back() -> None:
    captured = INTENT | {"status": "succeeded", "amount_received": 6_000}
    server = StripeServer((200, captured), (200, REFUND))
    seen = await Stripe().capture(server.account, "pi_3MtwBw", 6_000, "key-1")
    assert (seen.status, seen.captured_minor) == (Status.CAPTURED, 6_000)
    assert server.form() == {"amount_to_capture": ["6000"]}
    refund = Refund(f"{PAYMENT}:refund:1", 1_000, "BRL")
    seen = await Stripe().refund(server.account, "pi_3MtwBw", refund, "key-2")
    assert seen.refunds == {f"{PAYMENT}:refund:1": Portion(1_000, Part.DONE)}
    assert server.form(1)["payment_intent"] == ["pi_3MtwBw"]


async def test_a_look_reads_charge_refunds_fee_and_dispute() -> None:
    charge = {
        "id": "ch_1", "refunds": {"object": "list", "data": [REFUND, REFUND | {"id": "re_2", "metadata": {}}]},
        "balance_transaction": {"id": "txn_1", "fee": 229, "currency": "brl"},
        "dispute": {
            "id": "dp_1", "amount": 900, "status": "lost", "balance_transactions": [
                {"id": "txn_2", "amount": -900, "fee": 1_500, "currency": "brl"},
                {"id": "txn_3", "amount": 900, "fee": -1_500, "currency": "brl"},
                {"id": "txn_4", "amount": 900, "fee": 200, "currency": "usd"},
            ],
        },
    }  # fmt: skip
    server = StripeServer((200, INTENT | {"status": "succeeded", "amount_received": AMOUNT, "latest_charge": charge}))
    seen = await Stripe().look(server.account, "pi_3MtwBw", PAYMENT)
    assert seen
    assert (seen.fee_minor, seen.disputes) == (229, {"dp_1": Portion(900, Part.LOST)})
    assert seen.dispute_fees == {"txn_2": 1_500, "txn_3": -1_500}
    assert set(seen.refunds) == {f"{PAYMENT}:refund:1", "re_2"}
    assert "latest_charge.refunds" in server.requests[0].url.params.get_list("expand[]")


async def test_a_fee_in_the_currency_of_our_account_alone_is_no_fee_of_this_payment() -> None:
    charge = {"id": "ch_1", "balance_transaction": {"id": "txn_1", "fee": 229, "currency": "usd"}}
    assert intent(INTENT | {"status": "succeeded", "amount_received": AMOUNT, "latest_charge": charge}).fee_minor == 0


async def test_without_a_reference_it_is_searched_by_our_id() -> None:
    server = StripeServer((200, {"object": "search_result", "data": [INTENT]}), (200, INTENT))
    seen = await Stripe().look(server.account, "", PAYMENT)
    assert seen
    assert seen.reference == "pi_3MtwBw"
    assert server.requests[0].url.params["query"] == f"metadata['saldo_payment_id']:'{PAYMENT}'"
    assert await Stripe().look(StripeServer((200, {"data": []})).account, "", PAYMENT) is None


async def test_a_search_without_its_list_has_found_nothing() -> None:
    assert await Stripe().look(StripeServer((200, {"object": "search_result"})).account, "", PAYMENT) is None


async def test_an_intent_that_stripe_does_not_know_is_none() -> None:
    assert await Stripe().look(StripeServer((404, {"error": {}})).account, "pi_x", PAYMENT) is None


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        ((500, {}), OutcomeUnknown), ((409, {"error": {}}), OutcomeUnknown), (broken, OutcomeUnknown),
        ((429, {}), Throttled), (away, Unreachable), ((400, {}), Rejected), ((401, {}), Rejected),
    ],
)  # fmt: skip
async def test_what_became_of_a_charge_is_told_apart(answer: Any, raised: type[Exception]) -> None:
    with pytest.raises(raised) as caught:
        await Stripe().charge(StripeServer(answer).account, "pi_3MtwBw", "pm_secret", "key-1")
    assert "pm_secret" not in str(caught.value)
    assert "sk_test_x" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "melted"}, {"amount": "many"}, {"id": None}, {"id": "pi_\0"},
        {"latest_charge": {"refunds": {"data": 3}}},
        {"next_action": {"redirect_to_url": {"url": "javascript:alert(1)"}}},
        {"next_action": {"redirect_to_url": {"url": "https://bank.test/\0"}}},
    ],
)  # fmt: skip
async def test_an_answer_that_cannot_be_read_names_the_field(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"status|amount|id|refunds|next_action"):
        intent(json.loads(json.dumps(INTENT | change)))


TRANSACTION = {
    "id": "txn_1", "object": "balance_transaction", "amount": 10_000, "fee": 429, "net": 9_571, "currency": "brl",
    "created": 1_773_500_000, "type": "charge", "source": {"id": "ch_1", "payment_intent": "pi_3MtwBw"},
}  # fmt: skip


async def test_a_payout_is_read_to_its_last_page() -> None:
    back = TRANSACTION | {"id": "txn_2", "amount": -1_000, "fee": 0, "type": "refund"}
    payout = TRANSACTION | {"id": "txn_3", "type": "payout", "source": "po_1"}
    server = StripeServer(
        (200, {"data": [{"id": "po_1"}], "has_more": False}),
        (200, {"data": [TRANSACTION, payout], "has_more": True}),
        (200, {"data": [back], "has_more": False}),
    )
    assert await Stripe().payouts(server.account) == ["po_1"]
    first, last = await Stripe().settlements(server.account, "po_1")
    assert (first.reference, first.gross_minor, first.fee_minor, first.net_minor) == ("pi_3MtwBw", 10_000, 429, 9_571)
    assert (last.gross_minor, last.fee_minor, last.net_minor, last.currency) == (-1_000, 0, -1_000, "BRL")
    queries = [dict(request.url.params) for request in server.requests]
    assert queries[0] == {"status": "paid", "limit": "100"}
    assert queries[2] == queries[1] | {"starting_after": "txn_3"}


@pytest.mark.parametrize("change", [{"id": None}, {"amount": "1"}, {"fee": 0.5}, {"created": -1}, {"created": None}])
async def test_a_movement_that_cannot_be_read_names_its_field(change: dict[str, Any]) -> None:
    server = StripeServer((200, {"data": [TRANSACTION | change], "has_more": False}))
    with pytest.raises(ValueError, match=next(iter(change))):
        await Stripe().settlements(server.account, "po_1")

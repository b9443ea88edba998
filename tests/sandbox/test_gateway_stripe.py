"""The gateway's card side as its client meets it: charges, keys, vices, webhooks, the hosted pages, the books."""

import asyncio
import hashlib
import hmac
import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
import pytest_asyncio

from services.sandbox.client import SandboxError
from services.sandbox.gateway_cards import STYLE
from services.sandbox.gateway_client import GatewayClient
from services.sandbox.gateway_intents import CARDS
from services.sandbox.gateway_stripe import nested
from tests.sandbox.conftest import Receiver
from tests.sandbox.running import TOKEN, Sandbox, running

_names = itertools.count(1)
SHORT = aiohttp.ClientTimeout(total=0.5)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("gateway", tmp_path_factory)


@dataclass
class Merchant:
    """A fresh account, its control client and a session with its secret key."""

    name: str
    told: dict[str, Any]
    control: GatewayClient
    http: aiohttp.ClientSession

    async def ask(
        self, method: str, path: str, key: str | None = None, timeout: aiohttp.ClientTimeout | None = None, **form: str
    ) -> tuple[int, dict[str, Any]]:
        headers = {} if key is None else {"Idempotency-Key": key}
        where = {"data": form} if method == "POST" else {"params": form}
        async with self.http.request(
            method, f"{self.told['base_url']}/v1{path}", headers=headers, timeout=timeout or aiohttp.ClientTimeout(30),
            **where,
        ) as answer:  # fmt: skip
            return answer.status, await answer.json()

    async def opened(self, amount: int = 1990, capture: str = "manual", payment_id: str = "o1:p1") -> str:
        form = {"amount": str(amount), "currency": "brl", "capture_method": capture}
        status, body = await self.ask("POST", "/payment_intents", **form, **{"metadata[saldo_payment_id]": payment_id})
        assert (status, body["status"], body["latest_charge"]) == (200, "requires_payment_method", None)
        return str(body["id"])

    async def charged(self, kind: Any = "ok", amount: int = 1990, capture: str = "manual") -> str:
        reference = await self.opened(amount, capture)
        token = await self.control.card(self.name, kind)
        status, body = await self.ask("POST", f"/payment_intents/{reference}/confirm", payment_method=token)
        assert status == 200, body
        return reference

    async def rows(self, *kinds: str) -> list[dict[str, Any]]:
        found = [row async for row in self.control.books() if row["shop"] == self.name]
        return [row for row in found if not kinds or row["kind"] in kinds]

    async def wait_for_rows(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        for _ in range(1000):
            if len(rows := await self.rows(kind)) >= count:
                return rows
            await asyncio.sleep(0.02)
        raise AssertionError(f"there are only {len(rows)} rows of kind {kind}, not {count}")

    async def listens(self, receiver: Receiver, *events: str) -> str:
        form = {f"enabled_events[{n}]": event for n, event in enumerate(events or ("*",))}
        status, body = await self.ask("POST", "/webhook_endpoints", url=receiver.address, **form)
        assert status == 200
        return str(body["secret"])


@pytest_asyncio.fixture
async def merchant(process: Sandbox) -> AsyncIterator[Merchant]:
    name = f"loja-{next(_names)}"
    async with GatewayClient(process.base_url, TOKEN) as control:
        told = await control.put_account(name, webhook_retry_s=[0.05] * 8, requests_per_s=1000)
        headers = {"Authorization": f"Bearer {told['credentials']['secret_key']}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            yield Merchant(name, told, control, http)


def signed_by(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Stripe's own recipe for checking a signature by hand."""
    parts = dict(part.split("=", 1) for part in headers["Stripe-Signature"].split(","))
    wanted = hmac.new(secret.encode(), f"{parts['t']}.".encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(wanted, parts["v1"])


@pytest.mark.asyncio
async def test_a_payment_is_opened_reserved_taken_in_part_and_given_back(merchant: Merchant) -> None:
    reference = await merchant.charged(amount=5000)
    path = f"/payment_intents/{reference}"
    status, body = await merchant.ask("GET", path)
    assert (status, body["status"], body["amount_capturable"]) == (200, "requires_capture", 5000)
    status, body = await merchant.ask("POST", f"{path}/capture", "cap", amount_to_capture="4000")
    assert (status, body["status"], body["amount_received"]) == (200, "succeeded", 4000)
    form = {"payment_intent": reference, "amount": "1500", "metadata[refund_id]": "o1:r1"}
    status, refund = await merchant.ask("POST", "/refunds", "ref", **form)
    assert (status, refund["status"], refund["amount"]) == (200, "succeeded", 1500)
    expand = {"expand[0]": "latest_charge.refunds", "expand[1]": "latest_charge.balance_transaction"}
    _, body = await merchant.ask("GET", path, **expand)
    charge = body["latest_charge"]
    assert [(one["id"], one["metadata"]) for one in charge["refunds"]["data"]] == [
        (refund["id"], {"refund_id": "o1:r1"})
    ]
    assert charge["balance_transaction"]["fee"] == 4000 * 39 // 1000 + 39
    assert (charge["amount"], charge["amount_captured"], charge["amount_refunded"]) == (5000, 4000, 1500)
    status, body = await merchant.ask("POST", "/refunds", payment_intent=reference, amount="2501")
    assert (status, body["error"]["param"]) == (400, "amount")
    assert (await merchant.ask("POST", "/refunds", payment_intent=reference))[1]["amount"] == 2500
    status, body = await merchant.ask("POST", "/refunds", payment_intent=reference)
    assert (status, body["error"]["code"]) == (400, "charge_already_refunded")
    rows = await merchant.rows()
    assert [(row["kind"], row["amount_minor"], row["key"]) for row in rows] == [
        ("intent", 5000, None), ("charge", 5000, None), ("capture", 4000, "cap"),
        ("refund", 1500, "ref"), ("refund", 2500, None),
    ]  # fmt: skip
    assert {(row["reference"], row["payment_id"], row["method"]) for row in rows} == {(reference, "o1:p1", "card")}
    assert rows[3]["merchant_refund_id"] == "o1:r1"
    sums = (await merchant.control.payments(merchant.name))[reference]
    assert (sums["authorized_minor"], sums["captured_minor"], sums["refunded_minor"]) == (5000, 4000, 4000)


@pytest.mark.asyncio
async def test_reserved_money_is_released_and_a_final_payment_stays_as_it_is(merchant: Merchant) -> None:
    reference = await merchant.charged()
    status, body = await merchant.ask("POST", f"/payment_intents/{reference}/cancel", cancellation_reason="abandoned")
    assert (status, body["status"], body["cancellation_reason"]) == (200, "canceled", "abandoned")
    for deed in ("confirm", "capture", "cancel"):
        status, body = await merchant.ask("POST", f"/payment_intents/{reference}/{deed}", payment_method="pm_card_visa")
        assert (status, body["error"]["code"]) == (400, "payment_intent_unexpected_state")
    status, body = await merchant.ask("POST", "/refunds", payment_intent=reference)
    assert (status, body["error"]["code"]) == (400, "payment_intent_unexpected_state")
    assert [(row["by"], row["amount_minor"]) for row in await merchant.rows("void")] == [("client", 1990)]


@pytest.mark.asyncio
@pytest.mark.parametrize(("kind", "reason"), [("declined", "generic_decline"), ("insufficient", "insufficient_funds")])
async def test_a_declined_card_may_be_followed_by_another(merchant: Merchant, kind: Any, reason: str) -> None:
    reference = await merchant.opened()
    path = f"/payment_intents/{reference}/confirm"
    token = await merchant.control.card(merchant.name, kind)
    status, body = await merchant.ask("POST", path, "try1", payment_method=token)
    assert (status, body["error"]["type"], body["error"]["decline_code"]) == (402, "card_error", reason)
    assert body["error"]["payment_intent"]["status"] == "requires_payment_method"
    again, same = await merchant.ask("POST", path, "try1", payment_method=token)
    assert (again, same) == (402, body)
    status, body = await merchant.ask("POST", path, "try2", payment_method="pm_card_visa")
    assert (status, body["status"], body["last_payment_error"]) == (200, "requires_capture", None)
    assert [row["kind"] for row in await merchant.rows()] == ["intent", "charge_refused", "charge"]


@pytest.mark.asyncio
async def test_a_token_pays_once(merchant: Merchant) -> None:
    token = await merchant.control.card(merchant.name)
    statuses = []
    for _ in range(2):
        reference = await merchant.opened()
        status, _ = await merchant.ask("POST", f"/payment_intents/{reference}/confirm", payment_method=token)
        statuses.append(status)
    assert statuses == [200, 400]


@pytest.mark.asyncio
async def test_a_card_that_asks_the_bank_waits_for_the_buyer(merchant: Merchant) -> None:
    reference = await merchant.opened()
    token = await merchant.control.card(merchant.name, "authenticate")
    back = "https://shop.example/back?basket=1"
    _, body = await merchant.ask("POST", f"/payment_intents/{reference}/confirm", payment_method=token, return_url=back)
    page = body["next_action"]["redirect_to_url"]["url"]
    assert (body["status"], body["latest_charge"]) == ("requires_action", None)
    async with aiohttp.ClientSession() as buyer:
        async with buyer.get(page) as answer:
            assert (answer.status, "BRL 19.90" in await answer.text()) == (200, True)
        async with buyer.post(page, data={"accept": "yes"}, allow_redirects=False) as answer:
            query = parse_qs(urlsplit(answer.headers["Location"]).query)
        assert query == {"basket": ["1"], "payment_intent": [reference], "redirect_status": ["succeeded"]}
        async with buyer.post(page, data={"accept": "yes"}) as answer:
            assert answer.status == 409
    assert (await merchant.ask("GET", f"/payment_intents/{reference}"))[1]["status"] == "requires_capture"
    assert len(await merchant.rows("charge")) == 1


@pytest.mark.asyncio
async def test_a_buyer_who_fails_the_bank_may_try_again(merchant: Merchant) -> None:
    reference = await merchant.opened()
    token = await merchant.control.card(merchant.name, "authenticate")
    form = {"payment_method": token, "return_url": "https://shop.example/"}
    await merchant.ask("POST", f"/payment_intents/{reference}/confirm", **form)
    told = await merchant.control.authenticate(merchant.name, reference, accept=False)
    assert told["status"] == "requires_payment_method"
    assert [row["reason"] for row in await merchant.rows("charge_refused")] == ["authentication_failed"]


@pytest.mark.asyncio
async def test_a_key_gives_its_answer_again_and_refuses_other_parameters(merchant: Merchant) -> None:
    form = {"amount": "100", "currency": "brl"}
    first = await merchant.ask("POST", "/payment_intents", "k", **form)
    assert await merchant.ask("POST", "/payment_intents", "k", **form) == first
    status, body = await merchant.ask("POST", "/payment_intents", "k", **{**form, "amount": "101"})
    assert (status, body["error"]["type"]) == (400, "idempotency_error")
    path = f"/payment_intents/{first[1]['id']}/cancel"
    assert (await merchant.ask("POST", path, "k"))[1]["error"]["type"] == "idempotency_error"
    assert len(await merchant.rows("intent")) == 1


@pytest.mark.asyncio
async def test_a_key_is_forgotten_after_its_life(merchant: Merchant) -> None:
    await merchant.control.put_account(merchant.name, key_life_s=0.001)
    form = {"amount": "100", "currency": "brl"}
    first = await merchant.ask("POST", "/payment_intents", "k", **form)
    await asyncio.sleep(0.02)
    assert (await merchant.ask("POST", "/payment_intents", "k", **form))[1]["id"] != first[1]["id"]


@pytest.mark.asyncio
async def test_bad_parameters_are_told_and_leave_the_key_free(merchant: Merchant) -> None:
    for form, param in [
        ({"currency": "brl"}, "amount"), ({"amount": "0", "currency": "brl"}, "amount"),
        ({"amount": "1.5", "currency": "brl"}, "amount"), ({"amount": "5"}, "currency"),
        ({"amount": "5", "currency": "brl", "capture_method": "soon"}, "capture_method"),
    ]:  # fmt: skip
        status, body = await merchant.ask("POST", "/payment_intents", "k", **form)
        assert (status, body["error"]["param"]) == (400, param)
    assert (await merchant.ask("POST", "/payment_intents", "k", amount="5", currency="brl"))[0] == 200
    status, body = await merchant.ask("GET", "/payment_intents/pi_none")
    assert (status, body["error"]["code"]) == (404, "resource_missing")
    status, body = await merchant.ask(
        "POST", "/payment_methods", **{"type": "card", "card[number]": "4242424242424242"}
    )
    assert status == 402
    other = {"Authorization": "Bearer sk_test_other"}
    async with merchant.http.get(f"{merchant.told['base_url']}/v1/account", headers=other) as answer:
        assert answer.status == 401


@pytest.mark.asyncio
async def test_a_timeout_after_the_charge_is_one_charge_found_by_its_reference_and_its_key(merchant: Merchant) -> None:
    reference = await merchant.opened()
    path = f"/payment_intents/{reference}/confirm"
    await merchant.control.put_vices(merchant.name, charge_timeout={})
    with pytest.raises(TimeoutError):
        await merchant.ask("POST", path, "charge-1", SHORT, payment_method="pm_card_visa")
    assert (await merchant.ask("GET", f"/payment_intents/{reference}"))[1]["status"] == "requires_capture"
    status, body = await merchant.ask("POST", path, "charge-1", payment_method="pm_card_visa")
    assert (status, body["status"]) == (200, "requires_capture")
    found = await merchant.ask("GET", "/payment_intents/search", query="metadata['saldo_payment_id']:'o1:p1'")
    assert [one["id"] for one in found[1]["data"]] == [reference]
    assert [(row["key"], row["vice"]) for row in await merchant.rows("charge")] == [("charge-1", "charge_timeout")]


@pytest.mark.asyncio
async def test_a_late_charge_holds_its_key_until_it_is_done(merchant: Merchant) -> None:
    reference = await merchant.opened()
    path = f"/payment_intents/{reference}/confirm"
    await merchant.control.put_vices(merchant.name, charge_late={"min_ms": 1500, "max_ms": 1500})
    with pytest.raises(TimeoutError):
        await merchant.ask("POST", path, "k", SHORT, payment_method="pm_card_visa")
    status, body = await merchant.ask("POST", path, "k", payment_method="pm_card_visa")
    assert (status, body["error"]["code"]) == (409, "idempotency_key_in_use")
    assert (await merchant.ask("GET", f"/payment_intents/{reference}"))[1]["status"] == "requires_payment_method"
    await merchant.wait_for_rows("charge")
    status, body = await merchant.ask("POST", path, "k", payment_method="pm_card_visa")
    assert (status, body["status"]) == (200, "requires_capture")
    assert [row["vice"] for row in await merchant.rows("charge")] == ["charge_late"]


@pytest.mark.asyncio
async def test_an_error_after_the_charge_is_what_the_key_keeps_saying(merchant: Merchant) -> None:
    reference = await merchant.charged()
    await merchant.control.put_vices(merchant.name, charge_error={})
    answers = [await merchant.ask("POST", f"/payment_intents/{reference}/capture", "c") for _ in range(2)]
    assert [status for status, _ in answers] == [500, 500]
    assert (await merchant.ask("GET", f"/payment_intents/{reference}"))[1]["status"] == "succeeded"
    assert len(await merchant.rows("capture")) == 1


@pytest.mark.asyncio
async def test_the_vices_strike_only_the_operations_named(merchant: Merchant) -> None:
    await merchant.control.put_vices(merchant.name, charge_error={}, operations=["refund"])
    reference = await merchant.charged(capture="automatic")
    status, _ = await merchant.ask("POST", "/refunds", payment_intent=reference, amount="1000")
    assert status == 500
    assert [row["amount_minor"] for row in await merchant.rows("refund")] == [1000]
    await merchant.control.put_vices(merchant.name, throttled={})
    assert (await merchant.ask("GET", f"/payment_intents/{reference}"))[0] == 429
    await merchant.control.put_vices(merchant.name, declined={})
    other = await merchant.opened()
    form = {"payment_method": "pm_card_visa"}
    assert (await merchant.ask("POST", f"/payment_intents/{other}/confirm", **form))[0] == 402


@pytest.mark.asyncio
@pytest.mark.parametrize("ends_as", ["succeeded", "failed"])
async def test_a_pending_refund_ends_later(merchant: Merchant, receiver: Receiver, ends_as: str) -> None:
    reference = await merchant.charged(capture="automatic")
    await merchant.listens(receiver, "refund.updated", "refund.failed")
    failing = {"refund_failed": {}} if ends_as == "failed" else {}
    await merchant.control.put_vices(merchant.name, refund_pending={"min_ms": 50, "max_ms": 50}, **failing)
    _, refund = await merchant.ask("POST", "/refunds", payment_intent=reference)
    assert refund["status"] == "pending"
    _, body = await receiver.next()
    assert json.loads(body)["data"]["object"]["status"] == ends_as
    assert (await merchant.ask("GET", f"/refunds/{refund['id']}"))[1]["status"] == ends_as
    assert [row["status"] for row in await merchant.rows("refund")] == ["pending", ends_as]
    left = 0 if ends_as == "succeeded" else 1990
    status, body = await merchant.ask("POST", "/refunds", payment_intent=reference)
    assert (status, body.get("amount", 0)) == (200 if left else 400, left)


@pytest.mark.asyncio
async def test_a_disputed_card_takes_the_money_back_until_the_case_is_won(merchant: Merchant) -> None:
    await merchant.control.put_account(merchant.name, dispute_after_ms=20)
    reference = await merchant.charged("disputed")
    await merchant.ask("POST", f"/payment_intents/{reference}/capture")
    row = (await merchant.wait_for_rows("dispute"))[0]
    assert (row["amount_minor"], row["status"], row["reason"]) == (1990, "needs_response", "fraudulent")
    assert (await merchant.ask("POST", "/refunds", payment_intent=reference))[1]["error"]["code"] == "charge_disputed"
    _, body = await merchant.ask("GET", f"/payment_intents/{reference}", **{"expand[]": "latest_charge.dispute"})
    assert body["latest_charge"]["dispute"]["id"] == row["dispute_id"]
    await merchant.control.close_dispute(merchant.name, reference, "won")
    assert (await merchant.ask("GET", f"/disputes/{row['dispute_id']}"))[1]["status"] == "won"
    assert (await merchant.control.payments(merchant.name))[reference]["disputed_minor"] == 0
    with pytest.raises(SandboxError, match="no open dispute"):
        await merchant.control.close_dispute(merchant.name, reference, "lost")


@pytest.mark.asyncio
async def test_an_authorisation_that_expires_is_released_by_the_gateway(merchant: Merchant) -> None:
    await merchant.control.put_vices(merchant.name, expires_early={"min_ms": 20, "max_ms": 20})
    reference = await merchant.charged()
    assert [row["by"] for row in await merchant.wait_for_rows("void")] == ["gateway"]
    _, body = await merchant.ask("GET", f"/payment_intents/{reference}")
    assert (body["status"], body["cancellation_reason"]) == ("canceled", "automatic")


@pytest.mark.asyncio
async def test_webhooks_are_signed_sent_again_until_heard_and_booked(merchant: Merchant, receiver: Receiver) -> None:
    secret = await merchant.listens(receiver, "payment_intent.amount_capturable_updated")
    receiver.answers.append(500)
    reference = await merchant.charged()
    heard = [await receiver.next(), await receiver.next()]
    assert all(signed_by(secret, headers, body) for headers, body in heard)
    event = json.loads(heard[0][1])
    assert heard[0][1] == heard[1][1]
    assert (event["type"], event["data"]["object"]["id"]) == ("payment_intent.amount_capturable_updated", reference)
    rows = await merchant.wait_for_rows("webhook", 2)
    assert [(row["attempt"], row["status"], row["event_id"]) for row in rows] == [
        (1, 500, event["id"]), (2, 200, event["id"]),
    ]  # fmt: skip
    _, listed = await merchant.ask("GET", "/events", limit="1")
    assert listed["data"] == [event]


@pytest.mark.asyncio
async def test_webhooks_come_late_twice_never_and_signed_by_a_stranger(merchant: Merchant, receiver: Receiver) -> None:
    secret = await merchant.listens(receiver, "payment_intent.created")
    await merchant.control.put_vices(merchant.name, webhook_duplicate={})
    await merchant.opened(payment_id="twice")
    twice = [json.loads((await receiver.next())[1]) for _ in range(2)]
    assert twice[0] == twice[1]
    await merchant.control.put_vices(merchant.name, webhook_missing={})
    await merchant.opened(payment_id="never")
    await merchant.control.put_vices(merchant.name, webhook_reordered={"min_ms": 400, "max_ms": 400})
    await merchant.opened(payment_id="late")
    await merchant.control.put_vices(merchant.name)
    await merchant.opened(payment_id="prompt")
    heard = [json.loads((await receiver.next())[1]) for _ in range(2)]
    assert [one["data"]["object"]["metadata"]["saldo_payment_id"] for one in heard] == ["prompt", "late"]
    await merchant.control.put_vices(merchant.name, webhook_foreign_signature={})
    await merchant.opened(payment_id="foreign")
    assert not signed_by(secret, *await receiver.next())
    dropped = [row["payment_id"] for row in await merchant.rows("webhook") if row["status"] == "dropped"]
    assert dropped == ["never"]


@pytest.mark.asyncio
async def test_only_the_hosted_page_sees_a_card_and_keeps_four_digits(process: Sandbox, merchant: Merchant) -> None:
    digits = "4242424242424242"
    page = f"{merchant.told['base_url']}/sandbox/cards"
    key = merchant.told["credentials"]["publishable_key"]
    query = {"return_url": "https://shop.example/pay?basket=7", "key": key}
    typed = {"number": "4242 4242 4242 4242", "month": "12", "year": "2034", "code": "123"}
    async with aiohttp.ClientSession() as buyer:
        async with buyer.get(page, params=query) as answer:
            shown = await answer.text()
            assert answer.status == 200
        # In the storefront's look, with nothing from elsewhere, and every test card with what it does.
        assert STYLE in shown
        assert not re.search(r"<script|<link|https?://", shown)
        assert [card for card in CARDS if f"<code>{card}</code>" not in shown] == []
        async with buyer.post(page, params=query, data={**typed, "number": "4242424242424241"}) as answer:
            assert (answer.status, "invalid number" in await answer.text()) == (422, True)
        for wrong in ({"return_url": "javascript:alert(1)", "key": key}, {**query, "key": "pk_test_other"}):
            async with buyer.get(page, params=wrong) as answer:
                assert answer.status == 400
        async with buyer.post(page, params=query, data=typed, allow_redirects=False) as answer:
            place = answer.headers["Location"]
    told = parse_qs(urlsplit(place).query)
    assert (answer.status, told["basket"], digits in place) == (303, ["7"], False)
    _, card = await merchant.ask("GET", f"/payment_methods/{told['token'][0]}")
    assert (card["card"]["last4"], card["card"]["brand"]) == ("4242", "visa")
    reference = await merchant.opened()
    form = {"payment_method": told["token"][0]}
    assert (await merchant.ask("POST", f"/payment_intents/{reference}/confirm", **form))[0] == 200
    kept = b"".join(path.read_bytes() for path in process.books.parent.glob("books.sqlite*"))
    assert told["token"][0].encode() in kept
    assert digits.encode() not in kept
    assert b"4242 4242" not in kept


@pytest.mark.asyncio
async def test_after_a_kill_money_keys_and_what_was_to_come_are_still_there(
    books_path: Path, receiver: Receiver
) -> None:
    sandbox = Sandbox("gateway", books_path)
    sandbox.start()
    try:
        async with GatewayClient(sandbox.base_url, TOKEN) as control:
            told = await control.put_account("loja", webhook_retry_s=[0.05] * 8)
            async with aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {told['credentials']['secret_key']}"}
            ) as http:
                merchant = Merchant("loja", told, control, http)
                reference = await merchant.charged(capture="automatic")
                await merchant.listens(receiver, "refund.updated")
                await control.put_vices("loja", refund_pending={"min_ms": 1000, "max_ms": 1000})
                first = await merchant.ask("POST", "/refunds", "r", payment_intent=reference, amount="500")
        sandbox.kill()
        sandbox.start()
        event = json.loads((await receiver.next())[1])
        assert (event["data"]["object"]["id"], event["data"]["object"]["status"]) == (first[1]["id"], "succeeded")
        async with GatewayClient(sandbox.base_url, TOKEN) as control:
            told = await control.account("loja")
            async with aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {told['credentials']['secret_key']}"}
            ) as http:
                merchant = Merchant("loja", told, control, http)
                assert await merchant.ask("POST", "/refunds", "r", payment_intent=reference, amount="500") == first
                assert (await control.payments("loja"))[reference]["refunded_minor"] == 500
                assert [row["status"] for row in await merchant.rows("refund")] == ["pending", "succeeded"]
    finally:
        if sandbox.running:
            assert sandbox.stop() == 0


@pytest.mark.asyncio
async def test_the_control_interface_is_guarded_and_tells_what_is_wrong(process: Sandbox, merchant: Merchant) -> None:
    async with GatewayClient(process.base_url, "another token") as stranger:
        with pytest.raises(SandboxError, match="401"):
            await stranger.summary()
    with pytest.raises(SandboxError, match="422"):
        await merchant.control.put_vices(merchant.name, charge_late={"min_ms": 5})
    with pytest.raises(SandboxError, match="404"):
        await merchant.control.account("nobody")
    with pytest.raises(SandboxError, match="409"):
        await merchant.control.put_account("thief", credentials=merchant.told["credentials"])
    await merchant.opened()
    assert (await merchant.control.summary())["shops"][merchant.name]["rows"] == {"intent": 1}


def test_names_with_brackets_are_read_as_objects_and_lists() -> None:
    pairs = [("amount", "1"), ("metadata[a]", "x"), ("expand[]", "p"), ("expand[]", "q"), ("card[number][z]", "1")]
    wanted = {"amount": "1", "metadata": {"a": "x"}, "expand": ["p", "q"], "card": {"number": {"z": "1"}}}
    assert nested(pairs) == wanted


@pytest.mark.asyncio
async def test_a_payout_holds_what_moved_since_the_last_one(merchant: Merchant) -> None:
    assert await merchant.control.pay_out(merchant.name) == []
    reference = await merchant.charged(capture="automatic")
    [first] = await merchant.control.pay_out(merchant.name)
    form = {"payment_intent": reference, "amount": "500"}
    assert (await merchant.ask("POST", "/refunds", **form))[0] == 200
    [second] = await merchant.control.pay_out(merchant.name)
    assert second["amount_minor"] == -500
    status, listed = await merchant.ask("GET", "/payouts", status="paid")
    assert [one["id"] for one in listed["data"]] == [second["payout_id"], first["payout_id"]]
    assert {one["status"] for one in listed["data"]} == {"paid"}
    assert (await merchant.ask("GET", "/payouts", limit="1"))[1]["has_more"] is True
    query = {"payout": first["payout_id"], "expand[]": "data.source"}
    status, found = await merchant.ask("GET", "/balance_transactions", **query)
    assert status == 200
    [one] = found["data"]
    assert (one["amount"], one["net"], one["source"]["payment_intent"]) == (1990, first["amount_minor"], reference)
    assert (await merchant.ask("GET", "/balance_transactions", payout="po_none"))[0] == 404
    rows = [row async for row in merchant.control.books() if row["shop"] == merchant.name and row["kind"] == "payout"]
    assert [(row["reference"], row["amount_minor"]) for row in rows] == [
        (first["payout_id"], first["amount_minor"]), (second["payout_id"], -500),
    ]  # fmt: skip

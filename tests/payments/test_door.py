"""The doors as strangers and repeaters meet them."""

import hashlib
import json
import ssl
import time
from typing import Any

import httpx
import pytest

from services.payments.settings import PaymentsSettings
from services.sandbox.gateway_webhooks import signature
from tests.payments.running import Merchant, Running, until

pytestmark = pytest.mark.asyncio
SECRET = "whsec_known"


def event(event_id: str, reference: str) -> bytes:
    shown = {"object": "payment_intent", "id": reference, "status": "succeeded", "amount_received": 1}
    return json.dumps({"id": event_id, "type": "payment_intent.succeeded", "data": {"object": shown}}).encode()


async def shop_with_secret(payments: Running) -> Merchant:
    """Webhooks of this company are signed by the test."""
    shop = await payments.merchant("stripe", subscribed=False)
    credentials = {"secret_key": shop.told["credentials"]["secret_key"], "webhook_secret": f"whsec_old,{SECRET}"}
    body = {
        "tenant": shop.tenant, "gateway": "stripe", "environment": "sandbox", "base_url": shop.told["base_url"],
        "merchant": "acct_1", "credentials": credentials,
    }  # fmt: skip
    (await payments.admin.put("accounts", json=body)).raise_for_status()
    return shop


async def authorized(payments: Running, shop: Merchant) -> tuple[str, str]:
    """A payment's id and its reference."""
    payment_id = await shop.pays("order-a", "stripe", token=await payments.control.card(shop.tenant))
    fact = await shop.until_told("Authorized")
    return payment_id, fact.reference


async def send(
    payments: Running, shop: Merchant, body: bytes, *, secret: str = SECRET, at_s: float | None = None
) -> int:
    header = signature(secret, body, int(at_s or time.time()))
    return await sent(payments, f"/hooks/{shop.accounts['stripe']}", body, header)


async def sent(payments: Running, path: str, body: bytes, header: str) -> int:
    headers = {"content-type": "application/json", "stripe-signature": header}
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"http://127.0.0.1:{payments.settings.door_port}{path}"
        return (await http.post(url, content=body, headers=headers)).status_code


async def hints(payments: Running, shop: Merchant) -> list[dict[str, Any]]:
    rows = await payments.service.pool.fetch(
        "SELECT delivery_id, strangers FROM hints WHERE tenant = $1 ORDER BY delivery_id", shop.tenant
    )
    return [dict(row) for row in rows]


async def looks(payments: Running, payment_id: str, tenant: str) -> int:
    row = await payments.service.pool.fetchval(
        "SELECT (body::jsonb ->> 'looked')::int FROM payments WHERE tenant = $1 AND payment_id = $2", tenant, payment_id
    )
    return int(row)


@pytest.mark.parametrize(
    "header",
    [
        "", "t=,v1=", "v1=00", "t=now,v1=00", "t=" + "9" * 5000 + ",v1=00", "t=\u0661,v1=00", "t=1,t=2,v1=\u00e9",
        "t=1700000000,v0=00",
    ],
)  # fmt: skip
async def test_what_is_not_signed_is_refused(payments: Running, header: str) -> None:
    shop = await shop_with_secret(payments)
    path = f"/hooks/{shop.accounts['stripe']}"
    headers = [(b"content-type", b"application/json"), (b"stripe-signature", header.encode())]
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"http://127.0.0.1:{payments.settings.door_port}{path}"
        answer = await http.post(url, content=event("evt_1", "pi_1"), headers=headers)
    assert answer.status_code == 401
    assert "pi_1" not in answer.text
    assert await hints(payments, shop) == []


@pytest.mark.parametrize("away_s", [-301, 302, -86_400])
async def test_an_old_or_early_signature_is_refused(payments: Running, away_s: int) -> None:
    shop = await shop_with_secret(payments)
    body = event("evt_1", "pi_1")
    assert await send(payments, shop, body, at_s=time.time() + away_s) == 401
    assert await send(payments, shop, body, secret="whsec_wrong") == 401
    assert await hints(payments, shop) == []
    assert await send(payments, shop, body, secret="whsec_old") == 200


async def test_a_signature_of_another_body_is_refused(payments: Running) -> None:
    shop = await shop_with_secret(payments)
    header = signature(SECRET, event("evt_1", "pi_1"), int(time.time()))
    assert await sent(payments, f"/hooks/{shop.accounts['stripe']}", event("evt_2", "pi_1"), header) == 401


async def test_a_replayed_webhook_is_absorbed(payments: Running) -> None:
    shop = await shop_with_secret(payments)
    payment_id, reference = await authorized(payments, shop)
    before = await looks(payments, payment_id, shop.tenant)
    for _ in range(5):
        assert await send(payments, shop, event("evt_1", reference)) == 200
    await until(lambda: looks(payments, payment_id, shop.tenant), lambda seen: seen == before + 1)
    assert await hints(payments, shop) == [{"delivery_id": "evt_1", "strangers": []}]
    # What the webhook said is not believed: the gateway says that nothing was captured.
    assert (await shop.payment(payment_id))["captured_minor"] == 0
    assert await shop.names() == ["Authorized"]


async def test_webhooks_in_any_order_are_looks(payments: Running) -> None:
    shop = await shop_with_secret(payments)
    payment_id, reference = await authorized(payments, shop)
    for number in (3, 1, 2):
        assert await send(payments, shop, event(f"evt_{number}", reference)) == 200
    await until(lambda: looks(payments, payment_id, shop.tenant), lambda seen: seen == 3)
    assert await shop.names() == ["Authorized"]


async def test_a_reference_that_nobody_knows_is_kept_for_a_person(payments: Running) -> None:
    shop = await shop_with_secret(payments)
    assert await send(payments, shop, event("evt_1", "pi_unknown")) == 200
    listed = (await payments.admin.get("strangers", params={"tenant": shop.tenant})).json()
    assert [(one["account_id"], one["strangers"]) for one in listed] == [(shop.accounts["stripe"], ["pi_unknown"])]
    assert (await payments.admin.get("strangers", params={"tenant": "zeta"})).json() == []


async def test_a_company_s_webhook_does_not_reach_another_s_payment(payments: Running) -> None:
    shop, other = await shop_with_secret(payments), await shop_with_secret(payments)
    payment_id, reference = await authorized(payments, shop)
    before = await looks(payments, payment_id, shop.tenant)
    assert await send(payments, other, event("evt_1", reference)) == 200
    assert await hints(payments, other) == [{"delivery_id": "evt_1", "strangers": [reference]}]
    assert await looks(payments, payment_id, shop.tenant) == before


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"id": "evt_1"}', b"[" * 100_000, b"\xff", b'{"id": 1,', b'{"id": 1e9999999999999999999}',
        event("evt_\0", "pi_1"), event("evt_1", "pi_\0"), event("evt_1", "\ud800"), event("evt_1", "p" * 3_000),
    ],
)  # fmt: skip
async def test_a_signed_body_that_is_none_is_refused_with_words(payments: Running, body: bytes) -> None:
    shop = await shop_with_secret(payments)
    assert await send(payments, shop, body) == 400
    assert await hints(payments, shop) == []


async def test_an_event_about_anything_else_is_taken_and_means_nothing(payments: Running) -> None:
    shop = await shop_with_secret(payments)
    body = json.dumps({"id": "evt_1", "data": {"object": {"object": "payout", "id": "po_1"}}}).encode()
    assert await send(payments, shop, body) == 200
    assert await hints(payments, shop) == [{"delivery_id": "evt_1", "strangers": []}]


async def test_there_is_no_door_for_an_account_that_is_not_there(payments: Running) -> None:
    for name in ("nobody", "%00", "a" * 5_000):
        assert await sent(payments, f"/hooks/{name}", b"{}", "t=1,v1=00") == 404


async def test_pix_comes_with_a_certificate_and_our_secret_only(payments: Running) -> None:
    shop = await payments.merchant("pix")
    account_id = shop.accounts["pix"]
    told = await payments.service.pool.fetch("SELECT sealed FROM gateway_credentials WHERE account_id = $1", account_id)
    assert len(told) == 6
    secure = f"https://127.0.0.1:{payments.settings.pix_door_port}/hooks/{account_id}"
    plain = f"http://127.0.0.1:{payments.settings.door_port}/hooks/{account_id}"
    body = json.dumps({"pix": [{"endToEndId": "E1", "txid": "a" * 26, "valor": "1.00"}]})
    headers = {"content-type": "application/json"}
    bank = payments.certificates.client_context("bank")
    async with httpx.AsyncClient(verify=bank, trust_env=False) as http:
        assert (await http.post(f"{secure}/{'0' * 32}/pix", content=body, headers=headers)).status_code == 401
        assert (await http.post(plain, content=body, headers=headers)).status_code == 401
        assert (await http.post(f"{plain}/{'0' * 32}/pix", content=body, headers=headers)).status_code == 404
    nobody = ssl.create_default_context(cafile=payments.certificates.certificate("ca"))
    for context in (nobody, payments.certificates.client_context("stranger")):
        async with httpx.AsyncClient(verify=context, trust_env=False) as http:
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
                await http.post(f"{secure}/{'0' * 32}/pix", content=body, headers=headers)
    assert await hints(payments, shop) == []


async def test_a_pix_without_a_charge_of_ours_is_kept_for_a_person(payments: Running) -> None:
    shop = await payments.merchant("pix")
    gateway, session = await payments_session(payments, shop)
    del gateway
    url = payments.settings.door_of(shop.accounts["pix"], certified=True)
    body = json.dumps({"pix": [{"endToEndId": "E1", "valor": "1.00"}, {"endToEndId": "E2", "txid": "b" * 26}]})
    async with httpx.AsyncClient(verify=payments.certificates.client_context("bank"), trust_env=False) as http:
        for _ in range(2):
            target = f"{url}/{session.credentials['webhook_secret']}/pix"
            answer = await http.post(target, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 200
    name = hashlib.sha256(body.encode()).hexdigest()
    assert await hints(payments, shop) == [{"delivery_id": name, "strangers": ["", "b" * 26]}]


async def test_to_subscribe_again_is_to_have_one_address_with_another_secret(payments: Running) -> None:
    shop = await payments.merchant("stripe")
    account_id = shop.accounts["stripe"]
    _, before = await payments_session(payments, shop)
    answer = await payments.admin.post(f"accounts/{account_id}/subscribe", params={"tenant": shop.tenant})
    assert answer.json() == {"account_id": account_id, "url": payments.settings.door_of(account_id, certified=False)}
    _, after = await payments_session(payments, shop)
    assert after.credentials["webhook_secret"] != before.credentials["webhook_secret"]
    headers = {"authorization": f"Bearer {shop.told['credentials']['secret_key']}"}
    async with httpx.AsyncClient(base_url=shop.told["base_url"], headers=headers, trust_env=False) as http:
        endpoints = (await http.get("/v1/webhook_endpoints")).json()["data"]
    assert [one["url"] for one in endpoints] == [answer.json()["url"]]
    # To give the account again changes nothing about its webhooks.
    await shop.open("stripe", subscribed=False)
    assert (await payments_session(payments, shop))[1].credentials == after.credentials


async def payments_session(payments: Running, shop: Merchant) -> Any:
    """The account as the service opens it."""
    return await payments.accounts.session(shop.tenant, next(iter(shop.accounts.values())))


async def test_the_door_for_pix_needs_its_certificates() -> None:
    with pytest.raises(ValueError, match="PAYMENTS_PIX_TLS_KEY"):
        PaymentsSettings(secrets_key=bytes(range(64, 96)).hex(), pix_door_port=1)
    closed = PaymentsSettings(secrets_key=bytes(range(64, 96)).hex(), door_url="https://pay.example/")
    assert closed.door_of("a", certified=True) == ""
    assert closed.door_of("a", certified=False) == "https://pay.example/hooks/a"

"""The carrier as its senders meet it: Melhor Envio's calls, the own-rates carrier, webhooks, vices, a kill."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pypdfium2
import pytest
import pytest_asyncio
import zxingcpp

from services.sandbox.client import SandboxError
from tests.sandbox.carrier_account import RECIPIENT, SENDER, VOLUME, CarrierAccount, cart_body, open_account
from tests.sandbox.conftest import Receiver
from tests.sandbox.running import Sandbox, running

SECONDS_A_DAY = 86_400
FAST = SECONDS_A_DAY * 50
"""A day of the carrier in 20 ms."""


@pytest.fixture(scope="session")
def carrier_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("carrier", tmp_path_factory)


@pytest_asyncio.fixture
async def account(carrier_process: Sandbox) -> AsyncIterator[CarrierAccount]:
    async for one in open_account(carrier_process):
        yield one


async def told_by(account: CarrierAccount, receiver: Receiver, **settings: Any) -> None:
    patience = {"webhook_retry_s": [0.05] * 3, "webhook_timeout_s": 1}
    await account.control.put_shop(account.name, webhook_url=receiver.address, **{**patience, **settings})


def signed_by(account: CarrierAccount, headers: dict[str, str], body: bytes, name: str = "X-ME-Signature") -> bool:
    secret = account.told["credentials"]["client_secret"].encode()
    return headers.get(name) == base64.b64encode(hmac.new(secret, body, hashlib.sha256).digest()).decode()


@pytest.mark.asyncio
async def test_a_parcel_goes_from_quotation_to_its_door(account: CarrierAccount) -> None:
    wanted = {"from": {"postal_code": "01001000"}, "to": {"postal_code": "50000-000"}, "volumes": [VOLUME]}
    options = await account.me("/shipment/calculate", wanted)
    assert [(one["name"], one["currency"]) for one in options] == [("PAC", "R$"), ("SEDEX", "R$"), (".Package", "R$")]
    order_id = await account.bought("o1:s1")
    paid = await account.me(f"/orders/{order_id}")
    assert (paid["status"], f"{paid['price']:.2f}") == ("released", options[0]["price"])
    assert [one["id"] for one in await account.me("/orders/search?q=o1:s1")] == [order_id]
    await account.control.put_shop(account.name, speed=FAST)
    await account.control.post(account.name, order_id)
    assert await account.scanned(4) == ["accepted", "in_transit", "out_for_delivery", "delivered"]
    state = (await account.me("/shipment/tracking", {"orders": [order_id, "unknown"]}))[order_id]
    assert (state["status"], state["tracking"]) == ("delivered", paid["tracking"])
    assert state["posted_at"] is not None
    assert state["delivered_at"] is not None
    kinds = [row["kind"] for row in await account.rows()]
    assert kinds == ["quoted", "carted", "bought", "generated", "scan", "scan", "scan", "scan"]


@pytest.mark.asyncio
async def test_a_label_sets_off_by_itself_where_the_account_says_so(account: CarrierAccount) -> None:
    await account.control.put_shop(account.name, auto_post=True, speed=FAST)
    await account.bought()
    assert (await account.scanned(4))[-1] == "delivered"


@pytest.mark.asyncio
async def test_the_label_is_a_page_whose_barcode_is_the_tracking_code(account: CarrierAccount) -> None:
    order_id = await account.bought()
    url = (await account.me("/shipment/print", {"orders": [order_id], "mode": "public"}))["url"]
    async with aiohttp.request("GET", url) as answer:
        assert answer.headers["Content-Type"] == "application/pdf"
        document = pypdfium2.PdfDocument(await answer.read())
    image = document[0].render(scale=4).to_pil()
    document.close()
    code = (await account.me(f"/orders/{order_id}"))["tracking"]
    assert [one.text for one in zxingcpp.read_barcodes(image)] == [code]
    assert [row["tracking_code"] for row in await account.rows("printed")] == [code]


@pytest.mark.asyncio
async def test_the_door_wants_a_token_and_an_address_to_write_to(account: CarrierAccount) -> None:
    assert (await account.call("GET", "/api/v2/me/cart", headers={"Authorization": "Bearer wrong"}))[0] == 401
    assert (await account.call("GET", "/api/v2/me/cart", headers={"User-Agent": "Loja"}))[0] == 403
    await account.control.put_shop(account.name, requests_per_minute=2)
    answers = [(await account.call("GET", "/api/v2/me/cart"))[0] for _ in range(4)]
    assert answers == [200, 200, 429, 429]


@pytest.mark.asyncio
async def test_a_token_ends_and_is_renewed_once(account: CarrierAccount) -> None:
    kept = account.told["credentials"]
    await account.control.put_shop(account.name, token_until_ms=1)
    assert (await account.call("GET", "/api/v2/me/cart"))[0] == 401
    asked = {"grant_type": "refresh_token", **{name: kept[name] for name in kept if name != "access_token"}}
    async with account.http.post(f"{account.told['base_url']}/oauth/token", data=asked) as answer:
        fresh = await answer.json()
    bearer = {"Authorization": f"Bearer {fresh['access_token']}"}
    assert (await account.call("GET", "/api/v2/me/cart", headers=bearer))[0] == 200
    assert (await account.call("POST", "/oauth/token", asked))[0] == 401


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"service": 99}, "service"),
        ({"options": {}}, "options.invoice.key"),
        ({"to": RECIPIENT | {"postal_code": "5"}}, "to.postal_code"),
        ({"from": "loja"}, "from.postal_code"),
        ({"volumes": [VOLUME | {"weight": 0}]}, "volumes"),
        ({"volumes": [VOLUME | {"weight": 31}]}, "service"),
        ({"to": {"postal_code": "50000000"}}, "to.name"),
        ({"volumes": [VOLUME | {"weight": float("inf")}]}, "volumes"),
        ({"volumes": "one"}, "volumes"),
        ({"volumes": [VOLUME | {"quantity": 10**9}]}, "products.quantity"),
        ({"options": {"tags": 7}}, "options.invoice.key"),
    ],
)
async def test_a_cart_says_what_is_wrong_with_a_parcel(
    account: CarrierAccount, change: dict[str, Any], field: str
) -> None:
    status, told = await account.call("POST", "/api/v2/me/cart", cart_body("o1:s1") | change)
    assert (status, list(told["errors"])) == (422, [field])
    assert await account.rows() == []


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [[], "x", None, {"orders": "all"}, {"orders": []}, {"orders": [1]}])
async def test_what_is_no_list_of_parcels_is_refused(account: CarrierAccount, body: Any) -> None:
    for step in ("checkout", "generate", "print", "tracking"):
        assert (await account.call("POST", f"/api/v2/me/shipment/{step}", body))[0] == 422


@pytest.mark.asyncio
async def test_money_is_taken_once_and_given_back_before_posting_only(account: CarrierAccount) -> None:
    before = (await account.me("/balance"))["balance"]
    order_id = await account.bought()
    price = (await account.me(f"/orders/{order_id}"))["price"]
    assert (await account.me("/balance"))["balance"] == pytest.approx(before - price)
    assert (await account.call("POST", "/api/v2/me/shipment/checkout", {"orders": [order_id]}))[0] == 422
    cancelled = {"order": {"id": order_id, "reason_id": "2", "description": "desistência"}}
    for _ in range(2):
        assert (await account.me("/shipment/cancel", cancelled))[order_id] == {"canceled": True}
    assert (await account.me("/balance"))["balance"] == before
    posted = await account.bought()
    await account.control.scan(account.name, posted, "accepted")
    assert (await account.me("/shipment/cancel", {"order": {"id": posted}}))[posted] == {"canceled": False}
    assert [row["kind"] for row in await account.rows("bought", "cancelled")] == ["bought", "cancelled", "bought"]
    await account.control.put_shop(account.name, balance_minor=0)
    order_id = await account.cart()
    status, told = await account.call("POST", "/api/v2/me/shipment/checkout", {"orders": [order_id]})
    assert (status, told["message"]) == (422, "Saldo insuficiente")


@pytest.mark.asyncio
async def test_a_cart_can_be_listed_and_emptied_and_is_no_purchase(account: CarrierAccount) -> None:
    order_id = await account.cart("o1:s1")
    listed = await account.me("/cart")
    assert [(one["id"], one["tags"][0]["tag"]) for one in listed["data"]] == [(order_id, "o1:s1")]
    assert (await account.call("GET", f"/api/v2/me/orders/{order_id}"))[0] == 404
    assert (await account.me("/orders"))["data"] == await account.me("/orders/search?q=o1:s1") == []
    assert (await account.call("POST", "/api/v2/me/shipment/generate", {"orders": [order_id]}))[0] == 422
    assert (await account.call("DELETE", f"/api/v2/me/cart/{order_id}"))[0] == 204
    assert (await account.call("GET", f"/api/v2/me/cart/{order_id}"))[0] == 404


@pytest.mark.asyncio
async def test_tags_are_not_found_where_the_account_says_so(account: CarrierAccount) -> None:
    order_id = await account.bought("o1:s1")
    await account.control.put_shop(account.name, search_finds_tags=False)
    assert await account.me("/orders/search?q=o1:s1") == []
    assert [one["id"] for one in await account.me(f"/orders/search?q={order_id}")] == [order_id]
    assert [one["tags"][0]["tag"] for one in (await account.me("/orders?status=released"))["data"]] == ["o1:s1"]


@pytest.mark.asyncio
async def test_places_that_nobody_serves_get_no_price(account: CarrierAccount) -> None:
    await account.control.put_shop(account.name, unserved_prefixes=["5"])
    asked = {"from": SENDER, "to": RECIPIENT, "package": VOLUME, "services": "1,2"}
    options = await account.me("/shipment/calculate", asked)
    assert ["error" in one for one in options] == [True, True]


@pytest.mark.asyncio
@pytest.mark.parametrize("step", ["cart", "checkout"])
async def test_a_purchase_that_is_not_answered_has_been_made(account: CarrierAccount, step: str) -> None:
    order_id = await account.cart("o1:s1") if step == "checkout" else ""
    await account.control.put_vices(account.name, buy_timeout={})
    path, body = ("cart", cart_body("o2:s1")) if step == "cart" else ("shipment/checkout", {"orders": [order_id]})
    with pytest.raises(TimeoutError):
        await account.call("POST", f"/api/v2/me/{path}", body, timeout=aiohttp.ClientTimeout(total=1))
    await account.control.put_vices(account.name)
    if step == "cart":
        assert [one["tags"][0]["tag"] for one in (await account.me("/cart"))["data"]] == ["o2:s1"]
    else:
        assert [one["id"] for one in await account.me("/orders/search?q=o1:s1")] == [order_id]
    rows = await account.rows("carted" if step == "cart" else "bought")
    assert [row["late"] for row in rows] == [True]


@pytest.mark.asyncio
async def test_a_late_purchase_is_made_after_its_client_has_gone(account: CarrierAccount) -> None:
    order_id = await account.cart("o1:s1")
    await account.control.put_vices(account.name, buy_late={"min_ms": 1000, "max_ms": 1000})
    gone = aiohttp.ClientTimeout(total=0.1)
    with pytest.raises(TimeoutError):
        await account.call("POST", "/api/v2/me/shipment/checkout", {"orders": [order_id]}, timeout=gone)
    assert await account.me("/orders/search?q=o1:s1") == []
    assert [row["late"] for row in await account.wait_for_rows("bought", 1)] == [True]
    assert [one["id"] for one in await account.me("/orders/search?q=o1:s1")] == [order_id]


@pytest.mark.asyncio
async def test_a_slow_quotation_outlasts_a_short_patience(account: CarrierAccount) -> None:
    await account.control.put_vices(account.name, quote_slow={"min_ms": 2000, "max_ms": 2000})
    asked = {"from": SENDER, "to": RECIPIENT, "package": VOLUME}
    with pytest.raises(TimeoutError):
        await account.call("POST", "/api/v2/me/shipment/calculate", asked, timeout=aiohttp.ClientTimeout(total=0.1))


@pytest.mark.asyncio
async def test_a_missing_label_appears_later(account: CarrierAccount) -> None:
    order_id = await account.bought()
    await account.control.put_vices(account.name, label_missing={"min_ms": 700, "max_ms": 700})
    url = (await account.me("/shipment/print", {"orders": [order_id]}))["url"]
    statuses = []
    while 200 not in statuses:
        async with aiohttp.request("GET", url) as answer:
            statuses.append(answer.status)
        await asyncio.sleep(0.02)
    assert set(statuses) == {404, 200}


@pytest.mark.asyncio
async def test_webhooks_are_signed_and_tried_again(account: CarrierAccount, receiver: Receiver) -> None:
    await told_by(account, receiver)
    receiver.answers = [500, 500]
    order_id = await account.cart("o1:s1")
    for _ in range(3):
        headers, body = await receiver.next()
        assert signed_by(account, headers, body)
        told = json.loads(body)
        assert (told["event"], told["data"]["id"], told["data"]["tags"][0]["tag"]) == (
            "order.created",
            order_id,
            "o1:s1",
        )
    assert [row["status"] for row in await account.wait_for_rows("webhook", 3)] == [500, 500, 200]


@pytest.mark.asyncio
async def test_webhooks_meet_the_vices(account: CarrierAccount, receiver: Receiver) -> None:
    await told_by(account, receiver)
    await account.control.put_vices(account.name, webhook_duplicate={})
    await account.cart()
    assert (await receiver.next())[1] == (await receiver.next())[1]
    await account.control.put_vices(account.name, webhook_foreign_signature={})
    await account.cart()
    assert not signed_by(account, *(await receiver.next()))
    await account.control.put_vices(account.name, webhook_missing={})
    await account.cart()
    statuses = [str(row["status"]) for row in await account.wait_for_rows("webhook", 4)]
    assert sorted(statuses) == ["200", "200", "200", "dropped"]
    await account.control.put_vices(account.name, webhook_reordered={"min_ms": 0, "max_ms": 400}, seed=1)
    made = [await account.cart() for _ in range(12)]
    heard = [json.loads((await receiver.next())[1])["data"]["id"] for _ in range(12)]
    assert sorted(heard) == sorted(made)
    assert heard != made


@pytest.mark.asyncio
async def test_webhooks_that_nothing_caused_can_be_sent(account: CarrierAccount, receiver: Receiver) -> None:
    with pytest.raises(SandboxError, match="409"):
        await account.control.webhook(account.name, "order.posted", "unknown")
    await told_by(account, receiver)
    for signed in ("own", "foreign", "none"):
        await account.control.webhook(account.name, "order.posted", "unknown", signed=signed)
        headers, body = await receiver.next()
        assert json.loads(body) == {"event": "order.posted", "data": {"id": "unknown", "tags": []}}
        assert (signed_by(account, headers, body), "X-ME-Signature" in headers) == (signed == "own", signed != "none")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("vice", "statuses", "status"),
    [
        ("lost", ["accepted", "in_transit", "lost"], "suspended"),
        (
            "returned",
            ["accepted", "in_transit", "out_for_delivery", "attempt_failed", "returning", "returned"],
            "undelivered",
        ),
        (
            "scan_going_back",
            ["accepted", "in_transit", "out_for_delivery", "in_transit", "delivered", "out_for_delivery"],
            "posted",
        ),
    ],
)
async def test_journeys_that_go_wrong(account: CarrierAccount, vice: str, statuses: list[str], status: str) -> None:
    await account.control.put_shop(account.name, speed=FAST)
    await account.control.put_vices(account.name, **{vice: {}})
    order_id = await account.bought()
    await account.control.post(account.name, order_id)
    assert await account.scanned(len(statuses)) == statuses
    assert (await account.me("/shipment/tracking", {"orders": [order_id]}))[order_id]["status"] == status


@pytest.mark.asyncio
async def test_only_a_parcel_with_a_label_travels(account: CarrierAccount) -> None:
    order_id = await account.cart()
    for deed in (account.control.post(account.name, order_id), account.control.scan(account.name, order_id, "lost")):
        with pytest.raises(SandboxError, match="409"):
            await deed
    with pytest.raises(SandboxError, match="404"):
        await account.control.post(account.name, "unknown")


@pytest.mark.asyncio
async def test_a_sender_with_own_rates_hands_parcels_over_and_hears_of_every_scan(
    carrier_process: Sandbox, receiver: Receiver
) -> None:
    async for account in open_account(carrier_process, kind="table", speed=FAST):
        await told_by(account, receiver)
        handed = {"tracking_code": "SD000000005BR", "shipment_id": "o1:s1", "days": 2}
        assert (await account.call("POST", "/table/v1/parcels", handed))[0] == 201
        assert (await account.call("POST", "/table/v1/parcels", handed))[0] == 200
        heard = [await receiver.next() for _ in range(4)]
        assert all(signed_by(account, headers, body, "X-Scanner-Signature") for headers, body in heard)
        longest = max((json.loads(body)["data"] for _, body in heard), key=lambda data: len(data["scans"]))
        statuses = ["accepted", "in_transit", "out_for_delivery", "delivered"]
        assert [one["status"] for one in longest["scans"]] == statuses
        codes = {"codes": ["SD000000005BR", "SD000000014BR"]}
        assert await account.call("POST", "/table/v1/tracking", codes) == (200, {"SD000000005BR": longest})
        await account.control.scan(account.name, "SD000000005BR", "returned", place="loja")
        assert (await account.control.parcels(account.name))[0]["status"] == "returned"
        assert (await account.call("POST", "/table/v1/tracking", {"codes": "all"}))[0] == 422
        assert (await account.call("GET", "/api/v2/me/cart"))[0] == 401
        assert [row["kind"] for row in await account.rows("collected")] == ["collected"]


@pytest.mark.asyncio
async def test_after_a_kill_parcels_balance_scans_and_webhooks_go_on(tmp_path: Path, receiver: Receiver) -> None:
    sandbox = Sandbox("carrier", tmp_path / "books.sqlite")
    sandbox.start()
    try:
        async for account in open_account(sandbox, speed=SECONDS_A_DAY * 4):
            await told_by(account, receiver, webhook_retry_s=[0.2] * 20)
            receiver.answers = [503]
            order_id = await account.bought("o1:s1")
            await account.control.post(account.name, order_id)
            await account.wait_for_rows("scan", 1)
            balance = (await account.me("/balance"))["balance"]
            before = await account.rows()
            sandbox.kill()
        sandbox.start()
        async for again in open_account(sandbox):
            resumed = CarrierAccount(account.name, again.told, again.control, again.http)
            rows = await resumed.wait_for_rows("scan", 4)
            assert [row["status"] for row in rows] == ["accepted", "in_transit", "out_for_delivery", "delivered"]
            assert (await resumed.rows())[: len(before)] == before
            bearer = {"Authorization": f"Bearer {account.told['credentials']['access_token']}"}
            assert (await resumed.call("GET", "/api/v2/me/balance", headers=bearer))[1]["balance"] == balance
            events = set()
            while "order.delivered" not in events or "order.created" not in events:
                events.add(json.loads((await receiver.next())[1])["event"])
    finally:
        if sandbox.running:
            sandbox.stop()


@pytest.mark.asyncio
async def test_control_accounts(account: CarrierAccount) -> None:
    again = await account.control.put_shop(account.name, speed=2)
    assert again["credentials"] == account.told["credentials"]
    with pytest.raises(SandboxError, match="409"):
        await account.control.put_shop(f"{account.name}-twin", credentials=again["credentials"])
    with pytest.raises(SandboxError, match="422"):
        await account.control.put_shop(account.name, colour="green")
    with pytest.raises(SandboxError, match="404"):
        await account.control.parcels("unknown")
    assert (await account.control.health())["marketplace"] == "carrier"
    assert (await account.control.limits())["shops"][account.name] == {"requests_per_minute": 100_000}
    assert account.name in await account.control.shops()

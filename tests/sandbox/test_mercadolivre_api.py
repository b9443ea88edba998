"""Mercado Livre's documented behaviour over real HTTP."""

import asyncio
from datetime import datetime
from typing import Any

import aiohttp
import pytest

from services.sandbox.client import SandboxClient, SandboxError
from tests.sandbox.conftest import Receiver, Shop, open_shop, refresh
from tests.sandbox.running import TOKEN, Sandbox
from tests.sandbox.test_control_and_books import numbers_by_books

NFE_KEY = "35260511222333000181550010000001231000001234"
NFE = f'<nfeProc><NFe><infNFe Id="NFe{NFE_KEY}"></infNFe></NFe></nfeProc>'.encode()


async def ask(shop: Shop, method: str, path: str, status: int = 200, **more: Any) -> Any:
    async with shop.http.request(method, shop.url + path, **more) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json()


async def stock(shop: Shop, product: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Version and body of the stock of a product."""
    async with shop.http.get(f"{shop.url}/user-products/MLBU{product['product_id']}/stock") as answer:
        return answer.headers["x-version"], await answer.json()


async def put_stock(
    shop: Shop, product: dict[str, Any], quantity: int, version: str | None, **more: Any
) -> tuple[int, dict[str, Any]]:
    place = {"store_id": shop.location, "network_node_id": f"BRP{shop.location}", "quantity": quantity} | more
    address = f"{shop.url}/user-products/MLBU{product['product_id']}/stock/type/seller_warehouse"
    headers = {} if version is None else {"x-version": version}
    async with shop.http.put(address, json={"locations": [place]}, headers=headers) as answer:
        return answer.status, await answer.json()


def document(content: bytes) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("fiscal_document", content, filename="nfe.xml", content_type="text/xml")
    return form


@pytest.mark.asyncio
async def test_a_claim_is_searched_pushed_and_its_return_paid_back_when_it_arrives(
    meli_shop: Shop, receiver: Receiver
) -> None:
    shop = meli_shop
    await shop.put(a=9)
    await shop.control.put_shop(shop.name, callback_url=receiver.address, topics=["post_purchase"])
    order = (await shop.control.buy(shop.name, {"a": 3}))["order_id"]
    with pytest.raises(SandboxError, match="only what has left"):
        await shop.control.claim(shop.name, order, {"a": 1})
    await shop.control.move(shop.name, order, "shipped")
    claim = await shop.control.claim(shop.name, order, {"a": 2})
    with pytest.raises(SandboxError, match="fewer units"):
        await shop.control.claim(shop.name, order, {"a": 2})
    search = "/post-purchase/v1/claims/search"
    assert (await ask(shop, "GET", search, 400))["error"] == "invalid_query"
    assert (await ask(shop, "GET", f"{search}?players.user_id=1", 400))["error"] == "invalid_query"
    (found,) = (await ask(shop, "GET", f"{search}?order_id={order}"))["data"]
    assert (found["id"], found["status"], found["related_entities"]) == (int(claim), "opened", ["return"])
    assert (await ask(shop, "GET", f"{search}?order_id=1"))["paging"]["total"] == 0
    back = await ask(shop, "GET", f"/post-purchase/v2/claims/{claim}/returns")
    assert (back["status"], back["subtype"], back["orders"][0]["return_quantity"]) == (
        "label_generated", "return_partial", "2.0",
    )  # fmt: skip
    assert await shop.rows("refund") == []
    await shop.control.move_claim(shop.name, claim, "delivered")
    with pytest.raises(SandboxError, match="stays so"):
        await shop.control.move_claim(shop.name, claim, "cancelled")
    (refund,) = await shop.rows("refund")
    assert [(line["quantity"], line["restored"]) for line in refund["lines"]] == [(2, False)]
    assert (await ask(shop, "GET", f"/post-purchase/v1/claims/{claim}"))["status"] == "closed"
    assert (await ask(shop, "GET", f"/orders/{order}"))["status"] == "partially_refunded"
    await ask(shop, "GET", "/post-purchase/v2/claims/1/returns", 404)
    pushes = await shop.wait_for_rows("webhook", 2)
    assert {row["topic"] for row in pushes} == {"post_purchase"}


@pytest.mark.asyncio
async def test_a_refresh_token_works_once_and_only_the_last_one(mercadolivre_process: Sandbox) -> None:
    async for shop in open_shop(mercadolivre_process, limits={"meli_token_per_s": 1000}):
        first, spent = shop.tokens["refresh_token"], shop.told["credentials"]["refresh_token"]
        status, refused = await refresh(shop.told, spent)
        assert (status, refused["error"]) == (400, "invalid_grant")
        status, granted = await refresh(shop.told, first)
        assert (status, granted["token_type"]) == (200, "bearer")
        assert granted["refresh_token"] not in (first, spent)
        assert (await refresh(shop.told, first))[0] == 400
        # Both access tokens stand until they end.
        for access in (shop.tokens["access_token"], granted["access_token"]):
            await ask(shop, "GET", "/users/me", headers={"Authorization": f"Bearer {access}"})
        rows = [(row["action"], row["generation"]) for row in await shop.rows("token")]
        assert rows == [("refreshed", 1), ("refused", None), ("refreshed", 2), ("refused", None)]


@pytest.mark.asyncio
async def test_the_token_used_last_may_be_given_once_more_where_the_shop_is_set_so(meli_shop: Shop) -> None:
    shop = meli_shop
    await shop.control.put_shop(shop.name, refresh_reuse_s=60)
    given = shop.tokens["refresh_token"]
    first, again = await refresh(shop.told, given), await refresh(shop.told, given)
    assert first == again


@pytest.mark.asyncio
async def test_an_exchange_whose_answer_is_lost_has_used_the_token_up(meli_shop: Shop) -> None:
    shop = meli_shop
    await shop.control.put_vices(shop.name, token_unanswered={})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(refresh(shop.told, shop.tokens["refresh_token"]), 0.2)
    await shop.control.put_vices(shop.name)
    assert (await refresh(shop.told, shop.tokens["refresh_token"]))[1]["error"] == "invalid_grant"


@pytest.mark.asyncio
async def test_the_numbers_of_a_seller_and_an_application_are_numbers(meli_shop: Shop) -> None:
    with pytest.raises(SandboxError, match="422"):
        await meli_shop.control.put_shop(meli_shop.name, credentials={"client_id": "mine"})


@pytest.mark.asyncio
async def test_twenty_refreshes_at_once_of_one_token_give_one_new_one(meli_shop: Shop) -> None:
    shop = meli_shop
    answers = await asyncio.gather(*(refresh(shop.told, shop.tokens["refresh_token"]) for _ in range(20)))
    assert sorted(status for status, _ in answers) == [200, *[400] * 19]


@pytest.mark.asyncio
async def test_an_access_token_ends_and_a_seller_authorises_again(mercadolivre_process: Sandbox) -> None:
    async for shop in open_shop(mercadolivre_process, limits={"meli_token_per_s": 1000}, access_token_s=0.001):
        told = await ask(shop, "GET", "/users/me", 401)
        assert told["error"] == "unauthorized"
        again = await shop.control.put_shop(shop.name, access_token_s=60, credentials={"refresh_token": "TG-anew"})
        assert (await refresh(shop.told, shop.tokens["refresh_token"]))[0] == 400
        status, granted = await refresh(again, "TG-anew")
        assert status == 200
        headers = {"Authorization": f"Bearer {granted['access_token']}"}
        assert (await ask(shop, "GET", "/users/me", headers=headers))["id"] == int(shop.told["credentials"]["user_id"])
        await shop.control.put_vices(shop.name, token_refused={})
        await ask(shop, "GET", "/users/me", 401, headers=headers)


@pytest.mark.asyncio
async def test_a_sandbox_that_was_killed_knows_its_tokens(books_path: Any) -> None:
    sandbox = Sandbox("mercadolivre", books_path)
    sandbox.start()
    try:
        async for shop in open_shop(sandbox):
            sandbox.kill()
            sandbox.start()
            headers = {"Authorization": f"Bearer {shop.tokens['access_token']}"}
            async with (
                aiohttp.ClientSession(headers=headers) as http,
                http.get(f"{sandbox.base_url}/users/me") as answer,
            ):
                assert answer.status == 200
            told = shop.told | {"base_url": sandbox.base_url}
            assert (await refresh(told, shop.told["credentials"]["refresh_token"]))[0] == 400
            assert (await refresh(told, shop.tokens["refresh_token"]))[0] == 200
    finally:
        sandbox.stop()


@pytest.mark.asyncio
async def test_an_order_is_announced_by_a_pointer_and_shown_without_its_parcel(
    meli_shop: Shop, receiver: Receiver
) -> None:
    shop = meli_shop
    await shop.put(a=5)
    await shop.control.put_shop(shop.name, callback_url=receiver.address)
    sold = await shop.control.buy(shop.name, {"a": 2}, pay="later", buyer=3)
    pointers = await receiver.pointers(2)
    assert [pointer["topic"] for pointer in pointers] == ["orders_v2", "shipments"]
    assert pointers[0].keys() == {
        "_id", "resource", "user_id", "topic", "application_id", "attempts", "sent", "received"
    }  # fmt: skip
    assert pointers[0]["resource"] == f"/orders/{sold['order_id']}"
    order = await ask(shop, "GET", pointers[0]["resource"])
    assert (order["status"], order["total_amount"], order["pack_id"]) == ("payment_required", 39.8, None)
    assert order["order_items"][0]["item"]["seller_sku"] == "a"
    shipment = await ask(shop, "GET", pointers[1]["resource"])
    assert shipment["id"] == order["shipping"]["id"]
    assert (shipment["status"], shipment["receiver_address"]["receiver_name"]) == ("pending", "XXXXXXX")
    await shop.control.pay(shop.name, sold["order_id"])
    await receiver.pointers(2)
    paid = await ask(shop, "GET", pointers[0]["resource"])
    assert paid["status"] == "paid"
    assert datetime.fromisoformat(paid["last_updated"]) > datetime.fromisoformat(order["last_updated"])
    shipment = await ask(shop, "GET", pointers[1]["resource"], headers={"x-format-new": "true"})
    assert (shipment["status"], shipment["substatus"]) == ("ready_to_ship", "invoice_pending")
    assert shipment["destination"]["receiver_name"] == "Comprador 3"
    await shop.control.cancel(shop.name, sold["order_id"])
    assert (await ask(shop, "GET", pointers[0]["resource"]))["status"] == "cancelled"
    assert await shop.control.numbers(shop.name) == {"a": 5}


@pytest.mark.asyncio
async def test_what_eight_tries_did_not_deliver_is_in_the_missed_feeds(meli_shop: Shop, receiver: Receiver) -> None:
    shop = meli_shop
    await shop.put(a=5)
    receiver.answers = [500] * 8
    await shop.control.put_shop(shop.name, callback_url=receiver.address, topics=["orders_v2"])
    sold = await shop.control.buy(shop.name, {"a": 1})
    pointers = await receiver.pointers(8)
    assert [pointer["attempts"] for pointer in pointers] == list(range(1, 9))
    assert len({pointer["_id"] for pointer in pointers}) == 1
    await shop.wait_for_rows("webhook", 9)
    asked = f"/missed_feeds?app_id={shop.told['credentials']['client_id']}"
    missed = (await ask(shop, "GET", asked))["messages"]
    assert [(one["_id"], one["resource"]) for one in missed] == [(pointers[0]["_id"], f"/orders/{sold['order_id']}")]
    assert (await ask(shop, "GET", f"{asked}&offset=1"))["messages"] == []
    assert (await ask(shop, "GET", f"{asked}&topic=shipments"))["messages"] == []
    await ask(shop, "GET", "/missed_feeds?app_id=1", 400)
    await shop.control.put_shop(shop.name, missed_feeds_kept_s=0.001)
    assert (await ask(shop, "GET", asked))["messages"] == []


@pytest.mark.asyncio
async def test_a_slow_door_counts_as_a_failure_and_costs_the_topic(meli_shop: Shop, receiver: Receiver) -> None:
    shop = meli_shop
    await shop.put(a=9)
    receiver.delay_s = 0.3
    told = await shop.control.put_shop(
        shop.name, callback_url=receiver.address, topic_failures_max=3, webhook_timeout_s=0.05
    )
    assert told["topics"] == ["orders_v2", "shipments", "post_purchase"]
    await shop.control.put_shop(shop.name, topics=["orders_v2"])
    await shop.control.buy(shop.name, {"a": 1})
    assert [row["topic"] for row in await shop.wait_for_rows("topic", 1)] == ["orders_v2"]
    assert (await shop.control.shop(shop.name))["topics"] == []
    assert {row["status"] for row in await shop.rows("webhook")} <= {"timeout", "given_up"}
    await shop.control.buy(shop.name, {"a": 1})
    # What happened to a topic that was taken away is told nowhere but in the search.
    asked = f"/missed_feeds?app_id={shop.told['credentials']['client_id']}"
    assert (await ask(shop, "GET", asked))["messages"] == []
    seller = shop.told["credentials"]["user_id"]
    assert (await ask(shop, "GET", f"/orders/search?seller={seller}"))["paging"]["total"] == 2


@pytest.mark.asyncio
async def test_hidden_events_announce_an_order_that_did_not_change(meli_shop: Shop, receiver: Receiver) -> None:
    shop = meli_shop
    await shop.put(a=9)
    await shop.control.put_shop(shop.name, callback_url=receiver.address, topics=["orders_v2"])
    await shop.control.put_vices(shop.name, hidden_event={})
    await shop.control.buy(shop.name, {"a": 1})
    first, second = await receiver.pointers(2)
    assert first["resource"] == second["resource"]
    assert first["_id"] != second["_id"]


@pytest.mark.asyncio
async def test_a_shop_shows_its_default_of_eight_tries_within_an_hour(mercadolivre_process: Sandbox) -> None:
    async with SandboxClient(mercadolivre_process.base_url, TOKEN) as control:
        told = await control.put_shop("loja-com-o-normal")
    assert (told["webhook_timeout_s"], len(told["webhook_retry_s"])) == (0.5, 7)
    assert sum(told["webhook_retry_s"]) <= 3600


@pytest.mark.asyncio
async def test_the_search_finds_by_the_time_of_the_last_change(meli_shop: Shop) -> None:
    shop = meli_shop
    await shop.put(a=9)
    old, new = [(await shop.control.buy(shop.name, {"a": 1}, pay="later"))["order_id"] for _ in range(2)]
    await shop.control.pay(shop.name, new)
    shown = await ask(shop, "GET", f"/orders/{new}")
    base = f"/orders/search?seller={shop.told['credentials']['user_id']}"
    since = {"order.date_last_updated.from": shown["last_updated"]}
    found = await ask(shop, "GET", base, params=since)
    assert [one["id"] for one in found["results"]] == [int(new)]
    assert found["results"][0] == shown
    assert [one["id"] for one in (await ask(shop, "GET", f"{base}&sort=date_desc"))["results"]] == [int(new), int(old)]
    page = await ask(shop, "GET", f"{base}&offset=1&limit=1")
    assert (page["results"][0]["id"], page["paging"]) == (int(new), {"total": 2, "offset": 1, "limit": 1})
    assert [one["id"] for one in (await ask(shop, "GET", f"{base}&order.status=paid"))["results"]] == [int(new)]
    await ask(shop, "GET", f"{base}&limit=51", 400)
    await ask(shop, "GET", "/orders/search?seller=1", 403)


@pytest.mark.asyncio
async def test_stock_is_written_with_the_newest_version_only(meli_shop: Shop) -> None:
    shop = meli_shop
    product = (await shop.put(a=5))["a"]
    version, shown = await stock(shop, product)
    place = {"type": "seller_warehouse", "store_id": shop.location, "network_node_id": f"BRP{shop.location}"}
    assert shown["locations"] == [place | {"quantity": 5}]
    status, told = await put_stock(shop, product, 4, version)
    assert (status, told["locations"][0]["quantity"]) == (200, 4)
    assert await put_stock(shop, product, 3, version) == (
        409, {"message": "Version mismatch", "error": "conflict", "status": 409, "cause": []},
    )  # fmt: skip
    assert (await put_stock(shop, product, 3, None))[1]["message"] == "Missing X-Version header"
    version, _ = await stock(shop, product)
    await shop.control.buy(shop.name, {"a": 1})
    assert (await put_stock(shop, product, 9, version))[0] == 409
    version, _ = await stock(shop, product)
    assert (await put_stock(shop, product, 9, version, store_id="1"))[0] == 400
    assert (await put_stock(shop, product, -1, version))[0] == 400
    await shop.control.put_vices(shop.name, version_moves={})
    assert (await put_stock(shop, product, 9, version))[0] == 409
    await shop.control.put_vices(shop.name)
    assert (await put_stock(shop, product, 9, (await stock(shop, product))[0]))[0] == 200
    assert numbers_by_books(await shop.rows()) == await shop.control.numbers(shop.name) == {"a": 9}
    why = [row["why"] for row in await shop.rows("write_refused")]
    assert why == ["stale", "unversioned", "stale", "invalid_location", "negative", "stale"]


@pytest.mark.asyncio
async def test_units_in_the_marketplaces_own_warehouse_are_sold_and_not_written(meli_shop: Shop) -> None:
    shop = meli_shop
    product = (await shop.put(a=1))["a"]
    await shop.control.put_products(shop.name, [{"sku": "a", "quantity": 2, "location": "meli_facility"}])
    version, shown = await stock(shop, product)
    assert shown["locations"][1] == {"type": "meli_facility", "quantity": 2}
    address = f"/user-products/MLBU{product['product_id']}/stock/type/meli_facility"
    await ask(shop, "PUT", address, 400, json={"locations": [{"quantity": 9}]}, headers={"x-version": version})
    assert (await put_stock(shop, product, 9, version, store_id="meli_facility"))[0] == 400
    full = (await shop.control.buy(shop.name, {"a": 2}))["order_id"]
    order = await ask(shop, "GET", f"/orders/{full}")
    assert order["order_items"][0]["stock"] == {"store_id": None, "node_id": "meli_facility"}
    assert (await ask(shop, "GET", f"/shipments/{order['shipping']['id']}"))["logistic_type"] == "fulfillment"
    assert await shop.control.numbers(shop.name, location=shop.location) == {"a": 1}


@pytest.mark.asyncio
async def test_several_adverts_offer_one_product(meli_shop: Shop) -> None:
    shop = meli_shop
    rows = [{"sku": "a", "quantity": 5, "price_minor": 1990, "adverts": 3}, {"sku": "b", "quantity": 1}]
    products = await shop.control.put_products(shop.name, rows)
    base = f"/users/{shop.told['credentials']['user_id']}/items/search"
    found = await ask(shop, "GET", base)
    assert (len(found["results"]), found["paging"]["total"]) == (4, 4)
    items = await ask(shop, "GET", f"/items/bulk?ids={','.join(found['results'])},MLB1")
    assert [one["code"] for one in items] == [200, 200, 200, 200, 404]
    of_one = [one["body"]["user_product_id"] for one in items[:3]]
    assert of_one == [f"MLBU{products[0]['product_id']}"] * 3
    assert items[0]["body"]["attributes"][0]["value_name"] == "a"
    assert await ask(shop, "GET", f"/items/{found['results'][0]}") == items[0]["body"]
    bought = [(await shop.control.buy(shop.name, {"a": 1}))["order_id"] for _ in range(3)]
    adverts = {(await ask(shop, "GET", f"/orders/{one}"))["order_items"][0]["item"]["id"] for one in bought}
    assert adverts == set(found["results"][:3])
    pages, scroll = [], ""
    while page := (await ask(shop, "GET", f"{base}?search_type=scan&limit=3{scroll}"))["results"]:
        pages.append(page)
        scroll = f"&scroll_id={3 * len(pages)}"
    assert [one for page in pages for one in page] == found["results"]
    await ask(shop, "GET", f"{base}?offset=1000", 400)
    stores = await ask(shop, "GET", f"/users/{shop.told['credentials']['user_id']}/stores/search?tags=stock_location")
    assert [one["id"] for one in stores["results"]] == shop.told["locations"]


@pytest.mark.asyncio
async def test_a_pack_is_invoiced_once_and_before_its_shipment(meli_shop: Shop, receiver: Receiver) -> None:
    shop = meli_shop
    await shop.put(a=5, b=5)
    bought = [(await shop.control.buy(shop.name, {sku: 1}, pack="cesta"))["order_id"] for sku in ("a", "b")]
    orders = [await ask(shop, "GET", f"/orders/{one}") for one in bought]
    pack, shipment = orders[0]["pack_id"], orders[0]["shipping"]["id"]
    assert (orders[1]["pack_id"], orders[1]["shipping"]["id"]) == (pack, shipment)
    assert [one["id"] for one in (await ask(shop, "GET", f"/packs/{pack}"))["orders"]] == [int(one) for one in bought]
    track = {"status": "shipped", "tracking_number": "SD123456789BR", "tracking_method": "Correios"}
    assert (await ask(shop, "PUT", f"/shipments/{shipment}", 400, json=track))["error"] == "invoice_pending"
    address = f"/packs/{pack}/fiscal_documents"
    await ask(shop, "GET", address, 404)
    await ask(shop, "POST", address, 400, data=document(b"<nfe>no key</nfe>"))
    told = await ask(shop, "POST", address, 201, data=document(NFE))
    assert [one["id"] for one in (await ask(shop, "GET", address))["fiscal_documents"]] == told["ids"]
    await ask(shop, "POST", address, 409, data=document(NFE))
    await shop.control.put_shop(shop.name, callback_url=receiver.address)
    moved = await ask(shop, "PUT", f"/shipments/{shipment}", json=track)
    assert (moved["status"], moved["tracking_number"]) == ("shipped", "SD123456789BR")
    assert {pointer["resource"] for pointer in await receiver.pointers(2)} == {f"/shipments/{shipment}"}
    await ask(shop, "PUT", f"/shipments/{shipment}", json={"status": "delivered"})
    assert "delivered" in (await ask(shop, "GET", f"/orders/{bought[1]}"))["tags"]
    told_rows = [(row["order_id"], row["step"], row["reference"]) for row in await shop.rows("told")]
    steps = [("invoice", NFE_KEY), ("shipment", "SD123456789BR"), ("delivery", "SD123456789BR")]
    assert told_rows == [(order, *step) for step in steps for order in bought]
    refused = [(row["step"], row["why"]) for row in await shop.rows("told_refused")]
    assert refused == [("shipment", "no_invoice")] * 2 + [("invoice", "document")] * 2 + [("invoice", "twice")] * 2


@pytest.mark.asyncio
async def test_the_marketplaces_own_carrier_moves_a_parcel(meli_shop: Shop, receiver: Receiver) -> None:
    shop = meli_shop
    await shop.put(a=5)
    bought = (await shop.control.buy(shop.name, {"a": 1}))["order_id"]
    await shop.control.put_shop(shop.name, callback_url=receiver.address)
    await shop.control.move(shop.name, bought, "shipped")
    pointer = (await receiver.pointers(1))[0]
    assert pointer["topic"] == "shipments"
    assert (await ask(shop, "GET", pointer["resource"]))["status"] == "shipped"
    assert [row["status"] for row in await shop.rows("moved")] == ["shipped"]


@pytest.mark.asyncio
async def test_limits_answer_429_and_refused_writes_are_booked(mercadolivre_process: Sandbox) -> None:
    async for shop in open_shop(mercadolivre_process, limits={"meli_stock_per_s": 0.01}):
        product = (await shop.put(a=5))["a"]
        version, _ = await stock(shop, product)
        status, told = await put_stock(shop, product, 4, version)
        assert (status, told["error"]) == (429, "local_rate_limited")
        assert [row["why"] for row in await shop.rows("write_refused")] == ["throttled"]


@pytest.mark.asyncio
async def test_a_timed_out_write_is_executed_late_if_its_version_still_stands(meli_shop: Shop) -> None:
    shop = meli_shop
    products = await shop.put(a=5, b=5)
    await shop.control.put_vices(shop.name, write_timeout={"min_ms": 300, "max_ms": 300})
    for product in products.values():
        version, _ = await stock(shop, product)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(put_stock(shop, product, 4, version), 0.1)
    await shop.control.buy(shop.name, {"b": 1})
    await shop.wait_for_rows("write", 1)
    refused = await shop.wait_for_rows("write_refused", 1)
    assert (refused[0]["why"], refused[0]["late"]) == ("stale", True)
    assert await shop.control.numbers(shop.name) == {"a": 4, "b": 4}


@pytest.mark.asyncio
async def test_an_order_may_be_in_a_status_that_nobody_documented(meli_shop: Shop) -> None:
    shop = meli_shop
    await shop.put(a=5)
    bought = (await shop.control.buy(shop.name, {"a": 1}))["order_id"]
    await shop.control.put_vices(shop.name, unknown_status={})
    assert (await ask(shop, "GET", f"/orders/{bought}"))["status"] == "under_review"
    await ask(shop, "GET", "/orders/1", 404)
    await ask(shop, "GET", "/shipments/1", 404)

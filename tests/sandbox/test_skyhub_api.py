"""SkyHub's documented behaviour over real HTTP."""

import asyncio

import pytest

from tests.sandbox.conftest import Shop, open_shop
from tests.sandbox.running import Sandbox


@pytest.mark.asyncio
async def test_an_unpaid_order_is_queued_lowers_the_number_and_is_hidden_until_deleted(skyhub_shop: Shop) -> None:
    shop = skyhub_shop
    await shop.put(a=5)
    sold = await shop.control.buy(shop.name, {"a": 2}, pay="later", buyer=3)
    assert await shop.control.numbers(shop.name) == {"a": 3}
    async with shop.http.get(f"{shop.url}/queues/orders") as answer:
        assert answer.status == 200
        order = await answer.json()
    assert order["code"] == sold["order_id"]
    assert order["status"] == {"code": "book_product", "label": "Pagamento Pendente (SkyHub)", "type": "NEW"}
    assert [(item["id"], item["qty"], item["special_price"]) for item in order["items"]] == [("a", 2, 19.9)]
    assert order["customer"]["name"] == "Comprador 3"
    assert order["sync_status"] == "NOT_SYNCED"
    async with shop.http.get(f"{shop.url}/queues/orders") as answer:
        assert answer.status == 204
    async with shop.http.delete(f"{shop.url}/queues/orders/{order['code']}") as answer:
        assert answer.status == 204
    async with shop.http.delete(f"{shop.url}/queues/orders/{order['code']}") as answer:
        assert answer.status == 404
    async with shop.http.get(f"{shop.url}/orders/{order['code']}") as answer:
        assert (await answer.json())["sync_status"] == "SYNCED"
    actions = [(row["action"], row["status"], row["deliveries"]) for row in await shop.rows("queue")]
    assert actions == [("queued", "new", 0), ("delivered", "new", 1), ("acknowledged", "new", 1)]


@pytest.mark.asyncio
async def test_the_queue_shows_the_latest_status_and_a_cancel_restores_by_the_shops_trait(skyhub_shop: Shop) -> None:
    shop = skyhub_shop
    await shop.put(a=5)
    paid = (await shop.control.buy(shop.name, {"a": 1}, pay="later"))["order_id"]
    cancelled = (await shop.control.buy(shop.name, {"a": 1}, pay="never"))["order_id"]
    await shop.control.pay(shop.name, paid)
    await shop.control.cancel(shop.name, cancelled)
    seen = {}
    for _ in range(2):
        async with shop.http.get(f"{shop.url}/queues/orders") as answer:
            order = await answer.json()
        seen[order["code"]] = order["status"]["type"]
    assert seen == {paid: "APPROVED", cancelled: "CANCELED"}
    assert await shop.control.numbers(shop.name) == {"a": 4}
    await shop.control.put_shop(shop.name, restores_on_cancel=False)
    await shop.control.cancel(shop.name, paid)
    assert await shop.control.numbers(shop.name) == {"a": 4}
    assert [row["restored"] for row in await shop.rows("cancel")] == [True, False]


@pytest.mark.asyncio
async def test_an_order_that_is_not_deleted_in_time_is_delivered_again(skyhub_shop: Shop) -> None:
    shop = skyhub_shop
    await shop.put(a=5)
    await shop.control.put_shop(shop.name, queue_redelivery_ms=50)
    await shop.control.buy(shop.name, {"a": 1}, pay="later")
    codes = []
    while len(codes) < 2:
        async with shop.http.get(f"{shop.url}/queues/orders") as answer:
            if answer.status == 200:
                codes.append((await answer.json())["code"])
        await asyncio.sleep(0.01)
    assert len(set(codes)) == 1


@pytest.mark.asyncio
async def test_stock_is_written_by_product_variation_store_and_batch(skyhub_shop: Shop) -> None:
    shop = skyhub_shop
    await shop.put(a=5, b=5)
    calls = [
        ("PUT", "/products/a", {"product": {"qty": 4}}, {"a": 4, "b": 5}),
        ("PUT", "/variations/a", {"variation": {"qty": 3}}, {"a": 3, "b": 5}),
        ("PUT", f"/stores/{shop.location}/skus/a", {"sku": {"qty": 2, "cross_docking": 0}}, {"a": 2, "b": 5}),
        (
            "POST",
            f"/stores/{shop.location}/batch",
            {"skus": [{"code": "a", "qty": 1, "cross_docking": 0}, {"code": "b", "qty": 0, "cross_docking": 0}]},
            {"a": 1, "b": 0},
        ),
    ]
    for method, path, body, numbers in calls:
        async with shop.http.request(method, shop.url + path, json=body, headers={"X-Request-Id": path}) as answer:
            assert answer.status == 204
        assert await shop.control.numbers(shop.name) == numbers
    assert [row["client_request_id"] for row in await shop.rows("write")] == [
        *(path for _, path, _, _ in calls),
        calls[-1][1],
    ]
    async with shop.http.get(f"{shop.url}/products/a") as answer:
        assert (await answer.json())["qty"] == 1
    async with shop.http.get(f"{shop.url}/products?page=2&per_page=1") as answer:
        told = await answer.json()
        assert ([product["sku"] for product in told["products"]], told["total"]) == (["b"], 2)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/products/none", {"product": {"qty": 1}}, 404),
        ("PUT", "/products/a", {"product": {"qty": -1}}, 422),
        ("PUT", "/products/a", {"product": {"qty": "many"}}, 422),
        ("PUT", "/products/a", {}, 400),
        ("POST", "/stores/elsewhere/batch", {"skus": [{"code": "a", "qty": 1}]}, 404),
        ("POST", "/stores/loja1/batch", {"skus": [{"code": "a", "qty": 1}, {"code": "none", "qty": 1}]}, 404),
        ("POST", "/stores/loja1/batch", {"skus": [{"code": "a", "qty": 1}] * 501}, 422),
        ("POST", "/orders/none/cancel", {"status": "order_canceled"}, 404),
    ],
)
async def test_what_does_not_fit_is_refused_and_changes_nothing(
    skyhub_shop: Shop, method: str, path: str, body: dict, status: int
) -> None:
    await skyhub_shop.put(a=5)
    async with skyhub_shop.http.request(method, skyhub_shop.url + path, json=body) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]
    assert await skyhub_shop.control.numbers(skyhub_shop.name) == {"a": 5}


@pytest.mark.asyncio
async def test_an_order_goes_through_invoice_shipment_and_delivery_in_this_order(skyhub_shop: Shop) -> None:
    shop = skyhub_shop
    await shop.put(a=5)
    code = (await shop.control.buy(shop.name, {"a": 1}))["order_id"]
    key = "35" + "1" * 42
    shipment = {
        "shipment": {"code": code, "items": [], "track": {"code": "BR1", "carrier": "Correios", "method": "SEDEX"}}
    }
    steps = [
        ("delivery", {"status": "complete"}, 422),
        ("invoice", {"status": "order_invoiced", "invoice": {"key": "12"}}, 422),
        ("invoice", {"status": "order_invoiced", "invoice": {"key": key}}, 204),
        ("shipments", shipment | {"status": "order_shipped"}, 204),
        ("shipment_exception", {"shipment_exception": {"observation": "x"}}, 204),
        ("delivery", {"status": "complete"}, 204),
        ("cancel", {"status": "order_canceled"}, 422),
    ]
    for step, body, status in steps:
        async with shop.http.post(f"{shop.url}/orders/{code}/{step}", json=body) as answer:
            assert (step, answer.status) == (step, status)
    async with shop.http.get(f"{shop.url}/orders/{code}") as answer:
        order = await answer.json()
    assert order["status"]["type"] == "DELIVERED"
    assert order["invoices"][0]["key"] == key
    assert order["shipments"][0]["track"]["code"] == "BR1"
    told = [(row["step"], row["reference"]) for row in await shop.rows("told")]
    assert told == [("invoice", key), ("shipment", "BR1"), ("tracking", None), ("delivery", None)]


@pytest.mark.asyncio
async def test_orders_are_listed_by_page_and_status(skyhub_shop: Shop) -> None:
    shop = skyhub_shop
    await shop.put(a=5)
    for _ in range(3):
        await shop.control.buy(shop.name, {"a": 1}, pay="later")
    paid = (await shop.control.buy(shop.name, {"a": 1}))["order_id"]
    async with shop.http.get(f"{shop.url}/orders?page=2&per_page=3") as answer:
        told = await answer.json()
        assert (told["total"], len(told["orders"])) == (4, 1)
    async with shop.http.get(f"{shop.url}/orders?filters[statuses][]=payment_received") as answer:
        assert [order["code"] for order in (await answer.json())["orders"]] == [paid]


@pytest.mark.asyncio
async def test_reads_of_orders_are_one_a_second_each_and_the_door_wants_all_three_headers(
    skyhub_process: Sandbox,
) -> None:
    async for shop in open_shop(skyhub_process):
        statuses = []
        for _ in range(4):
            async with shop.http.get(f"{shop.url}/orders") as answer:
                statuses.append(answer.status)
        assert 429 in statuses
        async with shop.http.get(f"{shop.url}/orders/none") as answer:
            assert answer.status == 404
        refused = [("x-api-key", 401), ("x-user-email", 401), ("x-accountmanager-key", 403)]
        for header, status in refused:
            async with shop.http.get(f"{shop.url}/queues/orders", headers={header: "wrong"}) as answer:
                assert answer.status == status
        text = {"Content-Type": "text/plain"}
        async with shop.http.put(f"{shop.url}/products/a", data="{}", headers=text) as answer:
            assert answer.status == 415


async def put_number(shop: Shop, number: int) -> int:
    async with shop.http.put(f"{shop.url}/products/a", json={"product": {"qty": number}}) as answer:
        return answer.status


@pytest.mark.asyncio
async def test_writes_beyond_nine_a_second_are_refused_and_booked(skyhub_process: Sandbox) -> None:
    async for shop in open_shop(skyhub_process):
        await shop.put(a=5)

        statuses = await asyncio.gather(*(put_number(shop, number) for number in range(40)))
        accepted = statuses.count(204)
        # Forty at once fall into at most a few windows of nine.
        assert 9 <= accepted < 40
        assert len(await shop.rows("write")) == accepted
        assert {row["why"] for row in await shop.rows("write_refused")} == {"throttled"}

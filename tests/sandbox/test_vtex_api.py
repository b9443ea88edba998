"""VTEX's documented behaviour over real HTTP.

Every request and answer is compared with the published description; where that is not here, the behaviour alone is
tested, and the test of the comparison itself is skipped and says so.
"""

import json
from typing import Any

import pytest

from tests.sandbox import vtex_specs
from tests.sandbox.conftest import Receiver, Shop, open_shop
from tests.sandbox.running import Sandbox
from tests.sandbox.test_control_and_books import numbers_by_books

QUEUE = {"visibilityTimeoutInSeconds": 240, "MessageRetentionPeriodInSeconds": 345_600}
EVERYTHING = {"type": "FromWorkflow"}
ORDERS = "/api/oms/pvt/orders"
FEED = "/api/orders/feed"
HOOK = "/api/orders/hook/config"
ESSENTIAL = {
    "orderId", "sequence", "marketplaceOrderId", "status", "statusDescription", "value", "totals", "creationDate",
    "lastChange", "items", "clientProfileData", "shippingData", "paymentData", "packageAttachment", "sellers",
    "cancelReason", "storePreferencesData", "salesChannel", "origin",
}  # fmt: skip
INVOICE = {"type": "Output", "issuanceDate": "2026-01-02T10:00:00-03:00", "invoiceNumber": "123"}


async def ask(shop: Shop, method: str, path: str, status: int = 200, *, body: Any = None) -> Any:
    """Ask, and compare both ways with the description."""
    async with shop.http.request(method, shop.url + path, json=body) as answer:
        text = await answer.text()
        assert answer.status == status, text
        told = json.loads(text) if answer.content_type == "application/json" and text else text
    bare = path.partition("?")[0]
    if vtex_specs.SPECS.is_dir() and not bare.startswith(vtex_specs.UNDESCRIBED):
        assert vtex_specs.problems(method, bare, body, status, told) == []
    return told


async def take(shop: Shop, most: int = 10) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await ask(shop, "GET", f"{FEED}?maxlot={most}")
    return found


async def open_feed(shop: Shop, **changes: Any) -> None:
    await ask(shop, "POST", f"{FEED}/config", body={"filter": EVERYTHING, "queue": QUEUE | changes})


async def inventory(shop: Shop, product: dict[str, Any]) -> tuple[int, int]:
    """(total, reserved) of the product's first warehouse."""
    told = await ask(shop, "GET", f"/api/logistics/pvt/inventory/skus/{product['variant_id']}")
    return told["balance"][0]["totalQuantity"], told["balance"][0]["reservedQuantity"]


def place(shop: Shop, product: dict[str, Any]) -> str:
    return f"/api/logistics/pvt/inventory/skus/{product['variant_id']}/warehouses/{shop.location}"


def number(quantity: int) -> dict[str, Any]:
    as_of = "2026-01-31T19:12:01.025662+00:00"
    return {"quantity": quantity, "unlimitedQuantity": False, "dateUtcOnBalanceSystem": as_of}


def invoice(product: dict[str, Any], value: int, **changes: Any) -> dict[str, Any]:
    item = {"id": str(product["variant_id"]), "price": 1990, "quantity": 1}
    return INVOICE | {"invoiceValue": str(value), "invoiceKey": "3526", "items": [item]} | changes


@pytest.mark.asyncio
async def test_feed_entries_are_leased_and_come_back_under_another_handle(vtex_shop: Shop) -> None:
    shop = vtex_shop
    await shop.put(a=9)
    await ask(shop, "GET", f"{FEED}/config", 404)
    await ask(shop, "GET", f"{FEED}?maxlot=10", 404)
    await shop.control.buy(shop.name, {"a": 1})
    await open_feed(shop)
    sold = (await shop.control.buy(shop.name, {"a": 1}, pay="later"))["order_id"]
    await shop.control.pay(shop.name, sold)
    config = await ask(shop, "GET", f"{FEED}/config")
    assert (config["queue"], config["quantity"]) == (QUEUE, 4)
    events = await take(shop)
    seen = [(event["lastState"], event["state"]) for event in events]
    assert seen == [
        ("", "order-created"),
        ("order-created", "payment-pending"),
        ("payment-pending", "payment-approved"),
        ("payment-approved", "ready-for-handling"),
    ]
    assert {event["orderId"] for event in events} == {sold}
    assert await take(shop) == []
    await ask(shop, "POST", FEED, body={"handles": [event["handle"] for event in events[:2]]})
    await shop.control.put_vices(shop.name, queue_redelivery={})
    assert await take(shop) == [], "what is leased stays hidden"
    await ask(shop, "POST", FEED, body={"handles": ["unknown", *(event["handle"] for event in events)]})
    assert (await ask(shop, "GET", f"{FEED}/config"))["quantity"] == 0
    await ask(shop, "GET", f"{FEED}?maxlot=11", 400)


@pytest.mark.asyncio
async def test_a_lease_that_is_over_cannot_be_committed(vtex_shop: Shop) -> None:
    shop = vtex_shop
    await shop.put(a=9)
    await open_feed(shop)
    await shop.control.put_vices(shop.name, queue_redelivery={})
    await shop.control.buy(shop.name, {"a": 1}, pay="later")
    first, second = await take(shop), await take(shop)
    assert [event["eventId"] for event in first] == [event["eventId"] for event in second]
    assert first[0]["handle"] != second[0]["handle"]
    await ask(shop, "POST", FEED, body={"handles": [event["handle"] for event in first + second]})
    assert (await ask(shop, "GET", f"{FEED}/config"))["quantity"] == 2
    await shop.control.put_vices(shop.name)
    await ask(shop, "POST", FEED, body={"handles": [event["handle"] for event in await take(shop)]})
    assert await take(shop) == []
    actions = [row["action"] for row in await shop.rows("queue")]
    assert actions == [*["queued"] * 2, *["delivered"] * 6, *["acknowledged"] * 2]


@pytest.mark.asyncio
async def test_the_feed_promises_no_order(vtex_shop: Shop) -> None:
    shop = vtex_shop
    await shop.put(a=9)
    await open_feed(shop)
    for _ in range(5):
        await shop.control.buy(shop.name, {"a": 1}, pay="later")
    await shop.control.put_vices(shop.name, queue_reordered={}, seed=1)
    events = await take(shop)
    changes = [(event["orderId"], event["lastState"]) for event in events]
    assert len(set(changes)) == 10
    assert changes != sorted(changes)


@pytest.mark.asyncio
async def test_the_feed_filters_by_state_and_wants_a_sane_configuration(vtex_shop: Shop) -> None:
    shop = vtex_shop
    await shop.put(a=9)
    only = {"type": "FromWorkflow", "status": ["ready-for-handling", "canceled"]}
    await ask(shop, "POST", f"{FEED}/config", body={"filter": only, "queue": QUEUE})
    sold = (await shop.control.buy(shop.name, {"a": 1}))["order_id"]
    await shop.control.cancel(shop.name, sold)
    assert [event["state"] for event in await take(shop)] == ["ready-for-handling", "canceled"]
    wrong = [
        ({"type": "FromNowhere"}, QUEUE, 400),
        ({"type": "FromOrders", "expression": "true"}, QUEUE, 400),
        ({"type": "FromOrders", "expression": "true", "status": []}, QUEUE, 409),
        ({"type": "FromWorkflow", "expression": "true"}, QUEUE, 409),
        (EVERYTHING, QUEUE | {"MessageRetentionPeriodInSeconds": 60}, 400),
        (EVERYTHING, {}, 400),
    ]
    for chosen, queue, status in wrong:
        await ask(shop, "POST", f"{FEED}/config", status, body={"filter": chosen, "queue": queue})


@pytest.mark.asyncio
async def test_a_silent_feed_or_hook_is_removed(vtex_shop: Shop, receiver: Receiver) -> None:
    shop = vtex_shop
    await open_feed(shop)
    await ask(
        shop, "POST", HOOK, body={"filter": EVERYTHING, "hook": {"url": receiver.address, "headers": {"key": "secret"}}}
    )
    await shop.control.put_shop(shop.name, feed_silence_s=0.000_001, hook_silence_s=0.000_001)
    await shop.put(a=1)
    await ask(shop, "GET", f"{FEED}/config", 404)
    await ask(shop, "GET", HOOK, 404)
    actions = [(row["what"], row["action"]) for row in await shop.rows("config")]
    assert actions[2:] == [("feed", "removed: silent"), ("hook", "removed: silent")]


@pytest.mark.asyncio
async def test_the_hook_is_pinged_first_and_then_hears_every_state(vtex_shop: Shop, receiver: Receiver) -> None:
    shop = vtex_shop
    await shop.put(a=9)
    wanted = {"filter": EVERYTHING, "hook": {"url": receiver.address, "headers": {"key": "secret"}}}
    receiver.answers = [500]
    await ask(shop, "POST", HOOK, 400, body=wanted)
    assert await receiver.pointers(1) == [{"hookConfig": "ping"}]
    await ask(shop, "GET", HOOK, 404)
    await ask(shop, "POST", HOOK, body=wanted)
    headers, body = await receiver.next()
    assert (headers["key"], json.loads(body)) == ("secret", {"hookConfig": "ping"})
    assert await ask(shop, "GET", HOOK) == wanted
    sold = (await shop.control.buy(shop.name, {"a": 1}, pay="later"))["order_id"]
    heard = {event["State"]: event for event in await receiver.pointers(2)}
    assert heard.keys() == {"order-created", "payment-pending"}
    event = heard["payment-pending"]
    assert event.keys() == {"Domain", "OrderId", "State", "LastState", "LastChange", "CurrentChange", "Origin"}
    assert (event["OrderId"], event["Origin"]["Key"]) == (sold, shop.told["credentials"]["app_key"])
    await ask(shop, "DELETE", HOOK)
    await ask(shop, "DELETE", HOOK, 404)


@pytest.mark.asyncio
async def test_a_hook_that_keeps_failing_is_removed(vtex_shop: Shop, receiver: Receiver) -> None:
    shop = vtex_shop
    await shop.put(a=9)
    await ask(
        shop, "POST", HOOK, body={"filter": EVERYTHING, "hook": {"url": receiver.address, "headers": {"key": "secret"}}}
    )
    receiver.answers = [500] * 20
    await shop.control.buy(shop.name, {"a": 1}, pay="later")
    assert [row["action"] for row in await shop.wait_for_rows("config", 2)] == ["set", "removed: failed"]
    await ask(shop, "GET", HOOK, 404)


@pytest.mark.asyncio
async def test_an_order_is_shown_in_cents_as_described(vtex_shop: Shop) -> None:
    shop = vtex_shop
    product = (await shop.put(a=9))["a"]
    sold = (await shop.control.buy(shop.name, {"a": 2}, pay="later", buyer=3))["order_id"]
    assert sold.endswith("-01")
    order = await ask(shop, "GET", f"{ORDERS}/{sold}")
    assert (order["status"], order["value"], order["orderId"]) == ("payment-pending", 3980, sold)
    assert order.keys() >= ESSENTIAL
    item = order["items"][0]
    assert (item["refId"], item["id"], item["quantity"], item["price"]) == ("a", str(product["variant_id"]), 2, 1990)
    assert order["clientProfileData"]["firstName"] == "Comprador"
    await shop.control.pay(shop.name, sold)
    paid = await ask(shop, "GET", f"{ORDERS}/{sold}")
    assert (paid["status"], paid["paymentData"]["transactions"][0]["payments"][0]["value"]) == (
        "ready-for-handling", 3980,
    )  # fmt: skip
    assert paid["lastChange"] > order["lastChange"]
    await shop.control.put_vices(shop.name, unknown_status={})
    assert (await ask(shop, "GET", f"{ORDERS}/{sold}"))["status"] == "null"
    await ask(shop, "GET", f"{ORDERS}/1-01", 404)
    async with shop.http.get(f"{shop.url}{ORDERS}/{sold}", headers={"X-VTEX-API-AppToken": "wrong"}) as answer:
        assert answer.status == 401


@pytest.mark.asyncio
async def test_units_are_reserved_until_a_total_after_the_handling_and_the_total_is_what_is_written(
    vtex_shop: Shop,
) -> None:
    shop = vtex_shop
    product = (await shop.put(a=5))["a"]
    first, second = [(await shop.control.buy(shop.name, {"a": 1}))["order_id"] for _ in range(2)]
    assert await inventory(shop, product) == (5, 2)
    await ask(shop, "PATCH", f"{place(shop, product)}/quantity", 204, body=number(10))
    assert await shop.control.numbers(shop.name) == {"a": 8}
    await ask(shop, "POST", f"{ORDERS}/{first}/start-handling", 204)
    await ask(shop, "POST", f"{ORDERS}/{first}/invoice", body=invoice(product, 1990))
    assert await inventory(shop, product) == (10, 2), "VTEX takes nothing out by itself"
    await ask(shop, "PATCH", f"{place(shop, product)}/quantity", 204, body=number(10))
    assert await inventory(shop, product) == (10, 2), "this number is meant for a moment before the handling"
    await ask(shop, "PATCH", f"{place(shop, product)}/quantity", 204, body={"quantity": 9, "unlimitedQuantity": False})
    assert await inventory(shop, product) == (9, 1)
    await shop.control.cancel(shop.name, second)
    assert await inventory(shop, product) == (9, 0)
    await shop.control.cancel(shop.name, first)
    assert await inventory(shop, product) == (9, 0), "what a total has left out is not given back"
    # A total below what is reserved leaves nothing to sell, and less than nothing until the orders are gone.
    third = (await shop.control.buy(shop.name, {"a": 3}))["order_id"]
    await ask(shop, "PATCH", f"{place(shop, product)}/quantity", 204, body=number(2))
    assert await inventory(shop, product) == (2, 3)
    assert (await shop.control.buy(shop.name, {"a": 1}))["reason"] == "sold_out"
    await ask(shop, "POST", f"{ORDERS}/{third}/cancel", body={"reason": "no stock"})
    assert await inventory(shop, product) == (2, 0)
    assert numbers_by_books(await shop.rows()) == await shop.control.numbers(shop.name) == {"a": 2}
    written = [(row["requested"], row["number_after"], row["reference"]) for row in await shop.rows("write")]
    dated = "2026-01-31T19:12:01.025662+00:00"
    assert written == [(10, 8, dated), (10, 8, dated), (9, 8, None), (2, -1, dated)]
    warehouse = await ask(shop, "GET", place(shop, product).replace("/skus/", "/items/"))
    assert warehouse[0]["availableQuantity"] == 2
    assert [one["id"] for one in await ask(shop, "GET", "/api/logistics/pvt/configuration/warehouses")] == ["1_1"]


@pytest.mark.asyncio
async def test_an_order_that_is_cancelled_without_giving_back_takes_its_units_from_the_total(vtex_shop: Shop) -> None:
    shop = vtex_shop
    product = (await shop.put(a=5))["a"]
    sold = (await shop.control.buy(shop.name, {"a": 2}))["order_id"]
    await shop.control.cancel(shop.name, sold, restock=False)
    assert await inventory(shop, product) == (3, 0)


@pytest.mark.asyncio
async def test_a_put_sets_what_is_left_out_to_zero(vtex_shop: Shop) -> None:
    shop = vtex_shop
    product = (await shop.put(a=5))["a"]
    full = {"quantity": 7, "unlimitedQuantity": False, "leadTime": "1.00:00:00"}
    assert await ask(shop, "PUT", place(shop, product), body=full) is True
    await ask(shop, "PATCH", f"{place(shop, product)}/quantity", 204, body=number(8))
    told = await ask(shop, "GET", f"/api/logistics/pvt/inventory/skus/{product['variant_id']}")
    assert (told["balance"][0]["totalQuantity"], told["balance"][0]["leadTime"]) == (8, "1.00:00:00")
    async with shop.http.put(shop.url + place(shop, product), json={}) as answer:
        assert (answer.status, await answer.json()) == (200, True)
    told = await ask(shop, "GET", f"/api/logistics/pvt/inventory/skus/{product['variant_id']}")
    assert (told["balance"][0]["totalQuantity"], told["balance"][0]["leadTime"]) == (0, "00:00:00")
    quantity = f"{place(shop, product)}/quantity"
    for wrong in ({"quantity": 1}, {"unlimitedQuantity": False}, number(1) | {"unlimitedQuantity": True}, number(-1)):
        await ask(shop, "PATCH", quantity, 400, body=wrong)
    await ask(shop, "PATCH", quantity, 400, body=number(1) | {"dateUtcOnBalanceSystem": "yesterday"})
    await ask(shop, "PATCH", quantity.replace("1_1", "elsewhere"), 404, body=number(1))


@pytest.mark.asyncio
async def test_a_second_write_in_a_moment_is_discarded_with_423(vtex_shop: Shop) -> None:
    shop = vtex_shop
    products = await shop.put(a=5, b=5)
    await shop.control.put_shop(shop.name, inventory_lock_s=3600)
    quantity = f"{place(shop, products['a'])}/quantity"
    await ask(shop, "PATCH", quantity, 204, body=number(4))
    told = await ask(shop, "PATCH", quantity, 423, body=number(3))
    assert told.startswith("Unable to acquire lock for key: ")
    await ask(shop, "PATCH", f"{place(shop, products['b'])}/quantity", 204, body=number(3))
    assert await shop.control.numbers(shop.name) == {"a": 4, "b": 3}
    assert [row["why"] for row in await shop.rows("write_refused")] == ["locked"]


@pytest.mark.asyncio
async def test_an_order_is_handled_invoiced_tracked_and_delivered(vtex_shop: Shop) -> None:
    shop = vtex_shop
    products = await shop.put(a=5, b=5)
    await open_feed(shop)
    sold = (await shop.control.buy(shop.name, {"a": 1, "b": 1}))["order_id"]
    at = f"{ORDERS}/{sold}"
    await ask(shop, "PATCH", f"{at}/invoice/123", 404, body={"trackingNumber": "SD1"})
    await ask(shop, "POST", f"{at}/start-handling", 204)
    await ask(shop, "POST", f"{at}/start-handling", 409)
    await ask(shop, "POST", f"{at}/invoice", 400, body=invoice(products["a"], 0))
    first = await ask(shop, "POST", f"{at}/invoice", body=invoice(products["a"], 1990))
    assert (await ask(shop, "GET", at))["status"] == "handling"
    again = await ask(shop, "POST", f"{at}/invoice", body=invoice(products["a"], 1990))
    assert first["receipt"] != again["receipt"]
    await ask(shop, "POST", f"{at}/cancel", 409, body={"reason": "too late"})
    await ask(shop, "POST", f"{at}/invoice", body=invoice(products["b"], 1990, invoiceNumber="124"))
    order = await ask(shop, "GET", at)
    assert (order["status"], len(order["packageAttachment"]["packages"])) == ("invoiced", 2)
    track = {"trackingNumber": "SD1", "trackingUrl": None, "courier": "Correios", "dispatchedDate": None}
    await ask(shop, "PATCH", f"{at}/invoice/123", body=track)
    scan = {"city": "Recife", "state": "PE", "description": "Saiu", "date": "2026-01-03"}
    for delivered in (False, True):
        body = {"isDelivered": delivered, "deliveredDate": None, "events": [scan]}
        await ask(shop, "PUT", f"{at}/invoice/123/tracking", body=body)
    package = (await ask(shop, "GET", at))["packageAttachment"]["packages"][0]
    assert (package["trackingNumber"], package["courier"], package["courierStatus"]["finished"]) == (
        "SD1", "Correios", True,
    )  # fmt: skip
    steps = [(row["step"], row["reference"]) for row in await shop.rows("told")]
    invoices = [("invoice", "3526")] * 3
    assert steps == [("handling", None), *invoices, ("shipment", "SD1"), ("tracking", "SD1"), ("delivery", "SD1")]
    refused = [(row["step"], row["why"]) for row in await shop.rows("told_refused")]
    assert refused == [("handling", "transition"), ("invoice", "document"), ("cancel", "transition")]
    states = [event["state"] for event in await take(shop)]
    assert states[3:] == ["start-handling", "handling", "invoice", "invoiced"]


@pytest.mark.asyncio
async def test_a_seller_cancels_an_order(vtex_shop: Shop) -> None:
    shop = vtex_shop
    await shop.put(a=5)
    sold = (await shop.control.buy(shop.name, {"a": 1}))["order_id"]
    await ask(shop, "POST", f"{ORDERS}/{sold}/cancel", body={"reason": "no stock"})
    order = await ask(shop, "GET", f"{ORDERS}/{sold}")
    assert (order["status"], order["cancelReason"]) == ("canceled", "no stock")
    assert [(row["by"], row["restored"]) for row in await shop.rows("cancel")] == [("client", True)]
    assert [row["step"] for row in await shop.rows("told")] == ["cancel"]


@pytest.mark.asyncio
async def test_the_catalogue_tells_which_number_a_sku_has(vtex_shop: Shop) -> None:
    shop = vtex_shop
    await shop.put(a=5, b=5)
    base = "/api/catalog_system/pvt/sku"
    ids = await ask(shop, "GET", f"{base}/stockkeepingunitids?page=1&pagesize=50")
    skus = [await ask(shop, "GET", f"{base}/stockkeepingunitbyid/{one}") for one in ids]
    assert [one["AlternateIds"]["RefId"] for one in skus] == ["a", "b"]
    assert await ask(shop, "GET", f"{base}/stockkeepingunitids?page=2&pagesize=50") == []


@pytest.mark.asyncio
async def test_limits_answer_429_and_refused_writes_are_booked(vtex_process: Sandbox) -> None:
    async for shop in open_shop(vtex_process, limits={"vtex_stock_per_s": 0.01}):
        product = (await shop.put(a=5))["a"]
        await inventory(shop, product)
        await ask(shop, "PATCH", f"{place(shop, product)}/quantity", 429, body=number(4))
        assert [row["why"] for row in await shop.rows("write_refused")] == ["throttled"]


@pytest.mark.skipif(
    not vtex_specs.SPECS.is_dir(), reason="VTEX's descriptions are not here: set SALDO_SPECS_DIR to compare with them"
)
def test_the_comparison_finds_a_wrong_type_and_a_field_made_up() -> None:
    path = f"{ORDERS}/1-01"
    assert vtex_specs.problems("GET", path, None, 200, {"value": 19.9}) == ["value: 19.9 is not of type 'integer'"]
    assert vtex_specs.problems("GET", path, None, 200, {"colour": 1}) == ["answer.colour is in no description"]
    assert vtex_specs.problems("POST", FEED, {}, 200, "") == ["request: 'handles' is a required property"]
    assert vtex_specs.problems("POST", FEED, {"handles": []}, 202, "") == ["202 is in no description"]

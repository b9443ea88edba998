"""Shopify's documented behaviour over real HTTP."""

import base64
import hashlib
import hmac
import json
from typing import Any

import aiohttp
import pytest

from tests.sandbox.conftest import Receiver, Shop

SET = """
mutation Set($input: InventorySetQuantitiesInput!) {
  inventorySetQuantities(input: $input) {
    inventoryAdjustmentGroup { id reason referenceDocumentUri changes { name delta quantityAfterChange item { id } } }
    userErrors { code field message }
  }
}
"""
SET_ONCE = SET.replace("(input: $input) {", '(input: $input) @idempotent(key: "once") {', 1)


def quantities(shop: Shop, products: dict[str, dict[str, Any]], **rows: tuple[int, int | None]) -> dict[str, Any]:
    given = [
        {
            "inventoryItemId": f"gid://shopify/InventoryItem/{products[sku]['inventory_item_id']}",
            "locationId": f"gid://shopify/Location/{shop.location}",
            "quantity": quantity,
            "compareQuantity": compare,
        }
        for sku, (quantity, compare) in rows.items()
    ]
    return {"name": "available", "reason": "correction", "referenceDocumentUri": "saldo://push/1", "quantities": given}


def written(answer: dict[str, Any]) -> dict[str, Any]:
    payload: dict[str, Any] = answer["data"]["inventorySetQuantities"]
    return payload


@pytest.mark.asyncio
async def test_a_batch_with_one_stale_compare_is_refused_as_a_whole(shopify_shop: Shop) -> None:
    products = await shopify_shop.put(a=5, b=7)
    answer = await shopify_shop.graphql(SET, input=quantities(shopify_shop, products, a=(4, 5), b=(1, 6)))
    errors = written(answer)["userErrors"]
    assert [error["code"] for error in errors] == ["COMPARE_QUANTITY_STALE"]
    assert errors[0]["field"] == ["input", "quantities", "1", "compareQuantity"]
    assert written(answer)["inventoryAdjustmentGroup"] is None
    assert await shopify_shop.control.numbers(shopify_shop.name) == {"a": 5, "b": 7}
    assert [row["why"] for row in await shopify_shop.rows("write_refused")] == ["stale"]


@pytest.mark.asyncio
async def test_an_accepted_batch_is_in_the_books_with_before_after_and_request_id(shopify_shop: Shop) -> None:
    products = await shopify_shop.put(a=5, b=7)
    body = {"query": SET, "variables": {"input": quantities(shopify_shop, products, a=(4, 5), b=(1, 7))}}
    address = f"{shopify_shop.url}/admin/api/2025-07/graphql.json"
    async with shopify_shop.http.post(address, json=body, headers={"X-Request-Id": "mine"}) as answer:
        request_id = answer.headers["X-Request-Id"]
        changes = written(await answer.json())["inventoryAdjustmentGroup"]["changes"]
    assert [change["delta"] for change in changes] == [-1, -6]
    rows = await shopify_shop.rows("write")
    told = [(row["sku"], row["number_before"], row["number_after"], row["compare"], row["reference"]) for row in rows]
    assert told == [("a", 5, 4, 5, "saldo://push/1"), ("b", 7, 1, 7, "saldo://push/1")]
    assert {(row["request_id"], row["client_request_id"]) for row in rows} == {(request_id, "mine")}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "incoming"}, "INVALID_NAME"),
        ({"reason": "because"}, "INVALID_REASON"),
        ({"referenceDocumentUri": "no uri"}, "INVALID_REFERENCE_DOCUMENT"),
    ],
)
async def test_what_is_wrong_with_the_input_is_a_user_error(shopify_shop: Shop, change: dict, code: str) -> None:
    products = await shopify_shop.put(a=5)
    answer = await shopify_shop.graphql(SET, input=quantities(shopify_shop, products, a=(4, 5)) | change)
    assert [error["code"] for error in written(answer)["userErrors"]] == [code]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"inventoryItemId": "gid://shopify/InventoryItem/1"}, "INVALID_INVENTORY_ITEM"),
        ({"locationId": "gid://shopify/Location/1"}, "INVALID_LOCATION"),
        ({"quantity": -1}, "INVALID_QUANTITY_NEGATIVE"),
        ({"quantity": 1_000_000_001}, "INVALID_QUANTITY_TOO_HIGH"),
    ],
)
async def test_what_is_wrong_with_a_quantity_is_a_user_error(shopify_shop: Shop, change: dict, code: str) -> None:
    products = await shopify_shop.put(a=5)
    given = quantities(shopify_shop, products, a=(4, 5))
    given["quantities"][0] |= change
    assert [error["code"] for error in written(await shopify_shop.graphql(SET, input=given))["userErrors"]] == [code]
    assert await shopify_shop.control.numbers(shopify_shop.name) == {"a": 5}


@pytest.mark.asyncio
async def test_compare_is_required_unless_ignored_and_renamed_in_newer_versions(shopify_shop: Shop) -> None:
    products = await shopify_shop.put(a=5)
    given = quantities(shopify_shop, products, a=(4, 5))
    del given["quantities"][0]["compareQuantity"]
    errors = written(await shopify_shop.graphql(SET, input=given))["userErrors"]
    assert [error["code"] for error in errors] == ["COMPARE_QUANTITY_REQUIRED"]
    ignored = await shopify_shop.graphql(SET, input=given | {"ignoreCompareQuantity": True})
    assert written(ignored)["userErrors"] == []
    given["quantities"][0]["changeFromQuantity"] = 9
    errors = written(await shopify_shop.graphql(SET_ONCE, version="2026-04", input=given))["userErrors"]
    assert [error["code"] for error in errors] == ["CHANGE_FROM_QUANTITY_STALE"]
    refused = await shopify_shop.graphql(SET, version="2026-04", input=given)
    assert "@idempotent" in refused["errors"][0]["message"]


@pytest.mark.asyncio
async def test_more_than_250_quantities_are_refused(shopify_shop: Shop) -> None:
    products = await shopify_shop.put(a=5)
    given = quantities(shopify_shop, products, a=(4, 5))
    given["quantities"] *= 251
    answer = await shopify_shop.graphql(SET, input=given)
    assert answer["errors"][0]["extensions"]["code"] == "MAX_INPUT_SIZE_EXCEEDED"


@pytest.mark.asyncio
async def test_an_idempotency_key_gives_the_first_answer_again(shopify_shop: Shop) -> None:
    products = await shopify_shop.put(a=5)
    body = {"query": SET_ONCE, "variables": {"input": quantities(shopify_shop, products, a=(4, 5))}}
    answers = []
    for _ in range(2):
        address = f"{shopify_shop.url}/admin/api/2025-07/graphql.json"
        async with shopify_shop.http.post(address, json=body) as answer:
            answers.append((answer.headers["X-Request-Id"], written(await answer.json())))
        await shopify_shop.control.buy(shopify_shop.name, {"a": 1})
    assert answers[0] == answers[1]
    assert [row["request_id"] for row in await shopify_shop.rows("write")] == [answers[0][0]]
    assert await shopify_shop.control.numbers(shopify_shop.name) == {"a": 2}
    other = await shopify_shop.graphql(SET_ONCE, input=quantities(shopify_shop, products, a=(1, 2)))
    assert written(other)["userErrors"][0]["code"] == "IDEMPOTENCY_KEY_PARAMETER_MISMATCH"


@pytest.mark.asyncio
async def test_adjust_moves_by_the_difference(shopify_shop: Shop) -> None:
    products = await shopify_shop.put(a=5)
    change = {
        "inventoryItemId": f"gid://shopify/InventoryItem/{products['a']['inventory_item_id']}",
        "locationId": f"gid://shopify/Location/{shopify_shop.location}",
        "delta": -2,
    }
    await shopify_shop.graphql(
        "mutation A($input: InventoryAdjustQuantitiesInput!) "
        "{ inventoryAdjustQuantities(input: $input) { userErrors { message } } }",
        input={"name": "available", "reason": "correction", "changes": [change]},
    )
    assert await shopify_shop.control.numbers(shopify_shop.name) == {"a": 3}


@pytest.mark.asyncio
async def test_an_unknown_field_is_an_error_and_a_mutation_with_one_does_nothing(shopify_shop: Shop) -> None:
    products = await shopify_shop.put(a=5)
    answer = await shopify_shop.graphql("{ horoscope { sign } }")
    assert answer["errors"][0]["extensions"]["code"] == "undefinedField"
    wrong = SET.replace("userErrors { code", "userErrors { kode")
    answer = await shopify_shop.graphql(wrong, input=quantities(shopify_shop, products, a=(4, 5)))
    assert "kode" in answer["errors"][0]["message"]
    assert await shopify_shop.control.numbers(shopify_shop.name) == {"a": 5}


@pytest.mark.asyncio
async def test_an_empty_bucket_answers_200_with_throttled_and_the_state_of_the_bucket(shopify_shop: Shop) -> None:
    limits = {"graphql_bucket_points": 25, "graphql_restore_points_per_s": 0.001}
    await shopify_shop.control.put_shop(shopify_shop.name, limits=limits)
    products = await shopify_shop.put(a=5)
    given = quantities(shopify_shop, products, a=(5, 5))
    first = await shopify_shop.graphql(SET, input=given)
    assert first["extensions"]["cost"] == {
        "requestedQueryCost": 10,
        "actualQueryCost": 10,
        "throttleStatus": {"maximumAvailable": 25, "currentlyAvailable": 15, "restoreRate": 0.001},
    }
    await shopify_shop.graphql(SET, input=given)
    third = await shopify_shop.graphql(SET, input=given)
    assert third["errors"][0]["extensions"]["code"] == "THROTTLED"
    assert third["extensions"]["cost"]["actualQueryCost"] is None
    assert [row["why"] for row in await shopify_shop.rows("write_refused")] == ["throttled"]


@pytest.mark.asyncio
async def test_quantities_are_read_back_by_nodes_and_variants_are_paged(shopify_shop: Shop) -> None:
    products = await shopify_shop.put(a=5, b=6, c=7)
    level = f'inventoryLevel(locationId: "gid://shopify/Location/{shopify_shop.location}")'
    quantities_read = 'quantities(names: ["available"]) { quantity }'
    item_read = f"sku {level} {{ {quantities_read} }}"
    read = f"query R($ids: [ID!]!) {{ nodes(ids: $ids) {{ ... on InventoryItem {{ {item_read} }} }} }}"
    ids = [f"gid://shopify/InventoryItem/{products[sku]['inventory_item_id']}" for sku in "ca"]
    nodes = (await shopify_shop.graphql(read, ids=[*ids, "gid://shopify/InventoryItem/1"]))["data"]["nodes"]
    assert [(node["sku"], node["inventoryLevel"]["quantities"]) for node in nodes[:2]] == [
        ("c", [{"quantity": 7}]),
        ("a", [{"quantity": 5}]),
    ]
    assert nodes[2] is None
    page = """query P($after: String) { productVariants(first: 2, after: $after) {
      nodes { sku inventoryItem { id } product { title } } pageInfo { hasNextPage endCursor } } }"""
    first = (await shopify_shop.graphql(page))["data"]["productVariants"]
    rest = (await shopify_shop.graphql(page, after=first["pageInfo"]["endCursor"]))["data"]["productVariants"]
    assert {node["sku"] for node in first["nodes"] + rest["nodes"]} == {"a", "b", "c"}
    assert (first["pageInfo"]["hasNextPage"], rest["pageInfo"]["hasNextPage"]) == (True, False)


@pytest.mark.asyncio
async def test_orders_are_polled_by_updated_at_in_pages(shopify_shop: Shop) -> None:
    await shopify_shop.put(a=50)
    sold = [(await shopify_shop.control.buy(shopify_shop.name, {"a": 1}, buyer=n))["order_id"] for n in range(5)]
    await shopify_shop.control.cancel(shopify_shop.name, sold[0])
    poll = """query Poll($query: String, $after: String) {
      orders(first: 2, sortKey: UPDATED_AT, query: $query, after: $after) {
        edges { cursor node { legacyResourceId updatedAt cancelledAt displayFinancialStatus
          lineItems(first: 20) { nodes { sku quantity currentQuantity
            originalUnitPriceSet { shopMoney { amount } } } } } }
        pageInfo { hasNextPage endCursor } } }"""
    found: list[dict[str, Any]] = []
    after = None
    while True:
        page = (await shopify_shop.graphql(poll, query="updated_at:>='2020-01-01T00:00:00Z'", after=after))["data"]
        found += [edge["node"] for edge in page["orders"]["edges"]]
        if not page["orders"]["pageInfo"]["hasNextPage"]:
            break
        after = page["orders"]["pageInfo"]["endCursor"]
    assert [node["legacyResourceId"] for node in found] == [*sold[1:], sold[0]]
    assert [node["updatedAt"] for node in found] == sorted(node["updatedAt"] for node in found)
    assert found[-1]["displayFinancialStatus"] == "REFUNDED"
    assert found[-1]["cancelledAt"] is not None
    line = {"sku": "a", "quantity": 1, "currentQuantity": 1, "originalUnitPriceSet": {"shopMoney": {"amount": "19.90"}}}
    assert found[0]["lineItems"]["nodes"] == [line]
    none = await shopify_shop.graphql(poll, query="updated_at:>'2999-01-01T00:00:00Z'")
    assert none["data"]["orders"]["edges"] == []


@pytest.mark.asyncio
async def test_rest_orders_by_updated_at_are_paged_by_links_that_carry_the_filters(shopify_shop: Shop) -> None:
    shop, control = shopify_shop, shopify_shop.control
    await shop.put(a=50)
    sold = [(await control.buy(shop.name, {"a": 1}))["order_id"] for _ in range(5)]
    await control.cancel(shop.name, sold[1])
    address = f"{shop.url}/admin/api/2025-07/orders.json"
    query: dict[str, str] = {"status": "any", "limit": "2", "order": "updated_at asc"}
    query["updated_at_min"] = "2020-01-01T00:00:00+00:00"
    found: list[tuple[str, str]] = []
    while query:
        async with shop.http.get(address, params=query) as answer:
            found += [(order["updated_at"], str(order["id"])) for order in (await answer.json())["orders"]]
            query = dict(answer.links["next"]["url"].query) if answer.links else {}
            assert query.keys() <= {"limit", "page_info"}
        if query:
            async with shop.http.get(address, params=query | {"status": "any"}) as answer:
                assert answer.status == 400
    assert sorted(order_id for _, order_id in found) == sorted(sold)
    assert [moment for moment, _ in found] == sorted(moment for moment, _ in found)


@pytest.mark.asyncio
async def test_the_rest_bucket_says_how_full_it_is_and_then_429(shopify_shop: Shop) -> None:
    limits = {"rest_bucket_requests": 2, "rest_leak_requests_per_s": 0.001}
    await shopify_shop.control.put_shop(shopify_shop.name, limits=limits)
    statuses = []
    for _ in range(3):
        async with shopify_shop.http.get(f"{shopify_shop.url}/admin/api/2025-07/shop.json") as answer:
            statuses.append((answer.status, answer.headers["X-Shopify-Shop-Api-Call-Limit"]))
            retry_after = answer.headers.get("Retry-After")
    assert statuses == [(200, "1/2"), (200, "2/2"), (429, "2/2")]
    assert float(retry_after) > 0


@pytest.mark.asyncio
async def test_a_wrong_token_is_401_and_shops_do_not_see_each_other(shopify_shop: Shop) -> None:
    async with aiohttp.ClientSession() as stranger:
        headers = {"X-Shopify-Access-Token": "shpat_wrong"}
        async with stranger.get(f"{shopify_shop.url}/admin/api/2025-07/orders.json", headers=headers) as answer:
            assert answer.status == 401
    await shopify_shop.put(a=1)
    other = await shopify_shop.control.put_shop(f"{shopify_shop.name}-other")
    headers = {"X-Shopify-Access-Token": other["credentials"]["access_token"]}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.get(f"{shopify_shop.url}/admin/api/2025-07/products.json") as answer,
    ):
        assert await answer.json() == {"products": []}


async def subscribe(shop: Shop, receiver: Receiver, *topics: str) -> None:
    for topic in topics:
        answer = await shop.graphql(
            "mutation W($topic: WebhookSubscriptionTopic!, $hook: WebhookSubscriptionInput!) "
            "{ webhookSubscriptionCreate(topic: $topic, webhookSubscription: $hook) "
            "{ webhookSubscription { id topic } userErrors { message } } }",
            topic=topic,
            hook={"callbackUrl": receiver.address, "format": "JSON"},
        )
        assert answer["data"]["webhookSubscriptionCreate"]["userErrors"] == []


@pytest.mark.asyncio
async def test_a_webhook_is_signed_over_its_raw_body_and_carries_the_whole_order(
    shopify_shop: Shop, receiver: Receiver
) -> None:
    await shopify_shop.put(a=5)
    await subscribe(shopify_shop, receiver, "ORDERS_CREATE", "ORDERS_PAID")
    sold = await shopify_shop.control.buy(shopify_shop.name, {"a": 2}, buyer=9)
    both = [await receiver.next(), await receiver.next()]
    got = {headers["X-Shopify-Topic"]: (headers, body) for headers, body in both}
    assert set(got) == {"orders/create", "orders/paid"}
    secret = shopify_shop.told["credentials"]["webhook_secret"].encode()
    for headers, body in got.values():
        digest = base64.b64encode(hmac.new(secret, body, hashlib.sha256).digest()).decode()
        assert headers["X-Shopify-Hmac-Sha256"] == digest
        assert headers["X-Shopify-Shop-Domain"] == shopify_shop.told["domain"]
        assert headers["X-Shopify-Api-Version"] == "2025-07"
        assert headers["X-Shopify-Triggered-At"]
        order = json.loads(body)
        assert str(order["id"]) == sold["order_id"]
        assert [(line["sku"], line["quantity"], line["price"]) for line in order["line_items"]] == [("a", 2, "19.90")]
        assert (order["financial_status"], order["total_price"]) == ("paid", "39.80")
    created, paid = got["orders/create"][0], got["orders/paid"][0]
    assert created["X-Shopify-Event-Id"] == paid["X-Shopify-Event-Id"]
    assert created["X-Shopify-Webhook-Id"] != paid["X-Shopify-Webhook-Id"]


@pytest.mark.asyncio
async def test_a_webhook_is_sent_again_with_the_same_ids_until_it_is_taken(
    shopify_shop: Shop, receiver: Receiver
) -> None:
    await shopify_shop.put(a=5)
    await subscribe(shopify_shop, receiver, "ORDERS_CREATE")
    receiver.answers += [500, 503]
    await shopify_shop.control.buy(shopify_shop.name, {"a": 1})
    got = [await receiver.next() for _ in range(3)]
    assert len({headers["X-Shopify-Webhook-Id"] for headers, _ in got}) == 1
    assert len({body for _, body in got}) == 1
    rows = await shopify_shop.wait_for_rows("webhook", 3)
    assert [(row["attempt"], row["status"]) for row in rows] == [(1, 500), (2, 503), (3, 200)]


@pytest.mark.asyncio
async def test_a_webhook_is_given_up_after_its_last_retry(shopify_shop: Shop, receiver: Receiver) -> None:
    await shopify_shop.put(a=5)
    await shopify_shop.control.put_shop(shopify_shop.name, webhook_retry_s=[0.01], webhook_removed_after_failures=True)
    await subscribe(shopify_shop, receiver, "ORDERS_CREATE")
    receiver.answers += [500, 500]
    await shopify_shop.control.buy(shopify_shop.name, {"a": 1})
    rows = await shopify_shop.wait_for_rows("webhook", 3)
    assert [row["status"] for row in rows] == [500, 500, "given_up"]
    left = await shopify_shop.graphql("{ webhookSubscriptions(first: 5) { nodes { id } } }")
    assert left["data"]["webhookSubscriptions"]["nodes"] == []


@pytest.mark.asyncio
async def test_cancel_and_refund_tell_their_topics_and_restore_the_shops_number(
    shopify_shop: Shop, receiver: Receiver
) -> None:
    await shopify_shop.put(a=5)
    shop, control = shopify_shop, shopify_shop.control
    first = (await control.buy(shop.name, {"a": 3}))["order_id"]
    second = (await control.buy(shop.name, {"a": 2}, pay="later"))["order_id"]
    await subscribe(shop, receiver, "ORDERS_CANCELLED", "REFUNDS_CREATE", "ORDERS_UPDATED")
    await control.refund(shop.name, first, {"a": 1})
    got = {headers["X-Shopify-Topic"]: json.loads(body) for headers, body in [await receiver.next() for _ in range(2)]}
    assert got["refunds/create"]["refund_line_items"][0]["quantity"] == 1
    assert got["orders/updated"]["financial_status"] == "partially_refunded"
    assert await control.numbers(shop.name) == {"a": 1}
    await control.cancel(shop.name, second, restock=True)
    got = {headers["X-Shopify-Topic"]: json.loads(body) for headers, body in [await receiver.next() for _ in range(3)]}
    assert got["orders/cancelled"]["financial_status"] == "voided"
    assert got["orders/cancelled"]["cancelled_at"] is not None
    assert await control.numbers(shop.name) == {"a": 3}
    kinds = [row["kind"] for row in await shop.rows("cancel", "refund")]
    assert kinds == ["refund", "cancel"]

"""Shopify's official Python client (`ShopifyAPI`) drives the sandbox over real HTTP."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pyactiveresource.connection
import pytest
import shopify

from services.sandbox.client import SandboxClient
from tests.sandbox.running import TOKEN, Sandbox

VERSION = "2024-10"


def control(process: Sandbox, call: str, *args: Any, **kwargs: Any) -> Any:
    """One call of the control client, for a test that is not asynchronous itself."""

    async def run() -> Any:
        async with SandboxClient(process.base_url, TOKEN) as client:
            return await getattr(client, call)(*args, **kwargs)

    return asyncio.run(run())


@pytest.fixture
def shop(shopify_process: Sandbox) -> Iterator[dict[str, Any]]:
    """A shop with two products and an active session of the official client.

    The client makes a shop's host from its name and a common domain, so the loopback address is split into the two.
    """
    told = control(shopify_process, "put_shop", "loja-oficial", limits={"rest_leak_requests_per_s": 1000})
    rows = [{"sku": sku, "title": f"Produto {sku}", "quantity": 5, "price_minor": 1990} for sku in ("a", "b")]
    products = control(shopify_process, "put_products", "loja-oficial", rows)
    port = int(shopify_process.base_url.rpartition(":")[2])
    shopify.Session.setup(protocol="http", myshopify_domain="0.0.1", port=port)
    shopify.ShopifyResource.activate_session(shopify.Session("127.0.0.1", VERSION, told["credentials"]["access_token"]))
    yield told | {"products": {row["sku"]: row for row in products}, "process": shopify_process}
    shopify.ShopifyResource.clear_session()
    shopify.Session.setup(protocol="https", myshopify_domain="myshopify.com", port=None)


def test_shop_products_variants_and_locations(shop: dict[str, Any]) -> None:
    assert shopify.Shop.current().name == "loja-oficial"
    assert shopify.Product.count() == 2
    products = {product.variants[0].sku: product for product in shopify.Product.find()}
    assert set(products) == {"a", "b"}
    assert shopify.Product.find(products["a"].id).title == "Produto a"
    variant = shopify.Variant.find(shop["products"]["a"]["variant_id"])
    assert (variant.price, variant.inventory_item_id) == ("19.90", shop["products"]["a"]["inventory_item_id"])
    assert [str(location.id) for location in shopify.Location.find()] == shop["locations"]
    with pytest.raises(pyactiveresource.connection.ResourceNotFound):
        shopify.Product.find(1)


def test_products_are_paged_by_the_link_header(shop: dict[str, Any]) -> None:
    first = shopify.Product.find(limit=1)
    assert first.has_next_page()
    second = first.next_page()
    assert not second.has_next_page()
    assert {product.variants[0].sku for page in (first, second) for product in page} == {"a", "b"}


def test_inventory_levels_are_set_adjusted_and_listed(shop: dict[str, Any]) -> None:
    item, location = shop["products"]["b"]["inventory_item_id"], int(shop["locations"][0])
    assert shopify.InventoryLevel.set(location, item, 42).available == 42
    assert shopify.InventoryLevel.adjust(location, item, -2).available == 40
    listed = shopify.InventoryLevel.find(inventory_item_ids=str(item), location_ids=str(location))
    assert [level.available for level in listed] == [40]
    assert control(shop["process"], "numbers", "loja-oficial")["b"] == 40
    assert int(shopify.Limits.credit_limit()) == 40


def test_orders_are_listed_fetched_counted_and_cancelled(shop: dict[str, Any]) -> None:
    sold = control(shop["process"], "buy", "loja-oficial", {"a": 1}, buyer=5)
    order = shopify.Order.find(int(sold["order_id"]))
    assert order.line_items[0].sku == "a"
    assert (order.financial_status, order.total_price, order.customer.last_name) == ("paid", "19.90", "5")
    assert sold["order_id"] in [str(one.id) for one in shopify.Order.find(updated_at_min="2020-01-01T00:00:00Z")]
    assert shopify.Order.find(updated_at_min="2999-01-01T00:00:00Z") == []
    before = shopify.Order.count()
    order.cancel()
    assert shopify.Order.find(int(sold["order_id"])).cancelled_at is not None
    assert shopify.Order.count() == before - 1
    assert shopify.Order.count(status="any") >= before


def test_webhooks_are_created_found_changed_and_destroyed(shop: dict[str, Any]) -> None:
    webhook = shopify.Webhook()
    webhook.topic = "orders/create"
    webhook.address = "http://127.0.0.1:1/hook"
    webhook.format = "json"
    assert webhook.save()
    found = shopify.Webhook.find(webhook.id)
    assert (found.topic, found.address) == ("orders/create", "http://127.0.0.1:1/hook")
    found.address = "http://127.0.0.1:2/hook"
    assert found.save()
    assert [one.address for one in shopify.Webhook.find(topic="orders/create")] == ["http://127.0.0.1:2/hook"]
    twin = shopify.Webhook({"topic": "orders/create", "address": "http://127.0.0.1:2/hook", "format": "json"})
    assert not twin.save()
    assert "address" in twin.errors.errors
    found.destroy()
    assert shopify.Webhook.count() == 0


def test_graphql_reads_and_compares_and_sets(shop: dict[str, Any]) -> None:
    client = shopify.GraphQL()
    item = f"gid://shopify/InventoryItem/{shop['products']['b']['inventory_item_id']}"
    location = f"gid://shopify/Location/{shop['locations'][0]}"
    read = """query Read($id: ID!, $at: ID!) { inventoryItem(id: $id) { sku inventoryLevel(locationId: $at) {
      quantities(names: ["available"]) { name quantity } } } }"""

    def available() -> int:
        told = json.loads(client.execute(read, {"id": item, "at": location}))
        return int(told["data"]["inventoryItem"]["inventoryLevel"]["quantities"][0]["quantity"])

    quantity = {"inventoryItemId": item, "locationId": location, "quantity": 7, "compareQuantity": available()}
    write = """mutation W($input: InventorySetQuantitiesInput!) {
      inventorySetQuantities(input: $input) { userErrors { code } } }"""
    given = {"name": "available", "reason": "correction", "quantities": [quantity]}
    assert json.loads(client.execute(write, {"input": given}))["data"]["inventorySetQuantities"]["userErrors"] == []
    assert available() == 7
    given["quantities"] = [quantity | {"compareQuantity": 1}]
    told = json.loads(client.execute(write, {"input": given}))
    assert told["data"]["inventorySetQuantities"]["userErrors"] == [{"code": "COMPARE_QUANTITY_STALE"}]

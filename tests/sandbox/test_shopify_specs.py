"""The sandbox's objects against recorded ones of Shopify: a field that both have is of the same JSON type."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.sandbox import shopify_objects
from services.sandbox.limits import Bucket, Windows
from services.sandbox.market import Account
from services.sandbox.settings import ShopSettings
from services.sandbox.shop import Order, Shop
from services.sandbox.vices import Temper

ROOT = Path(__file__).resolve().parents[2]
SPECS = Path(os.environ.get("SALDO_SPECS_DIR") or ROOT.parent / "shared" / "specs") / "shopify"

pytestmark = pytest.mark.skipif(
    not SPECS.is_dir(), reason="the vendors' recorded objects are not here: set SALDO_SPECS_DIR to compare with them"
)

ESSENTIAL = {
    "order": {
        "id", "name", "created_at", "updated_at", "cancelled_at", "currency", "email", "financial_status",
        "fulfillment_status", "gateway", "line_items", "customer", "shipping_address", "billing_address",
        "shipping_lines", "subtotal_price", "total_price", "total_discounts", "total_tax", "fulfillments", "number",
    },
    "product": {"id", "title", "variants", "options", "images", "handle", "created_at", "updated_at", "vendor"},
    "variant": {"id", "sku", "price", "inventory_quantity", "inventory_management", "position"},
    "location": {"id", "name", "country_code", "created_at", "updated_at", "deleted_at"},
    "inventory_level": {"inventory_item_id", "location_id", "available", "updated_at"},
    "refund": {"id", "order_id", "created_at", "restock", "refund_line_items", "transactions", "order_adjustments"},
}  # fmt: skip
ESSENTIAL_LINE = {"id", "sku", "variant_id", "product_id", "quantity", "price", "title", "name", "requires_shipping"}


def recorded(name: str) -> dict[str, Any]:
    """Shopify's own object of this name."""
    found: dict[str, Any] = json.loads((SPECS / f"{name}.json").read_text())[name]
    return found


def sandboxed() -> dict[str, dict[str, Any]]:
    """The same objects as the sandbox makes them, from an order of two lines of which one unit was refunded."""
    settings = ShopSettings(locations=["905684977"], domain="loja.myshopify.com")
    shop = Shop("loja", queued=False, prefix="", first_order_id=450789469, locations=settings.locations)
    for sku in ("a", "b"):
        shop.put_product(sku, f"Produto {sku}", 19900, 9, "905684977", 1_700_000_000_000)
    order, _ = shop.buy([("a", 2), ("b", 1)], paid=True, buyer=3, now_ms=1_700_000_100_000)
    assert isinstance(order, Order)
    shop.refund(order, [(order.lines[0].line_id, 1, True)], 1_700_000_200_000)
    account = Account(settings, shop, Bucket(40, 2), Bucket(40, 2), Windows(), Temper(settings.vices, 0))
    product = shop.products["a"]
    made = {
        "order": shopify_objects.order(account, order),
        "product": shopify_objects.product(product),
        "variant": shopify_objects.variant(product),
        "location": shopify_objects.location("905684977"),
        "inventory_level": shopify_objects.inventory_level(product, "905684977"),
        "refund": shopify_objects.refund(account, order, order.refunds[0]),
    }
    # As a client gets them: through JSON.
    through_json: dict[str, dict[str, Any]] = json.loads(json.dumps(made))
    return through_json


def differences(mine: Any, theirs: Any, path: str) -> list[str]:
    """Where a field that both have is of another JSON type; null fits everything."""
    if mine is None or theirs is None:
        return []
    if isinstance(mine, dict) and isinstance(theirs, dict):
        both = mine.keys() & theirs.keys()
        return [one for name in sorted(both) for one in differences(mine[name], theirs[name], f"{path}.{name}")]
    if isinstance(mine, list) and isinstance(theirs, list):
        return differences(mine[0], theirs[0], f"{path}[0]") if mine and theirs else []
    return [] if type(mine) is type(theirs) else [f"{path}: {type(mine).__name__}, not {type(theirs).__name__}"]


@pytest.mark.parametrize("name", sorted(ESSENTIAL))
def test_every_shared_field_has_the_recorded_type_and_the_essential_ones_are_there(name: str) -> None:
    mine, theirs = sandboxed()[name], recorded(name)
    assert differences(mine, theirs, name) == []
    assert ESSENTIAL[name] <= mine.keys() & theirs.keys()


def test_lines_have_the_essential_fields_of_recorded_lines() -> None:
    mine, theirs = sandboxed(), recorded("order")
    assert mine["order"]["line_items"][0].keys() & theirs["line_items"][0].keys() >= ESSENTIAL_LINE
    refunded = recorded("refund")["refund_line_items"][0]
    assert mine["refund"]["refund_line_items"][0].keys() >= refunded.keys()


@pytest.mark.parametrize(("object_name", "field"), [("order", "created_at"), ("inventory_level", "updated_at")])
def test_recorded_times_are_read_and_written_alike(object_name: str, field: str) -> None:
    text = recorded(object_name)[field]
    at_ms = shopify_objects.parse_moment_ms(text)
    assert at_ms is not None
    assert shopify_objects.parse_moment_ms(shopify_objects.moment(at_ms)) == at_ms
    assert shopify_objects.moment(at_ms)[19] == text[19]
    assert len(shopify_objects.moment(at_ms)) == len(text)


def test_the_comparison_finds_a_wrong_type() -> None:
    assert differences({"price": 199.0}, {"price": "199.00"}, "variant") == ["variant.price: float, not str"]

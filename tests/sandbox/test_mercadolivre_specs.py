"""The sandbox's objects against the examples on Mercado Livre's own pages: a field that both have is of one type."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from services.sandbox import mercadolivre_objects as objects
from services.sandbox.books import Books
from services.sandbox.deliveries import Delivery
from services.sandbox.market import Market
from services.sandbox.mercadolivre_pushes import notification
from services.sandbox.mercadolivre_tokens import Tokens
from services.sandbox.settings import ShopSettings
from services.sandbox.shop import Order
from tests.sandbox.test_shopify_specs import differences

ROOT = Path(__file__).resolve().parents[2]
SPECS = Path(os.environ.get("SALDO_SPECS_DIR") or ROOT.parent / "shared" / "specs") / "mercadolivre"

pytestmark = pytest.mark.skipif(
    not SPECS.is_dir(), reason="Mercado Livre's pages are not here: set SALDO_SPECS_DIR to compare with them"
)


def example(page: str, fields: set[str]) -> dict[str, Any]:
    """The first example on a page that has these fields; trailing commas and line comments are forgiven."""
    for text in re.findall(r"```javascript\n(.*?)```", (SPECS / f"{page}.md").read_text("utf-8"), re.DOTALL):
        cleaned = re.sub(r",(\s*[}\]])", r"\1", re.sub(r"//[^\n\"]*\n", "\n", text)).replace("000]", "]")
        try:
            found = json.loads(cleaned)
        except ValueError:
            continue
        if isinstance(found, dict) and found.keys() >= fields:
            return found
    raise AssertionError(f"{page} has no example with {sorted(fields)}")


@pytest.mark.asyncio
async def test_objects_have_the_fields_and_types_of_the_examples(tmp_path: Path) -> None:
    books = Books(tmp_path / "books.sqlite")
    market = Market("mercadolivre", books)
    account = market.put_shop("loja", ShopSettings())
    location = account.shop.locations[0]
    account.shop.put_product("a", "Produto a", 19900, 9, location, 1_700_000_000_000)
    order, _ = account.shop.buy([("a", 2)], paid=True, buyer=3, now_ms=1_700_000_100_000)
    assert isinstance(order, Order)
    pointer = Delivery("5da8", "", 0, "orders_v2", order.order_id, "", "", f"/orders/{order.order_id}", 1, 1, 1)
    credentials = account.settings.credentials
    _, (status, granted) = Tokens(market).refresh({"grant_type": "refresh_token"} | credentials)
    assert status == 200
    pairs = [
        (objects.order(account, order), example("gestiona-ventas", {"order_items", "payments"})),
        (objects.stock(account, account.shop.products["a"]), example("stock-multi-origen", {"locations", "user_id"})),
        (objects.store(account, location), example("stock-multi-origen", {"results"})["results"][0]),
        (notification(account, pointer, 2), example("notificaciones", {"resource", "topic"})),
        (granted, example("autenticacion", {"access_token", "refresh_token"})),
    ]
    # The page writes the numbers of buyers, sellers and payments as text, where notifications have numbers; in an
    # order as in a notification a seller is one number.
    known = {"order.buyer.id", "order.seller.id", "order.payments[0].id"}
    for mine, theirs in pairs:
        through_json = json.loads(json.dumps(mine))
        name = "order" if "order_items" in theirs else "object"
        found = {
            one.partition(":")[0] for one in differences(through_json, theirs, name) if "float, not int" not in one
        }
        assert found <= known
        assert theirs.keys() <= through_json.keys() | {"product_release_date"}
    books.close()

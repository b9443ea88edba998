"""The control interface of the storefront sandbox; shapes as in `client.py`.

Differences: `PUT /shops/{shop}` takes the fields of `storefront_shops.ShopSettings`; products have no numbers of their
own here, what can be bought is the API's word; `buy` with pay `now` walks to the confirmation and answers what was
reached (`paid`), and names the `basket` too; `cancel` of a paid order is a request, answered with `restored` false.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox.books import now_ms
from services.sandbox.control import BuyBody
from services.sandbox.guard import Handler, Refused, control_routes, json_answer, json_object
from services.sandbox.storefront_api import Refused as ApiRefused
from services.sandbox.storefront_api import Unreachable
from services.sandbox.storefront_buyers import Buyers
from services.sandbox.storefront_shops import ShopSettings, Store, Stores


class StorefrontControl:
    """The routes under `/_control`."""

    def __init__(self, stores: Stores, token: str, base_url: str) -> None:
        self._stores, self._token, self._base_url = stores, token, base_url
        self._buyers = Buyers(stores)

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/health", self._health),
            ("GET", "/limits", self._limits),
            ("GET", "/shops", self._shops),
            ("GET", "/shops/{shop}", self._shown),
            ("PUT", "/shops/{shop}", self._put),
            ("PUT", "/shops/{shop}/products", self._products),
            ("PUT", "/shops/{shop}/vices", self._vices),
            ("GET", "/shops/{shop}/numbers", self._numbers),
            ("POST", "/shops/{shop}/buy", self._buy),
            ("POST", "/shops/{shop}/orders/{order}/pay", self._pay),
            ("POST", "/shops/{shop}/orders/{order}/cancel", self._cancel),
            ("POST", "/reset", self._reset),
        ]
        return control_routes(table, self._token, self._stores.books)

    def _store(self, request: Request) -> Store:
        store = self._stores.shops.get(request.path_params["shop"])
        if store is None:
            raise Refused(404, {"error": f"no shop {request.path_params['shop']!r}: create it with PUT"})
        return store

    def _number(self, request: Request, store: Store) -> str:
        number = str(request.path_params["order"])
        if number not in store.orders:
            raise Refused(404, {"error": f"no order {number!r} in this shop"})
        return number

    def _describe(self, store: Store) -> dict[str, Any]:
        about = {"shop": store.name, "marketplace": "shop", "base_url": f"{self._base_url}/{store.name}", "limits": {}}
        return about | store.settings.model_dump(mode="json")

    async def _health(self, _request: Request) -> Response:
        return json_answer({"status": "ok", "marketplace": "shop", "shops": len(self._stores.shops)})

    async def _limits(self, _request: Request) -> Response:
        return json_answer({"marketplace": "shop", "shops": {name: {} for name in self._stores.shops}})

    async def _shops(self, _request: Request) -> Response:
        return json_answer({"shops": sorted(self._stores.shops)})

    async def _shown(self, request: Request) -> Response:
        return json_answer(self._describe(self._store(request)))

    async def _put(self, request: Request) -> Response:
        name = request.path_params["shop"]
        given = json_object(await request.body())
        known = self._stores.shops.get(name)
        if known is not None:
            given = known.settings.model_dump(mode="json") | given
        store = self._stores.put(name, ShopSettings.model_validate(given))
        return json_answer(self._describe(store), 200 if known else 201)

    async def _products(self, request: Request) -> Response:
        store = self._store(request)
        rows = json_object(b'{"rows": ' + await request.body() + b"}")["rows"]
        try:
            products = [(str(row["sku"]), str(row.get("title") or row["sku"])) for row in rows]
        except (TypeError, KeyError, AttributeError):
            raise Refused(422, {"error": "products: a list of objects with sku and title is wanted"}) from None
        self._stores.opened(store, products)
        return json_answer({"products": [{"sku": sku, "number": store.numbers[sku]} for sku, _ in products]})

    async def _vices(self, request: Request) -> Response:
        self._store(request)
        if json_object(await request.body()):
            raise Refused(422, {"error": "a storefront has no vices: the API behind it is the real one"})
        return json_answer({"vices": {}})

    async def _numbers(self, request: Request) -> Response:
        return json_answer({"at_ms": now_ms(), "numbers": self._store(request).numbers})

    async def _reset(self, _request: Request) -> Response:
        self._stores.shops.clear()
        await self._stores.books.clear()
        return json_answer({"status": "empty"})

    # -- what buyers do ------------------------------------------------------------------------------------------------

    async def _buy(self, request: Request) -> Response:
        store = self._store(request)
        body = BuyBody.model_validate_json(await request.body())
        lines = [(line.sku, line.quantity) for line in body.lines]
        try:
            status, told = await self._buyers.buy(store, lines, seed=body.buyer, pay=body.pay == "now")
        except Unreachable as error:
            raise Refused(502, {"error": f"the shop's API does not answer: {error}"}) from None
        return json_answer(told, status)

    async def _pay(self, request: Request) -> Response:
        store = self._store(request)
        basket = await _asked(self._buyers.pay_later(store, self._number(request, store), 0))
        if basket["state"] != "placed":
            raise Refused(409, {"reason": basket["state"], "error": "the basket could not be paid"})
        return json_answer({"order_id": basket["number"], "paid_at_ms": now_ms()})

    async def _cancel(self, request: Request) -> Response:
        store = self._store(request)
        basket = await _asked(self._buyers.cancel(store, self._number(request, store)))
        restored = basket["state"] == "cancelled"
        return json_answer({"order_id": basket["number"], "cancelled_at_ms": now_ms(), "restored": restored})


async def _asked(deed: Any) -> dict[str, Any]:
    try:
        basket: dict[str, Any] = await deed
    except ApiRefused as refused:
        raise Refused(409, {"reason": refused.code, "error": str(refused.told.get("detail", ""))}) from None
    except Unreachable as error:
        raise Refused(502, {"error": f"the shop's API does not answer: {error}"}) from None
    return basket

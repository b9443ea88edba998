"""The control interface of a sandbox: shops, products, buyers' deeds, vices, books. Never part of a marketplace's API.

Every path but `/_control/health` wants `Authorization: Bearer <SALDO_SANDBOX_TOKEN>`. Shapes: see `client.py`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox.books import now_ms
from services.sandbox.guard import Handler, Refused, control_routes, json_answer, json_object
from services.sandbox.market import Account, Market
from services.sandbox.settings import ShopSettings
from services.sandbox.shop import Order, Refusal
from services.sandbox.vices import Vices


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProductBody(_Body):
    sku: Annotated[str, Field(min_length=1, max_length=255)]
    title: str = ""
    quantity: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    price_minor: Annotated[int, Field(ge=0)] = 1000
    location: str | None = None
    adverts: Annotated[int, Field(ge=1, le=9)] = 1


class WantedLine(_Body):
    sku: str
    quantity: Annotated[int, Field(gt=0)] = 1


class BuyBody(_Body):
    lines: Annotated[list[WantedLine], Field(min_length=1)]
    pay: Literal["now", "later", "never"] = "now"
    buyer: int = 0
    pack: Annotated[str, Field(max_length=50)] = ""


class MoveBody(_Body):
    status: Literal["shipped", "delivered", "shipment_exception"]


class CancelBody(_Body):
    restock: bool | None = None


class RefundLine(_Body):
    sku: str
    quantity: Annotated[int, Field(gt=0)]
    restock: bool = True


class RefundBody(_Body):
    lines: Annotated[list[RefundLine], Field(min_length=1)]


_PRODUCTS = TypeAdapter(list[ProductBody])


class Control:
    """The routes under `/_control`."""

    def __init__(self, market: Market, token: str) -> None:
        self._market = market
        self._token = token
        self.base_url = ""

    def routes(self, more: Sequence[tuple[str, str, Handler]] = ()) -> list[Route]:
        """The routes, with `more` rows (method, path, handler)."""
        table: list[tuple[str, str, Handler]] = [
            *more,
            ("POST", "/shops/{shop}/buy", self._buy),
            ("POST", "/shops/{shop}/orders/{order}/pay", self._pay),
            ("POST", "/shops/{shop}/orders/{order}/cancel", self._cancel),
            ("POST", "/shops/{shop}/orders/{order}/refund", self._refund),
            ("POST", "/shops/{shop}/orders/{order}/move", self._move),
            ("GET", "/shops/{shop}/numbers", self._numbers),
            ("PUT", "/shops/{shop}/products", self._products),
            ("PUT", "/shops/{shop}/vices", self._vices),
            ("GET", "/shops/{shop}", self._shop),
            ("PUT", "/shops/{shop}", self._put_shop),
            ("GET", "/shops", self._shops),
            ("GET", "/limits", self._limits),
            ("POST", "/reset", self._reset),
            ("GET", "/health", self._health),
        ]
        return control_routes(table, self._token, self._market.books)

    def _account(self, request: Request) -> Account:
        account = self._market.accounts.get(request.path_params["shop"])
        if account is None:
            raise Refused(404, {"error": f"no shop {request.path_params['shop']!r}: create it with PUT"})
        return account

    def _order(self, request: Request, account: Account) -> Order:
        order = account.shop.orders.get(request.path_params["order"])
        if order is None:
            raise Refused(404, {"error": f"no order {request.path_params['order']!r} in this shop"})
        return order

    # -- the process ---------------------------------------------------------------------------------------------

    async def _health(self, _request: Request) -> Response:
        return json_answer(
            {"status": "ok", "marketplace": self._market.marketplace, "shops": len(self._market.accounts)}
        )

    async def _limits(self, _request: Request) -> Response:
        shops = {name: account.settings.limits.model_dump() for name, account in self._market.accounts.items()}
        return json_answer({"marketplace": self._market.marketplace, "shops": shops})

    async def _reset(self, _request: Request) -> Response:
        self._market.forget()
        await self._market.books.clear()
        return json_answer({"status": "empty"})

    # -- shops ---------------------------------------------------------------------------------------------------

    def _describe(self, account: Account) -> dict[str, Any]:
        settings = account.settings.model_dump(mode="json")
        return {"shop": account.name, "marketplace": self._market.marketplace, "base_url": self.base_url, **settings}

    async def _shops(self, _request: Request) -> Response:
        return json_answer({"shops": sorted(self._market.accounts)})

    async def _shop(self, request: Request) -> Response:
        return json_answer(self._describe(self._account(request)))

    async def _put_shop(self, request: Request) -> Response:
        name = request.path_params["shop"]
        raw = await request.body()
        given = json_object(raw)
        known = self._market.accounts.get(name)
        if known is not None:
            kept = known.settings.model_dump(mode="json")
            for nested in ("credentials", "limits"):
                if isinstance(given.get(nested), dict):
                    given[nested] = kept[nested] | given[nested]
            given = kept | given
        settings = ShopSettings.model_validate(given)
        if self._market.customs.numeric_locations and not all(one.isdecimal() for one in settings.locations):
            raise Refused(422, {"error": f"locations: the location ids of {self._market.marketplace} are numbers"})
        for key in self._market.customs.numeric_credentials:
            if not settings.credentials.get(key, "0").isdecimal():
                raise Refused(422, {"error": f"credentials: {key} is a number at {self._market.marketplace}"})
        taken = self._market.owner_of(name, settings)
        if taken is not None:
            raise Refused(409, {"error": f"shop {taken!r} has these credentials already"})
        return json_answer(self._describe(self._market.put_shop(name, settings)), 200 if known else 201)

    async def _products(self, request: Request) -> Response:
        account = self._account(request)
        at_ms = now_ms()
        facts = []
        bodies = _PRODUCTS.validate_json(await request.body())
        for body in bodies:
            location = body.location or account.shop.locations[0]
            if location not in {*account.shop.locations, *self._market.customs.closed_locations}:
                raise Refused(422, {"error": f"{body.sku}: the shop has no location {location!r}"})
        for body in bodies:
            location = body.location or account.shop.locations[0]
            title = body.title or body.sku
            facts += account.shop.put_product(
                body.sku, title, body.price_minor, body.quantity, location, at_ms, body.adverts
            )
        self._market.commit(account, facts, at_ms)
        products = (account.shop.products[body.sku] for body in bodies)
        told = [
            {"sku": one.sku, "number": one.number, "product_id": one.product_id, "variant_id": one.variant_id}
            | {"inventory_item_id": one.inventory_item_id}
            for one in products
        ]
        return json_answer({"products": told})

    async def _vices(self, request: Request) -> Response:
        account = self._account(request)
        vices = Vices.model_validate_json(await request.body())
        settings = account.settings.model_copy(update={"vices": vices, "vices_since_ms": now_ms()})
        self._market.put_shop(account.name, settings)
        return json_answer({"vices": vices.model_dump(exclude_none=True)})

    async def _numbers(self, request: Request) -> Response:
        account = self._account(request)
        location = request.query_params.get("location")
        products = account.shop.products.values()
        if location is None:
            numbers = {product.sku: product.number for product in products}
        else:
            numbers = {one.sku: one.numbers[location] for one in products if location in one.numbers}
        return json_answer({"at_ms": now_ms(), "numbers": numbers})

    # -- what buyers do ------------------------------------------------------------------------------------------

    async def _buy(self, request: Request) -> Response:
        account = self._account(request)
        body = BuyBody.model_validate_json(await request.body())
        at_ms = now_ms()
        wanted = [(line.sku, line.quantity) for line in body.lines]
        paid = body.pay == "now"
        order, facts = account.shop.buy(wanted, paid=paid, buyer=body.buyer, now_ms=at_ms, pack=body.pack)
        if isinstance(order, Refusal):
            self._market.commit(account, facts, at_ms)
            return json_answer({"reason": order.reason, "sku": order.sku, "refused_at_ms": at_ms}, order.status)
        lines = [fact for kind, fact in facts if kind == "sale"]
        self._market.commit_order(account, order, facts, at_ms)
        told = [
            {name: fact[name] for name in ("line_id", "sku", "location", "quantity", "number_after")} for fact in lines
        ]
        return json_answer({"order_id": order.order_id, "sold_at_ms": at_ms, "paid": paid, "lines": told}, 201)

    async def _pay(self, request: Request) -> Response:
        account = self._account(request)
        order = self._order(request, account)
        at_ms = now_ms()
        done = account.shop.pay(order, at_ms)
        if isinstance(done, Refusal):
            raise Refused(409, {"reason": done.reason, "error": done.message})
        self._market.commit_order(account, order, done, at_ms)
        return json_answer({"order_id": order.order_id, "paid_at_ms": at_ms})

    async def _cancel(self, request: Request) -> Response:
        account = self._account(request)
        order = self._order(request, account)
        body = CancelBody.model_validate_json(await request.body() or b"{}")
        restock = account.settings.restores_on_cancel if body.restock is None else body.restock
        at_ms = now_ms()
        done = account.shop.cancel(order, restock=restock, by="buyer", now_ms=at_ms)
        if isinstance(done, Refusal):
            raise Refused(409, {"reason": done.reason, "error": done.message})
        self._market.commit_order(account, order, done, at_ms)
        return json_answer({"order_id": order.order_id, "cancelled_at_ms": at_ms, "restored": restock})

    async def _move(self, request: Request) -> Response:
        account = self._account(request)
        order = self._order(request, account)
        status = MoveBody.model_validate_json(await request.body()).status
        after = {"shipped": ("approved", "invoiced"), "delivered": ("shipped", "shipment_exception")}
        at_ms = now_ms()
        refusal = account.shop.progress(order, status, after=after.get(status, ("shipped",)), now_ms=at_ms)
        if refusal is not None:
            raise Refused(409, {"reason": refusal.reason, "error": refusal.message})
        self._market.commit_order(account, order, [("moved", {"order_id": order.order_id, "status": status})], at_ms)
        return json_answer({"order_id": order.order_id, "moved_at_ms": at_ms})

    async def _refund(self, request: Request) -> Response:
        account = self._account(request)
        order = self._order(request, account)
        body = RefundBody.model_validate_json(await request.body())
        wanted = []
        for given in body.lines:
            left = given.quantity
            for line in order.lines:
                units = min(left, line.quantity - line.returned) if line.sku == given.sku else 0
                if units:
                    wanted.append((line.line_id, units, given.restock))
                    left -= units
            if left:
                raise Refused(409, {"reason": "line", "error": f"{given.sku}: fewer than {given.quantity} units left"})
        at_ms = now_ms()
        done = account.shop.refund(order, wanted, at_ms)
        if isinstance(done, Refusal):
            raise Refused(409, {"reason": done.reason, "error": done.message})
        self._market.commit_order(account, order, done, at_ms)
        return json_answer({"order_id": order.order_id, "refund_id": done[0][1]["refund_id"], "refunded_at_ms": at_ms})

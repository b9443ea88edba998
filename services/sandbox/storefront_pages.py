"""The storefront as a person sees it: products, basket, address, delivery, payment, confirmation.

Rendered here, without a script: a page that waits reloads itself. Everything it knows it asks the shop's API; of the
buyer it keeps nothing. A basket's page is at `/{shop}/b/{basket}` and shows the step that the basket is at.
"""

import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

import segno
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from services.sandbox.gateway_cards import with_query
from services.sandbox.storefront_api import Refused, Unreachable
from services.sandbox.storefront_buyers import drawn_key
from services.sandbox.storefront_shops import Store, Stores
from services.sandbox.storefront_texts import LANGUAGES, TEXTS, clock, money

_FOLDER: Final = Path(__file__).parent / "storefront_templates"
_templates: Final = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined)
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; frame-ancestors 'none'; "
    "base-uri 'none'",
}
_STEPS: Final = ("cart", "address", "delivery", "payment", "confirmation")
_ADDRESS: Final = ("street", "number", "complement", "district", "city", "region", "postal_code")
_PERSON: Final = ("name", "email", "document", "phone")
_UNITS_MAX: Final = 99
_CANCELLED_FOR: Final = ("buyer", "payment_expired", "payment_failed", "sold_out")
_BODY_MAX: Final = 20_000


class Pages:
    """The routes of the pages. `base_url` is the sandbox's own address, for those who send buyers back."""

    def __init__(self, stores: Stores, base_url: str) -> None:
        self._stores, self._base_url = stores, base_url
        self._style = (_FOLDER / "style.css").read_bytes()

    def routes(self) -> list[Route]:
        return [
            Route("/style.css", self._stylesheet),
            Route("/", self._index),
            Route("/{shop}", self._products),
            Route("/{shop}/cart", self._cart, methods=["GET", "POST"]),
            Route("/{shop}/checkout", self._check_out, methods=["POST"]),
            Route("/{shop}/paid", self._paid),
            Route("/{shop}/b/{basket}", self._basket),
            Route("/{shop}/b/{basket}/address", self._address, methods=["POST"]),
            Route("/{shop}/b/{basket}/delivery", self._delivery, methods=["POST"]),
            Route("/{shop}/b/{basket}/pix", self._pix, methods=["POST"]),
            Route("/{shop}/b/{basket}/card", self._card),
            Route("/{shop}/b/{basket}/let-go", self._let_go, methods=["POST"]),
            Route("/{shop}/b/{basket}/cancel", self._cancel, methods=["POST"]),
        ]

    # -- products and cart ---------------------------------------------------------------------------------------------

    async def _stylesheet(self, _request: Request) -> Response:
        return Response(self._style, media_type="text/css", headers={"Cache-Control": "max-age=600"})

    async def _index(self, request: Request) -> Response:
        return _page(request, None, "index.html", shops=sorted(self._stores.shops.values(), key=lambda one: one.name))

    async def _products(self, request: Request) -> Response:
        store = self._stores.shops.get(request.path_params["shop"])
        if store is None:
            return _page(request, None, "problem.html", 404, message="missing")
        try:
            products = await store.api.products()
        except (Refused, Unreachable):
            return _page(request, store, "problem.html", 503, message="closed")
        return _page(request, store, "products.html", products=products, units=sum(_cart_of(request).values()))

    async def _cart(self, request: Request) -> Response:
        store = self._stores.shops.get(request.path_params["shop"])
        if store is None:
            return _page(request, None, "problem.html", 404, message="missing")
        cart = _cart_of(request)
        if request.method == "POST":
            form = await _form(request)
            sku, units = form.get("sku", "")[:128], _units(form.get("quantity", "1"))
            cart[sku] = min(_UNITS_MAX, (cart.get(sku, 0) + units) if "add" in form else units)
            answer = _to(f"/{quote(store.name)}/cart")
            _keep_cart(answer, store, cart)
            return answer
        return await self._cart_page(request, store, cart)

    async def _cart_page(self, request: Request, store: Store, cart: dict[str, int], message: str = "") -> Response:
        try:
            products = {one["sku"]: one for one in await store.api.products()}
        except (Refused, Unreachable):
            return _page(request, store, "problem.html", 503, message="closed")
        lines = [products[sku] | {"quantity": units} for sku, units in cart.items() if sku in products and units]
        total_minor = sum(line["quantity"] * line["price_minor"] for line in lines)
        status = 409 if message else 200
        key = drawn_key()
        return _page(
            request, store, "cart.html", status, lines=lines, total_minor=total_minor, key=key, message=message, at=0
        )

    async def _check_out(self, request: Request) -> Response:
        store = self._stores.shops.get(request.path_params["shop"])
        if store is None:
            return _page(request, None, "problem.html", 404, message="missing")
        cart, form = _cart_of(request), await _form(request)
        lines = [{"sku": sku, "quantity": units} for sku, units in cart.items() if units]
        if not lines:
            return _to(f"/{quote(store.name)}/cart")
        body = {"lines": lines, "language": _language(request)}
        try:
            basket = await store.api.ask("POST", "/v1/baskets", body, key=form.get("key") or drawn_key())
        except Refused as refused:
            message = "sold_out" if refused.status < 500 else "closed"
            return await self._cart_page(request, store, cart, message)
        except Unreachable:
            return _page(request, store, "problem.html", 503, message="closed")
        answer = _to(_place(store, basket["basket"]))
        _keep_cart(answer, store, {})
        # For the bank's page, which knows the shop and not the basket.
        answer.set_cookie("basket", basket["basket"], path=f"/{quote(store.name)}", httponly=True, samesite="lax")
        return answer

    async def _paid(self, request: Request) -> Response:
        """Back from the bank's question."""
        store = self._stores.shops.get(request.path_params["shop"])
        basket = request.cookies.get("basket", "")
        if store is None or not basket:
            return _page(request, store, "problem.html", 404, message="missing")
        return _to(_place(store, basket))

    # -- the basket's page ---------------------------------------------------------------------------------------------

    async def _basket(self, request: Request) -> Response:
        store = self._stores.shops.get(request.path_params["shop"])
        if store is None:
            return _page(request, None, "problem.html", 404, message="missing")
        try:
            basket = await store.api.basket(request.path_params["basket"])
            self._stores.keep_order(store, basket)
            return await self._step(request, store, basket)
        except Refused as refused:
            message = "missing" if refused.status == 404 else "closed"
            return _page(request, store, "problem.html", refused.status, message=message)
        except Unreachable:
            return _page(request, store, "problem.html", 503, message="closed")

    async def _step(self, request: Request, store: Store, basket: dict[str, Any]) -> Response:
        here: dict[str, Any] = {"basket": basket, "place": _place(store, basket["basket"])}
        if basket["state"] == "placed":
            return _page(request, store, "confirmation.html", at=4, **here)
        if basket["state"] == "cancelled":
            reason = basket["cancelled_for"] if basket["cancelled_for"] in _CANCELLED_FOR else "other"
            return _page(request, store, "cancelled.html", reason=reason, **here)
        if not basket["held"]:
            return _page(request, store, "waiting.html", message="waiting_hold", refresh_s=1, at=0, **here)
        wanted = request.query_params.get("step", "")
        if not basket["address_given"] or wanted == "address":
            return _page(request, store, "address.html", at=1, given={}, wrong=[], **here)
        if basket["delivery"] is None or wanted == "delivery":
            return await self._delivery_step(request, store, here)
        return await self._payment_step(request, store, here, other=wanted == "payment")

    async def _delivery_step(self, request: Request, store: Store, here: dict[str, Any]) -> Response:
        path = store.api.path(here["basket"]["basket"])
        found = await store.api.ask("GET", f"{path}/delivery-options")
        if not found["ready"]:
            here["refresh_url"] = f"{here['place']}?step=delivery"
            return _page(request, store, "waiting.html", message="waiting_options", refresh_s=1, at=2, **here)
        quoted = {name: found[name] for name in ("options", "incomplete")}
        return _page(request, store, "delivery.html", at=2, **quoted, **here)

    async def _payment_step(self, request: Request, store: Store, here: dict[str, Any], *, other: bool) -> Response:
        basket = here["basket"]
        payment = basket["payment"] or {"status": ""}
        if payment["status"] == "pending" and payment["pix_text"] and not other:
            code = segno.make(payment["pix_text"], micro=False, error="m").svg_data_uri(scale=5, border=2)
            bank = self._stores.bank.pix_page(payment["pix_text"], f"{self._base_url}{here['place']}")
            return _page(request, store, "pix.html", code=code, bank=bank, refresh_s=2, at=3, **here)
        if payment["status"] == "pending" and payment["next_url"] and not other:
            return _page(request, store, "bank.html", url=payment["next_url"], at=3, **here)
        if payment["status"] in ("asked", "pending") and not other:
            return _page(request, store, "waiting.html", message="waiting_payment", refresh_s=1, at=3, **here)
        methods = (await store.api.ask("GET", f"{store.api.path(basket['basket'])}/payment-methods"))["methods"]
        for one in methods:
            if one["page_url"]:
                one["page_url"] = with_query(one["page_url"], return_url=f"{self._base_url}{here['place']}/card")
        failed = payment["status"] in ("failed", "voided")
        return _page(request, store, "payment.html", methods=methods, failed=failed, key=drawn_key(), at=3, **here)

    # -- what a buyer does ---------------------------------------------------------------------------------------------

    async def _deed(self, request: Request, method: str, path: str, body: Any = None, key: str = "") -> Response:
        """Ask the API, and show the basket's page whatever came of it."""
        store, name = self._stores.shops.get(request.path_params["shop"]), request.path_params["basket"]
        if store is None:
            return _page(request, None, "problem.html", 404, message="missing")
        try:
            await store.api.ask(method, store.api.path(name) + path, body, key=key)
        except Refused as refused:
            if refused.status == 422 and path == "/address":
                return await self._wrong_address(request, store, body, refused)
        except Unreachable:
            return _page(request, store, "problem.html", 503, message="closed")
        return _to(_place(store, name))

    async def _wrong_address(self, request: Request, store: Store, body: Any, refused: Refused) -> Response:
        basket = await store.api.basket(request.path_params["basket"])
        wrong = {field["field"].rpartition(".")[2] for field in refused.told.get("fields", ())}
        wrong |= {name for field in refused.told.get("fields", ()) for name in _NAMED if name in field["why"]}
        given = {**body, **body["address"]}
        shown = [name for name in (*_PERSON, *_ADDRESS) if name in wrong]
        return _page(
            request, store, "address.html", 422, at=1, given=given, wrong=shown, basket=basket,
            place=_place(store, basket["basket"]),
        )  # fmt: skip

    async def _address(self, request: Request) -> Response:
        form = await _form(request)
        person = {name: form.get(name, "").strip() for name in _PERSON}
        address = {name: form.get(name, "").strip() for name in _ADDRESS} | {"country": "BR"}
        return await self._deed(request, "PUT", "/address", {**person, "address": address})

    async def _delivery(self, request: Request) -> Response:
        form = await _form(request)
        return await self._deed(request, "PUT", "/delivery", {"option_id": form.get("option_id", "")})

    async def _pix(self, request: Request) -> Response:
        form = await _form(request)
        return await self._deed(request, "POST", "/pay", {"method": "pix"}, form.get("key") or drawn_key())

    async def _card(self, request: Request) -> Response:
        """Back from the gateway's page with the token, which is the key too: a reload pays no second time."""
        token = request.query_params.get("token", "")
        return await self._deed(request, "POST", "/pay", {"method": "card", "token": token}, f"token {token}")

    async def _let_go(self, request: Request) -> Response:
        return await self._deed(request, "DELETE", "")

    async def _cancel(self, request: Request) -> Response:
        store, name = self._stores.shops.get(request.path_params["shop"]), request.path_params["basket"]
        if store is None:
            return _page(request, None, "problem.html", 404, message="missing")
        try:
            basket = await store.api.basket(name)
            path = f"/v1/orders/{quote(basket['order_id'], safe='')}/cancel-request"
            await store.api.ask("POST", path, key=f"cancel {basket['order_id']}")
        except Refused:
            return _to(_place(store, name))
        except Unreachable:
            return _page(request, store, "problem.html", 503, message="closed")
        return _to(f"{_place(store, name)}?asked=1")


_NAMED: Final = ("document", "postal_code")
"""Fields that a sentence of the API about several fields may name."""


def _place(store: Store, basket: str) -> str:
    return f"/{quote(store.name, safe='')}/b/{quote(basket, safe='')}"


def _to(url: str) -> RedirectResponse:
    return RedirectResponse(url, 303, {"Cache-Control": "no-store"})


def _units(text: str) -> int:
    return min(_UNITS_MAX, int(text)) if text.isascii() and text.isdecimal() and len(text) < 4 else 0


async def _form(request: Request) -> dict[str, str]:
    if int(request.headers.get("content-length", "0") or 0) > _BODY_MAX:
        return {}
    form = await request.form(max_files=0, max_fields=50)
    return {name: value for name, value in form.items() if isinstance(value, str)}


def _cart_of(request: Request) -> dict[str, int]:
    try:
        kept = json.loads(unquote(request.cookies.get("cart", "")) or "{}")
        return {str(sku): _units(str(units)) for sku, units in kept.items()}
    except (ValueError, AttributeError):
        return {}


def _keep_cart(answer: Response, store: Store, cart: dict[str, int]) -> None:
    text = json.dumps({sku: units for sku, units in cart.items() if units})
    answer.set_cookie("cart", quote(text), path=f"/{quote(store.name)}", httponly=True, samesite="lax", max_age=86_400)


def _language(request: Request) -> str:
    wanted = request.query_params.get("lang") or request.cookies.get("lang") or ""
    if wanted in LANGUAGES:
        return wanted
    told = request.headers.get("accept-language", "").lower()
    return "en" if told.startswith("en") else "pt-BR"


def _page(request: Request, store: Store | None, template: str, status: int = 200, **values: Any) -> Response:
    language = _language(request)
    other = next(one for one in LANGUAGES if one != language)
    query = {**request.query_params, "lang": other}
    shown = {
        "texts": TEXTS[language],
        "language": language,
        "other_url": f"?{urlencode(query)}",
        "store": store,
        "home": f"/{quote(store.name, safe='')}" if store else "/",
        "steps": _STEPS,
        "at": None,
        "refresh_s": None,
        "refresh_url": "",
        "asked": request.query_params.get("asked") == "1",
        "clock": clock,
        "money": lambda minor, currency="BRL": money(minor, currency, language),
        **values,
    }
    answer = HTMLResponse(_templates.get_template(template).render(shown), status, _HEADERS)
    if request.query_params.get("lang") in LANGUAGES:
        answer.set_cookie("lang", language, samesite="lax", max_age=86_400 * 365)
    return answer

"""The Mercado Livre API over HTTP: OAuth, orders, shipments, adverts, stock by warehouse, fiscal documents.

A seller is found by the access token. Stock belongs to user products, of which several adverts may be made; it is
written by location with the version that was read (`x-version`): 400 without one, 409 where it is not the newest.
Stock in Mercado Livre's own warehouses (`meli_facility`) is shown and sold and cannot be written. Each limit answers
429 `local_rate_limited`.
"""

import asyncio
import email.policy
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.parser import BytesParser
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox import mercadolivre_objects as objects
from services.sandbox.books import Books, Fact, now_ms
from services.sandbox.market import MELI_FULL, Account, Market, request_id
from services.sandbox.mercadolivre_claims import Claims
from services.sandbox.mercadolivre_pushes import Notifications
from services.sandbox.mercadolivre_tokens import Tokens, error
from services.sandbox.settings import SandboxSettings
from services.sandbox.shop import Change, Order, Product, WriteContext, stable_id
from services.sandbox.wiring import marketplace
from services.sandbox.writes import TIMEOUT_HOLD_S, Write, Writer

_DOCUMENT_MAX = 1_000_000
_OFFSET_MAX = 1000
_PAGE_MAX = 50
_NFE_KEY = re.compile(rb'Id="NFe(\d{44})"|<chNFe>(\d{44})</chNFe>')
_STATUS_AFTER = {
    "shipped": ("shipped", ("approved", "invoiced"), "shipment"),
    "delivered": ("delivered", ("shipped", "shipment_exception"), "delivery"),
    "not_delivered": ("shipment_exception", ("shipped",), "tracking"),
}
_PROBLEM = {
    "invalid_item": (404, "user product not found"),
    "invalid_location": (400, "store not found"),
    "stale": (409, "Version mismatch"),
    "negative": (400, "quantity must not be negative"),
    "too_high": (400, "quantity is too high"),
    "duplicate": (400, "the same store twice"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has passed the door: whose it is, the request and its bare body."""

    account: Account
    request: Request
    raw: bytes

    @property
    def context(self) -> WriteContext:
        return WriteContext(self.request.state.request_id, self.request.headers.get("x-request-id"))

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object of the body, empty where it is none."""
        try:
            body = json.loads(self.raw)
        except (ValueError, RecursionError):
            return {}
        return body if isinstance(body, dict) else {}

    def page(self, limit: int, most: int) -> tuple[int, int] | None:
        """(offset, limit) asked for; None if they are no numbers or too large."""
        query = self.request.query_params
        try:
            offset, limit = int(query.get("offset", "0")), int(query.get("limit", str(limit)))
        except ValueError:
            return None
        return (offset, limit) if offset >= 0 and 0 < limit <= most else None


Handler = Callable[["MercadoLivreFace", Call], Awaitable[Response]]


def build(settings: SandboxSettings, base_url: str) -> Starlette:
    """Wire the Mercado Livre sandbox."""
    market = Market("mercadolivre", Books(settings.books))
    writer = Writer(market)
    notifications = Notifications(market)
    claims = Claims(market, notifications)
    routes = MercadoLivreFace(market, writer, notifications, claims).routes()
    return marketplace(market, writer, routes, settings, base_url, notifications.deliveries, claims.control())


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status, headers, media_type="application/json")


def _error(message: str, name: str, status: int) -> Response:
    return _json(error(message, name, status)[1], status)


class MercadoLivreFace:
    """The routes of the Mercado Livre sandbox."""

    def __init__(self, market: Market, writer: Writer, notifications: Notifications, claims: Claims) -> None:
        self._market = market
        self._writer = writer
        self._notifications = notifications
        self._claims = claims
        self._tokens = Tokens(market)

    def routes(self) -> list[Route]:
        face = MercadoLivreFace
        table: list[tuple[str, str, str, Handler]] = [
            ("GET", "/users/me", "items", face._me),
            ("GET", "/users/{user}", "items", face._user),
            ("GET", "/users/{user}/stores/search", "items", face._stores),
            ("GET", "/users/{user}/items/search", "items", face._items_search),
            ("GET", "/items/bulk", "items", face._items_bulk),
            ("GET", "/items", "items", face._items_bulk),
            ("GET", "/items/{item}", "items", face._item),
            ("GET", "/user-products/{id}/stock", "stock", face._stock),
            ("PUT", "/user-products/{id}/stock/type/{kind}", "stock", face._stock_put),
            ("GET", "/orders/search", "search", face._search),
            ("GET", "/orders/{order}", "orders", face._order),
            ("GET", "/shipments/{shipment}", "shipments", face._shipment),
            ("GET", "/shipments/{shipment}/sla", "shipments", face._sla),
            ("PUT", "/shipments/{shipment}", "reports", face._shipment_put),
            ("GET", "/packs/{pack}", "orders", face._pack),
            ("GET", "/packs/{pack}/fiscal_documents", "reports", face._fiscal_documents),
            ("POST", "/packs/{pack}/fiscal_documents", "reports", face._fiscal_documents_post),
            ("GET", "/missed_feeds", "feeds", face._missed_feeds),
            ("GET", "/post-purchase/v1/claims/search", "claims", face._claims_search),
            ("GET", "/post-purchase/v1/claims/{claim}", "claims", face._claim),
            ("GET", "/post-purchase/v2/claims/{claim}/returns", "claims", face._return),
        ]
        guarded = [Route(path, self._answered(handler, limit), methods=[way]) for way, path, limit, handler in table]
        return [Route("/oauth/token", self._token, methods=["POST"]), *guarded]

    # -- around every request ------------------------------------------------------------------------------------

    def _answered(self, handler: Handler, limit: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            account = self._tokens.account_of(request.headers.get("authorization", ""))
            if account is None:
                return _error("invalid access token", "unauthorized", 401)
            request.state.request_id = request_id()
            slow_ms = account.temper.strikes("slow", now_ms())
            if slow_ms:
                await asyncio.sleep(slow_ms / 1000)
            call = Call(account, request, await request.body())
            if account.fits(f"meli_{limit}", time.monotonic()):
                response = await handler(self, call)
            else:
                if request.method == "PUT" and limit == "stock":
                    self._refuse_stock(call, "throttled")
                response = _error("too many requests: try again in a few seconds", "local_rate_limited", 429)
            # No answer leaves before what it tells is durable.
            await self._market.books.settled()
            response.headers["X-Request-Id"] = request.state.request_id
            return response

        return answer

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        owner = self._tokens.client_of(form)
        if owner is not None and not owner.fits("meli_token", time.monotonic()):
            return _error("too many requests: try again in a few seconds", "local_rate_limited", 429)
        account, (status, body) = self._tokens.refresh(form)
        await self._market.books.settled()
        if account is not None and account.temper.strikes("token_unanswered", now_ms()) is not None:
            await asyncio.sleep(TIMEOUT_HOLD_S)
            return _error("Gateway Timeout", "timeout", 504)
        return _json(body, status)

    # -- sellers and adverts -------------------------------------------------------------------------------------

    def _own(self, call: Call) -> bool:
        asked: str = call.request.path_params["user"]
        return asked == str(objects.user_id(call.account))

    async def _me(self, call: Call) -> Response:
        return _json(objects.user(call.account))

    async def _user(self, call: Call) -> Response:
        return _json(objects.user(call.account)) if self._own(call) else _error("User not found", "not_found", 404)

    async def _stores(self, call: Call) -> Response:
        if not self._own(call):
            return _error("Forbidden", "forbidden", 403)
        stores = [objects.store(call.account, location) for location in call.account.shop.locations]
        return _json({"paging": {"limit": 50, "total": len(stores)}, "results": stores})

    async def _items_search(self, call: Call) -> Response:
        if not self._own(call):
            return _error("Forbidden", "forbidden", 403)
        query = call.request.query_params
        scan = query.get("search_type") == "scan"
        page = call.page(50, 100)
        if page is None or (not scan and sum(page) > _OFFSET_MAX):
            return _error("Invalid limit and offset values", "bad_request", 400)
        offset, limit = page
        scrolled = query.get("scroll_id", "0")
        if scan:
            offset = int(scrolled) if scrolled.isdecimal() else 0
        products = call.account.shop.products.values()
        adverts = [objects.advert_of(product, advert) for product in products for advert in range(product.adverts)]
        told: dict[str, Any] = {"seller_id": str(objects.user_id(call.account))}
        told["results"] = adverts[offset : offset + limit]
        told["paging"] = {"limit": limit, "offset": offset, "total": len(adverts)}
        return _json(told | ({"scroll_id": str(offset + limit)} if scan else {}))

    async def _items_bulk(self, call: Call) -> Response:
        asked = [one for one in call.request.query_params.get("ids", "").split(",") if one]
        if not 0 < len(asked) <= 20:
            return _error("ids: name 1 to 20 items", "bad_request", 400)
        answers = []
        for advert in asked:
            found = objects.find_advert(call.account.shop, advert)
            if found is None:
                answers.append({"code": 404, "body": error("item not found", "not_found", 404)[1]})
            else:
                answers.append({"code": 200, "body": objects.item(call.account, *found)})
        return _json(answers)

    async def _item(self, call: Call) -> Response:
        found = objects.find_advert(call.account.shop, call.request.path_params["item"])
        return (
            _error("item not found", "not_found", 404) if found is None else _json(objects.item(call.account, *found))
        )

    # -- stock ---------------------------------------------------------------------------------------------------

    def _product(self, call: Call) -> Product | None:
        return objects.find_user_product(call.account.shop, call.request.path_params["id"])

    def _shown_stock(self, account: Account, product: Product, **more: Any) -> Response:
        return _json(objects.stock(account, product) | more, headers={"x-version": str(product.version)})

    async def _stock(self, call: Call) -> Response:
        product = self._product(call)
        if product is None:
            return _error("user product not found", "not_found", 404)
        return self._shown_stock(call.account, product)

    def _changes(self, call: Call) -> list[Change] | None:
        """The locations of a body as changes; None if it is not of that shape."""
        product, rows = self._product(call), call.body.get("locations")
        if not isinstance(rows, list) or not rows:
            return None
        changes = []
        for row in rows:
            row = row if isinstance(row, dict) else {}
            store, node, quantity = row.get("store_id"), row.get("network_node_id"), row.get("quantity")
            if not isinstance(store, str) or not isinstance(quantity, int) or isinstance(quantity, bool):
                return None
            # A store under another node's number is no store of this seller.
            location = store if node == objects.node_of(store) and store != MELI_FULL else f"{store}@{node}"
            changes.append(Change("" if product is None else product.sku, location, quantity))
        return changes

    def _refuse_stock(self, call: Call, why: str) -> None:
        changes = self._changes(call)
        if changes is not None:
            self._writer.refuse(call.account, Write("", changes, call.context), why)

    async def _stock_put(self, call: Call) -> Response:
        account, product, changes = call.account, self._product(call), self._changes(call)
        if product is None:
            return _error("user product not found", "not_found", 404)
        if call.request.path_params["kind"] != "seller_warehouse":
            self._refuse_stock(call, "invalid_location")
            return _error("the stock of this type is not managed by the seller", "bad_request", 400)
        if changes is None:
            return _error("store cannot be null or empty", "bad_request", 400)
        version = call.request.headers.get("x-version", "")
        if not version.isdecimal():
            self._refuse_stock(call, "unversioned")
            return _error("Missing X-Version header", "bad_request", 400)
        if account.temper.strikes("version_moves", now_ms()) is not None:
            product.version += 1
            account.shop.dirty.add(("product", product.sku))
        write = Write("PUT user-products", changes, call.context, stocked=False, version=int(version))
        outcome = self._writer.perform(account, write)
        match outcome.kind:
            case "timeout":
                await asyncio.sleep(TIMEOUT_HOLD_S)
                return _error("Gateway Timeout", "timeout", 504)
            case "unavailable":
                return _error("Service Unavailable", "internal_error", 503)
            case "throttled":
                return _error("too many requests: try again in a few seconds", "local_rate_limited", 429)
            case "refused":
                place, code = outcome.problems[0]
                status, message = _PROBLEM[code]
                more = f": {changes[place].location}" if code == "invalid_location" else ""
                return _error(message + more, "conflict" if status == 409 else "bad_request", status)
        return self._shown_stock(account, product, product_release_date=None)

    # -- orders --------------------------------------------------------------------------------------------------

    def _shown(self, account: Account, order: Order) -> dict[str, Any]:
        told = objects.order(account, order)
        if account.temper.strikes("unknown_status", now_ms()) is not None:
            told["status"] = "under_review"
        return told

    async def _order(self, call: Call) -> Response:
        order = call.account.shop.orders.get(call.request.path_params["order"])
        if order is None:
            return _error("Order do not exists", "order_not_found", 404)
        return _json(self._shown(call.account, order))

    async def _search(self, call: Call) -> Response:
        account, query, page = call.account, call.request.query_params, call.page(_PAGE_MAX, _PAGE_MAX)
        if query.get("seller") != str(objects.user_id(account)):
            return _error("Caller is not authorized to search these orders", "forbidden", 403)
        if page is None:
            return _error(f"limit is at most {_PAGE_MAX}, offset a whole number", "bad_request", 400)
        orders = list(account.shop.orders.values())
        for name, at_ms in (("created", "placed_ms"), ("last_updated", "updated_ms")):
            for end, sign in (("from", 1), ("to", -1)):
                text = query.get(f"order.date_{name}.{end}")
                border = None if text is None else objects.read_moment_ms(text)
                if text is not None and border is None:
                    return _error(f"order.date_{name}.{end} is not a date", "bad_request", 400)
                if border is not None:
                    orders = [one for one in orders if sign * (getattr(one, at_ms) - border) >= 0]
        status = query.get("order.status")
        if status is not None:
            orders = [one for one in orders if objects.order_status(one) == status]
        orders.sort(key=lambda one: (one.placed_ms, one.number), reverse=query.get("sort") == "date_desc")
        offset, limit = page
        shown = [self._shown(account, one) for one in orders[offset : offset + limit]]
        paging = {"total": len(orders), "offset": offset, "limit": limit}
        return _json({"query": "", "results": shown, "paging": paging, "display": "complete"})

    async def _missed_feeds(self, call: Call) -> Response:
        query, page = call.request.query_params, call.page(10, 1000)
        if query.get("app_id") != call.account.settings.credentials["client_id"] or page is None:
            return _error("app_id must be the application's, limit and offset numbers", "bad_request", 400)
        offset, limit = page
        messages = self._notifications.missed(call.account, query.get("topic"))
        return _json({"messages": messages[offset : offset + limit]})

    # -- what travels together, and what is reported of it -------------------------------------------------------

    def _together(self, account: Account, kind: str, key: str) -> list[Order]:
        """The orders of a shipment or pack; an order that is in no pack is one by itself."""
        found = account.kept.get((kind, key))
        ids = [key] if found is None and kind == "pack" else [] if found is None else found["orders"]
        return [account.shop.orders[one] for one in ids if one in account.shop.orders]

    def _shown_shipment(self, call: Call, orders: list[Order]) -> Response:
        new_format = call.request.headers.get("x-format-new") == "true"
        return _json(objects.shipment(call.account, orders, new_format=new_format))

    async def _shipment(self, call: Call) -> Response:
        orders = self._together(call.account, "shipment", call.request.path_params["shipment"])
        return self._shown_shipment(call, orders) if orders else _error("shipment not found", "not_found", 404)

    async def _sla(self, call: Call) -> Response:
        orders = self._together(call.account, "shipment", call.request.path_params["shipment"])
        told = objects.sla(call.account, orders, now_ms()) if orders else None
        return _json(told) if told else _error("failed to retrieve data", "not_found", 404)

    # -- claims ------------------------------------------------------------------------------------------------------

    async def _claims_search(self, call: Call) -> Response:
        page = call.page(30, 100)
        found = self._claims.search(call.account, dict(call.request.query_params))
        if page is None or isinstance(found, str):
            return _error(found if isinstance(found, str) else "offset and limit are numbers", "invalid_query", 400)
        offset, limit = page
        paging = {"total": len(found), "offset": offset, "limit": limit}
        return _json({"paging": paging, "data": found[offset : offset + limit]})

    async def _claim(self, call: Call) -> Response:
        claim = self._claims.of(call.account, call.request.path_params["claim"])
        if claim is None:
            return _error("claim not found", "not_found_error", 404)
        return _json(self._claims.shown(call.account, claim))

    async def _return(self, call: Call) -> Response:
        claim = self._claims.of(call.account, call.request.path_params["claim"])
        if claim is None:
            return _error("return not found", "not_found_error", 404)
        return _json(self._claims.shown_return(call.account, claim))

    # -- what is reported --------------------------------------------------------------------------------------------

    def _book_refused(self, call: Call, orders: list[Order], step: str, why: str) -> None:
        facts: list[Fact] = [
            ("told_refused", {"order_id": one.order_id, "step": step, "why": why} | call.context.fields)
            for one in orders
        ]
        self._market.commit(call.account, facts, now_ms())

    async def _shipment_put(self, call: Call) -> Response:
        account, body = call.account, call.body
        orders = self._together(account, "shipment", call.request.path_params["shipment"])
        going = [one for one in orders if one.status != "canceled"]
        if not going:
            return _error("shipment not found", "not_found", 404)
        number, wanted = body.get("tracking_number"), body.get("status")
        if wanted is not None and wanted not in _STATUS_AFTER:
            return _error(f"status {wanted!r} cannot be set by a seller", "bad_request", 400)
        if wanted is None and not isinstance(number, str):
            return _error("name a tracking_number or a status", "bad_request", 400)
        status, after, step = _STATUS_AFTER.get(wanted or "", ("", (), "tracking"))
        if account.settings.invoice_first and wanted == "shipped" and not all(one.invoice for one in going):
            self._book_refused(call, going, step, "no_invoice")
            return _error("the fiscal document comes before the shipment", "invoice_pending", 400)
        if status and any(one.status not in (*after, status) for one in going):
            self._book_refused(call, going, step, "transition")
            return _error(f"the shipment cannot become {wanted} now", "invalid_transition", 400)
        at_ms = now_ms()
        for order in going:
            if status and order.status != status:
                account.shop.progress(order, status, after=after, now_ms=at_ms)
            if isinstance(number, str):
                order.shipment = {"tracking_number": number, "tracking_method": body.get("tracking_method")}
            account.shop.touch(order, at_ms)
            reference = (order.shipment or {}).get("tracking_number")
            told = {"order_id": order.order_id, "step": step, "reference": reference} | call.context.fields
            self._market.commit_order(account, order, [("told", told)], at_ms)
        return self._shown_shipment(call, orders)

    async def _pack(self, call: Call) -> Response:
        orders = self._together(call.account, "pack", call.request.path_params["pack"])
        if not orders:
            return _error("pack not found", "not_found", 404)
        shipment = {"id": objects.shipment_id(call.account, orders[0])}
        told = {"id": int(call.request.path_params["pack"]), "orders": [{"id": int(one.order_id)} for one in orders]}
        return _json(told | {"status": "released", "shipment": shipment})

    async def _fiscal_documents(self, call: Call) -> Response:
        orders = self._together(call.account, "pack", call.request.path_params["pack"])
        found = [one.invoice for one in orders if one.invoice is not None][:1]
        if not found:
            return _error("fiscal documents not found", "not_found", 404)
        told = [{"id": one["id"], "filename": one["filename"], "date": one["date"]} for one in found]
        return _json({"pack_id": int(call.request.path_params["pack"]), "fiscal_documents": told})

    async def _fiscal_documents_post(self, call: Call) -> Response:
        account, pack = call.account, call.request.path_params["pack"]
        orders = [one for one in self._together(account, "pack", pack) if one.status != "canceled"]
        if not orders:
            return _error("pack not found", "not_found", 404)
        filename, content = _document_in(call)
        key = _NFE_KEY.search(content)
        if not content or len(content) > _DOCUMENT_MAX or (key is None and not content.startswith(b"%PDF")):
            self._book_refused(call, orders, "invoice", "document")
            return _error("fiscal_document: an NF-e XML or a PDF of at most 1 MB", "bad_request", 400)
        if any(one.invoice is not None for one in orders):
            self._book_refused(call, orders, "invoice", "twice")
            return _error("the pack has a fiscal document already", "conflict", 409)
        if any(one.status != "approved" for one in orders):
            self._book_refused(call, orders, "invoice", "transition")
            return _error("the pack is not paid or has been shipped", "bad_request", 400)
        number = None if key is None else (key.group(1) or key.group(2)).decode()
        at_ms = now_ms()
        document_id = str(stable_id(account.name, pack, "fiscal document"))
        for order in orders:
            account.shop.progress(order, "invoiced", after=("approved",), now_ms=at_ms)
            date = objects.moment(at_ms)
            order.invoice = {"id": document_id, "filename": filename, "date": date, "key": number}
            told = {"order_id": order.order_id, "step": "invoice", "reference": number} | call.context.fields
            self._market.commit_order(account, order, [("told", told)], at_ms)
        return _json({"ids": [document_id]}, 201)


def _document_in(call: Call) -> tuple[str, bytes]:
    """Name and content of the part `fiscal_document` of a multipart body; empty where there is none."""
    head = f"Content-Type: {call.request.headers.get('content-type', '')}\r\n\r\n".encode("latin-1", "replace")
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + call.raw)
    for part in message.iter_parts() if message.is_multipart() else ():
        content = part.get_payload(decode=True)
        if part.get_param("name", header="content-disposition") == "fiscal_document" and isinstance(content, bytes):
            return part.get_filename() or "document", content
    return "", b""

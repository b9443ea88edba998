"""The VTEX API over HTTP: feed, hook, orders, inventory, and what is reported of an order.

An account is found by `X-VTEX-API-AppKey`, and `X-VTEX-API-AppToken` must fit. VTEX counts the units of open orders
itself (`reservedQuantity`): what is written is the total, what can be bought is the total less what is reserved. It
never takes units out by itself: an order in handling stays reserved until a total comes that is dated after that
(`dateUtcOnBalanceSystem`, else the request), and neither invoice nor parcel changes a number. A second write to one
SKU and warehouse within a moment is discarded with 423. Limits answer 429 without a Retry-After.
"""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.sandbox import deliveries
from services.sandbox import vtex_objects as objects
from services.sandbox.books import Books, Fact, now_ms
from services.sandbox.market import Account, Market, request_id
from services.sandbox.settings import SandboxSettings
from services.sandbox.shop import Change, Order, Product, Refusal, WriteContext
from services.sandbox.vtex_events import RETENTION_S, Events, problem_in_filter
from services.sandbox.wiring import marketplace
from services.sandbox.writes import TIMEOUT_HOLD_S, Write, Writer

_LOT_MAX = 10
_ORDER = "/api/oms/pvt/orders/{order}"
_SKU = "/api/logistics/pvt/inventory/skus/{sku}"
_CATALOG = "/api/catalog_system/pvt/sku"
_NO_TIME = "00:00:00"


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has passed the door: whose it is, the request and its JSON body ({} without one)."""

    account: Account
    request: Request
    body: dict[str, Any]

    @property
    def ids(self) -> dict[str, Any]:
        return {
            "request_id": self.request.state.request_id,
            "client_request_id": self.request.headers.get("x-request-id"),
        }


Handler = Callable[["VtexFace", Call], Awaitable[Response]]


def build(settings: SandboxSettings, base_url: str) -> Starlette:
    """Wire the VTEX sandbox."""
    market = Market("vtex", Books(settings.books))
    writer = Writer(market)
    events = Events(market)
    return marketplace(market, writer, VtexFace(market, writer, events).routes(), settings, base_url, events.deliveries)


def _json(body: Any, status: int = 200) -> Response:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status, media_type="application/json")


def _error(message: str, status: int, code: str = "1") -> Response:
    return _json({"error": {"code": code, "message": message, "exception": None}}, status)


class VtexFace:
    """The routes of the VTEX sandbox."""

    def __init__(self, market: Market, writer: Writer, events: Events) -> None:
        self._market = market
        self._writer = writer
        self._events = events
        self._written_ms: dict[tuple[str, str, str], int] = {}

    def routes(self) -> list[Route]:
        face = VtexFace
        table: list[tuple[str, str, str, Handler]] = [
            ("GET", "/api/orders/feed", "feed", face._feed),
            ("POST", "/api/orders/feed", "feed", face._feed_commit),
            ("GET", "/api/orders/feed/config", "other", face._feed_config),
            ("POST", "/api/orders/feed/config", "other", face._feed_config_put),
            ("DELETE", "/api/orders/feed/config", "other", face._feed_config_delete),
            ("GET", "/api/orders/hook/config", "other", face._hook_config),
            ("POST", "/api/orders/hook/config", "other", face._hook_config_put),
            ("DELETE", "/api/orders/hook/config", "other", face._hook_config_delete),
            ("GET", _ORDER, "orders", face._order),
            ("POST", f"{_ORDER}/start-handling", "reports", face._start_handling),
            ("POST", f"{_ORDER}/invoice", "reports", face._invoice),
            ("PATCH", f"{_ORDER}/invoice/{{invoice}}", "reports", face._invoice_patch),
            ("PUT", f"{_ORDER}/invoice/{{invoice}}/tracking", "reports", face._tracking),
            ("POST", f"{_ORDER}/cancel", "reports", face._cancel),
            ("GET", _SKU, "stock", face._inventory),
            ("PUT", f"{_SKU}/warehouses/{{warehouse}}", "stock", face._inventory_put),
            ("PATCH", f"{_SKU}/warehouses/{{warehouse}}/quantity", "stock", face._inventory_patch),
            ("GET", "/api/logistics/pvt/inventory/items/{sku}/warehouses/{warehouse}", "stock", face._at_warehouse),
            ("GET", "/api/logistics/pvt/configuration/warehouses", "other", face._warehouses),
            ("GET", f"{_CATALOG}/stockkeepingunitids", "other", face._sku_ids),
            ("GET", f"{_CATALOG}/stockkeepingunitbyid/{{sku}}", "other", face._sku),
        ]
        return [Route(path, self._answered(handler, limit), methods=[way]) for way, path, limit, handler in table]

    # -- around every request ------------------------------------------------------------------------------------

    def _answered(self, handler: Handler, limit: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            account = self._market.by_key.get(request.headers.get("x-vtex-api-appkey", ""))
            token = request.headers.get("x-vtex-api-apptoken", "").encode()
            if account is None or not hmac.compare_digest(account.settings.credentials["app_token"].encode(), token):
                return _error("Unauthorized access", 401)
            request.state.request_id = request_id()
            slow_ms = account.temper.strikes("slow", now_ms())
            if slow_ms:
                await asyncio.sleep(slow_ms / 1000)
            raw = await request.body()
            try:
                body = json.loads(raw or b"{}")
            except (ValueError, RecursionError):
                body = None
            if not isinstance(body, dict):
                response = _error("the body is not a JSON object", 400)
            elif account.fits(f"vtex_{limit}", time.monotonic()):
                response = await handler(self, Call(account, request, body))
            else:
                if request.method != "GET" and limit == "stock":
                    self._refuse_stock(Call(account, request, body), "throttled")
                response = _error("Too Many Requests", 429)
            # No answer leaves before what it tells is durable.
            await self._market.books.settled()
            response.headers["X-Request-Id"] = request.state.request_id
            return response

        return answer

    # -- feed and hook -------------------------------------------------------------------------------------------

    async def _feed(self, call: Call) -> Response:
        most = call.request.query_params.get("maxlot", "")
        config = self._events.config(call.account, "feed")
        if config is None:
            return _error("this appKey has no feed configured", 404)
        if not most.isdecimal() or not 1 <= int(most) <= _LOT_MAX:
            return _error(f"maxlot must be 1 to {_LOT_MAX}", 400)
        return _json(self._events.take(call.account, config, int(most), now_ms()))

    async def _feed_commit(self, call: Call) -> Response:
        handles = call.body.get("handles")
        if not isinstance(handles, list) or not all(isinstance(one, str) for one in handles):
            return _error("handles must be a list of handles", 400)
        self._events.commit(call.account, handles, now_ms())
        return Response(status_code=200)

    async def _feed_config(self, call: Call) -> Response:
        config = self._events.config(call.account, "feed")
        if config is None:
            return _error("Value not found", 404)
        entries = call.account.of_kind("feed").values()
        oldest_ms = min((entry["created_ms"] for entry in entries), default=now_ms())
        told = {"filter": config["filter"], "queue": config["queue"], "quantity": len(entries)}
        return _json(told | {"approximateAgeOfOldestMessageInSeconds": (now_ms() - oldest_ms) / 1000})

    async def _feed_config_put(self, call: Call) -> Response:
        problem = problem_in_filter(call.body.get("filter"))
        if problem is not None:
            return _error(problem[1], problem[0])
        given = call.body.get("queue")
        queue = {str(name).lower(): value for name, value in given.items()} if isinstance(given, dict) else {}
        visibility, retention = queue.get("visibilitytimeoutinseconds"), queue.get("messageretentionperiodinseconds")
        least, most = RETENTION_S
        if not isinstance(visibility, int) or not isinstance(retention, int) or visibility <= 0:
            return _error("queue needs visibilityTimeoutInSeconds and MessageRetentionPeriodInSeconds", 400)
        if not least <= retention <= most:
            return _error(f"MessageRetentionPeriodInSeconds must be {least} to {most}", 400)
        kept = {"visibilityTimeoutInSeconds": visibility, "MessageRetentionPeriodInSeconds": retention}
        self._events.configure(call.account, "feed", {"filter": call.body["filter"], "queue": kept})
        return Response(status_code=200)

    async def _feed_config_delete(self, call: Call) -> Response:
        self._events.remove(call.account, "feed", "asked")
        return Response(status_code=200)

    async def _hook_config(self, call: Call) -> Response:
        config = self._events.config(call.account, "hook")
        if config is None:
            return _error("Value not found", 404)
        return _json({"filter": config["filter"], "hook": config["hook"]})

    async def _hook_config_put(self, call: Call) -> Response:
        problem = problem_in_filter(call.body.get("filter"))
        if problem is not None:
            return _error(problem[1], problem[0])
        hook = call.body.get("hook")
        url, headers = (hook.get("url"), hook.get("headers", {})) if isinstance(hook, dict) else (None, {})
        if not isinstance(url, str) or not isinstance(headers, dict):
            return _error("hook needs a url, and its headers are an object", 400)
        sent = {"Content-Type": "application/json"} | {str(name): str(value) for name, value in headers.items()}
        ping = json.dumps({"hookConfig": "ping"}).encode()
        tried = deliveries.Call(url, sent, ping)
        status = await self._events.deliveries.call(tried, call.account.settings.webhook_timeout_s)
        if status != 200:
            return _error(f"the hook's ping was answered with {status}", 400)
        kept = {"url": url, "headers": {str(name): str(value) for name, value in headers.items()}}
        self._events.configure(call.account, "hook", {"filter": call.body["filter"], "hook": kept})
        # The answer has the shape of an event, as the published description wants it, and no event is in it.
        empty = dict.fromkeys(("Domain", "OrderId", "State", "LastState", "LastChange", "CurrentChange"), "")
        return _json(empty | {"Origin": {"Account": call.account.name, "Key": ""}})

    async def _hook_config_delete(self, call: Call) -> Response:
        if self._events.config(call.account, "hook") is None:
            return _error("Value not found", 404)
        self._events.remove(call.account, "hook", "asked")
        return Response(status_code=200)

    # -- orders --------------------------------------------------------------------------------------------------

    def _found(self, call: Call) -> Order | None:
        return call.account.shop.orders.get(call.request.path_params["order"])

    async def _order(self, call: Call) -> Response:
        order = self._found(call)
        if order is None:
            return _error("Order not found", 404)
        told = objects.order(call.account, order)
        if call.account.temper.strikes("unknown_status", now_ms()) is not None:
            told["status"] = "null"
        return _json(told)

    def _receipt(self, order: Order) -> Response:
        return _json({"date": objects.moment(now_ms()), "orderId": order.order_id, "receipt": uuid.uuid4().hex})

    def _told(self, call: Call, order: Order, step: str, reference: str | None, more: list[Fact] | None = None) -> None:
        told: Fact = ("told", {"order_id": order.order_id, "step": step, "reference": reference} | call.ids)
        self._market.commit_order(call.account, order, [*(more or []), told], now_ms())

    def _refuse(self, call: Call, order: Order, step: str, why: str, message: str, status: int = 409) -> Response:
        fact: Fact = ("told_refused", {"order_id": order.order_id, "step": step, "why": why} | call.ids)
        self._market.commit(call.account, [fact], now_ms())
        return _error(message, status, "OMS003")

    async def _start_handling(self, call: Call) -> Response:
        order = self._found(call)
        if order is None:
            return _error("Order not found", 404)
        if call.account.shop.progress(order, "handling", after=("approved",), now_ms=now_ms()) is not None:
            message = "Order status should be ready-for-handling to perform this action"
            return self._refuse(call, order, "handling", "transition", message)
        order.handled_ms = now_ms()
        self._told(call, order, "handling", None)
        return Response(status_code=204)

    async def _invoice(self, call: Call) -> Response:
        order, body = self._found(call), call.body
        if order is None:
            return _error("Order not found", 404)
        package = _package(call.account, order, body)
        if isinstance(package, str):
            return self._refuse(call, order, "invoice", "document", package, 400)
        if order.status not in ("approved", "handling", "invoiced"):
            return self._refuse(call, order, "invoice", "transition", "the order cannot be invoiced in this status")
        kept = [one for one in objects.packages(order) if one["invoiceNumber"] != package["invoiceNumber"]]
        order.invoice = {"packages": [*kept, package]}
        invoiced = sum(one["invoiceValue"] for one in objects.packages(order) if one["type"] == "Output")
        if invoiced >= order.total_minor and order.status != "invoiced":
            call.account.shop.progress(order, "invoiced", after=("approved", "handling"), now_ms=now_ms())
        else:
            call.account.shop.touch(order, now_ms())
        self._told(call, order, "invoice" if package["type"] == "Output" else "return", package["invoiceKey"])
        return self._receipt(order)

    def _package_of(self, call: Call, order: Order | None) -> dict[str, Any] | None:
        number = call.request.path_params["invoice"]
        found = [] if order is None else [one for one in objects.packages(order) if one["invoiceNumber"] == number]
        return found[0] if found else None

    async def _invoice_patch(self, call: Call) -> Response:
        order, body = self._found(call), call.body
        package = self._package_of(call, order)
        if order is None or package is None:
            return _error("Invoice not found", 404)
        number = body.get("trackingNumber")
        if not isinstance(number, str) or not number:
            return self._refuse(call, order, "shipment", "document", "trackingNumber is missing", 400)
        package |= {name: body[name] for name in ("trackingNumber", "trackingUrl", "courier") if name in body}
        call.account.shop.touch(order, now_ms())
        self._told(call, order, "shipment", number)
        return self._receipt(order)

    async def _tracking(self, call: Call) -> Response:
        order, body = self._found(call), call.body
        package = self._package_of(call, order)
        if order is None or package is None:
            return _error("Invoice not found", 404)
        events, delivered = body.get("events", []), body.get("isDelivered", False)
        if not isinstance(events, list) or not isinstance(delivered, bool):
            return self._refuse(call, order, "tracking", "document", "events is a list, isDelivered true or false", 400)
        at = objects.moment(now_ms())
        known = (package["courierStatus"] or {}).get("data", [])
        rows = [
            {name: str(event.get(name) or "") for name in ("city", "state", "description")}
            | {"lastChange": at, "createDate": str(event.get("date") or at)}
            for event in events
            if isinstance(event, dict)
        ]
        status: dict[str, Any] = {"status": "delivered" if delivered else "ok", "finished": delivered}
        status |= {"data": [*known, *(row for row in rows if row["description"])]}
        if delivered:
            status["deliveredDate"] = str(body.get("deliveredDate") or at)
        package["courierStatus"] = status
        call.account.shop.touch(order, now_ms())
        self._told(call, order, "delivery" if delivered else "tracking", package["trackingNumber"])
        return self._receipt(order)

    async def _cancel(self, call: Call) -> Response:
        order = self._found(call)
        if order is None:
            return _error("Order not found", 404)
        if order.status not in objects.STATUS or objects.packages(order):
            return self._refuse(call, order, "cancel", "transition", "an invoiced order cannot be cancelled")
        order.shipment = {"cancel_reason": str(call.body.get("reason", ""))}
        restock = call.account.settings.restores_on_cancel
        done = call.account.shop.cancel(order, restock=restock, by="client", now_ms=now_ms())
        if isinstance(done, Refusal):
            return self._refuse(call, order, "cancel", "transition", done.message)
        self._told(call, order, "cancel", None, done)
        return self._receipt(order)

    # -- inventory and catalogue ---------------------------------------------------------------------------------

    def _product(self, call: Call) -> Product | None:
        return objects.find_sku(call.account.shop, call.request.path_params["sku"])

    async def _inventory(self, call: Call) -> Response:
        product = self._product(call)
        if product is None:
            return _error("SKU not found", 404)
        leads = call.account.kept.get(("lead", product.sku), {})
        rows = [objects.balance(product, place, leads.get(place, _NO_TIME)) for place in product.numbers]
        return _json({"skuId": objects.sku_id(product), "balance": rows})

    async def _at_warehouse(self, call: Call) -> Response:
        product, place = self._product(call), call.request.path_params["warehouse"]
        if product is None or place not in product.numbers:
            return _error("SKU or warehouse not found", 404)
        return _json([objects.at_warehouse(product, place)])

    async def _warehouses(self, call: Call) -> Response:
        return _json(
            [
                {
                    "id": place,
                    "name": f"Estoque {place}",
                    "warehouseDocks": [{"dockId": "1", "time": _NO_TIME, "cost": 0}],
                    "pickupPointIds": [],
                    "priority": 0,
                    "isActive": True,
                }
                for place in call.account.shop.locations
            ]
        )

    async def _inventory_put(self, call: Call) -> Response:
        # What is left out, or null, is set to zero: this call replaces the whole object.
        zero = {"quantity": 0, "leadTime": _NO_TIME, "unlimitedQuantity": False}
        full = call.body | {name: call.body.get(name) or value for name, value in zero.items()}
        refused = await self._write(Call(call.account, call.request, full))
        product = self._product(call)
        if refused is not None or product is None:
            return refused or _error("SKU not found", 404)
        leads = call.account.kept.get(("lead", product.sku), {})
        call.account.keep("lead", product.sku, leads | {call.request.path_params["warehouse"]: str(full["leadTime"])})
        self._market.commit(call.account, (), now_ms())
        return _json(True)

    async def _inventory_patch(self, call: Call) -> Response:
        return await self._write(call) or Response(status_code=204)

    def _wanted(self, call: Call) -> Write | str:
        """The write that a body asks for, or what is wrong with it."""
        product, body = self._product(call), call.body
        quantity, unlimited = body.get("quantity"), body.get("unlimitedQuantity")
        if not isinstance(quantity, int) or isinstance(quantity, bool) or not isinstance(unlimited, bool):
            return "quantity must be a whole number, unlimitedQuantity true or false"
        as_of = body.get("dateUtcOnBalanceSystem") or None
        if unlimited:
            return "this sandbox sells what is counted: unlimitedQuantity must be false"
        if as_of is not None and objects.read_ms(as_of) is None:
            return "dateUtcOnBalanceSystem is not a date"
        context = WriteContext(**call.ids, reference=as_of, as_of_ms=objects.read_ms(as_of) if as_of else now_ms())
        change = Change("" if product is None else product.sku, call.request.path_params["warehouse"], quantity)
        return Write(f"{call.request.method} inventory", [change], context, stocked=False)

    def _refuse_stock(self, call: Call, why: str) -> None:
        write = self._wanted(call)
        if isinstance(write, Write):
            self._writer.refuse(call.account, write, why)

    async def _write(self, call: Call) -> Response | None:
        """Write a total; None when it is done."""
        account, write = call.account, self._wanted(call)
        if isinstance(write, str):
            return _error(write, 400)
        change = write.changes[0]
        place = (account.name, change.sku, change.location)
        if now_ms() - self._written_ms.get(place, 0) < account.settings.inventory_lock_s * 1000:
            self._writer.refuse(account, write, "locked")
            key = f"{account.name}_item_logistics_{call.request.path_params['sku']}_{change.location}"
            return PlainTextResponse(f"Unable to acquire lock for key: {key}.", 423)
        outcome = self._writer.perform(account, write)
        if outcome.kind in ("done", "timeout"):
            self._written_ms[place] = now_ms()
        match outcome.kind:
            case "timeout":
                await asyncio.sleep(TIMEOUT_HOLD_S)
                return _error("Gateway Timeout", 504)
            case "unavailable":
                return _error("Service Unavailable", 503)
            case "throttled":
                return _error("Too Many Requests", 429)
            case "refused":
                code = outcome.problems[0][1]
                missing = code in ("invalid_item", "invalid_location")
                return _error("SKU or warehouse not found" if missing else f"quantity: {code}", 404 if missing else 400)
        return None

    async def _sku_ids(self, call: Call) -> Response:
        query = call.request.query_params
        page, size = query.get("page", "1"), query.get("pagesize", "50")
        if not page.isdecimal() or not size.isdecimal() or int(page) < 1 or not 1 <= int(size) <= 1000:
            return _error("page starts at 1, pagesize is 1 to 1000", 400)
        ids = [product.variant_id for product in call.account.shop.products.values()]
        start = (int(page) - 1) * int(size)
        return _json(ids[start : start + int(size)])

    async def _sku(self, call: Call) -> Response:
        product = self._product(call)
        if product is None:
            return _error("SKU not found", 404)
        told = {"Id": product.variant_id, "ProductId": product.product_id, "SkuName": product.title, "IsActive": True}
        return _json(told | {"NameComplete": product.title, "AlternateIds": {"RefId": product.sku}})


def _package(account: Account, order: Order, body: dict[str, Any]) -> dict[str, Any] | str:
    """The package that an invoice makes, or what is wrong with the invoice."""
    number, value, items = body.get("invoiceNumber"), str(body.get("invoiceValue", "")), body.get("items")
    if body.get("type") not in ("Output", "Input"):
        return "type must be Output or Input"
    if not isinstance(number, str) or not number or not value.isdecimal() or int(value) <= 0:
        return "invoiceNumber and invoiceValue (cents, over 0) are needed"
    if objects.read_ms(body.get("issuanceDate")) is None:
        return "issuanceDate is not a date"
    places = {objects.sku_id(account.shop.products[line.sku]): place for place, line in enumerate(order.lines)}
    rows = []
    for item in items if isinstance(items, list) else ():
        item = item if isinstance(item, dict) else {}
        quantity, price = item.get("quantity"), item.get("price")
        if item.get("id") not in places or not isinstance(quantity, int) or not isinstance(price, int):
            return "each item needs the id of an item of the order, price (cents) and quantity"
        row = {"itemIndex": places[item["id"]], "quantity": quantity, "price": price, "unitMultiplier": 1.0}
        rows.append(row | {"description": item.get("description")})
    texts = {name: body.get(name) for name in ("courier", "invoiceUrl", "invoiceKey", "trackingNumber", "trackingUrl")}
    return {
        **texts,
        "items": rows,
        "invoiceNumber": number,
        "invoiceValue": int(value),
        "issuanceDate": str(body["issuanceDate"]),
        "embeddedInvoice": str(body.get("embeddedInvoice") or ""),
        "type": body["type"],
        "courierStatus": None,
    }

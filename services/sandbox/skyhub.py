"""The SkyHub (B2W, Americanas Marketplace) API over HTTP: order queue, orders, products, stores.

A shop is found by `x-user-email` and `x-api-key`; `x-accountmanager-key` must fit too. Limits count in windows of one
second per shop, endpoint class and method. The order queue hands out one order at a time and shows it again after five
minutes unless it is deleted; its body always has the latest status. `PUT /products` and `PUT /variations` write the
primary location, `/stores/{store}` the named one.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox.books import Books, Fact, now_ms
from services.sandbox.buyers import buyer
from services.sandbox.market import Account, Market, request_id
from services.sandbox.settings import SandboxSettings
from services.sandbox.shop import Change, Order, Product, Refusal, WriteContext
from services.sandbox.wiring import marketplace
from services.sandbox.writes import TIMEOUT_HOLD_S, Write, Writer

_BODY_MAX = 5_000_000
_ZONE = timezone(timedelta(hours=-3))
_STATUS = {
    "new": ("book_product", "Pagamento Pendente (SkyHub)", "NEW"),
    "approved": ("payment_received", "Aprovado (SkyHub)", "APPROVED"),
    "invoiced": ("order_invoiced", "Nota Fiscal Emitida (SkyHub)", "INVOICED"),
    "shipped": ("order_shipped", "Pedido Enviado (SkyHub)", "SHIPPED"),
    "delivered": ("complete", "Completo (entregue) (SkyHub)", "DELIVERED"),
    "shipment_exception": ("shipment_exception", "Exceção de Entrega (SkyHub)", "SHIPMENT_EXCEPTION"),
    "canceled": ("order_canceled", "Cancelado (SkyHub)", "CANCELED"),
}
_STEPS = {"invoiced": "invoice", "shipped": "shipment", "delivered": "delivery", "shipment_exception": "tracking"}
_PROBLEM = {
    "invalid_item": (404, "Produto não encontrado"),
    "invalid_location": (404, "Loja não encontrada"),
    "negative": (422, "qty não pode ser negativo"),
    "too_high": (422, "qty acima do limite"),
    "duplicate": (422, "sku repetido no lote"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has passed the door: whose it is, the request and its JSON body ({} without one)."""

    account: Account
    request: Request
    body: dict[str, Any]


Handler = Callable[["SkyhubFace", Call], Awaitable[Response]]


def build(settings: SandboxSettings, base_url: str) -> Starlette:
    """Wire the SkyHub sandbox."""
    market = Market("skyhub", Books(settings.books))
    writer = Writer(market)
    return marketplace(market, writer, SkyhubFace(market, writer).routes(), settings, base_url)


def _json(body: Any, status: int = 200) -> Response:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status, media_type="application/json")


def _error(message: str, status: int) -> Response:
    return _json({"error": message}, status)


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, _ZONE).isoformat(timespec="seconds")


def order_object(account: Account, order: Order) -> dict[str, Any]:
    """The order as the queue and `GET /orders` show it."""
    person = buyer(order.buyer)
    code, label, kind = _STATUS[order.status]
    address = {
        "full_name": person.name,
        "street": person.street,
        "number": person.street_number,
        "detail": "",
        "reference": "",
        "neighborhood": person.neighborhood,
        "city": person.city,
        "region": person.region,
        "country": "BR",
        "postcode": person.postcode.replace("-", ""),
        "phone": person.phone,
    }
    return {
        "code": order.order_id,
        "channel": account.settings.channel,
        "placed_at": _moment(order.placed_ms),
        "updated_at": _moment(order.updated_ms),
        "total_ordered": order.total_minor / 100,
        "interest": 0.0,
        "discount": 0.0,
        "shipping_cost": 0.0,
        "shipping_method": "Correios SEDEX",
        "shipping_carrier": None,
        "calculation_type": "marketplacecalculation",
        "estimated_delivery": _moment(order.placed_ms + 10 * 86_400_000),
        "expedition_limit_date": _moment(order.placed_ms + int(account.settings.dispatch_h * 3_600_000)),
        "approved_date": None if order.paid_ms is None else _moment(order.paid_ms),
        "shipping_address": address,
        "billing_address": address,
        "customer": {
            "name": person.name,
            "email": person.email,
            "date_of_birth": "1990-01-01",
            "gender": "other",
            "vat_number": person.document,
            "phones": [person.phone],
        },
        "items": [
            {
                "id": line.sku,
                "product_id": line.sku,
                "name": line.title,
                "qty": line.quantity,
                "original_price": line.price_minor / 100,
                "special_price": line.price_minor / 100,
                "shipping_cost": 0.0,
            }
            for line in order.lines
        ],
        "payments": [] if order.paid_ms is None else [{"method": "CREDIT_CARD", "value": order.total_minor / 100}],
        "status": {"code": code, "label": label, "type": kind},
        "sync_status": "SYNCED" if order.synced else "NOT_SYNCED",
        "available_to_sync": True,
        "invoices": [] if order.invoice is None else [order.invoice],
        "shipments": [] if order.shipment is None else [order.shipment],
        "tags": [],
    }


def product_object(account: Account, product: Product) -> dict[str, Any]:
    return {
        "sku": product.sku,
        "name": product.title,
        "description": product.title,
        "status": "enabled",
        "qty": product.numbers.get(account.shop.locations[0], 0),
        "price": product.price_minor / 100,
        "promotional_price": product.price_minor / 100,
        "cost": 0.0,
        "weight": 0.0,
        "height": 0.0,
        "width": 0.0,
        "length": 0.0,
        "brand": "",
        "ean": "",
        "nbm": "",
        "images": [],
        "specifications": [],
        "variations": [],
        "variation_attributes": [],
    }


class SkyhubFace:
    """The routes of the SkyHub sandbox."""

    def __init__(self, market: Market, writer: Writer) -> None:
        self._market = market
        self._writer = writer

    def routes(self) -> list[Route]:
        face = SkyhubFace
        # (method, path, limit class: endpoints that share one share its window, handler)
        table: list[tuple[str, str, str, Handler]] = [
            ("GET", "/queues/orders", "queues", face._queue_take),
            ("DELETE", "/queues/orders/{code}", "queues", face._queue_delete),
            ("POST", "/stores/{store}/batch", "store_writes", face._store_batch),
            ("PUT", "/stores/{store}/skus/{sku:path}", "store_writes", face._store_sku),
            ("GET", "/stores/{store}/skus/{sku:path}", "other:store", face._store_read),
            ("PUT", "/products/{sku:path}", "products", face._product_put),
            ("GET", "/products", "products", face._products),
            ("GET", "/products/{sku:path}", "products", face._product),
            ("PUT", "/variations/{sku:path}", "variations", face._variation_put),
            ("GET", "/orders", "order_reads:list", face._orders),
            ("GET", "/orders/{code}", "order_reads:one", face._order),
            ("POST", "/orders/{code}/invoice", "order_writes:invoice", face._invoice),
            ("POST", "/orders/{code}/shipments", "order_writes:shipments", face._shipments),
            ("POST", "/orders/{code}/delivery", "order_writes:delivery", face._delivery),
            ("POST", "/orders/{code}/cancel", "order_writes:cancel", face._cancel),
            ("POST", "/orders/{code}/shipment_exception", "order_writes:exception", face._shipment_exception),
            ("GET", "/statuses", "other:statuses", face._statuses),
        ]
        return [Route(path, self._answered(handler, limit), methods=[method]) for method, path, limit, handler in table]

    # -- around every request ------------------------------------------------------------------------------------

    def _answered(self, handler: Handler, limit: str) -> Callable[[Request], Awaitable[Response]]:
        setting = f"skyhub_{limit.partition(':')[0]}_per_s"

        async def answer(request: Request) -> Response:
            account = self._account(request)
            if isinstance(account, Response):
                return account
            request.state.request_id = request_id()
            slow_ms = account.temper.strikes("slow", now_ms())
            if slow_ms:
                await asyncio.sleep(slow_ms / 1000)
            raw = await request.body()
            body = self._body(request, raw)
            fits = account.windows.take(
                f"{limit} {request.method}", getattr(account.settings.limits, setting), time.time()
            )
            if not fits:
                self._book_throttled(account, request, body)
                response = _error("Limite de requisições excedido, aguarde a próxima janela", 429)
            elif isinstance(body, Response):
                response = body
            else:
                response = await handler(self, Call(account, request, body))
            # No answer leaves before what it tells is durable.
            await self._market.books.settled()
            response.headers["X-Request-Id"] = request.state.request_id
            return response

        return answer

    def _account(self, request: Request) -> Account | Response:
        headers = request.headers
        key = f"{headers.get('x-user-email', '')}\x1f{headers.get('x-api-key', '')}"
        account = self._market.by_key.get(key)
        if account is None:
            return _error("Dados de autenticação incorretos: confira x-user-email e x-api-key", 401)
        if headers.get("x-accountmanager-key") != account.settings.credentials["accountmanager_key"]:
            return _error("x-accountmanager-key inválido", 403)
        return account

    def _body(self, request: Request, raw: bytes) -> Any:
        if request.method not in ("PUT", "POST"):
            return {}
        if not request.headers.get("content-type", "").startswith("application/json"):
            return _error("Formato não suportado: use application/json em UTF-8", 415)
        if len(raw) > _BODY_MAX:
            return _error("Corpo grande demais", 413)
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        return body if isinstance(body, dict) else _error("Requisição malformada: confira o JSON enviado", 400)

    def _context(self, request: Request) -> WriteContext:
        return WriteContext(request.state.request_id, request.headers.get("x-request-id"))

    # -- the queue -----------------------------------------------------------------------------------------------

    async def _queue_take(self, call: Call) -> Response:
        at_ms = now_ms()
        again_ms = call.account.temper.strikes("queue_redelivery", at_ms)
        hidden_ms = call.account.settings.queue_redelivery_ms if again_ms is None else again_ms
        taken = call.account.shop.next_queued(hidden_ms, at_ms)
        if taken is None:
            return Response(status_code=204)
        order, facts = taken
        self._market.commit(call.account, facts, at_ms)
        return _json(order_object(call.account, order))

    async def _queue_delete(self, call: Call) -> Response:
        done = call.account.shop.acknowledge(call.request.path_params["code"])
        if isinstance(done, Refusal):
            return _error("Pedido não encontrado na fila", 404)
        self._market.commit(call.account, done, now_ms())
        return Response(status_code=204)

    # -- orders --------------------------------------------------------------------------------------------------

    async def _orders(self, call: Call) -> Response:
        query = call.request.query_params
        try:
            page, per_page = int(query.get("page", "1")), min(int(query.get("per_page", "30")), 100)
        except ValueError:
            return _error("page e per_page devem ser números", 400)
        if page < 1 or per_page < 1:
            return _error("page e per_page começam em 1", 400)
        orders = list(call.account.shop.orders.values())
        statuses = query.getlist("filters[statuses][]")
        if statuses:
            orders = [order for order in orders if _STATUS[order.status][0] in statuses]
        sync = query.getlist("filters[sync_status][]") or query.getlist("filters[sync_status]")
        if sync:
            orders = [order for order in orders if ("SYNCED" if order.synced else "NOT_SYNCED") in sync]
        orders.sort(key=lambda order: (order.updated_ms, order.number), reverse=True)
        shown = orders[(page - 1) * per_page : page * per_page]
        return _json({"total": len(orders), "orders": [order_object(call.account, order) for order in shown]})

    async def _order(self, call: Call) -> Response:
        order = call.account.shop.orders.get(call.request.path_params["code"])
        return _error("Pedido não encontrado", 404) if order is None else _json(order_object(call.account, order))

    async def _invoice(self, call: Call) -> Response:
        given = call.body.get("invoice")
        key = str(given.get("key", "")) if isinstance(given, dict) else ""
        if len(key) != 44 or not key.isdecimal():
            return _error("invoice.key deve ter 44 dígitos", 422)
        invoice = {"key": key, "number": key[25:34], "line": key[22:25], "issue_date": _moment(now_ms())}
        return self._progress(call.account, call.request, "invoiced", ("approved",), invoice=invoice)

    async def _shipments(self, call: Call) -> Response:
        given = call.body.get("shipment")
        if not isinstance(given, dict) or not isinstance(given.get("track"), dict) or not given["track"].get("code"):
            return _error("shipment.track.code é obrigatório", 422)
        return self._progress(call.account, call.request, "shipped", ("invoiced", "approved"), shipment=given)

    async def _delivery(self, call: Call) -> Response:
        return self._progress(call.account, call.request, "delivered", ("shipped", "shipment_exception"))

    async def _shipment_exception(self, call: Call) -> Response:
        return self._progress(call.account, call.request, "shipment_exception", ("shipped",))

    def _progress(
        self,
        account: Account,
        request: Request,
        status: str,
        after: tuple[str, ...],
        *,
        invoice: dict[str, Any] | None = None,
        shipment: dict[str, Any] | None = None,
    ) -> Response:
        order = account.shop.orders.get(request.path_params["code"])
        if order is None:
            return _error("Pedido não encontrado", 404)
        at_ms = now_ms()
        refusal = account.shop.progress(order, status, after=after, now_ms=at_ms)
        if refusal is not None:
            return _error(f"Transição de status inválida: {refusal.message}", 422)
        order.invoice = invoice or order.invoice
        order.shipment = shipment or order.shipment
        reference = (invoice or {}).get("key") or (shipment or {}).get("track", {}).get("code")
        told = self._told(order, _STEPS[status], reference, request)
        self._market.commit_order(account, order, [told], at_ms)
        return Response(status_code=204)

    async def _cancel(self, call: Call) -> Response:
        order = call.account.shop.orders.get(call.request.path_params["code"])
        if order is None:
            return _error("Pedido não encontrado", 404)
        at_ms = now_ms()
        restock = call.account.settings.restores_on_cancel
        done = call.account.shop.cancel(order, restock=restock, by="client", now_ms=at_ms)
        if isinstance(done, Refusal):
            return _error(f"Transição de status inválida: {done.message}", 422)
        told = self._told(order, "cancel", None, call.request)
        self._market.commit_order(call.account, order, [*done, told], at_ms)
        return Response(status_code=204)

    def _told(self, order: Order, step: str, reference: str | None, request: Request) -> Fact:
        fact = {"order_id": order.order_id, "step": step, "reference": reference}
        return "told", fact | self._context(request).fields

    async def _statuses(self, _call: Call) -> Response:
        return _json([{"code": code, "label": label, "type": kind} for code, label, kind in _STATUS.values()])

    # -- products and stores -------------------------------------------------------------------------------------

    async def _products(self, call: Call) -> Response:
        query = call.request.query_params
        try:
            page, per_page = int(query.get("page", "1")), min(int(query.get("per_page", "100")), 100)
        except ValueError:
            return _error("page e per_page devem ser números", 400)
        if page < 1 or per_page < 1:
            return _error("page e per_page começam em 1", 400)
        products = list(call.account.shop.products.values())
        shown = products[(page - 1) * per_page : page * per_page]
        found = [product_object(call.account, product) for product in shown]
        return _json({"products": found, "total": len(products)})

    async def _product(self, call: Call) -> Response:
        product = call.account.shop.products.get(call.request.path_params["sku"])
        return (
            _error("Produto não encontrado", 404) if product is None else _json(product_object(call.account, product))
        )

    async def _product_put(self, call: Call) -> Response:
        return await self._put_number(call.account, call.request, call.body.get("product"))

    async def _variation_put(self, call: Call) -> Response:
        return await self._put_number(call.account, call.request, call.body.get("variation"))

    async def _put_number(self, account: Account, request: Request, given: Any) -> Response:
        if not isinstance(given, dict):
            return _error("Requisição malformada: falta o objeto do produto", 400)
        sku = request.path_params["sku"]
        product = account.shop.products.get(sku)
        if product is None:
            return _error("Produto não encontrado", 404)
        if "qty" in given:
            row = {"code": sku, "qty": given["qty"]}
            response = await self._write(account, request, [row], account.shop.locations[0])
            if response.status_code >= 300:
                return response
        price = given.get("price")
        if isinstance(price, int | float) and not isinstance(price, bool):
            product.price_minor = round(price * 100)
            account.shop.dirty.add(("product", sku))
            self._market.commit(account, (), now_ms())
        return Response(status_code=204)

    async def _store_read(self, call: Call) -> Response:
        product = call.account.shop.products.get(call.request.path_params["sku"])
        number = None if product is None else product.numbers.get(call.request.path_params["store"])
        if product is None or number is None:
            return _error("Estoque não encontrado", 404)
        return _json({"code": product.sku, "qty": number, "cross_docking": 0})

    async def _store_sku(self, call: Call) -> Response:
        given = call.body.get("sku")
        if not isinstance(given, dict):
            return _error("Requisição malformada: falta o objeto sku", 400)
        row = {"code": call.request.path_params["sku"], "qty": given.get("qty")}
        return await self._write(call.account, call.request, [row], call.request.path_params["store"])

    async def _store_batch(self, call: Call) -> Response:
        rows = call.body.get("skus")
        limit = call.account.settings.limits.skyhub_batch_max
        if not isinstance(rows, list) or not rows:
            return _error("Requisição malformada: skus deve ser uma lista", 400)
        if len(rows) > limit:
            return _error(f"O lote aceita no máximo {limit} skus", 422)
        return await self._write(call.account, call.request, rows, call.request.path_params["store"])

    async def _write(self, account: Account, request: Request, rows: list[Any], location: str) -> Response:
        changes = _changes(rows, location)
        if changes is None:
            return _error("qty deve ser um número inteiro e code um texto", 422)
        operation = f"{request.method} {request.url.path.split('/')[1]}"
        write = Write(operation, changes, self._context(request), stocked=False)
        outcome = self._writer.perform(account, write)
        match outcome.kind:
            case "timeout":
                await asyncio.sleep(TIMEOUT_HOLD_S)
                return _error("Tempo esgotado", 504)
            case "unavailable":
                return _error("Serviço indisponível", 503)
            case "throttled":
                return _error("Limite de requisições excedido, aguarde a próxima janela", 429)
            case "refused":
                place, code = outcome.problems[0]
                status, message = _PROBLEM[code]
                return _error(f"{message}: {changes[place].sku}", status)
        return Response(status_code=204)

    def _book_throttled(self, account: Account, request: Request, body: Any) -> None:
        # Only what would have been a stock write belongs in the books.
        if not isinstance(body, dict):
            return
        kind, *_ = request.url.path.strip("/").split("/")
        if kind == "stores":
            given = body.get("skus")
            one = body.get("sku")
            rows = (
                given if isinstance(given, list) else [{**one, "code": request.path_params.get("sku")}] if one else []
            )
            location = request.path_params["store"]
        else:
            one = body.get("product" if kind == "products" else "variation")
            rows = [{**one, "code": request.path_params["sku"]}] if isinstance(one, dict) and "qty" in one else []
            location = account.shop.locations[0]
        changes = _changes(rows, location)
        if changes:
            write = Write(f"{request.method} {kind}", changes, self._context(request), stocked=False)
            self._writer.refuse(account, write, "throttled")


def _changes(rows: list[Any], location: str) -> list[Change] | None:
    """Rows {code, qty} as changes; None if one of them is not of that shape."""
    changes = []
    for row in rows:
        sku, quantity = (row.get("code"), row.get("qty")) if isinstance(row, dict) else (None, None)
        if not isinstance(sku, str) or not isinstance(quantity, int) or isinstance(quantity, bool):
            return None
        changes.append(Change(sku, location, quantity))
    return changes

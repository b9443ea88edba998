"""The Melhor Envio API over HTTP (melhorenvio.readme.io): quotations, cart, purchase, labels, tracking, cancellation.

Every call under `/api/v2` wants `Authorization: Bearer <access_token>` and a `User-Agent` that names an e-mail address;
250 calls a minute and account fit. Prices are text in reais, sizes centimetres, weights kilograms, times of Brasília.

POST /oauth/token {grant_type: refresh_token, client_id, client_secret, refresh_token} -> new tokens, the old ones end
POST /api/v2/me/shipment/calculate {from, to, package | volumes | products, services?} -> [option or {id, error}]
POST /api/v2/me/cart {service, from, to, volumes, options: {invoice: {key}, non_commercial, tags}} -> 201 the parcel
GET /api/v2/me/cart, GET and DELETE /api/v2/me/cart/{id}
POST /api/v2/me/shipment/checkout {orders} -> {purchase}; all of them or none is paid
POST /api/v2/me/shipment/generate {orders} -> {id: {status, message}}
POST /api/v2/me/shipment/print {orders, mode} -> {url}; the address gives a PDF without a token
POST /api/v2/me/shipment/tracking {orders} -> {id: state}
POST /api/v2/me/shipment/cancel {order: {id, reason_id, description}} -> {id: {canceled}}
GET /api/v2/me/orders?status=&page=, /api/v2/me/orders/search?q=, /api/v2/me/orders/{id}; GET /api/v2/me/balance

Not confirmed by the vendor's pages and chosen here: 403 for a User-Agent without an e-mail address, 422 for a second
checkout of one parcel, and which states follow a failed delivery.
"""

import asyncio
import io
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from reportlab.graphics.barcode import code128
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox.books import now_ms
from services.sandbox.carrier_hooks import parcel_state
from services.sandbox.carrier_parcels import Account, Depot, Parcel, chargeable_g, price_minor
from services.sandbox.carrier_settings import CarrierService
from services.sandbox.guard import Refused, json_answer, json_object
from services.sandbox.writes import TIMEOUT_HOLD_S

_EMAIL: Final = re.compile(r"[^\s@()<>]+@[^\s@()<>]+\.[^\s@()<>]+")
_PAGE: Final = 50
_SIDES: Final = ("height", "width", "length", "weight")
_SIDE_MAX: Final = 10_000


class Invalid(Exception):
    """The request is not acceptable: 422 with the field and what is wrong with it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field)
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has passed the door."""

    account: Account
    request: Request
    body: dict[str, Any]


Handler = Callable[["MelhorEnvioFace", Call], Awaitable[Response]]
Deed = Callable[[bool], Response]


def _reais(minor: int) -> str:
    return f"{minor // 100}.{minor % 100:02d}"


def _inner(body: dict[str, Any], field: str) -> dict[str, Any]:
    inner = body.get(field)
    return inner if isinstance(inner, dict) else {}


def _code(body: dict[str, Any], end: str) -> str:
    given = _inner(body, end).get("postal_code")
    code = re.sub(r"\D", "", given) if isinstance(given, str) else ""
    if len(code) != 8:
        raise Invalid(f"{end}.postal_code", "deve ter 8 dígitos")
    return code


def _volumes(body: dict[str, Any]) -> list[dict[str, float]]:
    """The parcel's volumes, from `volumes`, `package` (or several) or `products` with quantities."""
    given = body.get("volumes") or body.get("package") or body.get("products")
    rows = given if isinstance(given, list) else [given]
    volumes: list[dict[str, float]] = []
    for row in rows:
        if not isinstance(row, dict):
            raise Invalid("volumes", "deve ser um objeto com height, width, length e weight")
        sides = {name: row.get(name) for name in _SIDES}
        if not all(isinstance(side, int | float) and 0 < side <= _SIDE_MAX for side in sides.values()):
            raise Invalid("volumes", f"height, width, length e weight devem ser maiores que zero e até {_SIDE_MAX}")
        quantity = row.get("quantity", 1)
        if not isinstance(quantity, int) or not 1 <= quantity <= 1000:
            raise Invalid("products.quantity", "deve estar entre 1 e 1000")
        volumes += [{name: float(side) for name, side in sides.items() if side is not None}] * quantity
    return volumes


def _orders(body: dict[str, Any]) -> list[str]:
    orders = body.get("orders")
    if not isinstance(orders, list) or not orders or not all(isinstance(one, str) for one in orders):
        raise Invalid("orders", "deve ser uma lista de ids")
    return list(dict.fromkeys(orders))


def _label(parcel: Parcel) -> bytes:
    """A plain label of 100 × 150 mm with the tracking code as text and as Code 128."""
    page = io.BytesIO()
    canvas = Canvas(page, pagesize=(100 * mm, 150 * mm), invariant=1)
    canvas.setFont("Helvetica", 10)
    recipient = parcel.recipient
    lines = [
        parcel.protocol,
        parcel.tracking_code,
        str(recipient.get("name", "")),
        f"{recipient.get('address', '')} {recipient.get('number', '')}",
        f"{recipient.get('city', '')} {recipient.get('state_abbr', '')} {recipient.get('postal_code', '')}",
    ]
    for place, line in enumerate(lines):
        canvas.drawString(8 * mm, (140 - 6 * place) * mm, line)
    code128.Code128(parcel.tracking_code, barWidth=0.45 * mm, barHeight=25 * mm).drawOn(canvas, 2 * mm, 40 * mm)
    canvas.save()
    return page.getvalue()


class MelhorEnvioFace:
    """The routes of Melhor Envio. `base_url` is where labels are fetched from."""

    def __init__(self, depot: Depot, base_url: str) -> None:
        self._depot = depot
        self._base_url = base_url
        self._late: set[asyncio.Task[Response]] = set()

    def routes(self) -> list[Route]:
        face = MelhorEnvioFace
        table: list[tuple[str, str, Handler]] = [
            ("POST", "/shipment/calculate", face._calculate),
            ("POST", "/shipment/checkout", face._checkout),
            ("POST", "/shipment/generate", face._generate),
            ("POST", "/shipment/print", face._print),
            ("POST", "/shipment/tracking", face._tracking),
            ("POST", "/shipment/cancel", face._cancel),
            ("POST", "/cart", face._cart_put),
            ("GET", "/cart", face._cart_list),
            ("GET", "/cart/{id}", face._cart_get),
            ("DELETE", "/cart/{id}", face._cart_delete),
            ("GET", "/orders/search", face._search),
            ("GET", "/orders/{id}", face._order),
            ("GET", "/orders", face._order_list),
            ("GET", "/balance", face._balance),
        ]
        guarded = [
            Route(f"/api/v2/me{path}", self._answered(handler), methods=[method]) for method, path, handler in table
        ]
        token = Route("/oauth/token", self._token_answered, methods=["POST"])
        return [*guarded, token, Route("/labels/{name}.pdf", self._label_file, methods=["GET"])]

    async def stop(self) -> None:
        """Let calls end that a vice has put off."""
        await asyncio.gather(*self._late, return_exceptions=True)

    # -- around every request ------------------------------------------------------------------------------------

    def _answered(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            account = self._account(request)
            if isinstance(account, Response):
                return account
            try:
                response = await handler(self, Call(account, request, await self._body(request)))
            except Invalid as invalid:
                body = {"message": "The given data was invalid.", "errors": {invalid.field: [invalid.message]}}
                response = json_answer(body, 422)
            # No answer leaves before what it tells is durable.
            await self._depot.books.settled()
            return response

        return answer

    def _account(self, request: Request) -> Account | Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        account = self._depot.by_token.get(token) if scheme.lower() == "bearer" else None
        if account is None or account.settings.kind != "melhorenvio" or now_ms() >= account.settings.token_until_ms:
            return json_answer({"message": "Unauthenticated."}, 401)
        if not _EMAIL.search(request.headers.get("user-agent", "")):
            return json_answer({"message": "User-Agent: informe o nome da aplicação e um e-mail de contato"}, 403)
        wait_s = account.bucket.take(1, now_ms() / 1000)
        if wait_s > 0:
            response = json_answer({"message": "Too Many Attempts."}, 429)
            response.headers["Retry-After"] = str(int(wait_s) + 1)
            return response
        return account

    async def _body(self, request: Request) -> dict[str, Any]:
        if request.method != "POST":
            return {}
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Invalid("body", "deve ser um objeto JSON")
        return body

    async def _bought(self, account: Account, deed: Deed) -> Response:
        """Do what costs money, as the account's vices let it be done."""
        at_ms = now_ms()
        late_ms = account.temper.strikes("buy_late", at_ms)
        if late_ms is not None:
            # The deed does not hang on the connection: it happens though its client has given up by then.
            task = asyncio.create_task(self._later(deed, late_ms))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            return await asyncio.shield(task)
        if account.temper.strikes("buy_timeout", at_ms) is not None:
            deed(True)
            await asyncio.sleep(TIMEOUT_HOLD_S)
            return json_answer({"message": "Gateway Timeout"}, 504)
        return deed(False)

    async def _later(self, deed: Deed, late_ms: int) -> Response:
        await asyncio.sleep(late_ms / 1000)
        return deed(True)

    def _parcel(self, call: Call) -> Parcel | None:
        return call.account.parcels.get(call.request.path_params["id"])

    # -- tokens --------------------------------------------------------------------------------------------------

    async def _token_answered(self, request: Request) -> Response:
        try:
            return await self._token(request)
        except Refused as refused:
            return json_answer(refused.body, refused.status)

    async def _token(self, request: Request) -> Response:
        raw = await request.body()
        if request.headers.get("content-type", "").startswith("application/json"):
            given = json_object(raw)
        else:
            given = dict(parse_qsl(raw.decode(errors="replace")))
        for account in self._depot.accounts.values():
            kept = account.settings.credentials
            names = ("client_id", "client_secret", "refresh_token")
            if given.get("grant_type") == "refresh_token" and all(given.get(name) == kept[name] for name in names):
                self._depot.renew(account)
                await self._depot.books.settled()
                fresh = account.settings.credentials
                told = {"token_type": "Bearer", "expires_in": account.settings.token_life_s}
                return json_answer(told | {name: fresh[name] for name in ("access_token", "refresh_token")})
        return json_answer({"error": "invalid_grant", "message": "The refresh token is invalid."}, 401)

    # -- quotations ----------------------------------------------------------------------------------------------

    async def _calculate(self, call: Call) -> Response:
        account, body = call.account, call.body
        slow_ms = account.temper.strikes("quote_slow", now_ms())
        if slow_ms:
            await asyncio.sleep(slow_ms / 1000)
        from_code, to_code, volumes = _code(body, "from"), _code(body, "to"), _volumes(body)
        asked = {one.strip() for one in str(body.get("services") or "").split(",") if one.strip()}
        weight_g = chargeable_g(volumes, account.settings.cubic_divisor)
        told, options = [], []
        for service in account.settings.services:
            if asked and str(service.id) not in asked:
                continue
            option = self._option(account, service, weight_g, from_code, to_code)
            told.append(option)
            if "price" in option:
                price = price_minor(service, weight_g, from_code, to_code)
                days = {"days_min": service.days_min, "days_max": service.days_max}
                options.append({"service": str(service.id), "price_minor": price, **days})
        fact = {"to_code": to_code, "weight_g": weight_g, "options": options}
        self._depot.books.append(account.name, now_ms(), [("quoted", fact)], {})
        return json_answer(told)

    def _option(
        self, account: Account, service: CarrierService, weight_g: int, from_code: str, to_code: str
    ) -> dict[str, Any]:
        company = {"id": service.company_id, "name": service.company}
        told: dict[str, Any] = {"id": service.id, "name": service.name, "company": company}
        if to_code.startswith(account.settings.unserved_prefixes):
            return told | {"error": "Transportadora não atende este trecho."}
        if weight_g > service.weight_max_g:
            return told | {"error": "Peso ultrapassa o limite da transportadora."}
        price = _reais(price_minor(service, weight_g, from_code, to_code))
        days = {"min": service.days_min, "max": service.days_max}
        told |= {"price": price, "custom_price": price, "discount": "0.00", "currency": "R$"}
        told |= {"delivery_time": service.days_max, "custom_delivery_time": service.days_max}
        return told | {"delivery_range": days, "custom_delivery_range": days}

    # -- cart ----------------------------------------------------------------------------------------------------

    def _carted(self, account: Account, body: dict[str, Any]) -> Parcel:
        service = account.service(str(body.get("service")))
        if service is None:
            raise Invalid("service", "serviço desconhecido")
        from_code, to_code, volumes = _code(body, "from"), _code(body, "to"), _volumes(body)
        for field in ("name", "address", "city"):
            if not body["to"].get(field):
                raise Invalid(f"to.{field}", "é obrigatório")
        options = _inner(body, "options")
        key = str(_inner(options, "invoice").get("key") or "")
        if not options.get("non_commercial") and not re.fullmatch(r"\d{44}", key):
            raise Invalid("options.invoice.key", "deve ter 44 dígitos")
        given = options.get("tags")
        tags = [one for one in given if isinstance(one, dict) and one.get("tag")] if isinstance(given, list) else []
        weight_g = chargeable_g(volumes, account.settings.cubic_divisor)
        option = self._option(account, service, weight_g, from_code, to_code)
        if "error" in option:
            raise Invalid("service", option["error"])
        order_id, at_ms = str(uuid.uuid4()), now_ms()
        return Parcel(
            order_id=order_id,
            protocol=f"ORD-{int(uuid.UUID(order_id)) % 10**12:012d}",
            service=service.id,
            days=float(service.days_max),
            price_minor=price_minor(service, weight_g, from_code, to_code),
            tags=tags,
            invoice_key=key,
            sender=body["from"],
            recipient=body["to"],
            volumes=volumes,
            created_ms=at_ms,
        )

    def _shown(self, parcel: Parcel) -> dict[str, Any]:
        shown = parcel_state(parcel)
        shown |= {"service_id": parcel.service, "price": float(_reais(parcel.price_minor)), "volumes": parcel.volumes}
        shown |= {"from": parcel.sender, "to": parcel.recipient}
        return shown | {"invoice": {"key": parcel.invoice_key} if parcel.invoice_key else None}

    async def _cart_put(self, call: Call) -> Response:
        parcel = self._carted(call.account, call.body)

        def deed(late: bool) -> Response:
            self._depot.cart(call.account, parcel, late=late)
            return json_answer(self._shown(parcel), 201)

        return await self._bought(call.account, deed)

    async def _cart_list(self, call: Call) -> Response:
        return self._page(call, [one for one in call.account.parcels.values() if one.status == "pending"])

    async def _cart_get(self, call: Call) -> Response:
        parcel = self._parcel(call)
        if parcel is None or parcel.status != "pending":
            return json_answer({"message": "Item não encontrado no carrinho"}, 404)
        return json_answer(self._shown(parcel))

    async def _cart_delete(self, call: Call) -> Response:
        parcel = self._parcel(call)
        if parcel is None or parcel.status != "pending":
            return json_answer({"message": "Item não encontrado no carrinho"}, 404)
        self._depot.drop(call.account, parcel)
        return Response(status_code=204)

    # -- purchase and labels -------------------------------------------------------------------------------------

    async def _checkout(self, call: Call) -> Response:
        account, orders = call.account, _orders(call.body)

        def deed(late: bool) -> Response:
            parcels = [account.parcels.get(one) for one in orders]
            wanted = [one for one in parcels if one is not None and one.status == "pending"]
            if len(wanted) < len(orders):
                raise Invalid("orders", "há envios que não estão no carrinho")
            total = sum(one.price_minor for one in wanted)
            if account.spent_minor + total > account.settings.balance_minor:
                return json_answer({"message": "Saldo insuficiente"}, 422)
            for parcel in wanted:
                self._depot.buy(account, parcel, late=late)
            bought = [self._shown(one) for one in wanted]
            purchase = {"id": str(uuid.uuid4()), "status": "paid", "total": float(_reais(total)), "orders": bought}
            return json_answer({"purchase": purchase})

        return await self._bought(account, deed)

    async def _generate(self, call: Call) -> Response:
        told: dict[str, Any] = {}
        for parcel in self._paid(call):
            if parcel.generated_ms is None:
                self._depot.generate(call.account, parcel)
            told[parcel.order_id] = {"status": True, "message": "Envio gerado com sucesso"}
        return json_answer(told)

    async def _print(self, call: Call) -> Response:
        parcels = self._paid(call)
        if any(one.generated_ms is None for one in parcels):
            raise Invalid("orders", "gere a etiqueta antes de imprimir")
        if len(parcels) != 1:
            raise Invalid("orders", "uma etiqueta por impressão")
        self._depot.print_label(call.account, parcels[0])
        return json_answer({"url": f"{self._base_url}/labels/{call.account.name}.{parcels[0].label_token}.pdf"})

    def _paid(self, call: Call) -> Sequence[Parcel]:
        known = [call.account.parcels.get(one) for one in _orders(call.body)]
        parcels = [one for one in known if one is not None and one.paid_ms is not None and one.cancelled_ms is None]
        if len(parcels) < len(known):
            raise Invalid("orders", "há envios que não foram pagos")
        return parcels

    async def _label_file(self, request: Request) -> Response:
        name, _, token = request.path_params["name"].rpartition(".")
        account = self._depot.accounts.get(name)
        parcels = account.parcels.values() if account is not None and token else ()
        parcel = next((one for one in parcels if one.label_token == token), None)
        if parcel is None or now_ms() < parcel.label_from_ms:
            return json_answer({"message": "Not Found"}, 404)
        return Response(await asyncio.to_thread(_label, parcel), media_type="application/pdf")

    # -- afterwards ----------------------------------------------------------------------------------------------

    async def _tracking(self, call: Call) -> Response:
        known = (call.account.parcels.get(one) for one in _orders(call.body))
        return json_answer({one.order_id: parcel_state(one) for one in known if one is not None})

    async def _cancel(self, call: Call) -> Response:
        order_id = _inner(call.body, "order").get("id")
        parcel = call.account.parcels.get(order_id) if isinstance(order_id, str) else None
        if parcel is None:
            raise Invalid("order.id", "envio desconhecido")
        done = self._depot.cancel(call.account, parcel)
        return json_answer({parcel.order_id: {"canceled": done or parcel.status == "canceled"}})

    async def _order(self, call: Call) -> Response:
        parcel = self._parcel(call)
        if parcel is None or parcel.status == "pending":
            return json_answer({"message": "Envio não encontrado"}, 404)
        return json_answer(self._shown(parcel))

    async def _order_list(self, call: Call) -> Response:
        status = call.request.query_params.get("status")
        paid = [one for one in call.account.parcels.values() if one.status != "pending"]
        return self._page(call, [one for one in paid if status in (None, "", one.status)])

    async def _search(self, call: Call) -> Response:
        wanted = call.request.query_params.get("q", "")
        found = [
            one
            for one in call.account.parcels.values()
            if one.status != "pending" and wanted in self._names(call.account, one)
        ]
        return json_answer([self._shown(one) for one in found])

    def _names(self, account: Account, parcel: Parcel) -> list[str]:
        tags = [str(one["tag"]) for one in parcel.tags] if account.settings.search_finds_tags else []
        return [parcel.order_id, parcel.protocol, *([parcel.tracking_code] if parcel.tracking_code else []), *tags]

    async def _balance(self, call: Call) -> Response:
        left = call.account.settings.balance_minor - call.account.spent_minor
        return json_answer({"balance": float(_reais(left)), "reserved": 0, "debts": 0})

    def _page(self, call: Call, parcels: Sequence[Parcel]) -> Response:
        """A page of parcels, the newest first."""
        given = call.request.query_params.get("page", "1")
        page = int(given) if given.isdecimal() and int(given) > 0 else 1
        newest = sorted(parcels, key=lambda one: one.created_ms, reverse=True)
        shown = [self._shown(one) for one in newest[(page - 1) * _PAGE : page * _PAGE]]
        last = max(1, -(-len(parcels) // _PAGE))
        return json_answer({"current_page": page, "last_page": last, "total": len(parcels), "data": shown})

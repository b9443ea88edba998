"""Shopify's Admin interface over HTTP: GraphQL and the REST resources its official Python client uses.

Every shop lives under one base URL and is found by its access token (`X-Shopify-Access-Token`).
"""

import asyncio
import base64
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox import shopify_graphql, shopify_objects
from services.sandbox.books import Books, now_ms
from services.sandbox.graphql import GraphqlError, choose_operation, fields_of, project, read_document, resolve_value
from services.sandbox.market import Account, Market, request_id
from services.sandbox.settings import SandboxSettings
from services.sandbox.shop import Change, Order, Refusal, WriteContext
from services.sandbox.shopify_graphql import Held, Mutations, Throttled, Unavailable
from services.sandbox.webhooks import Webhooks
from services.sandbox.wiring import marketplace
from services.sandbox.writes import TIMEOUT_HOLD_S, Write, Writer

_BODY_MAX = 5_000_000


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has passed the door: whose it is, the request and its JSON body ({} without one).

    `query` is what the list was asked with at first, `after` the sort key of the last row of the page before.
    """

    account: Account
    request: Request
    body: dict[str, Any]
    query: dict[str, str]
    after: tuple[int, ...] | None


RestHandler = Callable[["ShopifyFace", Call], Awaitable[Response]]


def build(settings: SandboxSettings, base_url: str) -> Starlette:
    """Wire the Shopify sandbox."""
    market = Market("shopify", Books(settings.books))
    writer = Writer(market)
    routes = ShopifyFace(market, writer).routes()
    return marketplace(market, writer, routes, settings, base_url, Webhooks(market).deliveries)


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status, headers, media_type="application/json")


def _errors(message: Any, status: int, headers: dict[str, str] | None = None) -> Response:
    return _json({"errors": message}, status, headers)


_STATUS_OF = {"invalid_item": 404, "invalid_location": 404, "not_stocked": 404}


def _read_object(raw: bytes) -> dict[str, Any] | None:
    """The JSON object of a body, {} without a body, None if it is something else."""
    if not raw:
        return {}
    try:
        body = json.loads(raw) if len(raw) <= _BODY_MAX else None
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _read_query(request: Request) -> tuple[dict[str, str], tuple[int, ...] | None] | None:
    """The query of a list and where its next page starts. None if `page_info` is not as a Link gave it.

    A Link carries `page_info` and `limit` alone, and no other filter is allowed beside them: the filters of the first
    page are inside.
    """
    query = dict(request.query_params)
    page_info = query.pop("page_info", None)
    if page_info is None:
        return query, None
    try:
        kept = json.loads(base64.urlsafe_b64decode(page_info))
        after = tuple(int(part) for part in kept["after"])
        filters = {str(name): str(value) for name, value in kept["query"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return None if query.keys() - {"limit", "fields"} else (filters | query, after)


def _nested(body: dict[str, Any], name: str) -> dict[str, Any]:
    inner = body.get(name)
    return inner if isinstance(inner, dict) else {}


class ShopifyFace:
    """The routes of the Shopify sandbox."""

    def __init__(self, market: Market, writer: Writer) -> None:
        self._market = market
        self._writer = writer
        self._mutations = Mutations(market, writer)

    def routes(self) -> list[Route]:
        api = "/admin/api/{version}"
        rest: list[tuple[str, str, RestHandler]] = [
            ("GET", "/shop.json", ShopifyFace._shop),
            ("GET", "/products.json", ShopifyFace._products),
            ("GET", "/products/count.json", ShopifyFace._products_count),
            ("GET", "/products/{id:int}.json", ShopifyFace._product),
            ("GET", "/products/{id:int}/variants.json", ShopifyFace._variants),
            ("GET", "/variants/{id:int}.json", ShopifyFace._variant),
            ("GET", "/inventory_items.json", ShopifyFace._inventory_items),
            ("GET", "/inventory_items/{id:int}.json", ShopifyFace._inventory_item),
            ("GET", "/inventory_levels.json", ShopifyFace._levels),
            ("POST", "/inventory_levels/set.json", ShopifyFace._level_set),
            ("POST", "/inventory_levels/adjust.json", ShopifyFace._level_adjust),
            ("GET", "/locations.json", ShopifyFace._locations),
            ("GET", "/locations/{id:int}.json", ShopifyFace._location),
            ("GET", "/orders.json", ShopifyFace._orders),
            ("GET", "/orders/count.json", ShopifyFace._orders_count),
            ("GET", "/orders/{id:int}.json", ShopifyFace._order),
            ("GET", "/orders/{id:int}/refunds.json", ShopifyFace._refunds),
            ("POST", "/orders/{id:int}/cancel.json", ShopifyFace._order_cancel),
            ("GET", "/webhooks.json", ShopifyFace._webhooks),
            ("POST", "/webhooks.json", ShopifyFace._webhook_create),
            ("GET", "/webhooks/count.json", ShopifyFace._webhooks_count),
            ("GET", "/webhooks/{id:int}.json", ShopifyFace._webhook),
            ("PUT", "/webhooks/{id:int}.json", ShopifyFace._webhook_update),
            ("DELETE", "/webhooks/{id:int}.json", ShopifyFace._webhook_delete),
        ]
        graphql = Route(f"{api}/graphql.json", self._answered(self._graphql), methods=["POST"])
        return [graphql, *(Route(api + path, self._rest(handler), methods=[method]) for method, path, handler in rest)]

    # -- around every request ------------------------------------------------------------------------------------

    def _answered(
        self, handler: Callable[[Account, Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            account = self._market.by_key.get(request.headers.get("x-shopify-access-token", ""))
            if account is None or self._market.marketplace != "shopify":
                message = "[API] Invalid API key or access token (unrecognized login or wrong password)"
                return _errors(message, 401)
            request.state.request_id = request_id()
            slow_ms = account.temper.strikes("slow", now_ms())
            if slow_ms:
                await asyncio.sleep(slow_ms / 1000)
            response = await handler(account, request)
            # No answer leaves before what it tells is durable.
            await self._market.books.settled()
            response.headers["X-Request-Id"] = request.state.request_id
            response.headers["X-Shopify-API-Version"] = request.path_params["version"]
            return response

        return answer

    def _rest(self, handler: RestHandler) -> Callable[[Request], Awaitable[Response]]:
        async def limited(account: Account, request: Request) -> Response:
            bucket = account.rest
            wait_s = bucket.take(1, time.monotonic())
            if wait_s:
                message = (
                    "Exceeded 2 calls per second for api client. Reduce request rates to resume uninterrupted service."
                )
                response = _errors(message, 429, {"Retry-After": f"{max(wait_s, 0.1):.1f}"})
            else:
                body, query = _read_object(await request.body()), _read_query(request)
                if body is None:
                    response = _errors({"base": ["Bad request: the body is not a JSON object"]}, 400)
                elif query is None:
                    response = _errors({"page_info": ["Invalid value, or given beside other filters"]}, 400)
                else:
                    response = await handler(self, Call(account, request, body, *query))
            used = f"{min(math.ceil(bucket.used), math.floor(bucket.size))}/{math.floor(bucket.size)}"
            # Shopify's own client looks for exactly this spelling, so the header is not put in lower case.
            response.raw_headers.append((b"X-Shopify-Shop-Api-Call-Limit", used.encode()))
            return response

        return self._answered(limited)

    # -- GraphQL -------------------------------------------------------------------------------------------------

    async def _graphql(self, account: Account, request: Request) -> Response:
        raw = await request.body()
        if len(raw) > _BODY_MAX:
            return _errors("Request body too large", 413)
        try:
            asked = json.loads(raw)
            text = asked["query"]
            variables = asked.get("variables") or {}
            if not isinstance(text, str) or not isinstance(variables, dict):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError):
            return _errors("Required parameter missing or invalid: query", 400)
        context = shopify_graphql.Request(
            account, request.path_params["version"], request.state.request_id, request.headers.get("x-request-id")
        )
        try:
            answer = self._execute(context, text, variables, asked.get("operationName"))
            request.state.request_id = context.request_id
            return _json(answer)
        except Held:
            await asyncio.sleep(TIMEOUT_HOLD_S)
            return _errors("Gateway Timeout", 504)
        except Unavailable:
            return _errors("Service Unavailable", 503)
        except GraphqlError as error:
            extensions = {} if error.code is None else {"extensions": {"code": error.code}}
            return _json({"errors": [{"message": str(error), **extensions}]})

    def _execute(
        self, context: shopify_graphql.Request, text: str, variables: dict[str, Any], operation_name: str | None
    ) -> dict[str, Any]:
        account = context.account
        document = read_document(text)
        operation = choose_operation(document, operation_name)
        variables = {**operation.defaults, **variables}
        asked = shopify_graphql.asked_cost(account, operation, document, variables)
        limits = account.settings.limits
        if asked > limits.graphql_query_cost_max:
            most = limits.graphql_query_cost_max
            message = f"Query cost is {asked:g}, which exceeds the single query max cost limit {most:g}."
            raise GraphqlError(message, "MAX_COST_EXCEEDED")
        roots = fields_of(operation.selections, document, variables)
        if operation.kind == "mutation":
            for root in roots:
                project(shopify_graphql.sample_payload(root.name), root.selections, document, variables)
        if account.graphql.take(asked, time.monotonic()):
            self._book_throttled(context, operation.kind, roots, variables)
            return self._throttled(account, asked)
        data: dict[str, Any] = {}
        nodes = 0
        try:
            for root in roots:
                args = {name: resolve_value(value, variables) for name, value in root.arguments.items()}
                if operation.kind == "mutation":
                    key = self._idempotency_key(root, operation.directives, variables)
                    value = self._mutations.field(context, root, args, key)
                else:
                    value = shopify_graphql.query_field(context, root.name, args)
                nodes += shopify_graphql.nodes_in(value)
                data[root.alias] = project(value, root.selections, document, variables)
        except Throttled:
            account.graphql.give_back(asked)
            return self._throttled(account, asked)
        actual = asked if operation.kind == "mutation" else min(asked, float(len(roots) + 2 + nodes // 10))
        account.graphql.give_back(asked - actual)
        return {"data": data, "extensions": self._cost(account, asked, actual)}

    def _idempotency_key(
        self, root: Any, on_operation: dict[str, dict[str, Any]], variables: dict[str, Any]
    ) -> str | None:
        given = root.directives.get("idempotent", on_operation.get("idempotent"))
        if given is None:
            return None
        key = resolve_value(given.get("key"), variables)
        if not isinstance(key, str) or not key or len(key) > 255:
            raise GraphqlError("The @idempotent directive needs a key of 1 to 255 characters")
        return key

    def _book_throttled(
        self, context: shopify_graphql.Request, kind: str, roots: list[Any], variables: dict[str, Any]
    ) -> None:
        for root in roots:
            given = resolve_value(root.arguments.get("input"), variables)
            if kind == "mutation" and root.name.startswith("inventory") and isinstance(given, dict):
                write, _ = shopify_graphql.read_write(context, root.name, given, None)
                self._writer.refuse(context.account, write, "throttled")

    def _throttled(self, account: Account, asked: float) -> dict[str, Any]:
        documentation = "https://shopify.dev/api/usage/rate-limits"
        error = {"message": "Throttled", "extensions": {"code": "THROTTLED", "documentation": documentation}}
        return {"errors": [error], "extensions": self._cost(account, asked, None)}

    def _cost(self, account: Account, asked: float, actual: float | None) -> dict[str, Any]:
        bucket = account.graphql
        status = {
            "maximumAvailable": bucket.size,
            "currentlyAvailable": bucket.available(time.monotonic()),
            "restoreRate": bucket.rate_per_s,
        }
        cost = {"requestedQueryCost": asked, "actualQueryCost": actual, "throttleStatus": status}
        return {"cost": cost}

    # -- REST: shop, products, locations -------------------------------------------------------------------------

    async def _shop(self, call: Call) -> Response:
        return _json({"shop": shopify_objects.shop(call.account)})

    def _paged(
        self, call: Call, name: str, rows: Sequence[tuple[tuple[int, ...], Any]], render: Callable[[Any], Any]
    ) -> Response:
        """Rows (sort key, thing) by `limit` and `since_id`, or going on where the `page_info` of a Link says."""
        try:
            limit, since = int(call.query.get("limit", "50")), int(call.query.get("since_id", "0"))
        except ValueError:
            return _errors({"base": ["limit and since_id must be whole numbers"]}, 400)
        if not 1 <= limit <= 250:
            return _errors({"limit": ["must be between 1 and 250"]}, 400)
        after = (since,) if call.after is None else call.after
        rows = sorted((row for row in rows if row[0] > after), key=lambda row: row[0])
        headers = {}
        if len(rows) > limit:
            kept = json.dumps({"after": rows[limit - 1][0], "query": call.query})
            query = urlencode({"limit": limit, "page_info": base64.urlsafe_b64encode(kept.encode()).decode()})
            headers["Link"] = f'<{call.request.url.replace(query=query)}>; rel="next"'
        return _json({name: [render(row) for _, row in rows[:limit]]}, headers=headers)

    async def _products(self, call: Call) -> Response:
        wanted = call.query.get("ids")
        ids = None if wanted is None else set(wanted.split(","))
        products = call.account.shop.products.values()
        rows = [((item.product_id,), item) for item in products if ids is None or str(item.product_id) in ids]
        return self._paged(call, "products", rows, shopify_objects.product)

    async def _products_count(self, call: Call) -> Response:
        return _json({"count": len(call.account.shop.products)})

    async def _product(self, call: Call) -> Response:
        sku = call.account.shop.sku_of_product.get(call.request.path_params["id"])
        if sku is None:
            return _errors("Not Found", 404)
        return _json({"product": shopify_objects.product(call.account.shop.products[sku])})

    async def _variants(self, call: Call) -> Response:
        sku = call.account.shop.sku_of_product.get(call.request.path_params["id"])
        if sku is None:
            return _errors("Not Found", 404)
        return _json({"variants": [shopify_objects.variant(call.account.shop.products[sku])]})

    async def _variant(self, call: Call) -> Response:
        sku = call.account.shop.sku_of_variant.get(call.request.path_params["id"])
        if sku is None:
            return _errors("Not Found", 404)
        return _json({"variant": shopify_objects.variant(call.account.shop.products[sku])})

    async def _locations(self, call: Call) -> Response:
        return _json({"locations": [shopify_objects.location(one) for one in call.account.shop.locations]})

    async def _location(self, call: Call) -> Response:
        location = str(call.request.path_params["id"])
        if location not in call.account.shop.locations:
            return _errors("Not Found", 404)
        return _json({"location": shopify_objects.location(location)})

    # -- REST: inventory -----------------------------------------------------------------------------------------

    async def _inventory_items(self, call: Call) -> Response:
        ids = [int(one) for one in call.query.get("ids", "").split(",") if one.strip().isdecimal()]
        if not ids:
            return _errors({"ids": ["Required parameter missing or invalid"]}, 400)
        skus = [call.account.shop.sku_of_item[one] for one in ids if one in call.account.shop.sku_of_item]
        found = [shopify_objects.inventory_item(call.account.shop.products[sku]) for sku in skus]
        return _json({"inventory_items": found})

    async def _inventory_item(self, call: Call) -> Response:
        sku = call.account.shop.sku_of_item.get(call.request.path_params["id"])
        if sku is None:
            return _errors("Not Found", 404)
        return _json({"inventory_item": shopify_objects.inventory_item(call.account.shop.products[sku])})

    async def _levels(self, call: Call) -> Response:
        query = call.query
        items = {int(one) for one in query.get("inventory_item_ids", "").split(",") if one.strip().isdecimal()}
        locations = {one.strip() for one in query.get("location_ids", "").split(",") if one.strip()}
        if not items and not locations and "page_info" not in query:
            return _errors("Filter parameter missing: inventory_item_ids or location_ids", 422)
        rows = [
            ((product.inventory_item_id, int(location)), (product, location))
            for product in call.account.shop.products.values()
            for location in product.numbers
            if (not items or product.inventory_item_id in items) and (not locations or location in locations)
        ]
        return self._paged(call, "inventory_levels", rows, lambda row: shopify_objects.inventory_level(row[0], row[1]))

    async def _level_set(self, call: Call) -> Response:
        return await self._level_write(call.account, call.request, call.body, "available", delta=False)

    async def _level_adjust(self, call: Call) -> Response:
        return await self._level_write(call.account, call.request, call.body, "available_adjustment", delta=True)

    async def _level_write(self, account: Account, request: Request, body: Any, name: str, *, delta: bool) -> Response:
        try:
            item, location, quantity = int(body["inventory_item_id"]), str(int(body["location_id"])), int(body[name])
        except (KeyError, TypeError, ValueError):
            return _errors(
                {"base": [f"Required parameter missing or invalid: inventory_item_id, location_id, {name}"]}, 400
            )
        sku = account.shop.sku_of_item.get(item, f"item {item}")
        context = WriteContext(request.state.request_id, request.headers.get("x-request-id"))
        operation = f"inventory_levels/{'adjust' if delta else 'set'}"
        outcome = self._writer.perform(
            account, Write(operation, [Change(sku, location, quantity)], context, delta=delta)
        )
        match outcome.kind:
            case "timeout":
                await asyncio.sleep(TIMEOUT_HOLD_S)
                return _errors("Gateway Timeout", 504)
            case "unavailable":
                return _errors("Service Unavailable", 503)
            case "throttled":
                return _errors("Exceeded 2 calls per second for api client.", 429, {"Retry-After": "2.0"})
            case "refused":
                code = outcome.problems[0][1]
                status = _STATUS_OF.get(code, 422)
                return _errors("Not Found" if status == 404 else {"available": [code.replace("_", " ")]}, status)
        return _json({"inventory_level": shopify_objects.inventory_level(account.shop.products[sku], location)})

    # -- REST: orders --------------------------------------------------------------------------------------------

    def _selected_orders(self, call: Call) -> list[Order] | Response:
        query = call.query
        orders = list(call.account.shop.orders.values())
        status = query.get("status", "open")
        if status in ("open", "cancelled"):
            orders = [order for order in orders if (order.cancelled_ms is not None) == (status == "cancelled")]
        if query.get("financial_status", "any") != "any":
            orders = [one for one in orders if shopify_objects.financial_status(one) == query["financial_status"]]
        if "ids" in query:
            ids = set(query["ids"].split(","))
            orders = [order for order in orders if order.order_id in ids]
        for name, field in (("updated_at", "updated_ms"), ("created_at", "placed_ms")):
            for bound in ("min", "max"):
                text = query.get(f"{name}_{bound}")
                limit_ms = None if text is None else shopify_objects.parse_moment_ms(text.replace(" ", "+"))
                if text is not None and limit_ms is None:
                    return _errors({f"{name}_{bound}": ["must be an ISO 8601 time"]}, 400)
                if limit_ms is not None:
                    low, high = (limit_ms // 1000, 1 << 62) if bound == "min" else (0, limit_ms // 1000)
                    orders = [order for order in orders if low <= getattr(order, field) // 1000 <= high]
        return orders

    async def _orders(self, call: Call) -> Response:
        orders = self._selected_orders(call)
        if isinstance(orders, Response):
            return orders
        # By id unless it is asked by updated_at: then a change during the poll moves an order to a later page.
        updated, _, direction = call.query.get("order", "").partition(" ")
        by_update = updated == "updated_at" and direction.lower() != "desc"
        rows: list[tuple[tuple[int, ...], Order]] = [
            ((order.updated_ms // 1000, order.number) if by_update else (int(order.order_id),), order)
            for order in orders
        ]
        return self._paged(call, "orders", rows, lambda order: shopify_objects.order(call.account, order))

    async def _orders_count(self, call: Call) -> Response:
        orders = self._selected_orders(call)
        return orders if isinstance(orders, Response) else _json({"count": len(orders)})

    async def _order(self, call: Call) -> Response:
        order = self._find_order(call.account, call.request)
        return (
            _errors("Not Found", 404) if order is None else _json({"order": shopify_objects.order(call.account, order)})
        )

    async def _refunds(self, call: Call) -> Response:
        order = self._find_order(call.account, call.request)
        if order is None:
            return _errors("Not Found", 404)
        return _json({"refunds": [shopify_objects.refund(call.account, order, given) for given in order.refunds]})

    async def _order_cancel(self, call: Call) -> Response:
        order = self._find_order(call.account, call.request)
        if order is None:
            return _errors("Not Found", 404)
        at_ms = now_ms()
        restock = call.body.get("restock", call.account.settings.restores_on_cancel)
        done = call.account.shop.cancel(order, restock=bool(restock), by="client", now_ms=at_ms)
        if isinstance(done, Refusal):
            return _errors({"base": [done.message]}, 422)
        self._market.commit_order(call.account, order, done, at_ms)
        return _json({"order": shopify_objects.order(call.account, order)})

    def _find_order(self, account: Account, request: Request) -> Order | None:
        wanted = request.path_params["id"]
        return account.shop.orders.get(str(wanted))

    # -- REST: webhooks ------------------------------------------------------------------------------------------

    async def _webhooks(self, call: Call) -> Response:
        topic = call.query.get("topic")
        found = [one for one in call.account.subscriptions.values() if topic is None or one.topic == topic]
        return _json({"webhooks": [shopify_objects.webhook(one) for one in found]})

    async def _webhooks_count(self, call: Call) -> Response:
        return _json({"count": len(call.account.subscriptions)})

    async def _webhook(self, call: Call) -> Response:
        found = call.account.subscriptions.get(call.request.path_params["id"])
        return _errors("Not Found", 404) if found is None else _json({"webhook": shopify_objects.webhook(found)})

    async def _webhook_create(self, call: Call) -> Response:
        given = _nested(call.body, "webhook")
        version = call.request.path_params["version"]
        topic, address = str(given.get("topic")), given.get("address")
        made = shopify_graphql.subscribe(self._market, call.account, topic, address, version)
        if isinstance(made, Refusal):
            return _errors({"topic" if made.reason == "topic" else "address": [made.message]}, 422)
        return _json({"webhook": shopify_objects.webhook(made)}, 201)

    async def _webhook_update(self, call: Call) -> Response:
        found = call.account.subscriptions.get(call.request.path_params["id"])
        given = _nested(call.body, "webhook")
        address = given.get("address")
        if found is None:
            return _errors("Not Found", 404)
        if not isinstance(address, str) or not address.startswith(("http://", "https://")):
            return _errors({"address": ["is invalid"]}, 422)
        found.address = address
        kept = {name: getattr(found, name) for name in type(found).__slots__}
        self._market.commit(call.account, (), now_ms(), {("subscription", str(found.subscription_id)): kept})
        return _json({"webhook": shopify_objects.webhook(found)})

    async def _webhook_delete(self, call: Call) -> Response:
        if not shopify_graphql.unsubscribe(self._market, call.account, call.request.path_params["id"]):
            return _errors("Not Found", 404)
        return _json({})

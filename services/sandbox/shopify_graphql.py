"""The part of Shopify's Admin GraphQL interface that a stock and order connector uses.

Root fields: `shop`, `locations`, `location`, `productVariants`, `inventoryItem(s)`, `inventoryLevel`, `node(s)`,
`orders`, `order`, `ordersCount`, `webhookSubscriptions`; mutations `inventorySetQuantities`,
`inventoryAdjustQuantities`, `webhookSubscriptionCreate`, `webhookSubscriptionDelete`, `orderCancel`,
`fulfillmentCreate`, `fulfillmentEventCreate`. Anything else is
the error a real server gives.

Compare-and-set: `compareQuantity` unless `ignoreCompareQuantity` (versions before 2026-04); `changeFromQuantity`
(null skips the check) from 2026-01, and the only way from 2026-04, where `@idempotent(key:)` is required too.

Cost, after the published rules and simplified: a mutation costs its flat price (10) and, if a shop is set so, a price
for each quantity; a query costs 1 for each object, 2 for each connection and 0.1 for each node asked for. The asked
cost must fit the bucket; what was asked for and not returned is given back.
"""

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from services.sandbox import shopify_fulfillments, shopify_objects
from services.sandbox.books import now_ms
from services.sandbox.buyers import buyer
from services.sandbox.graphql import Document, GraphqlError, Operation, Selection, connection, fields_of, resolve_value
from services.sandbox.market import Account, Market, Subscription
from services.sandbox.shop import Change, Line, Order, Product, Refund, Refusal, WriteContext, stable_id
from services.sandbox.shopify_objects import moment_utc, money
from services.sandbox.writes import Outcome, Write, Writer

REASONS = frozenset(
    [
        "correction",
        "cycle_count_available",
        "damaged",
        "movement_canceled",
        "movement_created",
        "movement_received",
        "movement_updated",
        "other",
        "promotion",
        "quality_control",
        "received",
        "reservation_created",
        "reservation_deleted",
        "reservation_updated",
        "restock",
        "safety_stock",
        "shrinkage",
    ]
)
_PROBLEMS = {
    "invalid_item": ("INVALID_INVENTORY_ITEM", "inventoryItemId", "The specified inventory item could not be found."),
    "invalid_location": ("INVALID_LOCATION", "locationId", "The specified location could not be found."),
    "not_stocked": (
        "ITEM_NOT_STOCKED_AT_LOCATION",
        "locationId",
        "The specified inventory item is not stocked at the location.",
    ),
    "negative": ("INVALID_QUANTITY_NEGATIVE", "quantity", "The quantity can't be negative."),
    "too_high": ("INVALID_QUANTITY_TOO_HIGH", "quantity", "The total quantity can't be higher than 1,000,000,000."),
    "duplicate": (
        "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR",
        "inventoryItemId",
        "The combination of inventoryItemId and locationId must be unique.",
    ),
}
_TERM = re.compile(r"(\w+):(>=|<=|>|<)?(?:'([^']*)'|\"([^\"]*)\"|(\S+))")
TOPICS = ("orders/create", "orders/paid", "orders/updated", "orders/cancelled", "refunds/create")

Args = Mapping[str, Any]


@dataclass(slots=True)
class Request:
    """One GraphQL request as the resolvers see it.

    An answer given again for its idempotency key comes with the `request_id` under which the books know the write.
    """

    account: Account
    version: str
    request_id: str
    client_request_id: str | None


class Held(Exception):
    """The write was left for later: the client gets no answer in time."""


class Unavailable(Exception):
    """The write was turned away with a server error."""


class Throttled(Exception):
    """There is not enough in the bucket."""


def gid_number(gid: Any, typename: str) -> int:
    """The number in `gid://shopify/<typename>/<number>`, or 0."""
    prefix = f"gid://shopify/{typename}/"
    text = str(gid)
    number = text[len(prefix) :].partition("?")[0] if text.startswith(prefix) else ""
    return int(number) if number.isdecimal() else 0


# -- cost --------------------------------------------------------------------------------------------------------------


def asked_cost(account: Account, operation: Operation, document: Document, variables: Args) -> float:
    """What the request may cost at most."""
    limits = account.settings.limits
    roots = fields_of(operation.selections, document, variables)
    if operation.kind == "mutation":
        return sum(
            limits.graphql_mutation_cost + limits.graphql_object_cost * _array_size(root, variables) for root in roots
        )
    return float(max(1, math.ceil(sum(_field_cost(root, document, variables) for root in roots))))


def _array_size(root: Selection, variables: Args) -> int:
    given = resolve_value(root.arguments.get("input"), variables)
    rows = given.get("quantities", given.get("changes")) if isinstance(given, dict) else None
    return len(rows) if isinstance(rows, list) else 0


def _field_cost(selection: Selection, document: Document, variables: Args) -> float:
    if not selection.selections:
        return 0.0
    inner = sum(_field_cost(one, document, variables) for one in fields_of(selection.selections, document, variables))
    arguments = {name: resolve_value(value, variables) for name, value in selection.arguments.items()}
    if isinstance(arguments.get("first"), int):
        return float(2 + 0.1 * arguments["first"] + inner)
    if isinstance(arguments.get("ids"), list):
        return 1 + 0.1 * len(arguments["ids"]) + inner
    return (0.0 if selection.name in ("nodes", "edges", "node", "pageInfo") else 1.0) + inner


def nodes_in(value: Any) -> int:
    """How many nodes the top level of a result holds: what a query really cost depends on it."""
    if isinstance(value, dict):
        return sum(len(rows) for name, rows in value.items() if name in ("nodes", "edges") and isinstance(rows, list))
    return len(value) if isinstance(value, list) else 0


# -- pages -------------------------------------------------------------------------------------------------------------


def _page(typename: str, found: Sequence[tuple[tuple[int, ...], Any]], args: Args, render: Callable[[Any], Any]) -> Any:
    """A connection over (sort key, thing) pairs that are in order already."""
    first = args.get("first")
    if not isinstance(first, int):
        raise GraphqlError("you must provide one of first or last")
    if not 0 <= first <= 250:
        raise GraphqlError("first must be between 0 and 250")
    after = args.get("after")
    if after:
        key = _cursor_key(after)
        reverse = bool(args.get("reverse"))
        found = [pair for pair in found if (pair[0] < key if reverse else pair[0] > key)]
    shown = found[:first]
    cursors = [base64.b64encode(json.dumps(key).encode()).decode() for key, _ in shown]
    return connection(typename, [render(thing) for _, thing in shown], cursors, more=len(found) > first)


def _cursor_key(cursor: Any) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in json.loads(base64.b64decode(str(cursor), validate=True)))
    except (binascii.Error, ValueError, TypeError):
        raise GraphqlError("Invalid cursor for current pagination sort.") from None


def _terms(query: Any) -> list[tuple[str, str, str]]:
    """`updated_at:>='2026-01-01T00:00:00Z' financial_status:paid` as (field, comparison, value) each."""
    return [
        (match[1], match[2] or "=", next((part for part in match.groups()[2:] if part is not None), ""))
        for match in _TERM.finditer(str(query or ""))
    ]


# -- objects -----------------------------------------------------------------------------------------------------------


def _money(account: Account, minor: int) -> dict[str, Any]:
    amount = {"__typename": "MoneyV2", "amount": money(minor), "currencyCode": account.settings.currency}
    return {"__typename": "MoneyBag", "shopMoney": amount, "presentmentMoney": amount}


def shop_object(account: Account) -> dict[str, Any]:
    settings = account.settings
    return {
        "__typename": "Shop",
        "id": f"gid://shopify/Shop/{stable_id(account.name, 'shop')}",
        "name": account.name,
        "email": f"{account.name}@example.com",
        "myshopifyDomain": settings.domain,
        "currencyCode": settings.currency,
        "ianaTimezone": "America/Sao_Paulo",
        "plan": {"__typename": "ShopPlan", "displayName": "Basic", "partnerDevelopment": False, "shopifyPlus": False},
    }


def location_object(account: Account, location: str) -> dict[str, Any]:
    def levels(args: Args) -> Any:
        stocked = [product for product in account.shop.products.values() if location in product.numbers]
        stocked.sort(key=attrgetter("inventory_item_id"))
        found = [((product.inventory_item_id,), product) for product in stocked]
        return _page("InventoryLevel", found, args, lambda product: level_object(account, product, location))

    return {
        "__typename": "Location",
        "id": f"gid://shopify/Location/{location}",
        "legacyResourceId": location,
        "name": f"Depósito {location}",
        "isActive": True,
        "fulfillsOnlineOrders": True,
        "inventoryLevels": levels,
    }


def level_object(account: Account, product: Product, location: str) -> dict[str, Any] | None:
    if location not in product.numbers:
        return None

    def quantities(args: Args) -> list[dict[str, Any]]:
        number = product.numbers[location]
        known = {"available": number, "on_hand": number, "committed": 0, "incoming": 0, "reserved": 0}
        names = args.get("names")
        if not isinstance(names, list):
            raise GraphqlError("Field 'quantities' is missing required arguments: names")
        updated = moment_utc(product.updated_ms)
        return [
            {"__typename": "InventoryQuantity", "name": name, "quantity": known[name], "updatedAt": updated}
            for name in names
            if name in known
        ]

    level_id = f"gid://shopify/InventoryLevel/{location}?inventory_item_id={product.inventory_item_id}"
    return {
        "__typename": "InventoryLevel",
        "id": level_id,
        "isActive": True,
        "updatedAt": moment_utc(product.updated_ms),
        "quantities": quantities,
        "item": lambda _: item_object(account, product),
        "location": lambda _: location_object(account, location),
    }


def item_object(account: Account, product: Product) -> dict[str, Any]:
    def levels(args: Args) -> Any:
        found = [((int(location),), location) for location in sorted(product.numbers, key=int)]
        return _page("InventoryLevel", found, args, lambda location: level_object(account, product, location))

    def level(args: Args) -> Any:
        return level_object(account, product, str(gid_number(args.get("locationId"), "Location")))

    return {
        "__typename": "InventoryItem",
        "id": f"gid://shopify/InventoryItem/{product.inventory_item_id}",
        "legacyResourceId": str(product.inventory_item_id),
        "sku": product.sku,
        "tracked": True,
        "requiresShipping": True,
        "createdAt": moment_utc(product.created_ms),
        "updatedAt": moment_utc(product.updated_ms),
        "inventoryLevels": levels,
        "inventoryLevel": level,
        "variant": lambda _: variant_object(account, product),
    }


def product_object(product: Product) -> dict[str, Any]:
    return {
        "__typename": "Product",
        "id": f"gid://shopify/Product/{product.product_id}",
        "legacyResourceId": str(product.product_id),
        "title": product.title,
        "handle": f"product-{product.product_id}",
        "status": "ACTIVE",
    }


def variant_object(account: Account, product: Product) -> dict[str, Any]:
    return {
        "__typename": "ProductVariant",
        "id": f"gid://shopify/ProductVariant/{product.variant_id}",
        "legacyResourceId": str(product.variant_id),
        "title": "Default Title",
        "displayName": f"{product.title} - Default Title",
        "sku": product.sku,
        "barcode": None,
        "price": money(product.price_minor),
        "inventoryQuantity": product.number,
        "inventoryPolicy": "DENY",
        "inventoryItem": lambda _: item_object(account, product),
        "product": lambda _: product_object(product),
    }


def _line_object(account: Account, line: Line) -> dict[str, Any]:
    product = account.shop.products[line.sku]
    left = line.quantity - line.returned
    return {
        "__typename": "LineItem",
        "id": f"gid://shopify/LineItem/{line.line_id}",
        "sku": line.sku,
        "title": line.title,
        "name": line.title,
        "quantity": line.quantity,
        "currentQuantity": left,
        "refundableQuantity": left,
        "unfulfilledQuantity": left,
        "requiresShipping": True,
        "originalUnitPriceSet": _money(account, line.price_minor),
        "discountedUnitPriceSet": _money(account, line.price_minor),
        "totalDiscountSet": _money(account, 0),
        "variant": lambda _: variant_object(account, product),
        "product": lambda _: product_object(product),
    }


def _refund_object(account: Account, order: Order, refund: Refund) -> dict[str, Any]:
    by_id = {line.line_id: line for line in order.lines}

    def line_object(row: tuple[int, int, bool]) -> dict[str, Any]:
        line_id, quantity, restock = row
        return {
            "__typename": "RefundLineItem",
            "quantity": quantity,
            "restockType": shopify_objects.restock_type(order, refund, restock).upper(),
            "restocked": restock,
            "lineItem": _line_object(account, by_id[line_id]),
        }

    def lines(args: Args) -> Any:
        return _page("RefundLineItem", [((place,), row) for place, row in enumerate(refund.lines)], args, line_object)

    return {
        "__typename": "Refund",
        "id": f"gid://shopify/Refund/{refund.refund_id}",
        "legacyResourceId": str(refund.refund_id),
        "createdAt": moment_utc(refund.at_ms),
        "refundLineItems": lines,
    }


def _address_object(order: Order) -> dict[str, Any]:
    address = buyer(order.buyer)
    return {
        "__typename": "MailingAddress",
        "name": address.name,
        "firstName": address.first_name,
        "lastName": address.last_name,
        "address1": f"{address.street}, {address.street_number}",
        "address2": "",
        "company": None,
        "city": address.city,
        "zip": address.postcode,
        "province": address.region_name,
        "provinceCode": address.region,
        "country": "Brazil",
        "countryCodeV2": "BR",
        "phone": address.phone,
    }


def _customer_object(order: Order) -> dict[str, Any]:
    person = buyer(order.buyer)
    customer_id = stable_id("customer", str(person.number))
    return {
        "__typename": "Customer",
        "id": f"gid://shopify/Customer/{customer_id}",
        "legacyResourceId": str(customer_id),
        "firstName": person.first_name,
        "lastName": person.last_name,
        "displayName": person.name,
        "email": person.email,
        "phone": person.phone,
    }


def order_object(account: Account, order: Order) -> dict[str, Any]:
    def lines(args: Args) -> Any:
        found = [((place,), line) for place, line in enumerate(order.lines)]
        return _page("LineItem", found, args, lambda line: _line_object(account, line))

    shipping = {"__typename": "ShippingLine", "code": "SEDEX", "title": "SEDEX", "source": "shopify"}
    shipping["originalPriceSet"] = shipping["discountedPriceSet"] = _money(account, 0)  # type: ignore[assignment]
    attribute = {"__typename": "Attribute", "key": "CPF", "value": buyer(order.buyer).document}
    cancelled = order.cancelled_ms is not None
    return {
        "__typename": "Order",
        "id": f"gid://shopify/Order/{order.order_id}",
        "legacyResourceId": order.order_id,
        "name": f"#{1000 + order.number}",
        "createdAt": moment_utc(order.placed_ms),
        "processedAt": moment_utc(order.placed_ms),
        "updatedAt": moment_utc(order.updated_ms),
        "cancelledAt": moment_utc(order.cancelled_ms) if order.cancelled_ms is not None else None,
        "cancelReason": "CUSTOMER" if cancelled else None,
        "closedAt": None,
        "confirmed": True,
        "test": False,
        "currencyCode": account.settings.currency,
        "displayFinancialStatus": shopify_objects.financial_status(order).upper(),
        "displayFulfillmentStatus": (shopify_objects.fulfillment_status(order) or "unfulfilled").upper(),
        "fulfillmentOrders": lambda args: _fulfillment_orders(order, args),
        "fulfillments": lambda _: [
            shopify_fulfillments.fulfillment_object(sent) for sent in shopify_objects.fulfillments_of(order)
        ],
        "email": buyer(order.buyer).email,
        "phone": None,
        "note": None,
        "tags": [],
        "sourceName": "web",
        "paymentGatewayNames": ["sandbox"],
        "taxesIncluded": True,
        "customAttributes": [attribute],
        "totalPriceSet": _money(account, order.total_minor),
        "subtotalPriceSet": _money(account, order.total_minor),
        "totalShippingPriceSet": _money(account, 0),
        "totalDiscountsSet": _money(account, 0),
        "totalTaxSet": _money(account, 0),
        "customer": lambda _: _customer_object(order),
        "shippingAddress": lambda _: _address_object(order),
        "billingAddress": lambda _: _address_object(order),
        "shippingLine": shipping,
        "shippingLines": lambda args: _page("ShippingLine", [((0,), shipping)], args, lambda line: line),
        "lineItems": lines,
        "refunds": lambda _: [_refund_object(account, order, refund) for refund in order.refunds],
    }


def _fulfillment_orders(order: Order, args: Args) -> Any:
    def render(_: Order) -> dict[str, Any]:
        found = shopify_fulfillments.fulfillment_order_object(order)
        lines = [((place,), line) for place, line in enumerate(found.pop("lines"))]
        return found | {"lineItems": lambda args: _page("FulfillmentOrderLineItem", lines, args, lambda line: line)}

    return _page("FulfillmentOrder", [((0,), order)], args, render)


def _subscription_object(subscription: Subscription) -> dict[str, Any]:
    return {
        "__typename": "WebhookSubscription",
        "id": f"gid://shopify/WebhookSubscription/{subscription.subscription_id}",
        "legacyResourceId": str(subscription.subscription_id),
        "topic": subscription.topic.replace("/", "_").upper(),
        "format": "JSON",
        "callbackUrl": subscription.address,
        "uri": subscription.address,
        "endpoint": {"__typename": "WebhookHttpEndpoint", "callbackUrl": subscription.address},
        "apiVersion": {"__typename": "ApiVersion", "handle": subscription.api_version, "supported": True},
        "createdAt": moment_utc(subscription.created_ms),
        "updatedAt": moment_utc(subscription.created_ms),
    }


# -- queries -----------------------------------------------------------------------------------------------------------


def query_field(request: Request, name: str, args: Args) -> Any:
    """Resolve one root field of a query."""
    account = request.account
    match name:
        case "shop":
            return shop_object(account)
        case "locations":
            places = [((int(location),), location) for location in sorted(account.shop.locations, key=int)]
            return _page("Location", places, args, lambda location: location_object(account, location))
        case "location" | "inventoryItem" | "inventoryLevel" | "order" | "productVariant" | "node":
            return _node(account, args.get("id"))
        case "nodes":
            ids = args.get("ids")
            if not isinstance(ids, list) or len(ids) > 250:
                raise GraphqlError("ids must be a list of at most 250", "MAX_INPUT_SIZE_EXCEEDED")
            return [_node(account, one) for one in ids]
        case "productVariants":
            return _products_page(account, "ProductVariant", args, "variant_id", variant_object)
        case "inventoryItems":
            return _products_page(account, "InventoryItem", args, "inventory_item_id", item_object)
        case "orders":
            return _orders_page(account, args)
        case "ordersCount":
            count = len(matching_orders(account, args.get("query")))
            return {"__typename": "Count", "count": count, "precision": "EXACT"}
        case "webhookSubscriptions":
            subscriptions = [((key,), subscription) for key, subscription in sorted(account.subscriptions.items())]
            return _page("WebhookSubscription", subscriptions, args, _subscription_object)
    raise GraphqlError(f"Field '{name}' doesn't exist on type 'QueryRoot'", "undefinedField")


def _node(account: Account, gid: Any) -> dict[str, Any] | None:
    shop = account.shop
    typename = str(gid).removeprefix("gid://shopify/").partition("/")[0]
    number = gid_number(gid, typename)
    match typename:
        case "Location":
            return location_object(account, str(number)) if str(number) in shop.locations else None
        case "Order":
            order = shop.orders.get(str(gid).rpartition("/")[2])
            return None if order is None else order_object(account, order)
        case "InventoryItem" if number in shop.sku_of_item:
            return item_object(account, shop.products[shop.sku_of_item[number]])
        case "ProductVariant" if number in shop.sku_of_variant:
            return variant_object(account, shop.products[shop.sku_of_variant[number]])
        case "Product" if number in shop.sku_of_product:
            return product_object(shop.products[shop.sku_of_product[number]])
        case "InventoryLevel":
            item = str(gid).partition("inventory_item_id=")[2]
            sku = shop.sku_of_item.get(int(item)) if item.isdecimal() else None
            return None if sku is None else level_object(account, shop.products[sku], str(number))
    return None


def _products_page(
    account: Account, typename: str, args: Args, key: str, render: Callable[[Account, Product], Any]
) -> Any:
    products = list(account.shop.products.values())
    for name, _, value in _terms(args.get("query")):
        if name == "sku":
            products = [product for product in products if product.sku == value]
        if name == "id":
            products = [product for product in products if str(getattr(product, key)) == value]
    reverse = bool(args.get("reverse"))
    found = sorted((((getattr(product, key),), product) for product in products), key=_sort_key, reverse=reverse)
    return _page(typename, found, args, lambda product: render(account, product))


def _sort_key(pair: tuple[tuple[int, ...], Any]) -> tuple[int, ...]:
    return pair[0]


def matching_orders(account: Account, query: Any) -> list[Order]:
    """Orders that a search query selects; it may compare created_at, processed_at, updated_at (whole seconds), name,
    financial_status and status."""
    orders = list(account.shop.orders.values())
    for name, comparison, value in _terms(query):
        if name in ("updated_at", "created_at", "processed_at"):
            limit_ms = shopify_objects.parse_moment_ms(value)
            if limit_ms is None:
                raise GraphqlError(f"Invalid timestamp for query filter `{name}`.")
            field = attrgetter("updated_ms" if name == "updated_at" else "placed_ms")
            limit_s = limit_ms // 1000
            orders = [order for order in orders if _compare(field(order) // 1000, comparison, limit_s)]
        elif name == "financial_status":
            orders = [order for order in orders if shopify_objects.financial_status(order) == value.lower()]
        elif name == "name":
            orders = [order for order in orders if f"#{1000 + order.number}" == f"#{value.lstrip('#')}"]
        elif name == "status" and value in ("open", "cancelled"):
            orders = [order for order in orders if (order.cancelled_ms is not None) == (value == "cancelled")]
    return orders


def _compare(left: int, comparison: str, right: int) -> bool:
    match comparison:
        case ">=":
            return left >= right
        case ">":
            return left > right
        case "<=":
            return left <= right
        case "<":
            return left < right
    return left == right


def _orders_page(account: Account, args: Args) -> Any:
    orders = matching_orders(account, args.get("query"))
    updated = args.get("sortKey") == "UPDATED_AT"
    found = [
        ((order.updated_ms // 1000 if updated else order.placed_ms // 1000, order.number), order) for order in orders
    ]
    found.sort(key=_sort_key, reverse=bool(args.get("reverse")))
    return _page("Order", found, args, lambda order: order_object(account, order))


# -- mutations ---------------------------------------------------------------------------------------------------------


_SAMPLE_CHANGE = {
    "__typename": "InventoryChange",
    "name": "available",
    "delta": 0,
    "quantityAfterChange": 0,
    "item": {"__typename": "InventoryItem", "id": "", "sku": ""},
    "location": {"__typename": "Location", "id": ""},
}
_SAMPLE_GROUP = {
    "__typename": "InventoryAdjustmentGroup",
    "id": "",
    "createdAt": "",
    "reason": "",
    "referenceDocumentUri": "",
    "changes": [_SAMPLE_CHANGE],
}
_SAMPLE_ERROR = {"__typename": "UserError", "field": [], "message": ""}


def sample_payload(name: str) -> dict[str, Any]:
    """A payload of a mutation with nothing left out, against which a selection is checked before anything is done."""
    match name:
        case "inventorySetQuantities" | "inventoryAdjustQuantities":
            return _payload(name, _SAMPLE_GROUP, [_user_error("", [])])
        case "webhookSubscriptionCreate":
            subscription = _subscription_object(Subscription(0, "", "", "", 0))
            inner: dict[str, Any] = {"webhookSubscription": subscription, "userErrors": [_SAMPLE_ERROR]}
        case "webhookSubscriptionDelete":
            inner = {"deletedWebhookSubscriptionId": "", "userErrors": [_SAMPLE_ERROR]}
        case "orderCancel":
            job = {"__typename": "Job", "id": "", "done": True}
            inner = {"job": job, "orderCancelUserErrors": [_SAMPLE_ERROR], "userErrors": [_SAMPLE_ERROR]}
        case "fulfillmentCreate" | "fulfillmentEventCreate":
            return shopify_fulfillments.sample_payload(name)
        case _:
            raise GraphqlError(f"Field '{name}' doesn't exist on type 'Mutation'", "undefinedField")
    return {"__typename": f"{name[0].upper()}{name[1:]}Payload", **inner}


class Mutations:
    """Resolves the root fields of mutations."""

    def __init__(self, market: Market, writer: Writer) -> None:
        self._market = market
        self._writer = writer

    def field(self, request: Request, root: Selection, args: Args, idempotency_key: str | None) -> Any:
        match root.name:
            case "inventorySetQuantities" | "inventoryAdjustQuantities":
                return self._write(request, root.name, args, idempotency_key)
            case "webhookSubscriptionCreate":
                return self._subscribe(request, args)
            case "webhookSubscriptionDelete":
                return self._unsubscribe(request, args)
            case "orderCancel":
                return self._cancel(request, args)
            case "fulfillmentCreate":
                given = args.get("fulfillment")
                return shopify_fulfillments.create(self._market, request.account, given, request.request_id)
            case "fulfillmentEventCreate":
                given = args.get("fulfillmentEvent")
                return shopify_fulfillments.create_event(self._market, request.account, given, request.request_id)
        raise GraphqlError(f"Field '{root.name}' doesn't exist on type 'Mutation'", "undefinedField")

    def _write(self, request: Request, name: str, args: Args, key: str | None) -> Any:
        account = request.account
        given = args.get("input")
        if not isinstance(given, dict):
            raise GraphqlError(f"Field '{name}' is missing required arguments: input")
        if request.version >= "2026-04" and request.version != "unstable" and key is None:
            raise GraphqlError("The @idempotent directive is required for this mutation but was not provided.")
        write, problem = read_write(request, name, given, key)
        if problem is not None:
            return _payload(name, None, [problem])
        fingerprint = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
        if key is not None:
            earlier = account.answers.get(key)
            if earlier is not None and earlier["fingerprint"] != fingerprint:
                return _payload(name, None, [_user_error("IDEMPOTENCY_KEY_PARAMETER_MISMATCH", ["input"])])
            if earlier is not None:
                request.request_id = earlier["request_id"]
                return earlier["payload"]
            if key in account.answers_pending:
                return _payload(name, None, [_user_error("IDEMPOTENCY_CONCURRENT_REQUEST", ["input"])])
            account.answers_pending.add(key)

        def finished(outcome: Outcome) -> None:
            if key is not None:
                account.answers_pending.discard(key)
                if outcome.kind == "done":
                    payload = self._written(request, name, given, outcome)
                    answer = {"fingerprint": fingerprint, "payload": payload, "request_id": write.context.request_id}
                    self._keep_answer(account, key, answer)

        outcome = self._writer.perform(account, write, finished)
        if outcome.kind == "timeout":
            raise Held
        if outcome.kind == "unavailable":
            raise Unavailable
        if outcome.kind == "throttled":
            raise Throttled
        return self._written(request, name, given, outcome)

    def _written(self, request: Request, name: str, given: dict[str, Any], outcome: Outcome) -> Any:
        if outcome.kind == "refused":
            rows = given["quantities" if name == "inventorySetQuantities" else "changes"]
            return _payload(name, None, [_problem(name, rows, place, code) for place, code in outcome.problems])
        products = request.account.shop.products
        changes = [
            {
                "__typename": "InventoryChange",
                "name": "available",
                "delta": fact["number_after"] - fact["number_before"],
                "quantityAfterChange": fact["number_after"],
                "item": {
                    "__typename": "InventoryItem",
                    "id": f"gid://shopify/InventoryItem/{products[fact['sku']].inventory_item_id}",
                    "sku": fact["sku"],
                },
                "location": {"__typename": "Location", "id": f"gid://shopify/Location/{fact['location']}"},
            }
            for kind, fact in outcome.facts
            if kind == "write"
        ]
        group = {
            "__typename": "InventoryAdjustmentGroup",
            "id": f"gid://shopify/InventoryAdjustmentGroup/{stable_id(request.request_id)}",
            "createdAt": moment_utc(now_ms()),
            "reason": given.get("reason"),
            "referenceDocumentUri": given.get("referenceDocumentUri"),
            "changes": changes,
        }
        return _payload(name, group, [])

    def _keep_answer(self, account: Account, key: str, answer: dict[str, Any]) -> None:
        account.answers[key] = answer
        documents: dict[tuple[str, str], dict[str, Any] | None] = {("answer", key): answer}
        # Shopify promises a day; the oldest are dropped only to bound the memory of a long run.
        while len(account.answers) > 20_000:
            oldest = next(iter(account.answers))
            del account.answers[oldest]
            documents["answer", oldest] = None
        self._market.commit(account, (), now_ms(), documents)

    def _subscribe(self, request: Request, args: Args) -> Any:
        given = args.get("webhookSubscription")
        given = given if isinstance(given, dict) else {}
        address = given.get("callbackUrl") or given.get("uri")
        topic = str(args.get("topic", "")).lower().replace("_", "/", 1)
        made = subscribe(self._market, request.account, topic, address, request.version)
        payload: dict[str, Any] = {"__typename": "WebhookSubscriptionCreatePayload"}
        if isinstance(made, Refusal):
            error = {"__typename": "UserError", "field": ["webhookSubscription", made.reason], "message": made.message}
            return payload | {"webhookSubscription": None, "userErrors": [error]}
        return payload | {"webhookSubscription": _subscription_object(made), "userErrors": []}

    def _unsubscribe(self, request: Request, args: Args) -> Any:
        payload: dict[str, Any] = {"__typename": "WebhookSubscriptionDeletePayload"}
        if unsubscribe(self._market, request.account, gid_number(args.get("id"), "WebhookSubscription")):
            return payload | {"deletedWebhookSubscriptionId": args.get("id"), "userErrors": []}
        error = {"__typename": "UserError", "field": ["id"], "message": "Webhook subscription does not exist"}
        return payload | {"deletedWebhookSubscriptionId": None, "userErrors": [error]}

    def _cancel(self, request: Request, args: Args) -> Any:
        account = request.account
        order = account.shop.orders.get(str(args.get("orderId")).rpartition("/")[2])
        at_ms = now_ms()
        done = (
            Refusal("not_found", "Order does not exist")
            if order is None
            else account.shop.cancel(order, restock=bool(args.get("restock")), by="client", now_ms=at_ms)
        )
        if isinstance(done, Refusal):
            error = {"__typename": "OrderCancelUserError", "field": ["orderId"], "message": done.message}
            return {"__typename": "OrderCancelPayload", "job": None, "orderCancelUserErrors": [error], "userErrors": []}
        assert order is not None
        told = {"order_id": order.order_id, "step": "cancel", "reference": None}
        context = {"request_id": request.request_id, "client_request_id": None}
        self._market.commit_order(account, order, [*done, ("told", told | context)], at_ms)
        job = {"__typename": "Job", "id": f"gid://shopify/Job/{request.request_id}", "done": True}
        return {"__typename": "OrderCancelPayload", "job": job, "orderCancelUserErrors": [], "userErrors": []}


def subscribe(market: Market, account: Account, topic: str, address: Any, version: str) -> Subscription | Refusal:
    """Subscribe an address to a topic; one address takes a topic once."""
    if topic not in TOPICS:
        return Refusal("topic", f"topic {topic!r} is not one of {', '.join(TOPICS)}")
    if not isinstance(address, str) or not address.startswith(("http://", "https://")):
        return Refusal("callbackUrl", "Address is invalid")
    if any(one.topic == topic and one.address == address for one in account.subscriptions.values()):
        return Refusal("callbackUrl", "Address for this topic has already been taken")
    subscription_id = stable_id(account.name, topic, address)
    subscription = Subscription(subscription_id, topic, address, version, now_ms())
    account.subscriptions[subscription_id] = subscription
    kept = {name: getattr(subscription, name) for name in Subscription.__slots__}
    market.commit(account, (), now_ms(), {("subscription", str(subscription_id)): kept})
    return subscription


def unsubscribe(market: Market, account: Account, subscription_id: int) -> bool:
    """Remove a subscription; False if there is none."""
    if account.subscriptions.pop(subscription_id, None) is None:
        return False
    market.commit(account, (), now_ms(), {("subscription", str(subscription_id)): None})
    return True


# -- reading a stock write ---------------------------------------------------------------------------------------------


def read_write(
    request: Request, name: str, given: dict[str, Any], key: str | None
) -> tuple[Write, dict[str, Any] | None]:
    """The write in a mutation's input, and the user error if it is refused before its rows are looked at."""
    setting = name == "inventorySetQuantities"
    rows = given.get("quantities" if setting else "changes")
    limit = request.account.settings.limits.graphql_input_array_max
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise GraphqlError(f"Variable $input of type {name[0].upper()}{name[1:]}Input! was provided invalid value")
    if len(rows) > limit:
        message = f"The input array size of {len(rows)} is greater than the maximum allowed of {limit}."
        raise GraphqlError(message, "MAX_INPUT_SIZE_EXCEEDED")
    reference = given.get("referenceDocumentUri")
    context = WriteContext(request.request_id, request.client_request_id, reference, key)
    ignore = given.get("ignoreCompareQuantity") is True
    changes = [_change(request, row, setting=setting, ignore=ignore) for row in rows]
    write = Write(name, changes, context, delta=not setting)
    if given.get("name") not in ("available", "on_hand") or (not setting and given.get("name") != "available"):
        return write, _user_error("INVALID_NAME" if setting else "INVALID_QUANTITY_NAME", ["input", "name"])
    if given.get("reason") not in REASONS:
        return write, _user_error("INVALID_REASON", ["input", "reason"])
    if reference is not None and not re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://\S+$", str(reference)):
        return write, _user_error("INVALID_REFERENCE_DOCUMENT", ["input", "referenceDocumentUri"])
    if setting and not ignore:
        for place, row in enumerate(rows):
            if "compareQuantity" not in row and "changeFromQuantity" not in row:
                path = ["input", "quantities", str(place), "compareQuantity"]
                return write, _user_error("COMPARE_QUANTITY_REQUIRED", path)
    return write, None


def _change(request: Request, row: dict[str, Any], *, setting: bool, ignore: bool) -> Change:
    quantity = row.get("quantity" if setting else "delta")
    compare = row.get("changeFromQuantity")
    if "compareQuantity" in row or ignore:
        if request.version >= "2026-04":
            raise GraphqlError("InputObject 'InventoryQuantityInput' doesn't accept argument 'compareQuantity'")
        compare = None if ignore else row.get("compareQuantity")
    for number in (quantity, 0 if compare is None else compare):
        if not isinstance(number, int) or isinstance(number, bool):
            raise GraphqlError("Variable $input was provided invalid value: a quantity must be an Int")
    item = gid_number(row.get("inventoryItemId"), "InventoryItem")
    location = str(gid_number(row.get("locationId"), "Location"))
    sku = request.account.shop.sku_of_item.get(item, f"item {row.get('inventoryItemId')}")
    assert isinstance(quantity, int)
    return Change(sku, location, quantity, compare)


def _user_error(code: str, path: list[str], message: str | None = None) -> dict[str, Any]:
    text = message or code.replace("_", " ").capitalize() + "."
    return {"__typename": "InventorySetQuantitiesUserError", "code": code, "field": path, "message": text}


def _problem(name: str, rows: list[dict[str, Any]], place: int, code: str) -> dict[str, Any]:
    array = "quantities" if name == "inventorySetQuantities" else "changes"
    if code == "stale":
        compare = "changeFromQuantity" if "changeFromQuantity" in rows[place] else "compareQuantity"
        stale = "CHANGE_FROM_QUANTITY_STALE" if compare == "changeFromQuantity" else "COMPARE_QUANTITY_STALE"
        message = f"The {compare} value does not match persisted value."
        return _user_error(stale, ["input", array, str(place), compare], message)
    error, last, message = _PROBLEMS[code]
    if array == "changes" and last == "quantity":
        last = "delta"
    return _user_error(error, ["input", array, str(place), last], message)


def _payload(name: str, group: dict[str, Any] | None, errors: list[dict[str, Any]]) -> dict[str, Any]:
    typename = f"{name[0].upper()}{name[1:]}Payload"
    return {"__typename": typename, "inventoryAdjustmentGroup": group, "userErrors": errors}

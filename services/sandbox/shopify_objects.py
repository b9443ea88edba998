"""A shop's products, orders and refunds as Shopify's Admin REST objects (money as text, times with an offset)."""

from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

from services.sandbox.buyers import Buyer, buyer
from services.sandbox.market import Account, Subscription
from services.sandbox.shop import Line, Order, Product, Refund, stable_id

_SHOP_ZONE = timezone(timedelta(hours=-3))


def money(minor: int) -> str:
    """Minor units as decimal text."""
    return f"{minor // 100}.{minor % 100:02d}"


def moment(at_ms: int) -> str:
    """ISO 8601 with the shop's offset, whole seconds."""
    return datetime.fromtimestamp(at_ms // 1000, _SHOP_ZONE).isoformat()


def moment_utc(at_ms: int) -> str:
    """ISO 8601 in UTC, whole seconds, as GraphQL gives times."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_moment_ms(text: str) -> int | None:
    """Milliseconds of an ISO 8601 time (UTC if it names no offset), None if it is none."""
    try:
        parsed = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def variant(product: Product, position: int = 1) -> dict[str, Any]:
    return {
        "id": product.variant_id,
        "product_id": product.product_id,
        "title": "Default Title",
        "price": money(product.price_minor),
        "sku": product.sku,
        "position": position,
        "inventory_policy": "deny",
        "compare_at_price": None,
        "fulfillment_service": "manual",
        "inventory_management": "shopify",
        "option1": "Default Title",
        "option2": None,
        "option3": None,
        "created_at": moment(product.created_ms),
        "updated_at": moment(product.updated_ms),
        "taxable": True,
        "barcode": None,
        "grams": 0,
        "weight": 0.0,
        "weight_unit": "kg",
        "inventory_item_id": product.inventory_item_id,
        "inventory_quantity": product.number,
        "old_inventory_quantity": product.number,
        "requires_shipping": True,
        "admin_graphql_api_id": f"gid://shopify/ProductVariant/{product.variant_id}",
        "image_id": None,
    }


def product(item: Product) -> dict[str, Any]:
    return {
        "id": item.product_id,
        "title": item.title,
        "body_html": "",
        "vendor": "",
        "product_type": "",
        "created_at": moment(item.created_ms),
        "handle": f"product-{item.product_id}",
        "updated_at": moment(item.updated_ms),
        "published_at": moment(item.created_ms),
        "template_suffix": None,
        "published_scope": "global",
        "tags": "",
        "status": "active",
        "admin_graphql_api_id": f"gid://shopify/Product/{item.product_id}",
        "variants": [variant(item)],
        "options": [
            {
                "id": stable_id(str(item.product_id), "option"),
                "product_id": item.product_id,
                "name": "Title",
                "position": 1,
                "values": ["Default Title"],
            }
        ],
        "images": [],
        "image": None,
    }


def location(location_id: str, created_ms: int = 0) -> dict[str, Any]:
    return {
        "id": int(location_id),
        "name": f"Depósito {location_id}",
        "address1": None,
        "address2": None,
        "city": None,
        "zip": None,
        "province": None,
        "country": "BR",
        "phone": None,
        "created_at": moment(created_ms),
        "updated_at": moment(created_ms),
        "deleted_at": None,
        "country_code": "BR",
        "country_name": "Brazil",
        "province_code": None,
        "legacy": False,
        "active": True,
        "admin_graphql_api_id": f"gid://shopify/Location/{location_id}",
    }


def inventory_level(item: Product, location_id: str) -> dict[str, Any]:
    return {
        "inventory_item_id": item.inventory_item_id,
        "location_id": int(location_id),
        "available": item.numbers[location_id],
        "updated_at": moment(item.updated_ms),
        "admin_graphql_api_id": f"gid://shopify/InventoryLevel/{location_id}?inventory_item_id={item.inventory_item_id}",
    }


def inventory_item(item: Product) -> dict[str, Any]:
    return {
        "id": item.inventory_item_id,
        "sku": item.sku,
        "created_at": moment(item.created_ms),
        "updated_at": moment(item.updated_ms),
        "requires_shipping": True,
        "cost": None,
        "country_code_of_origin": None,
        "tracked": True,
        "admin_graphql_api_id": f"gid://shopify/InventoryItem/{item.inventory_item_id}",
    }


def shop(account: Account) -> dict[str, Any]:
    settings = account.settings
    return {
        "id": stable_id(account.name, "shop"),
        "name": account.name,
        "email": f"{account.name}@example.com",
        "domain": settings.domain,
        "myshopify_domain": settings.domain,
        "currency": settings.currency,
        "country": "BR",
        "country_code": "BR",
        "timezone": "(GMT-03:00) America/Sao_Paulo",
        "iana_timezone": "America/Sao_Paulo",
        "plan_name": "basic",
        "primary_location_id": int(settings.locations[0]),
        "taxes_included": True,
    }


def webhook(subscription: Subscription) -> dict[str, Any]:
    return {
        "id": subscription.subscription_id,
        "address": subscription.address,
        "topic": subscription.topic,
        "created_at": moment(subscription.created_ms),
        "updated_at": moment(subscription.created_ms),
        "format": "json",
        "fields": [],
        "metafield_namespaces": [],
        "api_version": subscription.api_version,
        "private_metafield_namespaces": [],
    }


@lru_cache(maxsize=4096)
def _address_json(seed: int) -> dict[str, Any]:
    person = buyer(seed)
    return {
        "first_name": person.first_name,
        "last_name": person.last_name,
        "name": person.name,
        "address1": f"{person.street}, {person.street_number}",
        "address2": "",
        "company": None,
        "phone": person.phone,
        "city": person.city,
        "zip": person.postcode,
        "province": person.region_name,
        "province_code": person.region,
        "country": "Brazil",
        "country_code": "BR",
    }


def _customer(person: Buyer, order: Order, currency: str) -> dict[str, Any]:
    customer_id = stable_id("customer", str(person.number))
    address = {**_address_json(person.number), "id": customer_id, "country_name": "Brazil", "default": True}
    return {
        "id": customer_id,
        "email": person.email,
        "first_name": person.first_name,
        "last_name": person.last_name,
        "phone": person.phone,
        "state": "disabled",
        "note": None,
        "verified_email": True,
        "multipass_identifier": None,
        "tags": "",
        "currency": currency,
        "created_at": moment(order.placed_ms),
        "updated_at": moment(order.placed_ms),
        "default_address": address,
    }


def line_item(account: Account, order: Order, line: Line) -> dict[str, Any]:
    item = account.shop.products[line.sku]
    left = line.quantity - line.returned
    return {
        "id": line.line_id,
        "admin_graphql_api_id": f"gid://shopify/LineItem/{line.line_id}",
        "sku": line.sku,
        "variant_id": item.variant_id,
        "product_id": item.product_id,
        "title": line.title,
        "name": line.title,
        "variant_title": None,
        "vendor": None,
        "quantity": line.quantity,
        "current_quantity": left,
        "fulfillable_quantity": remaining(order).get(line.line_id, 0),
        "fulfillment_service": "manual",
        "fulfillment_status": line_status(order, line),
        "variant_inventory_management": "shopify",
        "grams": 0,
        "price": money(line.price_minor),
        "total_discount": "0.00",
        "requires_shipping": True,
        "taxable": True,
        "gift_card": False,
        "product_exists": True,
        "properties": [],
        "tax_lines": [],
        "discount_allocations": [],
    }


def financial_status(order: Order) -> str:
    """pending, paid, partially_refunded, refunded or voided."""
    if order.paid_ms is None:
        return "pending" if order.cancelled_ms is None else "voided"
    returned = sum(line.returned for line in order.lines)
    if not returned:
        return "paid"
    return "refunded" if returned == sum(line.quantity for line in order.lines) else "partially_refunded"


def fulfillments_of(order: Order) -> list[dict[str, Any]]:
    """What was sent of an order: {id, lines: [[line id, units]], tracking, at_ms, events: [[status, at]]} each."""
    return list((order.shipment or {}).get("fulfillments", []))


def sent_units(order: Order, line_id: int) -> int:
    """Units of a line that have left."""
    return sum(units for sent in fulfillments_of(order) for line, units in sent["lines"] if line == line_id)


def remaining(order: Order) -> dict[int, int]:
    """Units by line that are still to be sent."""
    if order.cancelled_ms is not None:
        return {}
    left = {line.line_id: line.quantity - line.returned - sent_units(order, line.line_id) for line in order.lines}
    return {line_id: units for line_id, units in left.items() if units > 0}


def rest_fulfillments(order: Order) -> list[dict[str, Any]]:
    """`fulfillments` of the REST order."""
    return [
        {
            "id": sent["id"],
            "order_id": int(order.order_id),
            "status": "success",
            "service": "manual",
            "created_at": moment_utc(sent["at_ms"]),
            "tracking_company": sent["tracking"]["company"],
            "tracking_number": sent["tracking"]["number"],
            "tracking_url": sent["tracking"]["url"],
            "shipment_status": sent["events"][-1][0].lower() if sent["events"] else None,
            "line_items": [{"id": line_id, "quantity": units} for line_id, units in sent["lines"]],
        }
        for sent in fulfillments_of(order)
    ]


def line_status(order: Order, line: Line) -> str | None:
    """fulfilled, partial, or None while nothing of the line has left."""
    sent = sent_units(order, line.line_id)
    return None if not sent else "fulfilled" if sent >= line.quantity - line.returned else "partial"


def fulfillment_status(order: Order) -> str | None:
    """fulfilled, partial, or None while nothing of the order has left."""
    if not fulfillments_of(order):
        return None
    return "partial" if remaining(order) else "fulfilled"


def restock_type(order: Order, given: Refund, restock: bool) -> str:
    """`return` is for units that have left the shop: those of refunds after everything has."""
    sent = fulfillments_of(order)
    left_the_shop = bool(sent) and not remaining(order) and given.at_ms >= sent[-1]["at_ms"]
    return ("return" if left_the_shop else "cancel") if restock else "no_restock"


def refund(account: Account, order: Order, given: Refund) -> dict[str, Any]:
    by_id = {line.line_id: line for line in order.lines}
    lines = [
        {
            "id": stable_id(str(given.refund_id), str(place)),
            "line_item_id": line_id,
            "location_id": int(by_id[line_id].location) if restock else None,
            "quantity": quantity,
            "restock_type": restock_type(order, given, restock),
            "subtotal": float(money(quantity * by_id[line_id].price_minor)),
            "total_tax": 0.0,
            "line_item": line_item(account, order, by_id[line_id]),
        }
        for place, (line_id, quantity, restock) in enumerate(given.lines)
    ]
    amount = sum(quantity * by_id[line_id].price_minor for line_id, quantity, _ in given.lines)
    transaction = {
        "id": stable_id(str(given.refund_id), "transaction"),
        "order_id": int(order.order_id),
        "amount": money(amount),
        "kind": "refund",
        "gateway": "sandbox",
        "status": "success",
        "message": None,
        "created_at": moment(given.at_ms),
        "test": False,
        "authorization": None,
        "currency": account.settings.currency,
        "parent_id": None,
        "error_code": None,
        "source_name": "web",
    }
    return {
        "id": given.refund_id,
        "admin_graphql_api_id": f"gid://shopify/Refund/{given.refund_id}",
        "order_id": int(order.order_id),
        "created_at": moment(given.at_ms),
        "processed_at": moment(given.at_ms),
        "note": None,
        "restock": any(restock for _, _, restock in given.lines),
        "user_id": None,
        "refund_line_items": lines,
        "transactions": [transaction] if order.paid_ms is not None else [],
        "order_adjustments": [],
    }


def order(account: Account, sale: Order) -> dict[str, Any]:
    """The whole order, as webhooks and REST give it."""
    person = buyer(sale.buyer)
    address = _address_json(sale.buyer)
    total = money(sale.total_minor)
    current = money(sum((line.quantity - line.returned) * line.price_minor for line in sale.lines))
    cancelled = sale.cancelled_ms is not None
    return {
        "id": int(sale.order_id),
        "admin_graphql_api_id": f"gid://shopify/Order/{sale.order_id}",
        "name": f"#{1000 + sale.number}",
        "number": sale.number,
        "order_number": 1000 + sale.number,
        "token": f"{stable_id(account.name, sale.order_id, 'token'):032x}",
        "created_at": moment(sale.placed_ms),
        "processed_at": moment(sale.placed_ms),
        "updated_at": moment(sale.updated_ms),
        "cancelled_at": moment(sale.cancelled_ms) if sale.cancelled_ms is not None else None,
        "cancel_reason": "customer" if cancelled else None,
        "closed_at": None,
        "confirmed": True,
        "test": False,
        "currency": account.settings.currency,
        "presentment_currency": account.settings.currency,
        "email": person.email,
        "phone": None,
        "buyer_accepts_marketing": False,
        "financial_status": financial_status(sale),
        "fulfillment_status": fulfillment_status(sale),
        "gateway": "sandbox",
        "payment_gateway_names": ["sandbox"],
        "processing_method": "direct",
        "source_name": "web",
        "location_id": None,
        "user_id": None,
        "browser_ip": None,
        "cart_token": None,
        "checkout_id": None,
        "checkout_token": None,
        "landing_site": "/",
        "referring_site": "",
        "note": None,
        "note_attributes": [{"name": "CPF", "value": person.document}],
        "tags": "",
        "subtotal_price": total,
        "total_line_items_price": total,
        "total_price": total,
        "current_total_price": current,
        "total_outstanding": total if sale.paid_ms is None and not cancelled else "0.00",
        "total_discounts": "0.00",
        "total_tax": "0.00",
        "total_weight": 0,
        "taxes_included": True,
        "discount_codes": [],
        "tax_lines": [],
        "shipping_lines": [
            {"id": stable_id(sale.order_id, "shipping"), "code": "SEDEX", "title": "SEDEX", "price": "0.00"}
            | {"source": "shopify", "carrier_identifier": None, "tax_lines": []}
        ],
        "client_details": {"accept_language": None, "browser_ip": None, "session_hash": None, "user_agent": None},
        "customer": _customer(person, sale, account.settings.currency),
        "billing_address": address,
        "shipping_address": address,
        "line_items": [line_item(account, sale, line) for line in sale.lines],
        "fulfillments": rest_fulfillments(sale),
        "refunds": [refund(account, sale, given) for given in sale.refunds],
    }

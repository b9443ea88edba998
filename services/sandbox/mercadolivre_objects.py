"""Mercado Livre's objects as its interface shows them: orders, shipments, adverts, stock, stores."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from services.sandbox.buyers import buyer
from services.sandbox.market import MELI_FULL, Account
from services.sandbox.shop import Order, Product, Shop, stable_id

_ZONE = timezone(timedelta(hours=-4))
_HIDDEN = "XXXXXXX"
_STATUS = {"new": "payment_required", "canceled": "cancelled"}
_SHIPMENT_STATUS = {
    "new": "pending",
    "approved": "ready_to_ship",
    "invoiced": "ready_to_ship",
    "shipped": "shipped",
    "delivered": "delivered",
    "shipment_exception": "not_delivered",
    "canceled": "cancelled",
}


def moment(at_ms: int) -> str:
    """A time as orders and shipments have it, with milliseconds and a zone."""
    return datetime.fromtimestamp(at_ms / 1000, _ZONE).isoformat(timespec="milliseconds")


def moment_utc(at_ms: int) -> str:
    """A time as notifications have it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def read_moment_ms(text: str) -> int | None:
    """The milliseconds of a time with a zone, None if it is none."""
    try:
        # A plus sign that was not escaped in a query arrives as a space.
        at = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        return None
    return None if at.tzinfo is None else int(at.timestamp() * 1000)


def user_id(account: Account) -> int:
    """The seller's number."""
    return int(account.settings.credentials["user_id"])


def node_of(location: str) -> str:
    """The network node of a store."""
    return f"BRP{location}"


def user_product_of(product: Product) -> str:
    """The id of what is really in stock, however many adverts there are of it."""
    return f"MLBU{product.product_id}"


def advert_of(product: Product, advert: int) -> str:
    """The id of one advert of a product, counted from 0."""
    return f"MLB{product.variant_id + advert}"


def find_user_product(shop: Shop, text: str) -> Product | None:
    """The product of a user product id."""
    number = text.removeprefix("MLBU")
    sku = shop.sku_of_product.get(int(number)) if number.isdecimal() and text.startswith("MLBU") else None
    return None if sku is None else shop.products[sku]


def find_advert(shop: Shop, text: str) -> tuple[Product, int] | None:
    """The product of an advert id and which of its adverts it is."""
    number = text.removeprefix("MLB")
    if not number.isdecimal() or number == text:
        return None
    for advert in range(9):
        sku = shop.sku_of_variant.get(int(number) - advert)
        if sku is not None and advert < shop.products[sku].adverts:
            return shop.products[sku], advert
    return None


def pack_id(account: Account, order: Order) -> int | None:
    """The purchase that the order is part of, None if it stands alone."""
    return stable_id(account.name, "pack", order.pack) if order.pack else None


def shipment_id(account: Account, order: Order) -> int:
    """The shipment of the order; orders of one pack travel together."""
    return stable_id(account.name, "shipment", order.pack or order.order_id)


def order_status(order: Order) -> str:
    """The order's status in Mercado Livre's words; where the parcel is is not among them."""
    if order.status in _STATUS:
        return _STATUS[order.status]
    if all(line.returned == line.quantity for line in order.lines):
        return "cancelled"
    return "partially_refunded" if order.refunds else "paid"


def _tags(order: Order) -> list[str]:
    tags = ["delivered" if order.status == "delivered" else "not_delivered"]
    tags.append("not_paid" if order.paid_ms is None else "paid")
    return tags + (["pack_order"] if order.pack else [])


def _order_items(account: Account, order: Order) -> list[dict[str, Any]]:
    found = []
    for line in order.lines:
        product = account.shop.products[line.sku]
        item: dict[str, Any] = {
            "id": advert_of(product, line.advert),
            "title": line.title,
            "category_id": "MLB1000",
            "variation_id": None,
            "seller_custom_field": None,
            "seller_sku": line.sku,
            "variation_attributes": [],
            "condition": "new",
            "user_product_id": user_product_of(product),
        }
        full = line.location == MELI_FULL
        stock = {"store_id": None, "node_id": MELI_FULL} if full else None
        found.append(
            {
                "item": item,
                "quantity": line.quantity,
                "requested_quantity": {"value": line.quantity, "measure": "unit"},
                "unit_price": line.price_minor / 100,
                "full_unit_price": line.price_minor / 100,
                "currency_id": account.settings.currency,
                "sale_fee": round(line.price_minor * 0.12) / 100,
                "listing_type_id": "gold_special",
                "stock": stock or {"store_id": line.location, "node_id": node_of(line.location)},
            }
        )
    return found


def _payments(account: Account, order: Order) -> list[dict[str, Any]]:
    returned = sum(line.price_minor * line.returned for line in order.lines)
    status = "pending" if order.paid_ms is None else "approved"
    if order.cancelled_ms is not None:
        status = "cancelled" if order.paid_ms is None else "refunded"
    return [
        {
            "id": stable_id(account.name, order.order_id, "payment"),
            "order_id": int(order.order_id),
            "transaction_amount": order.total_minor / 100,
            "transaction_amount_refunded": 0 if order.paid_ms is None else returned / 100,
            "currency_id": account.settings.currency,
            "status": status,
            "payment_method_id": "pix",
            "date_created": moment(order.placed_ms),
            "date_approved": None if order.paid_ms is None else moment(order.paid_ms),
            "date_last_modified": moment(order.updated_ms),
        }
    ]


def order(account: Account, order: Order) -> dict[str, Any]:
    """`GET /orders/{id}` and a row of the search. The stock goes down when the order is made, so it is closed then."""
    total = order.total_minor / 100
    return {
        "id": int(order.order_id),
        "status": order_status(order),
        "status_detail": None,
        "date_created": moment(order.placed_ms),
        "date_closed": moment(order.placed_ms),
        "last_updated": moment(order.updated_ms),
        "date_last_updated": moment(order.updated_ms),
        "expiration_date": moment(order.placed_ms + 30 * 86_400_000),
        "order_items": _order_items(account, order),
        "total_amount": total,
        "paid_amount": 0 if order.paid_ms is None else total,
        "currency_id": account.settings.currency,
        "buyer": {"id": stable_id("buyer", str(order.buyer)), "nickname": f"COMPRADOR{order.buyer}"},
        "seller": {"id": user_id(account), "nickname": account.name.upper()},
        "payments": _payments(account, order),
        "feedback": {"buyer": None, "seller": None},
        "mediations": [],
        "context": {"channel": "marketplace", "site": "MLB", "flows": []},
        "pack_id": pack_id(account, order),
        "shipping": {"id": shipment_id(account, order)},
        "tags": _tags(order),
    }


def _address(order: Order) -> dict[str, Any]:
    """Where it goes, hidden until the order is paid."""
    person = buyer(order.buyer)
    shown = order.paid_ms is not None
    return {
        "id": stable_id("address", str(order.buyer)),
        "address_line": f"{person.street} {person.street_number}" if shown else _HIDDEN,
        "street_name": person.street if shown else _HIDDEN,
        "street_number": person.street_number if shown else _HIDDEN,
        "comment": None,
        "zip_code": person.postcode.replace("-", "") if shown else _HIDDEN,
        "city": {"id": None, "name": person.city},
        "state": {"id": f"BR-{person.region}", "name": person.region_name},
        "country": {"id": "BR", "name": "Brasil"},
        "neighborhood": {"id": None, "name": person.neighborhood if shown else _HIDDEN},
        "municipality": {"id": None, "name": None},
        "receiver_name": person.name if shown else _HIDDEN,
        "receiver_phone": person.phone if shown else _HIDDEN,
    }


def shipment(account: Account, orders: Sequence[Order], *, new_format: bool) -> dict[str, Any]:
    """`GET /shipments/{id}` of the orders that travel together; `new_format` is the header `x-format-new: true`."""
    first = orders[0]
    going = [one for one in orders if one.status != "canceled"] or list(orders)
    status = _SHIPMENT_STATUS[going[0].status]
    substatus = None
    if status == "ready_to_ship":
        substatus = "ready_to_print" if all(one.invoice for one in going) else "invoice_pending"
    full = any(line.location == MELI_FULL for line in first.lines)
    track = first.shipment or {}
    told: dict[str, Any] = {
        "id": shipment_id(account, first),
        "status": status,
        "substatus": substatus,
        "date_created": moment(min(one.placed_ms for one in orders)),
        "last_updated": moment(max(one.updated_ms for one in orders)),
        "declared_value": sum(one.total_minor for one in orders) / 100,
        "currency_id": account.settings.currency,
        "tracking_number": track.get("tracking_number"),
        "tracking_method": track.get("tracking_method"),
        "logistic": {"direction": "forward", "mode": "me2", "type": "fulfillment" if full else "cross_docking"},
        "external_reference": None,
    }
    address = _address(first)
    name, phone = address.pop("receiver_name"), address.pop("receiver_phone")
    if new_format:
        place = {"receiver_id": stable_id("buyer", str(first.buyer)), "receiver_name": name, "receiver_phone": phone}
        return told | {"destination": {**place, "type": "buying_address", "shipping_address": address}}
    whose = {"order_id": int(first.order_id), "mode": "me2", "logistic_type": told["logistic"]["type"]}
    return told | whose | {"receiver_address": {**address, "receiver_name": name, "receiver_phone": phone}}


def sla(account: Account, orders: Sequence[Order], at_ms: int) -> dict[str, Any] | None:
    """`GET /shipments/{id}/sla`: until when it has to be handed over; nothing where nothing is, or the channel does."""
    going = [one for one in orders if one.status != "canceled"]
    if not going or any(line.location == MELI_FULL for line in orders[0].lines):
        return None
    due_ms = min(one.placed_ms for one in going) + int(account.settings.dispatch_h * 3_600_000)
    sent = all(one.status in ("shipped", "delivered", "shipment_exception") for one in going)
    return {
        "status": "on_time" if sent or at_ms <= due_ms else "delayed",
        "service": None,
        "expected_date": moment(due_ms),
        "last_updated": moment_utc(min(one.placed_ms for one in going)),
    }


def item(account: Account, product: Product, advert: int) -> dict[str, Any]:
    """One advert; adverts of one product show the same number."""
    number = max(0, product.number)
    return {
        "id": advert_of(product, advert),
        "site_id": "MLB",
        "title": product.title,
        "seller_id": user_id(account),
        "user_product_id": user_product_of(product),
        "price": product.price_minor / 100,
        "base_price": product.price_minor / 100,
        "currency_id": account.settings.currency,
        "available_quantity": number,
        "status": "active" if number else "paused",
        "sub_status": [] if number else ["out_of_stock"],
        "seller_custom_field": None,
        "attributes": [{"id": "SELLER_SKU", "name": "SKU", "value_id": None, "value_name": product.sku}],
        "variations": [],
        "date_created": moment_utc(product.created_ms),
        "last_updated": moment_utc(product.updated_ms),
    }


def stock(account: Account, product: Product) -> dict[str, Any]:
    """`GET /user-products/{id}/stock`; the version is in the header."""
    locations: list[dict[str, Any]] = []
    for location, number in product.numbers.items():
        if location == MELI_FULL:
            locations.append({"type": MELI_FULL, "quantity": number})
        else:
            place = {"type": "seller_warehouse", "network_node_id": node_of(location), "store_id": location}
            locations.append({**place, "quantity": number})
    return {"locations": locations, "user_id": user_id(account), "id": user_product_of(product)}


def store(account: Account, location: str) -> dict[str, Any]:
    """A seller's warehouse."""
    return {
        "id": location,
        "user_id": str(user_id(account)),
        "description": f"Depósito {location}",
        "status": "active",
        "location": {"address_id": 1, "city": "São Paulo", "state": "São Paulo", "country": "Brasil"},
        "tags": ["stock_location"],
        "network_node_id": node_of(location),
        "services": {"stock_location": ["cross_docking"]},
    }


def user(account: Account) -> dict[str, Any]:
    """The seller."""
    tags = ["normal", "user_product_seller", "warehouse_management"]
    several = ["multiwarehouse"] if len(account.shop.locations) > 1 else []
    return {"id": user_id(account), "nickname": account.name.upper(), "site_id": "MLB", "tags": tags + several}

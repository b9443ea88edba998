"""What Shopify is told of parcels: fulfillment orders, fulfillments and their events.

Admin API `fulfillmentCreate`, `fulfillmentEventCreate`. An order has one fulfillment order here, of the order's own
number, whose lines are those of the order; a fulfillment's number is the order's followed by two digits.
"""

from typing import Any

from services.sandbox.books import now_ms
from services.sandbox.market import Account, Market
from services.sandbox.shop import Order, Refusal
from services.sandbox.shopify_objects import fulfillments_of, moment_utc, remaining

_EVENTS = (
    "LABEL_PURCHASED", "LABEL_PRINTED", "READY_FOR_PICKUP", "CONFIRMED", "IN_TRANSIT", "OUT_FOR_DELIVERY",
    "ATTEMPTED_DELIVERY", "DELAYED", "DELIVERED", "FAILURE", "CARRIER_PICKED_UP",
)  # fmt: skip
_MOST = 99


def fulfillment_order_object(order: Order) -> dict[str, Any]:
    """The one fulfillment order of an order; `lineItems` is for the caller to page."""
    left = remaining(order)
    return {
        "__typename": "FulfillmentOrder",
        "id": f"gid://shopify/FulfillmentOrder/{order.order_id}",
        "status": "OPEN" if left and order.paid_ms is not None else "CLOSED",
        "lines": [
            {
                "__typename": "FulfillmentOrderLineItem",
                "id": f"gid://shopify/FulfillmentOrderLineItem/{line.line_id}",
                "totalQuantity": line.quantity,
                "remainingQuantity": left.get(line.line_id, 0),
                "lineItem": {"__typename": "LineItem", "id": f"gid://shopify/LineItem/{line.line_id}"},
            }
            for line in order.lines
        ],
    }


def fulfillment_object(sent: dict[str, Any]) -> dict[str, Any]:
    """A fulfillment as GraphQL has it."""
    tracking = {"__typename": "FulfillmentTrackingInfo", **sent["tracking"]}
    return {
        "__typename": "Fulfillment",
        "id": f"gid://shopify/Fulfillment/{sent['id']}",
        "legacyResourceId": str(sent["id"]),
        "status": "SUCCESS",
        "displayStatus": sent["events"][-1][0] if sent["events"] else "FULFILLED",
        "createdAt": moment_utc(sent["at_ms"]),
        "trackingInfo": [tracking],
    }


def _number(gid: Any) -> int:
    text = str(gid).rpartition("/")[2]
    return int(text) if text.isdecimal() else 0


def _payload(name: str, inner: str, found: dict[str, Any] | None, message: str = "") -> dict[str, Any]:
    errors = [{"__typename": "UserError", "field": [inner], "message": message}] if message else []
    return {"__typename": f"{name[0].upper()}{name[1:]}Payload", inner: found, "userErrors": errors}


def sample_payload(name: str) -> dict[str, Any]:
    """A payload with nothing left out."""
    inner = "fulfillment" if name == "fulfillmentCreate" else "fulfillmentEvent"
    sent = {"id": 0, "lines": [], "tracking": {"company": "", "number": "", "url": ""}, "at_ms": 0, "events": []}
    event = {"__typename": "FulfillmentEvent", "id": "", "status": "", "happenedAt": ""}
    return _payload(name, inner, fulfillment_object(sent) if inner == "fulfillment" else event, "none")


def _told(order: Order, step: str, reference: str, request_id: str) -> tuple[str, dict[str, Any]]:
    fact = {"order_id": order.order_id, "step": step, "reference": reference}
    return "told", fact | {"request_id": request_id, "client_request_id": None}


def create(market: Market, account: Account, given: Any, request_id: str) -> dict[str, Any]:
    """`fulfillmentCreate`: all that is left of a fulfillment order, or the lines named."""
    given = given if isinstance(given, dict) else {}
    rows = given.get("lineItemsByFulfillmentOrder")
    row = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    order = account.shop.orders.get(str(_number(row.get("fulfillmentOrderId"))))
    left = remaining(order) if order and order.paid_ms is not None else {}
    if order is None or not left:
        return _payload("fulfillmentCreate", "fulfillment", None, "Fulfillment order has nothing left to fulfill.")
    chosen = row.get("fulfillmentOrderLineItems")
    lines = {_number(one.get("id")): one.get("quantity") for one in chosen} if chosen else dict(left)
    if not all(isinstance(units, int) and 0 < units <= left.get(line, 0) for line, units in lines.items()):
        return _payload("fulfillmentCreate", "fulfillment", None, "Invalid fulfillment order line item quantity.")
    tracking = given.get("trackingInfo") or {}
    at_ms, before = now_ms(), fulfillments_of(order)
    if len(before) == _MOST:
        return _payload("fulfillmentCreate", "fulfillment", None, "Too many fulfillments.")
    sent: dict[str, Any] = {
        "id": int(f"{order.order_id}{len(before) + 1:02d}"),
        "lines": [[line, units] for line, units in lines.items()],
        "tracking": {name: str(tracking.get(name) or "") for name in ("company", "number", "url")},
        "at_ms": at_ms,
        "events": [],
    }
    order.shipment = {"fulfillments": [*before, sent]}
    if remaining(order):
        account.shop.touch(order, at_ms)
    else:
        account.shop.progress(order, "shipped", after=(order.status,), now_ms=at_ms)
    told = _told(order, "shipment", sent["tracking"]["number"], request_id)
    market.commit_order(account, order, [told], at_ms)
    return _payload("fulfillmentCreate", "fulfillment", fulfillment_object(sent))


def create_event(market: Market, account: Account, given: Any, request_id: str) -> dict[str, Any]:
    """`fulfillmentEventCreate`: where a parcel is."""
    given = given if isinstance(given, dict) else {}
    number = _number(given.get("fulfillmentId"))
    order = account.shop.orders.get(str(number)[:-2])
    sent = [one for one in fulfillments_of(order) if one["id"] == number] if order else []
    status = given.get("status")
    if order is None or not sent:
        return _payload("fulfillmentEventCreate", "fulfillmentEvent", None, "Fulfillment does not exist.")
    if status not in _EVENTS:
        return _payload("fulfillmentEventCreate", "fulfillmentEvent", None, "Status is not included in the list.")
    at_ms = now_ms()
    happened_at = str(given.get("happenedAt") or moment_utc(at_ms))
    sent[0]["events"].append([status, happened_at])
    all_there = all(one["events"] and one["events"][-1][0] == "DELIVERED" for one in fulfillments_of(order))
    refusal: Refusal | None = None
    if status == "DELIVERED" and all_there and not remaining(order):
        refusal = account.shop.progress(order, "delivered", after=("shipped", "delivered"), now_ms=at_ms)
    else:
        account.shop.touch(order, at_ms)
    if refusal is not None:
        return _payload("fulfillmentEventCreate", "fulfillmentEvent", None, refusal.message)
    step = "delivery" if status == "DELIVERED" else "tracking"
    told = _told(order, step, sent[0]["tracking"]["number"], request_id)
    market.commit_order(account, order, [told], at_ms)
    event = {"__typename": "FulfillmentEvent", "status": status, "happenedAt": happened_at}
    event["id"] = f"gid://shopify/FulfillmentEvent/{number}{len(sent[0]['events']):03d}"
    return _payload("fulfillmentEventCreate", "fulfillmentEvent", event)

"""Shopify: signed push with the whole order, stock written in batches with compare-and-set, throttled by cost.

Sources: Shopify Admin API 2026-01 (REST Order, GraphQL `inventorySetQuantities`, `webhookSubscriptionCreate`, rate
limits), shopify.dev "About webhooks" for signature and ids. Orders are read by REST, whose objects are those of the
webhooks, so one mapping serves both; everything is written by GraphQL.
"""

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from contracts.channels.v1 import (
    BuyerAddress,
    BuyerReported,
    InvoiceTold,
    ParcelTold,
    QuantityTrait,
    SaleStatus,
    TrackingTold,
)
from services.channels.connectors import wire
from services.channels.connectors.connector import (
    ChannelLine,
    ChannelListing,
    ChannelOrder,
    Delivery,
    Fetched,
    Limit,
    OutcomeUnknown,
    Rejected,
    Session,
    SignatureInvalid,
    StockWrite,
    Throttled,
    Told,
    Traits,
    WriteOutcome,
    WriteStatus,
)

API_VERSION: Final = "2026-01"
TOPICS: Final = ("ORDERS_CREATE", "ORDERS_PAID", "ORDERS_UPDATED", "ORDERS_CANCELLED", "REFUNDS_CREATE")
_PAGE: Final = 250
_MUTATION_COST: Final = 10.0
_READ_COST: Final = 60.0
_FULFILLMENT_READ_COST: Final = 150.0
_SCANS: Final = {
    "in_transit": "IN_TRANSIT",
    "out_for_delivery": "OUT_FOR_DELIVERY",
    "attempt_failed": "ATTEMPTED_DELIVERY",
    "lost": "FAILURE",
}
_HELD_BACK: Final = "another row of the call was refused"
_RESENDS_MAX: Final = 2
_POINTS_MAX: Final = 100_000
_STALE: Final = frozenset({"COMPARE_QUANTITY_STALE", "CHANGE_FROM_QUANTITY_STALE"})
_STATUS: Final = {
    "pending": SaleStatus.AWAITING_PAYMENT,
    "expired": SaleStatus.AWAITING_PAYMENT,
    "partially_paid": SaleStatus.AWAITING_PAYMENT,
    "authorized": SaleStatus.PLACED,
    "paid": SaleStatus.PAID,
    "partially_refunded": SaleStatus.PAID,
    "refunded": SaleStatus.PAID,
    "voided": SaleStatus.CANCELLED,
}

_SET = """
mutation set($input: InventorySetQuantitiesInput!, $key: String!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) {
    inventoryAdjustmentGroup { id }
    userErrors { code field message }
  }
}"""
_READ = """
query read($ids: [ID!]!) {
  nodes(ids: $ids) {
    id
    ... on InventoryLevel { quantities(names: ["available"]) { name quantity } }
  }
}"""
_OPEN = """
query open($id: ID!) {
  order(id: $id) {
    fulfillmentOrders(first: 10) {
      nodes { id status lineItems(first: 100) { nodes { id remainingQuantity lineItem { id } } } }
    }
  }
}"""
_SENT = """
query sent($id: ID!) { order(id: $id) { fulfillments { id trackingInfo { number } } } }"""
_FULFILL = """
mutation fulfill($fulfillment: FulfillmentInput!) {
  fulfillmentCreate(fulfillment: $fulfillment) { fulfillment { id } userErrors { field message } }
}"""
_EVENT = """
mutation event($event: FulfillmentEventInput!) {
  fulfillmentEventCreate(fulfillmentEvent: $event) { fulfillmentEvent { id } userErrors { field message } }
}"""
_CANCEL = """
mutation cancel($id: ID!) {
  orderCancel(orderId: $id, reason: OTHER, refund: true, restock: true, notifyCustomer: true) {
    job { id }
    userErrors: orderCancelUserErrors { field message }
  }
}"""
_SHOP = """
query shop { shop { myshopifyDomain currencyCode } locations(first: 50) { nodes { id isActive } } }"""
_SUBSCRIPTIONS = """
query subscriptions { webhookSubscriptions(first: 100) { nodes { topic uri } } }"""
_SUBSCRIBE = """
mutation subscribe($topic: WebhookSubscriptionTopic!, $url: String!) {
  webhookSubscriptionCreate(topic: $topic, webhookSubscription: {uri: $url, format: JSON}) {
    userErrors { field message }
  }
}"""
_VARIANTS = """
query variants($after: String) {
  productVariants(first: 100, after: $after) {
    nodes { id sku displayName inventoryQuantity inventoryItem { id } }
    pageInfo { hasNextPage endCursor }
  }
}"""


class Shopify:
    """A connection's account is the shop's myshopify domain; settings: `location` (id), `api_version`."""

    traits: Traits = Traits(
        connector="shopify",
        intake="push",
        quantity_trait=QuantityTrait.ABSOLUTE,
        reserves_unpaid=True,
        restores_on_cancel=True,
        orders_have_version=True,
        compares=True,
        max_batch=250,
        write_timeout_s=10.0,
        spacing_ms=0,
        unpaid_deadline_h=0,
        poll_interval_s=10.0,
        poll_overlap_s=20.0,
        limits={"graphql": Limit(100.0, 2000.0), "rest": Limit(2.0, 40.0)},
        credentials=("access_token", "webhook_secret"),
        # After a rotation Shopify signs with the old secret for up to an hour.
        credentials_optional=("webhook_secret_previous",),
        settings=("location", "api_version"),
        reports=frozenset({"shipment", "tracking", "delivery", "cancel"}),
    )

    # -- in ----------------------------------------------------------------------------------------------------------

    def verify(self, headers: Mapping[str, str], body: bytes, credentials: Mapping[str, str]) -> Delivery:
        """X-Shopify-Hmac-Sha256: base64 of HMAC-SHA256 over the raw body."""
        given = headers.get("x-shopify-hmac-sha256", "").encode()
        secrets = [credentials[name] for name in ("webhook_secret", "webhook_secret_previous") if credentials.get(name)]
        # Every secret is compared, so that the time taken does not tell which one fits.
        fits = [hmac.compare_digest(_signature(secret, body), given) for secret in secrets]
        if not any(fits):
            raise SignatureInvalid("X-Shopify-Hmac-Sha256 does not fit the body and this connection's secret")
        return Delivery(
            delivery_id=headers.get("x-shopify-webhook-id") or hashlib.sha256(body).hexdigest(),
            topic=headers.get("x-shopify-topic", ""),
            event_id=headers.get("x-shopify-event-id", ""),
        )

    def points_to(self, topic: str, body: bytes) -> str:
        """A refund names its order; every other body is the order itself."""
        if topic != "refunds/create":
            return ""
        refund = wire.mapping(wire.read_json(body), "refund")
        return wire.identifier(wire.mapping(refund.get("refund", refund), "refund").get("order_id"), "order_id")

    def to_order(self, body: bytes) -> ChannelOrder:
        """The REST Order object, bare as in webhooks and lists or under `order`."""
        found = wire.mapping(wire.read_json(body), "order")
        order = wire.mapping(found.get("order", found), "order")
        currency = wire.identifier(order.get("currency"), "currency")
        cancelled = order.get("cancelled_at") is not None
        given_back = _given_back(order)
        lines = tuple(
            _line(line, currency, given_back, cancelled=cancelled)
            for line in wire.objects(order.get("line_items"), "line_items")
        )
        if len({line.line_id for line in lines}) < len(lines):
            raise ValueError("line_items.id is there twice")
        status = _status(order, lines, cancelled=cancelled)
        shipping = wire.objects(order.get("shipping_lines"), "shipping_lines")
        customer = order.get("customer") or {}
        return ChannelOrder(
            external_id=wire.identifier(order.get("id"), "id"),
            version=wire.version_of(wire.moment(order.get("updated_at"), "updated_at")),
            status=status,
            sold_at=wire.moment(order.get("created_at"), "created_at"),
            currency=currency,
            lines=lines,
            total_minor=wire.minor(order.get("total_price"), currency, "total_price"),
            freight_minor=sum(wire.minor(line.get("price"), currency, "shipping_lines.price") for line in shipping),
            shipping_service=wire.text(shipping[0].get("code") or shipping[0].get("title")) if shipping else "",
            payment_due=None,
            buyer_id=wire.text(wire.mapping(customer, "customer").get("id")),
            buyer=_buyer(order),
            unresolved=("status",) if status is SaleStatus.UNKNOWN else (),
            told=_told(order, cancelled=cancelled),
        )

    async def receive(self, session: Session) -> AsyncIterator[Sequence[Fetched]]:
        """Nothing: orders are pushed."""
        del session
        nothing: tuple[Sequence[Fetched], ...] = ()
        for fetched in nothing:
            yield fetched

    async def acknowledge(self, session: Session, lot: Sequence[Fetched]) -> None:
        """Nothing: the answer to the push is the acknowledgement."""
        del session, lot

    async def fetch(self, session: Session, external_id: str) -> Fetched:
        """GET /orders/{id}.json"""
        response = await wire.send(session, "rest", self._get(session, f"/orders/{int(external_id)}.json"))
        return Fetched(external_id, response.content)

    async def poll(self, session: Session, since: datetime) -> AsyncIterator[Fetched]:
        """GET /orders.json of any status by `updated_at_min`, page by page as the Link header says."""
        query = {
            "status": "any",
            "limit": str(_PAGE),
            "updated_at_min": since.astimezone(UTC).isoformat(timespec="seconds"),
            "order": "updated_at asc",
        }
        while query:
            response = await wire.send(session, "rest", self._get(session, "/orders.json", query))
            page = wire.mapping(wire.read_json(response.content), "orders page")
            for order in wire.objects(page.get("orders"), "orders"):
                yield Fetched(wire.identifier(order.get("id"), "id"), json.dumps(order, default=str).encode())
            # Only the query is taken from the link, so that an answer cannot send us elsewhere.
            following = urlsplit(response.links.get("next", {}).get("url", "")).query
            query = {name: values[0] for name, values in parse_qs(following).items()}

    # -- stock -------------------------------------------------------------------------------------------------------

    async def write_stock(self, session: Session, writes: Sequence[StockWrite]) -> Sequence[WriteOutcome]:
        """`inventorySetQuantities`: compared where a number is expected.

        Stale or wrong rows refuse their whole call: the others go again at once, before more of them are stale.

        Whether numbers are compared is said once for a call, so a mixed batch takes two.
        """
        outcomes: dict[int, WriteOutcome] = {}
        places = sorted(range(len(writes)), key=lambda place: writes[place].expected is None)
        for blind, chosen in groupby(places, key=lambda place: writes[place].expected is None):
            group = list(chosen)
            try:
                answers = await self._set_what_fits(session, [writes[place] for place in group], blind=blind)
            except (Throttled, Rejected) as refused:
                # What was accepted before it has to be known as such.
                if not outcomes:
                    raise
                answers = [WriteOutcome(WriteStatus.STALE, reason=str(refused))] * len(group)
            outcomes.update(zip(group, answers, strict=True))
        return [outcomes[place] for place in range(len(writes))]

    async def _set_what_fits(
        self, session: Session, writes: Sequence[StockWrite], *, blind: bool
    ) -> list[WriteOutcome]:
        outcomes = dict(enumerate(await self._set(session, writes, blind=blind)))
        for _ in range(_RESENDS_MAX):
            held_back = [place for place, outcome in outcomes.items() if outcome.reason == _HELD_BACK]
            if not held_back or len(held_back) == len(writes):
                break
            try:
                again = await self._set(session, [writes[place] for place in held_back], blind=blind)
            except (Throttled, Rejected):
                break
            outcomes.update(zip(held_back, again, strict=True))
        return [outcomes[place] for place in range(len(writes))]

    async def _set(self, session: Session, writes: Sequence[StockWrite], *, blind: bool) -> list[WriteOutcome]:
        rows = [
            {
                "inventoryItemId": f"gid://shopify/InventoryItem/{write.item}",
                "locationId": f"gid://shopify/Location/{write.location}",
                "quantity": write.quantity,
                **({} if blind else {"compareQuantity": write.expected}),
            }
            for write in writes
        ]
        given = {"name": "available", "reason": "correction", "ignoreCompareQuantity": blind, "quantities": rows}
        data, request_id = await self._graphql(
            session, _SET, {"input": given, "key": str(uuid.uuid4())}, _MUTATION_COST, writes=True
        )
        errors = wire.objects(_result(data, "inventorySetQuantities").get("userErrors"), "userErrors")
        if not errors:
            return [WriteOutcome(WriteStatus.ACCEPTED, request_id)] * len(writes)
        stale = {_row_of(error) for error in errors if wire.text(error.get("code")) in _STALE}
        refused = {_row_of(error): error for error in errors if wire.text(error.get("code")) not in _STALE}
        if None in refused:
            raise Rejected(f"inventorySetQuantities: {wire.text(refused[None].get('message'))[:200]}")
        return [
            WriteOutcome(WriteStatus.REFUSED, request_id, wire.text(refused[place].get("message"))[:200])
            if place in refused
            else WriteOutcome(WriteStatus.STALE, request_id, "" if place in stale or None in stale else _HELD_BACK)
            for place in range(len(writes))
        ]

    async def read_stock(self, session: Session, items: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        """`nodes` of InventoryLevel, 250 at a time; a pair that the shop does not stock is left out."""
        found: dict[tuple[str, str], int] = {}
        for start in range(0, len(items), _PAGE):
            part = items[start : start + _PAGE]
            ids = [f"gid://shopify/InventoryLevel/{location}?inventory_item_id={item}" for item, location in part]
            # A point an object: the level and its quantities. Taken for more, a read of one would hold back six writes.
            data, _ = await self._graphql(session, _READ, {"ids": ids}, 2.0 + 2.0 * len(part))
            for pair, node in zip(part, data.get("nodes") or [], strict=True):
                for quantity in wire.objects((node or {}).get("quantities"), "quantities"):
                    found[pair] = int(quantity["quantity"])
        return found

    # -- telling -----------------------------------------------------------------------------------------------------

    async def report_invoice(self, session: Session, order: Told, invoice: InvoiceTold) -> str:
        """Nothing: the channel keeps no invoices of ours, and is not told of them (`reports`)."""
        del session, order, invoice
        return ""

    async def report_shipment(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """`fulfillmentCreate` of the parcel's lines, as far as they are still open at the channel."""
        data, _ = await self._graphql(session, _OPEN, {"id": _order_gid(order)}, _FULFILLMENT_READ_COST)
        wanted = {line.line_id: line.quantity for line in parcel.lines}
        rows = _open_lines(_result(data, "order"), wanted)
        if not rows:
            raise Rejected("fulfillmentCreate: none of the parcel's lines is open at the channel")
        given = {
            "lineItemsByFulfillmentOrder": rows,
            "notifyCustomer": False,
            "trackingInfo": {
                "company": parcel.carrier,
                "number": parcel.tracking_code,
                **({"url": parcel.tracking_url} if parcel.tracking_url else {}),
            },
        }
        return await self._tell(session, _FULFILL, "fulfillmentCreate", {"fulfillment": given})

    async def report_tracking(self, session: Session, order: Told, parcel: ParcelTold, scan: TrackingTold) -> str:
        """`fulfillmentEventCreate`; a state that the channel has no word for is not told."""
        status = _SCANS.get(scan.status)
        return await self._event(session, order, parcel, status, scan.happened_at) if status else ""

    async def report_delivery(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """`fulfillmentEventCreate` DELIVERED"""
        assert parcel.delivered_at
        return await self._event(session, order, parcel, "DELIVERED", parcel.delivered_at)

    async def _event(self, session: Session, order: Told, parcel: ParcelTold, status: str, at: datetime) -> str:
        data, _ = await self._graphql(session, _SENT, {"id": _order_gid(order)}, _READ_COST)
        sent = wire.objects(_result(data, "order").get("fulfillments"), "fulfillments")
        codes = {wire.text(one.get("id")): _codes(one) for one in sent}
        found = next((gid for gid, known in codes.items() if parcel.tracking_code in known), None)
        if found is None:
            raise Rejected("fulfillmentEventCreate: no fulfillment of the order has this tracking code")
        event = {"fulfillmentId": found, "status": status, "happenedAt": at.isoformat(timespec="seconds")}
        return await self._tell(session, _EVENT, "fulfillmentEventCreate", {"event": event})

    async def cancel(self, session: Session, order: Told, reason: str) -> str:
        """`orderCancel`: the buyer's money goes back, and the channel's own number as at any cancel."""
        del reason
        return await self._tell(session, _CANCEL, "orderCancel", {"id": _order_gid(order)})

    async def _tell(self, session: Session, query: str, name: str, variables: Mapping[str, Any]) -> str:
        data, request_id = await self._graphql(session, query, variables, _MUTATION_COST, writes=True)
        if wire.objects(_result(data, name).get("userErrors"), "userErrors"):
            # The channel's own text may name a buyer.
            raise Rejected(f"{name}: the channel refuses it, see the order at the shop's own page")
        return request_id

    # -- the account -------------------------------------------------------------------------------------------------

    async def check(self, session: Session, door_url: str) -> Sequence[str]:
        """Sign in, compare the shop's domain with the account, look for the location."""
        try:
            data, _ = await self._graphql(session, _SHOP, {}, _READ_COST)
        except Rejected as rejected:
            return [f"the shop refuses: {rejected}"]
        except Throttled as throttled:
            return [
                f"the shop at {session.base_url} cannot be reached now ({type(throttled).__name__}): check base_url"
            ]
        problems = []
        domain = wire.text(_result(data, "shop").get("myshopifyDomain"))
        if session.account not in (domain, domain.removesuffix(".myshopify.com")):
            problems.append(f"the token belongs to {domain}, not to {session.account}: use that shop's own token")
        location = session.settings.get("location")
        if location and location not in _locations(data):
            problems.append(f"the shop has no active location {location}: it has {', '.join(_locations(data))}")
        if not door_url.startswith("https://") and urlsplit(session.base_url).scheme == "https":
            problems.append("the shop needs an https address to push to: set SALDO_DOOR_URL")
        return problems

    async def subscribe(self, session: Session, door_url: str) -> None:
        """One subscription a topic, where there is none for this door yet."""
        data, _ = await self._graphql(session, _SUBSCRIPTIONS, {}, _READ_COST)
        nodes = wire.objects(_result(data, "webhookSubscriptions").get("nodes"), "webhookSubscriptions")
        there = {node.get("topic") for node in nodes if node.get("uri") == door_url}
        for topic in TOPICS:
            if topic in there:
                continue
            made, _ = await self._graphql(session, _SUBSCRIBE, {"topic": topic, "url": door_url}, _MUTATION_COST)
            errors = wire.objects(_result(made, "webhookSubscriptionCreate").get("userErrors"), "userErrors")
            if errors and "already been taken" not in wire.text(errors[0].get("message")):
                raise Rejected(f"webhook {topic}: {wire.text(errors[0].get('message'))[:200]}")

    async def listings(self, session: Session, known: Container[str] = ()) -> AsyncIterator[ChannelListing]:
        """Every variant, with the number at the connection's location (else the shop's first)."""
        del known  # They come many at a time.
        location = session.settings.get("location")
        if not location:
            data, _ = await self._graphql(session, _SHOP, {}, _READ_COST)
            location = next(iter(_locations(data)), "")
        after: str | None = None
        while True:
            data, _ = await self._graphql(session, _VARIANTS, {"after": after}, _READ_COST)
            page = _result(data, "productVariants")
            for node in wire.objects(page.get("nodes"), "productVariants"):
                yield ChannelListing(
                    listing=_number(node.get("id")),
                    item=_number(wire.mapping(node.get("inventoryItem"), "inventoryItem").get("id")),
                    location=location,
                    sku=wire.text(node.get("sku")),
                    title=wire.text(node.get("displayName")),
                    quantity=node.get("inventoryQuantity"),
                )
            info = wire.mapping(page.get("pageInfo"), "pageInfo")
            if not info.get("hasNextPage"):
                return
            after = wire.text(info.get("endCursor"))

    # -- calls -------------------------------------------------------------------------------------------------------

    def _get(self, session: Session, path: str, query: Mapping[str, str] | None = None) -> Any:
        return session.http.build_request("GET", _url(session, path), params=query, headers=_headers(session))

    async def _graphql(
        self, session: Session, query: str, variables: Mapping[str, Any], cost: float, *, writes: bool = False
    ) -> tuple[Mapping[str, Any], str]:
        """`data` and the request's id. Limits and errors come with HTTP 200."""
        content = json.dumps({"query": query, "variables": dict(variables)}).encode()
        headers = {**_headers(session), "content-type": "application/json"}
        request = session.http.build_request("POST", _url(session, "/graphql.json"), content=content, headers=headers)
        response = await wire.send(session, "graphql", request, cost=cost, writes=writes)
        try:
            answer = wire.mapping(wire.read_json(response.content), "answer")
            errors = wire.objects(answer.get("errors"), "errors")
            codes = {wire.text(wire.mapping(one.get("extensions") or {}, "extensions").get("code")) for one in errors}
        except ValueError:
            raise (OutcomeUnknown if writes else Rejected)("graphql: the answer is no GraphQL answer") from None
        requested, wait_s = _observe(session, answer)
        if "THROTTLED" in codes:
            retry_after_s = max(0.05, wait_s if requested else 1.0)
            session.limiter.throttled("graphql", retry_after_s)
            raise Throttled(retry_after_s)
        if errors and writes and "INTERNAL_SERVER_ERROR" in codes:
            raise OutcomeUnknown("graphql: the channel failed inside")
        if errors:
            raise Rejected(f"graphql: {wire.text(errors[0].get('message'))[:200]}")
        return wire.mapping(answer.get("data"), "data"), response.headers.get("x-request-id", "")


def _signature(secret: str, body: bytes) -> bytes:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest())


def _url(session: Session, path: str) -> str:
    return f"{session.base_url}/admin/api/{session.settings.get('api_version') or API_VERSION}{path}"


def _headers(session: Session) -> dict[str, str]:
    return {"x-shopify-access-token": session.credentials["access_token"], "accept": "application/json"}


def _observe(session: Session, answer: Mapping[str, Any]) -> tuple[float, float]:
    """Tell the limiter what the answer says about the bucket; returns the cost asked for and the seconds it lacks."""
    try:
        cost = wire.mapping(wire.mapping(answer.get("extensions"), "extensions").get("cost"), "cost")
        status = wire.mapping(cost.get("throttleStatus"), "throttleStatus")
        requested = _points(cost.get("requestedQueryCost"))
        available, restore_per_s = _points(status.get("currentlyAvailable")), _points(status.get("restoreRate"), 1)
    except ValueError:
        return 0.0, 0.0
    session.limiter.observed("graphql", available, restore_per_s)
    return requested, max(0.0, requested - available) / restore_per_s


def _points(value: Any, least: int = 0) -> float:
    """Points of cost. Raises `ValueError` for what no bucket holds, since a wait that follows from it had no end."""
    if isinstance(value, int | Decimal) and least <= value <= _POINTS_MAX:
        return float(value)
    raise ValueError("no points of cost")


def _result(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return wire.mapping(data.get(name), name)


def _order_gid(order: Told) -> str:
    return f"gid://shopify/Order/{int(order.external_id)}"


def _codes(fulfillment: Mapping[str, Any]) -> set[str]:
    tracking = wire.objects(fulfillment.get("trackingInfo"), "trackingInfo")
    return {wire.text(one.get("number")) for one in tracking}


def _open_lines(order: Mapping[str, Any], wanted: dict[str, int]) -> list[dict[str, Any]]:
    """Rows of `lineItemsByFulfillmentOrder` for units by line; takes off `wanted` what it finds open."""
    rows = []
    for one in wire.objects(wire.mapping(order.get("fulfillmentOrders"), "fulfillmentOrders").get("nodes"), "nodes"):
        chosen = []
        for line in wire.objects(wire.mapping(one.get("lineItems"), "lineItems").get("nodes"), "nodes"):
            line_id = _number(wire.mapping(line.get("lineItem"), "lineItem").get("id"))
            units = min(wanted.get(line_id, 0), wire.count(line.get("remainingQuantity"), "remainingQuantity"))
            if units and one.get("status") in ("OPEN", "IN_PROGRESS"):
                wanted[line_id] -= units
                chosen.append({"id": line.get("id"), "quantity": units})
        if chosen:
            rows.append({"fulfillmentOrderId": one.get("id"), "fulfillmentOrderLineItems": chosen})
    return rows


def _told(order: Mapping[str, Any], *, cancelled: bool) -> frozenset[str]:
    told = {"cancel"} if cancelled else set()
    for sent in wire.objects(order.get("fulfillments"), "fulfillments"):
        code = wire.text(sent.get("tracking_number"))
        told.add(f"shipment:{code}")
        if sent.get("shipment_status") == "delivered":
            told.add(f"delivery:{code}")
    return frozenset(told)


def _number(gid: Any) -> str:
    return wire.identifier(gid, "id").rsplit("/", 1)[-1]


def _locations(data: Mapping[str, Any]) -> list[str]:
    nodes = wire.objects(_result(data, "locations").get("nodes"), "locations")
    return [_number(node.get("id")) for node in nodes if node.get("isActive")]


def _row_of(error: Mapping[str, Any]) -> int | None:
    """The row that a user error's path (`input.quantities.3.quantity`) names."""
    field = error.get("field") or []
    return next((int(part) for part in field if str(part).isdecimal()), None)


def _given_back(order: Mapping[str, Any]) -> dict[str, list[tuple[str, int]]]:
    """Refunded units by line: (restock type, units) each."""
    found: dict[str, list[tuple[str, int]]] = {}
    for refund in wire.objects(order.get("refunds"), "refunds"):
        for line in wire.objects(refund.get("refund_line_items"), "refund_line_items"):
            line_id = wire.identifier(line.get("line_item_id"), "refund line_item_id")
            units = wire.count(line.get("quantity"), "refund quantity")
            found.setdefault(line_id, []).append((wire.text(line.get("restock_type")), units))
    return found


def _line(
    line: Mapping[str, Any], currency: str, given_back: Mapping[str, list[tuple[str, int]]], *, cancelled: bool
) -> ChannelLine:
    line_id = wire.identifier(line.get("id"), "line_items.id")
    quantity = wire.count(line.get("quantity"), "line_items.quantity")
    sku = wire.text(line.get("sku"))
    left_the_shop = line.get("fulfillment_status") == "fulfilled"
    returned = cancelled_units = 0
    for kind, units in given_back.get(line_id, []):
        if kind == "return":
            returned += units
        elif kind == "cancel" or not left_the_shop:
            # Refunded before it left: nobody waits for these units any more, put back on sale by the shop or not.
            cancelled_units += units
    returned = min(returned, quantity)
    return ChannelLine(
        line_id=line_id,
        # A line without variant was typed in by hand or its product is gone; it waits for a person under its own name.
        item=wire.text(line.get("variant_id")) or f"line:{sku or line_id}",
        sku=sku,
        quantity=quantity,
        cancelled=quantity - returned if cancelled else min(cancelled_units, quantity - returned),
        returned=returned,
        unit_price_minor=wire.minor(line.get("price"), currency, "line_items.price"),
        discount_minor=wire.minor(line.get("total_discount"), currency, "line_items.total_discount"),
    )


def _status(order: Mapping[str, Any], lines: Sequence[ChannelLine], *, cancelled: bool) -> SaleStatus:
    if cancelled:
        return SaleStatus.CANCELLED
    if lines and all(line.cancelled + line.returned == line.quantity for line in lines):
        return SaleStatus.RETURNED if any(line.returned for line in lines) else SaleStatus.CANCELLED
    if order.get("fulfillment_status") == "fulfilled":
        shipments = wire.objects(order.get("fulfillments"), "fulfillments")
        arrived = shipments and all(one.get("shipment_status") == "delivered" for one in shipments)
        return SaleStatus.DELIVERED if arrived else SaleStatus.SHIPPED
    return _STATUS.get(wire.text(order.get("financial_status")), SaleStatus.UNKNOWN)


def _buyer(order: Mapping[str, Any]) -> BuyerReported | None:
    customer = wire.mapping(order.get("customer") or {}, "customer")
    addresses = [
        _address(kind, wire.mapping(order[f"{kind}_address"], f"{kind}_address"))
        for kind in ("shipping", "billing")
        if order.get(f"{kind}_address")
    ]
    sources = [customer, order, *(order.get(f"{kind}_address") or {} for kind in ("shipping", "billing"))]
    name = " ".join(part for part in (wire.text(customer.get(key)) for key in ("first_name", "last_name")) if part)
    notes = {wire.text(note.get("name")).upper(): note for note in wire.objects(order.get("note_attributes"), "notes")}
    document = next((wire.text(notes[key].get("value")) for key in ("CPF", "CNPJ") if key in notes), "")
    emails = tuple(dict.fromkeys(found for source in sources if (found := wire.text(source.get("email")))))
    phones = tuple(dict.fromkeys(found for source in sources if (found := wire.text(source.get("phone")))))
    if not (name or document or emails or phones or addresses):
        return None
    return BuyerReported(
        customer_ref="",
        order_id="",
        name=name or wire.text((order.get("shipping_address") or {}).get("name")),
        document=document,
        emails=emails,
        phones=phones,
        addresses=tuple(addresses),
    )


def _address(kind: str, given: Mapping[str, Any]) -> BuyerAddress:
    return BuyerAddress(
        kind=kind,
        street=wire.text(given.get("address1")),
        complement=wire.text(given.get("address2")),
        city=wire.text(given.get("city")),
        region=wire.text(given.get("province_code")) or wire.text(given.get("province")),
        postal_code=wire.text(given.get("zip")),
        country=wire.text(given.get("country_code")) or wire.text(given.get("country")),
    )

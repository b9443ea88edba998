"""SkyHub (B2W, Americanas Marketplace): a queue that hands out one order at a time until it is deleted.

Sources: SkyHub API guides "Queues", "Order integration", "Limite de requisições", "Multi-CD".
An order is queued when it is new and unpaid, so that stock is reserved before the payment, and at each later state.
Orders have no version: their order of arrival and the rank of their states decide. When one has to be sent is in
`expedition_limit_date`, a field that clients of the API read and its guides do not describe; an order without it has
what `estimated_delivery` promises its buyer, and setting `transit_days`.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import httpx

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

_CURRENCY: Final = "BRL"
_PAGE: Final = 100
_STATUS: Final = {
    "NEW": SaleStatus.AWAITING_PAYMENT,
    "APPROVED": SaleStatus.PAID,
    "INVOICED": SaleStatus.PAID,
    "SHIPPED": SaleStatus.SHIPPED,
    "SHIPMENT_EXCEPTION": SaleStatus.SHIPPED,
    "DELIVERED": SaleStatus.DELIVERED,
    "CANCELED": SaleStatus.CANCELLED,
}
_TOLD: Final = {
    "INVOICED": frozenset({"invoice"}),
    "SHIPPED": frozenset({"invoice", "shipment"}),
    "SHIPMENT_EXCEPTION": frozenset({"invoice", "shipment"}),
    "DELIVERED": frozenset({"invoice", "shipment", "delivery"}),
    "CANCELED": frozenset({"cancel"}),
}
_STATUS_TOLD: Final = {
    "invoice": "order_invoiced",
    "shipments": "order_shipped",
    "delivery": "complete",
    "cancel": "order_canceled",
}
_GIVEN_BACK: Final = frozenset({SaleStatus.CANCELLED})
# Documented are 9 and 1 requests a second, counted in windows per endpoint and method. A bucket lets rate + burst pass
# in one: whoever sends 9.0/s sends ten in some window, since requests do not arrive as evenly as they leave.
_FAST: Final = Limit(8.0, 1.0)
_SLOW: Final = Limit(0.9, 1.0)


class Skyhub:
    """A connection's account is the store's name; setting `store` is the code of its warehouse at SkyHub."""

    traits: Traits = Traits(
        connector="skyhub",
        intake="queue",
        quantity_trait=QuantityTrait.ABSOLUTE,
        reserves_unpaid=True,
        restores_on_cancel=True,
        orders_have_version=False,
        compares=False,
        max_batch=500,
        write_timeout_s=10.0,
        spacing_ms=0,
        unpaid_deadline_h=120,
        poll_interval_s=0.25,
        poll_overlap_s=0.0,
        limits={
            "queue_read": _FAST,
            "queue_delete": _FAST,
            "products": _FAST,
            "store_batch": _FAST,
            "order_read": _SLOW,
            "order_list": _SLOW,
            "order_invoice": _FAST,
            "order_shipments": _FAST,
            "order_delivery": _FAST,
            "order_cancel": _FAST,
        },
        credentials=("user_email", "api_key", "accountmanager_key"),
        settings=("store", "unpaid_deadline_h", "transit_days", "poll_interval_s"),
        reports=frozenset({"invoice", "shipment", "delivery", "cancel"}),
    )

    # -- in ----------------------------------------------------------------------------------------------------------

    def verify(self, headers: Mapping[str, str], body: bytes, credentials: Mapping[str, str]) -> Delivery:
        """SkyHub pushes nothing, so nothing can be signed by it."""
        del headers, body, credentials
        raise SignatureInvalid("this channel does not push")

    def points_to(self, topic: str, body: bytes) -> str:
        """Every body is the order itself."""
        del topic, body
        return ""

    def to_order(self, body: bytes) -> ChannelOrder:
        """The order as the queue and GET /orders/{code} show it."""
        order = wire.mapping(wire.read_json(body), "order")
        kind = wire.text(wire.mapping(order.get("status"), "status").get("type"))
        status = _STATUS.get(kind, SaleStatus.UNKNOWN)
        lines = _lines(wire.objects(order.get("items"), "items"), cancelled=status in _GIVEN_BACK)
        customer = wire.mapping(order.get("customer") or {}, "customer")
        return ChannelOrder(
            external_id=wire.identifier(order.get("code"), "code"),
            version="",
            status=status,
            sold_at=wire.moment(order.get("placed_at"), "placed_at"),
            currency=_CURRENCY,
            lines=lines,
            total_minor=wire.minor(order.get("total_ordered"), _CURRENCY, "total_ordered"),
            freight_minor=wire.minor(order.get("shipping_cost"), _CURRENCY, "shipping_cost"),
            shipping_service=wire.text(order.get("shipping_method")),
            payment_due=None,
            # The marketplace gives a buyer no id; the document is the same person at every order of this store.
            buyer_id=wire.text(customer.get("vat_number")),
            buyer=_buyer(order, customer),
            unresolved=("status",) if status is SaleStatus.UNKNOWN else (),
            ship_by=_moment(order, "expedition_limit_date"),
            deliver_by=_moment(order, "estimated_delivery"),
            told=_TOLD.get(kind, frozenset()),
        )

    async def receive(self, session: Session) -> AsyncIterator[Sequence[Fetched]]:
        """GET /queues/orders until it is empty; each order is a lot of its own and stays until it is deleted."""
        while True:
            response = await wire.send(session, "queue_read", _request(session, "GET", "/queues/orders"))
            if response.status_code == httpx.codes.NO_CONTENT or not response.content.strip():
                return
            code = _code(response.content)
            yield (Fetched(code, response.content, receipt=code),)

    async def acknowledge(self, session: Session, lot: Sequence[Fetched]) -> None:
        """DELETE /queues/orders/{code}; what is gone already was acknowledged."""
        for fetched in lot:
            path = f"/queues/orders/{quote(fetched.receipt, safe='')}"
            await wire.send(session, "queue_delete", _request(session, "DELETE", path), answers=(404,))

    async def fetch(self, session: Session, external_id: str) -> Fetched:
        """GET /orders/{code}, once a second at most."""
        path = f"/orders/{quote(external_id, safe='')}"
        response = await wire.send(session, "order_read", _request(session, "GET", path))
        return Fetched(external_id, response.content)

    async def poll(self, session: Session, since: datetime) -> AsyncIterator[Fetched]:
        """GET /orders of those not synchronised: with what the queue has handed out and hides until it is deleted.

        Whoever reads it acknowledges nothing meanwhile, so no order moves to a page that was read already.
        """
        del since
        page = 1
        while True:
            path = f"/orders?page={page}&per_page={_PAGE}&filters[sync_status][]=NOT_SYNCED"
            response = await wire.send(session, "order_list", _request(session, "GET", path))
            orders = wire.objects(wire.mapping(wire.read_json(response.content), "orders page").get("orders"), "orders")
            for order in orders:
                yield Fetched(wire.identifier(order.get("code"), "code"), json.dumps(order, default=str).encode())
            if len(orders) < _PAGE:
                return
            page += 1

    # -- stock -------------------------------------------------------------------------------------------------------

    async def write_stock(self, session: Session, writes: Sequence[StockWrite]) -> Sequence[WriteOutcome]:
        """POST /stores/{store}/batch, one call a store."""
        outcomes: dict[int, WriteOutcome] = {}
        for store in dict.fromkeys(write.location for write in writes):
            places = [place for place, write in enumerate(writes) if write.location == store]
            try:
                answers = await self._batch(session, store, [writes[place] for place in places])
            except (Throttled, Rejected) as refused:
                # What was accepted before it has to be known as such.
                if not outcomes:
                    raise
                answers = [WriteOutcome(WriteStatus.STALE, reason=str(refused))] * len(places)
            outcomes.update(zip(places, answers, strict=True))
        return [outcomes[place] for place in range(len(writes))]

    async def _batch(self, session: Session, store: str, writes: Sequence[StockWrite]) -> list[WriteOutcome]:
        """One call; where a row is refused the channel refuses the call, so the halves are tried to find the row."""
        rows = [{"code": write.item, "qty": write.quantity, "cross_docking": 0} for write in writes]
        request = _request(session, "POST", f"/stores/{quote(store, safe='')}/batch", {"skus": rows})
        response = await wire.send(session, "store_batch", request, writes=True, answers=(404, 422))
        request_id = response.headers.get("x-request-id", "")
        if response.is_success:
            return [WriteOutcome(WriteStatus.ACCEPTED, request_id)] * len(writes)
        if len(writes) == 1:
            reason = f"the channel answered {response.status_code}: is {writes[0].item} on sale in store {store}?"
            return [WriteOutcome(WriteStatus.REFUSED, request_id, reason)]
        half = len(writes) // 2
        first = await self._batch(session, store, writes[:half])
        try:
            return first + await self._batch(session, store, writes[half:])
        except (Throttled, Rejected) as refused:
            return first + [WriteOutcome(WriteStatus.STALE, reason=str(refused))] * (len(writes) - half)

    async def read_stock(self, session: Session, items: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        """GET /products/{sku}, one by one; what the channel does not know is left out."""
        found: dict[tuple[str, str], int] = {}
        for item, location in items:
            request = _request(session, "GET", f"/products/{quote(item, safe='')}")
            response = await wire.send(session, "products", request, answers=(404,))
            if response.is_success:
                product = wire.mapping(wire.read_json(response.content), "product")
                found[item, location] = wire.count(product.get("qty"), "qty")
        return found

    # -- telling -----------------------------------------------------------------------------------------------------

    async def report_invoice(self, session: Session, order: Told, invoice: InvoiceTold) -> str:
        """POST /orders/{code}/invoice with the key of 44 digits."""
        return await _tell(session, order, "invoice", {"invoice": {"key": invoice.invoice_key}})

    async def report_shipment(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """POST /orders/{code}/shipments: what is in the parcel and where it can be followed."""
        items = [{"sku": line.line_id.partition("#")[0], "qty": line.quantity} for line in parcel.lines]
        track = {
            "code": parcel.tracking_code,
            "carrier": parcel.carrier,
            "method": parcel.service,
            "url": parcel.tracking_url,
        }
        shipment = {"code": parcel.shipment_id, "items": items, "track": track}
        return await _tell(session, order, "shipments", {"shipment": shipment})

    async def report_tracking(self, session: Session, order: Told, parcel: ParcelTold, scan: TrackingTold) -> str:
        """Nothing: the channel takes no single scans, and is not told of them (`reports`)."""
        del session, order, parcel, scan
        return ""

    async def report_delivery(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """POST /orders/{code}/delivery"""
        assert parcel.delivered_at
        return await _tell(session, order, "delivery", {"delivered_date": parcel.delivered_at.date().isoformat()})

    async def cancel(self, session: Session, order: Told, reason: str) -> str:
        """POST /orders/{code}/cancel"""
        del reason
        return await _tell(session, order, "cancel", {})

    # -- the account -------------------------------------------------------------------------------------------------

    async def check(self, session: Session, door_url: str) -> Sequence[str]:
        """Sign in by reading a page of products."""
        del door_url
        problems = []
        if not session.settings.get("store"):
            problems.append("setting store is missing: give the code of the store (warehouse) that is to be written")
        try:
            await wire.send(session, "products", _request(session, "GET", "/products?page=1&per_page=1"))
        except Rejected as rejected:
            problems.append(f"SkyHub refuses: {rejected}")
        except Throttled as throttled:
            problems.append(f"SkyHub at {session.base_url} cannot be reached now ({type(throttled).__name__})")
        return problems

    async def subscribe(self, session: Session, door_url: str) -> None:
        """Nothing: the queue is filled by itself."""
        del session, door_url

    async def listings(self, session: Session, known: Container[str] = ()) -> AsyncIterator[ChannelListing]:
        """GET /products page by page; a product's code is listing and item at once, its variations are on their own."""
        del known  # They come many at a time.
        store = session.settings.get("store", "")
        page = 1
        while True:
            path = f"/products?page={page}&per_page={_PAGE}"
            response = await wire.send(session, "products", _request(session, "GET", path))
            found = wire.mapping(wire.read_json(response.content), "products page")
            products = wire.objects(found.get("products"), "products")
            for product in products:
                variations = wire.objects(product.get("variations"), "variations")
                for sold in variations or [product]:
                    sku = wire.identifier(sold.get("sku"), "sku")
                    number = wire.count(sold["qty"], "qty") if sold.get("qty") is not None else None
                    yield ChannelListing(sku, sku, store, sku, wire.text(product.get("name")), number)
            if len(products) < _PAGE:
                return
            page += 1


def _request(session: Session, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Request:
    headers = {
        "x-user-email": session.credentials["user_email"],
        "x-api-key": session.credentials["api_key"],
        "x-accountmanager-key": session.credentials["accountmanager_key"],
        "accept": "application/json",
        "content-type": "application/json",
    }
    content = None if body is None else json.dumps(body).encode()
    return session.http.build_request(method, session.base_url + path, content=content, headers=headers)


async def _tell(session: Session, order: Told, what: str, body: Mapping[str, Any]) -> str:
    """Tell the status that the step ends in, as each of these calls wants it beside what it is about."""
    path = f"/orders/{quote(order.external_id, safe='')}/{what}"
    request = _request(session, "POST", path, {"status": _STATUS_TOLD[what], **body})
    response = await wire.send(session, f"order_{what}", request, writes=True)
    return str(response.headers.get("x-request-id", ""))


def _moment(order: Mapping[str, Any], field: str) -> datetime | None:
    return wire.moment(order[field], field) if order.get(field) else None


def _code(body: bytes) -> str:
    return wire.identifier(wire.mapping(wire.read_json(body), "order").get("code"), "code")


def _lines(items: Sequence[Mapping[str, Any]], *, cancelled: bool) -> tuple[ChannelLine, ...]:
    seen: Counter[str] = Counter()
    lines = []
    for item in items:
        # `id` is the code of what is sold, `product_id` that of the product it is a variation of.
        name = wire.identifier(item.get("id") or item.get("product_id"), "items.id")
        seen[name] += 1
        quantity = wire.count(item.get("qty"), "items.qty")
        original = wire.minor(item.get("original_price"), _CURRENCY, "items.original_price")
        special = wire.minor(item.get("special_price"), _CURRENCY, "items.special_price") or original
        lines.append(
            ChannelLine(
                # A line has no id of its own here: its item's, numbered where one item has several lines.
                line_id=name if seen[name] == 1 else f"{name}#{seen[name]}",
                item=name,
                sku=name,
                quantity=quantity,
                cancelled=quantity if cancelled else 0,
                returned=0,
                unit_price_minor=original,
                discount_minor=max(0, original - special) * quantity,
            )
        )
    return tuple(lines)


def _buyer(order: Mapping[str, Any], customer: Mapping[str, Any]) -> BuyerReported | None:
    addresses = tuple(
        _address(kind, wire.mapping(order[f"{kind}_address"], f"{kind}_address"))
        for kind in ("shipping", "billing")
        if order.get(f"{kind}_address")
    )
    phones = customer.get("phones") or []
    emails = [wire.text(customer.get("email"))]
    if not (customer or addresses):
        return None
    return BuyerReported(
        customer_ref="",
        order_id="",
        name=wire.text(customer.get("name")),
        document=wire.text(customer.get("vat_number")),
        emails=tuple(email for email in emails if email),
        phones=tuple(wire.text(phone) for phone in phones if wire.text(phone)) if isinstance(phones, list) else (),
        addresses=addresses,
    )


def _address(kind: str, given: Mapping[str, Any]) -> BuyerAddress:
    return BuyerAddress(
        kind=kind,
        street=wire.text(given.get("street")),
        number=wire.text(given.get("number")),
        complement=wire.text(given.get("detail")),
        district=wire.text(given.get("neighborhood")),
        city=wire.text(given.get("city")),
        region=wire.text(given.get("region")),
        postal_code=wire.text(given.get("postcode")),
        country=wire.text(given.get("country")),
    )

"""VTEX: a queue of leases and a hook that both only point to orders, money in cents, stock as a total.

Sources: VTEX Orders API and Logistics API (OpenAPI descriptions), the guide "Feed v3", the help page "How the
reservation works". VTEX reserves the units of open orders itself, so it is told the total: what is free plus what it
still reserves. It never takes units out by itself: once an order is in handling, its reservation is forgotten at the
next number that is dated after that (`dateUtcOnBalanceSystem`). Hence such units are no part of the total any more
(`ChannelOrder.released_at`), and a number is dated by the newest handling that it knows of (`StockWrite.as_of`).

VTEX knows when an order is to arrive (`shippingEstimateDate`), not when it has to leave: setting `transit_days` says
how long its carriers take.
"""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote, urlsplit

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

HOOK_HEADER: Final = "x-saldo-hook"
LOT_MAX: Final = 10
_PAGE: Final = 1000
_FILTER: Final = {"type": "FromWorkflow"}
_DEFAULTS: Final = {
    # How long an event that was handed out is hidden, and how long one is kept at all (the least VTEX takes).
    "visibility_timeout_s": 240.0,
    "retention_s": 345_600.0,
    # After a 429 VTEX asks for a minute without requests; it sends no Retry-After. After a 423, for some seconds.
    "throttled_s": 60.0,
    "locked_s": 5.0,
}
_BEFORE_PAYMENT: Final = (
    "order-created", "on-order-completed", "on-order-completed-ffm", "order-completed", "payment-pending",
    "waiting-for-order-authorization", "approve-payment",
)  # fmt: skip
_PAID: Final = (
    "payment-approved", "authorize-fulfillment", "waiting-ffmt-authorization", "waiting-for-authorization",
    "waiting-for-manual-authorization", "waiting-for-mkt-authorization", "waiting-seller-handling", "order-accepted",
    "window-to-cancel", "window-to-change-seller", "ready-for-handling", "start-handling", "handling", "invoice",
    "invoice-after-cancellation-deny", "invoiced",
)  # fmt: skip
_CANCELLED: Final = ("cancel", "canceled")
_STATUS: Final[Mapping[str, SaleStatus]] = {
    **dict.fromkeys(_BEFORE_PAYMENT, SaleStatus.AWAITING_PAYMENT),
    **dict.fromkeys(_PAID, SaleStatus.PAID),
    **dict.fromkeys(
        ("request-cancel", "cancellation-requested", "waiting-for-seller-decision"), SaleStatus.CANCEL_REQUESTED
    ),
    **dict.fromkeys(_CANCELLED, SaleStatus.CANCELLED),
}
_RELEASED: Final = frozenset({"start-handling", "handling", "invoice", "invoice-after-cancellation-deny", "invoiced"})
_NOT_YET: Final = frozenset({*_BEFORE_PAYMENT, *_PAID, "start-handling"}) - (
    _RELEASED - {"start-handling"} | {"ready-for-handling"}
)
_SCANS: Final = {
    "accepted": "Objeto postado",
    "in_transit": "Em trânsito",
    "out_for_delivery": "Saiu para entrega",
    "attempt_failed": "Tentativa de entrega não efetuada",
    "delivered": "Entregue",
    "returning": "Em devolução",
    "returned": "Devolvido",
    "lost": "Extraviado",
}


class Vtex:
    """A connection's account is the VTEX account; setting `warehouse_id` is the warehouse that is written."""

    traits: Traits = Traits(
        connector="vtex",
        intake="queue",
        quantity_trait=QuantityTrait.TOTAL,
        reserves_unpaid=True,
        restores_on_cancel=True,
        orders_have_version=True,
        compares=False,
        max_batch=10,
        write_timeout_s=10.0,
        # A second number for a SKU within "milliseconds" is discarded with 423; "wait a few seconds".
        spacing_ms=2000,
        # VTEX keeps an unpaid reservation for at most 11 days (incomplete orders).
        unpaid_deadline_h=264,
        poll_interval_s=0.5,
        poll_overlap_s=0.0,
        # Published is 6000 orders read a minute; the other numbers are not, these are ours.
        limits={
            "feed": Limit(5.0, 5.0),
            "orders": Limit(10.0, 10.0),
            "stock": Limit(5.0, 5.0),
            "reports": Limit(5.0, 5.0),
            "other": Limit(5.0, 5.0),
        },
        credentials=("app_key", "app_token"),
        settings=("warehouse_id", "unpaid_deadline_h", "transit_days", "poll_interval_s", "spacing_ms", *_DEFAULTS),
        hook=True,
        credentials_drawn=("hook_secret",),
        fetch_parallel=4,
        reports=frozenset({"invoice", "shipment", "tracking", "delivery", "cancel"}),
    )

    # -- in ----------------------------------------------------------------------------------------------------------

    def verify(self, headers: Mapping[str, str], body: bytes, credentials: Mapping[str, str]) -> Delivery:
        """The hook sends back the header that we gave VTEX when we set it up; nothing is signed."""
        secret = credentials.get("hook_secret", "")
        if not secret or not hmac.compare_digest(secret.encode(), headers.get(HOOK_HEADER, "").encode()):
            raise SignatureInvalid(f"{HOOK_HEADER} is not the secret of this connection")
        try:
            event = wire.mapping(wire.read_json(body), "event")
        except ValueError:
            # It is VTEX who sent it: kept, and found unreadable by whoever reads it.
            return Delivery(hashlib.sha256(body).hexdigest(), "hook")
        if event.get("hookConfig") == "ping":
            return Delivery("ping", "hook", ignored=True)
        named = [wire.text(event.get(name)) for name in ("OrderId", "State", "LastChange", "CurrentChange")]
        return Delivery(hashlib.sha256("\n".join(named).encode(errors="replace")).hexdigest(), "hook")

    def points_to(self, topic: str, body: bytes) -> str:
        """An event of the hook or of the feed names its order; what was fetched is the order."""
        if topic not in ("hook", "queue"):
            return ""
        event = wire.mapping(wire.read_json(body), "event")
        return wire.identifier(event.get("OrderId") or event.get("orderId"), "orderId")

    def to_order(self, body: bytes) -> ChannelOrder:
        """The order as GET /api/oms/pvt/orders/{orderId} shows it."""
        order = wire.mapping(wire.read_json(body), "order")
        name = wire.text(order.get("status"))
        currency = _currency(order)
        packages = _packages(order)
        lines = _lines(order, currency, packages, cancelled=_STATUS.get(name) is SaleStatus.CANCELLED)
        status = _status(name, packages, lines)
        changed_at = wire.moment(order.get("lastChange"), "lastChange")
        shipping = wire.mapping(order.get("shippingData") or {}, "shippingData")
        logistics = wire.objects(shipping.get("logisticsInfo"), "logisticsInfo")
        promised = [one["shippingEstimateDate"] for one in logistics if one.get("shippingEstimateDate")]
        client = wire.mapping(order.get("clientProfileData") or {}, "clientProfileData")
        return ChannelOrder(
            external_id=wire.identifier(order.get("orderId"), "orderId"),
            version=wire.version_of(changed_at),
            status=status,
            sold_at=wire.moment(order.get("creationDate"), "creationDate"),
            currency=currency,
            lines=lines,
            total_minor=_cents(order.get("value"), currency, "value"),
            freight_minor=sum(
                _cents(total.get("value"), currency, "totals.value")
                for total in wire.objects(order.get("totals"), "totals")
                if total.get("id") == "Shipping"
            ),
            shipping_service=wire.text(logistics[0].get("selectedSla")) if logistics else "",
            payment_due=None,
            buyer_id=wire.text(client.get("userProfileId")),
            buyer=_buyer(client, shipping),
            unresolved=("status",) if status is SaleStatus.UNKNOWN else (),
            deliver_by=min((wire.moment(one, "shippingEstimateDate") for one in promised), default=None),
            told=_told(status, packages),
            released_at=changed_at if name in _RELEASED else None,
        )

    async def receive(self, session: Session) -> AsyncIterator[Sequence[Fetched]]:
        """GET /api/orders/feed until it is empty; what is not acknowledged is handed out again under another handle.

        A feed that VTEX removed, because nothing happened for so long, is set up again.
        """
        while True:
            response = await _call(session, "feed", "GET", f"/api/orders/feed?maxlot={LOT_MAX}", answers=(404,))
            if response.status_code == httpx.codes.NOT_FOUND:
                await _set_up_feed(session)
                return
            events = wire.objects(wire.read_json(response.content), "feed")
            if not events:
                return
            yield [_pointer(event) for event in events]

    async def acknowledge(self, session: Session, lot: Sequence[Fetched]) -> None:
        """POST /api/orders/feed; a handle whose lease is over does nothing."""
        handles = {"handles": [fetched.receipt for fetched in lot]}
        await _call(session, "feed", "POST", "/api/orders/feed", handles)

    async def fetch(self, session: Session, external_id: str) -> Fetched:
        """GET /api/oms/pvt/orders/{orderId}."""
        return Fetched(external_id, (await _call(session, "orders", "GET", _order_path(external_id))).content)

    async def poll(self, session: Session, since: datetime) -> AsyncIterator[Fetched]:
        """Nothing: what was not acknowledged comes back by itself, and VTEX's list of orders is late by minutes."""
        del session, since
        nothing: tuple[Fetched, ...] = ()
        for fetched in nothing:
            yield fetched

    # -- stock -------------------------------------------------------------------------------------------------------

    async def write_stock(self, session: Session, writes: Sequence[StockWrite]) -> Sequence[WriteOutcome]:
        """PATCH …/quantity, a call a record. PUT would set the lead time to nothing, since it replaces the record."""

        async def one(group: Sequence[StockWrite]) -> Sequence[WriteOutcome]:
            return [await self._write(session, write) for write in group]

        return await wire.write_at_once([[write] for write in writes], one)

    async def _write(self, session: Session, write: StockWrite) -> WriteOutcome:
        path = f"{_sku_path(write.item)}/warehouses/{quote(write.location, safe='')}/quantity"
        body: dict[str, Any] = {"quantity": write.quantity, "unlimitedQuantity": False}
        if write.as_of is not None:
            body["dateUtcOnBalanceSystem"] = write.as_of.astimezone(UTC).isoformat(timespec="microseconds")
        response = await _call(session, "stock", "PATCH", path, body, writes=True, answers=(400, 404, 423))
        request_id = _request_id(response)
        if response.is_success:
            return WriteOutcome(WriteStatus.ACCEPTED, request_id)
        if response.status_code == httpx.codes.LOCKED:
            return WriteOutcome(WriteStatus.BUSY, request_id, retry_after_s=_number(session, "locked_s"))
        reason = f"VTEX answered {response.status_code}: is SKU {write.item} known in warehouse {write.location}?"
        return WriteOutcome(WriteStatus.REFUSED, request_id, reason)

    async def read_stock(self, session: Session, items: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        """The totals, as they were written; a SKU or warehouse that VTEX does not know is left out."""
        found: dict[tuple[str, str], int] = {}
        for item in dict.fromkeys(item for item, _ in items):
            response = await _call(session, "stock", "GET", _sku_path(item), answers=(404,))
            if response.is_success:
                told = wire.mapping(wire.read_json(response.content), "inventory")
                for row in wire.objects(told.get("balance"), "balance"):
                    place = item, wire.identifier(row.get("warehouseId"), "balance.warehouseId")
                    found[place] = wire.count(row.get("totalQuantity"), "balance.totalQuantity")
        return {place: found[place] for place in items if place in found}

    # -- the account -------------------------------------------------------------------------------------------------

    async def check(self, session: Session, door_url: str) -> Sequence[str]:
        """Sign in by reading the warehouses and the feed's configuration, and look for ours."""
        problems = []
        for name in _DEFAULTS:
            try:
                _number(session, name)
            except Rejected as unfit:
                problems.append(str(unfit))
        if problems:
            return problems
        try:
            warehouses = await _warehouses(session)
            await _call(session, "other", "GET", "/api/orders/feed/config", answers=(404,))
        except (Rejected, ValueError) as rejected:
            return [f"VTEX refuses: {rejected}"]
        except Throttled as throttled:
            name = type(throttled).__name__
            return [f"VTEX at {session.base_url} cannot be reached now ({name}): check base_url"]
        wanted = session.settings.get("warehouse_id")
        if wanted not in warehouses:
            there = ", ".join(warehouses) or "none"
            problems.append(f"setting warehouse_id must be an active warehouse of the account: it has {there}")
        if not door_url.startswith("https://") and urlsplit(session.base_url).scheme == "https":
            problems.append("VTEX needs an https address for its hook: set SALDO_DOOR_URL")
        return problems

    async def subscribe(self, session: Session, door_url: str) -> None:
        """Feed and hook, each where it is missing or another one. VTEX removes a hook after three silent days.

        VTEX pings the door before it keeps a hook, and says 400 where that is not answered: the door does not know a
        connection yet that is being validated, and the feed brings everything until the next look sets the hook up.
        """
        await _set_up_feed(session)
        secret = session.credentials["hook_secret"]
        hook = wire.mapping((await _configured(session, "hook")).get("hook") or {}, "hook")
        headers = wire.mapping(hook.get("headers") or {}, "hook.headers")
        shown = {str(name).lower(): value for name, value in headers.items()}
        if (hook.get("url"), shown.get(HOOK_HEADER)) != (door_url, secret):
            # The description wants a header named `key`, whatever it is for.
            wanted = {"url": door_url, "headers": {HOOK_HEADER: secret, "key": session.connection_id}}
            body = {"filter": _FILTER, "hook": wanted}
            await _call(session, "other", "POST", "/api/orders/hook/config", body, answers=(400,))

    async def listings(self, session: Session, known: Container[str] = ()) -> AsyncIterator[ChannelListing]:
        """Every SKU of the catalogue: its number is advert and stock record at once, its reference id is ours."""
        warehouse = session.settings.get("warehouse_id") or next(iter(await _warehouses(session)), "")
        base, page = "/api/catalog_system/pvt/sku", 1
        while True:
            path = f"{base}/stockkeepingunitids?page={page}&pagesize={_PAGE}"
            told = wire.read_json((await _call(session, "other", "GET", path)).content)
            if not isinstance(told, list):
                raise ValueError("the page of SKU ids is no list")
            for number in told:
                sku_id = wire.identifier(number, "SKU id")
                if sku_id in known:
                    continue
                response = await _call(session, "other", "GET", f"{base}/stockkeepingunitbyid/{quote(sku_id, safe='')}")
                sku = wire.mapping(wire.read_json(response.content), "SKU")
                ids = wire.mapping(sku.get("AlternateIds") or {}, "AlternateIds")
                title = wire.text(sku.get("NameComplete")) or wire.text(sku.get("SkuName"))
                yield ChannelListing(sku_id, sku_id, warehouse, wire.text(ids.get("RefId")), title, None)
            if len(told) < _PAGE:
                return
            page += 1

    # -- what is told of an order ------------------------------------------------------------------------------------
    # Each reads the order first and tells nothing that VTEX shows already, so it may be called again at any time.

    async def report_invoice(self, session: Session, order: Told, invoice: InvoiceTold) -> str:
        """Start handling, which is what VTEX expects before, then POST …/invoice."""
        shown = await _shown(session, order)
        if any(one.get("invoiceNumber") == invoice.invoice_no for one in _output(_packages(shown))):
            return ""
        path, status = _order_path(order.external_id), wire.text(shown.get("status"))
        if status == "ready-for-handling":
            # 409: somebody else has started it meanwhile; whether an invoice fits then is said to the invoice.
            await _call(session, "reports", "POST", f"{path}/start-handling", writes=True, answers=(409,))
        elif status in _NOT_YET:
            # Its window to cancel or a check is still open; VTEX moves it on by itself.
            raise Throttled(_number(session, "throttled_s"))
        body = {
            "type": "Output",
            "issuanceDate": invoice.issued_at.isoformat(),
            "invoiceNumber": invoice.invoice_no,
            "invoiceValue": str(_to_cents(invoice.total_minor, _currency(shown))),
            "invoiceKey": invoice.invoice_key,
            "items": _invoiced_items(shown),
        }
        if invoice.content_url and session.document is not None:
            body["embeddedInvoice"] = (await session.document(invoice.content_url)).decode()
        return _request_id(await _call(session, "reports", "POST", f"{path}/invoice", body, writes=True))

    async def report_shipment(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """PATCH …/invoice/{invoiceNumber} with the parcel's tracking."""
        package, path = await _package(session, order, parcel)
        number = _tracking_number(parcel)
        if package.get("trackingNumber") == number:
            return ""
        body = {
            "trackingNumber": number,
            "trackingUrl": parcel.tracking_url or None,
            "courier": f"{parcel.carrier} {parcel.service}".strip(),
            "dispatchedDate": parcel.dispatched_at.isoformat(),
        }
        return _request_id(await _call(session, "reports", "PATCH", path, body, writes=True))

    async def report_tracking(self, session: Session, order: Told, parcel: ParcelTold, scan: TrackingTold) -> str:
        """PUT …/tracking with one event."""
        package, path = await _package(session, order, parcel)
        event = _scan(scan.status, scan.happened_at)
        courier = wire.mapping(package.get("courierStatus") or {}, "courierStatus")
        known = wire.objects(courier.get("data"), "courierStatus.data")
        if any(
            (one.get("description"), one.get("createDate")) == (event["description"], event["date"]) for one in known
        ):
            return ""
        body = {"isDelivered": False, "deliveredDate": None, "events": [event]}
        return _request_id(await _call(session, "reports", "PUT", f"{path}/tracking", body, writes=True))

    async def report_delivery(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """PUT …/tracking, delivered."""
        package, path = await _package(session, order, parcel)
        if _finished(package):
            return ""
        at = parcel.delivered_at or parcel.dispatched_at
        body = {
            "isDelivered": True,
            "deliveredDate": f"{at.astimezone(UTC):%Y-%m-%d %H:%M}",
            "events": [_scan("delivered", at)],
        }
        return _request_id(await _call(session, "reports", "PUT", f"{path}/tracking", body, writes=True))

    async def cancel(self, session: Session, order: Told, reason: str) -> str:
        """POST …/cancel; VTEX cancels nothing that has an invoice."""
        shown = await _shown(session, order)
        if _STATUS.get(wire.text(shown.get("status"))) is SaleStatus.CANCELLED:
            return ""
        path = f"{_order_path(order.external_id)}/cancel"
        return _request_id(await _call(session, "reports", "POST", path, {"reason": reason}, writes=True))


# -- calls -----------------------------------------------------------------------------------------------------------


async def _call(
    session: Session,
    endpoint: str,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    writes: bool = False,
    answers: tuple[int, ...] = (),
) -> httpx.Response:
    headers = {
        "x-vtex-api-appkey": session.credentials["app_key"],
        "x-vtex-api-apptoken": session.credentials["app_token"],
        "accept": "application/json",
        "content-type": "application/json",
    }
    content = None if body is None else json.dumps(body).encode()
    request = session.http.build_request(method, session.base_url + path, content=content, headers=headers)
    pause_s = _number(session, "throttled_s")
    return await wire.send(session, endpoint, request, writes=writes, answers=answers, retry_default_s=pause_s)


def _number(session: Session, name: str) -> float:
    """A setting in seconds, or its default. Raises `Rejected` naming it."""
    given = session.settings.get(name) or str(_DEFAULTS[name])
    try:
        found = float(given)
    except ValueError:
        found = -1.0
    if not 0 < found < float("inf"):
        raise Rejected(f"setting {name} must be a number of seconds above 0")
    return found


def _order_path(order_id: str) -> str:
    return f"/api/oms/pvt/orders/{quote(order_id, safe='')}"


def _sku_path(item: str) -> str:
    return f"/api/logistics/pvt/inventory/skus/{quote(item, safe='')}"


def _request_id(response: httpx.Response) -> str:
    return str(response.headers.get("x-request-id", ""))


async def _configured(session: Session, what: str) -> Mapping[str, Any]:
    response = await _call(session, "other", "GET", f"/api/orders/{what}/config", answers=(404,))
    return wire.mapping(wire.read_json(response.content), what) if response.is_success else {}


async def _set_up_feed(session: Session) -> None:
    wanted = {
        "visibilityTimeoutInSeconds": int(_number(session, "visibility_timeout_s")),
        "MessageRetentionPeriodInSeconds": int(_number(session, "retention_s")),
    }
    config = await _configured(session, "feed")
    # VTEX's own pages write these names with a small and with a capital letter.
    kept = wire.mapping(config.get("queue") or {}, "queue")
    queue = {name.lower(): value for name, value in kept.items()}
    if queue != {name.lower(): value for name, value in wanted.items()}:
        await _call(session, "other", "POST", "/api/orders/feed/config", {"filter": _FILTER, "queue": wanted})


async def _warehouses(session: Session) -> list[str]:
    response = await _call(session, "other", "GET", "/api/logistics/pvt/configuration/warehouses")
    rows = wire.objects(wire.read_json(response.content), "warehouses")
    return [wire.identifier(row.get("id"), "warehouses.id") for row in rows if row.get("isActive", True)]


def _pointer(event: Mapping[str, Any]) -> Fetched:
    # Without handle and event id, which are others at each delivery of the same event.
    told = {name: wire.text(event.get(name)) for name in ("orderId", "state", "lastChange", "currentChange")}
    order_id = wire.identifier(event.get("orderId"), "feed.orderId")
    return Fetched(order_id, json.dumps(told).encode(), wire.identifier(event.get("handle"), "feed.handle"))


async def _shown(session: Session, order: Told) -> Mapping[str, Any]:
    response = await _call(session, "orders", "GET", _order_path(order.external_id))
    return wire.mapping(wire.read_json(response.content), "order")


async def _package(session: Session, order: Told, parcel: ParcelTold) -> tuple[Mapping[str, Any], str]:
    """The invoice that a parcel goes with, and its path: the one that has it already, else the newest without one."""
    invoiced = _output(_packages(await _shown(session, order)))
    number = _tracking_number(parcel)
    of_it = [one for one in invoiced if one.get("trackingNumber") == number]
    free = [one for one in invoiced if not one.get("trackingNumber")]
    chosen = [*invoiced[-1:], *free[-1:], *of_it[-1:]]
    if not chosen:
        raise Rejected("VTEX shows no invoice of this order, and a parcel goes with one: tell it the invoice first")
    package = chosen[-1]
    invoice_no = wire.identifier(package.get("invoiceNumber"), "packages.invoiceNumber")
    return package, f"{_order_path(order.external_id)}/invoice/{quote(invoice_no, safe='')}"


# -- reading an order ------------------------------------------------------------------------------------------------


def _currency(order: Mapping[str, Any]) -> str:
    preferences = wire.mapping(order.get("storePreferencesData") or {}, "storePreferencesData")
    return wire.identifier(preferences.get("currencyCode"), "currencyCode")


def _cents(value: Any, currency: str, name: str) -> int:
    """VTEX writes hundredths in every currency, also in those that have none."""
    return 0 if value is None else wire.minor(Decimal(wire.count(value, name)) / 100, currency, name)


def _to_cents(minor: int, currency: str) -> int:
    return minor * 100 // wire.minor("1", currency, "currency")


def _packages(order: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    attachment = wire.mapping(order.get("packageAttachment") or {}, "packageAttachment")
    return wire.objects(attachment.get("packages"), "packages")


def _output(packages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Invoices of what was sold; the others are of what came back."""
    return [package for package in packages if package.get("type") != "Input"]


def _told(status: SaleStatus, packages: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """What VTEX shows that it was told."""
    steps = {"cancel"} if status is SaleStatus.CANCELLED else set()
    for package in _output(packages):
        steps.add("invoice")
        if number := wire.text(package.get("trackingNumber")):
            steps |= {f"shipment:{number}"} | ({f"delivery:{number}"} if _finished(package) else set())
    return frozenset(steps | ({"delivery"} if status is SaleStatus.DELIVERED else set()))


def _finished(package: Mapping[str, Any]) -> bool:
    return wire.mapping(package.get("courierStatus") or {}, "courierStatus").get("finished") is True


def _status(name: str, packages: Sequence[Mapping[str, Any]], lines: Sequence[ChannelLine]) -> SaleStatus:
    status = _STATUS.get(name, SaleStatus.UNKNOWN)
    if name != "invoiced":
        return status
    if lines and all(line.returned == line.quantity for line in lines):
        return SaleStatus.RETURNED
    sold = _output(packages)
    if sold and all(_finished(package) for package in sold):
        return SaleStatus.DELIVERED
    return SaleStatus.SHIPPED if sold and all(package.get("trackingNumber") for package in sold) else status


def _lines(
    order: Mapping[str, Any], currency: str, packages: Sequence[Mapping[str, Any]], *, cancelled: bool
) -> tuple[ChannelLine, ...]:
    came_back: dict[int, int] = {}
    for package in packages:
        for item in wire.objects(package.get("items"), "packages.items") if package.get("type") == "Input" else ():
            place = wire.count(item.get("itemIndex"), "packages.items.itemIndex")
            units = wire.count(item.get("quantity"), "packages.items.quantity")
            came_back[place] = came_back.get(place, 0) + units
    lines = []
    for place, item in enumerate(wire.objects(order.get("items"), "items")):
        quantity = wire.count(item.get("quantity"), "items.quantity")
        price = _cents(item.get("price"), currency, "items.price")
        paid = price if item.get("sellingPrice") is None else _cents(item["sellingPrice"], currency, "sellingPrice")
        returned = min(quantity, came_back.get(place, 0))
        lines.append(
            ChannelLine(
                line_id=wire.identifier(item.get("uniqueId"), "items.uniqueId"),
                item=wire.identifier(item.get("id"), "items.id"),
                sku=wire.text(item.get("refId")),
                quantity=quantity,
                cancelled=quantity - returned if cancelled else 0,
                returned=returned,
                unit_price_minor=price,
                discount_minor=max(0, price - paid) * quantity,
            )
        )
    return tuple(lines)


def _buyer(client: Mapping[str, Any], shipping: Mapping[str, Any]) -> BuyerReported | None:
    if not client:
        return None
    company = client.get("isCorporate") is True
    person = " ".join(part for name in ("firstName", "lastName") if (part := wire.text(client.get(name))))
    email = wire.text(client.get("email"))
    phones = [wire.text(client.get(name)) for name in ("phone", "corporatePhone")]
    address = wire.mapping(shipping.get("address") or {}, "shippingData.address")
    return BuyerReported(
        customer_ref="",
        order_id="",
        name=(wire.text(client.get("corporateName")) if company else "") or person,
        document=wire.text(client.get("corporateDocument" if company else "document")),
        emails=(email,) if email else (),
        phones=tuple(phone for phone in phones if phone),
        addresses=(_address(address),) if address else (),
    )


def _address(given: Mapping[str, Any]) -> BuyerAddress:
    return BuyerAddress(
        kind="shipping",
        street=wire.text(given.get("street")),
        number=wire.text(given.get("number")),
        complement=wire.text(given.get("complement")),
        district=wire.text(given.get("neighborhood")),
        city=wire.text(given.get("city")),
        region=wire.text(given.get("state")),
        postal_code=wire.text(given.get("postalCode")),
        country=wire.text(given.get("country")),
    )


# -- writing a report ------------------------------------------------------------------------------------------------


def _invoiced_items(order: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every item of an order, at the price it was sold for."""
    return [
        {
            "id": wire.identifier(item.get("id"), "items.id"),
            "price": wire.count(item.get("sellingPrice", item.get("price")), "items.sellingPrice"),
            "quantity": wire.count(item.get("quantity"), "items.quantity"),
        }
        for item in wire.objects(order.get("items"), "items")
    ]


def _tracking_number(parcel: ParcelTold) -> str:
    """VTEX wants a text here; a parcel without a number of its own goes by our id of it."""
    return parcel.tracking_code or parcel.shipment_id


def _scan(status: str, at: datetime) -> dict[str, str]:
    """An event of a parcel; where it was is not known here, and VTEX wants the fields."""
    return {"city": "", "state": "", "description": _SCANS.get(status, status), "date": at.isoformat()}

"""Mercado Livre: unsigned pushes that only point to what changed, tokens that end, stock by warehouse with versions.

Sources: developers.mercadolivre.com.br, pages "Notificações", "Gerenciar vendas", "Envios", "Autenticação e
Autorização", "Estoque multiorigem", "Carregar nota fiscal", "Gestionar reclamos", "Devoluciones".

A push holds no order and nobody signs it, so it is taken at an address with a secret, must name the account, and makes
an order be read again. Request limits are not published: those here are cautious, and settings `limit.<endpoint>`
replace them. The seller's callback URL is set by hand at the application's page.

What buyers send back comes as claims with a return. A claim does not say in its push which order it is about: the poll
finds that out (`claims/search`), and later pushes about it are then known as the order's. Units count as returned from
the moment the buyer has posted them, wherever the channel sends them first; what the channel keeps or throws away after
its own look at them (`reviews`) is not told apart. A claim that ends in money alone (`low_cost`) brings nothing back.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote, urlencode

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
    Granted,
    Limit,
    Rejected,
    Session,
    SignatureInvalid,
    StockWrite,
    Throttled,
    TokenEnded,
    Told,
    Traits,
    WriteOutcome,
    WriteStatus,
)

FULL: Final = "meli_facility"
"""The channel's own warehouses: their stock is shown by it, sold and sent by it, and never written by us."""

_TOPICS: Final = ("orders_v2", "shipments", "post_purchase", "claims")
_POINTED_AT: Final = ("orders", "shipments", "claims")
_PAGE: Final = 50
_ADVERTS_MAX: Final = 20
_REMEMBERED_MAX: Final = 4_096
"""Of so many user products the numbers of the last write are known: about 1 kB each."""
_HIDDEN: Final = "XXXXXXX"
"""What stands for the buyer's data until the order is paid."""

_STATUS: Final = {
    "confirmed": SaleStatus.AWAITING_PAYMENT,
    "payment_required": SaleStatus.AWAITING_PAYMENT,
    "payment_in_process": SaleStatus.AWAITING_PAYMENT,
    "partially_paid": SaleStatus.AWAITING_PAYMENT,
    "paid": SaleStatus.PAID,
    "partially_refunded": SaleStatus.PAID,
    "pending_cancel": SaleStatus.CANCEL_REQUESTED,
    "cancelled": SaleStatus.CANCELLED,
    "invalid": SaleStatus.CANCELLED,
}
_SHIPPED: Final = {
    "shipped": SaleStatus.SHIPPED,
    "not_delivered": SaleStatus.SHIPPED,
    "delivered": SaleStatus.DELIVERED,
}
_COMING_BACK: Final = frozenset({"shipped", "pending_delivered", "delivered"})
"""Where a return stands once its units have left the buyer; those of any other state may still stay with him."""


class MercadoLivre:
    """A connection's account is the seller's nickname.

    Credentials: `client_id` and `client_secret` of the application, the seller's number `user_id` and the first
    `refresh_token`; `hook_secret` is drawn. Setting `store_id` is the warehouse to be written, `network_node_id` its
    node, needed where the stock does not show it; `poll_interval_s` is how often lost pushes are looked for. What the
    channel sends from its own warehouses is fulfilled by a location of the code `meli_facility`.
    """

    traits: Traits = Traits(
        connector="mercadolivre",
        intake="push",
        quantity_trait=QuantityTrait.ABSOLUTE,
        reserves_unpaid=True,
        restores_on_cancel=True,
        orders_have_version=True,
        compares=True,
        max_batch=5,
        write_timeout_s=10.0,
        spacing_ms=200,
        unpaid_deadline_h=120,
        poll_interval_s=60.0,
        poll_overlap_s=900.0,
        limits={
            "orders": Limit(9.0, 9.0),
            "shipments": Limit(9.0, 9.0),
            "stock": Limit(4.5, 5.0),
            "search": Limit(0.9, 1.0),
            "claims": Limit(4.5, 5.0),
            "feeds": Limit(0.9, 1.0),
            "token": Limit(0.9, 1.0),
            "items": Limit(4.5, 5.0),
            "reports": Limit(4.5, 5.0),
        },
        credentials=("client_id", "client_secret", "user_id", "refresh_token"),
        settings=("store_id", "network_node_id", "unpaid_deadline_h", "poll_interval_s"),
        url_secret=True,
        credentials_drawn=("hook_secret",),
        answer_within_s=0.5,
        fetch_parallel=4,
        reports=frozenset({"invoice", "shipment", "delivery"}),
    )

    # -- in ----------------------------------------------------------------------------------------------------------

    def verify(self, headers: Mapping[str, str], body: bytes, credentials: Mapping[str, str]) -> Delivery:
        """The address was secret; the body must name the seller and the application."""
        del headers
        try:
            told = wire.mapping(wire.read_json(body), "notification")
        except ValueError:
            raise SignatureInvalid("the body is no notification") from None
        for field, credential in (("user_id", "user_id"), ("application_id", "client_id")):
            given = wire.text(told.get(field)).encode(errors="replace")
            if not hmac.compare_digest(given, credentials[credential].encode()):
                raise SignatureInvalid(f"{field} is not the account's")
        topic = wire.text(told.get("topic"))
        # An attempt repeats its id and differs in its number, so its bytes do not tell it apart.
        what = f"{told.get('resource')}\n{told.get('sent')}"
        delivery_id = (
            wire.text(told.get("_id") or told.get("id")) or hashlib.sha256(what.encode(errors="replace")).hexdigest()
        )
        return Delivery(delivery_id, topic, ignored=topic not in _TOPICS)

    def points_to(self, topic: str, body: bytes) -> str:
        """`/orders/<id>` is the order; `/shipments/<id>` and `/post-purchase/v1/claims/<id>` are other names of it."""
        del topic
        told = wire.mapping(wire.read_json(body), "body")
        if "order" in told:
            return ""
        return _pointed_at(wire.text(told.get("resource")))

    def to_order(self, body: bytes) -> ChannelOrder:
        """`{"order": GET /orders/{id}, "shipment": GET /shipments/{id}, "sla": GET /shipments/{id}/sla, "claims": [{
        "claim": a row of claims/search, "return": GET /claims/{id}/returns}]}`, null or left out where there is none.
        """
        told = wire.mapping(wire.read_json(body), "body")
        order = wire.mapping(told.get("order"), "order")
        shipment = wire.mapping(told.get("shipment") or {}, "shipment")
        claims = wire.objects(told.get("claims"), "claims")
        external_id = wire.identifier(order.get("id"), "id")
        currency = wire.identifier(order.get("currency_id"), "currency_id")
        status = _status(wire.text(order.get("status")), wire.text(shipment.get("status")))
        lines = _lines(wire.objects(order.get("order_items"), "order_items"), currency, status)
        if status is not SaleStatus.RETURNED:
            status, lines = _with_returns(status, lines, _returns(claims), external_id)
        shipping = wire.text(wire.mapping(order.get("shipping") or {}, "shipping").get("id"))
        expected = wire.mapping(told.get("sla") or {}, "sla").get("expected_date")
        return ChannelOrder(
            external_id=external_id,
            version=_version(order, shipment, claims),
            status=status,
            sold_at=wire.moment(order.get("date_created"), "date_created"),
            currency=currency,
            lines=lines,
            total_minor=wire.minor(order.get("total_amount"), currency, "total_amount"),
            freight_minor=0,
            shipping_service=wire.text(shipment.get("tracking_method")),
            payment_due=None,
            buyer_id=wire.text(wire.mapping(order.get("buyer") or {}, "buyer").get("id")),
            buyer=_buyer(wire.mapping(shipment.get("destination") or {}, "shipment.destination")),
            unresolved=("status",) if status is SaleStatus.UNKNOWN else (),
            aliases=(*((f"shipments/{shipping}",) if shipping else ()), *_names(claims)),
            # A document goes to the purchase, a parcel's state to the shipment; an order in no pack is its own.
            reference=f"{wire.text(order.get('pack_id')) or external_id}/{shipping}",
            ship_by=wire.moment(expected, "sla.expected_date") if expected else None,
            told=_told(shipment),
        )

    async def receive(self, session: Session) -> AsyncIterator[Sequence[Fetched]]:
        """Nothing: the channel pushes."""
        del session
        nothing: tuple[Sequence[Fetched], ...] = ()
        for lot in nothing:
            yield lot

    async def acknowledge(self, session: Session, lot: Sequence[Fetched]) -> None:
        """Nothing: the answer to the push is the acknowledgement."""
        del session, lot

    async def fetch(self, session: Session, external_id: str) -> Fetched:
        """The order, then its shipment with the deadline for sending it, then, once it has left, claims and returns.

        The deadline may be another one until the day before; the channel asks not to be asked for it where it sends
        the goods itself, and where nothing is to be sent.
        """
        order = await _send(session, "orders", "GET", f"/orders/{quote(external_id, safe='')}")
        read = wire.mapping(wire.read_json(order.content), "order")
        number = wire.text(wire.mapping(read.get("shipping") or {}, "shipping").get("id"))
        shipment = sla = b"null"
        claims: list[bytes] = []
        if number:
            # An order whose shipment is gone is an order all the same.
            path, form = f"/shipments/{quote(number, safe='')}", {"x-format-new": "true"}
            shipment = await _read_if_there(session, "shipments", path, form)
            told = wire.mapping(wire.read_json(shipment) or {}, "shipment")
            logistic = wire.mapping(told.get("logistic") or {}, "shipment.logistic")
            status = wire.text(told.get("status"))
            if status not in ("", "pending", "cancelled") and logistic.get("type") != "fulfillment":
                sla = await _read_if_there(session, "shipments", f"{path}/sla")
            if status in _SHIPPED:
                claims = [one async for one in _claims(session, external_id)]
        parts = {"order": order.content, "shipment": shipment, "sla": sla, "claims": b"[" + b",".join(claims) + b"]"}
        body = b",".join(b'"%s":%s' % (name.encode(), part) for name, part in parts.items())
        return Fetched(external_id, b"{" + body + b"}")

    async def poll(self, session: Session, since: datetime) -> AsyncIterator[Fetched]:
        """What nobody took in time (`missed_feeds`, kept two days), then every order changed and every claim, as
        pointers.
        """
        for topic in _TOPICS:
            async for message in _pages(
                session, "feeds", "/missed_feeds", {"app_id": session.credentials["client_id"], "topic": topic},
                "messages",
            ):  # fmt: skip
                yield _pointer(wire.text(message.get("resource")))
        query = {
            "seller": session.credentials["user_id"],
            "order.date_last_updated.from": since.isoformat(timespec="milliseconds"),
            # By age, so that an order that changes meanwhile moves nothing to a page that was read.
            "sort": "date_asc",
        }
        async for order in _pages(session, "search", "/orders/search", query, "results"):
            version = _version(order, {}, ())
            yield replace(_pointer(f"/orders/{wire.identifier(order.get('id'), 'id')}", version), version=version)
        query = {
            "players.role": "respondent",
            "players.user_id": session.credentials["user_id"],
            "range": f"last_updated:after:{since.isoformat(timespec='milliseconds')}",
        }
        async for claim in _pages(session, "claims", "/post-purchase/v1/claims/search", query, "data"):
            for resource in await _concerned(session, claim):
                # Without a version: what is kept of the order may be newer and know nothing of the claim.
                yield _pointer(resource, _moment_of(claim))

    async def refresh(self, session: Session, refresh_token: str) -> Granted:
        """POST /oauth/token. Of the refresh tokens only the one given last works, and once."""
        form = {
            "grant_type": "refresh_token",
            "client_id": session.credentials["client_id"],
            "client_secret": session.credentials["client_secret"],
            "refresh_token": refresh_token,
        }
        request = session.http.build_request("POST", f"{session.base_url}/oauth/token", data=form)
        response = await wire.send(session, "token", request, writes=True, answers=(400, 401))
        told = wire.mapping(wire.read_json(response.content), "token")
        if not response.is_success:
            # The name of an error is a word of the standard; its description is the channel's own text.
            if told.get("error") == "invalid_grant":
                raise TokenEnded("invalid_grant")
            raise Rejected("token: client_id and client_secret are not taken: check the application's page")
        return Granted(
            wire.identifier(told.get("access_token"), "access_token"),
            wire.identifier(told.get("refresh_token"), "refresh_token"),
            wire.count(told.get("expires_in"), "expires_in"),
        )

    # -- stock -------------------------------------------------------------------------------------------------------

    async def write_stock(self, session: Session, writes: Sequence[StockWrite]) -> Sequence[WriteOutcome]:
        """Per user product: read numbers and version, compare, then write on that version (409: read again).

        Comparing the numbers ourselves is as good as the channel doing it, since its version guards what we compared.
        What the answer to our last write showed stands for as long as its version does, and is not read again.
        """
        products: dict[str, list[int]] = {}
        for place, write in enumerate(writes):
            products.setdefault(write.item, []).append(place)
        groups = [[writes[place] for place in places] for places in products.values()]
        answers = await wire.write_at_once(groups, lambda group: _write_product(session, group[0].item, group))
        order = [place for places in products.values() for place in places]
        return [outcome for _, outcome in sorted(zip(order, answers, strict=True), key=lambda pair: pair[0])]

    async def read_stock(self, session: Session, items: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        """GET /user-products/{id}/stock, one by one; a known product is none at a warehouse that is not named."""
        found: dict[tuple[str, str], int] = {}
        for item in dict.fromkeys(item for item, _ in items):
            stock = await _stock(session, item)
            if stock is not None:
                found.update({(item, place): stock.numbers.get(place, 0) for each, place in items if each == item})
        return found

    async def listings(self, session: Session, known: Container[str] = ()) -> AsyncIterator[ChannelListing]:
        """GET /users/{id}/items/search by scroll, then the adverts twenty at a time; each variation is one."""
        del known  # They come many at a time.
        scroll: dict[str, str] = {}
        while True:
            path = f"/users/{session.credentials['user_id']}/items/search"
            query = {"search_type": "scan", "limit": "100", **scroll}
            page = await _read(session, "items", f"{path}?{urlencode(query)}")
            if not isinstance(results := page.get("results") or [], list):
                raise ValueError("results is no list")
            adverts = [wire.identifier(one, "results") for one in results]
            if not adverts:
                return
            for first in range(0, len(adverts), _ADVERTS_MAX):
                path = f"/items/bulk?ids={','.join(adverts[first : first + _ADVERTS_MAX])}"
                response = await _send(session, "items", "GET", path)
                for row in wire.objects(wire.read_json(response.content), "items"):
                    if row.get("code") == httpx.codes.OK:
                        for listing in _adverts(wire.mapping(row.get("body"), "item"), session.settings["store_id"]):
                            yield listing
            scroll = {"scroll_id": wire.text(page.get("scroll_id"))}

    # -- telling -----------------------------------------------------------------------------------------------------

    async def report_invoice(self, session: Session, order: Told, invoice: InvoiceTold) -> str:
        """POST /packs/{pack}/fiscal_documents with the XML; of a purchase that has one already nothing is wanted."""
        if not invoice.content_url or session.document is None:
            raise Rejected("the channel wants the invoice's XML: give it with `saldo order invoice --file`")
        content = await session.document(invoice.content_url)
        pack = order.reference.partition("/")[0]
        files = {"fiscal_document": (f"{invoice.invoice_key}.xml", content, "text/xml")}
        response = await _send(
            session, "reports", "POST", f"/packs/{quote(pack, safe='')}/fiscal_documents", answers=(409,), files=files
        )
        return str(response.headers.get("x-request-id", ""))

    async def report_shipment(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """PUT /shipments/{id}: it is on its way, under this tracking code."""
        body = {"status": "shipped", "tracking_number": parcel.tracking_code, "tracking_method": parcel.service}
        return await _tell(session, order, body)

    async def report_tracking(self, session: Session, order: Told, parcel: ParcelTold, scan: TrackingTold) -> str:
        """Nothing: the channel takes no single scans, and is not told of them (`reports`)."""
        del session, order, parcel, scan
        return ""

    async def report_delivery(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """PUT /shipments/{id}: it has arrived."""
        del parcel
        return await _tell(session, order, {"status": "delivered"})

    async def cancel(self, session: Session, order: Told, reason: str) -> str:
        """Refused: the buyer's money is given back at the channel's own page."""
        del session, order, reason
        raise Rejected("the channel takes no cancellation from outside: cancel the sale at its page")

    # -- the account -------------------------------------------------------------------------------------------------

    async def check(self, session: Session, door_url: str) -> Sequence[str]:
        """Sign in, and look whether this seller keeps stock by warehouse and has the one that is to be written."""
        del door_url
        wanted = session.settings.get("store_id", "")
        problems = [] if wanted else ["setting store_id is missing: give the warehouse that is to be written"]
        try:
            user = await _read(session, "items", "/users/me")
            if wire.text(user.get("id")) != session.credentials["user_id"]:
                return [f"the tokens are those of user {wire.text(user.get('id'))}, not of credential user_id"]
            if "warehouse_management" not in (user.get("tags") or ()):
                problems.append("the seller keeps no stock by warehouse: switch multi-origin stock on at the channel")
            page = await _read(session, "items", f"/users/{session.credentials['user_id']}/stores/search")
            stores = [wire.text(store.get("id")) for store in wire.objects(page.get("results"), "stores")]
            if wanted and wanted not in stores:
                problems.append(f"setting store_id is none of the seller's warehouses: {', '.join(stores)}")
        except Rejected as rejected:
            problems.append(f"Mercado Livre refuses: {rejected}")
        except Throttled as throttled:
            problems.append(f"Mercado Livre at {session.base_url} cannot be reached now ({type(throttled).__name__})")
        return problems

    async def subscribe(self, session: Session, door_url: str) -> None:
        """Nothing: a person sets the callback URL at the application's page; the poll finds what is not pushed."""
        del session, door_url


async def _send(
    session: Session,
    endpoint: str,
    method: str,
    path: str,
    *,
    answers: tuple[int, ...] = (),
    headers: Mapping[str, str] | None = None,
    **content: Any,
) -> httpx.Response:
    """Call with an access token, and once more with a new one where the channel takes it for ended."""
    assert session.token is not None
    assert session.token_refused is not None
    for _ in range(2):
        token = await session.token()
        request = session.http.build_request(
            method,
            session.base_url + path,
            headers={"authorization": f"Bearer {token}", "accept": "application/json", **(headers or {})},
            **content,
        )
        response = await wire.send(session, endpoint, request, writes=method != "GET", answers=(*answers, 401))
        if response.status_code != httpx.codes.UNAUTHORIZED:
            return response
        session.token_refused(token)
    raise Rejected(f"{endpoint}: a new access token is not taken either: check the application's permissions")


async def _read(session: Session, endpoint: str, path: str) -> Mapping[str, Any]:
    response = await _send(session, endpoint, "GET", path)
    return wire.mapping(wire.read_json(response.content), endpoint)


def _pointed_at(resource: str) -> str:
    place, _, number = resource.rpartition("/")
    kind = place.rpartition("/")[2]
    if kind not in _POINTED_AT or not (number.isascii() and number.isdecimal()):
        raise ValueError("resource is neither an order nor a shipment nor a claim")
    return number if kind == "orders" else f"@{kind}/{number}"


def _pointer(resource: str, changed: str = "") -> Fetched:
    """What changed and when: one pointer is followed once."""
    told = {"resource": resource} | ({"last_updated": changed} if changed else {})
    return Fetched(_pointed_at(resource), json.dumps(told).encode())


async def _pages(
    session: Session, endpoint: str, path: str, query: Mapping[str, str], rows: str
) -> AsyncIterator[Mapping[str, Any]]:
    offset = 0
    while True:
        page = await _read(session, endpoint, f"{path}?{urlencode({**query, 'offset': offset, 'limit': _PAGE})}")
        found = wire.objects(page.get(rows), rows)
        for row in found:
            yield row
        if len(found) < _PAGE:
            return
        offset += _PAGE


async def _tell(session: Session, order: Told, body: Mapping[str, str]) -> str:
    shipment = order.reference.partition("/")[2]
    if not shipment:
        raise Rejected("the order has no shipment at the channel")
    response = await _send(session, "reports", "PUT", f"/shipments/{quote(shipment, safe='')}", json=dict(body))
    return str(response.headers.get("x-request-id", ""))


async def _read_if_there(session: Session, endpoint: str, path: str, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of an object; JSON's null where the channel has none."""
    response = await _send(session, endpoint, "GET", path, answers=(404,), headers=headers)
    return response.content if response.is_success else b"null"


# -- claims and returns ----------------------------------------------------------------------------------------------


async def _claims(session: Session, external_id: str) -> AsyncIterator[bytes]:
    """Every claim about an order, with the return that it led to."""
    async for claim in _pages(session, "claims", "/post-purchase/v1/claims/search", {"order_id": external_id}, "data"):
        back = await _read_if_there(session, "claims", _return_path(claim))
        yield b'{"claim":%s,"return":%s}' % (json.dumps(claim, default=str).encode(), back)


def _return_path(claim: Mapping[str, Any]) -> str:
    return f"/post-purchase/v2/claims/{wire.identifier(claim.get('id'), 'claim.id')}/returns"


async def _concerned(session: Session, claim: Mapping[str, Any]) -> list[str]:
    """What a claim is about, as a push would name it. One about a payment or a purchase: the orders of its return."""
    kind, number = wire.text(claim.get("resource")), wire.text(claim.get("resource_id"))
    if kind in ("order", "shipment") and number:
        return [f"/{kind}s/{number}"]
    back = wire.mapping(wire.read_json(await _read_if_there(session, "claims", _return_path(claim))) or {}, "return")
    return [f"/orders/{wire.identifier(row.get('order_id'), 'order_id')}" for row in _rows_of(back)]


def _rows_of(back: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return wire.objects(back.get("orders"), "return.orders")


def _names(claims: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(
        f"claims/{wire.identifier(wire.mapping(one.get('claim'), 'claim').get('id'), 'claim.id')}" for one in claims
    )


def _moment_of(claim: Mapping[str, Any]) -> str:
    return wire.version_of(wire.moment(claim.get("last_updated") or claim.get("date_created"), "claim.last_updated"))


def _returns(claims: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns under way; several claims may have led to one."""
    found = {}
    for one in claims:
        back = wire.mapping(one.get("return") or {}, "return")
        if wire.text(back.get("status")) in _COMING_BACK and back.get("subtype") != "low_cost":
            found[wire.identifier(back.get("id"), "return.id")] = back
    return list(found.values())


def _with_returns(
    status: SaleStatus, lines: tuple[ChannelLine, ...], returns: Sequence[Mapping[str, Any]], external_id: str
) -> tuple[SaleStatus, tuple[ChannelLine, ...]]:
    """Status and lines with what returns say; an order is returned once all of it is in the seller's hands."""
    units: Counter[str] = Counter()
    for back in returns:
        for row in _rows_of(back):
            # Units that never arrived at the buyer cannot come back from him.
            if wire.text(row.get("order_id")) == external_id and row.get("context_type") != "incomplete":
                variation = wire.text(row.get("variation_id"))
                advert = wire.identifier(row.get("item_id"), "return.orders.item_id")
                quantity = _units(row.get("return_quantity"))
                units[f"{advert}:{variation}" if variation else advert] += quantity
    told = []
    for line in lines:
        returned = min(units[line.item], line.quantity - line.cancelled)
        units[line.item] -= returned
        told.append(replace(line, returned=returned) if returned else line)
    whole = bool(returns) and all(line.cancelled + line.returned == line.quantity for line in told)
    if whole and all(back.get("status") == "delivered" for back in returns):
        status = SaleStatus.RETURNED
    return status, tuple(told)


def _units(value: Any) -> int:
    """Returns have their quantities as text with a point ("1.0")."""
    try:
        number = Decimal(wire.text(value))
    except ArithmeticError:
        number = Decimal("NaN")
    return wire.count(number if number.is_finite() else None, "return_quantity")


class _Stock:
    """The seller's warehouses of a user product as they were read, and the version of all of it."""

    def __init__(self, version: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self.version, self.rows = version, rows
        self.numbers = {place: wire.count(row.get("quantity"), "quantity") for place, row in rows.items()}

    def fresh(self, writes: Sequence[StockWrite]) -> list[StockWrite]:
        """Those that find the number they expect, or expect none."""
        return [write for write in writes if write.expected in (None, self.numbers.get(write.location, 0))]


async def _stock(session: Session, item: str) -> _Stock | None:
    """The stock of a user product; None where the channel does not know it."""
    response = await _send(session, "stock", "GET", f"/user-products/{quote(item, safe='')}/stock", answers=(404,))
    return _stock_of(response) if response.is_success else None


def _stock_of(response: httpx.Response) -> _Stock:
    """Raises `ValueError` where the answer shows no stock."""
    told = wire.mapping(wire.read_json(response.content), "stock")
    rows = {
        wire.identifier(row.get("store_id"), "store_id"): row
        for row in wire.objects(told.get("locations"), "locations")
        if row.get("type") == "seller_warehouse"
    }
    return _Stock(response.headers.get("x-version", ""), rows)


def _remember(session: Session, item: str, response: httpx.Response, written: Mapping[str, int]) -> None:
    """Keep what the answer to a write shows: what is written on its version next need not be read before.

    Only where it shows all that was written and nothing else: a warehouse that it leaves out would be set to nothing by
    the next write, and a sale that it knows of already would be put back on sale.
    """
    with suppress(ValueError):
        stock = _stock_of(response)
        if (
            stock.version
            and stock.numbers == written
            and all(row.get("network_node_id") for row in stock.rows.values())
        ):
            while len(session.remembered) >= _REMEMBERED_MAX:
                del session.remembered[next(iter(session.remembered))]
            session.remembered[item] = stock


async def _write_product(session: Session, item: str, writes: Sequence[StockWrite]) -> list[WriteOutcome]:
    # Taken out: whoever does not come back from the call knows nothing of what stands at the channel.
    remembered: _Stock | None = session.remembered.pop(item, None)
    if remembered is not None and remembered.fresh(writes) == list(writes):
        outcomes = await _write_on(session, item, writes, remembered)
        # What was refused wrote nothing, and may fit to what is read now.
        if all(outcome.status is WriteStatus.ACCEPTED for outcome in outcomes):
            return outcomes
    stock = await _stock(session, item)
    if stock is None:
        reason = f"the channel knows no user product {item}: import its listings again"
        return [WriteOutcome(WriteStatus.REFUSED, reason=reason)] * len(writes)
    return await _write_on(session, item, writes, stock)


async def _write_on(session: Session, item: str, writes: Sequence[StockWrite], stock: _Stock) -> list[WriteOutcome]:
    """Write what fits to the numbers of this version, on it."""
    fresh = stock.fresh(writes)
    if not fresh:
        return [WriteOutcome(WriteStatus.STALE)] * len(writes)
    nodes = {place: wire.text(row.get("network_node_id")) for place, row in stock.rows.items()}
    # Warehouses that are left out would be set to nothing.
    numbers = stock.numbers | {write.location: write.quantity for write in fresh}
    rows = [
        {
            "store_id": place,
            "network_node_id": nodes.get(place) or session.settings.get("network_node_id", ""),
            "quantity": quantity,
        }
        for place, quantity in numbers.items()
    ]
    response = await _send(
        session,
        "stock",
        "PUT",
        f"/user-products/{quote(item, safe='')}/stock/type/seller_warehouse",
        answers=(400, 409),
        headers={"x-version": stock.version},
        json={"locations": rows},
    )
    request_id = response.headers.get("x-request-id", "")
    if response.status_code == httpx.codes.CONFLICT:
        return [WriteOutcome(WriteStatus.STALE, request_id)] * len(writes)
    if not response.is_success:
        reason = f"the channel refuses the number of {item}: are setting store_id and network_node_id its warehouse?"
        return [WriteOutcome(WriteStatus.REFUSED, request_id, reason)] * len(writes)
    _remember(session, item, response, numbers)
    return [WriteOutcome(WriteStatus.ACCEPTED if write in fresh else WriteStatus.STALE, request_id) for write in writes]


def _version(order: Mapping[str, Any], shipment: Mapping[str, Any], claims: Sequence[Mapping[str, Any]]) -> str:
    """The newest change of what is read together. Not of the deadline, which is not read of every order."""
    changed = next((order[name] for name in ("last_updated", "date_closed", "date_created") if order.get(name)), None)
    parts = [wire.mapping(one.get(name) or {}, name) for one in claims for name in ("claim", "return")]
    changes = [part["last_updated"] for part in (shipment, *parts) if part.get("last_updated")]
    return wire.version_of(max(wire.moment(one, "last_updated") for one in (changed, *changes)))


def _status(order: str, shipment: str) -> SaleStatus:
    """An order stays `paid` wherever its parcel is; one that is undone after its delivery came back."""
    status = _STATUS.get(order, SaleStatus.UNKNOWN)
    if status is SaleStatus.PAID:
        return _SHIPPED.get(shipment, status)
    return SaleStatus.RETURNED if status is SaleStatus.CANCELLED and shipment == "delivered" else status


def _told(shipment: Mapping[str, Any]) -> frozenset[str]:
    status = wire.text(shipment.get("status"))
    told = set()
    if status in _SHIPPED or (status == "ready_to_ship" and shipment.get("substatus") != "invoice_pending"):
        told.add("invoice")
    if status in _SHIPPED:
        told.add("shipment")
    if status == "delivered":
        told.add("delivery")
    return frozenset(told)


def _lines(items: Sequence[Mapping[str, Any]], currency: str, status: SaleStatus) -> tuple[ChannelLine, ...]:
    seen: Counter[str] = Counter()
    lines = []
    for row in items:
        item = wire.mapping(row.get("item"), "order_items.item")
        advert = wire.identifier(item.get("id"), "order_items.item.id")
        if variation := wire.text(item.get("variation_id")):
            advert = f"{advert}:{variation}"
        seen[advert] += 1
        quantity = wire.count(row.get("quantity"), "order_items.quantity")
        price = wire.minor(row.get("unit_price"), currency, "order_items.unit_price")
        full = wire.minor(row.get("full_unit_price"), currency, "order_items.full_unit_price") or price
        stock = wire.mapping(row.get("stock") or {}, "order_items.stock")
        lines.append(
            ChannelLine(
                # A line has no id of its own here: its advert's, numbered where one advert has several lines.
                line_id=advert if seen[advert] == 1 else f"{advert}#{seen[advert]}",
                item=advert,
                sku=wire.text(item.get("seller_sku")) or wire.text(item.get("seller_custom_field")),
                quantity=quantity,
                cancelled=quantity if status is SaleStatus.CANCELLED else 0,
                returned=quantity if status is SaleStatus.RETURNED else 0,
                unit_price_minor=full,
                discount_minor=max(0, full - price) * quantity,
                fulfilled_by=FULL if stock.get("node_id") == FULL else "us",
            )
        )
    return tuple(lines)


def _buyer(destination: Mapping[str, Any]) -> BuyerReported | None:
    """The receiver, once the channel shows him."""
    name = _shown(destination.get("receiver_name"))
    if not name:
        return None
    given = wire.mapping(destination.get("shipping_address") or {}, "shipping_address")
    phone = _shown(destination.get("receiver_phone"))
    address = BuyerAddress(
        kind="shipping",
        street=_shown(given.get("street_name")),
        number=_shown(given.get("street_number")),
        complement=_shown(given.get("comment")),
        district=_named(given, "neighborhood"),
        city=_named(given, "city"),
        region=wire.text(wire.mapping(given.get("state") or {}, "state").get("id")).removeprefix("BR-"),
        postal_code=_shown(given.get("zip_code")),
        country=wire.text(wire.mapping(given.get("country") or {}, "country").get("id")),
    )
    return BuyerReported(
        customer_ref="", order_id="", name=name, phones=(phone,) if phone else (), addresses=(address,)
    )


def _shown(value: Any) -> str:
    found = wire.text(value)
    return "" if found == _HIDDEN else found


def _named(given: Mapping[str, Any], field: str) -> str:
    return _shown(wire.mapping(given.get(field) or {}, field).get("name"))


def _adverts(item: Mapping[str, Any], store: str) -> list[ChannelListing]:
    advert, title = wire.identifier(item.get("id"), "item.id"), wire.text(item.get("title"))
    found = []
    for sold in wire.objects(item.get("variations"), "variations") or [item]:
        product = wire.text(sold.get("user_product_id"))
        if not product:
            continue  # Not kept by warehouse: nothing of it can be written here.
        listing = advert if sold is item else f"{advert}:{wire.identifier(sold.get('id'), 'variations.id')}"
        number = wire.count(sold["available_quantity"], "quantity") if "available_quantity" in sold else None
        found.append(ChannelListing(listing, product, store, _sku_of(sold), title, number))
    return found


def _sku_of(sold: Mapping[str, Any]) -> str:
    for attribute in wire.objects(sold.get("attributes"), "attributes"):
        if attribute.get("id") == "SELLER_SKU":
            return wire.text(attribute.get("value_name"))
    return wire.text(sold.get("seller_custom_field"))

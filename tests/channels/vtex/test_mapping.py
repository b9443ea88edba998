"""VTEX's orders, events and answers as they are read, from the published example and from broken ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.channels.v1 import SaleStatus
from services.channels.connectors.connector import (
    OutcomeUnknown,
    Rejected,
    Session,
    SignatureInvalid,
    StockWrite,
    Throttled,
    Unreachable,
    WriteStatus,
)
from services.channels.intake import domain
from tests.channels.test_connectors import Free
from tests.channels.vtex.conftest import VTEX
from tests.sandbox import vtex_specs

CREDENTIALS = {"app_key": "key", "app_token": "token", "hook_secret": "secret"}


def order(**changes: Any) -> dict[str, Any]:
    """An order of two items, as GET /api/oms/pvt/orders/{orderId} shows it, with the fields that are read."""
    whole: dict[str, Any] = {
        "orderId": "1-01",
        "status": "ready-for-handling",
        "value": 6970,
        "creationDate": "2026-01-02T03:04:05.1234567+00:00",
        "lastChange": "2026-01-02T03:05:00.0000000+00:00",
        "totals": [
            {"id": "Items", "value": 5970},
            {"id": "Discounts", "value": -10},
            {"id": "Shipping", "value": 1000},
        ],
        "items": [
            {"uniqueId": "U1", "id": "11", "refId": "A", "quantity": 2, "price": 1990, "sellingPrice": 1890},
            {"uniqueId": "U2", "id": "12", "refId": None, "quantity": 1, "price": 1990, "sellingPrice": 1990},
        ],
        "clientProfileData": {"userProfileId": "p1", "firstName": "Ana", "lastName": "Souza", "email": "a@example.com"},
        "shippingData": {"address": {"city": "Recife"}, "logisticsInfo": [{"selectedSla": "Normal"}]},
        "packageAttachment": {"packages": []},
        "storePreferencesData": {"currencyCode": "BRL"},
    }
    return whole | changes


def mapped(**changes: Any) -> Any:
    return VTEX.to_order(json.dumps(order(**changes)).encode())


def package(kind: str = "Output", **changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {"type": kind, "invoiceNumber": "123", "items": [], "courierStatus": None}
    return whole | changes


def attached(*packages: dict[str, Any]) -> dict[str, Any]:
    return {"status": "invoiced", "packageAttachment": {"packages": list(packages)}}


@pytest.mark.skipif(
    not vtex_specs.SPECS.is_dir(), reason="VTEX's descriptions are not here: set SALDO_SPECS_DIR to read its example"
)
def test_the_published_example_of_an_order_maps() -> None:
    found = VTEX.to_order(json.dumps(vtex_specs.example("GET", "/api/oms/pvt/orders/1-01")).encode())
    assert (found.external_id, found.currency, found.total_minor, found.freight_minor) == (
        "1172452900788-01", "BRL", 1160, 300,
    )  # fmt: skip
    assert (found.status, found.version) == (SaleStatus.PAID, "2024-02-06T20:46:11.701074Z")
    assert [(line.item, line.sku, line.quantity, line.unit_price_minor) for line in found.lines] == [
        ("18", "BIGBML", 1, 990)
    ]
    assert found.shipping_service == "Normal"
    assert found.buyer is not None
    assert (found.buyer.name, found.buyer.addresses[0].city) == ("Rodrigo Smith", "Rio de Janeiro")


def test_cents_lines_discounts_and_freight() -> None:
    found = mapped()
    assert (found.total_minor, found.freight_minor) == (6970, 1000)
    assert [(line.line_id, line.item, line.sku, line.quantity, line.discount_minor) for line in found.lines] == [
        ("U1", "11", "A", 2, 200),
        ("U2", "12", "", 1, 0),
    ]
    assert found.version == "2026-01-02T03:05:00.000000Z"


def test_hundredths_are_hundredths_in_a_currency_without_them() -> None:
    assert mapped(storePreferencesData={"currencyCode": "CLP"}, value=199_000).total_minor == 1990


@pytest.mark.parametrize(
    ("name", "status", "released"),
    [
        ("order-created", SaleStatus.AWAITING_PAYMENT, False),
        ("payment-pending", SaleStatus.AWAITING_PAYMENT, False),
        ("payment-approved", SaleStatus.PAID, False),
        ("waiting-ffmt-authorization", SaleStatus.PAID, False),
        ("window-to-cancel", SaleStatus.PAID, False),
        ("ready-for-handling", SaleStatus.PAID, False),
        ("start-handling", SaleStatus.PAID, True),
        ("handling", SaleStatus.PAID, True),
        ("invoiced", SaleStatus.PAID, True),
        ("request-cancel", SaleStatus.CANCEL_REQUESTED, False),
        ("cancel", SaleStatus.CANCELLED, False),
        ("canceled", SaleStatus.CANCELLED, False),
        ("null", SaleStatus.UNKNOWN, False),
        (None, SaleStatus.UNKNOWN, False),
        ("replaced", SaleStatus.UNKNOWN, False),
    ],
)
def test_states_and_when_vtex_stops_to_answer_for_the_units(
    name: str | None, status: SaleStatus, released: bool
) -> None:
    found = mapped(status=name)
    assert found.status is status
    assert (found.released_at is not None) is released
    assert found.unresolved == (("status",) if status is SaleStatus.UNKNOWN else ())
    assert sum(line.cancelled for line in found.lines) == (3 if status is SaleStatus.CANCELLED else 0)


def test_an_invoiced_order_is_shipped_delivered_and_returned_by_its_packages() -> None:
    assert mapped(**attached(package())).told == {"invoice"}
    assert mapped(**attached(package(trackingNumber="SD1"))).status is SaleStatus.SHIPPED
    assert mapped(**attached(package(trackingNumber="SD1"), package())).status is SaleStatus.PAID
    assert mapped(**attached(package(trackingNumber="SD1"))).told == {"invoice", "shipment:SD1"}
    arrived = package(trackingNumber="SD1", courierStatus={"finished": True})
    assert mapped(**attached(arrived)).status is SaleStatus.DELIVERED
    assert mapped(**attached(arrived)).told == {"invoice", "shipment:SD1", "delivery:SD1", "delivery"}
    back = package("Input", items=[{"itemIndex": 0, "quantity": 2}])
    found = mapped(**attached(arrived, back))
    assert ([line.returned for line in found.lines], found.status) == ([2, 0], SaleStatus.DELIVERED)
    both = package("Input", items=[{"itemIndex": 0, "quantity": 2}, {"itemIndex": 1, "quantity": 1}])
    assert mapped(**attached(arrived, both)).status is SaleStatus.RETURNED


def test_a_company_is_named_by_its_own_name_and_document() -> None:
    client = {"isCorporate": True, "corporateName": "Loja Ltda", "corporateDocument": "1" * 14, "firstName": "Ana"}
    buyer = mapped(clientProfileData=client).buyer
    assert (buyer.name, buyer.document) == ("Loja Ltda", "1" * 14)
    assert mapped(clientProfileData=None).buyer is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"orderId": None}, "orderId"),
        ({"lastChange": "yesterday"}, "lastChange"),
        ({"creationDate": None}, "creationDate"),
        ({"value": 19.9}, "value"),
        ({"items": {}}, "items"),
        ({"items": [{"id": "1", "quantity": 1}]}, "uniqueId"),
        ({"items": [{"id": "1", "uniqueId": "U", "quantity": -1}]}, "quantity"),
        ({"storePreferencesData": None}, "currencyCode"),
        ({"shippingData": "a street"}, "shippingData"),
        ({"packageAttachment": {"packages": "none"}}, "packages"),
    ],
)
def test_a_body_of_another_shape_names_the_field_and_repeats_nothing(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as failure:
        mapped(**change)
    assert "Souza" not in str(failure.value)


@given(st.sampled_from(sorted(order())), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_whatever_a_field_holds_an_order_maps_or_is_a_value_error(name: str, value: Any) -> None:
    told = ""
    try:
        mapped(**{name: value})
    except ValueError as failure:
        told = str(failure)
    assert "Souza" not in told


def test_an_event_points_to_its_order_wherever_it_comes_from() -> None:
    assert VTEX.points_to("hook", b'{"OrderId": "1-01", "State": "handling"}') == "1-01"
    assert VTEX.points_to("queue", b'{"orderId": "1-01"}') == "1-01"
    assert VTEX.points_to("fetch", json.dumps(order()).encode()) == ""
    with pytest.raises(ValueError, match="orderId"):
        VTEX.points_to("hook", b"{}")


def test_the_hook_is_known_by_the_header_that_we_gave_it() -> None:
    event = b'{"OrderId": "1-01", "State": "handling", "LastChange": "x", "CurrentChange": "y"}'
    first = VTEX.verify({"x-saldo-hook": "secret"}, event, CREDENTIALS)
    again = VTEX.verify({"x-saldo-hook": "secret"}, event.replace(b", ", b","), CREDENTIALS)
    assert (first.delivery_id, first.ignored) == (again.delivery_id, False)
    assert VTEX.verify({"x-saldo-hook": "secret"}, event.replace(b"1-01", b"2-01"), CREDENTIALS) != first
    assert VTEX.verify({"x-saldo-hook": "secret"}, b'{"hookConfig": "ping"}', CREDENTIALS).ignored
    assert not VTEX.verify({"x-saldo-hook": "secret"}, b"\xff", CREDENTIALS).ignored
    for headers, credentials in [
        ({}, CREDENTIALS),
        ({"x-saldo-hook": ""}, CREDENTIALS | {"hook_secret": ""}),
        ({"x-saldo-hook": "sécret"}, CREDENTIALS),
        ({"x-saldo-hook": "secret"}, {}),
    ]:
        with pytest.raises(SignatureInvalid):
            VTEX.verify(headers, event, credentials)


def session(answer: Callable[[httpx.Request], httpx.Response], **settings: str) -> Session:
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return Session("c1", "http://vtex.test", "conta", CREDENTIALS, {"warehouse_id": "1_1"} | settings, client, Free())


def failing(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda _: httpx.Response(429), Throttled),
        (lambda _: httpx.Response(401), Rejected),
        (lambda _: httpx.Response(503), OutcomeUnknown),
        (failing(httpx.ReadTimeout("late")), OutcomeUnknown),
        (failing(httpx.ConnectError("down")), Unreachable),
    ],
)
async def test_what_became_of_a_write_is_told_apart(answer: Any, error: type[Exception]) -> None:
    opened = session(answer, throttled_s="7")
    with pytest.raises(error) as raised:
        await VTEX.write_stock(opened, [StockWrite("11", "1_1", 1)])
    if error is Throttled:
        assert raised.value.retry_after_s == 7  # type: ignore[attr-defined]


@pytest.mark.asyncio
async def test_what_was_accepted_before_a_call_was_refused_is_known_as_such() -> None:
    answers = iter([204, 423, 404, 429, 429])
    opened = session(lambda _: httpx.Response(next(answers)), locked_s="3")
    writes = [StockWrite(str(number), "1_1", number) for number in range(5)]
    outcomes = await VTEX.write_stock(opened, writes)
    assert [(one.status, one.retry_after_s) for one in outcomes] == [
        (WriteStatus.ACCEPTED, 0),
        (WriteStatus.BUSY, 3),
        (WriteStatus.REFUSED, 0),
        (WriteStatus.BUSY, 60),
        (WriteStatus.BUSY, 60),
    ]


def test_an_order_that_is_promised_leaves_as_many_days_before_as_its_carriers_take() -> None:
    promised = [{"selectedSla": "Normal", "shippingEstimateDate": f"2026-01-{day}T12:00:00+00:00"} for day in (12, 10)]
    found = mapped(shippingData={"logisticsInfo": promised})
    assert found.ship_by is None
    assert domain.with_ship_by(found, None).ship_by is None
    assert domain.with_ship_by(found, 3).ship_by == datetime(2026, 1, 7, 12, tzinfo=UTC)
    said = datetime(2026, 1, 5, tzinfo=UTC)
    assert domain.with_ship_by(replace(found, ship_by=said), 3).ship_by == said

"""The page behind a tracking link: both languages, every step, nothing about the buyer."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from contracts.channels.v1 import (
    InvoiceTold,
    OrderProgress,
    ParcelTold,
    PaymentTold,
    ProgressLine,
    TrackingTold,
)
from services.channels.shop import links, tracking
from tests.channels.shop.conftest import Counter
from tests.channels.shop.test_domain import NEW

ZONE = ZoneInfo("America/Sao_Paulo")
AT = datetime(2026, 3, 2, 12, tzinfo=UTC)
PARCEL = ParcelTold(
    shipment_id="s1",
    carrier="correios",
    service="sedex",
    tracking_code="SD123456789BR",
    tracking_url="https://tracking.example/SD123456789BR",
    lines=(ProgressLine(line_id="1", quantity=2),),
    dispatched_at=AT + timedelta(hours=5),
    tracking=(TrackingTold(status="in_transit", happened_at=AT + timedelta(hours=9)),),
)


def progress(state: str, **more: object) -> OrderProgress:
    fields = {"order_id": "o", "revision": 1, "connection_id": "c", "state": state, "state_at": AT} | more
    return OrderProgress.model_validate(fields)


def test_the_way_of_an_order_is_told_in_both_languages() -> None:
    invoice = InvoiceTold(
        invoice_id="d", invoice_key="3" * 44, invoice_no="1", series="1", issued_at=AT, total_minor=1, currency="BRL"
    )
    paid = PaymentTold(status="captured", attempt=1, paid_at=AT)
    basket = replace(NEW, progress=progress("shipped", parcels=(PARCEL,), payment=paid, invoice=invoice))
    done = {
        language: [one.text for one in tracking.steps(basket, language, ZONE) if one.done]
        for language in ("pt-BR", "en")
    }
    assert done["en"] == ["Order received", "Payment confirmed", "Invoice issued", "Order packed", "Shipped"]
    assert done["pt-BR"][-1] == "Enviado"
    page = tracking.page(basket, "en", "link", ZONE)
    for word in ("SD123456789BR", "https://tracking.example/SD123456789BR", "In transit", "2 Mar 2026, 14:00"):
        assert word in page
    assert 'lang="en"' in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("language", "zone", "sent"),
    [
        ("pt-BR", "America/Sao_Paulo", "02/03/2026 23:30"),
        ("en", "America/Sao_Paulo", "2 Mar 2026, 23:30"),
        ("pt-BR", "America/Manaus", "02/03/2026 22:30"),
        ("en", "Europe/Lisbon", "3 Mar 2026, 02:30"),
    ],
)
def test_times_are_the_shop_s_own_as_its_buyers_write_them(language: str, zone: str, sent: str) -> None:
    parcel = PARCEL.model_copy(update={"dispatched_at": datetime(2026, 3, 3, 2, 30, tzinfo=UTC)})
    basket = replace(NEW, progress=progress("shipped", parcels=(parcel,)))

    page = tracking.page(basket, language, "link", ZoneInfo(zone))

    assert f"<time>{sent}</time>" in page
    assert zone in page
    assert "UTC" not in page


def test_a_cancelled_order_ends_where_it_was_cancelled() -> None:
    refunded = PaymentTold(status="refunded", attempt=1, paid_at=AT)
    basket = replace(NEW, ended="cancelled", ended_at=AT, progress=progress("cancelled", payment=refunded))
    texts = [one.text for one in tracking.steps(basket, "en", ZONE)]
    assert texts == ["Order received", "Order cancelled", "Payment given back"]


def test_what_a_carrier_sends_is_no_script() -> None:
    bad = PARCEL.model_copy(update={"tracking_url": "javascript:alert(1)", "tracking_code": "<b>1</b>"})
    page = tracking.page(replace(NEW, progress=progress("shipped", parcels=(bad,))), "en", "link", ZONE)
    assert "javascript:" not in page
    assert "<b>1</b>" not in page


@pytest.mark.parametrize(
    ("wanted", "language"),
    [("", "pt-BR"), ("en", "en"), ("EN-us", "en"), ("de, en;q=0.5", "en"), ("pt", "pt-BR"), ("de", "pt-BR")],
)
def test_the_language_is_what_the_buyer_reads(wanted: str, language: str) -> None:
    assert tracking.language_of(wanted) == language


@pytest.mark.asyncio
async def test_the_page_needs_its_link_and_no_key(counter: Counter) -> None:
    basket = await counter.held()
    keys = await counter.kit.intake.customer_keys_of(counter.kit.service.pool, ["loja"])  # type: ignore[arg-type]
    now = counter.kit.service.clock()
    good = links.signed(keys["loja"], basket["order_id"], now + timedelta(days=1))
    old = links.signed(keys["loja"], basket["order_id"], now - timedelta(days=2))
    forged = links.signed(b"another key", basket["order_id"], now + timedelta(days=1))
    stranger = links.signed(keys["loja"], "no such order", now + timedelta(days=1))
    bare = {"authorization": ""}
    page = await counter.http.get(f"/t/{good}?lang=en", headers=bare)
    assert (page.status_code, "Follow your order" in page.text) == (200, True)
    assert page.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    in_portuguese = await counter.http.get(f"/t/{good}", headers=bare | {"accept-language": "pt-BR,en;q=0.5"})
    assert "Acompanhe seu pedido" in in_portuguese.text
    answers = [await counter.http.get(f"/t/{link}", headers=bare) for link in (old, forged, stranger, "x", "a.b.c")]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1, "nobody learns which of them is wrong"
    assert (await counter.http.get("/t/style.css", headers=bare)).status_code == 200

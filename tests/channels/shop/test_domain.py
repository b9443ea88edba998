"""A basket in any order of deeds and news, and the pure parts beside it."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given

from contracts.channels.v1 import BuyerReported, OrderProgress, PaymentTold, SaleStatus
from contracts.fulfillment.v1 import DeliveryOption, DeliveryQuoted
from contracts.payments.v1 import PaymentMethod
from services.channels.connectors import CONNECTORS
from services.channels.shop import domain, links, told
from services.channels.shop.domain import (
    AskToCancel,
    Basket,
    BasketLine,
    ChooseDelivery,
    Deed,
    GiveAddress,
    LetGo,
    Pay,
    Refusal,
    State,
    Terms,
)
from services.channels.shop.schemas import business_day
from services.channels.shop.terms import terms_of

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
TERMS = Terms(card_page_url="https://gateway.example/cards")
OPTION = DeliveryOption(
    option_id="pac", carrier="correios", service="pac", price_minor=1290, currency="BRL", days_min=4, days_max=7
)
NEW = Basket(
    tenant="loja",
    connection_id="c",
    order_id="o",
    basket_id="b",
    external_id="N1",
    language="pt-BR",
    currency="BRL",
    lines=(BasketLine("1", "CUP", "Copo", 2, 1990),),
    created_at=NOW,
    hold_until=NOW + timedelta(minutes=15),
)
STATES = (
    "placed", "held", "short", "confirmed", "invoiced", "packed", "cancelling", "cancelled", "shipped", "delivered",
    "returned", "closed",
)  # fmt: skip
payments = st.none() | st.builds(
    PaymentTold,
    status=st.sampled_from(("asked", "pending", "authorized", "captured", "failed", "voided", "refunded")),
    attempt=st.integers(0, 3),
)
news = st.builds(
    OrderProgress,
    order_id=st.just("o"),
    revision=st.integers(1, 12),
    connection_id=st.just("c"),
    state=st.sampled_from(STATES),
    state_at=st.just(NOW),
    payment=payments,
    cancelled_reason=st.none() | st.just("sold_out"),
)
deeds: st.SearchStrategy[Deed] = st.one_of(
    st.builds(GiveAddress, st.just(BuyerReported(customer_ref="", order_id="", name="Ana"))),
    st.just(ChooseDelivery("pac")),
    st.just(ChooseDelivery("other")),
    st.builds(Pay, st.just(PaymentMethod.CARD), st.sampled_from(("", "pm_1"))),
    st.just(Pay(PaymentMethod.PIX)),
    st.just(LetGo()),
    st.just(AskToCancel()),
)
quotes = st.builds(
    DeliveryQuoted,
    order_id=st.just("o"),
    quote_id=st.sampled_from(("o:q1", "o:q2", "o:q3")),
    options=st.sampled_from(((), (OPTION,))),
)


def after(basket: Basket, event: Deed | OrderProgress | DeliveryQuoted, now: datetime = NOW) -> Basket:
    if isinstance(event, OrderProgress):
        return domain.hear(basket, event, now)
    if isinstance(event, DeliveryQuoted):
        return domain.quoted(basket, event)
    done = domain.act(basket, event, TERMS, now)
    return basket if isinstance(done, Refusal) else done


@given(st.lists(st.one_of(deeds, news, quotes), max_size=25))
def test_whatever_comes_in_whatever_order_a_basket_keeps_its_promises(events: list[Deed | OrderProgress]) -> None:
    basket, released = NEW, 0
    for event in events:
        before, basket = basket, after(basket, event)
        assert basket.change >= before.change
        assert (basket.change > before.change) == (basket != before)
        assert basket.version >= before.version
        assert domain.untold(before, basket) or basket.status is before.status, "intake hears of every status"
        assert basket.attempt - before.attempt in (0, 1)
        assert not (before.ended == "cancelled" and basket.attempt > before.attempt)
        if before.paid:
            assert basket.attempt == before.attempt, "nobody pays twice"
        if before.ended == "cancelled":
            assert basket.state is State.CANCELLED, "cancelled is for good"
        released += domain.released(before, basket)
        assert basket.total_minor == basket.goods_minor + basket.freight_minor
        order = told.to_order(basket, None, "")
        read = CONNECTORS["shop"].to_order(_body(basket))
        assert read == order
    assert released == (basket.ended == "cancelled"), "what a basket held is given back once"


def _body(basket: Basket) -> bytes:
    from services.channels.shop.shop import _order

    return _order.dump_json(told.to_order(basket, None, ""))


@given(st.permutations(range(1, 7)))
def test_news_in_any_order_end_the_same(order: list[int]) -> None:
    states = ("placed", "held", "held", "confirmed", "shipped", "delivered")
    basket = NEW
    for revision in order:
        word = OrderProgress(
            order_id="o", revision=revision, connection_id="c", state=states[revision - 1], state_at=NOW
        )
        basket = domain.hear(basket, word, NOW)
    assert basket.progress is not None
    assert (basket.progress.revision, basket.ended, basket.status) == (6, "delivered", SaleStatus.DELIVERED)


def test_a_link_is_good_until_its_day_is_over_and_for_one_order_only() -> None:
    link = links.signed(b"key", "order-1", NOW)
    assert links.order_of(link) == "order-1"
    assert links.is_good(b"key", link, NOW + timedelta(hours=11))
    assert not links.is_good(b"key", link, NOW + timedelta(hours=12))
    assert not links.is_good(b"other", link, NOW)
    order, end, signature = link.split(".")
    for forged in (f"order-2.{end}.{signature}", f"{order}.{int(end) + 86400}.{signature}", f"{order}.x.{signature}"):
        assert not links.is_good(b"key", forged, NOW)
    assert links.order_of("no link") == ""
    ended = NOW - timedelta(days=89)
    assert links.until(ended, NOW, timedelta(days=90)) == NOW + timedelta(days=1)


@given(st.text(max_size=100))
def test_no_text_is_a_link(text: str) -> None:
    if links.order_of(text):
        assert not links.is_good(b"key", text, NOW)


def test_business_days_leave_out_weekends() -> None:
    friday = date(2026, 3, 6)
    assert business_day(friday, 0) == friday
    assert business_day(friday, 1) == date(2026, 3, 9)
    assert business_day(friday, 6) == date(2026, 3, 16)
    assert business_day(date(2026, 3, 7), 0) == date(2026, 3, 9)


def test_settings_are_read_or_refused_in_words() -> None:
    terms = terms_of({"methods": "pix", "hold_pix_min": "5", "currency": "EUR"})
    assert (terms.methods, terms.hold_pix, terms.currency) == ((PaymentMethod.PIX,), timedelta(minutes=5), "EUR")
    assert terms.gateway(PaymentMethod.CARD) == ""
    assert terms_of({}).gateway(PaymentMethod.CARD) == "", "without a page where it is typed"
    assert (terms_of({}).time_zone.key, terms_of({"time_zone": "America/Manaus"}).time_zone.key) == (
        "America/Sao_Paulo", "America/Manaus",
    )  # fmt: skip
    assert terms_of({"hold_card_min": "0.5"}).hold_card == timedelta(seconds=30)
    for wrong in (
        {"methods": "cash"},
        {"hold_card_min": "soon"},
        {"track_days": "0"},
        {"time_zone": "Brasilia"},
        {"time_zone": "../etc"},
        {"time_zone": "America"},
    ):
        with pytest.raises(ValueError, match=r"setting (methods|hold_card_min|track_days|time_zone)"):
            terms_of(wrong)


def test_the_hold_of_a_card_is_not_made_shorter_by_pix() -> None:
    ready = replace(
        NEW, quotes=1, options=(OPTION,), chosen=OPTION, hold_until=NOW + timedelta(hours=2),
        progress=OrderProgress(order_id="o", revision=1, connection_id="c", state="held", state_at=NOW),
    )  # fmt: skip
    paying = domain.act(ready, Pay(PaymentMethod.PIX), TERMS, NOW)
    assert isinstance(paying, Basket)
    assert paying.hold_until == ready.hold_until


def test_one_pix_after_the_other_does_not_hold_stock_for_ever() -> None:
    now = NOW
    basket = replace(
        NEW, quotes=1, options=(OPTION,), chosen=OPTION,
        progress=OrderProgress(order_id="o", revision=1, connection_id="c", state="held", state_at=NOW),
    )  # fmt: skip
    for attempt in range(1, 9):
        paying = domain.act(basket, Pay(PaymentMethod.PIX), TERMS, now)
        if isinstance(paying, Refusal):
            break
        pending = PaymentTold(status="pending", attempt=attempt)
        told_of = OrderProgress(
            order_id="o", revision=attempt + 1, connection_id="c", state="held", state_at=now, payment=pending
        )
        basket, now = domain.hear(paying, told_of, now), now + timedelta(minutes=14)

    assert isinstance(paying, Refusal)
    assert paying.code == "hold_over"
    assert basket.hold_until == NOW + timedelta(minutes=45)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"external_id": 1, "lines": "ana@example.com"}'])
def test_a_body_that_is_none_is_refused_by_its_fields(body: bytes) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the text is looked at below
        CONNECTORS["shop"].to_order(body)
    assert "ana@example.com" not in str(refused.value)


@given(st.lists(st.tuples(st.sampled_from(TERMS.methods), st.timedeltas(timedelta(), timedelta(minutes=40)))))
def test_no_number_of_tries_holds_the_goods_for_ever(tries: list[tuple[PaymentMethod, timedelta]]) -> None:
    end, now = NOW + TERMS.hold_card + TERMS.hold_pix, NOW
    held = OrderProgress(order_id="o", revision=1, connection_id="c", state="held", state_at=NOW)
    basket = replace(NEW, quotes=1, options=(OPTION,), chosen=OPTION, progress=held)
    for method, later in tries:
        now += later
        paying = domain.act(basket, Pay(method, "token"), TERMS, now)
        if isinstance(paying, Refusal):
            assert paying.code == "hold_over"
            return
        assert basket.hold_until <= paying.hold_until <= end
        pending = PaymentTold(status="pending", attempt=paying.attempt)
        basket = replace(paying, progress=held.model_copy(update={"payment": pending}))

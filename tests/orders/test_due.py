"""What a buyer owes: nothing for nothing, the whole for the whole, and less never costs more."""

from hypothesis import given
from hypothesis import strategies as st

from contracts.channels.v1 import SaleReported, SaleStatus
from services.orders.due import due_minor
from tests.orders.given import line, sale


@st.composite
def sales(draw: st.DrawFn) -> SaleReported:
    lines = []
    for number in range(draw(st.integers(1, 3))):
        quantity, price = draw(st.integers(1, 5)), draw(st.integers(0, 999))
        discount = draw(st.integers(0, quantity * price))
        lines.append(line(str(number), quantity=quantity, unit_price_minor=price, discount_minor=discount))
    freight = draw(st.integers(0, 500))
    worth = sum(one.unit_price_minor * one.quantity - one.discount_minor for one in lines)
    total = draw(st.sampled_from([0, worth + freight, max(freight, worth + freight - 7)]))
    return sale(1, SaleStatus.PAID, *lines, total_minor=total, freight_minor=freight)


@given(whole=sales())
def test_the_whole_order_costs_its_total_and_nothing_costs_nothing(whole: SaleReported) -> None:
    everything = {one.line_id: one.quantity for one in whole.lines}
    worth = sum(one.unit_price_minor * one.quantity - one.discount_minor for one in whole.lines)

    assert due_minor(whole, everything, freight=True) == (whole.total_minor or worth + whole.freight_minor)
    assert due_minor(whole, {}, freight=False) == 0


@given(data=st.data(), whole=sales())
def test_less_never_costs_more(data: st.DataObject, whole: SaleReported) -> None:
    more = {one.line_id: data.draw(st.integers(0, one.quantity)) for one in whole.lines}
    less = {line_id: data.draw(st.integers(0, units)) for line_id, units in more.items()}

    assert 0 <= due_minor(whole, less, freight=True) <= due_minor(whole, more, freight=True)


def test_a_discount_of_the_line_is_shared_by_its_units() -> None:
    one = sale(1, SaleStatus.PAID, line(quantity=3, unit_price_minor=1_000, discount_minor=100))

    assert [due_minor(one, {"1": units}, freight=False) for units in (0, 1, 2, 3)] == [0, 967, 1933, 2900]


def test_a_discount_of_the_order_is_shared_by_what_its_lines_are_worth() -> None:
    two = (line("1", quantity=1, unit_price_minor=7_500), line("2", quantity=1, unit_price_minor=2_500))
    order = sale(1, SaleStatus.PAID, *two, total_minor=9_500, freight_minor=500)

    assert due_minor(order, {"1": 1}, freight=True) == 6_750 + 500
    assert due_minor(order, {"2": 1}, freight=True) == 2_250 + 500

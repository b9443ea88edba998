"""What facts mean in the journal: amounts and units that add up to what the facts say."""

from hypothesis import given
from hypothesis import strategies as st

from contracts.orders.v1 import (
    OrderCancelled,
    OrderChanged,
    OrderClosed,
    OrderDelivered,
    OrderPaid,
    OrderReturned,
)
from contracts.payments.v1 import PaymentCaptured, PaymentDisputed, PaymentRefunded, PaymentTakenOver
from services.erp.domain import Order, Payment, Row, move, pay, ship, take
from tests.erp.given import dispatched, fact, lines, movement, payment, placed


def told(*facts: object) -> tuple[Order | None, list[Row]]:
    order, rows = None, []
    for one in facts:
        order, made = take(order, one)  # type: ignore[arg-type]
        rows += made
    return order, rows


def shown(rows: list[Row]) -> list[tuple[str, str, int | None, int | None]]:
    return [(row.kind, row.sku, row.quantity, row.amount_minor) for row in rows]


def test_a_sale_is_its_lines_and_the_rest() -> None:
    _, rows = told(placed())
    assert shown(rows) == [("sale", "MUG", 2, 4000), ("sale", "", None, 1000)]
    assert {(row.order_id, row.reference, row.currency) for row in rows} == {("order-a", "order-a", "BRL")}


def test_a_cancelled_part_is_the_difference() -> None:
    change = fact(OrderChanged, 2, lines=lines(MUG=1), due_minor=2500, currency="BRL")
    _, rows = told(placed(), change)
    assert shown(rows)[2:] == [("cancel", "MUG", 1, -2000), ("cancel", "", None, -500)]


def test_freight_that_the_buyer_chose_late_is_sold_not_cancelled() -> None:
    grown = fact(OrderChanged, 2, lines=lines(MUG=2), due_minor=6490, currency="BRL")
    _, rows = told(placed(), grown)
    assert shown(rows)[2:] == [("sale", "", None, 1490)]


def test_a_cancelled_order_takes_back_all_of_it() -> None:
    order, rows = told(placed(), fact(OrderCancelled, 2, reason="person", due_minor=0, currency="BRL"))
    assert shown(rows)[2:] == [("cancel", "MUG", 2, -4000), ("cancel", "", None, -1000)]
    assert order
    assert (order.cancelled, order.due_minor) == (True, 0)


def test_what_came_back_is_told_in_all_and_booked_once() -> None:
    first = fact(OrderReturned, 2, lines=lines(MUG=1), due_minor=3000, currency="BRL")
    second = fact(OrderReturned, 3, lines=lines(MUG=2), due_minor=1000, currency="BRL")
    _, rows = told(placed(), first, second)
    assert shown(rows)[2:] == [("return", "MUG", 1, -2000), ("return", "MUG", 1, -2000)]


def test_a_sum_that_nobody_said_is_none() -> None:
    order, rows = told(placed(currency=None, due_minor=None, total_minor=0))
    assert shown(rows) == [("sale", "MUG", 2, None)]
    assert order
    assert (order.currency, order.due_minor) == ("", 0)


def test_facts_that_are_not_newer_or_not_begun_change_nothing() -> None:
    order, _ = told(placed())
    assert take(order, placed()) == (order, [])
    assert take(None, fact(OrderPaid, 2)) == (None, [])


quantities = st.dictionaries(st.sampled_from(["MUG", "TRAY", "CUP"]), st.integers(1, 9))
sums = st.none() | st.integers(0, 10**7)
facts = st.one_of(
    st.builds(lambda units, due: (OrderChanged, {"lines": lines(**units), "due_minor": due}), quantities, sums),
    st.builds(lambda units, due: (OrderReturned, {"lines": lines(**units), "due_minor": due}), quantities, sums),
    st.builds(lambda due: (OrderCancelled, {"reason": "person", "due_minor": due}), sums),
    st.builds(lambda due: (OrderDelivered, {"due_minor": due}), sums),
    st.builds(lambda due: (OrderClosed, {"reason": "silence", "due_minor": due}), sums),
)


@given(quantities, st.integers(0, 10**7), st.lists(facts, max_size=8))
def test_amounts_add_up_to_what_is_due_and_units_to_what_stands(units: dict, total: int, later: list) -> None:
    heard = [placed(lines=lines(**units), due_minor=None, total_minor=total)]
    heard += [fact(kind, version, currency="BRL", **said) for version, (kind, said) in enumerate(later, start=2)]
    order, rows = told(*heard)
    assert order
    assert sum(row.amount_minor or 0 for row in rows) == order.due_minor
    if heard[-1].due_minor is not None:
        assert order.due_minor == heard[-1].due_minor
    signs = {"sale": 1, "cancel": -1, "return": 0}
    assert sum(signs[row.kind] * (row.quantity or 0) for row in rows) == sum(
        line.quantity for line in order.standing.values()
    )
    back = sum(row.quantity or 0 for row in rows if row.kind == "return")
    assert back == sum(line.quantity for line in order.returned.values())


@given(
    st.lists(
        st.tuples(
            st.sampled_from([PaymentCaptured, PaymentRefunded, PaymentDisputed, PaymentTakenOver]),
            st.integers(1, 9),
            st.integers(0, 5000),
            st.integers(0, 5000),
            st.integers(0, 5000),
        ),
        max_size=8,
    )
)
def test_payments_add_up_to_the_newest_fact(heard: list) -> None:
    known: Payment | None = None
    rows: list[Row] = []
    for kind, version, captured, refunded, lost in heard:
        more = {"disputed_minor": 0, "lost_minor": lost} if kind is PaymentDisputed else {}
        if kind in (PaymentRefunded, PaymentDisputed):
            more["reason"] = "person"
        known, made = pay(known, payment(kind, version, captured_minor=captured, refunded_minor=refunded, **more))
        rows += made
    known = known or Payment()
    assert known.version == max((version for _, version, *_ in heard), default=0)
    kept = known.captured_minor - known.refunded_minor - known.lost_minor
    assert sum(row.amount_minor or 0 for row in rows) == kept
    assert sum(row.amount_minor or 0 for row in rows if row.kind == "payment") == known.captured_minor


def test_a_shipment_and_a_movement_name_their_order() -> None:
    [left] = ship(dispatched())
    assert (left.kind, left.order_id, left.reference, left.quantity) == ("shipment", "order-a", "order-a:s1", 2)
    moved = move(movement())
    assert (moved.order_id, moved.from_account, moved.to_account) == (
        "order-a",
        "main/shared/reserved",
        "main/shared/shipped",
    )
    assert move(movement(line="")).order_id == ""

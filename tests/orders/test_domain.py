"""Given an order, when something is heard, then these facts and this demand."""

from datetime import timedelta

import pytest

from contracts.channels.v1 import SaleStatus
from contracts.inventory.v1 import AccountState, DemandMet, HoldExpired, OrderDemand, ShippedQuantity
from contracts.orders.v1 import OrderPlaced
from services.orders.domain import CloseDue, Event, alerts, decide
from services.orders.order import Cancelled, Closed, Confirmed, Delivered, Held, Order, Placed, Returned, Shipped, Short
from services.orders.standing import standing, unresolved_lines
from tests.orders.given import KIT, NOW, answer, line, sale, settle


def after(*events: Event) -> tuple[Order, list[str], list[OrderDemand]]:
    """The order after `events`, the names of the facts told, and the demands sent."""
    order, facts, demands = None, [], []
    for event in events:
        decision = decide(order, event, NOW)
        order = decision.order
        facts += [type(fact).__name__ for fact in decision.facts]
        assert [fact.version for fact in decision.facts] == list(
            range(len(facts) - len(decision.facts) + 1, len(facts) + 1)
        )
        demands += [decision.demand] if decision.demand else []
    assert order
    assert order.version == len(facts)
    return order, facts, demands


def outstanding(demand: OrderDemand) -> dict[str, int]:
    """What the demand still wants to have reserved, per line."""
    return {
        asked.line_id: asked.ordered - asked.cancelled - sum(was.quantity for was in asked.shipped)
        for asked in demand.lines
    }


def test_a_paid_sale_asks_for_its_stock_at_once() -> None:
    order, facts, demands = after(sale(1, SaleStatus.PAID))

    assert facts == ["OrderPlaced"]
    assert [fact.paid for fact in decide(None, sale(1), NOW).facts if isinstance(fact, OrderPlaced)] == [True]
    assert order.state == Placed()
    assert [(demand.revision, outstanding(demand)) for demand in demands] == [(1, {"1": 2})]


def test_a_met_demand_confirms_the_order_once() -> None:
    met = DemandMet(order_id="order-a", revision=1, lines=())

    order, facts, demands = after(sale(), met, met)

    assert order.state == Confirmed()
    assert facts == ["OrderPlaced", "OrderConfirmed"]
    assert len(demands) == 1


def test_the_same_and_an_older_snapshot_change_nothing() -> None:
    order, _, _ = after(sale(3, SaleStatus.CANCELLED))

    for event in (sale(3, SaleStatus.PAID), sale(2, SaleStatus.SHIPPED), sale(1)):
        decision = decide(order, event, NOW)
        assert decision.order is order
        assert decision.facts == ()
        assert decision.demand is None


def test_an_unpaid_order_reserves_and_waits_for_payment() -> None:
    due = NOW + timedelta(hours=72)
    unpaid = sale(1, SaleStatus.AWAITING_PAYMENT, payment_due=due)

    order, facts, demands = after(unpaid, sale(2, SaleStatus.PAID))

    placed = decide(None, unpaid, NOW)
    assert placed.order.state == Held("payment", due)
    assert [fact.paid for fact in placed.facts if isinstance(fact, OrderPlaced)] == [False]
    assert facts == ["OrderPlaced", "OrderHeld", "OrderPaid"]
    assert [demand.hold_until for demand in demands] == [None]
    assert settle(order).state == Confirmed()


def test_a_cancel_before_payment_gives_the_stock_back_once() -> None:
    _, facts, demands = after(
        sale(1, SaleStatus.AWAITING_PAYMENT),
        sale(3, SaleStatus.CANCELLED),
        sale(2, SaleStatus.PAID),
        sale(3, SaleStatus.CANCELLED),
        sale(4, SaleStatus.CANCELLED),
    )

    assert facts == ["OrderPlaced", "OrderHeld", "OrderCancelled"]
    assert [(demand.revision, outstanding(demand)) for demand in demands] == [(1, {"1": 2}), (2, {"1": 0})]


def test_an_order_first_heard_of_as_cancelled_asks_for_nothing() -> None:
    order, facts, demands = after(sale(2, SaleStatus.CANCELLED), sale(1))

    assert order.state == Cancelled()
    assert facts == ["OrderPlaced", "OrderCancelled"]
    assert [outstanding(demand) for demand in demands] == [{"1": 0}]


def test_part_of_a_line_is_cancelled() -> None:
    order, _, demands = after(
        sale(1, SaleStatus.PAID, line("1", quantity=5), line("2", "TRAY", 1)),
        sale(2, SaleStatus.PAID, line("1", quantity=5, cancelled=2), line("2", "TRAY", 1)),
    )

    assert [outstanding(demand) for demand in demands] == [{"1": 5, "2": 1}, {"1": 3, "2": 1}]
    assert order.state == Placed()


def test_a_sale_with_every_line_cancelled_is_cancelled() -> None:
    order, _, _ = after(sale(1), sale(2, SaleStatus.PAID, line(cancelled=2)))

    assert order.state == Cancelled()


def test_a_line_that_left_the_sale_is_given_back_aloud() -> None:
    _, _, demands = after(sale(1, SaleStatus.PAID, line("1"), line("2", "TRAY", 1)), sale(2, SaleStatus.PAID, line()))

    assert outstanding(demands[-1]) == {"1": 2, "2": 0}


def test_a_line_without_sku_waits_alone() -> None:
    known, unknown = line("1"), line("2", None, 3)
    order, facts, demands = after(sale(1, SaleStatus.PAID, known, unknown))

    assert facts == ["OrderPlaced", "OrderHeld"]
    assert order.state == Held("mapping")
    assert unresolved_lines(order) == ["2"]
    assert [outstanding(demand) for demand in demands] == [{"1": 2}]

    decision = decide(order, sale(2, SaleStatus.PAID, known, line("2", "TRAY", 3)), NOW)
    assert decision.demand
    assert decision.demand.revision == 2
    assert outstanding(decision.demand) == {"1": 2, "2": 3}
    assert settle(decision.order).state == Confirmed()


def test_a_sale_of_unknown_lines_only_demands_nothing_yet() -> None:
    order, _, demands = after(sale(1, SaleStatus.PAID, line("1", None)))

    assert demands == []
    assert alerts(order) == {"mapping"}
    assert [(stands.open, stands.reserved) for stands in standing(order)] == [(2, 0)]


def test_a_removed_link_does_not_undo_the_demand() -> None:
    order, _, demands = after(sale(1), sale(2, SaleStatus.PAID, line("1", None)))

    assert len(demands) == 1
    assert unresolved_lines(order) == []


def test_an_unknown_status_delays_the_order_but_never_the_decrement() -> None:
    order, facts, demands = after(sale(1, SaleStatus.UNKNOWN))

    assert [outstanding(demand) for demand in demands] == [{"1": 2}]
    assert facts == ["OrderPlaced", "OrderHeld"]
    assert settle(order).state == Held("mapping")


def test_a_request_to_cancel_is_a_persons_to_decide() -> None:
    order, _, demands = after(sale(1), sale(2, SaleStatus.CANCEL_REQUESTED))

    assert order.state == Held("person")
    assert alerts(order) == {"person"}
    assert len(demands) == 1


def test_a_shortfall_is_told_and_filled_later() -> None:
    first, _, [demand] = after(sale())
    short = decide(first, answer(demand, {"MUG": 1}), NOW)

    assert short.order
    assert short.order.state == Short()
    assert [[missing.missing for missing in fact.lines] for fact in short.facts] == [[1]]
    assert alerts(short.order) == {"short"}

    filled = decide(short.order, answer(demand), NOW)
    assert filled.order
    assert filled.order.state == Confirmed()
    assert [type(fact).__name__ for fact in filled.facts] == ["OrderConfirmed"]


def test_an_answer_to_an_older_revision_changes_nothing() -> None:
    order, _, demands = after(sale(1), sale(2, SaleStatus.PAID, line(cancelled=1)))

    decision = decide(order, answer(demands[0], {}), NOW)

    assert decision.order is order
    assert decision.facts == ()


def test_an_answer_from_a_later_revision_is_outbid() -> None:
    order, _, _ = after(sale())

    decision = decide(order, DemandMet(order_id="order-a", revision=7, lines=()), NOW)

    assert decision.demand
    assert decision.demand.revision == 8
    assert outstanding(decision.demand) == {"1": 2}
    assert decision.order
    assert not decision.order.settled


def test_payment_after_an_expired_hold_asks_again() -> None:
    expired = HoldExpired(order_id="order-a", revision=1, expired_at=NOW)

    order, _, demands = after(
        sale(1, SaleStatus.AWAITING_PAYMENT),
        DemandMet(order_id="order-a", revision=1, lines=()),
        expired,
        sale(2, SaleStatus.PAID),
    )

    assert [(demand.revision, outstanding(demand)) for demand in demands] == [(1, {"1": 2}), (2, {"1": 2})]
    assert settle(order, {}).state == Short()


def test_a_hold_that_expires_after_payment_asks_again() -> None:
    expired = HoldExpired(order_id="order-a", revision=1, expired_at=NOW)

    _, _, demands = after(sale(1, SaleStatus.PAID), expired, expired)

    assert [demand.revision for demand in demands] == [1, 2]


@pytest.mark.parametrize("early", [False, True], ids=["after the answer", "before the answer"])
def test_goods_leave_where_they_were_reserved(early: bool) -> None:
    order = decide(None, sale(1, SaleStatus.PAID, line("1", quantity=3)), NOW).order
    order = order if early else settle(order)
    shipped = decide(order, sale(2, SaleStatus.SHIPPED, line("1", quantity=3)), NOW)
    order = settle(shipped.order)

    assert [type(fact).__name__ for fact in shipped.facts] == ["OrderShipped"]
    assert order.demand
    assert [(at.location, at.quantity) for at in order.demand.lines[0].shipped] == [("main", 3)]
    assert order.demand.revision == 2
    assert order.state == Shipped()


def test_what_is_filled_after_shipping_leaves_too() -> None:
    order = settle(decide(None, sale(1, SaleStatus.SHIPPED), NOW).order, {"MUG": 1})
    assert order.demand
    assert outstanding(order.demand) == {"1": 1}

    order = settle(decide(order, answer(order.demand), NOW).order)

    assert order.demand
    assert [(at.location, at.quantity) for at in order.demand.lines[0].shipped] == [("main", 2)]


def test_a_kit_leaves_as_whole_kits() -> None:
    order = settle(decide(None, sale(1, SaleStatus.SHIPPED, line("1", KIT, 3)), NOW).order)

    assert order.demand
    assert [(at.location, at.quantity) for at in order.demand.lines[0].shipped] == [("main", 3)]


def test_a_kit_whose_components_lie_apart_stays_reserved() -> None:
    order, _, [demand] = after(sale(1, SaleStatus.SHIPPED, line("1", KIT, 3)))
    apart = answer(demand)
    mugs, tray = apart.lines
    places = (ShippedQuantity(location="annex", quantity=2), ShippedQuantity(location="main", quantity=1))
    tray = tray.model_copy(update={"locations": places})

    decision = decide(order, apart.model_copy(update={"lines": (mugs, tray)}), NOW)

    assert decision.demand
    assert [(at.location, at.quantity) for at in decision.demand.lines[0].shipped] == [("main", 1)]


def test_a_line_linked_to_another_sku_asks_for_that_one() -> None:
    _, _, demands = after(sale(1), sale(2, SaleStatus.PAID, line("1", "TRAY")))

    assert [[(asked.sku, asked.ordered) for asked in demand.lines] for demand in demands] == [
        [("MUG", 2)],
        [("TRAY", 2)],
    ]


def test_a_short_kit_is_counted_in_kits() -> None:
    order = settle(decide(None, sale(1, SaleStatus.PAID, line("1", KIT, 3)), NOW).order, {"MUG": 3, "TRAY": 3})

    [stands] = standing(order)
    assert (stands.ordered, stands.reserved, stands.short, stands.open) == (3, 1, 2, 0)


def test_goods_that_left_are_not_given_back_by_a_cancel() -> None:
    order = settle(decide(None, sale(1, SaleStatus.SHIPPED), NOW).order)

    decision = decide(order, sale(2, SaleStatus.CANCELLED), NOW)

    assert decision.order
    assert decision.order.state == Cancelled()
    assert decision.demand is None


def test_returned_goods_come_in_where_they_left_and_are_not_for_sale_yet() -> None:
    order = settle(decide(None, sale(1, SaleStatus.DELIVERED), NOW).order)
    assert order.state == Delivered()

    part = decide(order, sale(2, SaleStatus.DELIVERED, line(returned=1)), NOW)
    whole = decide(part.order, sale(3, SaleStatus.RETURNED), NOW)

    assert [type(fact).__name__ for fact in part.facts] == ["OrderReturned"]
    assert part.demand
    assert [(back.location, back.state, back.quantity) for back in part.demand.lines[0].returned] == [
        ("main", AccountState.INBOUND, 1)
    ]
    assert whole.order
    assert whole.order.state == Returned()
    assert whole.demand
    assert [back.quantity for back in whole.demand.lines[0].returned] == [2]


def test_a_line_shipped_by_its_channel_names_the_location() -> None:
    _, _, [demand] = after(sale(1, SaleStatus.PAID, line(fulfilled_by="full-sp")))

    assert demand.lines[0].location == "full-sp"


def test_a_finished_order_is_closed_and_opened_by_news() -> None:
    order, _, _ = after(sale(1, SaleStatus.CANCELLED))

    closed = decide(order, CloseDue(), NOW)
    assert closed.order
    assert closed.order.state == Closed("cancelled")
    assert [type(fact).__name__ for fact in closed.facts] == ["OrderClosed"]

    opened = decide(closed.order, sale(2, SaleStatus.DELIVERED), NOW)
    assert opened.order
    assert opened.order.state == Delivered()


def test_an_open_order_is_not_closed() -> None:
    order, _, _ = after(sale())

    assert decide(order, CloseDue(), NOW).order is order


def test_an_answer_about_an_order_never_heard_of_changes_nothing() -> None:
    decision = decide(None, DemandMet(order_id="order-a", revision=1, lines=()), NOW)

    assert (decision.order, decision.facts, decision.demand) == (None, (), None)

"""The process of an order: what it asks of payments, fulfillment and channels, and what it does when time passes."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from contracts.channels.v1 import (
    InvoiceRule,
    OrderProgress,
    ProgressAccepted,
    ProgressRefused,
    SaleStatus,
)
from contracts.fulfillment.v1 import (
    CancelShipment,
    LabelCreated,
    PrepareShipment,
    ReceivedLine,
    ReturnReceived,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentFailed,
    ShipmentPrepared,
    ShipmentTracked,
    TrackingStatus,
)
from contracts.inventory.v1 import AccountState, HoldExpired, OrderDemand, ShippedQuantity
from contracts.orders.v1 import OrderCancelled, OrderChanged, OrderHeld
from contracts.payments.v1 import (
    AuthorizePayment,
    CapturePayment,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDisputed,
    PaymentFailed,
    PaymentMethod,
    PaymentPending,
    PaymentRefunded,
    PaymentVoided,
    RefundPayment,
    VoidPayment,
)
from services.orders.domain import Event, alerts, decide, stage_of
from services.orders.order import Order
from services.orders.process import NOTHING, WITHDRAWAL, DeadlineDue, PersonSaid, deadline
from services.orders.settings import OrdersSettings
from services.orders.standing import owed, standing
from services.orders.story import answers
from services.orders.wanted import US
from tests.orders.given import NOW, answer, basket, checkout, invoice, line, payment, sale, shipment

SETTINGS = OrdersSettings()
CARD, PIX = PaymentMethod.CARD, PaymentMethod.PIX
DUE = DeadlineDue()


class Life:
    """An order and all that it has said, inventory answering with `stock` at once unless it is told to be silent."""

    def __init__(self, stock: dict[str, int] | None = None, *, silent: bool = False) -> None:
        self.order: Order | None = None
        self.facts: list[Any] = []
        self.commands: list[Any] = []
        self.demands: list[OrderDemand] = []
        self.stock, self.silent = stock, silent

    def hear(self, *events: Event) -> "Life":
        for event in events:
            self._hear(event)
            while (
                not self.silent
                and self.order
                and self.order.demand
                and not self.order.settled
                and (not self.order.expired)
            ):
                self._hear(answer(self.order.demand, self.stock))
        return self

    def _hear(self, event: Event) -> None:
        decision = decide(self.order, event, NOW)
        self.order = decision.order
        self.facts += decision.facts
        self.commands += decision.commands
        self.demands += [decision.demand] if decision.demand else []

    def asked(self, kind: Any) -> list[Any]:
        """The commands of one kind, oldest first."""
        return [command for command in self.commands if isinstance(command, kind)]

    def told(self) -> list[str]:
        """The names of the facts."""
        return [type(fact).__name__ for fact in self.facts]

    @property
    def now(self) -> Order:
        assert self.order
        return self.order

    @property
    def state(self) -> str:
        return self.now.state.kind

    def reserved(self) -> int:
        """Units of the newest demand that are still to be held for the order."""
        return sum(
            asked.ordered - asked.cancelled - sum(was.quantity for was in asked.shipped)
            for asked in self.demands[-1].lines
        )


def paid_card(**fields: Any) -> Life:
    """A basket that is paid by card, authorized."""
    life = Life().hear(basket(**fields), basket(2, 1, CARD, **fields))
    return life.hear(payment(PaymentAuthorized, 1, authorized=11_000))


def packed_card(invoiced: bool = True) -> Life:
    """A paid basket with its invoice, and its one parcel labelled."""
    life = paid_card().hear(invoice()) if invoiced else paid_card()
    [asked] = life.asked(PrepareShipment)
    return life.hear(shipment(ShipmentPrepared, asked, 1, weight_g=600, dimensions_mm=(1, 1, 1)),
                     shipment(LabelCreated, asked, 2))  # fmt: skip


def sent_card() -> Life:
    """A paid basket that has left."""
    life = packed_card()
    [asked] = life.asked(PrepareShipment)
    life.hear(shipment(ShipmentDispatched, asked, 3))
    return life.hear(payment(PaymentCaptured, 2, authorized=11_000, captured=11_000))


def lengthened(life: Life) -> timedelta | None:
    """How long after now the order's stage has lasted too long."""
    due = deadline(life.now.process, life.now.sale, SETTINGS.lengths)
    return due - NOW if due else None


# A marketplace's order


def test_an_order_on_its_usual_way_has_no_process_until_its_invoice() -> None:
    life = Life().hear(sale())

    assert (life.state, life.now.process, life.commands) == ("confirmed", NOTHING, [])


def test_the_invoice_lets_it_be_packed_with_its_key() -> None:
    life = Life().hear(sale(), invoice())

    [asked] = life.asked(PrepareShipment)
    assert (asked.shipment_id, asked.revision, asked.location) == ("order-a:s1", 1, "main")
    assert [(one.line_id, one.sku, one.quantity) for one in asked.lines] == [("1", "MUG", 2)]
    assert (asked.invoice_required, asked.invoice_key) == (True, invoice().invoice_key)
    assert life.state == "invoiced"
    assert life.told() == ["OrderPlaced", "OrderConfirmed", "OrderInvoiced"]
    [progress] = life.asked(OrderProgress)
    assert (progress.revision, progress.invoice.invoice_key) == (1, invoice().invoice_key)


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({"currency": "BRL"}, True),
        ({"currency": "USD"}, False),
        ({"currency": "BRL", "invoice": InvoiceRule.NONE}, False),
        ({"currency": "USD", "invoice": InvoiceRule.NFE}, True),
        ({"currency": "USD", "invoice": InvoiceRule.UNKNOWN}, True),
    ],
)
def test_elsewhere_the_invoice_is_skipped_by_rule(fields: Any, needed: bool) -> None:
    life = Life().hear(sale(**fields))

    assert [asked.invoice_required for asked in life.asked(PrepareShipment)] == ([] if needed else [False])
    assert life.state == "confirmed"


def test_an_invoice_that_comes_before_stock_waits_for_it() -> None:
    life = Life({"MUG": 1}).hear(sale(), invoice())
    assert (life.state, life.asked(PrepareShipment)) == ("short", [])

    assert life.now.demand
    life.hear(answer(life.now.demand))
    assert (life.state, len(life.asked(PrepareShipment))) == ("invoiced", 1)
    assert life.told()[-1] == "OrderConfirmed"


def test_another_invoice_takes_the_place_of_the_first_and_the_same_says_nothing() -> None:
    life = Life().hear(sale(), invoice(2), invoice(2), invoice(1), invoice(3))

    assert [asked.invoice_key for asked in life.asked(PrepareShipment)] == [
        invoice(2).invoice_key,
        invoice(3).invoice_key,
    ]
    assert [asked.revision for asked in life.asked(PrepareShipment)] == [1, 2]


def test_an_invoice_dated_before_the_one_it_replaces_takes_its_place() -> None:
    first = invoice(2)
    second = invoice(1).model_copy(update={"version": 2})
    for heard in ((first, second), (second, first)):
        life = Life().hear(sale(), *heard)
        assert life.asked(PrepareShipment)[-1].invoice_key == second.invoice_key


def test_stock_leaves_exactly_once_with_its_parcel() -> None:
    life = Life().hear(sale(), invoice())
    [asked] = life.asked(PrepareShipment)
    gone = shipment(ShipmentDispatched, asked, 3)

    life.hear(shipment(LabelCreated, asked, 2))
    assert life.state == "packed"
    life.hear(gone, gone, sale(2, SaleStatus.SHIPPED))

    assert [[(was.location, was.quantity) for was in demand.lines[0].shipped] for demand in life.demands] == [
        [],
        [("main", 2)],
    ]
    assert life.state == "shipped"
    assert life.told().count("OrderShipped") == 1
    [parcel] = life.asked(OrderProgress)[-1].parcels
    assert (parcel.tracking_code, parcel.lines[0].quantity) == ("SD1", 2)


def test_delivery_and_tracking_reach_the_channel_whatever_their_order() -> None:
    life = Life().hear(sale(), invoice())
    [asked] = life.asked(PrepareShipment)
    on_its_way = {"status": TrackingStatus.IN_TRANSIT, "happened_at": NOW}

    life.hear(
        shipment(ShipmentDelivered, asked, 5), shipment(ShipmentDispatched, asked, 3),
        shipment(ShipmentTracked, asked, 4, **on_its_way),
    )  # fmt: skip

    assert life.state == "delivered"
    [parcel] = life.asked(OrderProgress)[-1].parcels
    assert (parcel.delivered_at, [scan.status for scan in parcel.tracking]) == (NOW, ["in_transit"])
    assert [asked.revision for asked in life.asked(OrderProgress)] == [1, 2, 3]


def test_the_word_of_the_channel_that_it_left_stops_our_parcel() -> None:
    life = Life().hear(sale(), invoice(), sale(2, SaleStatus.SHIPPED))

    [stopped] = life.asked(CancelShipment)
    assert (stopped.revision, life.state) == (2, "shipped")
    assert sum(was.quantity for was in life.demands[-1].lines[0].shipped) == 2
    [asked] = life.asked(PrepareShipment)
    # Faster than the wish: the same units, once.
    life.hear(shipment(ShipmentDispatched, asked, 3))
    assert sum(was.quantity for was in life.demands[-1].lines[0].shipped) == 2


def test_a_second_parcel_goes_on_when_the_channel_calls_the_first_the_whole() -> None:
    two = (line("1"), line("2", "TRAY", 1))
    life = Life(silent=True).hear(sale(1, SaleStatus.PAID, *two))
    apart = answer(life.demands[-1])
    tray = answer(life.demands[-1], location="annex").lines[1]
    life.hear(apart.model_copy(update={"lines": (apart.lines[0], tray)}), invoice())
    annex, main = life.asked(PrepareShipment)
    assert (annex.location, main.location) == ("annex", "main")

    life.hear(shipment(ShipmentDispatched, main, 3), sale(2, SaleStatus.SHIPPED, *two))

    assert life.asked(CancelShipment) == []
    assert life.state != "shipped"
    life.hear(shipment(ShipmentDispatched, annex, 3))
    assert life.state == "shipped"


def test_a_cancel_gives_stock_back_only_once_the_parcel_is_stopped() -> None:
    life = Life().hear(sale(), invoice(), sale(2, SaleStatus.CANCELLED))
    [stop] = life.asked(CancelShipment)

    assert (life.state, life.reserved()) == ("cancelling", 2)
    [asked] = life.asked(PrepareShipment)
    life.hear(shipment(ShipmentCancelled, asked, 1, revision=stop.revision))

    assert (life.state, life.reserved()) == ("cancelled", 0)
    assert life.told()[-2:] == ["OrderCancelling", "OrderCancelled"]
    assert alerts(life.now) == {"cancel_invoice"}

    life.hear(PersonSaid("invoice_cancelled"))

    assert (life.state, alerts(life.now)) == ("cancelled", frozenset())
    assert alerts(life.hear(invoice(2)).now) == {"cancel_invoice"}, "another one has to be cancelled by itself"


def test_a_channel_that_cancelled_is_told_nothing_any_more() -> None:
    life = Life().hear(sale(), sale(2, SaleStatus.CANCELLED), invoice())

    assert (life.state, life.asked(OrderProgress), life.asked(PrepareShipment)) == ("cancelled", [], [])


def test_part_of_a_parcel_is_cancelled_by_preparing_the_rest_anew() -> None:
    life = Life().hear(sale(), invoice(), sale(2, SaleStatus.PAID, line(cancelled=1)))
    [stop] = life.asked(CancelShipment)
    assert life.reserved() == 2

    life.hear(shipment(ShipmentCancelled, life.asked(PrepareShipment)[0], 1, revision=stop.revision))

    assert life.reserved() == 1
    again = life.asked(PrepareShipment)[-1]
    assert (again.shipment_id, [one.quantity for one in again.lines]) == ("order-a:s2", [1])
    [changed] = [fact for fact in life.facts if isinstance(fact, OrderChanged)]
    assert [one.quantity for one in changed.lines] == [1]


def test_what_the_channel_ships_itself_is_in_no_parcel() -> None:
    life = Life().hear(sale(1, SaleStatus.PAID, line("1"), line("2", "TRAY", 1, fulfilled_by="full-sp")), invoice())

    assert [[one.line_id for one in asked.lines] for asked in life.asked(PrepareShipment)] == [["1"]]


def test_goods_that_came_back_lie_as_they_were_found() -> None:
    life = Life().hear(sale(), invoice())
    [asked] = life.asked(PrepareShipment)
    life.hear(shipment(ShipmentDispatched, asked, 3), shipment(ShipmentDelivered, asked, 4))
    life.hear(_return(asked, 5, (1, AccountState.AVAILABLE)))
    assert life.state == "delivered"

    life.hear(_return(asked, 6, (1, AccountState.AVAILABLE), (1, AccountState.DAMAGED)))

    back = [(one.location, one.state, one.quantity) for one in life.demands[-1].lines[0].returned]
    assert back == [("main", AccountState.AVAILABLE, 1), ("main", AccountState.DAMAGED, 1)]
    assert life.state == "returned"
    assert life.told().count("OrderReturned") == 2


def _return(asked: PrepareShipment, version: int, *found: tuple[int, AccountState]) -> ReturnReceived:
    lines = tuple(
        ReceivedLine(line_id="1", sku="MUG", quantity=units, location="main", state=state) for units, state in found
    )
    return ReturnReceived(
        order_id=asked.order_id, shipment_id=asked.shipment_id, version=version, return_id="r1", lines=lines,
        received_at=NOW,
    )  # fmt: skip


def _came_back(life: Life, days: float, *, units: int = 2, withdrawal: timedelta = WITHDRAWAL) -> Life:
    """The order once its parcel was delivered and so many units came back so many days later."""
    [asked] = life.asked(PrepareShipment)
    back = _return(asked, 9, (units, AccountState.AVAILABLE))
    life.hear(shipment(ShipmentDelivered, asked, 8))
    later = back.model_copy(update={"received_at": NOW + timedelta(days=days)})
    decision = decide(life.now, later, NOW, withdrawal)
    life.commands += decision.commands
    life.order = decision.order
    return life


def test_who_gives_all_back_in_time_has_the_freight_back() -> None:
    life = _came_back(sent_card(), 7)

    assert (owed(life.now), life.asked(RefundPayment)[-1].refunded_total_minor) == (0, 11_000)
    life.hear(payment(PaymentRefunded, 5, captured=11_000, refunded=11_000, reason="returned"))
    assert (life.state, stage_of(life.now)) == ("returned", "finished")


@pytest.mark.parametrize(
    ("given", "owes"),
    [
        ({"days": 8.1}, 1_000),
        ({"days": 7, "withdrawal": timedelta(0)}, 1_000),
        ({"days": 7, "units": 1}, 6_000),
    ],
)
def test_freight_stays_owed_where_goods_come_back_late_or_in_part_or_a_setting_says_so(given: Any, owes: int) -> None:
    assert owed(_came_back(sent_card(), **given).now) == owes


def test_a_person_gives_the_freight_back_to_a_buyer_who_asked_in_time() -> None:
    life = _came_back(sent_card(), 12)
    assert (owed(life.now), "freight_back" in answers(life.now)) == (1_000, True)

    life.hear(PersonSaid("freight_back"))
    assert (owed(life.now), life.asked(RefundPayment)[-1].refunded_total_minor) == (0, 11_000)
    assert "freight_back" not in answers(life.now)
    assert "freight_back" not in answers(_came_back(sent_card(), 12, units=1).now), "some of it was kept"


def test_freight_of_what_never_reached_its_buyer_is_given_back() -> None:
    life = sent_card()
    [asked] = life.asked(PrepareShipment)
    life.hear(
        shipment(ShipmentTracked, asked, 4, status=TrackingStatus.RETURNED, happened_at=NOW),
        _return(asked, 5, (2, AccountState.AVAILABLE)),
    )

    assert owed(life.now) == 0


def test_freight_of_a_marketplaces_order_is_for_the_marketplace_to_decide() -> None:
    given = {"total_minor": 11_000, "freight_minor": 1_000}
    life = Life().hear(sale(1, SaleStatus.PAID, line(unit_price_minor=5_000), **given), invoice())
    life.hear(shipment(ShipmentDispatched, life.asked(PrepareShipment)[0], 3))

    assert owed(_came_back(life, 1).now) == 1_000


def test_a_channel_that_refuses_what_it_is_told_calls_a_person() -> None:
    life = Life().hear(sale(total_minor=11_000), invoice())
    no = ProgressRefused(order_id="order-a", revision=1, step="invoice", reason="not_supported", at=NOW)

    life.hear(no, no)
    assert alerts(life.now) == {"telling"}
    life.hear(ProgressAccepted(order_id="order-a", revision=1, step="invoice", at=NOW), no)
    assert alerts(life.now) == frozenset()


# An order of the own shop


def test_a_basket_holds_its_stock_and_nothing_is_charged_before_the_buyer_chose() -> None:
    life = Life().hear(basket())

    assert life.state == "held"
    assert life.demands[0].hold_until == checkout().hold_until
    assert life.asked(AuthorizePayment) == []
    [progress] = life.asked(OrderProgress)
    assert (progress.state, progress.held_for, progress.payment) == ("held", "payment", None)


def test_a_choice_becomes_one_authorisation_once_stock_is_there() -> None:
    life = Life(silent=True).hear(basket(), basket(2, 1, CARD))
    assert life.asked(AuthorizePayment) == []

    life.silent = False
    life.hear(answer(life.demands[-1]), basket(3, 1, CARD))

    [asked] = life.asked(AuthorizePayment)
    assert (asked.payment_id, asked.amount_minor, asked.token) == ("order-a:p1", 11_000, "tok-once")
    assert asked.expires_at == checkout().hold_until


def test_a_token_that_was_handed_on_is_kept_no_longer() -> None:
    life = Life().hear(basket(), basket(2, 1, CARD))

    assert life.now.sale.checkout
    assert life.now.sale.checkout.token == ""


def test_an_authorised_card_is_paid_and_captured_when_goods_leave() -> None:
    life = paid_card()
    assert (life.state, life.now.paid, life.demands[-1].hold_until) == ("confirmed", True, None)
    assert "OrderPaid" in life.told()
    assert life.asked(CapturePayment) == []

    life.hear(invoice())
    [asked] = life.asked(PrepareShipment)
    life.hear(shipment(LabelCreated, asked, 1), shipment(ShipmentDispatched, asked, 2))

    [capture] = life.asked(CapturePayment)
    assert (capture.captured_total_minor, capture.revision) == (11_000, 2)


def test_a_pix_waits_for_its_buyer_with_its_text() -> None:
    life = Life().hear(basket(), basket(2, 1, PIX))
    pending = payment(PaymentPending, 1, expires_at=NOW + timedelta(minutes=30), pix_text="000201")
    life.hear(pending)

    told = life.asked(OrderProgress)[-1].payment
    assert (told.status, told.pix_text, told.attempt) == ("pending", "000201", 1)
    assert lengthened(life) == timedelta(minutes=30, seconds=SETTINGS.hold_grace_s)
    life.hear(payment(PaymentCaptured, 2, captured=11_000))
    assert (life.state, life.asked(OrderProgress)[-1].payment.status) == ("confirmed", "captured")


def test_sold_out_is_said_at_once_and_nothing_is_held() -> None:
    life = Life({"MUG": 1}).hear(basket())

    assert (life.state, life.reserved()) == ("cancelled", 0)
    assert [fact.reason for fact in life.facts if isinstance(fact, OrderCancelled)] == ["sold_out"]
    assert life.asked(OrderProgress)[-1].cancelled_reason == "sold_out"


def test_a_declined_card_leaves_time_for_another_try() -> None:
    life = Life().hear(basket(), basket(2, 1, CARD))
    life.hear(payment(PaymentFailed, 1, reason="declined", final=True))
    assert (life.state, life.asked(OrderProgress)[-1].payment.reason) == ("held", "declined")

    life.hear(basket(3, 2, PIX))

    assert [asked.payment_id for asked in life.asked(AuthorizePayment)] == ["order-a:p1", "order-a:p2"]
    assert life.asked(VoidPayment) == []


def test_of_two_tries_one_is_kept_and_the_other_let_go_of() -> None:
    life = Life().hear(basket(), basket(2, 1, PIX), basket(3, 2, CARD))
    assert [asked.payment_id for asked in life.asked(VoidPayment)] == ["order-a:p1"]

    life.hear(payment(PaymentCaptured, 2, captured=11_000))
    life.hear(payment(PaymentAuthorized, 1, authorized=11_000, payment_id="order-a:p2"))

    assert [asked.payment_id for asked in life.asked(VoidPayment)] == ["order-a:p1", "order-a:p2"]
    assert life.asked(RefundPayment) == []
    assert life.now.process.payer == "order-a:p1"


def test_money_of_a_second_try_is_given_back() -> None:
    life = Life().hear(basket(), basket(2, 1, PIX), basket(3, 2, CARD))
    life.hear(payment(PaymentAuthorized, 1, authorized=11_000, payment_id="order-a:p2"))
    life.hear(payment(PaymentCaptured, 2, captured=11_000))

    [refund] = life.asked(RefundPayment)
    assert (refund.payment_id, refund.refunded_total_minor, refund.captured_total_minor) == (
        "order-a:p1", 11_000, 11_000,
    )  # fmt: skip


def test_a_hold_that_ran_out_cancels_after_its_grace_and_voids() -> None:
    life = Life().hear(basket(), basket(2, 1, CARD))
    life.hear(HoldExpired(order_id="order-a", revision=life.demands[-1].revision, expired_at=NOW))
    assert life.state == "held"
    assert lengthened(life) == timedelta(minutes=15, seconds=SETTINGS.hold_grace_s)

    life.hear(DUE)
    assert (life.state, len(life.asked(VoidPayment))) == ("cancelling", 1)
    life.hear(payment(PaymentVoided, 1, reason="payment_expired"))

    assert (life.state, life.reserved()) == ("cancelled", 0)
    assert [fact.reason for fact in life.facts if isinstance(fact, OrderCancelled)] == ["payment_expired"]


def test_money_in_time_reserves_again_and_money_too_late_is_given_back() -> None:
    expired = HoldExpired(order_id="order-a", revision=1, expired_at=NOW)
    late = payment(PaymentCaptured, 1, captured=11_000)

    life = Life().hear(basket(1, 1, PIX), expired, late)
    assert (life.state, len(life.demands)) == ("confirmed", 2)

    life = Life().hear(basket(1, 1, PIX), expired, DUE, late)
    assert (life.state, life.now.paid) == ("cancelling", False)
    [refund] = life.asked(RefundPayment)
    life.hear(payment(PaymentRefunded, 2, captured=11_000, refunded=11_000, reason=refund.reason))
    assert (life.state, owed(life.now)) == ("cancelled", 0)


def test_money_in_time_for_what_is_sold_meanwhile_is_given_back() -> None:
    life = Life().hear(basket(1, 1, PIX), HoldExpired(order_id="order-a", revision=1, expired_at=NOW))
    life.stock = {}
    life.hear(payment(PaymentCaptured, 1, captured=11_000))

    assert (life.state, len(life.asked(RefundPayment))) == ("cancelling", 1)


def test_a_part_that_is_cancelled_after_the_capture_is_refunded() -> None:
    life = sent_card()
    [asked] = life.asked(PrepareShipment)
    life.hear(shipment(ShipmentDelivered, asked, 4), _return(asked, 5, (1, AccountState.DAMAGED)))

    [refund] = life.asked(RefundPayment)
    assert (refund.refunded_total_minor, owed(life.now)) == (5_000, 6_000)
    assert stage_of(life.now) == "refunding"
    life.hear(payment(PaymentRefunded, 3, captured=11_000, refunded=5_000, reason="returned"))
    assert (life.state, stage_of(life.now)) == ("delivered", "finished")


def test_what_is_cancelled_before_the_capture_only_lowers_it() -> None:
    life = paid_card(lines=(line(unit_price_minor=5_000),))
    part = basket(3, 1, CARD, lines=(line(unit_price_minor=5_000, cancelled=1),))
    life.hear(part, invoice(total_minor=6_000))
    [asked] = life.asked(PrepareShipment)
    life.hear(shipment(LabelCreated, asked, 1), shipment(ShipmentDispatched, asked, 2))

    [capture] = life.asked(CapturePayment)
    assert capture.captured_total_minor == 6_000
    assert life.asked(RefundPayment) == []


def test_a_parcel_waits_for_the_invoice_that_fits_once_a_part_is_cancelled() -> None:
    life = packed_card().hear(basket(3, 1, CARD, lines=(line(unit_price_minor=5_000, cancelled=1),)))
    [stop] = life.asked(CancelShipment)
    [asked] = life.asked(PrepareShipment)
    assert (owed(life.now), alerts(life.now)) == (6_000, {"replace_invoice"})

    life.hear(shipment(ShipmentCancelled, asked, 3, revision=stop.revision))
    assert (life.state, stage_of(life.now)) == ("confirmed", "invoice")
    assert life.asked(PrepareShipment) == [asked]

    life.hear(invoice(2, total_minor=6_000))
    _, again = life.asked(PrepareShipment)
    assert (again.invoice_key, [one.quantity for one in again.lines]) == (invoice(2).invoice_key, [1])
    assert (life.state, alerts(life.now)) == ("invoiced", frozenset())
    assert life.told().count("OrderConfirmed") == 1


def test_a_parcel_with_another_total_on_its_invoice_is_stopped_and_goes_on_with_the_one_that_fits() -> None:
    life = packed_card().hear(basket(3, 1, CARD, total_minor=10_500))
    [stop] = life.asked(CancelShipment)
    assert (stop.reason, alerts(life.now)) == ("changed", {"replace_invoice"})

    life.hear(invoice(2, total_minor=10_500))
    first, again = life.asked(PrepareShipment)
    assert (again.shipment_id, again.revision) == (first.shipment_id, stop.revision + 1)
    assert (again.invoice_key, alerts(life.now)) == (invoice(2).invoice_key, frozenset())


def test_an_invoice_of_another_total_than_is_owed_packs_nothing_and_after_the_goods_left_stops_nothing() -> None:
    life = paid_card().hear(invoice(total_minor=10_999))
    assert (life.asked(PrepareShipment), stage_of(life.now), alerts(life.now)) == ([], "invoice", {"replace_invoice"})

    life = sent_card().hear(basket(3, 1, CARD, total_minor=10_500))
    assert (life.state, life.asked(CancelShipment), alerts(life.now)) == ("shipped", [], {"check_invoice"})


def test_a_parcel_that_was_faster_than_its_stop_left_with_an_invoice_that_a_person_sees_to() -> None:
    life = packed_card().hear(basket(3, 1, CARD, total_minor=10_500))
    [asked] = life.asked(PrepareShipment)
    assert alerts(life.now) == {"replace_invoice"}

    life.hear(shipment(ShipmentDispatched, asked, 3))
    assert (life.state, alerts(life.now)) == ("shipped", {"check_invoice"})
    assert life.asked(CapturePayment)[-1].captured_total_minor == 10_500, "its buyer pays the new sum"
    assert "invoice_checked" in answers(life.now)

    life.hear(PersonSaid("invoice_checked"))
    assert (life.state, alerts(life.now), "invoice_checked" in answers(life.now)) == ("shipped", frozenset(), False)
    assert alerts(life.hear(invoice(2, total_minor=10_400)).now) == {"check_invoice"}, (
        "another one is seen to by itself"
    )
    assert alerts(life.hear(invoice(3, total_minor=10_500)).now) == frozenset()


def test_an_order_of_which_a_part_left_in_spite_of_its_cancel_left_with_an_invoice_over_the_whole() -> None:
    life, _, second = two_parcels(sent=1)
    life.hear(basket(3, 1, CARD, lines=life.now.sale.lines, status=SaleStatus.CANCELLED))
    [stop] = life.asked(CancelShipment)
    life.hear(shipment(ShipmentCancelled, second, 2, revision=stop.revision))

    assert (owed(life.now), alerts(life.now)) == (6_000, {"check_invoice"})


def test_what_came_back_or_was_lost_leaves_no_doubt_of_the_invoice_that_it_left_with() -> None:
    assert alerts(_came_back(sent_card(), 1).now) == frozenset()
    life, first, _ = two_parcels()
    life.hear(shipment(ShipmentFailed, first, 3, reason="lost", final=True), PersonSaid("lost"))
    assert alerts(life.now) == frozenset()


def test_an_invoice_of_a_sale_without_prices_is_taken_and_a_person_compares_them() -> None:
    life = Life().hear(sale(), invoice())
    assert (life.state, len(life.asked(PrepareShipment)), alerts(life.now)) == ("invoiced", 1, {"check_invoice"})

    life.hear(PersonSaid("invoice_checked"))
    assert (life.state, alerts(life.now)) == ("invoiced", frozenset())


def test_a_parcel_that_left_though_its_channel_cancelled_the_order_is_a_persons_until_it_is_back() -> None:
    def left() -> Life:
        priced = {"total_minor": 11_000}
        life = Life().hear(sale(**priced), invoice(), sale(2, SaleStatus.CANCELLED, **priced))
        [asked] = life.asked(PrepareShipment)
        life.hear(shipment(ShipmentDispatched, asked, 3), shipment(ShipmentDelivered, asked, 4))
        assert (life.state, alerts(life.now)) == ("cancelled", {"intercept"})
        return life

    back = ReturnReceived(
        order_id="order-a", shipment_id="order-a:s1", version=5, return_id="back-1", received_at=NOW,
        lines=(ReceivedLine(line_id="1", sku="MUG", quantity=2, location="main", state=AccountState.AVAILABLE),),
    )  # fmt: skip
    for ended in (back, PersonSaid("parcel_settled")):
        assert alerts(left().hear(ended).now) == frozenset()


def test_a_cancel_after_the_label_waits_for_the_parcel_and_the_money() -> None:
    life = packed_card().hear(basket(3, 1, CARD, status=SaleStatus.CANCELLED))
    [stop] = life.asked(CancelShipment)
    [asked] = life.asked(PrepareShipment)
    assert (life.state, life.reserved(), life.asked(VoidPayment)) == ("cancelling", 2, [])

    life.hear(shipment(ShipmentCancelled, asked, 3, revision=stop.revision))
    assert (life.state, life.reserved(), len(life.asked(VoidPayment))) == ("cancelling", 0, 1)
    life.hear(payment(PaymentVoided, 2, reason="cancelled"))
    assert life.state == "cancelled"


def test_a_cancel_of_ours_that_is_too_late_ships_and_keeps_its_money() -> None:
    life = packed_card().hear(basket(3, 1, CARD, status=SaleStatus.CANCEL_REQUESTED), PersonSaid("cancel"))
    [stop] = life.asked(CancelShipment)
    [asked] = life.asked(PrepareShipment)
    assert life.state == "cancelling"

    too_late = {"revision": stop.revision, "reason": "too_late", "final": False}
    life.hear(shipment(ShipmentDispatched, asked, 3), shipment(ShipmentFailed, asked, 4, **too_late))

    assert (life.state, life.asked(CancelShipment)) == ("shipped", [stop])
    assert [capture.captured_total_minor for capture in life.asked(CapturePayment)] == [11_000]


def test_a_stopped_parcel_that_left_all_the_same_is_out_of_stock_and_a_persons() -> None:
    life = packed_card().hear(basket(3, 1, CARD, status=SaleStatus.CANCEL_REQUESTED), PersonSaid("cancel"))
    [stop] = life.asked(CancelShipment)
    [asked] = life.asked(PrepareShipment)
    life.hear(shipment(ShipmentCancelled, asked, 3, revision=stop.revision), payment(PaymentVoided, 2, reason="person"))
    assert (life.state, life.reserved()) == ("cancelled", 0)

    life.hear(shipment(ShipmentDispatched, asked, 4))

    assert (life.state, alerts(life.now)) == ("shipped", {"unpaid"})
    assert [stands.shipped for stands in standing(life.now)] == [2]


def test_money_that_lapses_before_the_goods_leave_cancels_and_after_it_calls_a_person() -> None:
    lapsed = payment(PaymentFailed, 9, reason="expired", final=True)

    life = packed_card()
    [asked] = life.asked(PrepareShipment)
    life.hear(lapsed)
    assert (life.state, len(life.asked(CancelShipment))) == ("cancelling", 1)
    life.hear(shipment(ShipmentCancelled, asked, 3, revision=2))
    assert [fact.reason for fact in life.facts if isinstance(fact, OrderCancelled)] == ["payment_failed"]

    life = packed_card()
    life.hear(shipment(ShipmentDispatched, life.asked(PrepareShipment)[0], 3), lapsed)
    assert (life.state, alerts(life.now)) == ("shipped", {"unpaid"})


def test_a_disputed_payment_calls_a_person_and_is_not_refunded_twice() -> None:
    life = sent_card()
    [asked] = life.asked(PrepareShipment)
    life.hear(payment(PaymentDisputed, 4, captured=11_000, reason="lost", disputed_minor=0, lost_minor=11_000))
    life.hear(payment(PaymentRefunded, 3, captured=11_000, reason="gateway"))
    life.hear(shipment(ShipmentDelivered, asked, 4), _return(asked, 5, (2, AccountState.DAMAGED)))

    assert "dispute" in alerts(life.now)
    assert life.asked(RefundPayment) == []


# The clock and people


def test_silence_of_inventory_sends_the_demand_again() -> None:
    life = Life(silent=True).hear(sale(), DUE)

    assert [demand.revision for demand in life.demands] == [1, 2]
    assert alerts(life.now) == {"silent"}
    life.hear(answer(life.demands[-1]))
    assert (life.state, alerts(life.now)) == ("confirmed", frozenset())


def test_a_missing_invoice_is_a_persons_and_never_ships_without() -> None:
    life = Life().hear(sale(), DUE)
    assert (life.now.process.rounds, lengthened(life)) == (0, timedelta(hours=SETTINGS.invoice_h))

    life.hear(DUE, DUE, DUE)
    assert life.asked(PrepareShipment) == []
    assert alerts(life.now) == {"invoice"}
    assert [fact.reason for fact in life.facts if isinstance(fact, OrderHeld)] == ["invoice"]


def test_an_invoice_is_missed_before_the_order_must_ship() -> None:
    life = Life().hear(sale(ship_by=NOW + timedelta(hours=10)), DUE)

    assert lengthened(life) == timedelta(hours=10 - SETTINGS.ship_margin_h)


@pytest.mark.parametrize("packed", [False, True])
def test_a_request_to_cancel_that_nobody_answers_is_granted_unless_it_is_packed(packed: bool) -> None:
    life = Life().hear(sale(), invoice())
    [asked] = life.asked(PrepareShipment)
    if packed:
        life.hear(shipment(LabelCreated, asked, 1))
    life.hear(sale(2, SaleStatus.CANCEL_REQUESTED))
    assert (life.state, lengthened(life)) == ("held", timedelta(hours=SETTINGS.cancel_request_h))

    life.hear(DUE)

    assert life.state == ("packed" if packed else "cancelling")
    assert len(life.asked(CancelShipment)) == (0 if packed else 1)


def test_a_person_answers_before_the_clock() -> None:
    life = Life().hear(sale(), sale(2, SaleStatus.CANCEL_REQUESTED), PersonSaid("ship"))
    assert life.state == "confirmed"

    life = Life().hear(sale(), sale(2, SaleStatus.CANCEL_REQUESTED), PersonSaid("cancel"))
    assert (life.state, life.reserved()) == ("cancelled", 0)
    assert life.asked(OrderProgress)[-1].cancelled_reason == "person"


@pytest.mark.parametrize(("default", "state"), [("wait", "short"), ("cancel", "cancelled")])
def test_what_stays_short_is_kept_or_cancelled_as_the_setting_says(default: str, state: str) -> None:
    life = Life({"MUG": 1}).hear(sale())
    assert lengthened(life) == timedelta(hours=SETTINGS.short_h)

    life.hear(DeadlineDue(default))

    assert life.state == state
    if default == "cancel":
        assert [fact.reason for fact in life.facts if isinstance(fact, OrderCancelled)] == ["sold_out"]


def test_a_parcel_that_nobody_packs_is_asked_for_again_and_told_of() -> None:
    life = Life().hear(sale(total_minor=11_000), invoice())
    assert lengthened(life) == timedelta(hours=SETTINGS.prepare_h)

    life.hear(DUE)

    assert [asked.revision for asked in life.asked(PrepareShipment)] == [1, 2]
    assert alerts(life.now) == {"shipping"}


def test_what_is_not_compensated_is_asked_for_again_and_then_told_of() -> None:
    life = packed_card().hear(basket(3, 1, CARD, status=SaleStatus.CANCELLED))
    assert lengthened(life) == timedelta(seconds=SETTINGS.compensate_s)

    life.hear(DUE, DUE)
    assert "compensate" not in alerts(life.now)
    life.hear(DUE)

    assert "compensate" in alerts(life.now)
    assert [asked.revision for asked in life.asked(CancelShipment)] == [2, 3, 4, 5]
    assert life.state == "cancelling"


def test_a_person_settles_money_by_hand() -> None:
    life = Life().hear(basket(1, 1, PIX), payment(PaymentCaptured, 1, captured=11_000))
    life.hear(basket(2, 1, PIX, status=SaleStatus.CANCELLED))
    assert life.state == "cancelling"

    life.hear(PersonSaid("refund"))

    assert life.state == "cancelled"


def test_silence_of_the_carrier_ends_as_delivered_after_two_rounds() -> None:
    life = sent_card().hear(DUE)
    assert (life.state, alerts(life.now)) == ("shipped", {"lost"})

    life.hear(DUE)

    assert life.state == "delivered"


def test_what_the_channel_ships_needs_its_word_alone_and_silence_ends_as_delivered() -> None:
    life = Life().hear(sale(1, SaleStatus.PAID, line(fulfilled_by="full-sp")), DUE)
    assert (life.state, stage_of(life.now)) == ("confirmed", "deliver")

    life.hear(sale(2, SaleStatus.SHIPPED, line(fulfilled_by="full-sp")), DUE, DUE)

    assert (life.state, life.commands) == ("delivered", [])


@pytest.mark.parametrize("person", [False, True])
def test_a_lost_parcel_is_refunded_and_its_stock_stays_shipped(person: bool) -> None:
    life = sent_card()
    [asked] = life.asked(PrepareShipment)
    life.hear(shipment(ShipmentFailed, asked, 4, reason="lost", final=True))
    assert (stage_of(life.now), alerts(life.now)) == ("lost", {"lost"})

    life.hear(PersonSaid("lost") if person else DUE)
    [refund] = life.asked(RefundPayment)
    assert (life.state, refund.refunded_total_minor) == ("cancelling", 11_000)
    life.hear(payment(PaymentRefunded, 5, captured=11_000, refunded=11_000, reason="lost"))

    assert life.state == "cancelled"
    assert [fact.reason for fact in life.facts if isinstance(fact, OrderCancelled)] == ["lost"]
    assert [stands.shipped for stands in standing(life.now)] == [2]


def test_waiting_longer_starts_the_clock_anew() -> None:
    life = Life().hear(sale(), DUE, DUE, PersonSaid("wait"))

    assert (life.now.process.rounds, life.now.process.entered_at, alerts(life.now)) == (0, NOW, frozenset())


def two_parcels(sent: int = 2) -> tuple[Life, PrepareShipment, PrepareShipment]:
    """A paid basket of two lines in two locations: two labelled parcels of which so many have left, its card
    captured."""
    lines = (
        line("1", unit_price_minor=5_000, quantity=1, fulfilled_by=US),
        line("2", unit_price_minor=5_000, quantity=1, fulfilled_by=US),
    )
    life = Life(silent=True)
    authorized = payment(PaymentAuthorized, 1, authorized=11_000)
    for told in (basket(lines=lines), basket(2, 1, CARD, lines=lines), authorized, invoice()):
        life.hear(told)
        while not life.now.settled:
            met = answer(life.demands[-1])
            apart = met.lines[1].model_copy(update={"locations": (ShippedQuantity(location="annex", quantity=1),)})
            life.hear(met.model_copy(update={"lines": (met.lines[0], apart)}))
    life.silent = False
    first, second = life.asked(PrepareShipment)
    life.hear(shipment(LabelCreated, first, 1), shipment(LabelCreated, second, 1))
    for asked in (first, second)[:sent]:
        life.hear(shipment(ShipmentDispatched, asked, 2))
    return life.hear(payment(PaymentCaptured, 2, authorized=11_000, captured=11_000)), first, second


@pytest.mark.parametrize("person", [False, True])
def test_of_two_parcels_only_the_lost_one_is_given_back(person: bool) -> None:
    life, first, second = two_parcels()
    life.hear(shipment(ShipmentFailed, first, 3, reason="lost", final=True))
    life.hear(PersonSaid("lost") if person else DUE)

    [refund] = life.asked(RefundPayment)
    assert (refund.refunded_total_minor, owed(life.now)) == (5_000, 6_000)
    life.hear(payment(PaymentRefunded, 3, captured=11_000, refunded=5_000, reason="lost"))
    assert (life.state, stage_of(life.now)) == ("shipped", "deliver")

    life.hear(shipment(ShipmentDelivered, second, 3))
    assert (life.state, stage_of(life.now), len(life.asked(RefundPayment))) == ("delivered", "finished", 1)


def test_a_lost_parcel_neither_stops_nor_refunds_the_one_that_has_not_left() -> None:
    life, first, second = two_parcels(sent=1)
    life.hear(shipment(ShipmentFailed, first, 3, reason="lost", final=True))
    assert (life.state, alerts(life.now)) == ("packed", {"lost"})
    assert "lost" in answers(life.now), "what the alert asks for can be answered"

    life.hear(PersonSaid("lost"))
    [refund] = life.asked(RefundPayment)
    assert (refund.refunded_total_minor, refund.reason, owed(life.now)) == (5_000, "lost", 6_000)
    assert (life.state, alerts(life.now), life.asked(CancelShipment)) == ("packed", frozenset(), [])
    assert "lost" not in answers(life.now)

    life.hear(payment(PaymentRefunded, 3, captured=11_000, refunded=5_000, reason="lost"))
    life.hear(shipment(ShipmentDispatched, second, 2), shipment(ShipmentDelivered, second, 3))
    assert (life.state, stage_of(life.now), owed(life.now)) == ("delivered", "finished", 6_000)
    assert [stands.shipped for stands in standing(life.now)] == [1, 1]


@pytest.mark.parametrize("lost_first", [False, True])
def test_an_order_of_which_all_is_lost_or_called_off_is_cancelled(lost_first: bool) -> None:
    life, first, second = two_parcels(sent=1)
    off = second.lines[0].line_id
    lines = [one.model_copy(update={"cancelled": int(one.line_id == off)}) for one in life.now.sale.lines]
    rest = basket(3, 1, CARD, lines=lines)
    gone = [shipment(ShipmentFailed, first, 3, reason="lost", final=True), PersonSaid("lost")]
    life.hear(*(*gone, rest) if lost_first else (rest, *gone))

    [stop] = life.asked(CancelShipment)
    life.hear(shipment(ShipmentCancelled, second, 2, revision=stop.revision))
    assert (life.asked(RefundPayment)[-1].refunded_total_minor, owed(life.now)) == (11_000, 0)
    life.hear(payment(PaymentRefunded, 3, captured=11_000, refunded=11_000, reason="lost"))
    assert (life.state, stage_of(life.now)) == ("cancelled", "finished")


def test_a_lost_parcel_that_comes_back_is_not_taken_for_goods_of_the_other() -> None:
    """Two units of one line in two parcels: the lost one was given back, and is not given back a second time."""
    life, first, _ = two_parcels()
    sale = life.now.sale.model_copy(
        update={"lines": (line("1", unit_price_minor=5_000, quantity=2, fulfilled_by=US),), "revision": 3}
    )
    parcels = tuple(replace(one, lines=(("1", 1),)) for one in life.now.process.parcels)
    assert life.order
    life.order = replace(life.order, sale=sale, process=replace(life.order.process, parcels=parcels))
    life.hear(shipment(ShipmentFailed, first, 3, reason="lost", final=True), PersonSaid("lost"))
    life.hear(_return(first, 4, (1, AccountState.AVAILABLE)))

    assert (life.state, owed(life.now)) == ("shipped", 6_000)


def test_money_that_went_back_behind_our_back_before_the_goods_left_cancels() -> None:
    paid = Life().hear(basket(1, 1, PIX), payment(PaymentCaptured, 1, captured=11_000), invoice())
    assert len(paid.asked(PrepareShipment)) == 1

    paid.hear(payment(PaymentRefunded, 2, captured=11_000, refunded=11_000, reason="gateway"))

    [asked] = paid.asked(PrepareShipment)
    assert (paid.state, len(paid.asked(CancelShipment))) == ("cancelling", 1)
    paid.hear(shipment(ShipmentCancelled, asked, 1, revision=2))
    assert (paid.state, paid.asked(RefundPayment)) == ("cancelled", [])


def test_money_that_a_bank_took_back_before_the_goods_left_cancels() -> None:
    life = Life().hear(basket(1, 1, PIX), payment(PaymentCaptured, 1, captured=11_000), invoice())
    life.hear(payment(PaymentDisputed, 2, captured=11_000, reason="lost", disputed_minor=0, lost_minor=11_000))

    assert (life.state, len(life.asked(CancelShipment)), life.asked(RefundPayment)) == ("cancelling", 1, [])


def test_what_went_back_behind_our_back_after_the_goods_left_calls_a_person() -> None:
    life = sent_card().hear(payment(PaymentRefunded, 3, captured=11_000, refunded=11_000, reason="gateway"))

    assert (life.state, alerts(life.now)) == ("shipped", {"unpaid"})


def test_what_a_person_settled_by_hand_is_not_given_back_again() -> None:
    life = sent_card()
    [asked] = life.asked(PrepareShipment)
    life.hear(shipment(ShipmentDelivered, asked, 4), _return(asked, 5, (1, AccountState.AVAILABLE)))
    assert [one.refunded_total_minor for one in life.asked(RefundPayment)] == [5_000]
    life.hear(PersonSaid("refund"))
    assert stage_of(life.now) == "finished"

    life.hear(_return(asked, 6, (2, AccountState.AVAILABLE)))

    assert [one.refunded_total_minor for one in life.asked(RefundPayment)] == [5_000, 6_000], "with its freight"
    assert stage_of(life.now) == "refunding"
    life.hear(payment(PaymentRefunded, 3, captured=11_000, refunded=6_000, reason="returned"))
    assert (life.state, stage_of(life.now)) == ("returned", "finished")

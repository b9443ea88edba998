"""The shipment's life, whatever order things come in."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.fulfillment.v1 import (
    ChangeAddress,
    ReturnReceived,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentFailed,
    ShipmentLine,
    TrackingStatus,
)
from contracts.inventory.v1 import AccountState
from services.fulfillment.domain import (
    BuyerKnown,
    Buying,
    CarrierRefused,
    Decision,
    Dispatched,
    Event,
    Named,
    Packed,
    Picked,
    Received,
    Scan,
    Shipment,
    Stopped,
    TryAgain,
    decide,
)
from tests.fulfillment.given import LABEL, NOW, ORDER, PACKED, SHIPMENT, back, cancel, labelled, prepare, told

SHIPPED = (prepare(), BuyerKnown(0), Picked(), PACKED, Buying(), LABEL, Dispatched(NOW))


def kinds(decision: Decision) -> list[str]:
    return [type(fact).__name__ for fact in decision.facts]


def bare(shipment: Shipment) -> Shipment:
    """Without the count of facts: how often something was told depends on the order in which it was heard."""
    return replace(shipment, version=0, scans=tuple(sorted(shipment.scans, key=str)))


def test_a_parcel_from_command_to_door() -> None:
    decision = told(*SHIPPED, Scan(TrackingStatus.IN_TRANSIT, NOW), Scan(TrackingStatus.DELIVERED, NOW))

    assert kinds(decision) == [
        "ShipmentPrepared", "LabelCreated", "ShipmentDispatched", "ShipmentTracked", "ShipmentTracked",
        "ShipmentDelivered",
    ]  # fmt: skip
    assert [fact.version for fact in decision.facts] == [1, 2, 3, 4, 5, 6]  # type: ignore[attr-defined]
    assert decision.shipment.state == "delivered"


def test_without_the_buyer_nothing_is_packed() -> None:
    decision = told(prepare(), PACKED)

    assert decision.shipment.state == "awaiting_address"
    assert decision.refused
    assert not decision.facts


def test_an_older_buyer_than_the_command_asks_for_is_no_address() -> None:
    moved = ChangeAddress(order_id=ORDER, shipment_id=SHIPMENT, revision=2, sale_revision=4)

    assert told(prepare(), BuyerKnown(3), moved).shipment.state == "awaiting_address"
    assert told(prepare(), BuyerKnown(3), moved, BuyerKnown(4)).shipment.state == "to_pick"


def test_a_new_address_after_the_label_is_too_late() -> None:
    moved = ChangeAddress(order_id=ORDER, shipment_id=SHIPMENT, revision=2, sale_revision=4)
    [failed] = told(moved, before=labelled()).facts

    assert isinstance(failed, ShipmentFailed)
    assert (failed.reason, failed.final) == ("too_late", False)


def test_no_label_without_an_invoice_where_one_is_required() -> None:
    packed = told(prepare(invoice_key=None), BuyerKnown(0), PACKED)

    assert kinds(packed) == ["ShipmentPrepared", "ShipmentFailed"]
    assert not packed.shipment.awaits_label
    assert told(Buying(), before=packed.shipment).refused
    assert told(prepare(2), before=packed.shipment).shipment.awaits_label
    assert told(prepare(invoice_required=False, invoice_key=None), BuyerKnown(0), PACKED).shipment.awaits_label


def test_a_carrier_that_nobody_translated_holds_the_label() -> None:
    packed = told(prepare(carrier="Loggi", service="Expresso"), BuyerKnown(0), PACKED).shipment

    assert not packed.awaits_label
    assert not told(Named("loggi", ""), before=packed).shipment.awaits_label
    assert told(Named("loggi", "express"), before=packed).shipment.awaits_label


def test_what_the_carrier_refuses_waits_until_it_may_go_again() -> None:
    refused = told(prepare(), BuyerKnown(0), PACKED, Buying(), CarrierRefused("no_service"))

    assert kinds(refused)[-1] == "ShipmentFailed"
    assert not refused.shipment.awaits_label
    assert told(TryAgain(), before=refused.shipment).shipment.awaits_label


@pytest.mark.parametrize("before", range(1, 5))
def test_before_the_label_a_cancel_stops_at_once(before: int) -> None:
    decision = told(*SHIPPED[:before], cancel())

    assert decision.shipment.state == "cancelled"
    assert isinstance(decision.facts[-1], ShipmentCancelled)
    assert told(*SHIPPED[2:], before=decision.shipment).shipment.state == "cancelled"


def test_a_cancel_while_the_label_is_bought_waits_for_the_carrier() -> None:
    buying = told(*SHIPPED[:5], cancel())

    assert buying.shipment.state == "buying"
    assert told(LABEL, before=buying.shipment).shipment.state == "stopping"
    assert told(LABEL, Stopped(done=True), before=buying.shipment).shipment.state == "cancelled"
    assert told(CarrierRefused("refused_by_carrier"), before=buying.shipment).shipment.state == "cancelled"


def test_a_carrier_that_cannot_stop_it_ships_it() -> None:
    decision = told(cancel(), Stopped(done=False), before=labelled())

    assert decision.shipment.state == "labelled"
    assert [fact.reason for fact in decision.facts if isinstance(fact, ShipmentFailed)] == ["too_late"]
    assert told(cancel(), before=decision.shipment).shipment.state == "labelled"
    assert told(cancel(3), before=decision.shipment).shipment.state == "stopping"


def test_after_it_left_a_cancel_is_too_late() -> None:
    decision = told(*SHIPPED, cancel(), cancel())

    assert decision.shipment.state == "dispatched"
    assert kinds(decision)[-2:] == ["ShipmentDispatched", "ShipmentFailed"]


def test_a_parcel_that_leaves_while_it_is_being_stopped_has_left() -> None:
    decision = told(cancel(), Dispatched(NOW), Stopped(done=True), before=labelled())

    assert decision.shipment.state == "dispatched"
    assert kinds(decision) == ["ShipmentDispatched", "ShipmentFailed"]


def test_a_stopped_parcel_that_the_carrier_has_all_the_same_has_left() -> None:
    stopped = told(*SHIPPED[:-1], cancel(), Stopped(done=True)).shipment
    assert stopped.state == "cancelled"
    assert told(Scan(TrackingStatus.LOST, NOW), before=stopped).shipment.state == "cancelled"

    decision = told(Scan(TrackingStatus.ACCEPTED, NOW), before=stopped)

    assert kinds(decision) == ["ShipmentDispatched", "ShipmentFailed", "ShipmentTracked"]
    assert decision.shipment.state == "in_transit"


def test_a_cancelled_shipment_that_is_wanted_again_begins_again() -> None:
    again = told(cancel(), Stopped(done=True), prepare(3), before=labelled()).shipment

    assert again.state == "to_pick"
    assert again.label is None


def test_other_lines_are_packed_again_and_after_the_label_too_late() -> None:
    fewer = prepare(2, lines=(ShipmentLine(line_id="1", sku="MUG", quantity=1),))

    assert told(fewer, before=told(*SHIPPED[:4]).shipment).shipment.state == "to_pick"
    late = told(fewer, before=labelled())
    assert kinds(late) == ["ShipmentFailed"]
    assert late.shipment.prepare is not None
    assert late.shipment.prepare.lines == prepare().lines


def test_only_what_was_sent_comes_back() -> None:
    shipped = told(*SHIPPED).shipment
    one = Received("return-1", (back(1, AccountState.DAMAGED),), NOW)

    [fact] = told(one, one, before=shipped).facts
    assert isinstance(fact, ReturnReceived)
    assert told(one, Received("return-2", (back(2),), NOW), before=shipped).refused
    assert not told(one, Received("return-1", (back(2),), NOW), before=shipped).refused
    assert told(one, before=labelled()).refused


def test_lost_is_told_once_and_what_is_found_is_delivered() -> None:
    scans = [
        Scan(TrackingStatus.LOST, NOW), Scan(TrackingStatus.LOST, NOW + timedelta(days=1)),
        Scan(TrackingStatus.DELIVERED, NOW + timedelta(days=2)),
    ]  # fmt: skip
    decision = told(*scans, before=told(*SHIPPED).shipment)

    assert kinds(decision).count("ShipmentFailed") == 1
    assert decision.shipment.state == "delivered"


COMMANDS: list[Any] = [
    prepare(1),
    cancel(2),
    prepare(3, lines=(ShipmentLine(line_id="1", sku="MUG", quantity=1),)),
    ChangeAddress(order_id=ORDER, shipment_id=SHIPMENT, revision=4, sale_revision=2),
    cancel(5),
    BuyerKnown(1),
    BuyerKnown(2),
]
SCANS = [
    Scan(status, NOW + timedelta(hours=hour)) for status in TrackingStatus for hour in (1, 2)
]  # fmt: skip


@given(st.data())
def test_commands_and_buyers_in_any_order_come_to_the_same(data: st.DataObject) -> None:
    heard = data.draw(st.lists(st.sampled_from(COMMANDS), min_size=1, unique_by=repr))
    shuffled = data.draw(st.permutations(heard + data.draw(st.lists(st.sampled_from(heard), max_size=4))))

    assert bare(told(*shuffled).shipment) == bare(told(*heard).shipment)


@given(st.data())
def test_scans_in_any_order_come_to_the_same_and_the_units_leave_once(data: st.DataObject) -> None:
    heard = data.draw(st.lists(st.sampled_from(SCANS), min_size=1, unique=True))
    shuffled = data.draw(st.permutations(heard + data.draw(st.lists(st.sampled_from(heard), max_size=4))))
    straight, crooked = told(*heard, before=labelled()), told(*shuffled, before=labelled())

    assert bare(crooked.shipment) == bare(straight.shipment)
    assert crooked.shipment.state == straight.shipment.state
    for once in (ShipmentDispatched, ShipmentDelivered):
        assert sum(isinstance(fact, once) for fact in crooked.facts) <= 1
    assert sum(isinstance(fact, ShipmentDispatched) for fact in crooked.facts) == 1


EVENTS: list[Event] = [
    *COMMANDS, prepare(6, invoice_key=None), prepare(7), Picked(), PACKED, Packed(0, (1, 1, 1)), Buying(), LABEL,
    CarrierRefused("no_service"), TryAgain(), Stopped(done=True), Stopped(done=False), Dispatched(NOW), *SCANS[:4],
    Received("return-1", (back(1),), NOW),
]  # fmt: skip


@given(st.lists(st.sampled_from(EVENTS), max_size=40))
def test_whatever_happens_the_promises_stand(events: list[Event]) -> None:
    shipment = Shipment(SHIPMENT, ORDER)
    left = 0
    for event in events:
        decision = decide(shipment, event, NOW)
        versions = [fact.version for fact in decision.facts]  # type: ignore[attr-defined]
        assert versions == list(range(shipment.version + 1, decision.shipment.version + 1))
        assert not (decision.refused and decision.facts)
        assert decide(decision.shipment, event, NOW).shipment.state == decision.shipment.state
        left += sum(isinstance(fact, ShipmentDispatched) for fact in decision.facts)
        was, shipment = shipment, decision.shipment
        assert shipment.has_invoice or shipment.label is None
        if was.dispatched_at is not None:
            assert shipment.dispatched_at is not None
            assert shipment.state != "cancelled"
    assert left == (shipment.dispatched_at is not None)

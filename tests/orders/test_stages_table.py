"""Every state of an order has its row of deadlines, and every row is one that can be lived by."""

import pytest

from services.orders.admin import ALERTS
from services.orders.order import STATES
from services.orders.process import STAGES
from services.orders.settings import OrdersSettings

ROWS_OF = {
    "placed": {"placed"},
    "held": {"payment", "checkout", "mapping", "person"},
    "short": {"short"},
    "confirmed": {"invoice", "prepare", "deliver"},
    "invoiced": {"prepare"},
    "packed": {"dispatch"},
    "cancelling": {"cancelling"},
    "shipped": {"deliver", "lost"},
    "delivered": {"finished", "refunding"},
    "returned": {"finished", "refunding"},
    "cancelled": {"finished", "refunding"},
    "closed": {"finished", "refunding"},
}


def test_every_state_has_its_rows_and_every_row_its_state() -> None:
    assert ROWS_OF.keys() == set(STATES)
    assert set().union(*ROWS_OF.values()) == STAGES.keys()


@pytest.mark.parametrize("name", STAGES)
def test_a_row_has_a_length_an_alert_that_says_what_to_do_and_a_way_out(name: str) -> None:
    stage = STAGES[name]

    assert OrdersSettings().lengths[stage.setting]
    assert not stage.alert or stage.alert in ALERTS
    assert bool(stage.rounds) == bool(stage.default)
    assert stage.undone
    assert stage.then
    assert stage.waits_for


def test_lengths_are_in_the_unit_of_their_name() -> None:
    lengths = OrdersSettings(hold_grace_s=90, invoice_h=2).lengths

    assert (lengths["hold_grace_s"].total_seconds(), lengths["invoice_h"].total_seconds()) == (90, 7200)

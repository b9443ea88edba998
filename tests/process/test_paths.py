"""Whatever happens to an order and in whatever sequence it is heard, it ends once, and stock and money are balanced.

5,000 orders of 500 companies live through payment, failure, cancel, part cancel, refund, return, loss, dispute and
silence, with every message late, doubled or overtaken. A company is its seed: `World(seed)` does the same again.
"""

from collections import Counter
from typing import Any

import pytest

from services.orders import demand, domain, standing, wanted
from services.payments.domain import Kind
from tests.process.world import World

COMPANIES, ORDERS_EACH = 500, 10
COMPANIES_WITHOUT = 60


def _live(seed: int) -> World:
    world = World(seed, ORDERS_EACH)
    world.run()
    world.check()
    return world


@pytest.mark.timeout(240)
def test_5000_orders_end_once_and_everything_is_balanced() -> None:
    ends: Counter[str] = Counter()
    moved: Counter[Kind] = Counter()
    happened: Counter[str] = Counter()
    for seed in range(COMPANIES):
        world = _live(seed)
        ends.update(order.state.kind for order in world.orders.values() if order)
        happened.update(world.happened)
        for (_, kind), times in world.gateway.moved.items():
            moved[kind] += times

    # The paths were really gone: each of them is one that many took.
    assert ends.total() == COMPANIES * ORDERS_EACH
    assert min(ends[kind] for kind in ("cancelled", "delivered", "returned")) > 100
    assert min(moved[kind] for kind in Kind) > 100
    assert min(happened[what] for what in ("dispute", "refund failed", "refund returned", "lost beside others")) > 5
    assert min(happened[what] for what in ("freight back", "freight kept")) > 10


def _nothing_held_back(_: Any) -> dict[str, Any]:
    return {}


def _every_payment_counts(view: Any, known: Any, payment: Any) -> int:
    del known, payment
    due_minor: int = view.due_minor
    return due_minor


def _always_settled(_: Any, __: Any) -> bool:
    return True


def _never(_: Any) -> bool:
    return False


GUARDS = {
    "a cancel waits for the parcel to be stopped": (demand, "held_back", _nothing_held_back),
    "only one payment of an order counts": (wanted, "_due", _every_payment_counts),
    "an order is cancelled once its money is back": (domain, "money_settled", _always_settled),
    "what left is told to inventory": (demand, "departed", _nothing_held_back),
    "who gives all back in time has his freight back": (standing, "is_withdrawn", _never),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_it_notices_where_a_guard_is_taken_away(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, without = GUARDS[guard]
    monkeypatch.setattr(module, name, without)

    def live_on() -> None:
        for seed in range(COMPANIES_WITHOUT):
            _live(seed)

    with pytest.raises(AssertionError):
        live_on()

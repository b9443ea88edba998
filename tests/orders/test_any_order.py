"""Whatever sequence the snapshots of a sale come in, and however often, its order ends the same."""

import copy
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.channels.v1 import SaleReported, SaleStatus
from services.orders.domain import decide
from services.orders.order import Order
from tests.orders.given import KIT, NOW, answer, line, sale, settle

STOCK = {"MUG": 5, "TRAY": 2}
SILENT = {SaleStatus.UNKNOWN, SaleStatus.CANCEL_REQUESTED, SaleStatus.PLACED, SaleStatus.CANCELLED}


@st.composite
def histories(draw: st.DrawFn) -> list[SaleReported]:
    """Snapshots of one sale as a channel tells them: lines only ever lose units, a found SKU is not lost again, and
    after goods have left the sale is not cancelled (that case has its own test and is remembered, not derived)."""
    quantities = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    skus = [draw(st.sampled_from(["MUG", "TRAY", KIT])) for _ in quantities]
    known_from = [draw(st.integers(1, 4)) for _ in quantities]
    cancelled, returned = [0] * len(quantities), [0] * len(quantities)
    snapshots: list[SaleReported] = []
    for revision in range(1, draw(st.integers(1, 5)) + 1):
        left = any(known.status in {SaleStatus.SHIPPED, SaleStatus.DELIVERED} for known in snapshots)
        allowed = [SaleStatus.SHIPPED, SaleStatus.DELIVERED] if left else list(SaleStatus)
        status = draw(st.sampled_from(allowed))
        for index, quantity in enumerate(quantities):
            if not left:
                cancelled[index] = draw(st.integers(cancelled[index], quantity))
            elif status is SaleStatus.DELIVERED:
                returned[index] = draw(st.integers(returned[index], quantity - cancelled[index]))
        lines = [
            line(str(i), sku if revision >= known_from[i] else None, quantities[i],
                 cancelled=cancelled[i], returned=returned[i])
            for i, sku in enumerate(skus)
        ]  # fmt: skip
        snapshots.append(sale(revision, status, *lines))
        if status is SaleStatus.RETURNED or status is SaleStatus.CANCELLED:
            break
    return snapshots


def deliver(snapshots: list[SaleReported], answered: list[bool]) -> Order:
    """The order after `snapshots`, inventory answering after those that `answered` marks, and in the end."""
    order: Order | None = None
    for snapshot, answers in zip(snapshots, itertools.cycle(answered), strict=False):
        order = decide(order, snapshot, NOW).order
        if answers and order and order.demand and not order.settled:
            order = decide(order, answer(order.demand, STOCK), NOW).order
    return settle(order, STOCK)


def ending(order: Order) -> dict[str, Any]:
    """What must not depend on the sequence: the state, and what the demand comes to for every line."""
    assert order.demand or all(line.sku is None for line in order.sale.lines)
    asked = order.demand.lines if order.demand else ()
    return {
        "state": order.state,
        "sale": order.sale,
        "paid": None if order.sale.status in SILENT else order.paid,
        "demand": {wanted.line_id: wanted.model_dump(exclude={"line_id"}) for wanted in asked},
    }


@given(data=st.data(), snapshots=histories(), answered=st.lists(st.booleans(), min_size=1, max_size=4))
def test_every_sequence_with_duplicates_ends_the_same(
    data: st.DataObject, snapshots: list[SaleReported], answered: list[bool]
) -> None:
    again = data.draw(st.lists(st.sampled_from(snapshots), max_size=3))
    shuffled = data.draw(st.permutations(snapshots + again))

    assert ending(deliver(shuffled, answered)) == ending(deliver(snapshots, [True]))


@given(snapshots=histories())
def test_an_order_stays_as_it_was_when_what_follows_is_decided(snapshots: list[SaleReported]) -> None:
    orders = [decide(None, snapshots[0], NOW).order]
    for snapshot in snapshots[1:]:
        orders.append(decide(orders[-1], snapshot, NOW).order)
    orders.append(settle(orders[-1], STOCK))
    copies = [copy.copy(order) for order in orders]
    for order, snapshot in zip(orders, reversed(snapshots), strict=False):
        decide(order, snapshot, NOW)
        settle(order, STOCK)

    assert orders == copies


@given(snapshots=histories())
def test_the_newest_snapshot_alone_is_enough(snapshots: list[SaleReported]) -> None:
    assert ending(deliver(snapshots[-1:], [True])) == ending(deliver(snapshots, [True]))


@given(data=st.data(), snapshots=histories())
@pytest.mark.rule(17)
def test_demand_revisions_only_grow_and_every_one_says_something_new(
    data: st.DataObject, snapshots: list[SaleReported]
) -> None:
    order: Order | None = None
    demands = []
    for snapshot in data.draw(st.permutations(snapshots)):
        decision = decide(order, snapshot, NOW)
        order = decision.order
        demands += [decision.demand] if decision.demand else []

    assert [demand.revision for demand in demands] == list(range(1, len(demands) + 1))
    assert all(one.lines != two.lines for one, two in itertools.pairwise(demands))

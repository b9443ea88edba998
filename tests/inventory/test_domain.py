"""How demand is met: given stock and what was done before, when a demand arrives, then …"""

from datetime import timedelta

import pytest

from contracts.channels.v1 import ShortfallPolicy
from contracts.inventory.v1 import AccountState, ReturnedQuantity, ShippedQuantity
from services.inventory.domain import expire
from services.inventory.ledger import Expired, Location
from tests.inventory.given import NOW, Books, demand, line, stands

MAIN = ("main", "shared")
TWO_PLACES = (Location("main", "Main", priority=1), Location("annex", "Annex", priority=2))
KIT = {"SET": (("MUG", 2), ("TRAY", 1))}


def test_what_is_there_is_reserved() -> None:
    books = Books({"MUG": {MAIN: 5}})
    assert stands(books.meet(demand("a", line(ordered=2)))) == (2, 0)
    assert (books.units("MUG"), books.units("MUG", "reserved")) == (3, 2)
    assert books.causes("MUG") == [("a", 2, "reserved")]


@pytest.mark.rule(31)
def test_what_is_not_there_is_short_and_the_level_says_so() -> None:
    books = Books({"MUG": {MAIN: 1}})
    assert stands(books.meet(demand("a", line(ordered=3)))) == (1, 2)
    assert books.causes("MUG") == [("a", 1, "reserved"), ("a", 2, "short")]
    books.meet(demand("b"))
    assert books.causes("MUG")[2:] == [("b", 1, "short")]
    assert books.sku("MUG").version == 2


def test_an_unknown_sku_is_short() -> None:
    books = Books()
    assert stands(books.meet(demand("a", line("NEVER-HEARD-OF"))), "NEVER-HEARD-OF") == (0, 1)
    assert books.causes("NEVER-HEARD-OF") == [("a", 1, "short")]


@pytest.mark.rule(17)
def test_a_duplicate_and_an_old_revision_change_nothing() -> None:
    books = Books({"MUG": {MAIN: 5}})
    books.meet(demand("a", line(ordered=3), revision=2))
    assert books.meet(demand("a", line(ordered=3), revision=2)) is None
    assert books.meet(demand("a", line(ordered=1), revision=1)) is None
    assert books.units("MUG") == 2
    assert len(books.ledger.movements) == 1


def test_every_new_revision_is_answered_even_if_nothing_moves() -> None:
    books = Books({"MUG": {MAIN: 5}})
    books.meet(demand("a"))
    outcome = books.meet(demand("a", revision=2))
    assert outcome is not None
    assert outcome.revision == 2
    assert books.sku("MUG").version == 1


def test_a_cancel_gives_back_once() -> None:
    books = Books({"MUG": {MAIN: 5}})
    books.meet(demand("a", line(ordered=3)))
    for revision in (2, 3):
        assert stands(books.meet(demand("a", line(ordered=3, cancelled=3), revision=revision))) == (0, 0)
    assert books.units("MUG") == 5
    assert books.causes("MUG") == [("a", 3, "reserved"), ("a", -3, "released")]


def test_cancelling_what_is_short_releases_it_too_and_takes_nothing_that_is_reserved() -> None:
    books = Books({"MUG": {MAIN: 1}})
    books.meet(demand("a", line(ordered=3)))
    assert stands(books.meet(demand("a", line(ordered=3, cancelled=2), revision=2))) == (1, 0)
    assert books.causes("MUG")[2:] == [("a", -2, "released")]


def test_a_line_left_out_is_given_back() -> None:
    books = Books({"MUG": {MAIN: 5}, "TRAY": {MAIN: 5}})
    books.meet(demand("a", line("MUG"), line("TRAY", line_id="2")))
    books.meet(demand("a", line("MUG"), revision=2))
    assert (books.units("MUG"), books.units("TRAY")) == (4, 5)


@pytest.mark.rule(17)
def test_a_cancel_fills_the_oldest_shortfall_before_anything_is_shown() -> None:
    books = Books({"MUG": {MAIN: 2}})
    books.meet(demand("holder", line(ordered=2)))
    books.meet(demand("younger", minute=9))
    books.meet(demand("older", minute=3))
    books.meet(demand("holder", line(ordered=2, cancelled=1), revision=2))
    assert stands(books.outcomes("older")[-1]) == (1, 0)
    assert books.outcomes("older")[-1].filled
    assert stands(books.outcomes("younger")[-1]) == (0, 1)
    assert books.units("MUG") == 0
    assert books.causes("MUG")[-2:] == [("holder", -1, "released"), ("older", 1, "filled")]


@pytest.mark.rule(18)
def test_a_kit_takes_its_components_and_gives_back_those_of_its_day() -> None:
    books = Books({"MUG": {MAIN: 10}, "TRAY": {MAIN: 3}}, kits=KIT)
    books.meet(demand("a", line("SET", 2)))
    assert (books.units("MUG"), books.units("TRAY")) == (6, 1)
    books.kits = {"SET": (("MUG", 5),)}
    books.meet(demand("a", line("SET", 2, cancelled=1), revision=2))
    assert (books.units("MUG"), books.units("TRAY")) == (8, 2)


def test_a_kit_may_miss_one_component() -> None:
    books = Books({"MUG": {MAIN: 1}, "TRAY": {MAIN: 3}}, kits=KIT)
    outcome = books.meet(demand("a", line("SET")))
    assert (stands(outcome, "MUG"), stands(outcome, "TRAY")) == ((1, 1), (1, 0))


def test_demand_of_several_lines_on_one_sku_is_summed() -> None:
    books = Books({"MUG": {MAIN: 3}, "TRAY": {MAIN: 9}}, kits=KIT)
    outcome = books.meet(demand("a", line("SET"), line("MUG", 2, line_id="2"), all_or_nothing=True))
    assert (stands(outcome), books.units("MUG"), books.units("TRAY")) == ((0, 4), 3, 9)


def test_all_or_nothing_waits_for_the_last_line() -> None:
    books = Books({"MUG": {MAIN: 1}, "TRAY": {MAIN: 1}})
    books.meet(demand("holder", line("TRAY")))
    books.meet(demand("a", line("MUG"), line("TRAY", line_id="2"), all_or_nothing=True))
    assert books.units("MUG") == 1
    assert books.ledger.movements[-1].line.startswith("holder")
    books.meet(demand("holder", line("TRAY", cancelled=1), revision=2))
    outcome = books.outcomes("a")[-1]
    assert (stands(outcome, "MUG"), stands(outcome, "TRAY")) == ((1, 0), (1, 0))
    assert books.causes("MUG") == [("a", 1, "short"), ("a", 1, "filled")]


@pytest.mark.rule(18, 22)
def test_own_pool_then_shared_pool_then_other_pool_then_other_location() -> None:
    places = {("main", "b2b"): 1, MAIN: 1, ("main", "web"): 1, ("annex", "web"): 1}
    for policy, reserved in (
        (ShortfallPolicy.SHARED_POOL, 2),
        (ShortfallPolicy.OTHER_POOL, 3),
        (ShortfallPolicy.OTHER_LOCATION, 4),
    ):
        books = Books({"MUG": dict(places)}, locations=TWO_PLACES)
        outcome = books.meet(demand("a", line(ordered=5), pool="web", shortfall_policy=policy))
        assert stands(outcome) == (reserved, 5 - reserved)
        drawn = [movement.source[:2] for movement in books.ledger.movements]
        assert drawn == [("main", "web"), MAIN, ("main", "b2b"), ("annex", "web")][:reserved]


def test_a_shortfall_says_what_a_person_could_allow() -> None:
    places = {("main", "b2b"): 1, ("annex", "shared"): 1}
    books = Books({"MUG": places}, locations=TWO_PLACES)
    outcome = books.meet(demand("a", shortfall_policy=ShortfallPolicy.SHARED_POOL))
    assert outcome is not None
    assert outcome.lines[0].possible == ("location:annex", "pool:b2b")


def test_stock_held_by_a_channel_is_lowered_by_its_sales_alone() -> None:
    held = (Location("main", "Main"), Location("full", "Full", held_by="marketplace"))
    books = Books({"MUG": {("full", "shared"): 5}}, locations=held)
    assert stands(books.meet(demand("ours"))) == (0, 1)
    assert stands(books.meet(demand("stranger", line(location="full")))) == (0, 1)
    theirs = demand("theirs", line(location="full"), connection_id="marketplace")
    assert stands(books.meet(theirs)) == (1, 0)
    assert books.units("MUG", location="full") == 4


def test_a_line_with_a_location_is_met_there_alone() -> None:
    books = Books({"MUG": {MAIN: 5, ("annex", "shared"): 1}}, locations=TWO_PLACES)
    assert stands(books.meet(demand("a", line(ordered=2, location="annex")))) == (1, 1)


def test_goods_that_left_are_shipped_once_from_where_they_are_reserved() -> None:
    books = Books({"MUG": {MAIN: 5}})
    books.meet(demand("a", line(ordered=3)))
    shipped = line(ordered=3, shipped=(ShippedQuantity(location="main", quantity=2),))
    books.meet(demand("a", shipped, revision=2))
    outcome = books.meet(demand("a", shipped, revision=3))
    assert outcome is not None
    assert (outcome.lines[0].reserved, outcome.lines[0].shipped) == (1, 2)
    assert (books.units("MUG"), books.units("MUG", "reserved"), books.units("MUG", "shipped")) == (2, 1, 2)
    assert books.causes("MUG") == [("a", 3, "reserved"), ("a", 2, "shipped")]


def test_goods_that_left_from_elsewhere_free_the_reservation() -> None:
    books = Books({"MUG": {MAIN: 1, ("annex", "shared"): 1}}, locations=TWO_PLACES)
    books.meet(demand("a"))
    books.meet(demand("a", line(shipped=(ShippedQuantity(location="annex", quantity=1),)), revision=2))
    assert (books.units("MUG", location="main"), books.units("MUG", location="annex")) == (1, 0)
    assert books.causes("MUG") == [("a", 1, "reserved"), ("a", 1, "shipped")]


def test_goods_that_left_without_being_on_the_books_are_a_difference() -> None:
    books = Books()
    outcome = books.meet(demand("a", line(shipped=(ShippedQuantity(location="main", quantity=1),))))
    assert outcome is not None
    assert (outcome.lines[0].shipped, outcome.short) == (1, False)
    assert [movement.source[2] for movement in books.ledger.movements] == ["count-difference"]
    assert sum(units for _, units, kind in books.causes("MUG") if kind in {"reserved", "short"}) == 1


def test_returns_go_where_they_are_said_to_be() -> None:
    books = Books({"MUG": {MAIN: 3}})
    shipped = (ShippedQuantity(location="main", quantity=3),)
    books.meet(demand("a", line(ordered=3)))
    books.meet(demand("a", line(ordered=3, shipped=shipped), revision=2))
    back = (
        ReturnedQuantity(location="main", state=AccountState.AVAILABLE, quantity=1),
        ReturnedQuantity(location="main", state=AccountState.DAMAGED, quantity=1),
    )
    outcome = books.meet(demand("a", line(ordered=3, shipped=shipped, returned=back), revision=3))
    assert outcome is not None
    assert (outcome.lines[0].shipped, outcome.lines[0].returned) == (3, 2)
    assert [books.units("MUG", state) for state in ("available", "damaged", "shipped")] == [1, 1, 1]
    books.meet(demand("a", line(ordered=3, shipped=shipped, returned=back[1:]), revision=4))
    assert [books.units("MUG", state) for state in ("available", "damaged", "shipped")] == [0, 1, 2]


def test_what_came_back_must_have_left() -> None:
    books = Books({"MUG": {MAIN: 1}})
    books.meet(demand("a"))
    back = (ReturnedQuantity(location="main", state=AccountState.INBOUND, quantity=1),)
    books.meet(demand("a", line(returned=back), revision=2))
    assert [books.units("MUG", state) for state in ("reserved", "shipped", "inbound")] == [0, 0, 1]


def test_a_shipment_that_was_none_is_reserved_again() -> None:
    books = Books({"MUG": {MAIN: 1}})
    books.meet(demand("a", line(shipped=(ShippedQuantity(location="main", quantity=1),))))
    outcome = books.meet(demand("a", revision=2))
    assert stands(outcome) == (1, 0)
    assert books.units("MUG", "shipped") == 0


@pytest.mark.rule(22)
def test_a_hold_ends_once_and_money_that_comes_later_reserves_again_or_is_short() -> None:
    hold = NOW - timedelta(minutes=1)
    books = Books({"MUG": {MAIN: 1}}, now=hold)
    books.meet(demand("a", hold_until=NOW))
    order = books.ledger.orders["a"]
    expire(books.ledger, order, 7)
    assert books.units("MUG") == 0
    books.ledger.now = NOW
    for _ in range(2):
        expire(books.ledger, order, 8)
    assert books.units("MUG") == 1
    assert len([one for one in books.ledger.reports if isinstance(one, Expired)]) == 1
    assert books.causes("MUG") == [("a", 1, "reserved"), ("a", -1, "released")]
    assert stands(books.meet(demand("a", revision=2))) == (1, 0)
    assert stands(books.meet(demand("b", minute=1))) == (0, 1)


def test_a_hold_that_is_over_on_arrival_asks_for_nothing() -> None:
    books = Books({"MUG": {MAIN: 1}})
    assert books.meet(demand("a", hold_until=NOW)) is None
    assert isinstance(books.ledger.reports[-1], Expired)
    assert books.units("MUG") == 1


def test_the_end_of_a_hold_fills_a_shortfall() -> None:
    books = Books({"MUG": {MAIN: 1}}, now=NOW - timedelta(hours=1))
    books.meet(demand("a", hold_until=NOW))
    books.meet(demand("b", minute=5))
    books.ledger.now = NOW
    expire(books.ledger, books.ledger.orders["a"], 9)
    assert stands(books.outcomes("b")[-1]) == (1, 0)


def test_a_line_that_changes_its_sku_moves_with_it() -> None:
    books = Books({"MUG": {MAIN: 1}, "TRAY": {MAIN: 1}})
    books.meet(demand("a", line("MUG")))
    outcome = books.meet(demand("a", line("TRAY"), revision=2))
    assert (stands(outcome, "MUG"), stands(outcome, "TRAY")) == ((0, 0), (1, 0))
    assert books.units("MUG") == 1

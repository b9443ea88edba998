"""Each way of breaking a promise turns the verdict to fail, on books written by hand."""

import pytest

from contracts.envelope import Envelope
from contracts.inventory.v1 import AccountState, DemandMet, LineOutcome
from services.console.demo import accounts
from services.console.demo.verdict import Verdict, judge, to_report, unsettled
from tests.console.world import START, START_MS, World


def judged(world: World) -> Verdict:
    return judge(world.evidence())


def only_failure(world: World) -> str:
    failures = judged(world).failures
    assert len(failures) == 1, failures
    return failures[0]


def test_a_good_run_passes() -> None:
    world = World()
    world.sale("a", 1000)
    world.sale("b", 2000)
    verdict = judged(world)
    assert verdict.failures == []
    assert verdict.accounts.units == {"accepted": 2, "reserved": 2, "short": 0, "cancelled": 0, "open": 0}
    assert unsettled(world.evidence()) == (0, 0)


def test_a_run_without_sales_shows_nothing_and_fails() -> None:
    assert "no sandbox accepted a single sale" in only_failure(World())


def test_an_order_that_was_never_reported_is_lost_and_open() -> None:
    world = World()
    world.sale("a", 1000)
    world.buy("b", 2000)
    world.push("b", 2100)
    verdict = judged(world)
    assert verdict.accounts.orders["lost"] == 1
    assert verdict.accounts.orders["open"] == 1
    assert any("1 orders lost: b b-" in failure for failure in verdict.failures)


@pytest.mark.rule(32)
def test_an_order_that_was_heard_and_never_decided_is_open() -> None:
    world = World()
    order = world.buy("a", 1000)
    world.report("a", order, 1005, 1000)
    world.push("a", 1100)
    assert "neither reserved, short nor cancelled" in only_failure(world)


def test_of_a_line_that_left_in_part_what_stayed_is_what_was_cancelled() -> None:
    world = World()
    order = world.buy("a", 1000, quantity=2)
    world.report("a", order, 1005, 1000)
    world.cancel("a", 1100, order)
    left = LineOutcome(line_id="1", sku="P1", reserved=0, shipped=1)
    world.publish(DemandMet(order_id=f"id-{order}", revision=2, lines=(left,)), 1500)
    units = accounts.settle(world.evidence()).units
    assert units == {"accepted": 2, "reserved": 1, "short": 0, "cancelled": 1, "open": 0}


def test_one_order_under_two_ids_is_doubled() -> None:
    world = World()
    order = world.sale("a", 1000)
    world.report("a", order, 2000, 1000, order_id="another")
    assert "1 orders doubled" in only_failure(world)


def test_an_order_that_no_sandbox_sold_is_doubled() -> None:
    world = World()
    world.sale("a", 1000)
    world.report("b", "phantom", 2000, 2000)
    assert "1 orders doubled: b phantom" in only_failure(world)


def test_more_units_held_than_were_sold_is_doubled() -> None:
    world = World()
    order = world.buy("a", 1000)
    world.report("a", order, 1005, 1000)
    world.decide("a", order, 1010, reserved=2)
    world.push("a", 1100)
    world.push("b", 1100)
    assert "1 orders doubled" in only_failure(world)


@pytest.mark.rule(32)
def test_promising_what_does_not_exist_is_overselling() -> None:
    world = World(opening={"P1": 1, "P2": 5})
    world.sale("a", 1000)
    order = world.buy("b", 1005)
    world.report("b", order, 1010, 1005)
    # Saldo says it reserved a unit that was never there: the books know better.
    world.available["P1"] += 1
    world.decide("b", order, 1020)
    world.shown["b", "P1"] = 0
    world.push("b", 1200)
    verdict = judged(world)
    assert verdict.oversold == {"P1": 1}
    assert any("oversold: 1 of P1" in failure for failure in verdict.failures)


@pytest.mark.rule(32)
def test_a_reported_shortfall_is_no_overselling() -> None:
    world = World(opening={"P1": 1})
    world.sale("a", 1000)
    world.shown["b", "P1"] = 1
    order = world.buy("b", 1050)
    world.report("b", order, 1060, 1050)
    world.decide("b", order, 1070, reserved=0, short=1)
    world.push("b", 1200)
    verdict = judged(world)
    assert verdict.failures == []
    assert verdict.accounts.units["short"] == 1
    (fall,) = verdict.shortfalls
    assert (fall.connection, fall.sku, fall.units, fall.late) == ("b", "P1", 1, False)
    assert fall.learned_ms == {"a": START_MS + 1100, "b": START_MS + 1100}


@pytest.mark.rule(32)
def test_a_shortfall_beyond_what_was_sold_excuses_nothing() -> None:
    world = World(opening={"P1": 1})
    world.sale("a", 1000)
    world.shown["b", "P1"] = 1
    order = world.buy("b", 1050)
    world.report("b", order, 1060, 1050)
    world.decide("b", order, 1070, reserved=0, short=5)
    world.push("b", 1200)
    verdict = judged(world)
    assert verdict.oversold == {}
    assert any("doubled" in failure for failure in verdict.failures)
    assert accounts.settle(world.evidence()).promised() == {"P1": 1}


def test_a_sale_after_its_channel_learned_of_zero_fails() -> None:
    world = World(opening={"P1": 1})
    world.sale("a", 1000)
    world.shown["b", "P1"] = 1
    order = world.buy("b", 1101)
    world.report("b", order, 1160, 1101)
    world.decide("b", order, 1170, reserved=0, short=1)
    world.push("b", 1200)
    assert "1 sales were short after their channel had been told of zero: b" in only_failure(world)


def test_a_unit_that_the_channel_restored_itself_is_no_such_sale() -> None:
    world = World(opening={"P1": 1})
    first = world.sale("b", 1000)
    # The other shop's sale came too late and waits: the unit that b's buyer gives back goes to it, before anybody is
    # shown it. But b puts it on sale again by itself, and sells it before it can be told.
    world.shown["a", "P1"] = 1
    waiting = world.buy("a", 1050)
    world.report("a", waiting, 1060, 1050)
    world.decide("a", waiting, 1070, reserved=0, short=1)
    world.cancel("b", 1300, first)
    again = world.buy("b", 1301)
    world.report("b", again, 1310, 1301)
    world.hand_over("b", first, "a", waiting, 1320)
    world.decide("b", again, 1330, reserved=0, short=1)
    world.push("a", 1400)
    world.push("b", 1400)
    verdict = judged(world)
    assert [fall.late for fall in verdict.shortfalls if fall.order == again] == [False]
    assert verdict.failures == []


def test_a_wrong_number_at_the_end_is_not_converged() -> None:
    world = World()
    world.sale("a", 1000)
    world.push("b", 1200, number=7)
    failure = only_failure(world)
    assert "1 listings did not converge: b shows 7 of P1, it should show 9" in failure
    assert unsettled(world.evidence()) == (0, 1)


def test_a_push_that_the_books_do_not_know_fails() -> None:
    world = World()
    world.sale("a", 1000)
    world.announce_push("b", 1300, "made-up", number=9)
    assert "1 pushes are not in the sandboxes' books: b record-P1" in only_failure(world)


@pytest.mark.parametrize("units", [1, 2])
def test_a_movement_too_many_is_not_conserved(units: int) -> None:
    world = World()
    world.sale("a", 1000)
    world.move("P1", units, AccountState.AVAILABLE, AccountState.DAMAGED)
    assert "the ledger is not conserved: P1: the level says 9 available" in only_failure(world)


def test_stock_from_nowhere_is_not_conserved() -> None:
    world = World()
    world.sale("a", 1000)
    world.available["P1"] += 3
    world.move("P1", 3, AccountState.SUPPLIER, AccountState.AVAILABLE)
    world.level("P1", 1500)
    world.push("a", 1600)
    world.push("b", 1600)
    assert "13 units came in by movements, 10 were put in" in only_failure(world)


def test_an_account_below_zero_is_not_conserved_even_if_it_recovers() -> None:
    world = World()
    world.sale("a", 1000)
    world.move("P1", 20, AccountState.AVAILABLE, AccountState.DAMAGED)
    world.move("P1", 20, AccountState.DAMAGED, AccountState.AVAILABLE)
    assert "down to -11" in only_failure(world)


def test_a_cancelled_order_gives_its_units_back() -> None:
    world = World()
    order = world.sale("a", 1000)
    world.cancel("a", 2000, order)
    waiting = judged(world)
    assert waiting.accounts.units["open"] == 1
    world.decide("a", order, 2050, reserved=0, revision=2)
    world.push("a", 2100)
    world.push("b", 2100)
    verdict = judged(world)
    assert verdict.failures == []
    assert verdict.accounts.orders == {
        "placed": 1,
        "reserved": 0,
        "short": 0,
        "cancelled": 1,
        "open": 0,
        "lost": 0,
        "doubled": 0,
    }


def test_a_kit_counts_in_units_of_its_components() -> None:
    world = World(opening={"P1": 10, "P2": 4}, kits={"K": {"P1": 1, "P2": 2}})
    world.sale("a", 1000, "K")
    verdict = judged(world)
    assert verdict.failures == []
    assert verdict.accounts.units["accepted"] == 3
    assert world.shown["b", "K"] == 1


@pytest.mark.rule(32)
def test_the_sum_of_all_kinds_is_what_was_accepted_in_every_state() -> None:
    for held in range(4):
        for missing in range(4):
            for returned in range(3):
                line = accounts.Line(sold=2, returned=returned, held=held, missing=missing)
                assert line.reserved + line.short + line.cancelled + line.open == 2
                if held + missing <= 2:
                    assert (line.open == 0) == (held + missing == 2 - returned)


def test_a_second_copy_of_an_event_counts_once() -> None:
    world = World()
    world.sale("a", 1000)
    movements = list(world.heard.movements)
    envelope = Envelope("e0", "", "test", START, "", "demo", "")
    assert not world.heard.add(envelope, movements[0])
    assert world.heard.movements == movements


def test_the_report_has_the_agreed_shape() -> None:
    world = World()
    world.sale("a", 1000)
    report = to_report(judged(world), seed=7, duration_s=60.0, deadletters=0)
    assert report["verdict"] == "pass"
    assert set(report["orders"]) == {"placed", "reserved", "short", "cancelled", "open", "lost", "doubled"}
    assert {"accepted", "reserved", "short", "cancelled", "oversold", "resurrected"} <= set(report["units"])
    channel = report["channels"]["b"]
    assert channel["propagation_ms"] == {"count": 1, "p50": 100, "p95": 100, "p99": 100, "max": 100}
    assert channel["propagation_from_receipt_ms"]["max"] == 95
    assert {"sales", "listings", "converged", "limit_bound", "unchanged"} <= set(channel)
    assert report["ledger"] == {"movements": 2, "conserved": True}

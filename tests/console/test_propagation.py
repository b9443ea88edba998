"""Propagation is measured from book to book; resurrected units and the ideal sender follow their definitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.console.demo import propagation
from services.console.demo.acceptance import match
from services.console.demo.accounts import settle
from services.console.demo.evidence import SendLimits
from services.console.demo.exposure import resurrected
from services.console.demo.propagation import Propagation, ideal_delays_ms, percentile
from services.console.demo.verdict import judge
from tests.console.world import World


def measured(world: World) -> dict[str, Propagation]:
    evidence = world.evidence()
    return propagation.measure(evidence, settle(evidence), match(evidence))


@pytest.mark.rule(31)
def test_from_the_sale_to_the_first_number_that_covers_it() -> None:
    world = World()
    order = world.buy("a", 1000)
    world.report("a", order, 1040, 1000)
    world.push("b", 1045)  # covers only the level before the sale
    world.decide("a", order, 1050)
    world.push("b", 1130)
    world.push("b", 1500)
    result = measured(world)
    assert result["b"].from_sale_ms == (130,)
    assert result["b"].from_receipt_ms == (90,)
    assert result["a"].from_sale_ms == ()
    assert result["a"].unchanged == 0


def test_a_number_as_low_as_all_that_was_sold_covers_the_sale_before_it_is_decided() -> None:
    world = World()
    order = world.buy("a", 1000)
    world.push("b", 1045, number=9)  # a was read: its sale is taken off though nobody has decided it
    world.report("a", order, 1050, 1000)
    world.decide("a", order, 1060)
    world.push("b", 9000)
    assert measured(world)["b"].from_sale_ms == (45,)


def test_a_low_number_does_not_cover_a_sale_while_another_one_is_unheard() -> None:
    world = World()
    order, other = world.buy("a", 1000), world.buy("b", 1010)
    world.push("b", 1045, number=9)  # b's own sale, not a's
    for connection, sale in (("a", order), ("b", other)):
        world.report(connection, sale, 1050, 1000)
        world.decide(connection, sale, 1060)
    world.push("b", 1100)
    assert measured(world)["b"].from_sale_ms == (100,)


def test_a_low_number_that_rises_again_before_the_sale_is_covered_does_not_count() -> None:
    world = World()
    earlier = world.buy("b", 900)
    world.cancel("b", 950, earlier)
    order = world.buy("a", 1000)
    world.push("b", 1045, number=9)  # b's cancelled sale is still taken off, a's is not
    world.push("b", 1055, number=10)
    world.report("a", order, 1060, 1000)
    world.decide("a", order, 1070)
    world.push("b", 1100)
    assert measured(world)["b"].from_sale_ms == (100,)


def test_a_cancel_that_makes_up_for_the_sale_leaves_nothing_to_change() -> None:
    world = World(opening={"P1": 10})
    earlier = world.buy("a", 500)
    world.report("a", earlier, 505, 500)
    world.decide("a", earlier, 510)
    world.push("b", 520)
    world.cancel("a", 990, earlier)
    order = world.buy("a", 1000)
    world.report("a", order, 1005, 1000)
    world.decide("a", order, 1010)
    world.push("b", 9000)
    result = measured(world)["b"]
    assert (result.from_sale_ms, result.unchanged) == ((20,), 1)


def test_a_cancel_that_makes_up_for_the_sale_ends_the_wait() -> None:
    world = World()
    earlier = world.buy("a", 500)
    world.report("a", earlier, 505, 500)
    world.decide("a", earlier, 510)
    world.push("b", 520)
    order = world.buy("a", 1000)
    world.cancel("a", 1200, earlier)
    world.report("a", order, 1005, 1000)
    world.decide("a", order, 1010)
    world.push("b", 9000)
    assert measured(world)["b"].from_sale_ms == (20, 200)


def test_a_later_level_covers_an_earlier_sale() -> None:
    world = World()
    for moment in (1000, 1001):
        order = world.buy("a", moment)
        world.report("a", order, moment + 5, moment)
        world.decide("a", order, moment + 10)
    world.push("b", 1101)
    assert measured(world)["b"].from_sale_ms == (101, 100)


@pytest.mark.rule(31)
def test_a_sale_that_changes_nothing_shown_is_unchanged() -> None:
    world = World(opening={"P1": 10, "P2": 4}, kits={"K": {"P2": 3}})
    order = world.buy("a", 1000, "P1")
    world.report("a", order, 1005, 1000)
    # A shortfall leaves every number where it was.
    world.decide("a", order, 1010, "P1", reserved=0, short=1)
    result = measured(world)["b"]
    assert result.from_sale_ms == ()
    assert result.unchanged == 1


def test_the_slowest_listing_counts_and_kits_follow_their_component() -> None:
    world = World(opening={"P1": 10}, kits={"K": {"P1": 5}})
    order = world.buy("a", 1000, "P1")
    world.report("a", order, 1005, 1000)
    world.decide("a", order, 1010, "P1")
    world.push("b", 1100, "P1")
    world.push("b", 1400, "K")
    assert measured(world)["b"].from_sale_ms == (400,)


@pytest.mark.rule(32)
def test_resurrected_counts_only_what_this_channel_had_sold_unheard() -> None:
    world = World(opening={"P1": 5})
    world.buy("b", 1000)
    world.buy("b", 1001)
    # The number ignores both unheard sales of b: two units that are gone go back on sale.
    world.push("b", 1100, number=5)
    assert resurrected(world.evidence(), match(world.evidence())) == 2
    world = World(opening={"P1": 5})
    world.buy("b", 1000)
    world.push("b", 1100, number=4)
    assert resurrected(world.evidence(), match(world.evidence())) == 0
    world = World(opening={"P1": 5})
    world.buy("a", 1000)
    # a's sale has not been heard either, but b puts none of its own units back.
    world.push("b", 1100, number=5)
    assert resurrected(world.evidence(), match(world.evidence())) == 0


def test_what_a_channel_holds_back_from_a_total_is_not_put_on_sale_by_it() -> None:
    world = World(opening={"P1": 5})
    world.buy("b", 1000)
    world.buy("b", 1001)
    world.buy("a", 1002)
    # b is told the total, five, and takes off its own two orders; the third unit is a's, whose sale is on its way.
    world.push("b", 1100, number=3, held=2)
    assert resurrected(world.evidence(), match(world.evidence())) == 0
    # Told five and holding one back, it puts one of its own two on sale again.
    world = World(opening={"P1": 5})
    world.buy("b", 1000)
    world.buy("b", 1001)
    world.push("b", 1100, number=4, held=1)
    assert resurrected(world.evidence(), match(world.evidence())) == 1


@pytest.mark.rule(32)
def test_resurrected_leaves_decided_sales_out() -> None:
    world = World(opening={"P1": 5})
    order = world.buy("b", 1000)
    world.report("b", order, 1005, 1000)
    world.decide("b", order, 1010)
    world.buy("a", 1020)
    world.push("b", 1100, number=5)
    assert resurrected(world.evidence(), match(world.evidence())) == 0


@pytest.mark.rule(33)
def test_an_ideal_sender_waits_only_for_the_documented_limits() -> None:
    roomy = SendLimits(requests_per_s=10, burst=10, max_batch=100)
    assert ideal_delays_ms([(0, "x"), (100, "y")], roomy) == [0, 0]
    tight = SendLimits(requests_per_s=1, burst=1, max_batch=1)
    assert ideal_delays_ms([(0, "x"), (0, "y"), (0, "z")], tight) == [0, 1000, 2000]
    batching = SendLimits(requests_per_s=1, burst=1, max_batch=2)
    assert ideal_delays_ms([(0, "w"), (10, "x"), (20, "y"), (30, "z")], batching) == [0, 990, 980, 1970]
    assert ideal_delays_ms([], tight) == []


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.sampled_from("abcdef")), max_size=60),
    st.floats(0.3, 50),
    st.integers(1, 20),
    st.integers(1, 4),
)
def test_an_ideal_sender_ends_and_answers_every_change_at_any_time_of_the_clock(
    trace: list[tuple[int, str]], rate: float, burst: int, max_batch: int
) -> None:
    limits = SendLimits(rate, burst, max_batch)
    since_1970 = [(1_790_000_000_000 + moment, record) for moment, record in trace]
    delays = ideal_delays_ms(since_1970, limits)
    assert len(delays) == len(trace)
    assert all(delay >= 0 for delay in delays)
    assert delays == ideal_delays_ms(trace, limits)


def test_waiting_changes_of_one_record_leave_in_one_write() -> None:
    tight = SendLimits(requests_per_s=1, burst=1, max_batch=1)
    assert ideal_delays_ms([(0, "x"), (100, "x"), (200, "x")], tight) == [0, 900, 800]


@pytest.mark.rule(33)
def test_a_channel_is_limit_bound_by_its_limits_alone() -> None:
    def bound(limits: SendLimits) -> bool:
        world = World(opening={"P1": 100}, limits=limits)
        for moment in range(1000, 4000, 100):
            world.sale("a", moment)
        (of_b,) = [result for result in judge(world.evidence()).channels if result.channel.name == "b"]
        assert percentile(of_b.propagation.from_sale_ms, 0.99) == 100
        return of_b.propagation.limit_bound

    assert not bound(SendLimits(10, 200, 250))
    assert bound(SendLimits(1, 1, 1))


def test_percentiles_are_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1)] == [50, 95, 99, 100]
    assert percentile([], 0.5) is None
    assert percentile([3], 0.99) == 3

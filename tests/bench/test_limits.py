"""What the limits bench compares with: a sender whom none outdoes at the same limiter, and what counts as urgent."""

import random

from hypothesis import given
from hypothesis import strategies as st

from services.console.demo.evidence import SendLimits
from services.console.demo.propagation import ideal_delays_ms
from tests.bench.limits import SLOW, Staleness, Urgency, documented, figures, kept, staleness, urgency
from tests.bench.stage import SHOPS
from tests.console.world import START_MS, World


def lazy_delays_ms(moments: list[int], limits: SendLimits, draw: random.Random) -> list[float]:
    """Another sender that keeps the limits: it takes what waits in any order, and pauses when it likes."""
    left = sorted(moments)
    tokens, refilled_ms, now_ms = limits.burst, 0.0, 0.0
    delays: list[float] = []
    while left:
        now_ms = max(now_ms, float(left[0])) + draw.choice([0, 0, 1, 300])
        tokens = min(limits.burst, tokens + (now_ms - refilled_ms) * limits.requests_per_s / 1000)
        refilled_ms = now_ms
        if tokens < 1:
            now_ms += (1 - tokens) * 1000 / limits.requests_per_s
            continue
        tokens -= 1
        moment = draw.choice([moment for moment in left if moment <= now_ms])
        left.remove(moment)
        delays.append(now_ms - moment)
    return delays


@given(
    moments=st.lists(st.integers(0, 5_000), min_size=1, max_size=25),
    rate=st.floats(0.5, 20),
    burst=st.integers(1, 8),
    draw=st.randoms(use_true_random=False),
)
def test_nobody_who_keeps_the_limits_is_quicker_than_the_ideal_sender(
    moments: list[int], rate: float, burst: int, draw: random.Random
) -> None:
    """Each change is of a record of its own and a call takes one, as at the channels whose limits bind: where a call
    takes several, one who knew what comes could wait for it.
    """
    limits = SendLimits(rate, burst, 1)
    ideal = ideal_delays_ms([(moment, f"r{place}") for place, moment in enumerate(moments)], limits)
    lazy = lazy_delays_ms(moments, limits, draw)
    assert len(ideal) == len(lazy)
    assert sum(ideal) <= sum(lazy) + 0.01 * len(moments)
    assert max(ideal) <= max(lazy) + 0.01


@given(
    changes=st.lists(st.tuples(st.integers(0, 5_000), st.sampled_from("abcdef")), max_size=40),
    rate=st.floats(0.5, 20),
    times=st.floats(1, 5),
)
def test_no_change_waits_longer_than_for_one_number_of_each_record(
    changes: list[tuple[int, str]], rate: float, times: float
) -> None:
    """Records leave in turn, so a change waits for the other five and the token; more limit makes nobody later."""
    delays = ideal_delays_ms(changes, SendLimits(rate, 1, 1))
    assert all(delay <= 6 * 1000 / rate + 1e-3 for delay in delays)
    quicker = ideal_delays_ms(changes, SendLimits(rate * times, 1, 1))
    assert all(delay <= 6 * 1000 / (rate * times) + 1e-3 for delay in quicker)


def test_what_we_keep_is_within_what_is_documented() -> None:
    for marketplace in SHOPS:
        ours, theirs = kept(marketplace), documented(marketplace)
        assert ours.requests_per_s <= theirs.requests_per_s
        assert ours.burst <= theirs.burst
        assert (ours.max_batch == 1) == (marketplace in SLOW)
    assert kept("mercadolivre") == SendLimits(4.5, 5.0, 1)


def test_a_ratio_is_told_where_the_limit_binds() -> None:
    assert Staleness("vtex", [100.0] * 9, [0.0] * 9, [0.0] * 9).ratios == {}
    bound = Staleness("vtex", [1_200.0, 2_400.0], [1_000.0, 2_000.0], [900.0, 1_800.0])
    assert bound.bound
    assert bound.ratios == dict.fromkeys(("mean", "p50", "p95", "p99"), 1.2)
    assert figures([]) == dict.fromkeys(("mean", "p50", "p95", "p99"), 0.0)


def test_staleness_is_of_the_sales_since_a_moment() -> None:
    world = World()
    for at_ms in (1_000, 20_000):
        order = world.buy("a", at_ms)
        world.report("a", order, at_ms + 40, at_ms)
        world.decide("a", order, at_ms + 50)
        world.push("b", at_ms + 90)
    found = {name.partition("/")[0]: one for name, one in staleness(world.evidence(), START_MS + 10_000).items()}
    assert [(list(one.ours), list(one.ideal)) for one in found.values() if one.ours] == [([90], [0])]


def test_an_urgent_number_has_to_be_as_low_as_what_is_left() -> None:
    world = World(opening={"P1": 5})
    world.buy("a", 1_000)
    world.push("b", 1_300, number=5)
    world.push("b", 2_500, number=4)
    world.buy("a", 6_000)
    (slow,) = [one for one in urgency(world.evidence(), ["P1"]).values() if one.from_sale_ms]
    assert (list(slow.from_sale_ms), slow.never, slow.met) == ([1_500], 1, False)
    assert Urgency("mercadolivre", [1_999.0], 0).met
    assert not Urgency("mercadolivre", [2_001.0], 0).met

"""Several shops, packs, kits, caps, restocks, cancels, late and lost news, requests executed late: at the end, right.

The world is `tests.channels.stock.world`; what decides in it is the domain that the sender uses.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.channels.v1 import QuantityTrait
from services.channels.stock import domain
from services.channels.stock.domain import Manner
from tests.channels.stock.world import Line, Listing, Shop, World

MANNERS = [
    Manner(QuantityTrait.ABSOLUTE, compares=True),
    Manner(QuantityTrait.ABSOLUTE, compares=False),
    Manner(QuantityTrait.TOTAL, compares=False),
    Manner(QuantityTrait.DELTA, compares=False),
]

shops = st.builds(
    Shop,
    manner=st.sampled_from(MANNERS[:3]),
    lag_s=st.sampled_from([0.05, 0.5, 3.0]),
    latency_s=st.sampled_from([0.01, 0.2]),
    poll_s=st.sampled_from([2.0, 8.0]),
    polled=st.booleans(),
    restores=st.booleans(),
    unknown=st.sampled_from([0.0, 0.0, 0.2]),
    lost=st.sampled_from([0.0, 0.3]),
)
# A channel that takes changes is taken to give back what is cancelled, and to know a repeated request by its key.
change_shops = st.builds(
    Shop,
    manner=st.just(MANNERS[3]),
    lag_s=st.sampled_from([0.05, 3.0]),
    poll_s=st.sampled_from([2.0, 8.0]),
    polled=st.booleans(),
    lost=st.sampled_from([0.0, 0.3]),
)
listings = st.fixed_dictionaries(
    {
        "shop": st.integers(0, 3),
        "consumes": st.sampled_from([{"a": 1}, {"a": 3}, {"b": 1}, {"a": 1, "b": 2}]),
        "buffer": st.sampled_from([0, 0, 2]),
        "cap": st.sampled_from([None, None, 4]),
    }
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("buy"), st.integers(0, 5), st.integers(1, 2)),
        st.tuples(st.just("cancel"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("receive"), st.sampled_from([0, 1]), st.integers(1, 10)),
        st.tuples(st.just("wait"), st.integers(1, 30), st.just(0)),
    ),
    max_size=60,
)


def wanted(world: World, listing: Listing) -> int:
    """What a buyer has to see once everything is known."""
    return min(
        domain.shown(world.available[sku], factor=factor, buffer=listing.buffer, cap=listing.cap)
        for sku, factor in listing.consumes.items()
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**16),
    opened=st.lists(shops | change_shops, min_size=1, max_size=4),
    put=st.lists(listings, min_size=1, max_size=6),
    done=steps,
)
@pytest.mark.rule(25)
def test_when_everything_settles_every_shop_shows_what_there_is(seed, opened, put, done) -> None:
    world = World(seed)
    world.receive("a", 20)
    world.receive("b", 12)
    for shop in opened:
        world.open(shop)
    on_sale = [world.put(opened[p["shop"] % len(opened)], p["consumes"], buffer=p["buffer"], cap=p["cap"]) for p in put]
    world.run(1.0)  # Every number has been said once before the first sale.
    lines: list[Line] = []
    for what, which, units in done:
        match what:
            case "buy":
                if line := world.buy(on_sale[which % len(on_sale)], units):
                    lines.append(line)
            case "cancel" if lines:
                world.cancel(lines[which % len(lines)])
            case "receive":
                world.receive("ab"[which], units)
            case "wait":
                world.run(world.now + which / 10)
    for shop in opened:
        shop.unknown = 0.0
    world.run(world.now + 120.0)
    assert [(listing.buyable, wanted(world, listing)) for listing in on_sale] == [
        (wanted(world, listing), wanted(world, listing)) for listing in on_sale
    ]


def settled(world: World) -> None:
    world.run(world.now + 60.0)


@pytest.mark.parametrize("manner", MANNERS, ids=["compare", "blind", "total", "delta"])
@pytest.mark.rule(25)
def test_a_quiet_shop_follows(manner: Manner) -> None:
    world = World(1)
    world.receive("a", 20)
    seller = world.put(world.open(Shop(MANNERS[0])), {"a": 1})
    follower = world.put(world.open(Shop(manner)), {"a": 1})
    settled(world)
    for _ in range(5):
        world.buy(seller)
    settled(world)
    assert (seller.buyable, follower.buyable) == (15, 15)


def test_a_cancel_and_a_restock_come_back_everywhere() -> None:
    world = World(2)
    world.receive("a", 5)
    first, second = (world.put(world.open(Shop(manner)), {"a": 1}) for manner in MANNERS[:2])
    settled(world)
    line = world.buy(first, 2)
    assert line
    settled(world)
    world.cancel(line)
    world.receive("a", 4)
    settled(world)
    assert (first.buyable, second.buyable) == (9, 9)


SEEDS = range(40)


def run(seed: int, *, rule: bool) -> World:
    """100 units, 4 channels, one sale a second each; three push their sales, one is polled every 15 s."""
    world = World(seed, rule=rule)
    world.receive("a", 100)

    def buyer(listing: Listing) -> None:
        world.buy(listing)
        world.at(world.random.expovariate(1.0), lambda: buyer(listing))

    for manner, polled in [(MANNERS[0], False)] * 3 + [(MANNERS[1], True)]:
        listing = world.put(world.open(Shop(manner, polled=polled, poll_s=15.0 if polled else 60.0)), {"a": 1})
        world.at(world.random.expovariate(1.0), lambda listing=listing: buyer(listing))
    world.run(90.0)
    return world


@pytest.mark.rule(25)
def test_with_the_rule_at_most_a_quarter_comes_back_on_sale() -> None:
    without, ruled = ([run(seed, rule=rule) for seed in SEEDS] for rule in (False, True))
    assert sum(world.resurrected for world in without) > 0
    assert sum(world.resurrected for world in ruled) <= sum(world.resurrected for world in without) / 4
    assert sum(world.oversold() for world in ruled) < sum(world.oversold() for world in without) / 2

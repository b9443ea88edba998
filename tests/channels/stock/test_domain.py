"""Each rule of the number to send, alone."""

import pytest

from contracts.channels.v1 import QuantityTrait
from services.channels.stock import domain
from services.channels.stock.domain import Baseline, Finding, Manner, Observed, Part, Record, Step, Tally

COMPARES = Manner(QuantityTrait.ABSOLUTE, compares=True)
BLIND = Manner(QuantityTrait.ABSOLUTE, compares=False)
TOTAL = Manner(QuantityTrait.TOTAL, compares=False)
DELTA = Manner(QuantityTrait.DELTA, compares=False)


def record(part: Part, known: Baseline | None = None, *attempts: Baseline, **more: object) -> Record:
    return Record("r", "i", "l", (part,), known, attempts, **more)  # type: ignore[arg-type]


def at(number: int, **tally: int) -> Baseline:
    return Baseline(number, {"a": Tally(**tally)})


@pytest.mark.parametrize(
    ("available", "factor", "buffer", "cap", "number"),
    [
        (10, 1, 0, None, 10),
        (10, 3, 0, None, 3),
        (10, 3, 2, None, 2),
        (1, 1, 2, None, 0),
        (10, 1, 0, 4, 4),
        (-3, 2, 0, 4, 0),
    ],
)
def test_shown(available, factor, buffer, cap, number) -> None:
    assert domain.shown(available, factor=factor, buffer=buffer, cap=cap) == number


@pytest.mark.rule(20)
def test_a_kit_shows_its_scarcest_component() -> None:
    parts = (Part("a", 2, 20), Part("b", 1, 7))
    assert domain.plan(Record("r", "i", "l", parts), BLIND).number == 7


@pytest.mark.rule(25)
def test_a_read_below_the_last_number_is_an_unheard_sale() -> None:
    plan = domain.plan(record(Part("a", 1, 10), at(10)), COMPARES, Observed(7, {"a": Tally()}))
    assert (plan.step, plan.number) == (Step.NOTHING, 7)
    plan = domain.plan(record(Part("a", 1, 20), at(10)), COMPARES, Observed(7, {"a": Tally()}))
    assert (plan.step, plan.number, plan.expected) == (Step.WRITE, 17, 7)
    assert plan.after == at(17, unheard=3)


@pytest.mark.rule(25)
def test_what_was_decided_since_is_not_unheard() -> None:
    seen = Observed(7, {"a": Tally(decided=2, heard=2)})
    assert domain.unheard_now(record(Part("a", 1, 10, decided=2, heard=2), at(10)), seen) == {"a": 1}


def test_units_of_a_pack_are_unheard_in_units_of_the_sku() -> None:
    assert domain.unheard_now(record(Part("a", 6, 60), at(10)), Observed(9, {"a": Tally()})) == {"a": 6}


@pytest.mark.rule(25)
def test_other_records_unheard_sales_are_taken_off() -> None:
    assert domain.plan(record(Part("a", 1, 10, elsewhere=4)), BLIND).number == 6


def test_a_comparing_channel_is_written_with_the_number_it_should_show() -> None:
    plan = domain.plan(record(Part("a", 1, 4, decided=2, heard=3, pending=1), at(10)), COMPARES)
    assert (plan.number, plan.expected) == (3, 7)


def test_an_own_sale_alone_needs_no_write_where_the_channel_compares() -> None:
    own = record(Part("a", 1, 9, decided=1, heard=1), at(10))
    assert domain.plan(own, COMPARES).step is Step.NOTHING
    assert domain.plan(own, BLIND).step is Step.WRITE, "the sale may have come before the write landed"


def test_only_a_read_tells_whether_what_was_heard_had_been_seen() -> None:
    own = record(Part("a", 1, 9, decided=1, heard=1), at(9, unheard=1))
    assert domain.plan(own, COMPARES).step is Step.READ


def test_a_blind_write_leaves_out_own_orders_taken_in_and_not_decided() -> None:
    plan = domain.plan(record(Part("a", 1, 50, heard=2, pending=2)), BLIND)
    assert (plan.step, plan.number, plan.after) == (Step.WRITE, 48, at(48, unheard=2, heard=2, pending=2))


def test_a_blind_channel_is_read_first_when_little_is_left_or_much_is_likely_unheard() -> None:
    assert domain.plan(record(Part("a", 1, 4), at(10)), BLIND).step is Step.READ
    assert domain.plan(record(Part("a", 1, 90), at(99), risk=1.0), BLIND).step is Step.READ
    assert domain.plan(record(Part("a", 1, 90), at(99)), BLIND).step is Step.WRITE


@pytest.mark.rule(25)
def test_after_an_unknown_outcome_the_larger_part_counts() -> None:
    own = record(Part("a", 1, 10), at(20), at(10))
    assert domain.unheard_now(own, Observed(10, {"a": Tally()})) == {"a": 10}
    assert domain.unheard_bounds(own.baselines, "a") == (0, 0)


def test_a_cancel_that_the_channel_put_back_first_is_no_unheard_sale_later() -> None:
    taken_in = record(Part("a", 1, 8, decided=2, heard=0), at(8, decided=2, heard=2))
    plan = domain.plan(taken_in, COMPARES, Observed(10, {"a": Tally(decided=2)}))
    assert plan.after == at(8, unheard=-2, decided=2)
    given_back = record(Part("a", 1, 10, decided=0, heard=0), plan.after)
    assert domain.plan(given_back, COMPARES).number == 10


def test_a_cancel_never_raises_the_estimate_for_others() -> None:
    assert domain.still_unheard((at(10, unheard=1, decided=5),), "a", 3) == 1
    assert domain.still_unheard((at(10, unheard=1, decided=5),), "a", 6) == 0


@pytest.mark.rule(25)
def test_a_total_contains_what_the_channel_reserves_itself() -> None:
    assert domain.plan(record(Part("a", 2, 10, decided=4, heard=4, held=4)), TOTAL).quantity == 7


@pytest.mark.rule(25)
def test_a_change_is_the_difference_of_what_was_given() -> None:
    plan = domain.plan(record(Part("a", 1, 12, decided=5, heard=5), at(10)), DELTA)
    assert (plan.number, plan.quantity, plan.after and plan.after.number) == (12, 7, 17)
    assert domain.plan(record(Part("a", 1, 5, decided=5, heard=5), at(10)), DELTA).step is Step.NOTHING
    assert domain.plan(record(Part("a", 1, 5), at(10), at(12)), DELTA).step is Step.WAIT


@pytest.mark.rule(25)
def test_healing_waits_for_every_own_order_and_for_a_read_where_one_is_due() -> None:
    assert domain.heal(record(Part("a", 1, 10, heard=1, pending=1), at(8, unheard=2))) is None
    assert domain.heal(record(Part("a", 1, 10, heard=1, decided=1), at(8, unheard=2))) is None
    assert domain.heal(record(Part("a", 1, 10), at(8, unheard=2))) == (at(8), 2)
    assert domain.heal(record(Part("a", 1, 10), at(8))) is None


@pytest.mark.parametrize(("number", "finding"), [(9, Finding.AS_EXPECTED), (8, Finding.BELOW), (12, Finding.ABOVE)])
def test_reading_back(number, finding) -> None:
    own = record(Part("a", 1, 9, decided=1, heard=1), at(10))
    seen = Observed(number, {"a": Tally(decided=1, heard=1)})
    assert domain.read_back(own, COMPARES, seen)[0] is finding


@pytest.mark.rule(29)
def test_a_braked_record_shows_what_was_approved_less_what_was_sold_and_never_more_than_there_is() -> None:
    approved = Baseline(50, {"a": Tally(sold=10)})
    own = record(Part("a", 1, 900, sold=13), at(50), approved=approved, other_change=True)
    assert domain.plan(own, BLIND, brake=True).number == 47
    scarce = record(Part("a", 1, 30, sold=13), at(50), approved=approved, other_change=True)
    assert domain.plan(scarce, BLIND, brake=True).number == 30
    by_sales = record(Part("a", 1, 30, sold=13), at(50), approved=approved)
    assert not domain.plan(by_sales, BLIND, brake=True).braked


@pytest.mark.rule(29)
def test_the_brake_counts_shares_of_enough_records() -> None:
    assert domain.brake_trips(changed=60, zeroed=0, records=100, share_max=0.5)
    assert not domain.brake_trips(changed=50, zeroed=0, records=100, share_max=0.5)
    assert not domain.brake_trips(changed=3, zeroed=3, records=3, share_max=0.5)


def test_a_cancel_put_back_before_our_write_is_not_waited_for() -> None:
    # 119 shown, 3 own sales heard; a cancel is put back (119 again) and not heard of yet when 117 is written over it.
    before = Baseline(119, {"a": Tally(decided=2, heard=2)})
    seen = Observed(119, {"a": Tally(decided=3, heard=3)})
    plan = domain.plan(record(Part("a", 1, 117, decided=3, heard=3), before), COMPARES, seen)
    assert (plan.step, plan.number, plan.expected) == (Step.WRITE, 117, 119)
    assert plan.after is not None
    # Now the cancel is heard of and decided: the channel will not rise by it any more, so it has to be looked at.
    later = domain.plan(record(Part("a", 1, 118, decided=2, heard=2), plan.after), COMPARES)
    assert later.step is Step.READ
    # The missing unit is held to be an unheard sale until a complete poll of the orders says that there is none.
    looked = domain.plan(
        record(Part("a", 1, 118, decided=2, heard=2), plan.after),
        COMPARES,
        Observed(117, {"a": Tally(decided=2, heard=2)}),
    )
    assert (looked.step, looked.number) == (Step.NOTHING, 117)
    assert looked.after is not None
    healed = domain.heal(record(Part("a", 1, 118, decided=2, heard=2), looked.after))
    assert healed is not None
    assert domain.plan(record(Part("a", 1, 118, decided=2, heard=2), healed[0]), COMPARES).quantity == 118

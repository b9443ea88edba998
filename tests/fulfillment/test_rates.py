"""Own rates: ranges, weight steps, size as weight."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fulfillment.rates import Rate, chargeable_g, cubic_weight_g, postcode, rate

SMALL = (100, 100, 10)


def row(
    from_code: str = "01000000",
    to_code: str = "19999999",
    up_to_g: int = 1000,
    price_minor: int = 1500,
    *,
    carrier: str = "own",
    service: str = "van",
    days_max: int = 3,
) -> Rate:
    return Rate(carrier, service, from_code, to_code, up_to_g, price_minor, "BRL", 1, days_max)


@st.composite
def tables(draw: st.DrawFn) -> list[Rate]:
    """A service whose price never falls with the weight, over ranges that do not overlap, in any order."""
    rows = []
    for region in draw(st.sets(st.integers(0, 9), min_size=1)):
        steps = sorted(draw(st.sets(st.integers(1, 50_000), min_size=1, max_size=6)))
        prices = sorted(draw(st.lists(st.integers(0, 100_000), min_size=len(steps), max_size=len(steps))))
        for up_to_g, price in zip(steps, prices, strict=True):
            rows.append(row(f"{region}0000000", f"{region}9999999", up_to_g, price))
    return draw(st.permutations(rows))


codes = st.from_regex(r"[0-9]{5}-[0-9]{3}", fullmatch=True)
sides = st.integers(1, 1500)


@given(tables(), codes, st.integers(0, 40_000), st.integers(0, 40_000))
def test_a_heavier_parcel_never_costs_less_and_one_too_heavy_gets_no_quote(
    table: list[Rate], code: str, weight_g: int, more_g: int
) -> None:
    light, heavy = (rate(table, code, grams, SMALL) for grams in (weight_g, weight_g + more_g))
    assert len(heavy) <= len(light) <= 1
    if heavy:
        assert light[0].price_minor <= heavy[0].price_minor
    reach = max((one.up_to_g for one in table if one.from_code[0] == code[0]), default=-1)
    assert bool(light) == (max(weight_g, 17) <= reach)


@given(tables(), codes, st.integers(1, 40_000), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(table: list[Rate], code: str, weight_g: int, chance: object) -> None:
    assert rate(sorted(table, key=repr), code, weight_g, SMALL) == rate(table, code, weight_g, SMALL)


@given(sides, sides, sides, st.integers(0, 50_000))
def test_size_counts_as_six_litres_a_kilogram_whichever_way_the_parcel_lies(
    length: int, width: int, height: int, weight_g: int
) -> None:
    cubic_g = cubic_weight_g((length, width, height))
    assert (cubic_g - 1) * 6000 < length * width * height <= cubic_g * 6000
    assert cubic_g == cubic_weight_g((height, length, width))
    assert chargeable_g(weight_g, (length, width, height)) == max(weight_g, cubic_g)


def test_a_cube_of_sixty_centimetres_counts_for_thirty_six_kilograms() -> None:
    assert cubic_weight_g((600, 600, 600)) == 36_000
    assert cubic_weight_g((600, 600, 600), cubic_divisor=4000) == 54_000


@pytest.mark.parametrize(("code", "served"), [("00999999", False), ("01000-000", True), ("19.999-999", True)])
def test_both_ends_of_a_range_are_in_it(code: str, served: bool) -> None:
    assert bool(rate([row()], code, 500, SMALL)) == served


def test_the_last_gram_of_a_step_is_in_it() -> None:
    table = [row(up_to_g=1000, price_minor=1500), row(up_to_g=5000, price_minor=2500)]
    prices = [rate(table, "01001000", grams, SMALL)[0].price_minor for grams in (1000, 1001, 5000)]
    assert prices == [1500, 2500, 2500]
    assert rate(table, "01001000", 5001, SMALL) == []


def test_an_exception_for_a_town_goes_before_its_state() -> None:
    table = [row(price_minor=1500), row("01001000", "01001999", price_minor=900)]
    assert [one.price_minor for one in rate(table, "01001-500", 500, SMALL)] == [900]
    assert [one.price_minor for one in rate(table, "01002-000", 500, SMALL)] == [1500]


def test_each_service_answers_once_the_cheapest_first() -> None:
    table = [row(service="van", price_minor=2000), row(service="bike", price_minor=900, days_max=1)]
    table.append(row(carrier="other", service="van", price_minor=900, days_max=5))
    found = [(one.carrier, one.service) for one in rate(table, "01001000", 500, SMALL)]
    assert found == [("own", "bike"), ("other", "van"), ("own", "van")]


@pytest.mark.parametrize("given_code", ["", "0100100", "010010000", "01001-00x", "０１００１０００"])
def test_what_is_no_postcode_is_refused(given_code: str) -> None:
    with pytest.raises(ValueError, match="eight digits"):
        postcode(given_code)

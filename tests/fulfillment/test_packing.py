"""Weights, kits and boxes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fulfillment.packing import Box, Dimensions, Item, contents, pack

SHELF = (
    Box("small", (200, 150, 100), weight_g=80),
    Box("medium", (300, 300, 200), weight_g=200),
    Box("large", (600, 400, 400), weight_g=500, carries_g=20_000),
)
dimensions = st.tuples(*[st.integers(1, 700)] * 3)
items = st.builds(Item, st.one_of(st.none(), st.integers(0, 5000)), st.one_of(st.none(), dimensions))
catalogues = st.dictionaries(st.sampled_from("abcdef"), items)
orders = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 20), min_size=1)


def volume(one: Dimensions) -> int:
    return one[0] * one[1] * one[2]


@given(orders, catalogues, st.permutations(SHELF))
def test_a_parcel_holds_what_it_must_and_weighs_it(
    lines: dict[str, int], catalogue: dict[str, Item], boxes: list[Box]
) -> None:
    packed = pack(lines, catalogue, boxes)
    known = {sku: catalogue.get(sku, Item()) for sku in lines}
    sizes = {sku: one.dimensions_mm or (160, 110, 20) for sku, one in known.items()}
    weights = {sku: 300 if one.weight_g is None else one.weight_g for sku, one in known.items()}
    weight_g = sum(units * weights[sku] for sku, units in lines.items())
    box = next((one for one in SHELF if one.code == packed.box), None)
    assert packed.weight_g == weight_g + (box.weight_g if box else 0)
    assert volume(packed.dimensions_mm) >= sum(volume(sizes[sku]) * units for sku, units in lines.items())
    for size in sizes.values():
        assert all(side <= room for side, room in zip(sorted(size), sorted(packed.dimensions_mm), strict=True))
    assert list(packed.dimensions_mm) == sorted(packed.dimensions_mm, reverse=True)
    assert packed == pack(lines, catalogue, SHELF)


@given(orders, catalogues, st.sampled_from(SHELF))
def test_another_box_on_the_shelf_never_makes_the_parcel_larger(
    lines: dict[str, int], catalogue: dict[str, Item], missing: Box
) -> None:
    fewer = pack(lines, catalogue, [one for one in SHELF if one != missing])
    every = pack(lines, catalogue, SHELF)
    if fewer.box:
        assert volume(every.dimensions_mm) <= volume(fewer.dimensions_mm)


@given(dimensions, st.permutations(range(3)))
def test_a_thing_fits_whichever_way_it_is_measured(size: Dimensions, turn: list[int]) -> None:
    turned = (size[turn[0]], size[turn[1]], size[turn[2]])
    assert pack({"a": 1}, {"a": Item(1, size)}, SHELF) == pack({"a": 1}, {"a": Item(1, turned)}, SHELF)


def test_the_smallest_fitting_box_is_taken() -> None:
    catalogue = {"a": Item(500, (200, 150, 100)), "b": Item(500, (100, 100, 100)), "pole": Item(500, (1200, 40, 40))}
    assert pack({"a": 1}, catalogue, SHELF).box == "small"
    assert pack({"b": 3}, catalogue, SHELF).box == "medium"
    assert pack({"b": 50}, catalogue, SHELF).box == ""
    assert pack({"pole": 2}, catalogue, SHELF).dimensions_mm == (1200, 80, 40)


def test_a_box_carries_only_so_much() -> None:
    assert pack({"a": 1}, {"a": Item(31_000, (10, 10, 10))}, SHELF).box == ""
    assert pack({"a": 1}, {"a": Item(25_000, (500, 300, 300))}, SHELF).box == ""


def test_kits_weigh_what_is_in_them() -> None:
    catalogue = {"kit": Item(9999, None, {"a": 2, "b": 1}), "a": Item(100, (50, 50, 50))}
    assert contents({"kit": 3, "a": 1}, catalogue) == {"a": 7, "b": 3}
    assert pack({"kit": 3, "a": 1}, catalogue, ()).weight_g == 7 * 100 + 3 * 300


@pytest.mark.parametrize("lines", [{}, {"a": 0}])
def test_nothing_cannot_be_packed(lines: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="nothing to pack"):
        pack(lines, {}, SHELF)

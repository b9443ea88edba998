"""What a carrier asks for a parcel, and how a parcel travels: pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sandbox.carrier_parcels import ENDS, STATUS_OF, chargeable_g, price_minor, travel
from services.sandbox.carrier_settings import SERVICES, CarrierSettings

PAC = SERVICES[0]


@given(days=st.floats(0.1, 60), fate=st.sampled_from(["delivered", "returned", "lost"]), goes_back=st.booleans())
def test_every_journey_starts_accepted_reaches_its_end_and_never_turns_back_in_time(
    days: float, fate: str, goes_back: bool
) -> None:
    stops = travel(days, fate, goes_back=goes_back)  # type: ignore[arg-type]
    assert (stops[0].day, stops[0].status) == (0.0, "accepted")
    assert [stop.day for stop in stops] == sorted(stop.day for stop in stops)
    assert {stop.status for stop in stops} & ENDS == {fate}
    assert {stop.status for stop in stops} <= set(STATUS_OF)


def test_a_journey_that_goes_back_tells_an_older_status_after_delivery() -> None:
    statuses = [stop.status for stop in travel(5, "delivered", goes_back=True)]
    assert statuses == ["accepted", "in_transit", "out_for_delivery", "in_transit", "delivered", "out_for_delivery"]


def test_size_counts_where_it_is_more_than_weight() -> None:
    heavy = {"height": 10.0, "width": 10.0, "length": 10.0, "weight": 2.5}
    large = {"height": 60.0, "width": 50.0, "length": 40.0, "weight": 2.5}
    assert chargeable_g([heavy], 6000) == 2500
    assert chargeable_g([large], 6000) == 20_000
    assert chargeable_g([heavy, large], 6000) == 22_500


@given(weight_g=st.integers(1, 29_000), more_g=st.integers(0, 1000), to_code=st.from_regex(r"[0-9]{8}", fullmatch=True))
def test_a_heavier_parcel_never_costs_less(weight_g: int, more_g: int, to_code: str) -> None:
    light = price_minor(PAC, weight_g, "01001000", to_code)
    assert 0 < light <= price_minor(PAC, weight_g + more_g, "01001000", to_code)


@pytest.mark.parametrize(("speed", "day_ms"), [(1.0, 86_400_000), (86_400, 1000)])
def test_a_day_can_be_a_second(speed: float, day_ms: float) -> None:
    assert CarrierSettings(speed=speed).day_ms == day_ms

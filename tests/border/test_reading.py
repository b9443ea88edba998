"""Fields of foreign JSON."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.border.reading import minor, read_json, version_of


def test_versions_sort_as_the_moments_do_from_the_first_year_on() -> None:
    moments = [datetime(year, 3, 1, tzinfo=UTC) for year in (1, 99, 999, 2026)]
    assert (versions := [version_of(moment) for moment in moments]) == sorted(versions)
    assert versions[-1] == "2026-03-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("text", "currency", "found"),
    [("50.00", "BRL", 5000), ("50.000", "BRL", 5000), ("5e1", "JPY", 50), ("-1", "TND", -1000)],
)
def test_exact_money_has_the_decimals_of_its_currency(text: str, currency: str, found: int) -> None:
    assert minor(text, currency, "sum", exact=True) == minor(text, currency, "sum") == found


@pytest.mark.parametrize(
    ("text", "currency"),
    [("50.004", "BRL"), ("50.005", "BRL"), ("50.5", "JPY"), (f"50.{'0' * 40}1", "BRL"), ("1e-9", "BRL")],
)
def test_more_decimals_are_refused_where_money_is_to_be_exact(text: str, currency: str) -> None:
    assert minor(text, currency, "sum") in {5000, 50, 0}
    with pytest.raises(ValueError, match=f"decimals of {currency}"):
        minor(text, currency, "sum", exact=True)


WORDS = ["1e9999999999999999999", "NaN", "9" * 5000, '"\\ud800"', "1e-9", "hush", "-", "1"]


@given(
    st.recursive(
        st.sampled_from(WORDS),
        lambda inner: st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]"),
    )
)
@example("1e9999999999999999999")
@example("[" * 100_000)
def test_whatever_comes_is_read_or_refused_without_being_repeated(body: str) -> None:
    refused = ""
    try:
        read_json(body.encode())
    except ValueError as error:
        refused = str(error)
    assert "hush" not in refused

"""Tracking codes of the Universal Postal Union's standard S10."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fulfillment.tracking import SERIALS, check_digit, is_tracking_code, tracking_code

serials = st.integers(0, SERIALS - 1)


@pytest.mark.parametrize(("serial", "digit"), [(47312482, 9), (12345678, 5), (0, 5), (1, 4), (9, 3)])
def test_check_digits(serial: int, digit: int) -> None:
    assert check_digit(serial) == digit


def test_ten_is_written_as_nought() -> None:
    # 8·1 + 4·1 = 12, which leaves 1 of 11, so the digit would be 10.
    assert check_digit(10100000) == 0


@given(serials, st.integers(1, 9))
def test_a_code_is_one_and_with_another_check_digit_is_none(serial: int, more: int) -> None:
    code = tracking_code(serial)
    assert is_tracking_code(code)
    wrong = (int(code[10]) + more) % 10
    assert not is_tracking_code(f"{code[:10]}{wrong}{code[11:]}")


@given(st.sets(serials, max_size=50))
def test_no_two_serials_share_a_code(some: set[int]) -> None:
    assert len({tracking_code(serial) for serial in some}) == len(some)


@pytest.mark.parametrize("code", ["", "SD123456785B", "sd123456785br", "SD12345678 BR", "SD１２３４５６７８5BR"])
def test_what_is_not_of_the_form_is_none(code: str) -> None:
    assert not is_tracking_code(code)


@pytest.mark.parametrize("serial", [-1, SERIALS])
def test_more_serials_than_there_are_is_an_error(serial: int) -> None:
    with pytest.raises(ValueError, match="two letters"):
        tracking_code(serial)

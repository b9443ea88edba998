"""Tracking codes as the Universal Postal Union writes them (UPU S10-12): two letters, nine digits, the country."""

import re
from typing import Final

SERIALS: Final = 10**8
_WEIGHTS: Final = (8, 6, 4, 2, 3, 5, 9, 7)
_FORM: Final = re.compile(r"([A-Z]{2})([0-9]{8})([0-9])([A-Z]{2})")


def check_digit(serial: int) -> int:
    """The ninth digit for a serial of up to eight: a weighted sum modulo 11, with 0 for 10 and 5 for 11."""
    total = sum(int(digit) * weight for digit, weight in zip(f"{serial:08d}", _WEIGHTS, strict=True))
    return {10: 0, 11: 5}.get(11 - total % 11, 11 - total % 11)


def tracking_code(serial: int, *, service: str = "SD", country: str = "BR") -> str:
    """`SD123456785BR` for the serial 12345678. Raises ValueError for a serial of more than eight digits."""
    if not 0 <= serial < SERIALS:
        raise ValueError(f"a serial lies between 0 and {SERIALS - 1}: draw another two letters for more parcels")
    return f"{service}{serial:08d}{check_digit(serial)}{country}"


def is_tracking_code(code: str) -> bool:
    """Whether the code has the form and the check digit of the standard."""
    found = _FORM.fullmatch(code)
    return found is not None and check_digit(int(found[2])) == int(found[3])

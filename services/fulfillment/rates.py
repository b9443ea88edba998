"""The retailer's own rates: a price by postcode range and weight. Pure.

A parcel is charged by its weight or by its size, whichever is more. Size becomes weight as Brazilian carriers count it
(Correios, "peso cúbico"): cubic centimetres divided by 6,000 are kilograms.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

CUBIC_DIVISOR: Final = 6000
_SEPARATORS: Final = re.compile(r"[\s.-]")


@dataclass(frozen=True, slots=True)
class Rate:
    """One row: postcodes `from_code`..`to_code` (eight digits, both included), up to `up_to_g` grams."""

    carrier: str
    service: str
    from_code: str
    to_code: str
    up_to_g: int
    price_minor: int
    currency: str
    days_min: int
    days_max: int


@dataclass(frozen=True, slots=True)
class Quote:
    """What a service asks for a parcel, and within how many working days it promises to deliver. `option` is the
    service's own id at a carrier outside."""

    carrier: str
    service: str
    price_minor: int
    currency: str
    days_min: int
    days_max: int
    option: str = ""


def postcode(given: str) -> str:
    """A Brazilian postcode as eight digits, from `01001-000`, `01.001-000` or `01001000`. Raises ValueError."""
    digits = _SEPARATORS.sub("", given)
    if len(digits) != 8 or not (digits.isascii() and digits.isdecimal()):
        raise ValueError("a postcode has eight digits, as in 01001-000")
    return digits


def cubic_weight_g(dimensions_mm: tuple[int, int, int], *, cubic_divisor: int = CUBIC_DIVISOR) -> int:
    """Grams that a parcel of this size counts for; `cubic_divisor` is in cubic centimetres a kilogram."""
    length, width, height = dimensions_mm
    # Cubic millimetres divided by the divisor are grams: the two thousands of mm³ a cm³ and g a kg cancel out.
    return -(-length * width * height // cubic_divisor)


def chargeable_g(weight_g: int, dimensions_mm: tuple[int, int, int], *, cubic_divisor: int = CUBIC_DIVISOR) -> int:
    """Grams that are paid for: the weight or the size, whichever is more."""
    return max(weight_g, cubic_weight_g(dimensions_mm, cubic_divisor=cubic_divisor))


def rate(
    rates: Iterable[Rate],
    postal_code: str,
    weight_g: int,
    dimensions_mm: tuple[int, int, int],
    *,
    cubic_divisor: int = CUBIC_DIVISOR,
) -> list[Quote]:
    """One quote for each carrier and service that takes the parcel there, the cheapest first.

    Of the ranges of a service that hold the postcode the narrowest decides, so that an exception for one town goes
    before its state; within it the lowest weight step that the parcel fits. A parcel above the last step gets no quote.
    Raises ValueError for a postcode that is none.
    """
    code = postcode(postal_code)
    charged_g = chargeable_g(weight_g, dimensions_mm, cubic_divisor=cubic_divisor)
    services: dict[tuple[str, str], list[Rate]] = {}
    for row in rates:
        if row.from_code <= code <= row.to_code:
            services.setdefault((row.carrier, row.service), []).append(row)
    quotes = []
    for rows in services.values():
        narrowest = min(map(_range, rows))
        fitting = [row for row in rows if _range(row) == narrowest and charged_g <= row.up_to_g]
        if fitting:
            row = min(fitting, key=lambda one: one.up_to_g)
            quote = Quote(row.carrier, row.service, row.price_minor, row.currency, row.days_min, row.days_max)
            quotes.append(quote)
    return sorted(quotes, key=lambda one: (one.price_minor, one.days_max, one.carrier, one.service))


def _range(row: Rate) -> tuple[int, str]:
    """How wide the row's range is, then where it starts, so that two of one width are told apart."""
    return int(row.to_code) - int(row.from_code), row.from_code

"""Fields of JSON that others wrote, read by name: each is what it should be, or a `ValueError` names it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

# ISO 4217: every currency whose minor unit is not a hundredth.
_EXPONENTS: Final = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI"), 0),
    **dict.fromkeys(("VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
_COUNT_MAX: Final = 10**9
_MINOR_DIGITS: Final = 15
"""What the tables and every reader of JSON can hold. Beyond that a few bytes such as 1e900000 take half a minute to
become an integer, in which nothing else is done."""


def read_json(body: bytes) -> Any:
    """Parse JSON with exact decimals. Raises `ValueError` without repeating the body."""
    try:
        return json.loads(body, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise ValueError(f"the body is no JSON: {error.msg} at byte {error.pos}") from None
    except (UnicodeDecodeError, RecursionError):
        raise ValueError("the body is no JSON in UTF-8") from None
    except ArithmeticError:
        raise ValueError("the body holds a number beyond any measure") from None


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    """`value` if it is an object. Raises `ValueError` naming it."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no object")
    return value


def objects(value: Any, name: str) -> list[Mapping[str, Any]]:
    """`value` if it is a list of objects, nothing if it is null."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{name} is no list of objects")
    return value


def text(value: Any) -> str:
    """Text or number as text; nothing for null and anything else."""
    return str(value) if isinstance(value, str | int | Decimal) and not isinstance(value, bool) else ""


def identifier(value: Any, name: str) -> str:
    """An id as text. Raises `ValueError` naming it where there is none, or one that no table or address can hold."""
    if not (found := text(value).strip()):
        raise ValueError(f"{name} is missing")
    if not found.isprintable():
        raise ValueError(f"{name} is no id")
    return found


def count(value: Any, name: str) -> int:
    """A whole number from 0 to a billion. Raises `ValueError` naming it."""
    if isinstance(value, Decimal) and value.adjusted() <= _MINOR_DIGITS and value == value.to_integral_value():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _COUNT_MAX:
        raise ValueError(f"{name} is no whole number from 0 to {_COUNT_MAX}")
    return value


def minor(value: Any, currency: str, name: str, *, exact: bool = False) -> int:
    """Money as text or number in major units → integer minor units of `currency`; null is 0.

    More decimals than the currency has are rounded, half to even; `exact` refuses them. Raises `ValueError` naming it.
    """
    if value is None:
        return 0
    try:
        given = Decimal(text(value))
        exponent = _EXPONENTS.get(currency, 2)
        if given and given.adjusted() + exponent >= _MINOR_DIGITS:
            raise ValueError
        found = int(given.scaleb(exponent).to_integral_value(ROUND_HALF_EVEN))
    except (ArithmeticError, ValueError):
        raise ValueError(f"{name} is no amount of money") from None
    # Compared with what was given, because scaling has rounded a number of more than 28 digits already.
    if exact and Decimal(found).scaleb(-exponent) != given:
        raise ValueError(f"{name} has more than the {exponent} decimals of {currency}")
    return found


def major(amount_minor: int, currency: str) -> Decimal:
    """Minor units of `currency` → exact major units, with all its decimals."""
    return Decimal(amount_minor).scaleb(-_EXPONENTS.get(currency, 2))


def moment(value: Any, name: str) -> datetime:
    """An ISO 8601 moment with an offset → UTC. Raises `ValueError` naming it."""
    try:
        parsed = datetime.fromisoformat(text(value))
        moved = parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} is no ISO 8601 moment") from None
    if parsed.tzinfo is None:
        raise ValueError(f"{name} has no offset from UTC")
    return moved


def version_of(value: datetime) -> str:
    """A moment as text that sorts as the moments do."""
    return value.isoformat(timespec="microseconds").replace("+00:00", "Z")

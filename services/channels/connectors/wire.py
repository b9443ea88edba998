"""What connectors share at the border: calls with the channel's errors told apart, and reading of JSON by name."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

import httpx

from services.channels.connectors.connector import OutcomeUnknown, Rejected, Session, Throttled, Unreachable

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

_RETRY_READ_S: Final = 2.0
_RETRY_DEFAULT_S: Final = 1.0


async def send(
    session: Session,
    endpoint: str,
    request: httpx.Request,
    *,
    cost: float = 1.0,
    writes: bool = False,
    answers: tuple[int, ...] = (),
) -> httpx.Response:
    """Send at the endpoint's pace and return a 2xx answer, or one of the statuses in `answers`.

    Raises `Throttled` (429), `Rejected` (any other 4xx or a redirect), `Unreachable` (nothing was done: no connection,
    or no usable answer to what only reads), `OutcomeUnknown` (no usable answer to what `writes`).
    """
    await session.limiter.acquire(endpoint, cost)
    try:
        response = await session.http.send(request)
    except httpx.ConnectError:
        raise Unreachable(_RETRY_DEFAULT_S) from None
    except httpx.HTTPError as error:
        if writes:
            raise OutcomeUnknown(f"{endpoint}: {type(error).__name__} after the request was sent") from None
        raise Unreachable(_RETRY_READ_S) from None
    status = response.status_code
    if status < 300 or status in answers:
        return response
    if status == 429:
        retry_after_s = _retry_after_s(response)
        session.limiter.throttled(endpoint, retry_after_s)
        raise Throttled(retry_after_s)
    if status >= 500:
        if writes:
            raise OutcomeUnknown(f"{endpoint}: answered {status} after the request was sent")
        raise Unreachable(_RETRY_READ_S)
    if status in (401, 403):
        raise Rejected(f"{endpoint}: answered {status}: check the credentials and their permissions at the channel")
    # The answer's text may repeat what was sent or hold a buyer's data, so only its status is told.
    raise Rejected(f"{endpoint}: answered {status} to {request.method} {request.url.path}")


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return max(0.05, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return _RETRY_DEFAULT_S


def read_json(body: bytes) -> Any:
    """Parse JSON with exact decimals. Raises `ValueError` without repeating the body."""
    try:
        return json.loads(body, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise ValueError(f"the body is no JSON: {error.msg} at byte {error.pos}") from None
    except (UnicodeDecodeError, RecursionError):
        raise ValueError("the body is no JSON in UTF-8") from None


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
    """An id as text. Raises `ValueError` naming it where there is none."""
    if not (found := text(value).strip()):
        raise ValueError(f"{name} is missing")
    return found


def count(value: Any, name: str) -> int:
    """A whole number from 0 to a billion. Raises `ValueError` naming it."""
    if isinstance(value, Decimal) and value.adjusted() <= _MINOR_DIGITS and value == value.to_integral_value():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _COUNT_MAX:
        raise ValueError(f"{name} is no whole number from 0 to {_COUNT_MAX}")
    return value


def minor(value: Any, currency: str, name: str) -> int:
    """Money as text or number in major units → integer minor units of `currency`; null is 0."""
    if value is None:
        return 0
    try:
        given = Decimal(text(value))
        exponent = _EXPONENTS.get(currency, 2)
        if given and given.adjusted() + exponent >= _MINOR_DIGITS:
            raise ValueError
        return int(given.scaleb(exponent).to_integral_value(ROUND_HALF_EVEN))
    except (ArithmeticError, ValueError):
        raise ValueError(f"{name} is no amount of money") from None


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

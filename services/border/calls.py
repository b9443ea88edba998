"""One request to the outside, at the other side's pace, with what became of it told apart."""

import math
from typing import Final

import aiohttp
import httpx

from services.border.errors import LimiterLike, OutcomeUnknown, Rejected, Throttled, Unreachable

_RETRY_READ_S: Final = 2.0
_RETRY_DEFAULT_S: Final = 1.0
_RETRY_MAX_S: Final = 3600.0
"""Nobody documents a longer pause. One without end would be the end of all work with that account."""


async def send(
    http: httpx.AsyncClient,
    limiter: LimiterLike,
    endpoint: str,
    request: httpx.Request,
    *,
    cost: float = 1.0,
    writes: bool = False,
    answers: tuple[int, ...] = (),
    retry_default_s: float = _RETRY_DEFAULT_S,
) -> httpx.Response:
    """Send at the endpoint's pace and return a 2xx answer, or one of the statuses in `answers`.

    `retry_default_s` is how long nothing is sent after a 429 that does not say how long to wait.

    Raises `Throttled` (429), `Rejected` (any other 4xx or a redirect), `Unreachable` (nothing was done: no connection,
    or no usable answer to what only reads), `OutcomeUnknown` (no usable answer to what `writes`).
    """
    await limiter.acquire(endpoint, cost)
    try:
        response = await http.send(request)
    except httpx.HTTPError as error:
        if _never_left(error):
            raise Unreachable(_RETRY_DEFAULT_S) from None
        if writes:
            raise OutcomeUnknown(f"{endpoint}: {type(error).__name__} after the request was sent") from None
        raise Unreachable(_RETRY_READ_S) from None
    status = response.status_code
    if 200 <= status < 300 or status in answers:
        return response
    if status == 429:
        retry_after_s = _retry_after_s(response, retry_default_s)
        limiter.throttled(endpoint, retry_after_s)
        raise Throttled(retry_after_s)
    if status >= 500 or status < 200:
        if writes:
            raise OutcomeUnknown(f"{endpoint}: answered {status} after the request was sent")
        raise Unreachable(_RETRY_READ_S)
    if status in (401, 403):
        raise Rejected(f"{endpoint}: answered {status}: check the credentials and their permissions at the other side")
    # The answer's text may repeat what was sent or hold a buyer's data, so only its status is told.
    raise Rejected(f"{endpoint}: answered {status} to {request.method} {request.url.path}")


def _never_left(error: httpx.HTTPError) -> bool:
    """Whether there was no connection to send on; refused and lost ones have one name here, so the cause says."""
    unconnected = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    return isinstance(error, httpx.ConnectError) or isinstance(error.__cause__, unconnected)


def _retry_after_s(response: httpx.Response, default_s: float) -> float:
    try:
        asked_s = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return default_s
    return default_s if math.isnan(asked_s) else min(max(0.05, asked_s), _RETRY_MAX_S)

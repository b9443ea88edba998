"""What connectors share at the border: calls with the channel's errors told apart, and reading of JSON by name."""

import httpx

from services.border import calls
from services.border.reading import count, identifier, mapping, minor, moment, objects, read_json, text, version_of
from services.channels.connectors.connector import Session

__all__ = [
    "count",
    "identifier",
    "mapping",
    "minor",
    "moment",
    "objects",
    "read_json",
    "send",
    "text",
    "version_of",
]


async def send(
    session: Session,
    endpoint: str,
    request: httpx.Request,
    *,
    cost: float = 1.0,
    writes: bool = False,
    answers: tuple[int, ...] = (),
    retry_default_s: float = 1.0,
) -> httpx.Response:
    """Send at the endpoint's pace and return a 2xx answer, or one of the statuses in `answers`.

    Raises what `services.border.calls.send` does: `Throttled`, `Rejected`, `Unreachable`, `OutcomeUnknown`.
    """
    return await calls.send(
        session.http,
        session.limiter,
        endpoint,
        request,
        cost=cost,
        writes=writes,
        answers=answers,
        retry_default_s=retry_default_s,
    )

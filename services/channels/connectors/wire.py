"""What connectors share at the border: calls with the channel's errors told apart, and reading of JSON by name."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httpx

from services.border import calls
from services.border.errors import Rejected, Throttled
from services.border.reading import count, identifier, mapping, minor, moment, objects, read_json, text, version_of
from services.channels.connectors.connector import Session, StockWrite, WriteOutcome, WriteStatus

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
    "write_at_once",
]

_REFUSED_PAUSE_S: Final = 1.0


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


async def write_at_once(
    groups: Sequence[Sequence[StockWrite]],
    write: Callable[[Sequence[StockWrite]], Awaitable[Sequence[WriteOutcome]]],
) -> list[WriteOutcome]:
    """Write each group by a call of its own, all at once: for a channel that takes one record, or product, a call.

    Outcomes in the order of the groups' records. Where some calls were accepted and others refused, the refused are
    `BUSY`: what was accepted has to be known as such. Raises what `write` does where every call raised, and what leaves
    an outcome unknown where any did, once all have ended.
    """
    answers = await asyncio.gather(*(write(group) for group in groups), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Throttled | Rejected)]
    failed = [answer for answer in answers if isinstance(answer, BaseException) and answer not in refused]
    if failed:
        raise failed[0]
    if refused and len(refused) == len(answers):
        raise refused[0]
    outcomes: list[WriteOutcome] = []
    for group, answer in zip(groups, answers, strict=True):
        if isinstance(answer, BaseException):
            pause_s = answer.retry_after_s if isinstance(answer, Throttled) else _REFUSED_PAUSE_S
            outcomes += [WriteOutcome(WriteStatus.BUSY, reason=str(answer), retry_after_s=pause_s)] * len(group)
        else:
            outcomes += answer
    return outcomes

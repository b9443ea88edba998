"""What became of a request is told apart, and the pace is kept."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from services.border.calls import send
from services.border.errors import OutcomeUnknown, Rejected, Throttled, Unreachable

pytestmark = pytest.mark.asyncio


class Pace:
    """A limiter without limits that remembers what it was told."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, float]] = []
        self.paused: list[tuple[str, float]] = []

    async def acquire(self, endpoint: str, cost: float = 1.0) -> None:
        self.taken.append((endpoint, cost))

    def throttled(self, endpoint: str, retry_after_s: float) -> None:
        self.paused.append((endpoint, retry_after_s))

    def observed(self, endpoint: str, available: float, restore_per_s: float) -> None:
        raise AssertionError((endpoint, available, restore_per_s))


def failing(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


async def call(answer: Any, pace: Pace, **how: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        request = client.build_request("POST", "https://bank.test/charges?key=secret", content=b"4111")
        return await send(client, pace, "charges", request, **how)


@pytest.mark.parametrize(
    ("answer", "of_a_write", "of_a_read"),
    [
        (lambda _: httpx.Response(429, headers={"retry-after": "2.5"}), Throttled, Throttled),
        (lambda _: httpx.Response(401), Rejected, Rejected),
        (lambda _: httpx.Response(402, text="4111"), Rejected, Rejected),
        (lambda _: httpx.Response(302, headers={"location": "http://169.254.169.254/"}), Rejected, Rejected),
        (lambda _: httpx.Response(503), OutcomeUnknown, Unreachable),
        (failing(httpx.ReadTimeout("late")), OutcomeUnknown, Unreachable),
        (failing(httpx.ReadError("reset")), OutcomeUnknown, Unreachable),
        (failing(httpx.ConnectTimeout("a lost connection shows so too")), OutcomeUnknown, Unreachable),
        (failing(httpx.ConnectError("refused")), Unreachable, Unreachable),
    ],
    ids=["429", "401", "402", "redirect", "503", "timeout", "reset", "connect timeout", "not connected"],
)
@pytest.mark.parametrize("writes", [True, False], ids=["write", "read"])
async def test_what_became_of_a_request_is_told_apart(
    answer: Any, of_a_write: type[Exception], of_a_read: type[Exception], writes: bool
) -> None:
    pace = Pace()
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the exact type is compared below
        await call(answer, pace, writes=writes, cost=2.0)
    assert type(raised.value) is (of_a_write if writes else of_a_read)
    assert "4111" not in str(raised.value)
    assert "secret" not in str(raised.value)
    assert pace.taken == [("charges", 2.0)]
    assert pace.paused == ([("charges", 2.5)] if type(raised.value) is Throttled else [])


async def test_answers_that_are_waited_for_are_no_errors() -> None:
    answer = await call(lambda _: httpx.Response(404), Pace(), answers=(404,))
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("asked", "waited_s"),
    [("inf", 3600.0), ("1e15", 3600.0), ("-1e9", 0.05), ("nan", 1.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 1.0)],
)
async def test_nobody_makes_us_wait_without_end(asked: str, waited_s: float) -> None:
    pace = Pace()
    with pytest.raises(Throttled) as raised:
        await call(lambda _: httpx.Response(429, headers={"retry-after": asked}), pace)
    assert raised.value.retry_after_s == waited_s
    assert pace.paused == [("charges", waited_s)]


@pytest.mark.parametrize("status", [0, 101, 199])
async def test_what_is_no_final_answer_is_none(status: int) -> None:
    with pytest.raises(Unreachable):
        await call(lambda _: httpx.Response(status), Pace())
    with pytest.raises(OutcomeUnknown):
        await call(lambda _: httpx.Response(status), Pace(), writes=True)

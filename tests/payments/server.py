"""The other side of a gateway's client: answers in turn, and keeps what it was sent."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import httpx

from services.border.limiter import Limiter
from services.payments.gateways.gateway import Session

Answer: TypeAlias = tuple[int, Any] | Callable[[httpx.Request], httpx.Response]


class Server:
    """Gives each answer once."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        return answer(request) if callable(answer) else httpx.Response(answer[0], json=answer[1])

    def session(self, base_url: str, credentials: Mapping[str, str], settings: Mapping[str, Any]) -> Session:
        """A session that leads here."""
        http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return Session(http, Limiter({}, lambda: 0.0), base_url, credentials, settings)


def broken(request: httpx.Request) -> httpx.Response:
    """The answer does not come."""
    raise httpx.ReadTimeout("late", request=request)


def away(request: httpx.Request) -> httpx.Response:
    """No connection comes about."""
    raise httpx.ConnectError("away", request=request)

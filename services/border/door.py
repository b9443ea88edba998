"""A door for what others send: where it listens, what it refuses before anything is understood, how it says so.

Refusals are problem details (RFC 9457) and repeat nothing of what was sent.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Final

import uvicorn
from opentelemetry import trace
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

DEPTH_MAX: Final = 64
_DRAIN_BYTES: Final = 500_000
_RETRY_AFTER_S: Final = 5
_GRACE_S: Final = 5

# Possessive, so that a string without an end cannot make the scan try again from every quote.
_STRING_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


class Refused(Exception):
    """The request is not taken; `answer` says why. With `close` the rest of it is not read either."""

    def __init__(self, status: int, why: str, *, close: bool = False) -> None:
        super().__init__(why)
        self.answer = problem(status, why, {"connection": "close"} if close else None)


def problem(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    """An answer of `application/problem+json`. `why` says what to do and holds nothing of the request."""
    told = {"title": HTTPStatus(status).phrase, "status": status, "detail": why}
    return JSONResponse(told, status, headers, media_type="application/problem+json")


def described(request: Request, route: str) -> dict[str, str]:
    """What a span says of a request at `route` (OpenTelemetry semantic conventions, HTTP server)."""
    return {"http.request.method": request.method, "http.route": route}


def answered(answer: Response) -> Response:
    """The answer, noted in the span that is open."""
    trace.get_current_span().set_attribute("http.response.status_code", answer.status_code)
    return answer


def later() -> Response:
    """503: nothing was kept, send it again."""
    return problem(503, "try again", {"retry-after": str(_RETRY_AFTER_S)})


async def read(request: Request, max_bytes: int, content_type: str = "application/json") -> bytes:
    """The raw body. Raises `Refused`: 413 too large, 400 it did not arrive, 415 of another type.

    Whoever is cut off while sending sees a reset instead of the answer; so a little too large a body is read to its
    end and thrown away, and only a far too large one is cut off.
    """
    too_large = Refused(413, "the body is too large", close=True)
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > max_bytes + _DRAIN_BYTES:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes + _DRAIN_BYTES:
                raise too_large
            if size <= max_bytes:
                chunks.append(chunk)
            else:
                chunks.clear()
    except ClientDisconnect:
        raise Refused(400, "the body did not arrive") from None
    if size > max_bytes:
        raise too_large
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != content_type:
        raise Refused(415, f"send {content_type}")
    return b"".join(chunks)


def require_shallow(body: bytes) -> None:
    """Raises `Refused` (400) where brackets nest deeper than `DEPTH_MAX`. For after the signature, before parsing."""
    if depth_exceeds(body, DEPTH_MAX):
        raise Refused(400, "the JSON is nested too deep")


def depth_exceeds(body: bytes, limit: int) -> bool:
    """Whether brackets nest deeper than `limit`, by one scan of the bytes outside strings, without parsing.

    In UTF-8 no byte of a longer character equals a quote, a backslash or a bracket, so bytes suffice. For bytes that
    are no JSON the answer only has to be some answer: the parser refuses them later.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return False  # Most bodies have fewer brackets than the limit, which is counted in no time.
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(body):
        match body[token.start()]:
            case 0x5B | 0x7B:
                depth += 1
                if depth > limit:
                    return True
            case 0x5D | 0x7D:
                depth = max(0, depth - 1)
    return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener bound to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Server(uvicorn.Server):
    """Signals belong to the service, which cancels the listener."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers alone."""
        yield


async def listen(app: ASGIApp, *, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
    """Serve `app` until cancelled, then finish what was begun, for some seconds at most.

    `tls` holds the server's certificate; one that asks for clients' certificates lets in nobody without. Raises
    `ValueError` where anybody else could read along (no `tls`, and `host` is not loopback), `OSError` where the address
    is taken, `RuntimeError` where listening ends of itself.
    """
    if tls is None and not is_loopback(host):
        raise ValueError(f"{host}:{port} is reached from outside: give a certificate, or listen on 127.0.0.1")
    # Bound here, because uvicorn would end the whole process over an address in use.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=2048)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_S,
            server_header=False,
            ssl_context_factory=(lambda *_: tls) if tls else None,
        )
    )
    serving = asyncio.create_task(server.serve([listening]), name=f"listener of {host}:{port}")
    try:
        await asyncio.shield(serving)
        raise RuntimeError(f"{host}:{port} is not listened on any more")
    finally:
        server.should_exit = True
        with suppress(BaseException):
            await asyncio.wait_for(serving, _GRACE_S + 1)
        listening.close()

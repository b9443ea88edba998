"""Every call to the outside goes through a client opened here: time limits, no redirects, a cap on answers.

Base URLs are typed in by people, so outside of sandboxes a client reaches public addresses over TLS alone: the address
is checked after resolving, and the connection goes to exactly the address that was checked (OWASP, Server-Side Request
Forgery Prevention).
"""

import functools
import ipaddress
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from httpx_aiohttp import AiohttpTransport
from opentelemetry import trace

ANSWER_MAX_BYTES: Final = 20_000_000
_CONNECT_TIMEOUT_S: Final = 3.0
_CONNECTIONS_MAX: Final = 20
_PIECE_BYTES: Final = 65_536
# Shorter than the usual 5 s of servers: a call on a connection that the server is just closing has an unknown outcome.
_KEEPALIVE_S: Final = 4.0


class AddressRefused(httpx.ConnectError):
    """The URL leads to where a connection of this environment must not go."""


class AnswerTooLarge(httpx.ReadError):
    """The answer is longer than any documented one, or compressed though that was declined."""


@contextmanager
def _readable() -> Iterator[None]:
    """What is no HTTP leaves as httpx's own error: aiohttp's is none of those, and repeats the answer and the URL."""
    try:
        yield
    except aiohttp.ClientError as error:
        raise httpx.RemoteProtocolError(f"the answer is no HTTP ({type(error).__name__})") from None


def _require_public(address: str) -> None:
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    if not ip.is_global or ip.is_multicast:
        raise AddressRefused(f"{address} is not a public address: use the other side's own host name")


class _PublicResolver(AbstractResolver):
    """Resolves names to public addresses only; aiohttp connects to what is returned here."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            _require_public(result["host"])
        return found

    async def close(self) -> None:
        await self._resolver.close()


class _Capped(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _readable():
            async for chunk in self._stream:
                self._left -= len(chunk)
                if self._left < 0:
                    raise AnswerTooLarge("the answer is longer than allowed")
                yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Unpacked(httpx.AsyncByteStream):
    """What a gzip stream holds, a piece at a time, so that a small answer cannot unpack to more than is allowed."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        unpack = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            async for chunk in self._stream:
                while chunk and not unpack.eof:
                    yield unpack.decompress(chunk, _PIECE_BYTES)
                    chunk = unpack.unconsumed_tail
        except zlib.error:
            raise httpx.ReadError("the answer is no gzip, though it says so") from None
        if not unpack.eof:
            raise httpx.ReadError("the answer has no end")

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Guarded(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport, *, public_only: bool, gzip: bool, max_bytes: int) -> None:
        self._inner = inner
        self._public_only = public_only
        self._gzip = gzip
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._public_only:
            require_public_url(request.url)
        span = trace.get_current_span()
        # No address in full: it may hold who the buyer is, or a secret.
        span.set_attribute("http.request.method", request.method)
        span.set_attribute("server.address", request.url.host)
        with _readable():
            response = await self._inner.handle_async_request(request)
        span.set_attribute("http.response.status_code", response.status_code)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        encoding = response.headers.pop("content-encoding", "identity")
        if encoding == "gzip" and self._gzip:
            response.stream = _Unpacked(response.stream)
        elif encoding != "identity":
            await response.aclose()
            raise AnswerTooLarge("the answer is compressed though identity was asked for")
        response.stream = _Capped(response.stream, self._max_bytes)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def require_public_url(url: httpx.URL) -> None:
    """Raises `AddressRefused` unless `url` is https and its host, where it is an address, is a public one."""
    if url.scheme != "https":
        raise AddressRefused(f"{url.scheme}://{url.host} is refused: only a sandbox is reached without https")
    try:
        ipaddress.ip_address(url.host)
    except ValueError:
        return
    _require_public(url.host)


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all: reading the authorities' certificates takes the event loop's time."""
    return ssl.create_default_context()


def open_client(
    *,
    public_only: bool,
    timeout_s: float,
    max_bytes: int = ANSWER_MAX_BYTES,
    certificate: ssl.SSLContext | None = None,
    gzip: bool = False,
) -> httpx.AsyncClient:
    """A client for one account. `public_only` is for every environment but the sandbox; whoever opens it closes it.

    `certificate` is a context that verifies servers and holds our own certificate, for those who ask for one. `gzip`
    is for servers that answer in nothing else; `max_bytes` then counts what is unpacked.
    Raises on use `AddressRefused` (nothing was sent), `AnswerTooLarge`, and httpx's own errors.
    """

    tls = certificate or _tls()

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=_CONNECTIONS_MAX,
            keepalive_timeout=_KEEPALIVE_S,
            resolver=_PublicResolver() if public_only else ThreadedResolver(),
            ssl=tls,
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    return httpx.AsyncClient(
        transport=_Guarded(
            AiohttpTransport(client=session, verify=tls), public_only=public_only, gzip=gzip, max_bytes=max_bytes
        ),
        timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
        headers={"accept-encoding": "gzip" if gzip else "identity", "user-agent": "saldo"},
        follow_redirects=False,
        trust_env=False,
    )

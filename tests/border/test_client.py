"""Where calls to the outside may go, and what answers may be."""

import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from services.border.client import AddressRefused, AnswerTooLarge, open_client


@pytest.mark.asyncio
async def test_the_outside_is_reached_over_https_at_public_addresses_alone() -> None:
    client = open_client(public_only=True, timeout_s=2)
    for url in (
        "http://example.com/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
    ):
        with pytest.raises(AddressRefused):
            await client.get(url)
    await client.aclose()


@pytest_asyncio.fixture
async def answers() -> AsyncIterator[tuple[str, dict[str, bytes]]]:
    """An address, and what it answers by path; it says gzip whatever it is asked for."""
    told: dict[str, bytes] = {}

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=told[request.path], headers={"content-encoding": "gzip"})

    app = web.Application()
    app.router.add_get("/{path}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", told
    await runner.cleanup()


@pytest.mark.asyncio
async def test_gzip_is_unpacked_up_to_the_cap_where_it_is_allowed(answers: tuple[str, dict[str, bytes]]) -> None:
    url, told = answers
    told |= {
        "/whole": gzip.compress(b"a" * 100_000), "/bomb": gzip.compress(b"a" * 10_000_000),
        "/half": gzip.compress(b"abc")[:-9], "/none": b"plain",
    }  # fmt: skip
    client = open_client(public_only=False, timeout_s=5, max_bytes=200_000, gzip=True)
    assert (await client.get(f"{url}/whole")).content == b"a" * 100_000
    with pytest.raises(AnswerTooLarge):
        await client.get(f"{url}/bomb")
    for path in ("/half", "/none"):
        with pytest.raises(httpx.ReadError):
            await client.get(url + path)
    await client.aclose()


@pytest.mark.asyncio
async def test_gzip_is_refused_where_it_was_not_asked_for(answers: tuple[str, dict[str, bytes]]) -> None:
    url, told = answers
    told["/whole"] = gzip.compress(b"abc")
    client = open_client(public_only=False, timeout_s=5)
    with pytest.raises(AnswerTooLarge):
        await client.get(f"{url}/whole")
    await client.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-hush\r\n\r\n",
        b"HTTP/1.1 9999 hush\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nhush: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhush",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nhush\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhush",
        b"",
    ],
    ids=["no http", "status", "header", "length", "chunk", "half", "nothing"],
)
async def test_what_is_no_http_is_no_answer_and_is_not_repeated(answer: bytes) -> None:
    async def spoil(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(spoil, "127.0.0.1", 0)
    client = open_client(public_only=False, timeout_s=5)
    async with server:
        with pytest.raises(httpx.TransportError) as raised:
            await client.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/?token=hush")
    assert "hush" not in str(raised.value)
    await client.aclose()

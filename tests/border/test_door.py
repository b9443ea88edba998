"""Where a door listens, what it refuses and how."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.border import door
from services.border.client import open_client
from tests.border.conftest import Contexts

pytestmark = pytest.mark.asyncio


async def taken(request: Request) -> Response:
    try:
        body = await door.read(request, 1_000, request.query_params.get("type", "application/json"))
        door.require_shallow(body)
    except door.Refused as refused:
        return refused.answer
    return Response(body)


APP = Starlette(routes=[Route("/", taken, methods=["POST"])])


@asynccontextmanager
async def listening(**how: Any) -> AsyncIterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    running = asyncio.create_task(door.listen(APP, host="127.0.0.1", port=port, **how))
    try:
        # Bound by the first step of the task, so that whoever comes from now on waits and is not refused.
        await asyncio.sleep(0)
        yield port
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    with socket.create_server(("127.0.0.1", port)):
        pass


async def post(body: Any, content_type: str = "application/json", path: str = "/") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://door") as client:
        return await client.post(path, content=body, headers={"content-type": content_type})


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [
        (413, b"secret" * 1_000, "application/json"),
        (413, b"secret" * 1_000_000, "application/json"),
        (415, b"secret", "text/xml"),
        (400, b'{"secret":' * 65, "application/json"),
    ],
    ids=["a little too large", "far too large", "type", "depth"],
)
async def test_a_refusal_is_a_problem_that_repeats_nothing(status: int, body: bytes, content_type: str) -> None:
    answer = await post(body, content_type)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    told = answer.json()
    assert told.keys() == {"title", "status", "detail"}
    assert (told["status"], told["title"]) == (status, HTTPStatus(status).phrase)
    assert "secret" not in answer.text
    assert (answer.headers.get("connection") == "close") is (status == 413)


async def test_the_type_is_compared_without_its_parameters_and_may_be_another() -> None:
    assert (await post(b"{}", "Application/JSON; charset=utf-8")).content == b"{}"
    form = "application/x-www-form-urlencoded"
    assert (await post(b"a=1", form, f"/?type={form}")).content == b"a=1"


async def test_a_request_without_an_honest_length_is_refused() -> None:
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"-1")]}
    with pytest.raises(door.Refused) as refused:
        await door.read(Request(scope), 1_000)
    assert refused.value.answer.status_code == 413


async def test_a_sender_who_hangs_up_is_answered_with_400() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"5")]}
    with pytest.raises(door.Refused) as refused:
        await door.read(Request(scope, receive), 1_000)
    assert refused.value.answer.status_code == 400


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "door.example.com", ""])
async def test_without_a_certificate_nobody_outside_is_listened_to(host: str) -> None:
    with pytest.raises(ValueError, match="certificate"):
        await door.listen(APP, host=host, port=0)


async def test_an_address_in_use_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        await door.listen(APP, host="127.0.0.1", port=other.getsockname()[1])


async def test_a_door_listens_until_it_is_cancelled_and_frees_its_port() -> None:
    async with listening() as port, open_client(public_only=False, timeout_s=5) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/", json={})
        assert (answer.status_code, answer.content) == (200, b"{}")


async def test_a_door_that_asks_for_certificates_lets_in_nobody_without(contexts: Contexts) -> None:
    async with listening(tls=contexts.server) as port:
        url = f"https://127.0.0.1:{port}/"
        async with open_client(public_only=False, timeout_s=5, certificate=contexts.client) as client:
            assert (await client.post(url, json={})).status_code == 200
        async with open_client(public_only=False, timeout_s=5, certificate=contexts.stranger) as client:
            with pytest.raises(httpx.HTTPError):
                await client.post(url, json={})
        async with open_client(public_only=False, timeout_s=5) as client:
            with pytest.raises(httpx.HTTPError, match="self-signed"):
                await client.post(url, json={})

"""The webhook door: what it refuses leaves nothing behind, what it accepts is stored before the answer."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import pytest_asyncio

from services.channels.connections.store import Connection
from services.channels.intake import store
from services.channels.intake.door import Door
from services.deadletters.lists import LetterPage, listed
from tests.channels.conftest import Kit, shopify_order

pytestmark = pytest.mark.asyncio

BODY = json.dumps(shopify_order()).encode()


def signed(body: bytes, secret: str = "shop secret", **more: str) -> dict[str, str]:
    digest = base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "x-shopify-hmac-sha256": digest,
        "x-shopify-topic": "orders/create",
        "x-shopify-webhook-id": "w1",
        "x-shopify-event-id": "e1",
        **more,
    }


@pytest_asyncio.fixture
async def door(kit: Kit) -> AsyncIterator[httpx.AsyncClient]:
    opened = Door(kit.service, kit.intake)
    writer = asyncio.create_task(opened.store_loop())
    transport = httpx.ASGITransport(opened.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        yield client
    writer.cancel()
    with suppress(asyncio.CancelledError):
        await writer


@pytest_asyncio.fixture
async def shop(kit: Kit) -> Connection:
    return await kit.connect()


LARGE = b'"' + b"a" * 2_000_001 + b'"'
DEEP = b"[" * 65 + b"]" * 65
REFUSALS: dict[str, tuple[int, dict[str, Any]]] = {
    "unknown connection": (404, {"path": "00000000-0000-5000-8000-000000000000"}),
    "wrong signature": (401, {"headers": signed(BODY, "another secret")}),
    "no signature": (401, {"headers": {"content-type": "application/json"}}),
    "signature of another body": (401, {"headers": signed(BODY + b" ")}),
    "too large": (413, {"body": LARGE, "headers": signed(LARGE)}),
    "too deep": (400, {"body": DEEP, "headers": signed(DEEP)}),
    "too deep and unsigned": (401, {"body": DEEP, "headers": signed(DEEP, "another secret")}),
    "wrong content type": (415, {"headers": signed(BODY) | {"content-type": "text/xml"}}),
    "no content type": (415, {"headers": {k: v for k, v in signed(BODY).items() if k != "content-type"}}),
}


@pytest.mark.parametrize(("status", "request_"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_refusal_stores_nothing_and_logs_nothing_secret(
    kit: Kit,
    door: httpx.AsyncClient,
    shop: Connection,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    status: int,
    request_: dict[str, Any],
) -> None:
    headers = request_.get("headers", signed(BODY))
    path = request_.get("path", shop.connection_id)
    answer = await door.post(f"/hooks/{path}", content=request_.get("body", BODY), headers=headers)
    assert answer.status_code == status
    assert await kit.count("intake") == 0
    captured = capsys.readouterr()
    told = captured.out + captured.err + caplog.text + answer.text
    for secret in ("shop secret", "shpat_token", "Ana", "example.com", headers.get("x-shopify-hmac-sha256", "no such")):
        assert secret not in told


async def test_an_endless_body_is_refused_before_it_has_been_read(
    kit: Kit, door: httpx.AsyncClient, shop: Connection
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"a" * 100_000

    answer = await door.post(f"/hooks/{shop.connection_id}", content=endless(), headers=signed(BODY))
    assert answer.status_code == 413
    assert sent < 30


async def test_what_is_accepted_is_stored_sealed_once_with_its_ids(
    kit: Kit, door: httpx.AsyncClient, shop: Connection
) -> None:
    for _ in range(5):
        answer = await door.post(f"/hooks/{shop.connection_id}", content=BODY, headers=signed(BODY))
        assert answer.status_code == 200
    rows = await kit.service.pool.fetch("SELECT * FROM intake")
    assert [(row["topic"], row["delivery_id"], row["event_id"]) for row in rows] == [("orders/create", "w1", "e1")]
    assert b"Ana" not in rows[0]["sealed"]
    assert rows[0]["state"] == "absorbed", "with the commit that stored it"
    assert [sale["status"] for sale in await kit.published()] == ["paid"]


async def test_the_secret_before_a_rotation_still_opens(kit: Kit, door: httpx.AsyncClient) -> None:
    shop = await kit.connect(
        credentials={"access_token": "t", "webhook_secret": "new secret", "webhook_secret_previous": "shop secret"}
    )
    for secret, status in (("new secret", 200), ("shop secret", 200), ("older", 401)):
        answer = await door.post(f"/hooks/{shop.connection_id}", content=BODY, headers=signed(BODY, secret))
        assert answer.status_code == status


async def test_signed_but_malformed_json_is_stored(kit: Kit, door: httpx.AsyncClient, shop: Connection) -> None:
    body = b'{"id": '
    answer = await door.post(f"/hooks/{shop.connection_id}", content=body, headers=signed(body))
    assert answer.status_code == 200
    await kit.absorb()
    assert await kit.count("intake", "state = 'poisoned'") == 1
    assert len(await listed(kit.service._work, LetterPage(tenant="loja", state="open"))) == 1


async def test_what_cannot_be_absorbed_now_is_stored_all_the_same(
    kit: Kit, door: httpx.AsyncClient, shop: Connection
) -> None:
    await kit.service.pool.execute("ALTER TABLE intake_orders ADD CONSTRAINT broken CHECK (revision < 1)")
    assert (await door.post(f"/hooks/{shop.connection_id}", content=BODY, headers=signed(BODY))).status_code == 200
    assert (await kit.count("intake", "state = 'new'"), await kit.published()) == (1, [])
    assert kit.intake.arrived.is_set()
    await kit.service.pool.execute("ALTER TABLE intake_orders DROP CONSTRAINT broken")
    await kit.absorb()
    assert len(await kit.published()) == 1


async def test_while_another_process_absorbs_bodies_are_only_stored(
    kit: Kit, door: httpx.AsyncClient, shop: Connection
) -> None:
    async with kit.service.transaction() as tx:
        assert await store.try_absorb_lock(tx.connection)
        assert (await door.post(f"/hooks/{shop.connection_id}", content=BODY, headers=signed(BODY))).status_code == 200
    assert (await kit.count("intake", "state = 'new'"), await kit.published()) == (1, [])
    # The next one takes the older one along, in order.
    headers = signed(BODY, **{"x-shopify-webhook-id": "w2"})
    assert (await door.post(f"/hooks/{shop.connection_id}", content=BODY, headers=headers)).status_code == 200
    assert await kit.count("intake", "state = 'absorbed'") == 2
    assert len(await kit.published()) == 1


async def test_a_signature_of_one_company_opens_no_door_of_another(kit: Kit, door: httpx.AsyncClient) -> None:
    mine = await kit.connect(tenant="loja", base_url="http://127.0.0.1:9")
    theirs = await kit.connect(
        tenant="outra", base_url="http://127.0.0.2:9", credentials={"access_token": "t", "webhook_secret": "theirs"}
    )
    assert (await door.post(f"/hooks/{theirs.connection_id}", content=BODY, headers=signed(BODY))).status_code == 401
    assert (await door.post(f"/hooks/{mine.connection_id}", content=BODY, headers=signed(BODY))).status_code == 200
    rows = await kit.service.pool.fetch("SELECT tenant, connection_id FROM intake")
    assert [tuple(row) for row in rows] == [("loja", mine.connection_id)]


async def test_a_queue_connection_has_no_door(kit: Kit, door: httpx.AsyncClient) -> None:
    hub = await kit.connect(connector="skyhub", account="casa")
    assert (await door.post(f"/hooks/{hub.connection_id}", content=BODY, headers=signed(BODY))).status_code == 404


async def test_no_yes_without_a_commit(kit: Kit, door: httpx.AsyncClient, shop: Connection) -> None:
    await kit.service.pool.execute("ALTER TABLE intake ADD CONSTRAINT full_disk CHECK (delivery_id <> 'w1')")
    answer = await door.post(f"/hooks/{shop.connection_id}", content=BODY, headers=signed(BODY))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    await kit.service.pool.execute("ALTER TABLE intake DROP CONSTRAINT full_disk")
    answer = await door.post(f"/hooks/{shop.connection_id}", content=BODY, headers=signed(BODY))
    assert answer.status_code == 200


async def test_a_delivery_that_cannot_be_stored_keeps_no_other_out(kit: Kit, shop: Connection) -> None:
    await kit.service.pool.execute("ALTER TABLE intake ADD CONSTRAINT broken CHECK (delivery_id <> 'w1')")
    opened = Door(kit.service, kit.intake)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(opened.app), base_url="http://door") as client:
        posts = [
            asyncio.create_task(
                client.post(
                    f"/hooks/{shop.connection_id}", content=BODY, headers=signed(BODY, **{"x-shopify-webhook-id": name})
                )
            )
            for name in ("w1", "w2")
        ]
        while len(opened._absorbed.waiting) < 2:  # noqa: ASYNC110 - until both wait for one transaction
            await asyncio.sleep(0)
        writer = asyncio.create_task(opened.store_loop())
        assert [answer.status_code for answer in await asyncio.gather(*posts)] == [503, 200]
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def test_a_lock_that_absorbing_waits_for_does_not_shut_the_door(
    kit: Kit, door: httpx.AsyncClient, shop: Connection
) -> None:
    async with kit.service.transaction() as tx:
        await tx.connection.execute("LOCK TABLE intake_orders")
        assert (await door.post(f"/hooks/{shop.connection_id}", content=BODY, headers=signed(BODY))).status_code == 200
        assert await kit.count("intake", "state = 'new'") == 1
    await kit.absorb()
    assert len(await kit.published()) == 1


async def test_many_at_once_share_transactions_and_all_are_stored(kit: Kit, shop: Connection) -> None:
    """Over a real socket, so that the listener itself is part of it; a cancelled door frees its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kit.intake.settings.door_port = port
    running = asyncio.create_task(Door(kit.service, kit.intake).run())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        while True:
            with suppress(httpx.ConnectError):
                assert (await client.post("/hooks/nowhere", content=b"{}")).status_code == 404
                break
            await asyncio.sleep(0.02)
        answers = await asyncio.gather(
            *(
                client.post(
                    f"/hooks/{shop.connection_id}",
                    content=BODY,
                    headers=signed(BODY, **{"x-shopify-webhook-id": f"many-{number}"}),
                )
                for number in range(100)
            )
        )
    assert {answer.status_code for answer in answers} == {200}
    assert await kit.count("intake") == 100
    transactions = await kit.service.pool.fetchval("SELECT count(DISTINCT xmin::text) FROM intake")
    assert transactions < 100
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("event_id", ["w\x00", "w" * 10_000, "\ud800"], ids=["NUL", "long", "half a character"])
async def test_a_delivery_is_kept_whatever_it_is_called(kit: Kit, door: httpx.AsyncClient, event_id: str) -> None:
    credentials = {"client_id": "7", "client_secret": "s", "user_id": "8", "refresh_token": "r", "hook_secret": "hush"}
    seller = await kit.connect(
        connector="mercadolivre", account="ana", credentials=credentials, store_id="1", network_node_id="2"
    )
    path, form = f"/hooks/{seller.connection_id}/hush", {"content-type": "application/json"}
    told = {"_id": event_id, "user_id": 8, "application_id": 7, "topic": "orders_v2", "resource": "/orders/1"}
    for _ in range(2):
        answer = await door.post(path, content=json.dumps(told), headers=form)
        assert answer.status_code == 200
    assert await kit.count("intake") == 1
    strange = await door.post(path, content=json.dumps(told | {"user_id": event_id}), headers=form)
    assert strange.status_code == 401

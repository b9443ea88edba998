"""The admin listener, topics and what a person sends."""

import asyncio

import asyncpg
import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from fastapi import APIRouter
from pydantic_core import PydanticSerializationError

from contracts.catalogue import CATALOGUE, Stream
from services.bus.consumer import STALL_S
from services.runtime import command
from services.runtime.admin import create_app
from services.runtime.topics import configuration, ensure_topics
from tests.bus.model import (
    Deposited,
    amounts,
    deposit,
    make_service,
    make_streams,
    record,
    running,
    send,
    until,
    until_count,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_admin_wants_its_token_and_shows_health_metrics_and_dead_letters(kafka_bootstrap, database):
    streams = make_streams()
    service = make_service(kafka_bootstrap, database, streams, admin_token="t0ken")
    async with running(service), httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.admin.port}") as client:
        assert (await client.get("/livez")).status_code == 200
        for header in ({}, {"Authorization": "Bearer wrong"}):
            assert (await client.get("/admin/deadletters", headers=header)).status_code == 401
        client.headers["Authorization"] = "Bearer t0ken"
        await send(kafka_bootstrap, streams.deposits, [record(streams, "a", 1, trouble="bug"), record(streams, "a", 2)])
        await until_count(database, "SELECT count(*) FROM parked", 1)

        async def ready() -> bool:
            return (await client.get("/readyz")).json()["reasons"] == []

        await until(ready)
        [letter] = (await client.get("/admin/deadletters", params={"tenant": "acme", "state": "open"})).json()
        assert {"id", "consumer", "stream", "partition", "offset", "key", "aggregate", "event_id", "type", "tenant",
                "error", "attempts", "first_at", "last_at", "state", "traceparent"} <= set(letter)  # fmt: skip
        one = (await client.get(f"/admin/deadletters/{letter['id']}", params={"payload": 1})).json()
        assert '"trouble": "bug"' in one["payload"]
        assert (await client.post(f"/admin/deadletters/{letter['id']}/replay")).status_code == 409
        discarded = await client.post(
            f"/admin/deadletters/{letter['id']}/discard", params={"reason": "test", "author": "ana"}
        )
        assert discarded.json() == {"id": letter["id"], "state": "discarded", "drained": 1}
        assert (await client.post(f"/admin/deadletters/{letter['id']}/replay")).status_code == 404
        assert await amounts(database, "a") == [2]
        [consumer] = (await client.get("/admin/consumers")).json()
        assert consumer["stream"] == streams.deposits.name
        assert (await client.post("/admin/consumers/resume", params={"stream": "none"})).status_code == 404
        assert (await client.post("/admin/announce", params={"stream": "none"})).status_code == 404
        assert (await client.post("/admin/republish", params={"since": "2026-01-01T00:00:00"})).status_code == 422
        for path, values in {
            "deadletters": {"tenant": "a\0b"},
            "deadletters?": {"limit": -1},
            "deadletters??": {"limit": 10**20},
            "deadletters/a%00b": {},
        }.items():
            assert (await client.get(f"/admin/{path.rstrip('?')}", params=values)).status_code == 422, path
        past = {"since": "9999-12-31T23:59:59-12:00"}
        assert (await client.post("/admin/republish", params=past)).status_code == 422
        misread = await client.post("/admin/republish", params={"since": "shpat_secret"})
        assert misread.status_code == 422
        assert "shpat_secret" not in misread.text, "what was given may be a credential"
        metrics = (await client.get("/metrics")).text
        assert f'saldo_records_total{{outcome="dead",stream="{streams.deposits.name}"}} 1.0' in metrics
        assert "kafka_consumer_group_lag{" in metrics


async def test_a_consumer_that_stands_still_with_lag_is_not_ready(kafka_bootstrap, database):
    streams = make_streams(partitions=1)
    free, entered = asyncio.Event(), asyncio.Event()

    async def handler(events, tx) -> None:
        if any(event.message.amount == 2 for event in events):
            entered.set()
            await free.wait()
        await deposit(events, tx)

    service = make_service(kafka_bootstrap, database, streams, handler=handler)
    async with running(service), httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.admin.port}") as client:

        async def reasons() -> list[str]:
            return (await client.get("/readyz")).json()["reasons"]

        async def ready() -> bool:
            return await reasons() == []

        await send(kafka_bootstrap, streams.deposits, [record(streams, "a", 1)])
        await until_count(database, "SELECT count(*) FROM entries", 1)
        await until(ready)
        await send(kafka_bootstrap, streams.deposits, [record(streams, "a", 2)])
        await entered.wait()
        consumer = service._consumers[streams.deposits.name]
        consumer.progress_at -= STALL_S + 1
        await until(lambda: consumer.lags() == {0: 1})
        [reason] = await reasons()
        assert reason.startswith(f"{streams.deposits.name}: no progress for ")
        assert reason.endswith(" with lag 1")
        free.set()
        await until(ready)
    assert await amounts(database, "a") == [1, 2]


@pytest.mark.rule(15)
async def test_topics_come_from_the_catalogue_and_settings_that_differ_are_put_right(kafka_bootstrap):
    streams = make_streams()
    await ensure_topics(kafka_bootstrap, streams.catalogue)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, streams.deposits.name, {"retention.ms": "1000"})
        await admin.alter_configs([resource])

        async def retention_is(milliseconds: int) -> bool:
            return (await current(admin, streams))["retention.ms"] == str(milliseconds)

        await until(lambda: retention_is(1000))
        await ensure_topics(kafka_bootstrap, streams.catalogue)
        await until(lambda: retention_is(24 * 3600 * 1000))
        now = await current(admin, streams)
        assert (now["cleanup.policy"], now["segment.ms"]) == ("delete", str(24 * 3600 * 1000))
        [described] = await admin.describe_topics([streams.deposits.name])
        assert len(described["partitions"]) == streams.deposits.partitions
    finally:
        await admin.close()


@pytest.mark.parametrize("stream", CATALOGUE.streams.values(), ids=lambda stream: stream.name)
@pytest.mark.rule(15)
async def test_no_stream_is_compacted_and_no_segment_outlives_a_day(stream: Stream) -> None:
    """A relay's late copy of version 7 after 9 would be what compaction keeps."""
    wanted = configuration(stream)
    assert wanted["cleanup.policy"] == "delete"
    assert int(wanted["segment.ms"]) <= 24 * 3600 * 1000


async def current(admin: AIOKafkaAdminClient, streams) -> dict[str, str]:
    [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, streams.deposits.name)])
    return {entry[0]: entry[1] for entry in answer.resources[0][4]}


@pytest.mark.rule(23)
async def test_a_command_sent_twice_books_once(kafka_bootstrap, database):
    streams = make_streams()
    async with running(make_service(kafka_bootstrap, database, streams)):
        for _ in range(2):
            await command.send(
                kafka_bootstrap,
                Deposited(account="a", amount=3),
                tenant="acme",
                command_id="c1",
                catalogue=streams.catalogue,
            )
        await command.send(
            kafka_bootstrap,
            Deposited(account="a", amount=4),
            tenant="acme",
            command_id="c2",
            catalogue=streams.catalogue,
        )
        await until_count(database, "SELECT count(*) FROM entries", 2)
    assert await amounts(database, "a") == [3, 4]


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (ConnectionRefusedError("hush"), 503),
        (asyncpg.InterfaceError("hush"), 503),
        (asyncpg.ConnectionDoesNotExistError("hush"), 503),
        (PydanticSerializationError("hush"), 422),
        (UnicodeEncodeError("utf-8", "hush\ud800", 4, 5, "surrogates not allowed"), 422),
    ],
)
async def test_what_a_route_cannot_do_is_told_in_words(failure: Exception, status: int) -> None:
    router = APIRouter()

    @router.get("/try")
    async def fails() -> None:
        raise failure

    async def ready() -> list[str]:
        return []

    service = make_service("127.0.0.1:1", "postgresql://127.0.0.1:1/none", make_streams())
    app = create_app(ready, service._work, [router])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as client:
        answer = await client.get("/admin/try")
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert "hush" not in answer.text

"""Consuming: a batch is one transaction, an effect happens once per event id, every record ends somewhere."""

import json

import pytest

from tests.bus.model import (
    amounts,
    make_service,
    make_streams,
    read_all,
    record,
    running,
    send,
    until_count,
    value,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_records_become_effects_and_what_is_published_is_what_was_committed(kafka_bootstrap, database):
    streams = make_streams()
    async with running(make_service(kafka_bootstrap, database, streams)):
        sent = [record(streams, f"a{n % 5}", n, event_id=f"e{n}") for n in range(50)]
        await send(kafka_bootstrap, streams.deposits, sent)
        await until_count(database, "SELECT count(*) FROM entries", 50)
        await until_count(database, "SELECT count(*) FROM outbox", 0)
        published = await read_all(kafka_bootstrap, streams.balances)
    last = {}
    for one in published:
        body = json.loads(one.value)
        assert body["version"] > last.get(body["account"], {"version": 0})["version"]
        last[body["account"]] = body
    assert {body["balance"] for body in last.values()} == {sum(range(n, 50, 5)) for n in range(5)}
    assert dict(published[0].headers)["ce_source"] == b"bank"
    assert published[0].key.startswith(b"acme:")


async def test_a_redelivered_event_has_no_second_effect(kafka_bootstrap, database):
    streams = make_streams()
    async with running(make_service(kafka_bootstrap, database, streams)):
        twice = record(streams, "a", 5, event_id="same")
        await send(kafka_bootstrap, streams.deposits, [twice, twice, record(streams, "a", 7, event_id="next"), twice])
        await until_count(database, "SELECT count(*) FROM inbox", 2)
        await send(kafka_bootstrap, streams.deposits, [twice, record(streams, "a", 9, event_id="last")])
        await until_count(database, "SELECT count(*) FROM inbox", 3)
    assert await amounts(database, "a") == [5, 7, 9]
    assert await value(database, "SELECT count(*) FROM dead_letters") == 0

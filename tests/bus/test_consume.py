"""Consuming: a batch is one transaction, an effect happens once per event id, every record ends somewhere."""

import asyncio
import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.consumer import fetcher
from aiokafka.producer import message_accumulator
from aiokafka.record import default_records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.bus.consumer import BACKLOG_RECORDS, BACKLOG_STALE_S
from services.bus.group import BATCH_RECORDS
from services.bus.outbox import RECORD_LIMIT_BYTES
from services.bus.record import unpack
from services.runtime.topics import ensure_topics
from tests.bus.model import (
    BalanceChanged,
    Sent,
    amounts,
    by_hand,
    deposit,
    log,
    make_service,
    make_streams,
    read_all,
    record,
    rows,
    running,
    send,
    until,
    until_count,
    value,
)
from tests.outbox import waiting

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


async def test_of_several_brokers_any_one_that_answers_will_do(kafka_bootstrap, database):
    streams = make_streams()
    async with running(make_service(f"127.0.0.1:9,{kafka_bootstrap}", database, streams)):
        await send(kafka_bootstrap, streams.deposits, [record(streams, "a", 5)])
        await until_count(database, "SELECT count(*) FROM entries", 1)
    assert await amounts(database, "a") == [5]


async def test_a_backlog_comes_in_batches_of_a_thousand_at_most(kafka_bootstrap, database):
    streams = make_streams(partitions=1)
    sizes = []

    async def count(events, tx):
        sizes.append(len(events))
        await deposit(events, tx)

    await ensure_topics(kafka_bootstrap, streams.catalogue, 1)
    await send(kafka_bootstrap, streams.deposits, [record(streams, f"a{n}", n) for n in range(1_200)])
    async with running(make_service(kafka_bootstrap, database, streams, handler=count)):
        await until_count(database, "SELECT count(*) FROM entries", 1_200)
    assert max(sizes) == BATCH_RECORDS


@pytest.mark.rule(3)
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


@pytest.mark.rule(1, 5)
async def test_bad_records_among_good_ones_are_dead_letters_with_their_cause(kafka_bootstrap, database):
    streams = make_streams()
    owner = streams.deposits.owner

    def bad(account: str, header: str, content: bytes | None) -> Sent:
        one = record(streams, account)
        return Sent(one.key, one.value, [*one.headers, (header, content)])

    foreign = record(streams, "f", 1, type_name="saldo.stranger.spoke.v1")
    unknown = record(streams, "u", 1, type_name=f"saldo.{owner}.brand-new.v1")
    good = [record(streams, f"good{n}", n) for n in range(30)]
    sent = [
        *good[:10],
        bad("b1", "ce_source", None),
        bad("b2", "x-proxy", b"\xff"),
        *good[10:20],
        Sent(b"acme:b3", b"{", record(streams, "b3").headers),
        Sent(b"acme:b4", b'{"account": 4}', record(streams, "b4").headers),
        foreign,
        unknown,
        Sent(None, b"{}", []),
        *good[20:],
        record(streams, "b3", 5),  # waits behind the broken one
        record(streams, "f", 6),  # a foreign type parks nothing
        record(streams, "u", 7),
    ]
    service = make_service(kafka_bootstrap, database, streams)
    async with running(service):
        await send(kafka_bootstrap, streams.deposits, sent)
        await until_count(database, "SELECT count(*) FROM entries", 32)
        await until_count(database, "SELECT count(*) FROM dead_letters", 6)
        await until_count(database, "SELECT count(*) FROM parked", 1)
        skipped = service.metrics.registry.get_sample_value(
            "saldo_records_total", {"stream": streams.deposits.name, "outcome": "skipped"}
        )
    letters = dict(await rows(database, "SELECT coalesce(key, ''), error FROM dead_letters"))
    assert letters["acme:b1"] == "header ce_source is null"
    assert letters["acme:b2"] == "header x-proxy is not UTF-8"
    assert letters["acme:b3"] == "ValidationError: : json_invalid"
    assert letters["acme:b4"] == "ValidationError: account: string_type; amount: missing"
    assert letters["acme:f"].startswith("foreign type")
    assert letters[""].startswith("record has no key")
    assert await rows(database, "SELECT key FROM parked_keys ORDER BY 1") == [(f"acme:b{n}",) for n in (1, 2, 3, 4)]
    assert skipped == 1


@pytest.mark.rule(12)
async def test_what_no_broker_would_take_fails_its_own_handler_and_nobody_else(database):
    """Accepted into the outbox it would stand at its head for ever."""
    streams = make_streams()

    async def handler(events, tx):
        await deposit(events, tx)
        for event in events:
            if event.message.amount == 2:
                big = BalanceChanged(account="x" * RECORD_LIMIT_BYTES, balance=0, version=1)
                tx.publish(big, tenant="acme", cause=event.cause)

    async with by_hand(database, streams, handler=handler) as (_, consumer):
        await consumer.take(log(streams, [record(streams, account, n) for n, account in enumerate("abcd")]))
    assert await rows(database, "SELECT key FROM dead_letters") == [("acme:c",)]
    assert await rows(database, "SELECT account FROM accounts ORDER BY 1") == [("a",), ("b",), ("d",)]
    assert await value(database, "SELECT sum(count) FROM outbox") == 3


@pytest.mark.rule(3)
async def test_too_old_and_from_the_future_are_dead_letters_without_parking(database):
    streams = make_streams()
    now = datetime.now(UTC)
    old, late = now - timedelta(days=3, minutes=1), now - timedelta(days=2, hours=23)
    async with by_hand(database, streams) as (_, consumer):
        records = [
            record(streams, "a", 1, time=old),
            record(streams, "a", 2, time=late),
            record(streams, "a", 3, time=now + timedelta(hours=25)),
            record(streams, "a", 4, time=now + timedelta(hours=23)),
        ]
        await consumer.take(log(streams, records))
        assert not consumer.halted
    assert await amounts(database, "a") == [2, 4]
    assert await value(database, "SELECT count(*) FROM dead_letters WHERE error LIKE '%outside the inbox'") == 2
    assert await value(database, "SELECT count(*) FROM parked_keys") == 0


@pytest.mark.rule(1)
async def test_a_higher_major_stops_the_consumer_and_commits_nothing(database):
    streams = make_streams()
    async with by_hand(database, streams) as (_, consumer):
        newer = record(streams, "a", type_name=f"saldo.{streams.deposits.owner}.deposited.v2")
        taking = asyncio.create_task(consumer.take(log(streams, [record(streams, "a"), newer])))
        await until(lambda: consumer.halted)
        assert "deploy a newer one" in consumer.reason
        assert consumer.subscriber.consumer.committed == {}
        consumer.stop.set()
        await taking
    assert await amounts(database, "a") == []


@pytest.mark.rule(3)
async def test_a_commit_of_unknown_outcome_is_repeated_and_the_inbox_decides(database, monkeypatch):
    streams = make_streams()
    async with by_hand(database, streams) as (service, consumer):
        whole = service._work.transaction
        failures = iter([True, True])

        @contextlib.asynccontextmanager
        async def lost_after_commit():
            async with whole() as tx:
                yield tx
            if next(failures, False):
                raise ConnectionResetError("the connection was lost during COMMIT")

        monkeypatch.setattr(type(service._work), "transaction", lambda _self: lost_after_commit())
        await consumer.take(log(streams, [record(streams, "a", 3), record(streams, "a", 4)]))
        assert consumer.waiting == ""
    assert await amounts(database, "a") == [3, 4]
    assert await value(database, "SELECT count(*) FROM outbox") == 1


events = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 9),
        st.sampled_from(["", "", "", "", "", "poison", "bug", "json"]),
        st.integers(0, 5),
    ),
    max_size=12,
)
_TABLES = "TRUNCATE accounts, entries, inbox, outbox, parked, parked_keys, dead_letters"
_STATE = (
    "SELECT account, balance, version FROM accounts ORDER BY 1",
    "SELECT account, amount, event_id FROM entries ORDER BY account, entry",
    "SELECT id FROM inbox ORDER BY 1",
    "SELECT key, id FROM parked ORDER BY key, arrival",
    "SELECT key FROM parked_keys ORDER BY 1",
    "SELECT key, event_id, error FROM dead_letters ORDER BY 1, 2",
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_events=events, cuts=st.lists(st.integers(1, 6), min_size=12, max_size=12))
@pytest.mark.rule(4)
async def test_a_batch_equals_its_records_one_by_one(database, given_events, cuts):
    """Tables, facts and the last state per key; duplicates, poison and broken bodies among the events."""
    streams = make_streams()
    records = []
    for position, (account, amount, trouble, copies) in enumerate(given_events):
        one = record(streams, account, amount, trouble=trouble, event_id=f"e{position}")
        one = Sent(one.key, b"{", one.headers) if trouble == "json" else one
        records += [one] * (1 + (copies == 5))
    ends = []
    for one_by_one in (True, False):
        async with by_hand(database, streams) as (service, consumer):
            await service.pool.execute(_TABLES)
            left, sizes = log(streams, records), iter(cuts * 3)
            while left:
                size = 1 if one_by_one else next(sizes)
                await consumer.take(left[:size])
                left = left[size:]
            last = {one.key: one.payload for one in await waiting(service.pool)}
        ends.append([last, *[await rows(database, statement) for statement in _STATE]])
    assert ends[0] == ends[1]


async def test_a_backlog_is_one_only_while_the_consumer_gets_on_with_it(database):
    streams = make_streams()
    async with by_hand(database, streams) as (_, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1)]))
        kafka = consumer.subscriber.consumer
        kafka.highwater = lambda position: kafka.committed[position] + BACKLOG_RECORDS + 1
        assert consumer.has_backlog
        consumer.progress_at -= BACKLOG_STALE_S
        assert not consumer.has_backlog
        await consumer.take(log(streams, [record(streams, "a", 1)], first_offset=1))
        assert consumer.has_backlog
        kafka.assignment = set
        assert not consumer.has_backlog


async def test_every_fetch_names_all_partitions_however_long_a_batch_takes(kafka_bootstrap, database, monkeypatch):
    streams, begun, gate, asked = make_streams(partitions=2), asyncio.Event(), asyncio.Event(), []
    fetch = fetcher.Fetcher._proc_fetch_request

    async def noted(self, assignment, node_id, request):
        asked.extend(len(partitions) for topic, partitions in request._topics if topic == streams.deposits.name)
        return await fetch(self, assignment, node_id, request)

    async def slow(events, tx):
        begun.set()
        await gate.wait()
        await deposit(events, tx)

    monkeypatch.setattr(fetcher.Fetcher, "_proc_fetch_request", noted)
    async with running(make_service(kafka_bootstrap, database, streams, handler=slow)):
        await send(kafka_bootstrap, streams.deposits, [record(streams, "a", 1, event_id="e1")])
        await begun.wait()
        # The second comes in, and is held by the client, while the first is worked on.
        await send(kafka_bootstrap, streams.deposits, [record(streams, "a", 2, event_id="e2")])
        await asyncio.sleep(0.5)
        gate.set()
        await until_count(database, "SELECT count(*) FROM entries", 2)
    assert set(asked) == {2}


class Unreadable(str):
    """A header's name that is sent as bytes that are no UTF-8: as Latin-1 writes it."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        """As the producer asks for it."""
        return super().encode("latin-1")


@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_a_header_without_a_readable_name_stops_nothing(kafka_bootstrap, database, compression, monkeypatch):
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)  # Put back what the service puts there.
    # The fast builder asks no name for its bytes.
    monkeypatch.setattr(message_accumulator, "DefaultRecordBatchBuilder", default_records._DefaultRecordBatchBuilderPy)
    streams = make_streams(partitions=1)
    good = [record(streams, f"g{n}", n, event_id=f"e{n}") for n in range(6)]
    strange = replace(good[2], headers=[*good[2].headers, (Unreadable("x-\xff\xfe"), b"a note")])
    # Its id has a name that cannot be read, and so it has none.
    nameless = replace(
        good[3],
        headers=[(Unreadable("ce_\xe9d") if name == "ce_id" else name, part) for name, part in good[3].headers],
    )
    async with running(make_service(kafka_bootstrap, database, streams)) as service:
        producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, compression_type=compression)
        batch = producer.create_batch()
        for one in (*good[:2], strange, nameless, *good[4:]):
            batch.append(key=one.key, value=one.value, timestamp=None, headers=one.headers)
        await producer.start()
        await (await producer.send_batch(batch, streams.deposits.name, partition=0))
        await producer.stop()
        await until_count(database, "SELECT count(*) FROM entries", 5)
        await until_count(database, "SELECT count(*) FROM dead_letters", 1)
        assert await service.reasons() == []
    assert await rows(database, "SELECT account, event_id FROM entries ORDER BY 1") == [
        (f"g{n}", f"e{n}") for n in (0, 1, 2, 4, 5)
    ]
    [(key, error, packed)] = await rows(database, "SELECT key, error, record FROM dead_letters")
    assert key == "acme:g3"
    assert "ce_id" in error
    assert ("ce_\\xe9d", b"e3") in list(map(tuple, unpack(packed).headers))

"""The relay: what was committed is sent, in order per key; whatever happens there are only late duplicates."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from zlib import crc32

import pytest
from aiokafka.errors import MessageSizeTooLargeError, NotEnoughReplicasError, NotLeaderForPartitionError

from contracts.envelope import HEADERS
from services.bus import announce
from services.bus.failures import Backoff
from services.bus.members import Holder
from services.bus.outbox import RECORD_LIMIT_BYTES, SLOTS, packed, unpack
from services.bus.relay import REFUSALS, Relay, new_producer
from tests.bus.model import (
    BalanceChanged,
    Deposited,
    by_hand,
    log,
    make_service,
    make_streams,
    read_all,
    record,
    rows,
    running,
    until,
    until_count,
    value,
)
from tests.outbox import waiting

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def publish(service, account: str, versions: range, tenant: str = "acme", event_id: str = "") -> None:
    async with service.transaction() as tx:
        for version in versions:
            message = BalanceChanged(account=account, balance=0, version=version)
            tx.publish(message, tenant=tenant, cause=(), event_id=event_id)


def first_copies(records, account: str) -> list[int]:
    """Versions in the order of their first copy in the log."""
    seen: dict[int, None] = {}
    for one in records:
        body = json.loads(one.value)
        if body["account"] == account:
            seen.setdefault(body["version"])
    return list(seen)


class FakeBatch:
    """Holds one record, so that each can be acknowledged or refused."""

    value: bytes = b""

    def append(self, *, value, **_):
        if self.value:
            return None
        self.value = value
        return self


class FakeProducer:
    """Acknowledges, or fails as told: `faults` maps a version to the exception of its future."""

    def __init__(self, faults: dict[int, Exception]) -> None:
        self.faults, self.bodies = faults, []

    @property
    def sent(self) -> list[int]:
        """The versions that were handed over, in order."""
        return [body["version"] for body in self.bodies]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def partitions_for(self, _topic):
        return {0}

    def create_batch(self):
        return FakeBatch()

    async def send_batch(self, batch, _topic, *, partition):
        assert partition == 0
        self.bodies.append(body := json.loads(batch.value))
        version = body.get("version")
        future = asyncio.get_running_loop().create_future()
        if version in self.faults:
            future.set_exception(self.faults[version])
        else:
            future.set_result(None)
        return future


@pytest.mark.rule(11)
async def test_rows_of_a_key_stand_in_the_order_of_their_commits(database):
    """Two members write about the same accounts at once: whoever is later has the higher row, in every account."""
    streams = make_streams()
    async with by_hand(database, streams) as (_, first), by_hand(database, streams) as (service, second):
        batches = [[record(streams, account, number) for account in "abc"] for number in range(40)]

        async def work(consumer, mine):
            for batch in mine:
                await consumer.take(log(streams, batch))

        await asyncio.gather(work(first, batches[::2]), work(second, batches[1::2]))
        told = [json.loads(one.payload) for one in await waiting(service.pool)]
    for account in "abc":
        versions = [body["version"] for body in told if body["account"] == account]
        assert versions == list(range(1, 41))


@pytest.mark.rule(13)
async def test_two_relays_and_a_restart_leave_only_late_duplicates(kafka_bootstrap, database, monkeypatch):
    """Both believe that they hold the shard, as after a lock that was lost unnoticed."""

    async def always(_holder, _number):
        return True

    monkeypatch.setattr(Holder, "try_lock", always)
    streams = make_streams()
    service = make_service(kafka_bootstrap, database, streams, relay_chunk=7)
    async with running(service):
        stop = asyncio.Event()
        rival = Relay(service._work, 0)
        running_rival = asyncio.create_task(rival.run(stop))
        for start in range(0, 300, 10):
            for account in ("a", "b"):
                await publish(service, account, range(start, start + 10))
            rival.wake()
            if start == 150:
                stop.set()
                await running_rival
                stop.clear()
                running_rival = asyncio.create_task(rival.run(stop))
        await until_count(database, "SELECT count(*) FROM outbox", 0)
        stop.set()
        await running_rival
        records = await read_all(kafka_bootstrap, streams.balances)
    assert first_copies(records, "a") == list(range(300))
    assert first_copies(records, "b") == list(range(300))


@pytest.mark.rule(13)
async def test_exactly_the_acknowledged_rows_move_and_the_rest_is_sent_again(database):
    streams = make_streams()
    async with by_hand(database, streams) as (service, _):
        for versions in (range(2), range(2, 4), range(4, 5)):
            await publish(service, "a", versions)
        producers = [FakeProducer({2: NotEnoughReplicasError()}), FakeProducer({})]
        made = iter(producers)
        relay, stop = Relay(service._work, 0, lambda *_: next(made)), asyncio.Event()
        task = asyncio.create_task(relay.run(stop))
        await until_count(database, "SELECT count(*) FROM outbox", 0)
        stop.set()
        await task
    assert producers[0].sent == [0, 1, 2]
    assert producers[1].sent == [2, 3, 4]
    assert await value(database, "SELECT sum(count) FROM outbox_sent") == 5


@pytest.mark.rule(13)
async def test_a_head_row_refused_three_times_stops_the_shard_loudly(database):
    streams = make_streams()
    async with by_hand(database, streams) as (service, _):
        await publish(service, "a", range(3))
        made: list[FakeProducer] = []

        def refusing(*_):
            made.append(FakeProducer({0: MessageSizeTooLargeError(), 1: NotEnoughReplicasError(), 2: TimeoutError()}))
            return made[-1]

        relay, stop = Relay(service._work, 0, refusing), asyncio.Event()
        task = asyncio.create_task(relay.run(stop))
        await until(lambda: "refused 3 times" in relay.reason)
        stop.set()
        await task
    assert len(made) == REFUSALS
    assert await value(database, "SELECT sum(count) FROM outbox") == 3


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
@pytest.mark.rule(13)
async def test_a_changed_number_of_shards_keeps_the_order_of_a_key_and_leaves_nothing_behind(database, before, after):
    """Each relay alone, the last one first: what waits from before is sent by the one that sends what is new."""
    streams = make_streams()
    accounts = [f"a{number}" for number in range(8)]
    for shards, versions in ((before, range(3)), (after, range(3, 6))):
        async with by_hand(database, streams, relay_shards=shards) as (service, _):
            for account in accounts:
                await publish(service, account, versions)
    sent: dict[str, list[int]] = {account: [] for account in accounts}
    async with by_hand(database, streams, relay_shards=after) as (service, _):
        for relay in reversed(service._relays):
            producer = FakeProducer({})
            relay._producer_of = lambda *_, one=producer: one
            stop = asyncio.Event()
            stop.set()
            await relay._holder.open()
            await relay._relay(stop, Backoff(stop, 1))
            await relay._holder.close()
            for body in producer.bodies:
                sent[body["account"]].append(body["version"])
        assert await value(database, "SELECT count(*) FROM outbox") == 0
    assert sent == {account: list(range(6)) for account in accounts}


async def test_a_chunk_is_cut_into_batches_and_every_key_keeps_its_order(kafka_bootstrap, database):
    """Some 600 kB of rows: more than one batch for at least one partition."""
    streams = make_streams()
    service = make_service(kafka_bootstrap, database, streams, relay_chunk=10_000)
    accounts = [f"{name}{'x' * 400}" for name in "abcdefgh"]
    async with by_hand(database, streams) as (writer, _), writer.transaction() as tx:
        for version in range(100):
            for account in accounts:
                message = BalanceChanged(account=account, balance=0, version=version)
                tx.publish(message, tenant="acme", cause=())
    async with running(service):
        await until_count(database, "SELECT count(*) FROM outbox", 0)
        records = await read_all(kafka_bootstrap, streams.balances)
    assert len(records) == 800
    assert all(first_copies(records, account) == list(range(100)) for account in accounts)
    assert all(one.partition == crc32(one.key) % streams.balances.partitions for one in records)


async def test_what_a_transaction_says_is_one_row_a_topic_and_slot_and_a_large_pack_is_cut(database):
    streams = make_streams()
    third = "x" * (RECORD_LIMIT_BYTES // 9 - 1_000)  # It stands in the key, in a header and in the body.
    async with by_hand(database, streams) as (service, _):
        async with service.transaction() as tx:
            for version in range(4):
                for account in ("a", f"a{third}"):
                    tx.publish(BalanceChanged(account=account, balance=0, version=version), tenant="acme", cause=())
        packs = await rows(database, "SELECT slot, count FROM outbox ORDER BY seq")
        records = await waiting(service.pool)
    slots = [crc32(f"acme:{account}".encode()) % SLOTS for account in ("a", f"a{third}")]
    assert slots[0] != slots[1]
    assert packs == [(slots[0], 4), (slots[1], 3), (slots[1], 1)]
    assert [json.loads(one.payload)["version"] for one in records] == [*range(4), *range(4)]
    assert {one.headers["ce_type"] for one in records} == {streams.catalogue.by_model[BalanceChanged].name}


async def test_a_record_of_a_newer_build_is_not_sent_with_wrong_headers():
    with pytest.raises(ValueError, match="this build knows"):
        unpack(packed([b"\0".join([b"key", *[b"value"] * (len(HEADERS) + 1), b"payload"])]))


@pytest.mark.rule(13)
async def test_only_the_holder_of_the_shard_sends_and_a_waiting_process_wakes_it(kafka_bootstrap, database):
    streams = make_streams()
    first, second = (make_service(kafka_bootstrap, database, streams) for _ in range(2))
    async with running(first):
        await until(lambda: first._relays[0].holds)
        async with running(second):
            await publish(second, "a", range(3))
            await until_count(database, "SELECT count(*) FROM outbox", 0)
            assert not second._relays[0].holds
            first.stop()
            await until(lambda: second._relays[0].holds)
            await publish(second, "a", range(3, 6))
            await until_count(database, "SELECT count(*) FROM outbox", 0)
    assert first_copies(await read_all(kafka_bootstrap, streams.balances), "a") == list(range(6))


@pytest.mark.parametrize("writer", ["holder", "waiting"])
@pytest.mark.rule(14)
async def test_a_commit_wakes_the_relay_that_holds_the_shard(kafka_bootstrap, database, monkeypatch, writer):
    """In this process at once, in another one by a notification; nobody looks by himself within the hour."""
    for name in ("BUSY_POLL_S", "IDLE_POLL_S"):
        monkeypatch.setattr(f"services.bus.relay.{name}", 3600.0)
    streams = make_streams()
    first, second = (make_service(kafka_bootstrap, database, streams) for _ in range(2))
    async with running(first):
        await until(lambda: first._relays[0].holds)
        async with running(second):
            await until(lambda: second._relays[0]._holder.connection)
            service = first if writer == "holder" else second
            for start in (0, 3):
                await publish(service, "a", range(start, start + 3))
                await until_count(database, "SELECT count(*) FROM outbox", 0)
            monkeypatch.undo()
            for service in (first, second):
                service._relays[0].wake()  # So that they stop before the hour is over.


@pytest.mark.rule(14)
async def test_a_row_that_nobody_told_of_is_found_by_looking(kafka_bootstrap, database, monkeypatch):
    monkeypatch.setattr(Relay, "wake", lambda _relay: None)
    service = make_service(kafka_bootstrap, database, make_streams())
    async with running(service):
        await publish(service, "a", range(3))
        await until_count(database, "SELECT count(*) FROM outbox", 0)


@pytest.mark.rule(13)
async def test_republish_sends_again_in_the_old_order_before_what_is_new(kafka_bootstrap, database):
    streams = make_streams()
    service = make_service(kafka_bootstrap, database, streams)
    async with running(service):
        await publish(service, "a", range(5))
        await until_count(database, "SELECT count(*) FROM outbox", 0)
        assert await announce.republish(service._work, datetime.now(UTC) + timedelta(hours=1), None) == 0
        assert await announce.republish(service._work, datetime.now(UTC) - timedelta(hours=1), None) == 5
        await until_count(database, "SELECT count(*) FROM outbox", 0)
        records = await read_all(kafka_bootstrap, streams.balances)
    assert [json.loads(one.value)["version"] for one in records] == [*range(5), *range(5)]
    assert len({dict(one.headers)["ce_id"] for one in records}) == 5
    assert await value(database, "SELECT sum(count) FROM outbox_sent") == 5


@pytest.mark.rule(13)
async def test_nothing_personal_is_kept_after_it_was_sent(database):
    streams = make_streams()
    async with by_hand(database, streams) as (service, _):
        for version in range(2):
            await publish(service, "a", range(version, version + 1))
        await service.pool.execute("UPDATE outbox SET personal = true WHERE seq = (SELECT min(seq) FROM outbox)")
        relay, stop = Relay(service._work, 0, lambda *_: FakeProducer({})), asyncio.Event()
        task = asyncio.create_task(relay.run(stop))
        await until_count(database, "SELECT count(*) FROM outbox", 0)
        stop.set()
        await task
    assert await value(database, "SELECT count(*) FROM outbox_sent") == 1


@pytest.mark.rule(15)
async def test_states_are_announced_page_by_page_on_request_and_once_a_day(database):
    streams = make_streams()
    pages = []

    async def announcer(tx, tenant, after, limit):
        pages.append((tenant, after, limit))
        tx.publish(BalanceChanged(account=after or "0", balance=1, version=1), tenant="acme", cause=())
        return str(len(pages)) if len(pages) < 3 else None

    async with by_hand(database, streams) as (service, _):
        due = {streams.balances.name: announcer}
        assert await announce.announce_due(service._work, due) == 0
        await announce.request(service._work, streams.balances.name, "acme")
        assert await announce.announce_due(service._work, due) == 3
        assert pages == [("acme", "", 200), ("acme", "1", 200), ("acme", "2", 200)]
        assert await announce.announce_due(service._work, due) == 0
        await service.pool.execute("UPDATE announcements SET ended_at = now() - interval '25 hours'")
        assert await announce.announce_due(service._work, due) == 1
    assert pages[-1] == (None, "", 200)
    assert await rows(database, "SELECT DISTINCT topic FROM outbox") == [(streams.balances.name,)]


async def test_the_producer_is_idempotent_and_waits_for_all_replicas(kafka_bootstrap):
    producer = new_producer(kafka_bootstrap)
    assert producer._txn_manager is not None
    assert producer._sender._acks == -1
    await producer.stop()


async def test_in_a_rush_only_what_is_urgent_goes_out_and_the_rest_has_its_turn(database, monkeypatch):
    streams, rush = make_streams(urgent=True), True
    async with by_hand(database, streams, relay_chunk=3) as (service, _):
        for version in range(4):
            async with service.transaction() as tx:
                tx.publish(Deposited(account="a", amount=version), tenant="acme", cause=())
                tx.publish(BalanceChanged(account="a", balance=0, version=version), tenant="acme", cause=())
        producer = FakeProducer({})
        relay = Relay(service._work, 0, in_rush=lambda: rush)
        await relay._holder.open()
        monkeypatch.setattr("services.bus.relay.REST_S", 3600.0)
        assert [await relay._chunk(producer) for _ in range(3)] == [3, 3, 0]
        rush = False
        assert [await relay._chunk(producer) for _ in range(2)] == [2, 0]
        await relay._holder.close()
    sent = [("d", body["amount"]) if "amount" in body else ("b", body["version"]) for body in producer.bodies]
    # The first chunk is whatever is oldest: nothing waits for ever.
    assert sent == [("d", 0), ("b", 0), ("d", 1), ("b", 1), ("b", 2), ("b", 3), ("d", 2), ("d", 3)]


async def test_without_urgent_topics_or_after_a_long_wait_a_rush_holds_nothing_back(database, monkeypatch):
    monkeypatch.setattr("services.bus.relay.REST_S", 3600.0)
    for urgent, wait_s in ((False, 0), (True, 60)):
        streams = make_streams(urgent=urgent)
        async with by_hand(database, streams, relay_chunk=2) as (service, _):
            for version in range(3):
                async with service.transaction() as tx:
                    tx.publish(Deposited(account="a", amount=version), tenant="acme", cause=())
                    tx.publish(BalanceChanged(account="a", balance=0, version=version), tenant="acme", cause=())
            await service.pool.execute("UPDATE outbox SET created_at = created_at - $1 * interval '1 second'", wait_s)
            producer, relay = FakeProducer({}), Relay(service._work, 0, in_rush=lambda: True)
            await relay._holder.open()
            assert [await relay._chunk(producer) for _ in range(4)] == [2, 2, 2, 0]
            await relay._holder.close()
        assert [body.get("amount", body.get("version")) for body in producer.bodies] == [0, 0, 1, 1, 2, 2]


@pytest.mark.rule(13)
async def test_nothing_is_handed_over_behind_a_batch_that_has_failed(database):
    """A batch that failed before it was numbered leaves no gap: the next one of the partition would be accepted."""
    streams = make_streams()
    async with by_hand(database, streams) as (service, _):
        await publish(service, "a", range(3))
        producer, relay = FakeProducer({0: NotLeaderForPartitionError()}), Relay(service._work, 0)
        await relay._holder.open()
        with pytest.raises(NotLeaderForPartitionError):
            await relay._chunk(producer)
        await relay._holder.close()
    assert producer.sent == [0]

"""A poisoned record parks its aggregate: later events wait in order, all else flows, and people can free it."""

import asyncio
import base64
import secrets
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from services.bus import brake, inbox
from services.deadletters.letters import NotOpen, ReplayFailed
from services.deadletters.lists import LetterPage, listed, shown
from tests.bus.model import (
    Sent,
    amounts,
    by_hand,
    deposit,
    log,
    make_streams,
    record,
    rows,
    until,
    value,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPEN = "SELECT id FROM dead_letters WHERE state = 'open'"


class Fixable:
    """The sample handler with a bug that a test can fix."""

    def __init__(self) -> None:
        self.broken = True

    async def __call__(self, events, tx) -> None:
        for event in events:
            if self.broken and event.message.trouble:
                raise KeyError(event.message.trouble)
        await deposit([event for event in events if not event.message.trouble], tx)
        for event in events:
            if event.message.trouble:
                await tx.connection.execute(
                    "INSERT INTO entries (account, amount, event_id) VALUES ($1, $2, $3)",
                    event.message.account, event.message.amount, event.envelope.id,
                )  # fmt: skip


@pytest.mark.rule(7)
async def test_poison_parks_its_key_only_and_order_survives_replay_and_drain(database):
    streams, handler = make_streams(), Fixable()
    async with by_hand(database, streams, handler=handler) as (service, consumer):
        first = [record(streams, "a", 1), record(streams, "a", 2, trouble="bug"), record(streams, "a", 3)]
        other = [record(streams, "b", n) for n in range(3)]
        await consumer.take(log(streams, [*first, *other]))
        await consumer.take(log(streams, [record(streams, "a", 4), record(streams, "b", 9)], 6))
        assert await amounts(database, "a") == [1]
        assert await amounts(database, "b") == [0, 1, 2, 9]
        assert await rows(database, "SELECT key FROM parked_keys") == [("acme:a",)]
        letter = await value(database, OPEN)
        with pytest.raises(ReplayFailed, match="KeyError"):
            await service.dead_letters.replay(letter)
        assert (await shown(service._work, letter, payload=False))["attempts"] == 2
        handler.broken = False
        assert await service.dead_letters.replay(letter) == 2
        assert await amounts(database, "a") == [1, 2, 3, 4]
        assert await value(database, "SELECT count(*) FROM parked_keys") == 0
        with pytest.raises(NotOpen):
            await service.dead_letters.replay(letter)
        await consumer.take(log(streams, [record(streams, "a", 5)], 8))
    assert await amounts(database, "a") == [1, 2, 3, 4, 5]


@pytest.mark.rule(7)
async def test_everything_delivered_again_while_parked_and_after_has_no_second_effect(database):
    streams, handler = make_streams(), Fixable()
    async with by_hand(database, streams, handler=handler) as (service, consumer):
        trouble = Sent(b"acme:c", b"{", record(streams, "c").headers)
        whole = log(
            streams,
            [record(streams, "a", 1), record(streams, "a", 2, trouble="bug"), record(streams, "a", 3), trouble],
        )
        for _ in range(3):
            await consumer.take(whole)
        assert await value(database, "SELECT count(*) FROM dead_letters") == 2
        handler.broken = False
        await service.dead_letters.replay(await value(database, OPEN + " AND key = 'acme:a'"))
        await consumer.take(whole)
        letter = await value(database, OPEN)
        await service.dead_letters.discard(letter, reason="never readable", author="ana")
        await consumer.take(whole)
        await service.dead_letters.drain_stalled()
        assert await value(database, "SELECT count(*) FROM parked_keys") == 0
    assert await amounts(database, "a") == [1, 2, 3]
    assert await value(database, "SELECT count(*) FROM dead_letters") == 2


@pytest.mark.rule(7)
async def test_a_drained_event_that_fails_is_the_new_head_and_the_rest_stays(database):
    streams, handler = make_streams(), Fixable()
    async with by_hand(database, streams, handler=handler) as (service, consumer):
        troubles = ["x", "", "y", ""]
        await consumer.take(
            log(streams, [record(streams, "a", n, trouble=trouble) for n, trouble in enumerate(troubles)])
        )
        head = await value(database, OPEN)
        assert await service.dead_letters.discard(head, reason="a test entry", author="ana") == 1
        assert await amounts(database, "a") == [1]
        assert await rows(database, "SELECT error, state, reason FROM dead_letters ORDER BY id") == [
            ("KeyError: 'x'", "discarded", "a test entry"),
            ("KeyError: 'y'", "open", ""),
        ]
        assert await value(database, "SELECT count(*) FROM parked") == 1
        handler.broken = False
        await service.dead_letters.replay(await value(database, OPEN))
    assert await amounts(database, "a") == [1, 2, 3]
    assert await value(database, "SELECT count(*) FROM parked_keys") == 0


@pytest.mark.rule(7)
async def test_a_key_whose_head_is_solved_goes_on_after_a_crash(database):
    streams = make_streams()
    async with by_hand(database, streams) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1, trouble="bug"), record(streams, "a", 2)]))
        await service.pool.execute("UPDATE dead_letters SET state = 'discarded'")  # and the process died here
        await service.dead_letters.drain_stalled()
    assert await amounts(database, "a") == [2]


@pytest.mark.rule(7)
async def test_an_event_that_is_being_parked_while_its_key_is_freed_is_not_stranded(database):
    """With one DELETE … WHERE NOT EXISTS instead of lock, look, delete, the event would wait for ever."""
    streams = make_streams()
    async with by_hand(database, streams) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1, trouble="bug")]))
        late = consumer.reader.read(log(streams, [record(streams, "a", 2)], 1)[0], datetime.now(UTC))
        connection = await asyncpg.connect(database)
        parking = connection.transaction()
        await parking.start()
        assert await inbox.locked_keys(connection, "bank", [late]) == {"acme:a"}
        freeing = asyncio.create_task(
            service.dead_letters.discard(await value(database, OPEN), reason="free it", author="ana")
        )
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        await until(lambda: _one(database, waits))
        await inbox.park(connection, "bank", [late], service._work.seal)
        await parking.commit()
        await connection.close()
        assert await freeing == 1
    assert await amounts(database, "a") == [2]
    assert await value(database, "SELECT count(*) FROM parked_keys") == 0


@pytest.mark.rule(6)
async def test_parking_holds_over_all_streams_of_the_service_by_aggregate(database):
    streams, handler = make_streams(), Fixable()
    async with by_hand(database, streams, handler=handler) as (_, consumer):
        consumer.reader._aggregate = lambda _key, headers: headers["ce_correlationid"]
        await consumer.take(
            log(
                streams,
                [
                    record(streams, "a", 1, trouble="bug", correlation_id="flow"),
                    record(streams, "b", 2, correlation_id="flow"),
                    record(streams, "a", 3, correlation_id="other"),
                ],
            )
        )
    assert await amounts(database, "a") == [3]
    assert await rows(database, "SELECT key FROM parked") == [("flow",)]


@pytest.mark.rule(3)
async def test_an_event_that_waited_longer_than_the_inbox_lasts_is_drained(database):
    streams = make_streams()
    async with by_hand(database, streams) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1, trouble="bug"), record(streams, "a", 2)]))
        months = timedelta(days=60)
        service._work.clock = lambda: datetime.now(UTC) + months
        await service.pool.execute(
            "SELECT keep_days('inbox', current_date + 57, current_date + 63), "
            "keep_days('outbox_sent', current_date + 57, current_date + 63)"
        )
        await service.dead_letters.discard(await value(database, OPEN), reason="old", author="ana")
    assert await amounts(database, "a") == [2]


@pytest.mark.rule(8)
async def test_too_much_poison_stops_the_consumer_until_another_build_or_a_person(database):
    streams = make_streams()
    bad = [record(streams, f"a{n}", n, trouble="bug") for n in range(brake.KEYS + 5)]
    async with by_hand(database, streams) as (_, consumer):
        taking = asyncio.create_task(consumer.take(log(streams, bad)))
        await until(lambda: consumer.brake.reason)
        assert consumer.reason.startswith("brake: 21 keys")
        assert await value(database, "SELECT count(*) FROM dead_letters") == brake.KEYS
        assert consumer.subscriber.consumer.committed == {}
        consumer.stop.set()
        await taking
    async with by_hand(database, streams) as (_, same_build):
        await same_build.brake.load()
        assert same_build.brake.reason
    async with by_hand(database, streams, build="0.1.1") as (_, fixed):
        await fixed.brake.load()
        assert not fixed.brake.reason


@pytest.mark.rule(8)
async def test_a_person_resumes_a_braked_consumer_and_it_goes_on_where_it_stood(database):
    streams, handler = make_streams(), Fixable()
    bad = [record(streams, f"a{n}", n, trouble="bug") for n in range(brake.KEYS + 5)]
    async with by_hand(database, streams, handler=handler) as (_, consumer):
        taking = asyncio.create_task(consumer.take(log(streams, bad)))
        await until(lambda: consumer.brake.reason)
        handler.broken = False
        assert await consumer.brake.release()
        await taking
        assert not consumer.reason
        assert not await consumer.brake.release()
        assert len(consumer.subscriber.consumer.committed) == 1
    assert await value(database, "SELECT count(*) FROM entries") == 5


@pytest.mark.rule(8)
async def test_a_twentieth_of_the_last_thousand_records_brakes_too(database):
    streams = make_streams()
    async with by_hand(database, streams) as (_, consumer):
        few, many = brake.Brake(consumer._work, consumer.stream), brake.Brake(consumer._work, consumer.stream)
        few.taken = 999
        assert not any(few.count("acme:a", "KeyError") for _ in range(60))
        many.taken = 1_000
        assert not any(many.count("acme:a", "KeyError") for _ in range(49))
        assert many.count("acme:a", "KeyError").startswith("1 keys and 50 of the last records poisoned")


async def test_what_postgres_cannot_hold_in_a_key_is_buried_all_the_same(database):
    streams = make_streams()
    odd = record(streams, "a")
    records = [
        Sent(b"acme:\x00", odd.value, odd.headers),
        record(streams, "b", event_id="e\x00"),
        record(streams, "c", event_id="e" * 100_000),
        Sent(b"acme:" + b"k" * 100_000, odd.value, odd.headers),
        record(streams, "d" * 400, correlation_id="\x00" * 2_000),
        record(streams, "e", 5),
    ]
    async with by_hand(database, streams) as (_, consumer):
        await consumer.take(log(streams, records))
        assert not consumer.halted
    assert await amounts(database, "e") == [5]
    # Among them the flow whose id holds NUL: CloudEvents forbids it, and what follows from it could not be published.
    assert await value(database, "SELECT count(*) FROM dead_letters") == 5


@pytest.mark.rule(3, 8)
async def test_foreign_unkeyed_and_too_old_records_do_not_brake(database):
    streams = make_streams()
    foreign = [record(streams, f"a{n}", n, type_name="saldo.stranger.spoke.v1") for n in range(brake.KEYS + 5)]
    unkeyed = [Sent(None, one.value, one.headers) for one in foreign]
    year = timedelta(days=365)
    old = [record(streams, f"o{n}", n, time=datetime.now(UTC) - year) for n in range(brake.KEYS + 5)]
    async with by_hand(database, streams) as (_, consumer):
        await consumer.take(log(streams, [*foreign, *unkeyed, *old, record(streams, "b", 1)]))
        assert not consumer.halted
        assert not consumer.brake.reason
    assert await amounts(database, "b") == [1]


@pytest.mark.rule(5)
async def test_a_topic_made_anew_counts_from_0_again_and_hides_no_letter(database):
    """Two incarnations of one log: their first records meet at one offset, with and without a readable event id."""
    streams = make_streams()
    nameless = [Sent(b"acme:" + name, b"{", [("ce_id", None)]) for name in (b"a", b"b")]
    twice_bad = [record(streams, "c", 1, trouble="bug"), record(streams, "d", 2, trouble="bug")]
    foreign = [record(streams, "e", n, type_name="saldo.stranger.spoke.v1") for n in range(2)]
    async with by_hand(database, streams) as (service, consumer):
        for first, second in (nameless, twice_bad, foreign):
            for one in (first, second, second, first):
                await consumer.take(log(streams, [one]))
        assert outcomes(service, streams) == {"dead": 6, "duplicate": 2, "parked": 4}
    letters = await rows(database, 'SELECT key, event_id FROM dead_letters WHERE "offset" = 0')
    assert sorted(key for key, _ in letters) == ["acme:a", "acme:b", "acme:c", "acme:d", "acme:e", "acme:e"]
    assert len({event_id for _, event_id in letters}) == 6


@pytest.mark.rule(5)
async def test_a_record_that_was_buried_and_comes_again_is_a_duplicate_and_parks_nothing(database):
    """Its headers cannot be read, so no inbox row knows it: the letter does."""
    streams = make_streams()
    nameless = log(streams, [Sent(b"acme:a", b"{", [])])
    async with by_hand(database, streams) as (service, consumer):
        await consumer.take(nameless)
        await consumer.take([*nameless, *log(streams, [record(streams, "a", 2)], 1)])  # again, behind itself
        assert await value(database, "SELECT count(*) FROM parked") == 2
        assert (
            await service.dead_letters.discard(await value(database, OPEN), reason="never readable", author="ana") == 2
        )
        await consumer.take([*nameless, *log(streams, [record(streams, "a", 3)], 2)])
        assert outcomes(service, streams) == {"dead": 1, "duplicate": 2, "parked": 2, "done": 1}
    assert await amounts(database, "a") == [2, 3]
    assert await value(database, "SELECT count(*) FROM dead_letters") == 1
    assert await value(database, "SELECT count(*) FROM parked_keys") == 0


@pytest.mark.rule(5)
async def test_a_failure_while_the_database_cannot_write_is_not_poison(database):
    streams = make_streams()
    async with by_hand(database, streams) as (service, consumer):
        role = await value(database, "SELECT current_user")
        await service.pool.execute(f'ALTER ROLE "{role}" SET default_transaction_read_only = on')
        taking = asyncio.create_task(consumer.take(log(streams, [record(streams, "a", 1, trouble="bug")])))
        await until(lambda: consumer.waiting == "the database cannot write")
        await service.pool.execute(f'ALTER ROLE "{role}" SET default_transaction_read_only = off')
        await taking
    assert await value(database, "SELECT count(*) FROM dead_letters") == 1


@pytest.mark.rule(30)
async def test_personal_records_are_encrypted_where_they_wait_and_can_be_erased(database):
    streams = make_streams(personal=True)
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    async with by_hand(database, streams, handler=Fixable(), personal_key=key) as (service, consumer):
        await consumer.take(
            log(
                streams,
                [
                    record(streams, "a", 77_701, trouble="bug", correlation_id="order-1"),
                    record(streams, "a", 77_702, correlation_id="order-1"),
                    record(streams, "a", 77_703, correlation_id="order-2"),
                ],
            )
        )
        kept = await rows(database, "SELECT record FROM parked UNION ALL SELECT record FROM dead_letters")
        assert len(kept) == 3
        assert not any(b"7770" in stored or b"acme" in stored for (stored,) in kept)
        letter = await value(database, OPEN)
        assert "payload" not in await shown(service._work, letter, payload=True)
        assert await service.dead_letters.erase("order-1") == 2
        assert await rows(database, "SELECT state, record, key FROM dead_letters") == [("discarded", None, None)]
    assert await amounts(database, "a") == [77_703]


async def test_the_payload_of_other_streams_is_shown_on_request(database):
    streams = make_streams()
    async with by_hand(database, streams) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 5, trouble="bug")]))
        letter = await value(database, OPEN)
        assert "payload" not in await shown(service._work, letter, payload=False)
        told = await shown(service._work, letter, payload=True)
        assert '"amount": 5' in told["payload"]
        assert (await listed(service._work, LetterPage(tenant="acme", state="open")))[0]["id"] == letter
        assert await listed(service._work, LetterPage(tenant="other", state="open")) == []


def outcomes(service, streams) -> dict[str, int]:
    """What became of the records so far, by count."""
    counted = {
        outcome: service.metrics.registry.get_sample_value(
            "saldo_records_total", {"stream": streams.deposits.name, "outcome": outcome}
        )
        for outcome in ("done", "duplicate", "skipped", "parked", "dead")
    }
    return {outcome: int(count) for outcome, count in counted.items() if count}


async def _one(database: str, statement: str) -> bool:
    return await value(database, statement) == 1

"""What people do with dead letters: see them by cause, replay, replace, discard; nothing is ever lost of one."""

import base64
import json
import secrets
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest

from services.bus import Transient
from services.deadletters import lists
from services.deadletters.letters import ForPerson, NotOpen, ReplayFailed
from services.deadletters.lists import LetterFilter, LetterPage, grouped, listed, shown
from services.runtime.keeper import Keeper
from tests.bus.model import (
    Sent,
    amounts,
    by_hand,
    deposit,
    log,
    make_service,
    make_streams,
    record,
    rows,
    running,
    send,
    until,
    until_count,
    value,
)
from tests.bus.test_parking import Fixable

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPEN = "SELECT id FROM dead_letters WHERE state = 'open'"


def body(account: str, amount: int, trouble: str = "") -> str:
    return json.dumps({"account": account, "amount": amount, "trouble": trouble})


async def test_letters_of_one_cause_are_one_group_with_count_age_and_what_waits(database):
    streams = make_streams()
    good = record(streams, "a", 1)
    bad = [Sent(b"acme:a", good.value, [*good.headers, (f"x-{n}", None)]) for n in range(2)]
    old = [record(streams, f"o{n}", time=datetime(2020, 1, 1 + n, tzinfo=UTC)) for n in range(3)]
    async with by_hand(database, streams) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "k", 1, trouble="bug"), *old, *bad, record(streams, "a", 2)]))
        await service.pool.execute("UPDATE dead_letters SET first_at = now() - interval '2 days' WHERE key = 'acme:k'")
        groups = await grouped(service._work, LetterFilter(tenant="acme", state="open"))
        assert [(one["cause"], one["count"], one["waiting"]) for one in groups] == [
            ("KeyError: …", 1, 0),
            ("ce_time … is outside the inbox", 3, 0),
            ("header x-… is null", 1, 2),
        ]
        assert groups[0]["oldest_age_s"] > 172_000
        assert groups[0]["type"] == streams.deposit_type
        for chosen, count in {
            ("stream", streams.deposits.name): 5,
            ("stream", "other"): 0,
            ("type", streams.deposit_type): 5,
            ("cause", "OUTSIDE the inbox"): 3,
            ("cause", "'bug'"): 0,
            ("cause", "a bug"): 1,
            ("key", "acme:k"): 1,
            ("key", "k"): 1,
            ("older_than_s", 3600): 1,
            ("for_person", True): 0,
            ("tenant", "other"): 0,
            ("state", "discarded"): 0,
        }.items():
            assert len(await listed(service._work, LetterPage(**dict([chosen])))) == count, chosen
        first = await listed(service._work, LetterPage(order="oldest", limit=2))
        rest = await listed(service._work, LetterPage(order="oldest", past=first[-1]["id"]))
        newest = await listed(service._work, LetterPage())
        assert [one["id"] for one in reversed(newest)] == [one["id"] for one in (*first, *rest)]


async def test_a_cause_leaves_out_what_differs_from_record_to_record(database):
    streams = make_streams()
    said = {
        "header x-note is not UTF-8": "header x-note is not UTF-8",
        "lines.0.quantity: int_type": "lines.….quantity: int_type",
        "order 019a3f8e-53b1-7c1e-a2b4-0123456789ab is unknown": "order … is unknown",
        'ValueError: "x\'" at 12:30:01.5+00:00': "ValueError: … at ….…",
    }
    async with by_hand(database, streams) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1, trouble="bug")]))
        for error, cause in said.items():
            kept = await service.pool.fetchval("UPDATE dead_letters SET error = $1 RETURNING cause", error)
            assert kept == cause


async def test_a_replay_keeps_the_event_id_and_the_event_that_comes_again_has_no_second_effect(database):
    streams, handler = make_streams(), Fixable()
    given = log(streams, [record(streams, "a", 1, trouble="bug", event_id="e-1")])
    async with by_hand(database, streams, handler=handler) as (service, consumer):
        await consumer.take(given)
        handler.broken = False
        await service.dead_letters.replay(await value(database, OPEN))
        await consumer.take(given)
    assert await rows(database, "SELECT event_id, amount FROM entries") == [("e-1", 1)]


async def test_a_dry_run_tells_what_would_happen_and_leaves_nothing_behind(database):
    streams, handler = make_streams(), Fixable()
    tables = "SELECT (SELECT count(*) FROM entries), (SELECT count(*) FROM outbox), (SELECT count(*) FROM parked)"
    async with by_hand(database, streams, handler=handler) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1, trouble="bug"), record(streams, "a", 2)]))
        letter = await value(database, OPEN)
        with pytest.raises(ReplayFailed, match="the dry run failed: KeyError"):
            await service.dead_letters.tried(letter)
        handler.broken = False
        assert await service.dead_letters.tried(letter) == 1
        assert await rows(database, tables) == [(0, 0, 1)]
        assert await rows(database, "SELECT state, attempts FROM dead_letters") == [("open", 1)]
        assert await service.dead_letters.replay(letter) == 1
    assert await amounts(database, "a") == [1, 2]


async def test_a_letter_that_was_replayed_in_vain_too_often_waits_for_a_person(database):
    streams, handler = make_streams(), Fixable()
    async with by_hand(database, streams, handler=handler) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1, trouble="bug")]))
        letter = await value(database, OPEN)
        for _ in range(lists.REPLAYS_MAX):
            with pytest.raises(ReplayFailed, match="stays open"):
                await service.dead_letters.replay(letter)
        handler.broken = False
        for refused in (service.dead_letters.replay, service.dead_letters.tried):
            with pytest.raises(ForPerson, match=r"in vain 6 times.*--again"):
                await refused(letter)
        assert await amounts(database, "a") == []
        assert await listed(service._work, LetterPage(for_person=False)) == []
        [group] = await grouped(service._work, LetterFilter(state="open"))
        assert group["for_person"] == 1
        await service.dead_letters.replay(letter, again=True)
    assert await amounts(database, "a") == [1]


async def test_what_fails_behind_a_replayed_letter_is_the_next_of_its_key(database):
    streams, fixed = make_streams(), set()

    async def handler(events, tx) -> None:
        if troubles := {event.message.trouble for event in events} - {"", *fixed}:
            raise KeyError(*troubles)
        await deposit(
            [event._replace(message=event.message.model_copy(update={"trouble": ""})) for event in events], tx
        )

    async with by_hand(database, streams, handler=handler) as (service, consumer):
        await consumer.take(
            log(streams, [record(streams, "a", n, trouble=trouble) for n, trouble in enumerate(["x", "", "y", ""])])
        )
        fixed.add("x")
        past = None
        for _ in range(2):
            [head] = await listed(service._work, LetterPage(key="a", state="open", order="oldest", past=past))
            await service.dead_letters.replay(head["id"])
            past = head["id"]
            fixed.add("y")
    assert await amounts(database, "a") == [0, 1, 2, 3]


async def test_waiting_for_a_server_counts_as_no_replay(database):
    streams = make_streams()
    asked = []

    async def handler(events, tx) -> None:
        asked.append(len(events))
        raise KeyError("a bug") if len(asked) == 1 else Transient("the vault is away")

    async with by_hand(database, streams, handler=handler) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1)]))
        letter = await value(database, OPEN)
        with pytest.raises(ConnectionError, match="the vault is away"):
            await service.dead_letters.replay(letter)
    assert await rows(database, "SELECT state, attempts, error FROM dead_letters") == [("open", 1, "KeyError: 'a bug'")]


async def test_a_replaced_letter_is_a_new_event_that_tells_of_the_old_one_its_author_and_why(database):
    streams, seen = make_streams(), []

    async def handler(events, tx) -> None:
        await deposit(events, tx)
        seen.extend(events)

    given = record(streams, "a", 1, trouble="bug", event_id="e-1")
    spoilt = Sent(given.key, given.value, [*given.headers, ("x-note", None)])
    async with by_hand(database, streams, handler=handler) as (service, consumer):
        letters = service.dead_letters
        await consumer.take(log(streams, [spoilt, record(streams, "a", 2)]))
        letter = await value(database, OPEN)
        told = {"author": "ana", "reason": "the shop's typo"}
        with pytest.raises(ReplayFailed, match="nothing was changed: KeyError"):
            await letters.replace(letter, body("a", 5, "bug"), {}, **told)
        with pytest.raises(ReplayFailed, match="ValidationError: account: missing"):
            await letters.replace(letter, "{}", {}, **told)
        other = {"ce_type": streams.catalogue.types[1].name}
        with pytest.raises(ReplayFailed, match="does not handle"):
            await letters.replace(letter, body("a", 5), other, **told)
        assert await rows(database, "SELECT state, attempts, author FROM dead_letters") == [("open", 1, "")]
        new_id, drained = await letters.replace(letter, body("a", 5), {}, **told)
        assert drained == 1
        assert [event.envelope.id for event in seen] == [new_id, seen[1].envelope.id]
        assert (seen[0].envelope.causation_id, seen[0].key) == ("e-1", "acme:a")
        kept = await shown(service._work, letter, payload=True)
        assert (kept["state"], kept["author"], kept["reason"]) == ("replaced", "ana", "the shop's typo")
        assert (kept["replaced_by"], kept["event_id"]) == (new_id, "e-1")
        assert '"amount": 1' in kept["payload"]
        assert '"amount": 5' in kept["replacement_payload"]
        headers = dict(kept["replacement_headers"])
        assert (headers["ce_id"], headers["ce_replaces"], headers["ce_author"]) == (new_id, "e-1", "ana")
        assert headers["ce_reason"] == "the shop's typo"
        with pytest.raises(NotOpen):
            await letters.replace(letter, body("a", 6), {}, **told)
        # The old event is closed for good: what comes again of it has no effect.
        await consumer.take(log(streams, [given], 9))
    assert await amounts(database, "a") == [5, 2]


async def test_a_replacement_stays_with_what_waits_and_a_header_can_be_put_right(database):
    streams = make_streams()
    given = record(streams, "a", 1)
    headers = [(name, b"Acme!" if name == "ce_tenant" else kept) for name, kept in given.headers]
    async with by_hand(database, streams) as (service, consumer):
        consumer.reader._aggregate = lambda _key, headers: headers["ce_correlationid"]
        await consumer.take(log(streams, [Sent(given.key, given.value, headers)]))
        letter, told = await value(database, OPEN), {"author": "ana", "reason": "another tenant"}
        with pytest.raises(ReplayFailed, match="ce_tenant"):
            await service.dead_letters.replace(letter, body("a", 1), {}, **told)
        fixed = {"ce_tenant": "acme"}
        with pytest.raises(ReplayFailed, match="the new event is of b, what waits is of a"):
            await service.dead_letters.replace(letter, body("a", 1), fixed | {"ce_correlationid": "b"}, **told)
        await service.dead_letters.replace(letter, body("a", 1), fixed, **told)
    assert await amounts(database, "a") == [1]


async def test_a_replacement_on_a_personal_stream_is_sealed_never_shown_and_erased_with_its_flow(database):
    streams = make_streams(personal=True)
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    async with by_hand(database, streams, personal_key=key) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 77_701, trouble="bug", correlation_id="order-1")]))
        letter = await value(database, OPEN)
        await service.dead_letters.replace(letter, body("a", 77_702), {}, author="ana", reason="typo")
        told = await shown(service._work, letter, payload=True)
        assert told["personal"]
        assert not {"payload", "replacement_payload", "record", "replacement"} & set(told)
        assert b"7770" not in await value(database, "SELECT replacement FROM dead_letters")
        assert await service.dead_letters.erase("order-1") == 1
    assert await rows(database, "SELECT state, record, replacement FROM dead_letters") == [("replaced", None, None)]


async def test_a_refused_record_that_took_effect_by_another_way_is_not_replayed_twice(database):
    streams = make_streams()
    given = record(streams, "a", 1)
    stranger = Sent(None, given.value, given.headers)
    async with by_hand(database, streams) as (service, consumer):
        early = record(streams, "b", 2, time=datetime.now(UTC) + timedelta(days=9))
        await consumer.take(log(streams, [early, stranger]))
        with pytest.raises(ReplayFailed, match=r"ce_time is of .* when that day has come"):
            await service.dead_letters.replay(await value(database, OPEN + " AND key IS NOT NULL"))
        with pytest.raises(ReplayFailed, match="record has no key"):
            await service.dead_letters.replay(await value(database, OPEN + " AND key IS NULL"))
        tomorrow = record(streams, "c", 3, time=datetime.now(UTC) + timedelta(days=1, hours=2))
        [letter] = [await _buried(service, consumer, streams, tomorrow)]
        service._work.clock = lambda: datetime.now(UTC) + timedelta(hours=3)
        await consumer.take(log(streams, [tomorrow], 8))
        assert await amounts(database, "c") == [3]
        assert await service.dead_letters.replay(letter) == 0
    assert await amounts(database, "c") == [3]


async def _buried(service, consumer, streams, one: Sent) -> str:
    await consumer.take(log(streams, [one], 7))
    return await service.pool.fetchval("SELECT id FROM dead_letters WHERE \"offset\" = 7 AND state = 'open'")


async def test_no_retention_drops_a_letter_and_nobody_can(database):
    streams = make_streams()
    async with by_hand(database, streams) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1, trouble="bug")]))
        await service.pool.execute("UPDATE dead_letters SET first_at = now() - interval '9 years'")
        service._work.clock = lambda: datetime.now(UTC) + timedelta(days=900)
        await service._keeper.keep_days()
        with pytest.raises(asyncpg.RaiseError, match="dead letters are kept"):
            await service.pool.execute("DELETE FROM dead_letters")
        with pytest.raises(asyncpg.CheckViolationError):
            await service.pool.execute("UPDATE dead_letters SET state = 'replaced', replaced_by = 'e', author = 'ana'")
    assert await value(database, "SELECT count(*) FROM dead_letters") == 1


async def test_the_oldest_age_is_a_metric_and_an_alert_as_is_whoever_waits_for_a_person(database):
    streams = make_streams()
    async with by_hand(database, streams, dead_letter_alert_s=7200) as (service, consumer):
        keeper = Keeper(service._work, [], service.dead_letters)

        async def alerts(statement: str) -> list[str]:
            await service.pool.execute(statement)
            await keeper._keep()
            return keeper.alerts

        def metric(name: str) -> float:
            return service.metrics.registry.get_sample_value(f"saldo_dead_letters_{name}") or 0.0

        assert await alerts("SELECT 1") == []
        await consumer.take(log(streams, [record(streams, "a", 1, trouble="bug")]))
        assert await alerts("SELECT 1") == []
        assert metric("open") == 1
        [told] = await alerts("UPDATE dead_letters SET first_at = now() - interval '3 days'")
        assert told.startswith("open dead letters: 1, the oldest waits for 3 days")
        assert metric("oldest_age_seconds") >= 3 * 86_400
        [told] = await alerts("UPDATE dead_letters SET first_at = now(), attempts = 6")
        assert "1 of them replayed in vain 5 times" in told
        assert metric("for_person") == 1
        assert await alerts("UPDATE dead_letters SET state = 'discarded'") == []
        assert (metric("open"), metric("oldest_age_seconds"), metric("for_person")) == (0, 0, 0)


async def test_a_person_works_through_letters_by_the_admin_listener(kafka_bootstrap, database):
    streams, handler = make_streams(partitions=1), Fixable()
    service = make_service(kafka_bootstrap, database, streams, handler=handler, dead_letter_alert_s=0.1)
    async with running(service), httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.admin.port}") as client:
        letters = "/admin/deadletters"
        await send(
            kafka_bootstrap, streams.deposits,
            [record(streams, name, n, trouble="bug" * (n == 1)) for name in "abc" for n in (1, 2)],
        )  # fmt: skip
        await until_count(database, "SELECT count(*) FROM parked", 3)
        [group] = (await client.get(f"{letters}/groups", params={"state": "open", "tenant": "acme"})).json()
        assert (group["count"], group["waiting"], group["cause"]) == (3, 3, "KeyError: …")

        async def alerted() -> bool:
            told = (await client.get("/readyz")).json()
            return told["reasons"] == [] and "open dead letters: 3" in "".join(told["alerts"])

        await until(alerted)
        [first, second, third] = (await client.get(letters, params={"order": "oldest"})).json()
        tried = await client.post(f"{letters}/{first['id']}/replay", params={"dry_run": True})
        assert (tried.status_code, tried.json()["detail"][:15]) == (409, "the dry run fai")
        handler.broken = False
        tried = await client.post(f"{letters}/{first['id']}/replay", params={"dry_run": True})
        assert tried.json() == {"id": first["id"], "state": "open", "waiting": 1}
        replayed = await client.post(f"{letters}/{first['id']}/replay")
        assert replayed.json() == {"id": first["id"], "state": "replayed", "drained": 1}
        new = {"body": body("b", 7), "author": "ana", "reason": "typo"}
        refused = await client.post(f"{letters}/{second['id']}/replace", json=new | {"reason": ""})
        assert refused.status_code == 422
        replaced = (await client.post(f"{letters}/{second['id']}/replace", json=new)).json()
        assert (replaced["state"], replaced["drained"]) == ("replaced", 1)
        missing = await client.post(f"{letters}/{third['id']}/discard", params={"reason": "junk"})
        assert missing.status_code == 422
        gone = await client.post(f"{letters}/{third['id']}/discard", params={"reason": "junk", "author": "ana"})
        assert gone.json()["state"] == "discarded"
        assert (await client.get(letters, params={"state": "open"})).json() == []
        assert (await client.get(letters, params={"stat": "open"})).status_code == 422
        assert (await client.get(f"{letters}/none")).status_code == 404
    assert [await amounts(database, name) for name in "abc"] == [[1, 2], [7, 2], [2]]
    assert await value(database, "SELECT event_id FROM entries WHERE amount = 7") == replaced["replaced_by"]

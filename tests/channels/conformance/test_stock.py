"""Numbers at any channel: written as told, each outcome told apart, and the channel's own books agree."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest

from services.border.client import open_client
from services.channels.adverts import store as adverts
from services.channels.adverts.loop import run
from services.channels.connectors.connector import (
    OutcomeUnknown,
    Refreshes,
    Rejected,
    Session,
    StockWrite,
    Throttled,
    Unreachable,
    WriteStatus,
)
from tests.channels.conformance.account import Account

pytestmark = pytest.mark.asyncio


async def written(account: Account, *writes: StockWrite) -> list[WriteStatus]:
    return [one.status for one in await account.connector.write_stock(account.session, writes)]


async def test_what_is_written_is_shown_read_and_in_the_books(account: Account) -> None:
    await account.put(A=3, B=5)
    places = await account.places()
    a, b = (StockWrite(*places[sku], number) for sku, number in (("A", 7), ("B", 0)))
    outcomes = await account.connector.write_stock(account.session, [a, b])
    assert [one.status for one in outcomes] == [WriteStatus.ACCEPTED] * 2
    assert await account.numbers() == {"A": 7, "B": 0}
    assert await account.connector.read_stock(account.session, list(places.values())) == {
        places["A"]: 7,
        places["B"]: 0,
    }


async def test_a_comparing_channel_takes_no_number_on_another_one(account: Account) -> None:
    if not account.traits.compares:
        pytest.skip(f"traits.compares of {account.traits.connector} is not set")
    await account.put(A=3, B=5)
    places = await account.places()
    a, b = StockWrite(*places["A"], 7, expected=4), StockWrite(*places["B"], 6, expected=5)
    assert (await written(account, a, b))[0] is WriteStatus.STALE
    assert (await account.numbers())["A"] == 3
    assert await written(account, replace(a, expected=3)) == [WriteStatus.ACCEPTED]
    assert (await account.numbers())["A"] == 7


async def test_an_item_that_is_not_there_is_refused_alone(account: Account) -> None:
    await account.put(A=3)
    item, location = (await account.places())["A"]
    nowhere = StockWrite("999999999", location, 4)
    for _ in count():
        outcomes = await written(account, StockWrite(item, location, 7), nowhere)
        if outcomes[0] is WriteStatus.ACCEPTED:
            break
        assert outcomes[0] is WriteStatus.STALE, "what is sound may only be held back to go again"
    assert outcomes[1] is WriteStatus.REFUSED
    assert await account.numbers() == {"A": 7}
    read = await account.connector.read_stock(account.session, [("999999999", location), (item, location)])
    assert read == {(item, location): 7}


async def test_adverts_are_read_by_a_job_and_known_ones_may_be_left_out(account: Account) -> None:
    await account.put(A=3, B=5)
    connection, service = account.entry.connection, account.kit.service
    async with service.pool.acquire() as database:
        await adverts.begin(database, connection.tenant, connection.connection_id, service.clock())
        job = await adverts.claim(database, service.clock(), timedelta(seconds=60))
    assert job is not None
    await run(service, account.kit.intake, job)
    async with service.pool.acquire() as database:
        told = await adverts.shown(database, connection.connection_id)
    assert told is not None
    assert (told["state"], told["listings"], told["error"]) == ("done", 2, "")
    known = {one.listing async for one in account.connector.listings(account.session)}
    assert {one.listing async for one in account.connector.listings(account.session, known)} <= known


@asynccontextmanager
async def impatient(account: Account) -> AsyncIterator[Session]:
    """The session with a shorter patience, signed in already."""
    if account.session.token:
        await account.session.token()
    client = open_client(public_only=False, timeout_s=0.5)
    yield replace(account.session, http=client)
    await client.aclose()


@pytest.mark.rule(27)
async def test_a_write_without_an_answer_may_have_happened(account: Account) -> None:
    if account.traits.local:
        pytest.skip("traits.local: a write is a transaction of our own")
    await account.put(A=3)
    write = StockWrite(*(await account.places())["A"], 7)
    await account.vices(write_timeout={"min_ms": 1, "max_ms": 1})
    async with impatient(account) as session:
        with pytest.raises(OutcomeUnknown):
            await account.connector.write_stock(session, [write])
    for _ in range(500):
        if (await account.numbers())["A"] == 7:
            break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError("the write was never executed")
    await account.vices(write_error={})
    with pytest.raises(OutcomeUnknown):
        await account.connector.write_stock(account.session, [replace(write, quantity=9)])
    assert (await account.numbers())["A"] == 7


async def test_a_channel_that_asks_to_wait_or_is_away_has_done_nothing(account: Account) -> None:
    if account.traits.local:
        pytest.skip("traits.local: there is nobody to wait for")
    await account.put(A=3)
    write = StockWrite(*(await account.places())["A"], 7)
    await account.vices(write_throttled={})
    with pytest.raises(Throttled) as asked:
        await account.connector.write_stock(account.session, [write])
    assert asked.value.retry_after_s > 0
    away = replace(account.session, base_url="http://127.0.0.1:9")
    with pytest.raises(Unreachable):
        await account.connector.write_stock(away, [write])
    with pytest.raises(Unreachable):
        await account.connector.read_stock(away, [(write.item, write.location)])
    assert (await account.numbers())["A"] == 3


async def test_a_channels_own_limits_are_never_run_into(strict_account: Account) -> None:
    account = strict_account
    skus = {f"S{place}": 3 for place in range(14)}
    await account.put(**skus)
    writes = [StockWrite(*place, 5) for place in (await account.places()).values()]
    assert len(writes) == len(skus)
    for group in (writes[:1], writes[1:]):
        # A `Throttled` would be raised here.
        outcomes = await asyncio.gather(*(account.connector.write_stock(account.session, [one]) for one in group))
        assert {one.status for outcome in outcomes for one in outcome} == {WriteStatus.ACCEPTED}
    assert set((await account.numbers()).values()) == {5}


async def test_the_account_is_checked_and_set_up_as_often_as_one_likes(account: Account) -> None:
    await account.put(A=3)
    door_url = account.kit.intake.door_of(account.entry.connection, account.session)
    for _ in range(2):
        assert await account.connector.check(account.session, door_url) == []
        await account.connector.subscribe(account.session, door_url)


async def test_wrong_credentials_are_a_problem_in_words_without_the_credentials(account: Account) -> None:
    if account.traits.local or isinstance(account.connector, Refreshes):
        pytest.skip("traits.local, or tokens that are exchanged: see the connector's own tests")
    wrong = dict.fromkeys(account.session.credentials, "wrong-secret")
    session = replace(account.session, credentials=wrong)
    problems = await account.connector.check(session, "http://127.0.0.1:9/hooks/c1")
    assert problems
    assert "wrong-secret" not in " ".join(problems)
    with pytest.raises(Rejected):
        await account.connector.fetch(session, "1")

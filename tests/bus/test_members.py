"""Slots: never more members than configured; a lost connection gives the slot up before another can have it."""

import asyncio

import pytest

from services.bus.members import Holder, claim_slot
from tests.bus.model import make_service, make_streams, record, running, send, until, until_count, value

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.rule(10)
async def test_slots_are_taken_lowest_first_and_never_beyond_the_number_of_replicas(database):
    stop = asyncio.Event()
    holders = [Holder(database, "saldo.member.bank") for _ in range(3)]
    for holder in holders:
        await holder.open()
    try:
        assert await claim_slot(holders[0], 2, stop) == 0
        assert await claim_slot(holders[1], 2, stop) == 1
        third = asyncio.create_task(claim_slot(holders[2], 2, stop))
        await asyncio.sleep(0.5)
        assert not third.done()
        await holders[0].close()
        assert await third == 0
    finally:
        for holder in holders:
            await holder.close()


@pytest.mark.rule(10)
async def test_a_session_that_ends_is_noticed_and_a_stopped_wait_returns(database):
    stop = asyncio.Event()
    holder, other = Holder(database, "saldo.member.bank"), Holder(database, "saldo.member.bank")
    await holder.open()
    await other.open()
    try:
        assert await claim_slot(holder, 1, stop) == 0
        assert await value(database, "SELECT pg_terminate_backend($1)", holder.connection.get_server_pid())
        await asyncio.wait_for(holder.lost.wait(), 10)
        assert await claim_slot(holder, 1, stop) is None
        assert await claim_slot(other, 1, stop) == 0
        stop.set()
        assert await claim_slot(other, 1, stop) is None
    finally:
        await holder.close()
        await other.close()


@pytest.mark.rule(9)
async def test_lock_connections_end_when_their_process_is_frozen(database):
    holder = Holder(database, "saldo.relay")
    await holder.open()
    try:
        assert await holder.fetch("SHOW idle_session_timeout", one=True) == "20s"
        assert await holder.fetch("SHOW statement_timeout", one=True) == "10s"
    finally:
        await holder.close()


@pytest.mark.rule(9)
async def test_every_connection_of_the_pool_has_its_timeouts(kafka_bootstrap, database):
    async with running(make_service(kafka_bootstrap, database, make_streams())) as service:
        shown = [
            await service.pool.fetchval(f"SHOW {name}")
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        ]
    assert shown == ["10s", "5s", "10s"]


@pytest.mark.rule(9)
async def test_a_member_that_lost_its_slot_stops_and_comes_back(kafka_bootstrap, database):
    streams = make_streams()
    async with running(make_service(kafka_bootstrap, database, streams)) as service:
        await send(kafka_bootstrap, streams.deposits, [record(streams, "a", 1)])
        await until_count(database, "SELECT count(*) FROM entries", 1)
        first = service._consumers[streams.deposits.name].subscriber
        await service.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        await until(lambda: service._consumers[streams.deposits.name].subscriber is not first)
        assert first.consumer is None
        await send(kafka_bootstrap, streams.deposits, [record(streams, "a", 2)])
        await until_count(database, "SELECT count(*) FROM entries", 2)


@pytest.mark.rule(10)
async def test_a_member_is_known_to_its_groups_by_its_slot(kafka_bootstrap, database):
    """Static membership: who comes back after a kill takes his own place, and no session has to run out first."""
    streams = make_streams()
    services = [make_service(kafka_bootstrap, database, streams, replicas=2) for _ in range(2)]
    async with running(services[0]), running(services[1]):

        def names() -> list[str]:
            kafka = [one._consumers[streams.deposits.name].subscriber for one in services]
            return sorted(one.consumer._group_instance_id for one in kafka if one and one.consumer)

        await until(lambda: len(names()) == 2)
        assert names() == [f"bank.{streams.deposits.name}.{slot}" for slot in (0, 1)]


async def test_a_second_replica_takes_over_some_partitions(kafka_bootstrap, database):
    streams = make_streams()
    services = [make_service(kafka_bootstrap, database, streams, replicas=2) for _ in range(2)]
    async with running(services[0]), running(services[1]):

        def shares() -> list[int]:
            kafka = [one._consumers[streams.deposits.name].subscriber for one in services]
            return sorted(len(one.consumer.assignment()) if one and one.consumer else 0 for one in kafka)

        await until(lambda: shares() == [1, 2])
        await send(kafka_bootstrap, streams.deposits, [record(streams, f"a{n}", n) for n in range(20)])
        await until_count(database, "SELECT count(*) FROM entries", 20)

"""Two majors of one message, each on a stream of its own: one fact has one id, so a reader's switch counts it once."""

import asyncio
from types import SimpleNamespace

import pytest

from contracts.catalogue import Catalogue, MessageType, Stream, StreamKind
from contracts.envelope import Message
from services.bus import Subscription
from services.bus.record import Packed
from services.runtime import Service
from services.runtime.migrate import migrate
from tests.bus.model import MIGRATIONS, FakeKafka, rows, settings, value
from tests.outbox import waiting

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIRST = Stream("vault.opened.v1", "vault", StreamKind.FACTS, 24, "First major.")
SECOND = Stream("vault.opened.v2", "vault", StreamKind.FACTS, 24, "Second major.")


class Old:
    class Opened(Message):
        account: str


class Opened(Message):
    """The second major knows the currency."""

    account: str
    currency: str


BOTH = Catalogue(
    (
        MessageType(
            Old.Opened, FIRST, ("account",), upcast=lambda old: Opened(account=old.account, currency="BRL"),
            downcast=lambda new: Old.Opened(account=new.account),
        ),
        MessageType(Opened, SECOND, ("account",), since="0.2.0"),
    )
)  # fmt: skip


async def enter(events, tx) -> None:
    for event in events:
        await tx.connection.execute(
            "INSERT INTO entries (account, amount, event_id) VALUES ($1, 1, $2)", event.message.account,
            event.envelope.id,
        )  # fmt: skip


def reader_of(stream: Stream, database: str) -> Service:
    """The service as it is built to read one of the two streams."""
    return Service(
        name="bank", settings=settings("127.0.0.1:1", database), migrations=MIGRATIONS, catalogue=BOTH,
        subscriptions=[Subscription(stream=stream.name, handles=(Opened,), handler=enter)],
    )  # fmt: skip


@pytest.mark.parametrize("overlap", ["the new stream is read from its beginning", "both are read for a while"])
@pytest.mark.rule(2)
async def test_a_fact_has_one_id_in_every_major_and_takes_effect_once_over_a_switch(database, overlap):
    await migrate(database, "bank", MIGRATIONS)
    readers = [reader_of(stream, database) for stream in (FIRST, SECOND)]
    try:
        for service in readers:
            await service.pool
        await readers[0]._keeper.keep_days()
        async with readers[0].transaction() as tx:
            for account in "abc":
                tx.publish(Opened(account=account, currency="USD"), tenant="acme", cause=())
        told = await waiting(readers[0].pool)
        ids = {one.topic: [] for one in told}
        for one in told:
            ids[one.topic].append((one.headers["ce_source"], one.headers["ce_id"]))
        assert sorted(ids) == [FIRST.name, SECOND.name]
        assert sorted(ids[FIRST.name]) == sorted(ids[SECOND.name])
        assert len(set(ids[FIRST.name])) == 3
        taking = []
        for service, stream in zip(readers, (FIRST, SECOND), strict=True):
            consumer = service._consumers[stream.name]
            consumer.subscriber = SimpleNamespace(consumer=FakeKafka())
            records = [one for one in told if one.topic == stream.name]
            batch = [
                Packed(stream.name, 0, offset, one.key.encode(), one.payload,
                       [(name, text.encode()) for name, text in one.headers.items()])
                for offset, one in enumerate(records)
            ]  # fmt: skip
            taking.append(consumer.take(batch))
        if overlap.startswith("both"):
            await asyncio.gather(*taking)
        else:
            for one in taking:
                await one
    finally:
        for service in readers:
            await service.pool.close()
            service.tracing.close()
    assert await rows(database, "SELECT account FROM entries ORDER BY 1") == [("a",), ("b",), ("c",)]
    assert await value(database, "SELECT count(*) FROM dead_letters") == 0

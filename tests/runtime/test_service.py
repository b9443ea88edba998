"""What runs beside the messages: loops of the service, and housekeeping."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from tests.bus.model import by_hand, log, make_service, make_streams, record, rows, running, until, value

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_failing_loop_begins_again_and_is_cancelled_at_the_stop(kafka_bootstrap, database, capsys):
    runs: list[str] = []

    async def loop(service, key: str) -> None:
        del key
        runs.append("begun")
        if len(runs) == 1:
            raise RuntimeError("the outside is away")
        try:
            await service.stopping.wait()
        finally:
            runs.append("ended")

    async with running(make_service(kafka_bootstrap, database, make_streams(), loops=[partial(loop, key="s3cret")])):
        await until(lambda: len(runs) == 2)
    assert runs == ["begun", "begun", "ended"]
    told = capsys.readouterr().out
    assert "loop failed" in told
    assert "s3cret" not in told, "a loop is made with what it needs, keys among it"


@pytest.mark.rule(3)
async def test_housekeeping_drops_whole_old_days_and_makes_the_days_ahead(database):
    streams = make_streams()
    async with by_hand(database, streams) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1)]))
        assert await value(database, "SELECT count(*) FROM inbox") == 1
        later = datetime.now(UTC) + timedelta(days=10)
        service._work.clock = lambda: later
        await service._keeper.keep_days()
        assert await value(database, "SELECT count(*) FROM inbox") == 0
        for parent, days_back in (("inbox", 3), ("outbox_sent", 1)):
            parts = await rows(
                database,
                "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass",
                parent,
            )
            wanted = [f"{parent}_{later + timedelta(days=day):%Y%m%d}" for day in range(-days_back, 4)]
            assert sorted(name for (name,) in parts) == wanted


async def test_housekeeping_comes_to_the_days_by_itself(kafka_bootstrap, database):
    async with running(make_service(kafka_bootstrap, database, make_streams(), keep_days_every_s=2)):
        await value(database, "SELECT keep_days('inbox', '2020-01-01', '2020-01-01')")
        await until(lambda: value(database, "SELECT to_regclass('inbox_20200101') IS NULL"))

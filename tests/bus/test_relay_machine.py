"""The relay as a state machine, on PostgreSQL: several relays that all believe to hold their shard, brokers that fail,
processes that die between acknowledgement and removal, another number of shards, a republication.

Whatever happens, the first copy of each event stands in its key's order in the log, and in the end none is missing.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka.errors import NotEnoughReplicasError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from services.bus import announce
from services.bus.relay import Relay
from services.runtime import Service
from tests.bus.model import BalanceChanged, by_hand, make_streams
from tests.bus.test_relay import FakeProducer
from tests.tables import fresh_database

ACCOUNTS = "abcd"
SHARDS = (1, 1, 2, 2)
"""Of the services that run at once: two as they were, two as they are after the number of shards was changed."""


class Died(Exception):
    """The process ends here."""


class Producer(FakeProducer):
    """Writes to one log. It fails at the record number `fails_at` of a chunk; the broker may have it all the same."""

    def __init__(self, log: list[dict[str, Any]], fails_at: int | None, *, arrives: bool) -> None:
        super().__init__({})
        self.log, self.fails_at, self.arrives, self.handed = log, fails_at, arrives, 0

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        await asyncio.sleep(0)  # Here another relay goes on.
        fails = self.handed == self.fails_at
        self.handed += 1
        future = await super().send_batch(batch, topic, partition=partition)
        if not fails or self.arrives:
            self.log.append(self.bodies[-1])
        if not fails:
            return future
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(NotEnoughReplicasError())
        return failed


class Outbox(RuleBasedStateMachine):
    """`run` and `services` are those of the test: one database for all examples."""

    run: Any
    services: list[Service]

    @initialize()
    def open(self) -> None:
        self.log: list[dict[str, Any]] = []
        self.written: dict[str, int] = dict.fromkeys(ACCOUNTS, 0)
        self.run(self.services[0].pool.execute("TRUNCATE outbox, outbox_sent"))
        self.relays = [Relay(one._work, place % 2 if one._work.settings.relay_shards > 1 else 0)
                       for place, one in enumerate(self.services)]  # fmt: skip

    @rule(batch=st.lists(st.sampled_from(ACCOUNTS), min_size=1, max_size=5))
    def commit(self, batch: list[str]) -> None:
        async def write() -> None:
            async with self.services[0].transaction() as tx:
                for account in batch:
                    self.written[account] += 1
                    message = BalanceChanged(account=account, balance=0, version=self.written[account])
                    tx.publish(message, tenant="acme", cause=())

        self.run(write())

    @rule(
        at_once=st.lists(
            st.tuples(
                st.integers(0, len(SHARDS) - 1), st.none() | st.integers(0, 4), st.booleans(),
                st.sampled_from(["", "", "relay.send.after", "relay.mark.before", "relay.mark.after"]),
            ),
            min_size=1, max_size=3, unique_by=lambda one: one[0],
        )
    )  # fmt: skip
    def relay(self, at_once: list[tuple[int, int | None, bool, str]]) -> None:
        """One chunk each, at the same time."""

        async def chunk(place: int, fails_at: int | None, arrives: bool, dies_at: str) -> None:
            def point(name: str, turn: str = "") -> None:
                if name == dies_at:
                    raise Died

            relay = self.relays[place]
            with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Died, NotEnoughReplicasError):
                patch.setattr(self.services[place]._work.faults, "point", point)
                await relay._holder.open()
                try:
                    await relay._chunk(Producer(self.log, fails_at, arrives=arrives))
                finally:
                    await relay._holder.close()

        async def all_of_them() -> None:
            await asyncio.gather(*(chunk(*one) for one in at_once))

        self.run(all_of_them())

    @rule()
    def republish(self) -> None:
        self.run(announce.republish(self.services[0]._work, datetime.now(UTC) - timedelta(hours=1), None))

    def first_copies(self) -> dict[str, list[int]]:
        seen: dict[str, dict[int, None]] = defaultdict(dict)
        for body in self.log:
            seen[body["account"]].setdefault(body["version"])
        return {account: list(versions) for account, versions in seen.items()}

    @invariant()
    def first_copies_are_in_order(self) -> None:
        for account, versions in self.first_copies().items() if hasattr(self, "log") else ():
            assert versions == list(range(1, len(versions) + 1)), f"{account} was told out of order"

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        while self.run(self.services[0].pool.fetchval("SELECT count(*) FROM outbox")):
            self.relay([(0, None, True, "")])
        first = self.first_copies()
        assert {account: len(first.get(account, ())) for account in ACCOUNTS} == self.written


@pytest.fixture
def outboxes(postgres_admin_dsn: str) -> Iterator[type[Outbox]]:
    """The machine on a database of its own."""

    async def opened(stack: contextlib.AsyncExitStack) -> list[Service]:
        database = await stack.enter_async_context(fresh_database(postgres_admin_dsn))
        streams = make_streams()
        return [
            (await stack.enter_async_context(by_hand(database, streams, relay_shards=shards, relay_chunk=6)))[0]
            for shards in SHARDS
        ]

    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        try:
            services = runner.run(opened(stack))
            yield type("Outboxes", (Outbox,), {"run": staticmethod(runner.run), "services": services})
        finally:
            runner.run(stack.aclose())


@pytest.mark.rule(13)
def test_first_copies_are_in_order_whatever_happens_to_the_relays(outboxes: type[Outbox]) -> None:
    run_state_machine_as_test(outboxes, settings=settings(max_examples=25, stateful_step_count=15))

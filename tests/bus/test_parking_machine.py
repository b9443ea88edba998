"""Parking as a state machine, on PostgreSQL: poison, records that come again, two members with one partition during a
rebalance, replays and discards while more arrives, a handler that is mended and breaks again.

Whatever happens, each account's events take effect in the order of the log, once, and none before one that waits.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.bus.record import Packed
from services.deadletters.letters import NotOpen, ReplayFailed
from tests.bus.model import by_hand, log, make_streams, record
from tests.tables import fresh_database

ACCOUNTS = "abc"
EMPTY = "TRUNCATE accounts, entries, inbox, outbox, parked, parked_keys, dead_letters, brakes CASCADE"
STREAMS = make_streams(partitions=1)


class Handler:
    """Writes down what it is given, in order; while it is broken, it cannot with what is marked."""

    broken = True

    async def __call__(self, events: Any, tx: Any) -> None:
        for event in events:
            if self.broken and event.message.trouble:
                raise KeyError(event.message.trouble)
            await tx.connection.execute(
                "INSERT INTO entries (account, amount, event_id) VALUES ($1, $2, $3)",
                event.message.account, event.message.amount, event.envelope.id,
            )  # fmt: skip


class Keys(RuleBasedStateMachine):
    """`run`, `members` and `handler` are those of the test: one database for all examples."""

    run: Any
    members: list[Any]
    handler: Handler

    @initialize()
    def open(self) -> None:
        self.sent: list[tuple[str, bool]] = []
        self.records: list[Packed] = []
        self.position = 0
        self.given_up: set[int] = set()
        self.handler.broken = True
        for service, consumer in self.members:
            consumer.brake._poisoned.clear()
            consumer.brake.taken = 0
            self.run(service.pool.execute(EMPTY))

    @rule(events=st.lists(st.tuples(st.sampled_from(ACCOUNTS), st.booleans()), min_size=1, max_size=6))
    def send(self, events: list[tuple[str, bool]]) -> None:
        for account, trouble in events:
            number = len(self.sent)
            self.sent.append((account, trouble))
            one = record(STREAMS, account, number, trouble="bug" if trouble else "", event_id=f"e{number}")
            self.records += log(STREAMS, [one], number)

    @rule(count=st.integers(1, 8), back=st.integers(0, 6), member=st.integers(0, 1))
    def deliver(self, count: int, back: int, member: int) -> None:
        """The next records, behind some that were delivered before."""
        self.run(self.take(member, self.batch(count, back)))

    @rule(count=st.integers(1, 8), back=st.integers(0, 6))
    def deliver_to_both(self, count: int, back: int) -> None:
        batch = self.batch(count, back)

        async def at_once() -> None:
            await asyncio.gather(self.take(0, batch), self.take(1, batch))

        self.run(at_once())

    @rule(which=st.integers(0, 5), count=st.integers(0, 4), give_up=st.booleans())
    def solve_while_more_comes(self, which: int, count: int, give_up: bool) -> None:
        letters = self.letters()
        batch = self.batch(count, 2)

        async def at_once() -> None:
            tasks = [self.take(1, batch)] if batch else []
            if letters:
                tasks.append(self.solve(*letters[which % len(letters)], give_up=give_up))
            await asyncio.gather(*tasks)

        self.run(at_once())

    @rule()
    def mend_or_break(self) -> None:
        self.handler.broken = not self.handler.broken

    @precondition(lambda self: self.position > 0)
    @rule()
    def drain_stalled(self) -> None:
        self.run(self.members[0][0].dead_letters.drain_stalled())

    def batch(self, count: int, back: int) -> list[Packed]:
        first = max(0, self.position - back)
        self.position = min(len(self.records), self.position + count)
        return self.records[first : self.position]

    async def take(self, member: int, batch: list[Packed]) -> None:
        consumer = self.members[member][1]
        await consumer.take(batch)
        assert not consumer.reason or consumer.reason == "no partition assigned", consumer.reason

    async def solve(self, letter: str, event_id: str, *, give_up: bool) -> None:
        dead_letters = self.members[0][0].dead_letters
        with contextlib.suppress(NotOpen, ReplayFailed):
            if give_up:
                await dead_letters.discard(letter, reason="a test", author="ana")
                self.given_up.add(int(event_id[1:]))
            else:
                await dead_letters.replay(letter, again=True)

    def letters(self) -> list[tuple[str, str]]:
        found = self.run(
            self.members[0][0].pool.fetch(
                "SELECT id, event_id FROM dead_letters WHERE state = 'open' ORDER BY event_id"
            )
        )
        return [tuple(row) for row in found]

    def effects(self) -> dict[str, list[int]]:
        found = self.run(self.members[0][0].pool.fetch("SELECT account, amount FROM entries ORDER BY entry"))
        return {account: [row["amount"] for row in found if row["account"] == account] for account in ACCOUNTS}

    @invariant()
    def effects_are_in_order_and_nothing_is_overtaken(self) -> None:
        if not hasattr(self, "sent"):
            return
        for account, done in self.effects().items():
            due = [n for n, (of, _) in enumerate(self.sent) if of == account and n not in self.given_up]
            assert done == due[: len(done)], f"account {account}"

    def teardown(self) -> None:
        if not hasattr(self, "sent"):
            return
        self.handler.broken = False
        while self.position < len(self.records):
            self.deliver(8, 0, 0)
        while letters := self.letters():
            for letter in letters:
                self.run(self.solve(*letter, give_up=False))
        self.run(self.members[0][0].dead_letters.drain_stalled())
        self.effects_are_in_order_and_nothing_is_overtaken()
        assert sum(map(len, self.effects().values())) == len(self.sent) - len(self.given_up)
        left = "SELECT (SELECT count(*) FROM parked_keys) + (SELECT count(*) FROM parked)"
        assert self.run(self.members[0][0].pool.fetchval(left)) == 0


@pytest.fixture
def keys(postgres_admin_dsn: str) -> Iterator[type[Keys]]:
    """The machine on a database of its own."""
    handler = Handler()

    async def opened(stack: contextlib.AsyncExitStack) -> list[Any]:
        database = await stack.enter_async_context(fresh_database(postgres_admin_dsn))
        return [await stack.enter_async_context(by_hand(database, STREAMS, handler=handler)) for _ in range(2)]

    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        try:
            members = runner.run(opened(stack))
            yield type("AllKeys", (Keys,), {"run": staticmethod(runner.run), "members": members, "handler": handler})
        finally:
            runner.run(stack.aclose())


@pytest.mark.rule(7)
def test_every_account_keeps_its_order_whatever_is_parked(keys: type[Keys]) -> None:
    run_state_machine_as_test(keys, settings=settings(max_examples=25, stateful_step_count=15))

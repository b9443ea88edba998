"""The guards of consuming and publishing, each taken away."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from services.bus import inbox, relay
from services.bus.inbox import Incoming
from services.runtime.migrate import migrate
from tests.bus import test_consume, test_parking, test_relay
from tests.bus.model import MIGRATIONS, value
from tests.guards import both, noticed, without

pytestmark = pytest.mark.asyncio(loop_scope="session")


@both
@pytest.mark.rule(3)
async def test_the_inbox_is_missed(database: str, monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    async def everything(_connection: Any, _consumer: str, events: Sequence[Incoming]) -> list[Incoming]:
        return list(events)

    with monkeypatch.context() as patch:
        if missing:
            patch.setattr(inbox, "claim", everything)
        with noticed(missing):
            await test_consume.test_a_commit_of_unknown_outcome_is_repeated_and_the_inbox_decides(database, patch)


@both
@pytest.mark.rule(7)
async def test_parking_is_missed(database: str, monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    async def none(*_: object) -> tuple[()]:
        return ()

    if missing:
        monkeypatch.setattr(inbox, "locked_keys", none)
    with noticed(missing):
        await test_parking.test_poison_parks_its_key_only_and_order_survives_replay_and_drain(database)


@both
@pytest.mark.rule(11)
async def test_numbers_drawn_one_by_one_are_missed(database: str, missing: bool) -> None:
    await migrate(database, "bank", MIGRATIONS)
    if missing:
        await value(database, "ALTER TABLE outbox ALTER COLUMN seq SET CACHE 50")
    with noticed(missing):
        await test_relay.test_rows_of_a_key_stand_in_the_order_of_their_commits(database)


Check = Callable[[str], Awaitable[None]]
RELAY: dict[str, tuple[Any, str, str, str, Check]] = {
    "the oldest row goes first": (
        relay, "_OLDEST", "WHERE total - count < $3 ORDER BY seq", "WHERE total - count < $3 ORDER BY seq DESC",
        lambda database: test_relay.test_a_changed_number_of_shards_keeps_the_order_of_a_key_and_leaves_nothing_behind(
            database, 1, 2
        ),
    ),
    "the first refusal stops handing over": (
        relay.Relay, "_send", "any(future.done() and (future.cancelled() or future.exception()) for future in futures)",
        "False",
        test_relay.test_nothing_is_handed_over_behind_a_batch_that_has_failed,
    ),
    "exactly what was acknowledged is removed": (
        relay.Relay, "_chunk", ' if row["seq"] not in unsent]', "]",
        test_relay.test_exactly_the_acknowledged_rows_move_and_the_rest_is_sent_again,
    ),
}  # fmt: skip


@both
@pytest.mark.parametrize("guard", RELAY)
@pytest.mark.rule(13)
async def test_the_order_of_the_relay_is_missed(
    database: str, monkeypatch: pytest.MonkeyPatch, guard: str, missing: bool
) -> None:
    owner, name, text, instead, check = RELAY[guard]
    if missing:
        without(monkeypatch, owner, name, text, instead)
    with noticed(missing):
        await check(database)

"""The guards of the number to send, each taken away."""

from typing import Any

import pytest

from services.channels.stock import claims, domain, handlers
from tests.channels.stock import test_model, test_push, test_store
from tests.channels.stock.conftest import Desk
from tests.guards import both, noticed, without


@pytest.mark.asyncio
@both
@pytest.mark.rule(15)
async def test_the_version_of_a_level_is_missed(desk: Desk, monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    if missing:
        without(monkeypatch, handlers, "take_levels", "(level.epoch, level.version) <= fold.version", "False")
    with noticed(missing):
        await test_store.test_an_older_level_changes_nothing(desk)


@pytest.mark.asyncio
@both
@pytest.mark.rule(25)
async def test_unheard_sales_are_missed(desk: Desk, monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    def nothing(record: domain.Record, _observed: Any) -> dict[str, int]:
        return {part.sku: 0 for part in record.parts}

    if missing:
        monkeypatch.setattr(domain, "unheard_now", nothing)
    with noticed(missing):
        await test_push.test_unheard_sales_of_one_channel_lower_the_others(desk)


@both
@pytest.mark.rule(25)
def test_the_rule_for_unheard_sales_is_missed_by_the_model(missing: bool) -> None:
    seeds = range(8)
    ruled, without_rule = ([test_model.run(seed, rule=rule) for seed in seeds] for rule in (True, False))
    with noticed(missing):
        sent = without_rule if missing else ruled
        assert sum(world.resurrected for world in sent) <= sum(world.resurrected for world in without_rule) / 4


@pytest.mark.asyncio
@both
@pytest.mark.rule(26)
async def test_the_sequence_of_changes_is_missed(desk: Desk, monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    if missing:
        without(monkeypatch, claims, "_SETTLE", " AND c.change = d.change")
    with noticed(missing):
        await test_push.test_a_number_that_comes_back_during_the_call_is_sent_again(desk)


@pytest.mark.asyncio
@both
@pytest.mark.rule(25)
async def test_what_a_channel_reserves_itself_is_missed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    if missing:
        monkeypatch.setattr(domain, "_held", lambda _record: 0)
    with noticed(missing):
        await test_push.test_a_total_channel_gets_what_it_reserves_on_top(desk)

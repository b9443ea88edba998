"""Levels, items, listings and own sales on a real database."""

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import pytest

from contracts.inventory.v1 import CauseOutcome, Component, ItemChanged
from services.bus import Received
from services.channels.stock import claims, handlers, listings, upkeep
from services.channels.stock.claims import Asked, Settled, Wanted
from services.channels.stock.listings import LinkConflict
from tests.channels.stock.conftest import Desk, row

pytestmark = pytest.mark.asyncio


async def tallies(desk: Desk) -> list[tuple[str, int, int, int]]:
    rows = await desk.work.pool.fetch("SELECT sku, factor, heard, decided FROM record_skus ORDER BY stock_record, sku")
    return [tuple(each) for each in rows]


async def item(desk: Desk, sku: str, version: int = 1, **components: int) -> None:
    parts = tuple(Component(sku=name, quantity=quantity) for name, quantity in components.items())
    changed = ItemChanged(sku=sku, version=version, name=sku, components=parts)
    envelope = desk.event("x", 1, version=1).envelope
    async with desk.work.transaction() as tx:
        await handlers.take_items(desk.wake, [Received(changed, envelope, f"{desk.tenant}:{sku}")], tx)


async def test_importing_again_doubles_nothing(desk: Desk) -> None:
    shop = desk.open()
    for _ in range(2):
        await shop.put(row("a", "A"), row("a", "A", listing="second advert"))
    assert await desk.work.pool.fetchval("SELECT count(*) FROM stock_records") == 1
    assert await desk.work.pool.fetchval("SELECT count(*) FROM listings") == 2
    assert await tallies(desk) == [("A", 1, 0, 0)]


async def test_an_import_without_sku_keeps_the_link_a_person_made(desk: Desk) -> None:
    shop = desk.open()
    await shop.put(row("a"))
    async with desk.work.transaction() as tx:
        assert await listings.link_listing(tx.connection, desk.tenant, shop.connection_id, "a", "A", 6)
    await shop.put(row("a"))
    async with desk.work.transaction() as tx:
        found = await listings.sku_for_item(tx.connection, desk.tenant, shop.connection_id, ["a", "b"])
    assert {key: (link.sku, link.pack) for key, link in found.items()} == {"a": ("A", 6)}
    assert await tallies(desk) == [("A", 6, 0, 0)]


async def test_adverts_of_one_number_must_agree(desk: Desk) -> None:
    shop = desk.open()
    with pytest.raises(LinkConflict, match="one number"):
        await shop.put(row("a", "A"), row("a", "B", listing="second advert"))


async def test_a_level_heard_twice_counts_once(desk: Desk) -> None:
    azul, verde = desk.open("azul"), desk.open("verde", compares=False)
    await azul.put(row("a", "A"))
    await verde.put(row("v", "A"))
    await desk.level("A", 20)
    await verde.push()
    await azul.sell("order-1", "a")
    event = desk.event("A", 19, desk.cause(azul, "order-1", 1), version=2)
    await desk.levels(event, event)
    await desk.levels(event)
    assert sorted(await tallies(desk)) == [("A", 1, 0, 0), ("A", 1, 1, 1)]
    assert await desk.work.pool.fetchval("SELECT count(*) FROM propagation") == 1
    assert await desk.work.pool.fetchval("SELECT sold FROM levels") == 1


@pytest.mark.rule(15)
async def test_an_older_level_changes_nothing(desk: Desk) -> None:
    await desk.level("A", 5, version=9)
    await desk.level("A", 8, version=7)
    assert await desk.work.pool.fetchval("SELECT version FROM levels") == 9


@pytest.mark.rule(15)
async def test_a_level_of_a_later_epoch_counts_whatever_its_version(desk: Desk) -> None:
    """A restored backup counts its versions from where it was made, in a new epoch."""
    await desk.level("A", 5, version=9)
    await desk.levels(desk.event("A", 8, version=2, epoch=2), desk.event("A", 5, version=10))
    await desk.levels(desk.event("A", 5, version=11))
    assert tuple(await desk.work.pool.fetchrow("SELECT epoch, version FROM levels")) == (2, 2)


@pytest.mark.rule(4)
async def test_a_batch_equals_its_events_one_by_one(desk: Desk) -> None:
    shop = desk.open()
    await shop.put(row("a", "A"), row("b", "B"))
    for number in range(3):
        await shop.sell(f"order-{number}", "a")
    events = [desk.event("A", 20 - n, desk.cause(shop, f"order-{n}", 1), version=n + 1) for n in range(3)]
    await desk.levels(*events)
    together = await tallies(desk)
    await desk.work.pool.execute("TRUNCATE levels, propagation; UPDATE record_skus SET decided = 0")
    for event in events:
        await desk.levels(event)
    assert await tallies(desk) == together
    assert sorted(together) == [("A", 1, 3, 3), ("B", 1, 0, 0)]


async def test_shortfalls_count_as_decided_and_fills_count_for_nothing(desk: Desk) -> None:
    shop = desk.open()
    await shop.put(row("a", "A"))
    await shop.sell("order-1", "a", 3)
    await desk.level("A", 0, desk.cause(shop, "order-1", 1), desk.cause(shop, "order-1", 2, CauseOutcome.SHORT))
    await desk.level("A", 0, desk.cause(shop, "order-1", 2, CauseOutcome.FILLED))
    assert await tallies(desk) == [("A", 1, 3, 3)]


@pytest.mark.parametrize(("restores", "left"), [(True, 0), (False, 2)])
async def test_a_cancel_lowers_the_counts_only_where_the_channel_restores(
    desk: Desk, restores: bool, left: int
) -> None:
    shop = desk.open(restores_on_cancel=restores)
    await shop.put(row("a", "A"))
    await shop.sell("order-1", "a", 2)
    await desk.level("A", 18, desk.cause(shop, "order-1", 2))
    await shop.sell("order-1", "a", 2, revision=2, cancelled=2)
    await desk.level("A", 20, desk.cause(shop, "order-1", -2, CauseOutcome.RELEASED))
    assert await tallies(desk) == [("A", 1, left, left)]


async def test_an_own_sale_heard_again_counts_once(desk: Desk) -> None:
    shop = desk.open()
    await shop.put(row("a", "A"))
    for _ in range(2):
        await shop.sell("order-1", "a", 2)
    await shop.sell("order-1", "a", 3, revision=3)
    await shop.sell("order-1", "a", 9, revision=2)
    assert await tallies(desk) == [("A", 1, 3, 0)]


async def test_an_order_too_old_to_be_kept_is_not_counted_again(desk: Desk) -> None:
    """Else a late snapshot of it would be taken for a new sale that nobody will ever decide."""
    shop = desk.open()
    await shop.put(row("a", "A"))
    sold_at = desk.now
    await shop.sell("order-1", "a", 2, sold_at=sold_at)
    await desk.level("A", 18, desk.cause(shop, "order-1", 2))
    await desk.work.pool.execute("UPDATE own_sales SET held = false")
    desk.later(61 * 86_400)
    async with desk.work.transaction() as tx:
        assert await upkeep.prune(tx.connection, desk.now, desk.now) == 1
    await shop.sell("order-1", "a", 2, revision=2, sold_at=sold_at)
    assert await tallies(desk) == [("A", 1, 2, 2)]
    assert await desk.work.pool.fetchval("SELECT count(*) FROM own_sales") == 0


async def test_changes_nobody_sends_are_folded_and_none_is_lost(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    for available in (9, 4, *range(50, 19, -1)):
        await desk.level("A", available)
    async with desk.work.transaction() as tx:
        assert await upkeep.compact_changes(tx.connection, tx.now) > 0
    async with desk.work.transaction() as tx:
        assert await upkeep.compact_changes(tx.connection, tx.now) == 0
    left = await desk.work.pool.fetch("SELECT lane, other FROM stock_changes ORDER BY change")
    assert [tuple(each) for each in left] == [(1, True), (0, True)]
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 20


async def test_changes_of_a_record_that_is_being_sent_are_not_folded(desk: Desk) -> None:
    """A change that was drawn early and committed late stands before those that the sender has read."""
    shop = desk.open(compares=False)
    await item(desk, "KIT", A=1, B=1)
    await shop.put(row("k", "KIT"))
    await desk.level("A", 50)
    await desk.level("B", 50)
    await shop.push()
    async with AsyncExitStack() as late:
        tx = await late.enter_async_context(desk.work.transaction())
        await handlers.take_levels(desk.wake, 5, [desk.event("A", 30, version=2)], tx)
        for _ in range(30):
            await desk.level("B", 40)

        async def meanwhile() -> None:
            await late.aclose()
            async with desk.work.transaction() as tx:
                await upkeep.compact_changes(tx.connection, tx.now)

        shop.channel.during = meanwhile
        await shop.push()
    assert [batch[0].quantity for batch in shop.channel.batches] == [50, 40, 30]


async def test_a_lease_that_ran_out_is_void_once_its_record_was_folded(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    for turn in range(30):
        await desk.level("A", 20 + turn % 2)

    async def meanwhile() -> None:
        await desk.level("A", 8)
        desk.later(60)
        async with desk.work.transaction() as tx:
            assert await upkeep.compact_changes(tx.connection, tx.now) > 0

    shop.channel.during = meanwhile
    await shop.normal.push()
    desk.later(60)
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 8


async def test_a_record_that_changed_very_often_between_two_pushes_is_settled(desk: Desk) -> None:
    """Its rows are deleted one by one by their key. Compared with each other, they would outlast every statement."""
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    await desk.work.pool.execute(
        """
        INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, causes, changed_at)
        SELECT tenant, stock_record, connection_id, lane, other, causes, changed_at
        FROM stock_changes, generate_series(1, 10000)
        """
    )
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 20
    assert await desk.work.pool.fetchval("SELECT count(*) FROM stock_changes") == 0


@pytest.mark.rule(20)
async def test_a_pack_and_a_kit_take_units_of_their_skus(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await item(desk, "KIT", A=2, B=1)
    await shop.put(row("k", "KIT", pack=3), row("p", "A", pack=6))
    await desk.level("A", 60)
    await desk.level("B", 9)
    await shop.push()
    assert shop.channel.numbers == {("k", "1"): 3, ("p", "1"): 10}
    await shop.sell("order-1", "k", 1, pack=3)
    rows = await desk.work.pool.fetch("SELECT sku, asked FROM own_sales ORDER BY sku")
    assert [tuple(each) for each in rows] == [("A", 6), ("B", 3)]


@pytest.mark.rule(20)
async def test_a_changed_kit_takes_other_skus_and_dirties_its_records(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await item(desk, "KIT", A=2)
    await shop.put(row("k", "KIT"))
    await desk.level("A", 60)
    await desk.level("B", 7)
    await shop.push()
    await item(desk, "KIT", 2, B=1)
    await shop.push()
    assert shop.channel.numbers["k", "1"] == 7
    await item(desk, "KIT", 1, A=2)
    assert await shop.push() == 0


async def test_stock_that_a_channel_holds_is_shown_by_that_channel_alone_and_where_it_says_so(desk: Desk) -> None:
    azul, verde = desk.open("azul", compares=False), desk.open("verde", compares=False)
    await azul.put(row("a", "A"))
    await azul.put(row("f", "A"), locations=["1"])
    await verde.put(row("v", "A"))
    await desk.level("A", 20, held_by=azul.connection_id)
    await azul.push()
    await verde.push()
    assert azul.channel.numbers == {("a", "1"): 0, ("f", "1"): 20}
    assert verde.channel.numbers == {("v", "1"): 0}


async def test_two_companies_never_meet(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    other = Desk(desk.work, "outra-loja", desk.settings, desk.now)
    theirs = other.open(compares=False)
    await theirs.put(row("a", "A"))
    await desk.level("A", 20)
    await theirs.push()
    await shop.push()
    assert (shop.channel.numbers, theirs.channel.numbers) == ({("a", "1"): 20}, {})


@pytest.mark.rule(20)
async def test_a_level_that_comes_while_a_number_is_computed_is_not_lost(desk: Desk) -> None:
    """It waits for no lock, and brings a change of its own that the number being computed does not cover."""
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    async with desk.work.transaction() as tx:
        wanted = Wanted(desk.tenant, shop.connection_id, 1, 10, late_s=1)
        [found] = await claims.claim(tx.connection, [wanted], tx.now)
        [[(each, record)]] = await claims.inputs(tx.connection, [Asked(found.claimed)], tx.now)
        assert record is not None
        assert record.parts[0].available == 20
        async with asyncio.timeout(10):
            await desk.level("A", 4)
        await claims.settle(tx.connection, [Settled(each, None, (), tx.now, each.changes)], tx.now)
    await shop.push()
    assert [batch[0].quantity for batch in shop.channel.batches] == [4]


async def waits_or_ends(desk: Desk, task: asyncio.Task[Any]) -> None:
    """Until the task is over or a statement of this database waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not task.done() and not await desk.work.pool.fetchval(waiting):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("first", [True, False], ids=["first level", "next level"])
@pytest.mark.rule(20)
async def test_a_level_that_is_being_taken_while_a_record_is_linked_reaches_it(desk: Desk, first: bool) -> None:
    shop = desk.open(compares=False)
    if not first:
        await desk.level("A", 20)

    async def link_and_push() -> None:
        await shop.put(row("a", "A"))
        await shop.push()

    async with desk.work.transaction() as tx:
        await handlers.take_levels(desk.wake, 5, [desk.event("A", 9, version=2)], tx)
        linking = asyncio.create_task(link_and_push())
        await waits_or_ends(desk, linking)
    await linking
    await shop.push()
    assert shop.channel.numbers == {("a", "1"): 9}


async def test_tallies_of_what_is_written_and_what_is_not_are_locked_in_one_go(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a stale batch one record is written and one is not. A level of both waits, and is not waited for."""
    shop = desk.open()
    low, high = sorted("ab", key=shop.record)
    for name in (low, high):
        shop.channel.numbers[name, "1"] = 50
        await shop.put(row(name, name.upper()))
        await desk.level(name.upper(), 50)
    await shop.push()
    for name in (low, high):
        shop.channel.numbers[name, "1"] = 48
    await desk.level(high.upper(), 40)
    await desk.level(low.upper(), 45)
    remember = claims._remember_unheard
    levels: list[asyncio.Task[None]] = []

    async def meanwhile() -> None:
        for name in (low, high):
            await shop.sell(f"order-{name}", name)
        await desk.level(low.upper(), 50)
        monkeypatch.setattr(claims, "_remember_unheard", remember_and_let_levels_come)

    async def remember_and_let_levels_come(connection: Any, told: Any, now: datetime) -> None:
        await remember(connection, told, now)
        if not levels:
            decided = [
                desk.event(name.upper(), units, desk.cause(shop, f"order-{name}", 1), version=9)
                for name, units in ((low, 49), (high, 39))
            ]
            levels.append(asyncio.create_task(desk.levels(*decided)))
            await waits_or_ends(desk, levels[0])

    shop.channel.during = meanwhile
    await shop.normal.push()
    await levels[0]
    assert [decided for *_, decided in await tallies(desk)] == [1, 1]
    assert (shop.channel.numbers[low, "1"], shop.channel.numbers[high, "1"]) == (48, 38)


@pytest.mark.rule(19)
async def test_levels_claims_and_own_sales_at_once_never_lock_each_other_out(desk: Desk) -> None:
    shops = [desk.open(name, compares=False) for name in ("azul", "verde", "rosa")]
    skus = "ABCDEFGH"
    for shop in shops:
        await shop.put(*[row(sku.lower(), sku) for sku in skus])

    async def levels() -> None:
        for version in range(1, 15):
            await desk.levels(*[desk.event(sku, 100 - version, version=version) for sku in reversed(skus)])

    async def sales(number: int) -> None:
        for sku in skus if number % 2 else reversed(skus):
            await shops[number].sell(f"order-{number}-{sku}", sku.lower())

    await asyncio.gather(levels(), *[sales(number) for number in range(3)], *[shop.push() for shop in shops])
    decided = [
        desk.event(sku, 83, *[desk.cause(shops[n], f"order-{n}-{sku}", 1) for n in range(3)], version=20)
        for sku in skus
    ]
    await desk.levels(*decided)
    for shop in shops:
        await shop.push()
        assert set(shop.channel.numbers.values()) == {83}


async def test_what_leaves_the_house_is_no_change_for_any_channel(desk: Desk) -> None:
    """Else every parcel would have each channel's sender look, and sales after it would be taken for a mass change."""
    shop = desk.open()
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    await desk.work.pool.execute("DELETE FROM stock_changes")
    await desk.level("A", 20)
    assert await desk.work.pool.fetchval("SELECT count(*) FROM stock_changes") == 0
    await desk.level("A", 18, desk.cause(shop, "order", 2))
    assert await desk.work.pool.fetchval("SELECT other FROM stock_changes") is False
    await desk.level("A", 17)
    assert await desk.work.pool.fetchval("SELECT count(*) FROM stock_changes WHERE other") == 1

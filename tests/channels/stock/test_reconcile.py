"""Reading back: drift below, a foreign writer above, healing by a complete poll."""

from datetime import timedelta

import pytest

from services.channels.connectors.connector import OutcomeUnknown
from services.channels.stock import upkeep
from tests.channels.stock.conftest import Desk, Shop, row

pytestmark = pytest.mark.asyncio


async def quiet(desk: Desk, *names: str) -> list[Shop]:
    """Shops that show 20 and have not been looked at for long."""
    shops = [desk.open(name) for name in names]
    for shop in shops:
        shop.channel.numbers["a", "1"] = 20
        await shop.put(row("a", "A"))
    await desk.level("A", 20)
    for shop in shops:
        await shop.push()
    desk.later(1000)
    return shops


async def drifts(desk: Desk) -> list[tuple[int, int]]:
    return [(one["wanted"], one["observed"]) for one in await desk.published() if "suspected_cause" in one]


@pytest.mark.rule(28)
async def test_less_than_expected_is_taken_for_sales_until_a_poll_says_otherwise(desk: Desk) -> None:
    azul, verde = await quiet(desk, "azul", "verde")
    azul.channel.numbers["a", "1"] = 17
    await desk.reconcile(azul)
    await azul.push()
    assert azul.channel.numbers["a", "1"] == 17
    assert await drifts(desk) == []
    begun_at = desk.now
    await desk.poll_done(azul, begun_at)
    await desk.reconcile(azul)
    assert await drifts(desk) == [], "the poll has to begin after the read"
    desk.later(1)
    await desk.poll_done(azul, desk.now)
    await desk.reconcile(azul)
    assert await drifts(desk) == [(20, 17)]
    await azul.push()
    await verde.push()
    assert (azul.channel.numbers["a", "1"], verde.channel.numbers["a", "1"]) == (20, 20)


@pytest.mark.rule(28)
async def test_a_late_sale_explains_what_was_read(desk: Desk) -> None:
    [azul] = await quiet(desk, "azul")
    azul.channel.numbers["a", "1"] = 19
    await desk.reconcile(azul)
    await azul.push()
    await azul.sell("order-1", "a")
    await desk.level("A", 19, desk.cause(azul, "order-1", 1))
    await azul.push()
    desk.later(1)
    await desk.poll_done(azul, desk.now)
    await desk.reconcile(azul)
    assert await drifts(desk) == []
    assert azul.channel.numbers["a", "1"] == 19


async def test_an_undecided_own_order_keeps_healing_waiting(desk: Desk) -> None:
    [azul] = await quiet(desk, "azul")
    azul.channel.numbers["a", "1"] = 18
    await desk.reconcile(azul)
    await azul.push()
    await azul.sell("order-1", "a")
    await azul.push()
    desk.later(1)
    await desk.poll_done(azul, desk.now)
    await desk.reconcile(azul)
    assert await drifts(desk) == []


@pytest.mark.rule(28)
async def test_a_foreign_writer_is_reported_and_lowered_at_once(desk: Desk) -> None:
    [azul] = await quiet(desk, "azul")
    azul.channel.numbers["a", "1"] = 99
    await desk.reconcile(azul)
    assert await drifts(desk) == [(20, 99)]
    await azul.push()
    assert azul.channel.numbers["a", "1"] == 20


async def test_what_is_as_expected_is_only_noted(desk: Desk) -> None:
    [azul] = await quiet(desk, "azul")
    before = await azul.row("a")
    await desk.reconcile(azul)
    after = await azul.row("a")
    assert (after["observed"], after["known"]) == (20, before["known"])
    assert await azul.push() == 0
    assert len(azul.channel.batches) == 0


async def needy(desk: Desk, *shops: Shop) -> set[str]:
    """Which shops have to be looked at: not in the last fifteen minutes, or for a reason."""
    owners = [(desk.tenant, shop.connection_id) for shop in shops]
    async with desk.work.transaction() as tx:
        return await upkeep.in_need(tx.connection, owners, tx.now - timedelta(seconds=900), tx.now)


async def test_one_look_tells_which_connections_have_something_to_be_read_or_healed(desk: Desk) -> None:
    azul, verde = shops = await quiet(desk, "azul", "verde")
    both = {azul.connection_id, verde.connection_id}
    assert await needy(desk, *shops) == both, "not looked at for long"
    for shop in shops:
        await desk.reconcile(shop)
    assert await needy(desk, *shops) == set()
    await desk.level("A", 15)
    azul.channel.script = [OutcomeUnknown("reset")]
    for shop in shops:
        await shop.push()
    assert await needy(desk, *shops) == set(), "the request may still be executed"
    desk.later(10)
    assert await needy(desk, *shops) == {azul.connection_id}
    azul.channel.numbers["a", "1"] = 12
    await desk.reconcile(azul)
    await azul.push()
    assert await needy(desk, *shops) == set()
    desk.later(1)
    await desk.poll_done(azul, desk.now)
    assert await needy(desk, *shops) == {azul.connection_id}
    await desk.reconcile(azul)
    await azul.push()
    assert await needy(desk, *shops) == set()

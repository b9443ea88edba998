"""Reading back: drift below, a foreign writer above, healing by a complete poll."""

import pytest

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

"""Lanes, breaker, waking, and the sender as a loop."""

import asyncio
from types import SimpleNamespace
from typing import Literal

import pytest
from prometheus_client import Gauge

from services.channels.stock import claims
from services.channels.stock.breaker import Breaker, State
from services.channels.stock.domain import NORMAL, URGENT
from services.channels.stock.limiter import Lane, Turnstile
from services.channels.stock.metrics import StockMetrics
from services.channels.stock.sender import Sender
from services.channels.stock.wake import Due, Wake
from tests.channels.stock.conftest import Desk, FreeLimiter, Shop, row

pytestmark = pytest.mark.asyncio


class Gate(FreeLimiter):
    """Lets one request pass each time it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = asyncio.Semaphore(0)

    async def acquire(self, endpoint: str, cost: float = 1.0) -> None:
        await self.tokens.acquire()
        await super().acquire(endpoint, cost)


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.005)


async def test_a_lane_holds_the_token_of_its_next_write_before_it_collects() -> None:
    free = FreeLimiter()
    lane = Lane(Turnstile(free), urgent=True)
    await lane.prepare()
    assert free.acquired == []
    lane.writing = True
    await lane.acquire("write", 10)
    lane.writing = False
    await lane.prepare()
    await lane.prepare()
    await lane.acquire("write", 10)
    assert free.acquired == [("write", 10), ("write", 10)]


async def take(lane: Lane, name: str, order: list[str]) -> None:
    """One call of a lane; its name goes to `order` once it may be made."""
    await lane.acquire("write")
    order.append(name)


async def test_the_urgent_lane_goes_first() -> None:
    gate = Gate()
    turnstile = Turnstile(gate)
    order: list[str] = []
    urgent = asyncio.create_task(take(Lane(turnstile, urgent=True), "urgent", order))
    await asyncio.sleep(0)
    normal = asyncio.create_task(take(Lane(turnstile, urgent=False), "normal", order))
    await asyncio.sleep(0)
    gate.tokens.release()
    gate.tokens.release()
    await asyncio.gather(urgent, normal)
    assert order == ["urgent", "normal"]


async def test_the_urgent_lane_lets_one_call_of_a_whole_batch_go_first() -> None:
    gate = Gate()
    turnstile = Turnstile(gate)
    order: list[str] = []
    normal, urgent = Lane(turnstile, urgent=False), Lane(turnstile, urgent=True)
    calls = [asyncio.create_task(take(normal, f"normal {number}", order)) for number in range(3)]
    await asyncio.sleep(0)
    calls.append(asyncio.create_task(take(urgent, "urgent", order)))
    await asyncio.sleep(0)
    for _ in calls:
        gate.tokens.release()
    await asyncio.gather(*calls)
    assert order == ["normal 0", "urgent", "normal 1", "normal 2"]


async def test_what_becomes_dirty_while_the_token_is_awaited_travels_in_that_request(desk: Desk) -> None:
    gate = Gate()
    shop = desk.open(limiter=gate, compares=False)
    await shop.put(row("a", "A"), row("b", "B"))
    await desk.level("A", 50)
    gate.tokens.release()
    await shop.normal.push()
    await desk.level("A", 40)
    pushing = asyncio.create_task(shop.normal.push())
    await asyncio.sleep(0.05)
    await desk.level("B", 30)
    gate.tokens.release()
    await pushing
    assert [sorted(write.item for write in batch) for batch in shop.channel.batches] == [["a"], ["a", "b"]]


async def test_a_breaker_probes_after_a_pause_that_doubles() -> None:
    clock = SimpleNamespace(now=0.0)
    breaker = Breaker(lambda: clock.now, failures_max=2, open_s=1.0, cap_s=3.0)
    breaker.failed()
    assert breaker.state is State.CLOSED
    pauses = []
    for _ in range(3):
        breaker.failed()
        pauses.append(breaker.wait_s)
        clock.now += breaker.wait_s
        assert breaker.state is State.HALF_OPEN
    assert pauses == [1.0, 2.0, 3.0]
    breaker.succeeded()
    assert breaker.state is State.CLOSED


def _value(gauge: Gauge, shop: Shop) -> float:
    return gauge.labels(shop.connection_id).collect()[0].samples[0].value  # type: ignore[no-any-return]


async def test_the_sender_follows_live_connections_and_the_wake(desk: Desk) -> None:
    azul, verde = desk.open("azul", compares=False), desk.open("verde", compares=False)
    for shop in (azul, verde):
        await shop.put(row("a", "A"))
    live = [azul.entry]
    metrics = StockMetrics()
    sender = Sender(SimpleNamespace(live=lambda: list(live)), desk.wake, desk.settings, metrics)
    running = asyncio.create_task(sender.run(desk.work))
    try:
        await desk.level("A", 30)
        await until(lambda: azul.channel.numbers == {("a", "1"): 30})
        assert verde.channel.numbers == {}
        live.append(verde.entry)
        await until(lambda: verde.channel.numbers == {("a", "1"): 30})
        live.remove(azul.entry)
        await asyncio.sleep(0.3)
        await desk.level("A", 20)
        await until(lambda: verde.channel.numbers == {("a", "1"): 20})
        assert azul.channel.numbers == {("a", "1"): 30}
        assert _value(metrics.breaker_state, verde) == State.CLOSED
        for _ in range(5):
            sender.breakers[verde.connection_id].failed()
        assert _value(metrics.breaker_state, verde) == State.OPEN
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_lane_that_fails_is_started_again(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))

    async def fail() -> None:
        raise RuntimeError("a connector with a mistake")

    shop.channel.during = fail
    metrics = StockMetrics()
    sender = Sender(SimpleNamespace(live=lambda: [shop.entry]), desk.wake, desk.settings, metrics)
    running = asyncio.create_task(sender.run(desk.work))
    try:
        await desk.level("A", 30)
        await until(lambda: shop.channel.during is None and len(shop.channel.batches) == 1)
        desk.later(120)  # The claim's lease has run out.
        desk.wake.dirtied()
        await until(lambda: shop.channel.numbers == {("a", "1"): 30})
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_wake_names_each_lane_once_and_forgets_it() -> None:
    wake = Wake()
    wake.dirtied({("azul", 0)})
    wake.dirtied({("azul", 0), ("verde", 1)})
    assert await wake.wait(10) == {("azul", 0), ("verde", 1)}
    assert await wake.wait(0) == set()


async def test_a_wake_for_later_comes_later() -> None:
    wake = Wake()
    wake.later(0.01, [("azul", 0)])
    assert await wake.wait(0) == set()
    assert await wake.wait(10) == {("azul", 0)}


async def test_a_sale_wakes_a_lane_when_its_record_may_be_written_again(desk: Desk) -> None:
    shop = desk.open(compares=False, spacing_ms=50)
    await shop.put(row("a", "A"), row("b", "B"))
    await desk.level("A", 50)
    await shop.push()
    assert await desk.wake.wait(10) == {(shop.connection_id, NORMAL)}
    await desk.level("A", 49)
    assert await desk.wake.wait(0) == set()
    assert await desk.wake.wait(10) == {(shop.connection_id, NORMAL)}
    await desk.levels(desk.event("A", 40, version=9), desk.event("B", 3, version=9))
    assert await desk.wake.wait(0) == {(shop.connection_id, URGENT)}


async def test_a_lane_that_found_its_record_taken_looks_again_when_it_is_free(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks the table here: only whoever had the record can say so."""
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    sender = Sender(SimpleNamespace(live=lambda: [shop.entry]), desk.wake, desk.settings, StockMetrics())
    running = asyncio.create_task(sender.run(desk.work))
    try:
        # The lanes run, and what they do from now on they are told.
        await until(lambda: len(sender._lanes) == 2)
        monkeypatch.setattr(claims, "due_lanes", nobody)

        async def meanwhile() -> None:
            await desk.level("A", 3)
            async with asyncio.timeout(20):
                while looked[0] < 1:  # noqa: ASYNC110 - what is awaited has no event
                    await asyncio.sleep(0.005)

        looked = watch_urgent(sender, shop)
        shop.channel.during = meanwhile
        await desk.level("A", 50)
        await until(lambda: shop.channel.numbers == {("a", "1"): 3})
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_lane_goes_on_while_its_batches_are_full(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = desk.open(compares=False, max_batch=2)
    await shop.put(*[row(sku.lower(), sku) for sku in "ABCDE"])
    # Listing them has dirtied them too: a lane that were at it still would take its share of the first batch.
    await desk.work.pool.execute("TRUNCATE stock_changes")
    monkeypatch.setattr(claims, "due_lanes", nobody)
    sender = Sender(SimpleNamespace(live=lambda: [shop.entry]), desk.wake, desk.settings, StockMetrics())
    running = asyncio.create_task(sender.run(desk.work))
    try:
        await until(lambda: len(sender._lanes) == 2)
        await desk.levels(*[desk.event(sku, 50, version=1) for sku in "ABCDE"])
        await until(lambda: [len(batch) for batch in shop.channel.batches] == [2, 2, 1])
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def nobody(*_: object) -> set[Due]:
    return set()


def watch_urgent(sender: Sender, shop: Shop) -> list[int]:
    """How often the urgent lane was woken and has slept again."""
    looked = [0]
    due = sender._lanes[shop.connection_id, URGENT].due
    wait = due.wait

    async def counted() -> Literal[True]:
        looked[0] += not due.is_set()
        return await wait()

    due.wait = counted  # type: ignore[method-assign]
    return looked

"""The listener of the shop's API, at its start."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from services.channels.connections.registry import Registry
from services.channels.intake.context import Intake
from services.channels.shop import listener, store
from services.channels.shop.shop import Shop
from tests.channels.conftest import Kit
from tests.channels.shop.conftest import Counter

pytestmark = pytest.mark.asyncio


async def test_nobody_is_told_that_a_key_is_wrong_before_the_connections_are_read(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = asyncio.Event()

    async def listen(*_: Any, **__: Any) -> None:
        listening.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(listener.door, "listen", listen)
    registry = Registry(kit.intake.vault)
    loop = asyncio.create_task(
        listener.shop_loop(kit.service, Shop(Intake(kit.intake.settings, registry, kit.intake.vault), kit.vault))
    )
    for _ in range(20):
        await asyncio.sleep(0)
    assert not listening.is_set()
    await registry.refresh(kit.service.pool)
    await listening.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_a_basket_goes_long_after_its_order_has_ended(counter: Counter) -> None:
    waits, ends = await counter.held({"CUP": 1}), await counter.held({"CUP": 1})
    await counter.tell(ends, "cancelled", cancelled_reason="buyer")
    pool, now = counter.kit.service.pool, counter.kit.service.clock()

    async def forget(days: int) -> int:
        async with pool.acquire() as connection:
            return await store.forget(connection, now - timedelta(days=days), 10)

    assert await forget(1) == 0
    assert await forget(-1) == 1
    assert (await counter.shown(waits))["state"] == "held"
    gone = await counter.ask("GET", f"/v1/baskets/{ends['basket']}")
    assert gone.status_code == 404
    # What is told of it late falls on no basket.
    await counter.tell(ends, "cancelled", cancelled_reason="buyer")
    assert await counter.kit.count("shop_baskets") == 1

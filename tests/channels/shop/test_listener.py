"""The listener of the shop's API, at its start."""

import asyncio
from typing import Any

import pytest

from services.channels.connections.registry import Registry
from services.channels.intake.context import Intake
from services.channels.shop import listener
from services.channels.shop.shop import Shop
from tests.channels.conftest import Kit

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

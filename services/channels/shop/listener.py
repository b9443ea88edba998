"""The own shop at work in one process: its listener, the writer of its baskets, and the forgetting of what is old."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from services.border import door
from services.channels.shop import numbers, store
from services.channels.shop.api import Api
from services.channels.shop.desk import Desk
from services.channels.shop.shop import Shop

if TYPE_CHECKING:
    from services.runtime import Service

_KEPT: Final = timedelta(days=7)
"""How long a key keeps a deed from being done again, and how far back changes of numbers can be read."""
_PRUNE_EVERY_S: Final = 600.0
_BASKETS_MAX: Final = 5_000


async def shop_loop(service: "Service", shop: Shop) -> None:
    """Listen, write and forget until cancelled; what was accepted is written before the writer ends."""
    await shop.intake.registry.loaded.wait()
    settings = shop.intake.settings
    desk = Desk(service, shop)
    api = Api(service, shop, desk)
    listener = asyncio.create_task(
        door.listen(api.app, host=settings.shop_host, port=settings.shop_port), name="shop listener"
    )
    others = [
        asyncio.create_task(desk.run(), name="shop desk"),
        asyncio.create_task(_prune(service, timedelta(days=settings.basket_keep_days)), name="shop prune"),
    ]
    try:
        done, _ = await asyncio.wait({listener, *others}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _prune(service: "Service", keep_baskets: timedelta) -> None:
    while True:
        now = service.clock()
        async with service.pool.acquire() as connection:
            await numbers.prune(connection, now - _KEPT)
            await store.forget(connection, now - keep_baskets, _BASKETS_MAX)
        await asyncio.sleep(_PRUNE_EVERY_S)

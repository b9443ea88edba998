"""Waking the loops of one process. Their rows are looked for by a timer too, so nothing is lost with a wake-up."""

import asyncio
from typing import final

from services.bus.failures import waited


@final
class Wake:
    """Set when there may be something to do."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __call__(self) -> None:
        """There may be something to do."""
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when something may be there to do, or after `timeout_s`."""
        await waited(self._event, timeout_s)
        self._event.clear()

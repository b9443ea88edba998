"""Waking the senders of this process when something may have become dirty."""

import asyncio
from collections.abc import Iterator
from typing import Final

IDLE_S: Final = 0.25
"""The table is asked this often when nobody wakes: for what another process, or a timer, made due."""
_FIRST_S: Final = 0.002


class Wake:
    """Set inside the transaction that dirties records, which commits a moment later.

    So whoever is woken looks again after 2, 8, 32, 128 ms, until it has found something or the idle pause is reached.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._pauses: Iterator[float] = iter(())

    def set(self) -> None:
        """Something was dirtied."""
        self._event.set()

    async def wait(self, *, found: bool) -> None:
        """Pause until there may be something. `found`: the last look found something."""
        if found:
            self._pauses = iter(())
        pause_s = next(self._pauses, IDLE_S)
        try:
            async with asyncio.timeout(pause_s):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()
        self._pauses = iter([_FIRST_S * 4**step for step in range(1, 4)])
        await asyncio.sleep(_FIRST_S)

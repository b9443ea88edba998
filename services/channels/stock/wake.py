"""Waking the senders of this process when something became dirty."""

import asyncio
from collections.abc import Collection

Due = tuple[str, int]
"""A connection and one of its lanes."""


class Wake:
    """Set after the commit that dirtied records, with the lanes that have something to do."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._due: set[Due] = set()

    def dirtied(self, due: Collection[Due] = ()) -> None:
        """Something was dirtied; without lanes, the table tells which."""
        self._due.update(due)
        self._event.set()

    def later(self, after_s: float, due: Collection[Due]) -> None:
        """These lanes have something to do once this time is over."""
        asyncio.get_running_loop().call_later(after_s, self.dirtied, due)

    async def wait(self, pause_s: float) -> set[Due]:
        """The lanes that were named since the last call; waits for one at most `pause_s`."""
        try:
            async with asyncio.timeout(pause_s):
                await self._event.wait()
        except TimeoutError:
            return set()
        self._event.clear()
        due, self._due = self._due, set()
        return due

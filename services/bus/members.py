"""Advisory locks on connections of their own: member slots and relay shards.

Such a connection goes straight to PostgreSQL, not through a pooler. It is pinged every 5 s and the server ends it after
20 idle seconds: with the other timeouts alone a frozen process would keep its lock.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any, Final, final
from zlib import crc32

import asyncpg

from services.bus.failures import DATABASE_ERRORS, waited
from services.bus.work import SESSION

PING_S: Final = 5.0
LOWEST_SLOT_S: Final = 3.0


@final
class Holder:
    """One connection that holds at most one advisory lock; `lost` is set before anybody else can get it.

    The server ends the session no sooner than 20 s after our last sign of life; a ping that is not answered within 5 s
    counts as lost.
    """

    def __init__(self, dsn: str, purpose: str, session: Mapping[str, str] | None = None) -> None:
        self._dsn, self._class_id = dsn, crc32(purpose.encode()) - 2**31
        self._session = {**SESSION, "idle_session_timeout": "20s", **(session or {})}
        self._pings: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self.connection: Any = None
        self.lost = asyncio.Event()

    async def open(self) -> None:
        """Connect; raises `OSError` or asyncpg's errors while PostgreSQL is not there."""
        self.lost = lost = asyncio.Event()  # A new one: the session that was closed reports its end late.
        self.connection = await asyncpg.connect(
            self._dsn, timeout=10, command_timeout=15, server_settings=self._session
        )
        self.connection.add_termination_listener(lambda _: lost.set())
        self._pings = asyncio.create_task(self._ping())

    async def try_lock(self, number: int) -> bool:
        """Take the lock `number` of this purpose if it is free."""
        return bool(await self.fetch("SELECT pg_try_advisory_lock($1, $2)", self._class_id, number, one=True))

    async def fetch(self, statement: str, *arguments: Any, one: bool = False) -> Any:
        """Run a statement on the connection that holds the lock, never beside a ping; its rows, or its one value."""
        async with self._turn:
            return await (self.connection.fetchval if one else self.connection.fetch)(statement, *arguments)

    async def close(self) -> None:
        """Give the lock back by ending the session."""
        if self._pings:
            self._pings.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pings
        if self.connection:
            self.connection.terminate()

    async def _ping(self) -> None:
        while not self.lost.is_set():
            await asyncio.sleep(PING_S)
            if self._turn.locked():
                continue  # A statement under way is a sign of life, and has a timeout of its own.
            try:
                async with asyncio.timeout(PING_S):
                    await self.fetch("SELECT 1")
            except DATABASE_ERRORS:
                self.lost.set()


async def claim_slot(holder: Holder, replicas: int, stop: asyncio.Event) -> int | None:
    """The member's slot, never beyond `replicas`; None when stopped or the connection is lost.

    For 3 s only the lowest is asked for, so that a restart finds its own slot again and nobody is rebalanced.
    """
    slots, lowest_until = range(replicas), time.monotonic() + LOWEST_SLOT_S
    while not stop.is_set() and not holder.lost.is_set():
        for slot in slots if time.monotonic() > lowest_until else slots[:1]:
            if await holder.try_lock(slot):
                return slot
        await waited(stop, 0.2)
    return None

"""The urgent lane goes first, and a batch is collected only when its request may leave.

Wraps the connection's own limiter (token buckets by endpoint). Two lanes of one connection share a `Turnstile`: while
one of the urgent lane waits, the other lane does not take a token. Of the other lane's calls one at a time waits at the
limiter, because an urgent call has to let all those go first. Each lane holds the tokens of its next write before it
claims records, so that whatever becomes dirty while it waits for the channel's limit travels in that same request.
"""

import asyncio

from services.channels.connectors.connector import LimiterLike


class Turnstile:
    """Lets the urgent lane of a connection go before the other."""

    def __init__(self, limiter: LimiterLike) -> None:
        self.limiter = limiter
        self._urgent_waiting = 0
        self._free = asyncio.Event()
        self._free.set()
        self._turns: dict[str, asyncio.Lock] = {}

    async def acquire(self, endpoint: str, cost: float, *, urgent: bool) -> None:
        """Wait for a token of the endpoint."""
        if not urgent:
            async with self._turns.setdefault(endpoint, asyncio.Lock()):
                await self._free.wait()
                await self.limiter.acquire(endpoint, cost)
            return
        self._urgent_waiting += 1
        self._free.clear()
        try:
            await self.limiter.acquire(endpoint, cost)
        finally:
            self._urgent_waiting -= 1
            if not self._urgent_waiting:
                self._free.set()


class Lane:
    """The limiter that one lane's calls go through. Learns what a write costs from the last one."""

    def __init__(self, turnstile: Turnstile, *, urgent: bool) -> None:
        self._turnstile = turnstile
        self._urgent = urgent
        self._held: dict[str, float] = {}
        self._write_cost: dict[str, float] = {}
        self.writing = False

    async def prepare(self) -> None:
        """Hold the tokens of one write, as far as it is known what that takes."""
        for endpoint, cost in self._write_cost.items():
            if (missing := cost - self._held.get(endpoint, 0.0)) > 0:
                await self._turnstile.acquire(endpoint, missing, urgent=self._urgent)
                self._held[endpoint] = cost

    async def acquire(self, endpoint: str, cost: float = 1.0) -> None:
        """Use what is held, or wait for a token."""
        if self.writing:
            self._write_cost[endpoint] = cost
        if self._held.get(endpoint, 0.0) >= cost:
            self._held[endpoint] -= cost
            return
        await self._turnstile.acquire(endpoint, cost, urgent=self._urgent)

    def throttled(self, endpoint: str, retry_after_s: float) -> None:
        """The channel asked to wait: what is held is worth nothing any more."""
        self._held.pop(endpoint, None)
        self._turnstile.limiter.throttled(endpoint, retry_after_s)

    def observed(self, endpoint: str, available: float, restore_per_s: float) -> None:
        """The channel told what is left."""
        self._turnstile.limiter.observed(endpoint, available, restore_per_s)

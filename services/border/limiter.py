"""A token bucket per endpoint of one account, adapting to what the other side reports."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.border.errors import Limit


@dataclass(slots=True)
class _Bucket:
    rate_per_s: float
    burst: float
    tokens: float
    at_s: float
    blocked_until_s: float = 0.0

    def refill(self, now_s: float) -> None:
        self.tokens = min(self.burst, self.tokens + max(0.0, now_s - self.at_s) * self.rate_per_s)
        self.at_s = now_s

    def wait_s(self, cost: float, now_s: float) -> float:
        self.refill(now_s)
        # A cost above the burst leaves once the bucket is full: it could never fit otherwise.
        missing = min(cost, self.burst) - self.tokens
        return max(self.blocked_until_s - now_s, missing / self.rate_per_s if missing > 0 else 0.0, 0.0)


class Limiter:
    """Waits until a request may leave. Endpoints without a documented limit pass at once unless throttled.

    Who waits first leaves first. Times are seconds of `clock`, a steady one.
    """

    def __init__(self, limits: Mapping[str, Limit], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets = {
            name: _Bucket(limit.rate_per_s, limit.burst, limit.burst, clock()) for name, limit in limits.items()
        }
        self._turns: dict[str, asyncio.Lock] = {}

    def _bucket(self, endpoint: str) -> _Bucket:
        infinite = float("inf")
        return self._buckets.setdefault(endpoint, _Bucket(infinite, infinite, infinite, self._clock()))

    async def acquire(self, endpoint: str, cost: float = 1.0) -> None:
        """Wait for the turn of a request to `endpoint` that costs `cost`, and take it."""
        bucket = self._bucket(endpoint)
        async with self._turns.setdefault(endpoint, asyncio.Lock()):
            while True:
                wait_s = bucket.wait_s(cost, self._clock())
                if wait_s <= 0:
                    break
                await asyncio.sleep(wait_s)
            bucket.tokens -= cost

    def throttled(self, endpoint: str, retry_after_s: float) -> None:
        """The other side refused for too many requests: nothing leaves before `retry_after_s` has passed."""
        bucket = self._bucket(endpoint)
        now_s = self._clock()
        bucket.refill(now_s)
        bucket.tokens = min(bucket.tokens, 0.0) if bucket.rate_per_s != float("inf") else bucket.tokens
        bucket.blocked_until_s = max(bucket.blocked_until_s, now_s + retry_after_s)

    def observed(self, endpoint: str, available: float, restore_per_s: float) -> None:
        """The other side told what is left and how fast it comes back: its word replaces our estimate."""
        bucket = self._bucket(endpoint)
        bucket.refill(self._clock())
        if restore_per_s > 0 and bucket.rate_per_s != float("inf"):
            bucket.rate_per_s = restore_per_s
            bucket.burst = max(bucket.burst, available)
        bucket.tokens = min(bucket.tokens, available)

"""The pace of calls: bursts, rates, and what the other side says."""

import asyncio

import pytest

from services.border.errors import Limit
from services.border.limiter import Limiter


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, pause_s: float) -> None:
        self.now_s += pause_s


@pytest.mark.asyncio
async def test_a_bucket_lets_a_burst_go_and_then_keeps_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    limiter = Limiter({"rest": Limit(2.0, 4.0)}, clock)
    left = []
    for _ in range(8):
        await limiter.acquire("rest")
        left.append(clock.now_s)
    assert left == [0, 0, 0, 0, 0.5, 1.0, 1.5, 2.0]
    await limiter.acquire("unlimited")
    assert clock.now_s == 2.0


@pytest.mark.asyncio
async def test_a_bucket_follows_what_the_channel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    limiter = Limiter({"graphql": Limit(100.0, 1000.0)}, clock)
    limiter.observed("graphql", available=20.0, restore_per_s=50.0)
    await limiter.acquire("graphql", 20.0)
    assert clock.now_s == 0
    await limiter.acquire("graphql", 10.0)
    assert clock.now_s == pytest.approx(0.2)
    limiter.throttled("graphql", 3.0)
    await limiter.acquire("graphql", 10.0)
    assert clock.now_s == pytest.approx(3.2)

"""How much a shop lets a client ask: buckets that leak and windows that start anew. Pure; the time is an argument."""

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class Bucket:
    """A leaky bucket: `size` units of room, emptied at `rate_per_s`. Times are seconds of one steady clock."""

    size: float
    rate_per_s: float
    used: float = 0.0
    at_s: float = 0.0

    def level(self, now_s: float) -> float:
        """Units in use now."""
        self.used = max(0.0, self.used - max(0.0, now_s - self.at_s) * self.rate_per_s)
        self.at_s = now_s
        return self.used

    def take(self, cost: float, now_s: float) -> float:
        """0 when the cost was taken, else the seconds until it would fit; nothing is taken then."""
        over = self.level(now_s) + cost - self.size
        if over > 1e-9:
            return over / self.rate_per_s
        self.used += cost
        return 0.0

    def give_back(self, cost: float) -> None:
        """What was asked for and not used."""
        self.used = max(0.0, self.used - cost)

    def available(self, now_s: float) -> int:
        """Whole units free now."""
        return math.floor(self.size - self.level(now_s) + 1e-9)


@dataclass(slots=True)
class Windows:
    """Fixed windows of one second, one counter per key."""

    counts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, key: str, per_s: int, now_s: float) -> bool:
        """Whether this request still fits its window."""
        window = int(now_s)
        seen_window, count = self.counts.get(key, (window, 0))
        if seen_window != window:
            count = 0
        if count >= per_s:
            return False
        self.counts[key] = (window, count + 1)
        return True

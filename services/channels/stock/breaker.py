"""A circuit breaker: a channel that fails again and again is left alone for a while, then tried with one record.

Nygard, "Release It!", the Circuit Breaker pattern.
"""

from collections.abc import Callable
from enum import IntEnum


class State(IntEnum):
    """The values are those of the gauge."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Opens after `failures_max` failures in a row, for `open_s` that doubles at each failed probe up to `cap_s`."""

    def __init__(
        self, clock: Callable[[], float], *, failures_max: int = 5, open_s: float = 1.0, cap_s: float = 60.0
    ) -> None:
        self._clock = clock
        self._failures_max, self._open_s, self._cap_s = failures_max, open_s, cap_s
        self._failures = 0
        self._opened = 0
        self._until_s = 0.0

    @property
    def state(self) -> State:
        """Closed, open, or half open once the pause is over and a probe may go."""
        if not self._opened:
            return State.CLOSED
        return State.OPEN if self._clock() < self._until_s else State.HALF_OPEN

    @property
    def wait_s(self) -> float:
        """How long until something may be sent."""
        return max(0.0, self._until_s - self._clock()) if self._opened else 0.0

    def succeeded(self) -> None:
        """The channel answered, whatever it answered."""
        self._failures = self._opened = 0

    def failed(self) -> None:
        """The channel could not be reached or did not answer usably."""
        self._failures += 1
        if self._opened or self._failures >= self._failures_max:
            self._until_s = self._clock() + min(self._cap_s, self._open_s * 2**self._opened)
            self._opened = min(self._opened + 1, 16)

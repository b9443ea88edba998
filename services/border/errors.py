"""What can become of a call to the outside, and the pace that it keeps."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limit:
    """A documented limit of one endpoint: `rate_per_s` sustained, `burst` at once (requests, or cost points)."""

    rate_per_s: float
    burst: float


class Throttled(Exception):
    """The other side asks to wait; `retry_after_s` says how long. Nothing was done."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the other side asks to wait {retry_after_s:.2f} s")
        self.retry_after_s = retry_after_s


class Unreachable(Throttled):
    """No connection came about, or no usable answer to what only reads. Nothing was done: try again after a while."""


class Rejected(Exception):
    """The other side refused the request for good (bad credentials, malformed, gone); the text says what to do."""


class OutcomeUnknown(Exception):
    """A write may or may not have happened: a timeout, a reset, or a 5xx after the body was sent."""


class SignatureInvalid(Exception):
    """A delivery is not signed by the account's secret."""


class LimiterLike(Protocol):
    """Waits until a request to `endpoint` of `cost` may leave; adapts to what the other side reports."""

    async def acquire(self, endpoint: str, cost: float = 1.0) -> None: ...

    def throttled(self, endpoint: str, retry_after_s: float) -> None: ...

    def observed(self, endpoint: str, available: float, restore_per_s: float) -> None: ...

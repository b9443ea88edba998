"""The bad habits of sandboxes, off by default, each drawn from a seeded generator, so that a run can be repeated."""

import random
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Vice(BaseModel):
    """One habit: how often, how long each time (milliseconds) and for how long at all (None: until switched off)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    min_ms: Annotated[int, Field(ge=0)] = 0
    max_ms: Annotated[int, Field(ge=0)] = 0
    duration_s: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Vice":
        if self.max_ms < self.min_ms:
            raise ValueError("max_ms must not be below min_ms")
        return self


class Vices(BaseModel):
    """All habits of a shop.

    webhook_late: sent min_ms..max_ms later. webhook_reordered: held back so that later ones overtake it.
    webhook_duplicate: sent twice, the second min_ms..max_ms after the first. webhook_missing: never sent.
    write_throttled: 429, or THROTTLED for GraphQL. write_error: 503, nothing done. write_timeout: no answer, and the
    request is executed min_ms..max_ms later (5 s when both are 0). stale_compare: a compare is called stale though it
    fits. silent_reject: answered as accepted, number unchanged. slow: every answer waits min_ms..max_ms.
    queue_redelivery: a delivered queue entry is shown again at once as if it had not been taken. queue_reordered: the
    queue hands out what it has in any order. hidden_event: an order is announced once more though nothing changed.
    version_moves: between a read and the write another seller's depot moves the version of the stock.
    unknown_status: an order is shown in a status that no documentation names. token_refused: a valid access token is
    called invalid. token_unanswered: a refresh is executed and its answer never arrives.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    webhook_late: Vice | None = None
    webhook_reordered: Vice | None = None
    webhook_duplicate: Vice | None = None
    webhook_missing: Vice | None = None
    write_throttled: Vice | None = None
    write_error: Vice | None = None
    write_timeout: Vice | None = None
    stale_compare: Vice | None = None
    silent_reject: Vice | None = None
    slow: Vice | None = None
    queue_redelivery: Vice | None = None
    queue_reordered: Vice | None = None
    hidden_event: Vice | None = None
    version_moves: Vice | None = None
    unknown_status: Vice | None = None
    token_refused: Vice | None = None
    token_unanswered: Vice | None = None


class Seeded(Protocol):
    """A set of vices of whatever kind of sandbox: one field a vice, and the seed they are drawn with."""

    @property
    def seed(self) -> int: ...


class Temper:
    """Draws from the vices of a shop or account; the only place of a sandbox where chance decides."""

    def __init__(self, vices: Seeded, since_ms: int) -> None:
        self._vices = vices
        self._since_ms = since_ms
        self._random = random.Random(vices.seed)  # noqa: S311 - a repeatable habit, not a secret

    def shuffle(self, rows: list[Any]) -> None:
        """Put rows into any order."""
        self._random.shuffle(rows)

    def strikes(self, name: str, now_ms: int) -> int | None:
        """None if the named vice leaves this request alone, else the milliseconds it strikes with."""
        vice: Vice | None = getattr(self._vices, name)
        if vice is None or vice.probability == 0:
            return None
        if vice.duration_s is not None and now_ms > self._since_ms + vice.duration_s * 1000:
            return None
        if vice.probability < 1 and self._random.random() >= vice.probability:
            return None
        return self._random.randint(vice.min_ms, vice.max_ms) if vice.max_ms else 0

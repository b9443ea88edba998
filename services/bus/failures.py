"""Two kinds of failure exist: what passes by itself, and what will never pass with this code.

The SQLSTATE classes are those of PostgreSQL 18, appendix A.
"""

import asyncio
import contextlib
import enum
import random
import re
from typing import Final, final

import asyncpg
from aiokafka.errors import KafkaError
from pydantic import ValidationError


@final
class Transient(Exception):
    """Raised by a handler where waiting helps: the batch is rolled back and tried again, for ever."""


@final
class Poison(Exception):
    """Raised by a handler for an event that this code can never handle: it becomes a dead letter."""


@final
class Halt(Exception):
    """The consumer must not go on with this build; the text says why and what to do."""


DATABASE_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a statement raises, or the way to the database."""

SERVER_ERRORS: Final = (*DATABASE_ERRORS, KafkaError)
"""The same, or what a Kafka client raises."""


class Kind(enum.Enum):
    """How a failure is treated."""

    CONNECTION = "connection"  # wait for ever, not ready meanwhile
    RECORD = "record"  # five tries, then one by one
    OTHER = "other"  # one by one at once


_VALUE: Final = re.compile(r'"[^"]*"|:.*', re.DOTALL)
_CONNECTION_CLASSES = ("08", "53", "58", "XX")
_CONNECTION_STATES = frozenset({"57P01", "57P02", "57P03", "57P05", "25006", "25P03"})
_RECORD_STATES = frozenset({"40P01", "40001", "55P03", "57014"})


def kind_of(failure: BaseException) -> Kind:
    """Classify a failure.

    asyncpg uses `InterfaceError` both for a lost connection and for wrong arguments. `Work.transaction` turns the first
    into `ConnectionError`; what is left is wrong code, and waiting for it would not end.
    """
    if isinstance(failure, asyncpg.PostgresError):
        state = failure.sqlstate or ""
        if state[:2] in _CONNECTION_CLASSES or state in _CONNECTION_STATES:
            return Kind.CONNECTION
        return Kind.RECORD if state in _RECORD_STATES else Kind.OTHER
    if isinstance(failure, Transient | OSError | asyncpg.InternalClientError):
        return Kind.CONNECTION
    return Kind.OTHER


def describe(failure: BaseException) -> str:
    """The cause in one line, without payload: PostgreSQL's detail and Pydantic's input may hold personal data, and so
    does what asyncpg and PostgreSQL say of a value that fits no type."""
    if isinstance(failure, ValidationError):
        errors = failure.errors(include_url=False, include_input=False, include_context=False)
        found = [f"{'.'.join(map(str, error['loc']))}: {error['type']}" for error in errors]
        return f"ValidationError: {'; '.join(found[:5])}"[:500]
    text = _VALUE.sub("…", str(failure)) if isinstance(failure, asyncpg.DataError) else str(failure)
    text = text if isinstance(failure, Poison) else f"{type(failure).__name__}: {text}"
    return text.split("\n", 1)[0][:500]


@final
class Backoff:
    """Pauses that grow by a factor up to a cap, with jitter; they end as soon as `stop` is set."""

    def __init__(self, stop: asyncio.Event, cap_s: float, growth: float = 2) -> None:
        self._stop, self._cap_s, self._growth = stop, cap_s, growth
        self.tries = 0

    async def wait(self) -> None:
        """Pause before the next try."""
        jitter = random.uniform(0.5, 1)  # noqa: S311 - no secret
        pause_s = min(self._cap_s, 0.05 * self._growth ** min(self.tries, 16)) * jitter
        self.tries += 1
        await waited(self._stop, pause_s)


async def waited(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for `event` at most `timeout_s`; True if it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()

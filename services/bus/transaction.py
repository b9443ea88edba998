"""What a handler is given: events that were received, and the one open transaction of the batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar, final

import asyncpg
from opentelemetry.trace import Span

from contracts.envelope import Envelope, Message

E_co = TypeVar("E_co", bound=Message, covariant=True)
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"


@final
class Cause(NamedTuple):
    """Why something is published: the event that led to it and the span it was created in.

    Three strings, so that a row can keep it until a loop comes back to it. `event_id` is empty for a flow's start.
    """

    event_id: str
    correlation_id: str
    traceparent: str = ""


@final
class Received(NamedTuple, Generic[E_co]):
    """One event of a batch: its message in the newest major, its envelope, and the key of its record.

    `body` is the message's JSON as it came, with what this build does not know; empty where it was lifted.
    """

    message: E_co
    envelope: Envelope
    key: str
    body: bytes = b""

    @property
    def cause(self) -> Cause:
        """This event as the cause of what is published because of it."""
        return Cause(self.envelope.id, self.envelope.correlation_id, self.envelope.traceparent)

    @property
    def tenant(self) -> str:
        """The company this event belongs to."""
        return self.envelope.tenant


@final
class Publication(NamedTuple):
    """A message on its way to the outbox."""

    message: Message
    tenant: str
    causes: tuple[Cause, ...]
    correlation_id: str
    event_id: str


class Publications(Protocol):
    """What takes publications, in order: the outbox, which encodes each of them at once, or a list."""

    def append(self, publication: Publication, /) -> None:
        """Take one more."""


@final
@dataclass(slots=True)
class Transaction:
    """An open database transaction and what will be published with it.

    `publish` only encodes; the bus writes the outbox rows as the last statement before the commit, in the order of
    the calls, while the row locks of the handler are held. That is what makes order of rows = order of commits per key.
    `now` is the one reading of the clock that everything in this transaction uses. `spans` are those of the events that
    are being handled, by event id; they end with the commit.
    """

    connection: Connection
    now: datetime
    new_id: Callable[[], str]
    publications: Publications = field(default_factory=list[Publication])
    spans: dict[str, Span] = field(default_factory=dict)
    committed: list[Callable[[], None]] = field(default_factory=list)

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call this once the transaction is committed; never if it is not. It must not raise."""
        self.committed.append(call)

    def publish(
        self,
        message: Message,
        *,
        tenant: str,
        cause: Cause | Sequence[Cause],
        correlation_id: str = "",
        event_id: str = "",
    ) -> str:
        """Publish `message` when the transaction commits; returns its event id (UUIDv7, made here unless given).

        Of several causes the first sampled one becomes the parent in the trace, the others become links. The
        correlation id is the first cause's unless given. Raises as the outbox does for a message that cannot be sent.
        """
        causes = (cause,) if isinstance(cause, Cause) else tuple(cause)
        flow = correlation_id or (causes[0].correlation_id if causes else "")
        event_id = event_id or self.new_id()
        self.publications.append(Publication(message, tenant, causes, flow, event_id))
        return event_id

"""Publications become rows of the outbox: checked here, where a bad one fails its own handler and nobody else."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple, final
from zlib import crc32

from opentelemetry.trace import Span

from contracts.catalogue import Catalogue, MessageType
from contracts.envelope import TENANT_PATTERN, Envelope, Message
from services.bus.failures import Poison
from services.bus.tracing import Tracing
from services.bus.transaction import Publication, Transaction

RECORD_LIMIT_BYTES: Final = 900_000
"""Below the broker's default `message.max.bytes` (1,048,588): one record that the broker refuses would make the
idempotent producer fail every later send to that partition."""

SEPARATOR: Final = b"\xff"
"""Between the headers of a row. No UTF-8 has it."""

SLOTS: Final = 64
"""As many relays can share the work at most; a row keeps its key's slot, whatever their number is when it is sent."""

_COLUMNS: Final = ("event_id", "topic", "key", "headers", "payload", "slot", "personal")

Row = tuple[str, str, str, bytes, bytes, int, bool]
"""Event id, topic, key, headers, payload, slot, personal."""


class _Plan(NamedTuple):
    """What is the same for every message of a type; looked up once, not once a message."""

    entry: MessageType
    type_name: str
    topic: str
    personal: bool
    is_alone: bool  # no older major is published beside it


@final
class Outbox:
    """Writes publications of one service."""

    def __init__(self, source: str, catalogue: Catalogue, tracing: Tracing) -> None:
        self._source, self._catalogue, self._tracing = source, catalogue, tracing
        self._plans = {
            entry.model: _Plan(entry, name, entry.stream.name, entry.stream.personal, name not in catalogue.older)
            for name, entry in catalogue.by_name.items()
        }

    async def write(self, tx: Transaction, spans: Mapping[str, Span]) -> int:
        """One COPY for everything that was published in `tx`, in order; returns the number of rows.

        Raises `Poison` for a publication that no broker would take, `KeyError` for one that is not in the catalogue.
        """
        rows: list[Row] = []
        for publication in tx.publications:
            message = publication.message
            plan = self._plans.get(type(message))
            if plan and plan.is_alone:
                rows.append(self._row(publication, plan, message, tx.now, spans))
                continue
            for entry, cast in self._catalogue.publications(message):
                rows.append(self._row(publication, self._plans[entry.model], cast, tx.now, spans))
        if rows:
            await tx.connection.copy_records_to_table("outbox", records=rows, columns=_COLUMNS)
        return len(rows)

    def _row(
        self, publication: Publication, plan: _Plan, message: Message, now: datetime, spans: Mapping[str, Span]
    ) -> Row:
        _, tenant, causes, flow, event_id = publication
        traceparent = self._tracing.created(plan.topic, plan.type_name, event_id, flow, causes, spans)
        envelope = Envelope(
            event_id, plan.type_name, self._source, now, plan.entry.aggregate(message), tenant, flow,
            causes[0].event_id if causes else "", traceparent,
        )  # fmt: skip
        return encoded(envelope, message, plan.topic, personal=plan.personal)


def encoded(envelope: Envelope, message: Message, topic: str, *, personal: bool) -> Row:
    """The row of one record, its headers packed nearly as Kafka wants them: their values, 0xFF between, not in UTF-8.

    Raises `Poison` for what is too large, without tenant, aggregate or id, or not text.
    """
    if not TENANT_PATTERN.fullmatch(envelope.tenant):
        raise Poison(f"{envelope.type}: tenant {envelope.tenant!r} must match [a-z0-9-]{{1,32}}")
    if not envelope.subject or not envelope.id:
        raise Poison(f"{envelope.type}: the aggregate and the event id must not be empty")
    key = f"{envelope.tenant}:{envelope.subject}"
    try:
        headers = SEPARATOR.join(map(str.encode, envelope.values()))
        payload = message.__pydantic_serializer__.to_json(message)
        key_bytes = key.encode()
    except (UnicodeEncodeError, ValueError) as failure:
        raise Poison(f"{envelope.type}: not encodable as UTF-8") from failure
    size = len(headers) + len(payload) + len(key_bytes)
    if "\x00" in key or size > RECORD_LIMIT_BYTES:
        raise Poison(f"{envelope.type}: {size} bytes, at most {RECORD_LIMIT_BYTES}; no NUL in the key")
    return envelope.id, topic, key, headers, payload, crc32(key_bytes) % SLOTS, personal

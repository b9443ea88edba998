"""Publications become rows of the outbox: checked here, where a bad one fails its own handler and nobody else."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, final
from zlib import crc32

from opentelemetry.trace import Span
from pydantic_core import to_json

from contracts.catalogue import Catalogue, MessageType
from contracts.envelope import TENANT_PATTERN, Envelope, Message
from services.bus.failures import Poison
from services.bus.tracing import Tracing
from services.bus.transaction import Publication, Transaction

RECORD_LIMIT_BYTES: Final = 900_000
"""Below the broker's default `message.max.bytes` (1,048,588): one record that the broker refuses would make the
idempotent producer fail every later send to that partition."""

_INSERT: Final = """
INSERT INTO outbox (event_id, topic, key, headers, payload, shard, personal)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::smallint[], $7::boolean[])
"""

Row = tuple[str, str, str, str, bytes, int, bool]


@final
class Outbox:
    """Writes publications of one service. `shards` is the number of relays that share the work."""

    def __init__(self, source: str, catalogue: Catalogue, tracing: Tracing, shards: int) -> None:
        self._source, self._catalogue, self._tracing, self._shards = source, catalogue, tracing, shards

    async def write(self, tx: Transaction, spans: Mapping[str, Span]) -> int:
        """One insert for everything that was published in `tx`, in order; returns the number of rows.

        Raises `Poison` for a publication that no broker would take.
        """
        rows = [row for publication in tx.publications for row in self._rows(publication, tx.now, spans)]
        if rows:
            await tx.connection.execute(_INSERT, *map(list, zip(*rows, strict=True)))
        return len(rows)

    def _rows(self, publication: Publication, now: datetime, spans: Mapping[str, Span]) -> list[Row]:
        return [
            self._row(publication, entry, message, now, spans)
            for entry, message in self._catalogue.publications(publication.message)
        ]

    def _row(
        self, publication: Publication, entry: MessageType, message: Message, now: datetime, spans: Mapping[str, Span]
    ) -> Row:
        stream, causes = entry.stream, publication.causes
        aggregate = entry.aggregate(message)
        traceparent = self._tracing.created(
            stream.name, entry.name, publication.event_id, publication.correlation_id, causes, spans
        )
        envelope = Envelope(
            id=publication.event_id,
            type=entry.name,
            source=self._source,
            time=now,
            subject=aggregate,
            tenant=publication.tenant,
            correlation_id=publication.correlation_id,
            causation_id=causes[0].event_id if causes else "",
            traceparent=traceparent,
        )
        return encoded(envelope, message, stream.name, self._shards, personal=stream.personal)


def encoded(envelope: Envelope, message: Message, topic: str, shards: int, *, personal: bool) -> Row:
    """The row of one record. Raises `Poison` for what is too large, without tenant, aggregate or id, or not text."""
    if not TENANT_PATTERN.fullmatch(envelope.tenant):
        raise Poison(f"{envelope.type}: tenant {envelope.tenant!r} must match [a-z0-9-]{{1,32}}")
    if not envelope.subject or not envelope.id:
        raise Poison(f"{envelope.type}: the aggregate and the event id must not be empty")
    key = f"{envelope.tenant}:{envelope.subject}"
    try:
        headers = to_json(envelope.to_headers())
        payload = message.__pydantic_serializer__.to_json(message)
        size = len(headers) + len(payload) + len(key.encode())
    except (UnicodeEncodeError, ValueError) as failure:
        raise Poison(f"{envelope.type}: not encodable as UTF-8") from failure
    if "\x00" in key or size > RECORD_LIMIT_BYTES:
        raise Poison(f"{envelope.type}: {size} bytes, at most {RECORD_LIMIT_BYTES}; no NUL in the key")
    return envelope.id, topic, key, headers.decode(), payload, crc32(key.encode()) % shards, personal

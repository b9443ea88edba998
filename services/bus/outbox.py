"""Publications become packs in the outbox: checked here, where a bad one fails its own handler and nobody else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, final
from zlib import crc32

from cramjam import lz4
from opentelemetry.trace import Span

from contracts.catalogue import Catalogue
from contracts.envelope import CONTENT_TYPE, HEADERS, SPEC_VERSION, Message, is_tenant, rfc3339
from services.bus.failures import Poison
from services.bus.tracing import Tracing
from services.bus.transaction import Connection, Publication

RECORD_LIMIT_BYTES: Final = 900_000
"""Below the broker's default `message.max.bytes` (1,048,588): one record that the broker refuses would make the
idempotent producer fail every later send to that partition. A pack of several is cut at this size, too."""

FIELD: Final = "\0"
"""Between the parts of a record: its key, the values of its headers, its payload. None may hold it: no text of
PostgreSQL does, and JSON escapes it."""

RECORD: Final = b"\xff"
"""Between the records of a pack. No UTF-8 has it."""

SLOTS: Final = 24
"""As many relays can share the work at most; a row keeps its keys' slot, whatever their number is when it is sent.
Keys of one slot lie in one partition wherever a topic has 1, 2, 3, 4, 6, 8, 12 or 24 of them."""

_COLUMNS: Final = ("topic", "slot", "personal", "count", "records")


@dataclass(slots=True)
class _Pack:
    topic: str
    slot: int
    personal: bool
    records: list[bytes] = field(default_factory=list)
    size: int = 0


@final
class Outbox:
    """What one transaction publishes, encoded as it is published: nothing but bytes waits for the end.

    `spans` are the open ones of the events that are being handled, by event id.
    """

    def __init__(
        self, source: str, catalogue: Catalogue, tracing: Tracing, now: datetime, spans: Mapping[str, Span]
    ) -> None:
        self._source, self._catalogue, self._tracing = source, catalogue, tracing
        self._time, self._spans = rfc3339(now), spans
        self._packs: list[_Pack] = []
        self._open_packs: dict[tuple[str, int], _Pack] = {}

    def append(self, publication: Publication) -> None:
        """Put a publication behind the others, in every major that is published.

        Raises `Poison` for one that no broker would take, `KeyError` for one that is not in the catalogue.
        """
        newest, tenant, causes, flow, event_id = publication
        causation_id = causes[0].event_id if causes else ""
        for entry, message in self._catalogue.publications(newest):
            topic, name = entry.stream.name, entry.name
            traceparent = self._tracing.created(topic, name, event_id, flow, causes, self._spans)
            # As of an `Envelope`: making one for each message, and asking it, costs more than the rest of its head.
            values = (
                SPEC_VERSION, event_id, name, self._source, self._time, entry.aggregate(message), tenant, flow,
                causation_id, traceparent, CONTENT_TYPE,
            )  # fmt: skip
            key, record = encoded(values, message)
            place = topic, crc32(key) % SLOTS
            pack = self._open_packs.get(place)
            if pack is None or pack.size + len(record) > RECORD_LIMIT_BYTES:
                pack = self._open_packs[place] = _Pack(topic, place[1], entry.stream.personal)
                self._packs.append(pack)
            pack.size += len(record)
            pack.records.append(record)

    async def write(self, connection: Connection) -> int:
        """One COPY for everything that was published; returns the number of rows.

        A row is a pack: the records of one topic and slot, in order, so that a batch of a thousand costs a few rows.
        """
        if self._packs:
            rows = [(one.topic, one.slot, one.personal, len(one.records), packed(one.records)) for one in self._packs]
            await connection.copy_records_to_table("outbox", records=rows, columns=_COLUMNS)
        return len(self._packs)


def encoded(values: Sequence[str], message: Message) -> tuple[bytes, bytes]:
    """The key of a record, and the record as a pack has it: nearly as Kafka wants it. `values` are of the headers.

    Raises `Poison` for what is too large, without tenant, aggregate or id, or not text.
    """
    _, event_id, name, _, _, subject, tenant, *_ = values
    if not is_tenant(tenant):
        raise Poison(f"{name}: tenant {tenant!r} must match [a-z0-9-]{{1,32}}")
    if not subject or not event_id:
        raise Poison(f"{name}: the aggregate and the event id must not be empty")
    key = f"{tenant}:{subject}"
    head = FIELD.join((key, *values, ""))
    if head.count(FIELD) != len(HEADERS) + 1:
        raise Poison(f"{name}: NUL in the key or in a header")
    try:
        record = head.encode() + message.__pydantic_serializer__.to_json(message)
    except (UnicodeEncodeError, ValueError) as failure:
        raise Poison(f"{name}: not encodable as UTF-8") from failure
    if len(record) > RECORD_LIMIT_BYTES:
        raise Poison(f"{name}: {len(record)} bytes, at most {RECORD_LIMIT_BYTES}")
    return key.encode(), record


def packed(records: list[bytes]) -> bytes:
    """Records as one value: an LZ4 block, which costs less than writing what it saves."""
    return bytes(lz4.compress_block(RECORD.join(records)))


def unpack(records: bytes) -> list[tuple[bytes, list[tuple[str, bytes]], bytes]]:
    """Key, headers and payload of each record of a pack, in order.

    Raises `ValueError` for a pack of a newer build, whose records have headers that this one cannot name.
    """
    unpacked = []
    for record in bytes(lz4.decompress_block(records)).split(RECORD):
        key, *values, payload = record.split(b"\0")
        if len(values) > len(HEADERS):
            raise ValueError(f"a record of the outbox has {len(values)} headers, this build knows {len(HEADERS)}")
        headers = [header for header in zip(HEADERS, values, strict=False) if header[1]]
        unpacked.append((key, headers, payload))
    return unpacked

"""From a Kafka record to an event, without ever raising for what is in it: bad records have to end somewhere too.

FastStream's own parser loses a whole batch over one null header, so it only passes records through; this is the parser.
"""

import base64
import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeAlias, final

from aiokafka import ConsumerRecord
from pydantic_core import from_json, to_json

from contracts.catalogue import Catalogue, MessageType, split_type
from contracts.envelope import Envelope, EnvelopeInvalid, Message
from services.bus.failures import Halt, describe
from services.bus.transaction import Received

Aggregate = Callable[[str, Mapping[str, str]], str]

KEY_LIMIT: Final = 500
"""Characters. PostgreSQL indexes at most 2,704 bytes, and a record that cannot even be buried would stop its stream."""

_TRACEPARENT: Final = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

AHEAD: Final = -timedelta(days=1)
"""The youngest an event may be: its clock may be ahead of ours by so much."""


class Packed(NamedTuple):
    """A record taken out of the log, kept whole: null and non-UTF-8 parts included."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


Record: TypeAlias = "Packed | ConsumerRecord[Any, Any]"


def pack(record: Record) -> bytes:
    """`record` as bytes for `parked.record` and `dead_letters.record`."""
    place = record.topic, record.partition, record.offset
    return to_json((*place, record.key, record.value, record.headers), bytes_mode="base64")


def unpack(packed: bytes) -> Packed:
    """The record that `pack` was given."""
    topic, partition, offset, key, value, headers = from_json(packed)
    headers = [(name, _bytes(part)) for name, part in headers]
    return Packed(topic, partition, offset, _bytes(key), _bytes(value), headers)


def _bytes(part: str | None) -> bytes | None:
    return None if part is None else base64.urlsafe_b64decode(part)


class Verdict(enum.Enum):
    """What a record is, before any handler sees it."""

    EVENT = "event"
    SKIPPED = "skipped"  # a type of the stream's owner that this consumer does not handle
    REFUSED = "refused"  # foreign, without key, or too old: a dead letter that parks nothing
    UNREADABLE = "unreadable"  # a dead letter that parks its aggregate


@final
@dataclass(slots=True)
class Incoming:
    """A record with what could be made of it. `identity` is (day, source, id) of the inbox, None if undecodable."""

    record: Record
    verdict: Verdict
    key: str | None
    aggregate: str | None
    headers: dict[str, str]
    identity: tuple[date, str, str] | None = None
    received: Received[Any] | None = None
    error: str = ""

    @property
    def parked_as(self) -> tuple[str, str]:
        """(source, id) that makes the record unique among the parked ones, decodable or not."""
        if self.identity:
            return self.identity[1:]
        return f"urn:kafka:{self.record.topic}", f"{self.record.partition}/{self.record.offset}"

    def judged(self, verdict: Verdict, error: str) -> "Incoming":
        """Itself, with a verdict and its cause."""
        self.verdict, self.error = verdict, error
        if verdict is Verdict.REFUSED:
            self.aggregate = self.identity = None
        return self


@final
class Reader:
    """Reads the records of one stream for one consumer.

    `handles` are models in their newest major; every type of the stream that can be lifted to one of them is handled.
    """

    def __init__(
        self,
        stream: str,
        handles: Sequence[type[Message]],
        aggregate: Aggregate,
        catalogue: Catalogue,
        horizon: timedelta,
    ) -> None:
        self._stream, self._aggregate, self._catalogue, self._horizon = stream, aggregate, catalogue, horizon
        self._entries: dict[str, tuple[MessageType, Callable[..., Message]]] = {}
        for entry in catalogue.types_of(stream):
            if _newest(catalogue, entry).model in handles:
                self._entries[entry.name] = entry, entry.model.__pydantic_validator__.validate_json
        if missing := set(handles) - {_newest(catalogue, entry).model for entry, _ in self._entries.values()}:
            names = sorted(model.__name__ for model in missing)
            raise ValueError(f"{stream} does not carry {names}: see the catalogue")
        self._majors = dict(map(split_type, self._entries))
        self._owner_prefix = f"saldo.{catalogue.streams[stream].owner}."

    def read(self, record: Record, now: datetime | None) -> Incoming:
        """Judge and parse one record; `now` is the moment of its arrival, None for one that waited here already.

        Raises `Halt` on a higher major of a handled type.
        """
        headers, fault = _decoded(record.headers)
        try:
            key = None if record.key is None else record.key.decode()
            if key and "\x00" in key:
                key, fault = key.replace("\x00", "\\0"), "key holds NUL"
        except UnicodeDecodeError:
            key, fault = record.key.decode(errors="backslashreplace") if record.key else None, "key is not UTF-8"
        incoming = Incoming(record, Verdict.UNREADABLE, key, None, headers)
        if not key or len(key) > KEY_LIMIT:
            cause = f"record has a key of more than {KEY_LIMIT} characters" if key else "record has no key"
            return incoming.judged(Verdict.REFUSED, f"{cause}: key it tenant:aggregate")
        try:
            incoming.aggregate = self._aggregate(key, headers)[:KEY_LIMIT].replace("\x00", "\\0")
        except Exception:  # noqa: BLE001 - an aggregate that cannot be named is the key's
            incoming.aggregate = key
        if fault:
            return incoming.judged(Verdict.UNREADABLE, fault)
        try:
            envelope = Envelope.from_headers(headers)
        except EnvelopeInvalid as invalid:
            return incoming.judged(Verdict.UNREADABLE, str(invalid))
        if envelope.traceparent and not _TRACEPARENT.fullmatch(envelope.traceparent):
            # W3C Trace Context, 3.2.2.3: a header that cannot be read is as none; handed on, it would break others.
            envelope = envelope._replace(traceparent="")
        if len(envelope.id) + len(envelope.source) > KEY_LIMIT or "\x00" in envelope.id + envelope.source:
            return incoming.judged(Verdict.UNREADABLE, "ce_id or ce_source holds NUL or is too long")
        incoming.identity = (envelope.time.date(), envelope.source, envelope.id)
        found = self._entries.get(envelope.type)
        if found is None:
            return self._unknown(incoming, envelope.type)
        if now is not None and not AHEAD <= now - envelope.time <= self._horizon:
            return incoming.judged(Verdict.REFUSED, f"ce_time {envelope.time.isoformat()} is outside the inbox")
        if not key.startswith(f"{envelope.tenant}:"):
            return incoming.judged(Verdict.UNREADABLE, "the key does not begin with ce_tenant: key it tenant:…")
        if record.value is None:
            return incoming.judged(Verdict.UNREADABLE, "the body is null: streams of facts have no tombstones")
        try:
            message, body = found[1](record.value, extra="ignore"), record.value
            if found[0].upcast:
                message, body = self._catalogue.newest(found[0], message), b""
        except Exception as failure:  # noqa: BLE001 - whatever the body or an upcaster does, the record must end here
            return incoming.judged(Verdict.UNREADABLE, describe(failure))
        incoming.received = Received(message, envelope, key, body)
        incoming.verdict = Verdict.EVENT
        return incoming

    def _unknown(self, incoming: Incoming, name: str) -> Incoming:
        stem, major = split_type(name)
        if major > self._majors.get(stem, major):
            raise Halt(
                f"{self._stream} carries {name}, this build reads major {self._majors[stem]}: deploy a newer one"
            )
        if name.startswith(self._owner_prefix):
            return incoming.judged(Verdict.SKIPPED, "")
        return incoming.judged(Verdict.REFUSED, f"foreign type {name!r} on {self._stream}"[:200])


def _newest(catalogue: Catalogue, entry: MessageType) -> MessageType:
    while entry.upcast:
        stem, major = split_type(entry.name)
        entry = catalogue.by_name[f"{stem}.v{major + 1}"]
    return entry


def _decoded(headers: Sequence[tuple[str, bytes | None]]) -> tuple[dict[str, str], str]:
    try:
        return {name: value.decode() for name, value in headers}, ""  # type: ignore[union-attr]
    except (AttributeError, UnicodeDecodeError):
        pass
    readable, faults = {}, []
    for name, value in headers:
        try:
            readable[name] = (value or b"").decode()
        except UnicodeDecodeError:
            faults.append(f"header {name} is not UTF-8")
        if value is None:
            faults.append(f"header {name} is null")
    return readable, "; ".join(faults)[:500]

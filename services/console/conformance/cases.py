"""What is sent: cases, each about aggregates of its own, so that whatever comes of it can be told apart."""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias, final
from zlib import crc32

import uuid_utils

from contracts.catalogue import Catalogue, MessageType, StreamKind
from contracts.envelope import Envelope
from services.console.conformance.bodies import Body, dressed, with_unknown_fields, with_unknown_values

SOURCE: Final = "urn:saldo:conformance"
OVERSIZE_BYTES: Final = 900_000
"""What Saldo itself would still send; brokers take 1 MiB unless told otherwise."""

Headers: TypeAlias = list[tuple[str, bytes | None]]
Script: TypeAlias = tuple[Body, ...]
Change: TypeAlias = Callable[[MessageType, dict[str, Any]], dict[str, Any]]

BROKEN_TRACES: Final = {
    "no traceparent": None,
    "traceparent is text": b"not a trace",
    "traceparent is not hexadecimal": b"00-" + b"z" * 32 + b"-" + b"y" * 16 + b"-01",
    "traceparent of zeros": b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
    "traceparent of version ff": b"ff-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
    "traceparent of 4,000 characters": b"00-" + b"a" * 3997,
}


@dataclass(frozen=True, slots=True)
class Sent:
    """A record to send. `aggregate` is of the probe that it belongs to; ids are empty where it is no event."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    aggregate: str = ""
    event_id: str = ""
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """Good events about one aggregate; by what they lead to one sees whether they were handled."""

    aggregate: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent for one line of the report. `probes` are to lead to what they lead to when nothing is beside them.

    `stale` are events that must lead to nothing, `series` events whose order must be kept.
    """

    check: str
    what: str
    stream: str
    sent: tuple[Sent, ...]
    probes: tuple[Probe, ...] = ()
    stale: tuple[str, ...] = ()
    series: tuple[str, ...] = ()


@final
@dataclass(slots=True)
class Author:
    """Writes records for one made-up company. `partitions` is the number of partitions by topic."""

    tenant: str
    catalogue: Catalogue
    partitions: Mapping[str, int]
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    def event(self, body: Body, seed: str, *, step: int = 0, change: Change | None = None) -> Sent:
        """One good event of `body` about the aggregate of `seed`."""
        now = self.clock()
        aggregate, value = dressed(body, seed, now, step)
        if change:
            value = change(body.entry, value)
        return self.record(body.entry, aggregate, json.dumps(value, ensure_ascii=False).encode(), now)

    def record(self, entry: MessageType, aggregate: str, value: bytes | None, now: datetime, id_: str = "") -> Sent:
        """A record of a type with a good head, whatever its body."""
        trace_id = secrets.token_hex(16)
        envelope = Envelope(
            id=id_ or str(uuid_utils.uuid7()), type=entry.name, source=SOURCE, time=now, subject=aggregate,
            tenant=self.tenant, correlation_id=aggregate, traceparent=f"00-{trace_id}-{secrets.token_hex(8)}-01",
        )  # fmt: skip
        key = f"{self.tenant}:{aggregate}".encode()
        partition = crc32(key) % self.partitions[entry.stream.name]
        headers: Headers = [*envelope.to_headers()]
        return Sent(entry.stream.name, partition, key, value, headers, aggregate, envelope.id, trace_id)

    def probe(
        self, script: Script, *, partition: int | None = None, steps: Sequence[int] = (0,), change: Change | None = None
    ) -> tuple[Probe, tuple[Sent, ...]]:
        """`script` once for each of `steps`, about an aggregate of its own; it lies in `partition` if given."""
        while True:
            seed = secrets.token_hex(8)
            sent = tuple(self.event(body, seed, step=step, change=change) for step in steps for body in script)
            if partition is None or sent[0].partition == partition:
                return Probe(sent[0].aggregate, tuple(one.event_id for one in sent)), sent


def samples(author: Author, stream: str, bodies: Mapping[str, Sequence[Body]]) -> list[tuple[Script, Case]]:
    """Every body of a stream alone, by type, and one of each type in a row about one aggregate."""
    scripts: list[tuple[str, Script]] = [
        (f"{name} ({body.label})", (body,)) for name, several in bodies.items() for body in several
    ]
    if len(bodies) > 1:
        scripts.append(("one of each type in a row", tuple(several[0] for several in bodies.values())))
    written = []
    for what, script in scripts:
        probe, sent = author.probe(script)
        written.append((script, Case("samples", what, stream, sent, (probe,))))
    return written


def cases(author: Author, stream: str, script: Script) -> Iterator[Case]:
    """All else that may come on a stream. `script` is what shows that the service is at work, as far as it shows it."""
    probe, sent = author.probe(script, change=with_unknown_fields)
    yield Case("newer minor", "unknown fields", stream, sent, (probe,))
    # What it makes of a value that it does not know is its own affair; what comes beside it is not.
    before, after, sent_before, sent_after = _neighbours(author, script)
    _, odd = author.probe(script, partition=sent_before[0].partition, change=with_unknown_values)
    yield Case("newer minor", "unknown values", stream, (*sent_before, *odd, *sent_after), (before, after))
    yield from _types(author, stream, script)
    yield from _majors(author, stream, script)
    yield from _repeated(author, stream, script)
    yield from _ordered(author, stream, script)
    for what, broken in BROKEN_TRACES.items():
        probe, sent = author.probe(script)
        changed = tuple(_with_header(one, "traceparent", broken) for one in sent)
        yield Case("broken traces", what, stream, tuple(replace(one, trace_id="") for one in changed), (probe,))
    yield from _poison(author, stream, script)
    probe, sent = author.probe(script)
    yield Case("still at work", "good events after all that", stream, sent, (probe,))


def restart(author: Author, stream: str, script: Script, probes: int = 20) -> list[Case]:
    """Good events to send while the service is started again, a case each."""
    written = [author.probe(script) for _ in range(probes)]
    return [Case("restart", f"event {n}", stream, sent, (probe,)) for n, (probe, sent) in enumerate(written, 1)]


def _types(author: Author, stream: str, script: Script) -> Iterator[Case]:
    """Types that the service cannot know, under the key of what comes after them: nothing may be parked for them."""
    owner = author.catalogue.streams[stream].owner
    major = author.catalogue.streams[stream].major
    for check, name in (
        ("unknown types", f"saldo.{owner}.added-by-the-conformance-kit.v{major}"),
        ("foreign types", "saldo.somebody-else.came-here-by-mistake.v1"),
    ):
        before, after, sent_before, sent_after = _neighbours(author, script)
        record = author.record(script[0].entry, after.aggregate, b'{"x":1}', author.clock())
        record = replace(_with_header(record, "ce_type", name.encode()), aggregate="")
        yield Case(check, name, stream, (*sent_before, record, *sent_after), (before, after))


def _majors(author: Author, stream: str, script: Script) -> Iterator[Case]:
    """One fact in every major that is published, under one id: it takes effect once whichever is read."""
    for entry in author.catalogue.types_of(stream):
        body = next((one for one in script if one.entry is entry), None)
        if body is None:
            continue
        seed, now = secrets.token_hex(8), author.clock()
        _, value = dressed(body, seed, now)
        message = entry.model.model_validate_json(json.dumps(value), extra="ignore")
        published = author.catalogue.publications(author.catalogue.newest(entry, message))
        if len(published) > 1:
            id_ = str(uuid_utils.uuid7())
            sent = tuple(
                author.record(one, one.aggregate(said), said.model_dump_json().encode(), now, id_)
                for one, said in published
            )
            yield Case("majors", entry.name, stream, sent, (Probe(sent[0].aggregate, (id_,)),))


def _repeated(author: Author, stream: str, script: Script) -> Iterator[Case]:
    probe, sent = author.probe(script)
    yield Case(
        "duplicates", "each event three times in a row", stream, tuple(one for one in sent for _ in "abc"), (probe,)
    )
    other, between = author.probe(script, partition=sent[0].partition)
    again = (*sent, *between, *sent)
    yield Case("duplicates", "again after another's", stream, again, (probe, other))


def _ordered(author: Author, stream: str, script: Script) -> Iterator[Case]:
    """Several versions of one aggregate in order; and with an older one late, where only the latest counts."""
    if not all(body.is_stepped for body in script):
        return
    steps = range(1, 6)
    probe, sent = author.probe(script, steps=steps)
    yield Case("order in a key", "five versions in order", stream, sent, series=probe.events)
    state = author.catalogue.streams[stream].kind is StreamKind.STATE
    if state or all("revision" in body.value for body in script):
        probe, sent = author.probe(script, steps=(2, 1))
        late = probe.events[len(script) :]
        yield Case("reordering", "an older version after a newer one", stream, sent, stale=late)


def _poison(author: Author, stream: str, script: Script) -> Iterator[Case]:
    """Records that nobody can read, each between two good ones in its partition.

    They have keys of their own: who parks a key behind what he could not read still handles the good ones.
    """
    now = author.clock()
    field_name = script[0].entry.key[0]
    bodies = {
        "broken JSON": b'{"sku": "A", ',
        "a body of another shape": json.dumps({field_name: {"not": ["what", "it", "was"]}}).encode(),
        "no body (null)": None,
        "a body of 900 kB that is no message": json.dumps({"x": "x" * OVERSIZE_BYTES}).encode(),
    }
    heads: dict[str, Callable[[Sent], Sent]] = {
        "a header that is no UTF-8": lambda one: _with_header(one, "ce_subject", b"\xff\xfe"),
        "a header that is null": lambda one: replace(one, headers=[*one.headers, ("x-proxy", None)]),
        "no headers": lambda one: replace(one, headers=[]),
        "a time that is none": lambda one: _with_header(one, "ce_time", b"yesterday"),
        "no key": lambda one: replace(one, key=None),
        "a key that is no UTF-8": lambda one: replace(one, key=b"\xff\xfe:" + (one.key or b"")),
        "an event of ten years ago": lambda one: _with_header(one, "ce_time", _text(now - timedelta(days=3650))),
        "an event of next month": lambda one: _with_header(one, "ce_time", _text(now + timedelta(days=30))),
    }
    for what in (*bodies, *heads):
        before, after, sent_before, sent_after = _neighbours(author, script)
        seed = secrets.token_hex(8)
        aggregate, value = dressed(script[0], seed, now)
        body = bodies[what] if what in bodies else json.dumps(value).encode()
        record = author.record(script[0].entry, aggregate, body, now)
        if what in heads:
            record = heads[what](record)
        record = replace(record, partition=sent_before[0].partition, aggregate="")
        yield Case("poison", what, stream, (*sent_before, record, *sent_after), (before, after))


def _neighbours(author: Author, script: Script) -> tuple[Probe, Probe, tuple[Sent, ...], tuple[Sent, ...]]:
    before, sent_before = author.probe(script)
    after, sent_after = author.probe(script, partition=sent_before[0].partition)
    return before, after, sent_before, sent_after


def _with_header(one: Sent, name: str, value: bytes | None) -> Sent:
    rest = [header for header in one.headers if header[0] != name]
    return replace(one, headers=rest if value is None else [*rest, (name, value)])


def _text(moment: datetime) -> bytes:
    return moment.isoformat().replace("+00:00", "Z").encode()

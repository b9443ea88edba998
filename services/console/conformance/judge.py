"""What was sent beside what came of it: a finding for each check, and never a pass for what nobody saw."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, final

from pydantic import ValidationError

from contracts.catalogue import Catalogue, split_type
from contracts.envelope import CONTENT_TYPE, SPEC_VERSION, Envelope, EnvelopeInvalid
from services.console.conformance.cases import Case, Sent

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

ASKS: Final = {
    "personal data": "a stream with personal data is read by those alone whom the catalogue names",
    "samples": "every released message of a stream is read, and its offset committed",
    "newer minor": "fields and values that a later minor adds are ignored; all else goes on as without them",
    "unknown types": "a type of the stream's owner that is not known is skipped; later events of its key are handled",
    "foreign types": "a type of another owner is put aside; later events of its key are handled",
    "majors": "one fact in two majors has one id and takes effect once",
    "duplicates": "an event that comes again leads to nothing new",
    "reordering": "an older version after a newer one changes nothing",
    "order in a key": "what comes of the events of one key is published in their order, in one partition",
    "broken traces": "a broken trace header stops nothing and is not handed on",
    "poison": "what cannot be read stops nothing: its offset is committed",
    "beside poison": "events beside what cannot be read are handled",
    "dead letters": "what was put aside is kept with its cause, to be replayed",
    "still at work": "good events after all that are handled as before",
    "restart": "events that come while it is started again take effect once each",
    "envelope": "CloudEvents 1.0 in headers: id, source, type of its topic, time, tenant; key tenant:aggregate",
    "ids": "two messages never share source and id; one message repeated keeps them",
    "bodies": "what is published fits its contract, closed: no fields that it does not have",
    "traces": "traceparent continues the trace of what caused it",
    "correlation": "ce_correlationid is kept",
    "causation": "ce_causationid is the id of what caused it",
}  # fmt: skip
"""What the contracts ask, by check."""


class Result(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    UNSEEN = "not observable"


@dataclass(frozen=True, slots=True)
class Output:
    """A record that the service under test published. Headers are as they came; of several of one name the last."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes | None]

    def head(self, name: str) -> str:
        """A header as text, empty where there is none."""
        return (self.headers.get(name) or b"").decode(errors="replace")

    @property
    def identity(self) -> tuple[str, str, str]:
        """What is the same for every copy of it; without an id it is a message of its own each time."""
        id_ = self.head("ce_id") or f"{self.partition}/{self.offset}"
        return self.topic, self.head("ce_source"), id_


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `about` is the stream it is about, or the kind of poison."""

    check: str
    about: str
    result: Result
    seen: str

    def as_dict(self) -> dict[str, str]:
        """For the report, with what the contract asks."""
        return {
            "check": self.check, "about": self.about, "result": self.result.value, "seen": self.seen,
            "asks": ASKS[self.check],
        }  # fmt: skip


@final
@dataclass(slots=True)
class Evidence:
    """Everything that was seen. `passed` says by the number of a case whether the group went past it.

    A case without an entry in `passed` was never sent, because the service stood still before. `tells` is what a probe
    led to, by stream, when nothing was beside it: copies by topic and type.
    """

    catalogue: Catalogue
    cases: list[Case] = field(default_factory=list)
    passed: dict[int, bool] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    tells: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    writes: Sequence[str] = ()

    def attributed(self) -> "Attributed":
        """The outputs by what caused them, as far as they tell."""
        return Attributed(self)


@final
class Attributed:
    """Which event and which aggregate each output is about: by cause, else trace, else correlation, else its text."""

    def __init__(self, evidence: Evidence) -> None:
        sent = [one for case in evidence.cases for one in case.sent]
        self.events: dict[str, Sent] = {one.event_id: one for one in sent if one.event_id}
        self.traces = {one.trace_id: one.event_id for one in sent if one.trace_id}
        self.aggregates = {one.aggregate for one in sent if one.aggregate}
        heads = [header for one in sent for header in one.headers]
        self.correlations = {value.decode() for name, value in heads if name == "ce_correlationid" and value}
        self.by_event: defaultdict[str, list[Output]] = defaultdict(list)
        self.by_aggregate: defaultdict[str, list[Output]] = defaultdict(list)
        self.own_ids = {output.head("ce_id") for output in evidence.outputs}
        for output in evidence.outputs:
            event_id = self.event_of(output)
            if event_id:
                self.by_event[event_id].append(output)
            aggregate = self.events[event_id].aggregate if event_id else self.aggregate_of(output)
            if aggregate:
                self.by_aggregate[aggregate].append(output)

    def event_of(self, output: Output) -> str:
        """The id of the event that led to it, empty where it does not say."""
        if (cause := output.head("ce_causationid")) in self.events:
            return cause
        found = _TRACEPARENT.fullmatch(output.head("traceparent"))
        return self.traces.get(found[1], "") if found else ""

    def aggregate_of(self, output: Output) -> str:
        """The aggregate it names: every one of ours is unique, so its text suffices."""
        if (correlation := output.head("ce_correlationid")) in self.aggregates:
            return correlation
        text = ((output.key or b"") + (output.value or b"")).decode(errors="replace")
        return next((one for one in self.aggregates if one in text), "")

    def told(self, aggregate: str) -> Counter[tuple[str, str]]:
        """How many messages, copies not counted, are about an aggregate, by topic and type."""
        seen = {(one.identity, one.head("ce_type")) for one in self.by_aggregate[aggregate]}
        return Counter((identity[0], type_name) for identity, type_name in seen)


def judge(evidence: Evidence) -> list[Finding]:
    """A finding for each check and stream, in the order of `ASKS`."""
    known = evidence.attributed()
    by_check: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for number, case in enumerate(evidence.cases):
        by_check[case.check, case.what if case.check == "poison" else case.stream].append(number)
    streams = list(dict.fromkeys(case.stream for case in evidence.cases))
    findings = [_of_cases(check, about, numbers, evidence, known) for (check, about), numbers in by_check.items()]
    findings += [_beside_poison(stream, evidence, known) for stream in streams]
    findings += _missing(evidence, streams, by_check)
    for topic in sorted({output.topic for output in evidence.outputs}):
        findings += _of_outputs(topic, [one for one in evidence.outputs if one.topic == topic], evidence, known)
    order = list(ASKS)
    return sorted(findings, key=lambda finding: order.index(finding.check))


def _missing(
    evidence: Evidence, streams: Sequence[str], by_check: Mapping[tuple[str, str], list[int]]
) -> Iterator[Finding]:
    """What nothing could be sent for, said so."""
    reasons = {
        "majors": "nothing it reads has two majors today",
        "order in a key": "what makes it speak has neither version nor revision",
        "reordering": "of what makes it speak every message counts, none replaces another",
        "still at work": "it stood still before",
        "restart": "give --restart COMMAND",
    }
    for stream in streams:
        for check, reason in reasons.items():
            if (check, stream) not in by_check:
                yield Finding(check, stream, Result.UNSEEN, reason)
    yield Finding(
        "dead letters", "", Result.UNSEEN, "they are the service's own: look whether its list has what is above"
    )
    quiet = sorted(set(evidence.writes) - {output.topic for output in evidence.outputs})
    for topic in quiet or ([] if evidence.writes else ["its own topics"]):
        reason = "it published nothing about what was sent: give bodies that make it speak with --bodies"
        yield from (Finding(check, topic, Result.UNSEEN, reason) for check in ("envelope", "bodies", "traces"))


def _of_cases(check: str, about: str, numbers: list[int], evidence: Evidence, known: Attributed) -> Finding:
    cases = [evidence.cases[number] for number in numbers]
    sent = [(number, evidence.cases[number]) for number in numbers if number in evidence.passed]
    stood = [case.what for number, case in sent if not evidence.passed[number]]
    if stood:
        return Finding(check, about, Result.FAIL, f"it did not go past: {_few(stood)} (offset not committed)")
    if len(sent) < len(cases):
        where = next(case.what for number, case in enumerate(evidence.cases) if evidence.passed.get(number) is False)
        return Finding(check, about, Result.UNSEEN, f"it stood still before, at: {where}")
    if check == "samples":
        speaking = sum(1 for case in cases if any(known.by_aggregate[probe.aggregate] for probe in case.probes))
        return Finding(check, about, Result.PASS, f"went past all {len(cases)}; {speaking} led to messages of its own")
    if check == "poison":
        return Finding(check, about, Result.PASS, "went past it")
    if check == "reordering":
        return _stale(about, cases, evidence, known)
    if check == "order in a key":
        return _order(about, cases[0], known)
    return _handled(check, about, cases, evidence, known)


def _handled(check: str, about: str, cases: Sequence[Case], evidence: Evidence, known: Attributed) -> Finding:
    """Whether the probes led to what they lead to alone: neither to less nor to more."""
    tells = evidence.tells.get(cases[0].stream, Counter())
    if not tells:
        return Finding(check, about, Result.UNSEEN, "went past it; nothing that was sent makes it speak of this stream")
    wrong = []
    for case in cases:
        for probe in case.probes:
            told = known.told(probe.aggregate)
            if not told:
                wrong.append(f"{case.what}: a good event led to nothing (alone: {sum(tells.values())} messages)")
            elif more := {name: told[name] for name in told if told[name] > tells[name]}:
                names = ", ".join(f"{count} × {type_name or topic}" for (topic, type_name), count in more.items())
                wrong.append(f"{case.what}: led to {names} under different ids (alone: {sum(tells.values())} messages)")
            elif check == "broken traces":
                wrong += _broken_traces(case.what, known.by_aggregate[probe.aggregate])
    if wrong:
        return Finding(check, about, Result.FAIL, _few(list(dict.fromkeys(wrong))))
    probes = sum(len(case.probes) for case in cases)
    return Finding(check, about, Result.PASS, f"good events beside or after it: {probes}, all led to {_named(tells)}")


def _beside_poison(stream: str, evidence: Evidence, known: Attributed) -> Finding:
    sent = [
        case
        for number, case in enumerate(evidence.cases)
        if case.check == "poison" and case.stream == stream and evidence.passed.get(number)
    ]
    if not sent:
        return Finding("beside poison", stream, Result.UNSEEN, "it stood still before")
    return _handled("beside poison", stream, sent, evidence, known)


def _broken_traces(what: str, outputs: Sequence[Output]) -> list[str]:
    handed_on = {one.head("traceparent")[:60] for one in outputs}
    return [f"{what}: published {text!a}" for text in handed_on if text and not _TRACEPARENT.fullmatch(text)]


def _stale(about: str, cases: Sequence[Case], evidence: Evidence, known: Attributed) -> Finding:
    newer = [one.event_id for case in cases for one in case.sent if one.event_id not in case.stale]
    if not any(known.by_event[event] for event in newer):
        reason = "went past it; what it publishes does not say which event led to it"
        if not evidence.tells.get(about):
            reason = "went past it; nothing that was sent makes it speak of this stream"
        return Finding("reordering", about, Result.UNSEEN, reason)
    if wrong := [output for case in cases for event in case.stale for output in known.by_event[event]]:
        return Finding("reordering", about, Result.FAIL, f"the older one led to {_types(wrong)}")
    return Finding("reordering", about, Result.PASS, "the newer one led to messages, the older one to none")


def _order(about: str, case: Case, known: Attributed) -> Finding:
    place = {event: number for number, event in enumerate(case.series)}
    first: dict[tuple[str, str, str], tuple[Output, int]] = {}
    for event in case.series:
        for output in known.by_event[event]:
            if output.identity not in first or output.offset < first[output.identity][0].offset:
                first[output.identity] = output, place[event]
    by_key: defaultdict[tuple[str, bytes | None], list[tuple[Output, int]]] = defaultdict(list)
    for output, number in first.values():
        by_key[output.topic, output.key].append((output, number))
    longest = max((len(found) for found in by_key.values()), default=0)
    for (topic, _), found in by_key.items():
        if len({output.partition for output, _ in found}) > 1:
            return Finding(case.check, about, Result.FAIL, f"{topic}: one key lies in several partitions")
        numbers = [number for _, number in sorted(found, key=lambda one: one[0].offset)]
        if numbers != sorted(numbers):
            seen = ", ".join(str(number + 1) for number in numbers)
            return Finding(case.check, about, Result.FAIL, f"{topic}: what came of events 1 to 5 is in order {seen}")
    if longest < 2:
        return Finding(
            case.check, about, Result.UNSEEN, "fewer than two messages of one key say which event led to them"
        )
    return Finding(case.check, about, Result.PASS, f"{longest} messages of one key in the order of their causes")


def _of_outputs(topic: str, outputs: list[Output], evidence: Evidence, known: Attributed) -> Iterator[Finding]:
    count = f"{len(outputs)} messages"

    def finding(check: str, wrong: list[str], seen: str = count) -> Finding:
        return Finding(check, topic, Result.FAIL if wrong else Result.PASS, _few(list(dict.fromkeys(wrong))) or seen)

    yield finding("envelope", [text for output in outputs for text in _envelope(output)])
    contents: defaultdict[tuple[str, str, str], set[tuple[bytes | None, bytes | None]]] = defaultdict(set)
    for output in outputs:
        contents[output.identity].add((output.key, output.value))
    yield finding("ids", [f"id {one[2]} for two messages" for one, said in contents.items() if len(said) > 1])
    yield _bodies(topic, outputs, evidence.catalogue)
    traced = [one for one in outputs if (event := known.event_of(one)) == "" or known.events[event].trace_id]
    untraced = [one for case in evidence.cases if case.check == "broken traces" for one in case.sent]
    about_broken = {one.aggregate for one in untraced}
    traced = [one for one in traced if known.aggregate_of(one) not in about_broken]
    if traced:
        yield finding("traces", [text for one in traced for text in _trace(one, known)], f"{len(traced)} messages")
    yield finding(
        "correlation",
        [
            f"{one.head('ce_type')}: {one.head('ce_correlationid')[:60] or 'none'}"
            for one in outputs
            if one.head("ce_correlationid") not in known.correlations
        ],
    )
    causes = known.events.keys() | known.own_ids
    yield finding(
        "causation",
        [
            f"{one.head('ce_type')}: {one.head('ce_causationid')[:60] or 'none'}"
            for one in outputs
            if one.head("ce_causationid") not in causes
        ],
    )


def _trace(output: Output, known: Attributed) -> Iterator[str]:
    text = output.head("traceparent")
    found = _TRACEPARENT.fullmatch(text)
    if not found:
        yield f"{output.head('ce_type')}: traceparent is {f'{text[:60]!a}' if text else 'missing'}"
    elif found[1] not in known.traces:
        yield f"{output.head('ce_type')}: a trace of its own, {found[1]}"


def _envelope(output: Output) -> Iterator[str]:
    headers = {name: value.decode(errors="replace") for name, value in output.headers.items() if value is not None}
    if nulls := [name for name, value in output.headers.items() if value is None]:
        yield f"headers without value: {_few(nulls)}"
    if (version := headers.get("ce_specversion")) != SPEC_VERSION:
        yield f"ce_specversion is {version}, not {SPEC_VERSION}"
    if (content := headers.get("content-type", "").partition(";")[0]) != CONTENT_TYPE:
        yield f"content-type is {content or 'missing'}, not {CONTENT_TYPE}"
    try:
        envelope = Envelope.from_headers(headers)
    except EnvelopeInvalid as invalid:
        yield str(invalid)
        return
    owner, _, rest = output.topic.partition(".")
    stem, major = split_type(envelope.type)
    if not stem.startswith(f"saldo.{owner}.") or f"v{major}" != rest.rpartition(".")[2]:
        yield f"type {envelope.type!a} on {output.topic}: name it saldo.{owner}.… with the major of its topic"
    key = (output.key or b"").decode(errors="replace")
    if not key.startswith(f"{envelope.tenant}:") or key == f"{envelope.tenant}:":
        yield f"key {key[:60]!a}: key it tenant:aggregate"


def _bodies(topic: str, outputs: Sequence[Output], catalogue: Catalogue) -> Finding:
    wrong, unknown = [], set()
    for output in outputs:
        name = output.head("ce_type")
        entry = catalogue.by_name.get(name)
        try:
            if entry:
                entry.model.model_validate_json(output.value or b"null")
            elif isinstance(_read(output.value), dict):
                unknown.add(name)
            else:
                wrong.append(f"{name}: the body is no JSON object")
        except ValidationError as invalid:
            error = invalid.errors(include_url=False, include_input=False)[0]
            wrong.append(f"{name}: {'.'.join(map(str, error['loc']))}: {error['msg']}")
    if wrong:
        return Finding("bodies", topic, Result.FAIL, _few(list(dict.fromkeys(wrong))))
    if unknown:
        reason = f"JSON objects, of types that are not in the catalogue of this kit: {_few(sorted(unknown))}"
        return Finding("bodies", topic, Result.UNSEEN, reason)
    return Finding("bodies", topic, Result.PASS, f"{len(outputs)} messages fit the catalogue")


def _read(value: bytes | None) -> Any:
    try:
        return json.loads(value or b"null")
    except ValueError:
        return None


def _types(outputs: Sequence[Output]) -> str:
    return _named(Counter((one.topic, one.head("ce_type")) for one in outputs))


def _named(tells: Mapping[tuple[str, str], int]) -> str:
    return ", ".join(f"{count} × {type_name or topic}" for (topic, type_name), count in tells.items())


def _few(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more

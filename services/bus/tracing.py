"""Spans: one sale is one trace, through every outbox. Names of spans and attributes live here and nowhere else.

OpenTelemetry semantic conventions 1.44, messaging spans: the creation context of a message is the parent of what is
done with it. The sampling decision is made once, where a flow starts; an unsampled flow creates no spans anywhere.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from services.bus.transaction import Cause, Received

CONVERSATION: Final = "messaging.message.conversation_id"
_LINK_LIMIT: Final = 128
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("saldo.bus")


def is_sampled(traceparent: str) -> bool:
    """True if the flow that `traceparent` (W3C Trace Context, version 00) belongs to is recorded."""
    return len(traceparent) == 55 and traceparent[-1] in "13579bdf"


def context_of(traceparent: str) -> SpanContext | None:
    """The span context in a `traceparent`, or None if it is not a valid one."""
    try:
        _, trace_id, span_id, flags = traceparent.split("-")
        context = SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
        )
    except ValueError:
        return None
    return context if context.is_valid else None


def within(own: str, other: str) -> str:
    """The traceparent `other` where it is of the same trace as `own`, else `own`: a row stays in its trace."""
    return other if own[:36] == other[:36] else own


def traceparent_of(context: SpanContext) -> str:
    """The `traceparent` header of a span context."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _about(operation: str, stream: str, message_id: str, type_name: str, correlation_id: str) -> dict[str, str]:
    return {
        "messaging.system": "kafka", "messaging.operation.type": operation, "messaging.destination.name": stream,
        "messaging.message.id": message_id, "cloudevents.event_type": type_name, CONVERSATION: correlation_id,
    }  # fmt: skip


@final
class Tracing:
    """Creates the spans of one service and hands them to `processor`; without one it only hands contexts on.

    `ratio` is the share of the flows starting here that are recorded, 0 to 1.
    """

    def __init__(self, service: str, ratio: float, processor: SpanProcessor | None) -> None:
        self._resource = Resource.create({"service.name": service})
        self._ratio, self._processor = ratio, processor

    def close(self) -> None:
        """Export what is left."""
        if self._processor:
            self._processor.shutdown()

    @contextlib.contextmanager
    def span(
        self,
        name: str,
        causes: Cause | Sequence[Cause] = (),
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        correlation_id: str = "",
        start_ns: int | None = None,
    ) -> Iterator[Cause]:
        """A span round the block; yields the cause of what is published in it.

        Without causes a flow starts here: this is where it is sampled or not. `start_ns`: when it began, where that was
        before its causes were known. Who calls or answers by HTTP in the block notes it there.
        """
        causes = (causes,) if isinstance(causes, Cause) else tuple(causes)
        first = causes[0] if causes else Cause("", correlation_id)
        correlation_id = correlation_id or first.correlation_id
        starts = not any(cause.traceparent for cause in causes)
        parent, links = self._lineage(causes, {})
        sampled = parent or (starts and secrets.randbelow(1_000_000) < self._ratio * 1_000_000)
        if not self._processor or not sampled:
            traceparent = first.traceparent or f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
            yield Cause(first.event_id, correlation_id, traceparent)
            return
        about = {CONVERSATION: correlation_id, **(attributes or {})}
        span = self._start(name, kind, parent, links, about, start_ns)
        try:
            with trace.use_span(span):
                yield Cause(first.event_id, correlation_id, traceparent_of(span.get_span_context()))
        except Exception:
            span.status = Status(StatusCode.ERROR)
            raise
        finally:
            span.end()

    def processing(
        self, group: str, stream: str, events: Iterable[Received[Any]], start_ns: int | None, *, replayed: bool = False
    ) -> dict[str, Span]:
        """A span for every sampled event of a batch, by event id; the caller ends them after the commit.

        What is `replayed` is linked to its message, too: it was not processed when it came.
        """
        if not self._processor:
            return {}
        spans: dict[str, Span] = {}
        for event in events:
            envelope = event.envelope
            if is_sampled(envelope.traceparent):
                about = _about("process", stream, envelope.id, envelope.type, envelope.correlation_id)
                about |= {"messaging.consumer.group.name": group, "saldo.tenant": event.tenant}
                parent = context_of(envelope.traceparent)
                links = (parent,) if replayed and parent else ()
                if replayed:
                    about["saldo.replayed"] = "true"
                spans[envelope.id] = self._start(f"process {stream}", SpanKind.CONSUMER, parent, links, about, start_ns)
        return spans

    def created(
        self, stream: str, type_name: str, event_id: str, correlation_id: str, causes: Sequence[Cause],
        open_spans: Mapping[str, Span],
    ) -> str:  # fmt: skip
        """The `traceparent` that a new event travels with: of its own creation span if a cause is sampled."""
        parent, links = self._lineage(causes, open_spans) if self._processor else (None, ())
        if parent is None:
            return causes[0].traceparent if causes else ""
        attributes = _about("create", stream, event_id, type_name, correlation_id)
        span = self._start(f"create {stream}", SpanKind.PRODUCER, parent, links, attributes)
        span.end()
        return traceparent_of(span.get_span_context())

    def _lineage(
        self, causes: Sequence[Cause], open_spans: Mapping[str, Span]
    ) -> tuple[SpanContext | None, Sequence[SpanContext]]:
        """The first sampled cause is the parent, further ones are links."""
        sampled = []
        for cause in causes:
            if is_sampled(cause.traceparent):
                span = open_spans.get(cause.event_id)
                context = span.get_span_context() if span else context_of(cause.traceparent)
                if context:
                    sampled.append(context)
                    if len(sampled) > _LINK_LIMIT:
                        break
        return (sampled[0], sampled[1:]) if sampled else (None, ())

    def _start(
        self, name: str, kind: SpanKind, parent: SpanContext | None, linked: Sequence[SpanContext],
        attributes: Mapping[str, Any], start_ns: int | None = None,
    ) -> "_Span":  # fmt: skip
        trace_id = parent.trace_id if parent else secrets.randbits(128)
        context = SpanContext(trace_id, secrets.randbits(64), is_remote=False, trace_flags=_SAMPLED)
        attributes = dict(attributes)
        links = [Link(one) for one in linked]
        start_ns = start_ns or time.time_ns()

        def export(status: Status) -> None:
            assert self._processor
            self._processor.on_end(
                ReadableSpan(
                    name, context, parent, self._resource, attributes, (), links, kind, None, status, start_ns,
                    time.time_ns(), _SCOPE,
                )
            )  # fmt: skip

        return _Span(context, attributes, export)


UNTRACED: Final = Tracing("untraced", 0.0, None)
"""Creates no span; contexts are handed on."""


@final
class _Span(NonRecordingSpan):
    """A span that knows its place and its beginning when it starts: a tenth of the cost of the SDK's own."""

    def __init__(self, context: SpanContext, attributes: dict[str, Any], export: Callable[[Status], None]) -> None:
        super().__init__(context)
        self._attributes, self._export, self.status = attributes, export, Status()

    def set_attribute(self, key: str, value: Any) -> None:
        """Note what became known since; the last word counts."""
        self._attributes[key] = value

    def end(self, end_time: int | None = None) -> None:
        """Hand the span over to be exported; it ends now."""
        del end_time
        self._attributes = dict(self._attributes)  # What is handed over changes no more.
        self._export(self.status)

"""Where spans go: to a collector, or, where none is configured, to a SQLite file that `saldo trace` reads."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from services.bus.settings import BusSettings
from services.bus.tracing import CONVERSATION

_TABLE: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS spans (
    trace_id TEXT NOT NULL, span_id TEXT PRIMARY KEY, parent_id TEXT, service TEXT NOT NULL, name TEXT NOT NULL,
    kind TEXT NOT NULL, start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL, status TEXT NOT NULL,
    correlation_id TEXT NOT NULL, attributes TEXT NOT NULL, links TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS spans_by_trace ON spans (trace_id);
CREATE INDEX IF NOT EXISTS spans_by_correlation ON spans (correlation_id);
CREATE INDEX IF NOT EXISTS spans_by_start ON spans (start_ns);
"""
_KEPT_NS: Final = 24 * 3600 * 10**9


def span_processor(settings: BusSettings) -> SpanProcessor | None:
    """Hands spans over in batches, in a thread of its own; None without collector and without path."""
    if settings.otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return BatchSpanProcessor(OTLPSpanExporter())
    if settings.spans_path:
        return BatchSpanProcessor(SqliteSpans(settings.spans_path), schedule_delay_millis=250)
    return None


@final
class SqliteSpans(SpanExporter):
    """Keeps spans of the last day in a SQLite file that the services of one machine share (write-ahead log)."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=10, check_same_thread=False, isolation_level="IMMEDIATE")
        self._database.executescript(_TABLE)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write a batch; a locked or full file costs these spans, never the service."""
        try:
            with self._database:
                self._database.executemany(
                    "INSERT OR REPLACE INTO spans VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", [_row(span) for span in spans]
                )
                newest_ns = max(span.end_time or 0 for span in spans)
                self._database.execute("DELETE FROM spans WHERE start_ns < ?", (newest_ns - _KEPT_NS,))
        except sqlite3.Error:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        self._database.close()


def _row(span: ReadableSpan) -> tuple[Any, ...]:
    context, attributes = span.get_span_context(), dict(span.attributes or {})
    assert context
    return (
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        f"{span.parent.span_id:016x}" if span.parent else None,
        str(span.resource.attributes.get("service.name", "")),
        span.name,
        span.kind.name,
        span.start_time or 0,
        span.end_time or 0,
        span.status.status_code.name,
        str(attributes.get(CONVERSATION, "")),
        json.dumps(attributes, default=str),
        json.dumps([[f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}"] for link in span.links]),
    )

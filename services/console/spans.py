"""One sale as a tree: spans kept locally by the services, put together across files, traces and links."""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WINDOW_NS = 10 * 60 * 10**9


@dataclass(frozen=True, slots=True)
class Span:
    """A span as kept in a service's file. `links` are the span ids of further causes."""

    span_id: str
    trace_id: str
    parent_id: str | None
    service: str
    name: str
    start_ns: int
    end_ns: int
    status: str
    correlation_id: str
    attributes: dict[str, Any]
    links: tuple[str, ...]

    @property
    def duration_ms(self) -> float:
        """Milliseconds from start to end."""
        return (self.end_ns - self.start_ns) / 1e6


@dataclass(slots=True)
class Node:
    """A span in the tree. `linked`: it has another parent too, this flow is one of its further causes."""

    span: Span
    linked: bool = False
    children: list["Node"] = field(default_factory=list)


def read_spans(folder: Path, correlation_id: str) -> list[Span]:
    """Every span of every service from the flow's first one on, for as long as a flow may take.

    Raises `FileNotFoundError` where there are no span files.
    """
    paths = sorted(folder.glob("*.sqlite"))
    if not paths:
        raise FileNotFoundError(f"no span files in {folder}")
    first_ns = min((moment for path in paths if (moment := _first_ns(path, correlation_id))), default=None)
    if first_ns is None:
        return []
    return [span for path in paths for span in _read(path, first_ns)]


def _first_ns(path: Path, correlation_id: str) -> int | None:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        row = database.execute(
            "SELECT min(start_ns) FROM spans WHERE trace_id IN (SELECT trace_id FROM spans WHERE correlation_id = ?)",
            (correlation_id,),
        ).fetchone()
    return row[0] if row else None


def _read(path: Path, first_ns: int) -> list[Span]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute(
            "SELECT * FROM spans WHERE start_ns BETWEEN ? AND ?", (first_ns, first_ns + _WINDOW_NS)
        ).fetchall()
    return [
        Span(
            span_id=row["span_id"],
            trace_id=row["trace_id"],
            parent_id=row["parent_id"],
            service=row["service"],
            name=row["name"],
            start_ns=row["start_ns"],
            end_ns=row["end_ns"],
            status=row["status"],
            correlation_id=row["correlation_id"],
            attributes=json.loads(row["attributes"]),
            links=tuple(link[1] for link in json.loads(row["links"])),
        )
        for row in rows
    ]


def tree(spans: Iterable[Span], correlation_id: str) -> list[Node]:
    """The roots of a flow, oldest first, each with everything that followed from it.

    A step that handled a batch has its first cause as parent and further ones as links: there the flow goes on in
    another trace, and the tree follows it.
    """
    by_id = {span.span_id: span for span in spans}
    children: dict[str, list[Span]] = {}
    linkers: dict[str, list[Span]] = {}
    for span in sorted(by_id.values(), key=lambda span: span.start_ns):
        if span.parent_id:
            children.setdefault(span.parent_id, []).append(span)
        for link in span.links:
            linkers.setdefault(link, []).append(span)
    own = {span.trace_id for span in by_id.values() if span.correlation_id == correlation_id}
    placed: set[str] = set()

    def grow(span: Span, *, linked: bool) -> Node:
        placed.add(span.span_id)
        node = Node(span, linked)
        for child in children.get(span.span_id, []):
            if child.span_id not in placed:
                node.children.append(grow(child, linked=False))
        for follower in linkers.get(span.span_id, []):
            if follower.span_id not in placed:
                node.children.append(grow(follower, linked=True))
        return node

    roots = [span for span in by_id.values() if span.trace_id in own and span.parent_id not in by_id]
    # A push that covers several sales lies in the trace of the first and carries the name of another: that trace is no
    # root of ours, it is reached by links. Where a flow is received its order is not known yet, so it has no name.
    mine = [
        span
        for span in roots
        if span.correlation_id == correlation_id
        or (not span.correlation_id and _leads_to(span, children, correlation_id))
    ]
    return [
        grow(span, linked=False)
        for span in sorted(mine or roots, key=lambda span: span.start_ns)
        if span.span_id not in placed
    ]


def _leads_to(span: Span, children: dict[str, list[Span]], correlation_id: str) -> bool:
    waiting = [span]
    while waiting:
        current = waiting.pop()
        if current.correlation_id == correlation_id:
            return True
        waiting += children.get(current.span_id, [])
    return False


def flatten(roots: Sequence[Node]) -> list[dict[str, Any]]:
    """The tree as rows for JSON: depth, what, since the beginning, and how long."""
    if not roots:
        return []
    begun_ns = min(root.span.start_ns for root in roots)
    rows: list[dict[str, Any]] = []

    def walk(node: Node, depth: int) -> None:
        span = node.span
        rows.append(
            {
                "depth": depth,
                "service": span.service,
                "name": span.name,
                "offset_ms": (span.start_ns - begun_ns) / 1e6,
                "duration_ms": span.duration_ms,
                "linked": node.linked,
                "status": span.status,
                "trace_id": span.trace_id,
                "span_id": span.span_id,
                "parent_id": span.parent_id,
                "links": list(span.links),
                "attributes": span.attributes,
            }
        )
        for child in node.children:
            walk(child, depth + 1)

    for root in roots:
        walk(root, 0)
    return rows

"""When a channel took a number that covers a level: our pushes matched with the sandbox's own books. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from contracts.channels.v1 import StockPushed
from services.console.demo.evidence import Evidence, Written

Position = tuple[int, int]
"""(epoch, version) of a level."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A number in a sandbox's books together with the push that it came from."""

    written: Written
    push: StockPushed
    covered: Mapping[str, Position]


@dataclass(slots=True)
class Acceptances:
    """Matched writes by (connection, listing's SKU), oldest first; `unmatched` names pushes that no book knows."""

    by_listing: dict[tuple[str, str], list[Accepted]] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    _first: dict[tuple[str, str, str], tuple[list[Position], list[int]]] = field(default_factory=dict)

    def first_covering(self, connection_id: str, listing_sku: str, sku: str, position: Position) -> int | None:
        """Milliseconds of the first write of this listing that covers `position` of `sku`; None where there is none."""
        key = (connection_id, listing_sku, sku)
        if key not in self._first:
            self._first[key] = _earliest_by_position(self.by_listing.get((connection_id, listing_sku), []), sku)
        positions, earliest = self._first[key]
        index = bisect_left(positions, position)
        return earliest[index] if index < len(positions) else None


def _earliest_by_position(accepted: Sequence[Accepted], sku: str) -> tuple[list[Position], list[int]]:
    pairs = sorted((item.covered[sku], item.written.at_ms) for item in accepted if sku in item.covered)
    earliest = [at_ms for _, at_ms in pairs]
    # A later version may have been accepted first, then it is the one that counts for every earlier version too.
    for index in range(len(earliest) - 2, -1, -1):
        earliest[index] = min(earliest[index], earliest[index + 1])
    return [position for position, _ in pairs], earliest


class Truth:
    """When a channel took a number that takes off everything sold anywhere by then, whatever we say that it covers.

    Such a number covers every sale before it, also where it was sent before the sale was decided: it took the sale off
    as one that its channel had made and we had not heard of, and when the decision came nothing was left to send.
    What was given back is not counted, so that a number is never taken for true because of it.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._plan = evidence.plan
        sold = sorted(
            (sold.at_ms, part, sold.quantity * factor)
            for books in evidence.books.values()
            for sold in books.sold
            for part, factor in evidence.plan.factors(sold.sku).items()
        )
        self._sold: dict[str, tuple[list[int], list[int]]] = {}
        for at_ms, part, units in sold:
            moments, totals = self._sold.setdefault(part, ([], []))
            moments.append(at_ms)
            totals.append(units + (totals[-1] if totals else 0))
        self._written: dict[tuple[str, str], list[Written]] = {}
        for connection_id, books in evidence.books.items():
            for written in sorted(books.written, key=lambda written: (written.at_ms, written.row)):
                self._written.setdefault((connection_id, written.sku), []).append(written)

    def first_after(self, connection_id: str, listing_sku: str, sold_at_ms: int) -> int | None:
        """Milliseconds of the first such write of a listing after a moment; None where there is none."""
        writes = self._written.get((connection_id, listing_sku), [])
        for written in writes[bisect_left(writes, sold_at_ms, key=lambda written: written.at_ms) :]:
            if written.number <= self._plan.shown(listing_sku, self._left(listing_sku, written.at_ms)):
                return written.at_ms
        return None

    def _left(self, listing_sku: str, at_ms: int) -> dict[str, int]:
        left = {}
        for part in self._plan.factors(listing_sku):
            moments, totals = self._sold.get(part, ([], []))
            before = bisect_right(moments, at_ms)
            left[part] = self._plan.opening.get(part, 0) - (totals[before - 1] if before else 0)
        return left


def match(evidence: Evidence) -> Acceptances:
    """Find for every `StockPushed` its row in the books, by request id and SKU."""
    acceptances = Acceptances()
    for channel in evidence.channels:
        rows: dict[tuple[str, str], Written] = {}
        for written in evidence.books[channel.connection_id].written:
            for request_id in written.request_ids:
                rows.setdefault((request_id, written.sku), written)
        for push in evidence.heard.pushes:
            if push.connection_id != channel.connection_id:
                continue
            sku = channel.records.get(push.stock_record, "")
            found = rows.get((push.request_id, sku))
            if found is None:
                acceptances.unmatched.append(
                    f"{channel.name} {push.stock_record} request {push.request_id or 'unknown'}"
                )
                continue
            covered = {entry.sku: (entry.epoch, entry.version) for entry in push.covered}
            acceptances.by_listing.setdefault((channel.connection_id, sku), []).append(Accepted(found, push, covered))
    for accepted in acceptances.by_listing.values():
        accepted.sort(key=lambda item: item.written.row)
    return acceptances

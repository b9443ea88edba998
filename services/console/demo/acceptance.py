"""When a channel took a number that covers a level: our pushes matched with the sandbox's own books. Pure."""

import math
import sys
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
    """Whether a channel shows no more than is left of everything sold anywhere, by the books, whatever we say of it.

    Such a number covers every sale before it, also where no push says so: the sale was taken off as one that its
    channel had made and we had not heard of, or a cancel made up for it, and when it was decided nothing was left to
    send.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._plan, self._books = evidence.plan, evidence.books
        self._changes: dict[str, list[tuple[int, int, int]]] = {}
        for books in evidence.books.values():
            sold_at = {sold.order: sold.at_ms for sold in reversed(books.sold)}
            for sign, lines in ((1, books.sold), (-1, books.given_back)):
                for line in lines:
                    for part, factor in evidence.plan.factors(line.sku).items():
                        change = (line.at_ms, sold_at.get(line.order, line.at_ms), sign * line.quantity * factor)
                        self._changes.setdefault(part, []).append(change)

    def right_from(self, connection_id: str, listing_sku: str, sold_at_ms: int, until_ms: float) -> int | None:
        """The first moment from a sale on, before `until_ms`, at which this listing shows no more than is left.

        None where there is none, or where it shows more again afterwards than is left of the sales up to that one.
        """
        history = self._books[connection_id].history.get(listing_sku)
        if not history:
            return None
        parts = self._plan.factors(listing_sku)
        moments = {at_ms for at_ms, _ in history} | {
            at_ms for part in parts for at_ms, *_ in self._changes.get(part, [])
        }
        right_from = None
        for moment in sorted({sold_at_ms} | {at_ms for at_ms in moments if sold_at_ms < at_ms < until_ms}):
            shown = history[bisect_right(history, (moment, sys.maxsize)) - 1][1]
            if right_from is None and shown <= self._left(listing_sku, moment):
                right_from = moment
            elif right_from is not None and shown > self._left(listing_sku, moment, sold_at_ms):
                right_from = None
        return right_from

    def _left(self, listing_sku: str, at_ms: int, sold_until_ms: float = math.inf) -> int:
        """What can be shown at a moment, of the orders made up to another."""
        left = {
            part: self._plan.opening.get(part, 0)
            - sum(
                units
                for changed_ms, sold_ms, units in self._changes.get(part, [])
                if changed_ms <= at_ms and sold_ms <= sold_until_ms
            )
            for part in self._plan.factors(listing_sku)
        }
        return self._plan.shown(listing_sku, left)


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

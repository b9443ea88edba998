"""Which number a channel has to be told. Pure.

A channel lowers its own number before we hear of the sale, so writing "what is available" would put units back on
sale that are sold already. Hence for each stock record (one number at one channel) the tallies of its own sales are
captured whenever a number is computed, and what has not been heard of is taken off again.

Quantities of a record are in units sold there; tallies and levels are in units of the physical SKU. `factor` says how
many units of the SKU one unit sold takes (pack times the component's quantity in a kit). With one SKU and pack 1 they
are the same. For each SKU of a record:

* `decided` (S): its own units that inventory has reserved or found short, net of cancels the channel restored;
* `heard` (H): its own units taken in, decided or not; `pending`: those taken in that inventory has not decided;
* `unheard` (u): its own units that the channel had sold and inventory had not decided, when the number was computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from contracts.channels.v1 import QuantityTrait


@dataclass(frozen=True, slots=True)
class Tally:
    """What was known of a record's own sales of one SKU, and of everybody's (`sold`), when a number was computed.

    `above` is how many units more than expected the channel showed then: own cancels it had put back before we heard of
    them, or a foreign writer.
    """

    unheard: int = 0
    decided: int = 0
    heard: int = 0
    pending: int = 0
    sold: int = 0
    above: int = 0


@dataclass(frozen=True, slots=True)
class Baseline:
    """A number at the channel (X) and the tallies by SKU captured with it.

    For a channel that takes changes, the number is the sum of what it was ever given: shown then plus decided then.
    `as_of` is how a total was dated.
    """

    number: int
    tallies: Mapping[str, Tally]
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One physical SKU of a record as it stands now. `elsewhere` is what other records sold unheard, as estimated."""

    sku: str
    factor: int
    available: int
    decided: int = 0
    heard: int = 0
    pending: int = 0
    held: int = 0
    elsewhere: int = 0
    sold: int = 0
    epoch: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A stock record with everything its number is computed from.

    `known` is the number that stands at the channel as far as we know, `attempts` are numbers that may stand there
    because the outcome of writing them is unknown. `risk` is the expected number of own sales not heard of yet.
    `as_of`, for channels that take totals, is when the channel released the newest order that is known to be released
    (`ChannelOrder.released_at`), before any that inventory has not decided; else since when orders are heard at all.
    """

    stock_record: str
    item: str
    location: str
    parts: tuple[Part, ...]
    known: Baseline | None = None
    attempts: tuple[Baseline, ...] = ()
    buffer: int = 0
    cap: int | None = None
    approved: Baseline | None = None
    other_change: bool = False
    risk: float = 0.0
    as_of: datetime | None = None

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """Every number that may stand at the channel."""
        return ((self.known,) if self.known else ()) + self.attempts


@dataclass(frozen=True, slots=True)
class Manner:
    """How a channel takes numbers, and whether and when one without compare-and-set is read before it is written."""

    trait: QuantityTrait
    compares: bool
    low_stock: int = 5
    risk_max: float = 0.2
    looks: bool = True


@dataclass(frozen=True, slots=True)
class Observed:
    """A number read from the channel, with the tallies by SKU as they stood **before** the read.

    Taken after it, they could contain the decision of a sale that the read has not seen, which would then count as
    one of those it has.
    """

    number: int
    tallies: Mapping[str, Tally]


class Step(StrEnum):
    """What to do about a dirty record."""

    NOTHING = "nothing"  # The channel shows the number already, or will by its own sales.
    READ = "read"
    WRITE = "write"
    WAIT = "wait"  # For the read-back after an unknown outcome.


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision for one record. `quantity` is what to write: the number, or the change where channels take those.

    `expected` is what a comparing channel must show for the write to happen. `after` is the baseline that stands once
    the write is accepted (or at once for `NOTHING` after a read). `braked`: a mass change is held back from it.
    """

    record: Record
    step: Step
    number: int
    quantity: int = 0
    expected: int | None = None
    after: Baseline | None = None
    braked: bool = False


def shown(available: int, *, factor: int, buffer: int, cap: int | None) -> int:
    """How many units of a listing can be shown out of `available` units of one SKU."""
    units = max(0, (available - buffer) // factor)
    return units if cap is None else min(cap, units)


def capture(record: Record, unheard: Mapping[str, int] | None = None) -> dict[str, Tally]:
    """The tallies as they stand now."""
    return {
        part.sku: Tally((unheard or {}).get(part.sku, 0), part.decided, part.heard, part.pending, part.sold)
        for part in record.parts
    }


def unheard_bounds(baselines: Sequence[Baseline], sku: str) -> tuple[int, int]:
    """The unheard units captured last, and the count of decided units at which nothing of them is unheard any more.

    What is still unheard is max(0, min(first, second − decided now)): the estimate less what was decided since, which a
    cancel never raises. Of several numbers that may stand at the channel the largest counts.
    """
    tallies = [baseline.tallies[sku] for baseline in baselines if sku in baseline.tallies]
    return (
        max((tally.unheard for tally in tallies), default=0),
        max((tally.unheard + tally.decided for tally in tallies), default=0),
    )


def unheard_slack(baselines: Sequence[Baseline], sku: str) -> int:
    """What makes heard − decided + slack this record's own unheard units, as `unheard_now` expects them unread."""
    tallies = [baseline.tallies[sku] for baseline in baselines if sku in baseline.tallies]
    return max((tally.unheard - tally.heard + tally.decided for tally in tallies), default=0)


def still_unheard(baselines: Sequence[Baseline], sku: str, decided: int) -> int:
    """A record's own unheard units as other records have to take them off."""
    captured, until = unheard_bounds(baselines, sku)
    return max(0, min(captured, until - decided))


def expected(record: Record, baseline: Baseline) -> int:
    """What the channel shows if `baseline` stands there: its number less its own sales heard of since.

    Sales heard of include those inventory has decided since; the others are known just as surely.
    """
    lowered = [
        (part.heard - tally.heard) // part.factor
        for part in record.parts
        if (tally := baseline.tallies.get(part.sku)) is not None
    ]
    return baseline.number - max(lowered, default=0)


def _seen(record: Record, observed: Observed, unheard: Mapping[str, int]) -> dict[str, Tally]:
    """The tallies of a number that was read, dated before the read."""
    above = 0
    if record.known is not None and not record.attempts:
        known = record.known.tallies
        lowered = [
            (observed.tallies[part.sku].heard - known[part.sku].heard) // part.factor
            for part in record.parts
            if part.sku in known and part.sku in observed.tallies
        ]
        above = max(0, observed.number - record.known.number + max(lowered, default=0))
    return {sku: replace(seen, unheard=unheard.get(sku, 0), above=above) for sku, seen in observed.tallies.items()}


def own_sales_since(record: Record, baseline: Baseline) -> bool:
    """Whether any own sale or cancel was heard of since `baseline` was computed."""
    return any(part.heard != baseline.tallies.get(part.sku, Tally()).heard for part in record.parts)


def ambiguous(record: Record, baseline: Baseline) -> bool:
    """Whether what was heard since may be what `baseline` had already seen as unheard: only a read can tell.

    A cancel that the channel had put back before our write is such a thing: when it is heard of, nothing rises there.
    """
    surplus = any(tally.unheard > tally.pending or tally.above for tally in baseline.tallies.values())
    return surplus and own_sales_since(record, baseline)


def unheard_now(record: Record, observed: Observed | None) -> dict[str, int]:
    """This record's own unheard units by SKU: u' = (X − q) + u − (S_now − S).

    q is what was read, or what the channel is expected to show. Where the outcome of a write is unknown, the largest
    over all numbers that may stand there. Without any number: the own orders taken in and not yet decided.

    Used as max(0, u'). What is captured may go below zero by own cancels heard and not yet given back by inventory,
    since the channel has put them back already: forgotten, they would look like unheard sales once they are decided.
    """
    units: dict[str, int] = {}
    for part in record.parts:
        seen = (observed.tallies.get(part.sku) if observed else None) or Tally(0, part.decided, part.heard)
        given_back = min(0, seen.heard - seen.decided)
        looked = observed is not None and bool(record.baselines)
        found = [given_back if looked or not part.pending else part.pending]
        for baseline in record.baselines:
            tally = baseline.tallies.get(part.sku)
            if tally is None:
                continue
            number = observed.number if observed else expected(record, baseline)
            found.append((baseline.number - number) * part.factor + tally.unheard - (seen.decided - tally.decided))
        units[part.sku] = max(found)
    return units


def _shown(record: Record, unheard: Mapping[str, int]) -> int:
    return min(
        shown(
            part.available - part.elsewhere - max(0, unheard.get(part.sku, 0)),
            factor=part.factor,
            buffer=record.buffer,
            cap=record.cap,
        )
        for part in record.parts
    )


def _held(record: Record) -> int:
    """Own units decided that the channel still reserves; a kit's components arrive one by one, the newest counts."""
    return max(part.held // part.factor for part in record.parts)


def _decided(record: Record) -> int:
    """Own units that are behind us; a sale that was cancelled before it was decided is, where nothing is restored."""
    return max(max(part.decided, part.heard - part.pending) // part.factor for part in record.parts)


def braked(record: Record, number: int) -> int:
    """What may be shown while a mass change waits: the last approved number less what was sold since."""
    if record.approved is None:
        return number
    sold = max(
        -((tally.sold - part.sold) // part.factor)
        for part in record.parts
        if (tally := record.approved.tallies.get(part.sku, Tally(sold=part.sold)))
    )
    return max(0, min(number, record.approved.number - max(0, sold)))


def plan(record: Record, manner: Manner, observed: Observed | None = None, *, brake: bool = False) -> Plan:
    """Decide what to do about a dirty record, all of whose SKUs have a level."""
    brake = brake and record.other_change
    match manner.trait:
        case QuantityTrait.TOTAL:
            decided = _plan_total(record, brake=brake)
        case QuantityTrait.DELTA:
            decided = _plan_delta(record, observed, brake=brake)
        case _:
            decided = _plan_absolute(record, manner, observed, brake=brake)
    return replace(decided, braked=brake)


def _plan_absolute(record: Record, manner: Manner, observed: Observed | None, *, brake: bool) -> Plan:
    known = record.known
    unheard = unheard_now(record, observed)
    number = _shown(record, unheard)
    if brake:
        number = braked(record, number)
    if observed is not None:
        # What was seen is dated before the read, so that nothing decided meanwhile counts twice.
        tallies = _seen(record, observed, unheard)
        if number == observed.number:
            return Plan(record, Step.NOTHING, number, after=Baseline(number, tallies))
        compare = observed.number if manner.compares else None
        return Plan(record, Step.WRITE, number, number, compare, Baseline(number, tallies))
    after = Baseline(number, capture(record, unheard))
    if manner.compares and (known is None or record.attempts or ambiguous(record, known)):
        return Plan(record, Step.READ, number)
    # A comparing channel has shown the number when it took it, so its own sales since have lowered it. Elsewhere a sale
    # may have slipped in before the write landed: after an own sale the number is said again.
    trusted = known is not None and not record.attempts and (manner.compares or not own_sales_since(record, known))
    if trusted and known is not None and number == expected(record, known):
        return Plan(record, Step.NOTHING, number)
    if manner.looks and not manner.compares and known is not None and _must_look(record, manner, number):
        return Plan(record, Step.READ, number)
    compare = expected(record, known) if manner.compares and known is not None else None
    return Plan(record, Step.WRITE, number, number, compare, after)


def _must_look(record: Record, manner: Manner, number: int) -> bool:
    """Whether a blind write is too likely to put sold units back on sale."""
    surplus = any(t.unheard > t.pending for b in record.baselines for t in b.tallies.values())
    return surplus or number <= manner.low_stock or record.risk >= manner.risk_max


def _plan_total(record: Record, *, brake: bool) -> Plan:
    """The channel takes its own reservations off itself: give it those that inventory has decided on top.

    The same number is said again where orders were released since: only a number dated after that forgets them.
    """
    number = _shown(record, {})
    if brake:
        number = braked(record, number)
    number += _held(record)
    known = record.known
    if known is not None and not record.attempts and known.number == number and _dated(known, record.as_of):
        return Plan(record, Step.NOTHING, number)
    return Plan(record, Step.WRITE, number, number, after=Baseline(number, capture(record), record.as_of))


def _dated(known: Baseline, as_of: datetime | None) -> bool:
    return as_of is None or (known.as_of is not None and as_of <= known.as_of)


def _plan_delta(record: Record, observed: Observed | None, *, brake: bool) -> Plan:
    """The channel takes changes: the difference of what it should have been given in all and what it was given."""
    number = _shown(record, {})
    if brake:
        number = braked(record, number)
    given = number + _decided(record)
    if record.attempts:
        return Plan(record, Step.WAIT, number)
    if record.known is None and observed is None:
        return Plan(record, Step.READ, number)
    known = record.known or given_by(record, observed)
    after = Baseline(given, capture(record))
    if given == known.number:
        return Plan(record, Step.NOTHING, number, after=after)
    return Plan(record, Step.WRITE, number, given - known.number, after=after)


def given_by(record: Record, observed: Observed | None) -> Baseline:
    """What a channel that takes changes was given in all, judged by what it shows and its own sales.

    Of numbers that may stand there, the one that leaves the fewest own sales unexplained.
    """
    assert observed is not None
    tallies = observed.tallies
    own = max((tallies[p.sku].decided + tallies[p.sku].pending) // p.factor for p in record.parts)
    explained = observed.number + own
    given = min((b.number for b in record.baselines), key=lambda n: (abs(n - explained), -n), default=explained)
    return Baseline(given, tallies)


class Finding(StrEnum):
    """How a number read back compares with what was expected."""

    AS_EXPECTED = "as_expected"
    BELOW = "below"  # Unheard sales, or drift: the next complete poll of the orders tells.
    ABOVE = "above"  # Somebody else writes, or a cancel not heard of: lowered at once.
    UNKNOWN = "unknown"  # The outcome of a write was unknown, so nothing was expected.


def read_back(record: Record, manner: Manner, observed: Observed) -> tuple[Finding, Baseline]:
    """What a number read says, and the baseline that stands from now on."""
    if manner.trait is QuantityTrait.DELTA:
        return Finding.UNKNOWN if record.attempts else Finding.AS_EXPECTED, given_by(record, observed)
    unheard = {} if manner.trait is QuantityTrait.TOTAL else unheard_now(record, observed)
    found = Baseline(observed.number, _seen(record, observed, unheard))
    if record.attempts or record.known is None:
        return Finding.UNKNOWN, found
    total = manner.trait is QuantityTrait.TOTAL
    wanted = record.known.number if total else expected(record, record.known)
    if observed.number == wanted:
        return Finding.AS_EXPECTED, found
    return (Finding.BELOW if observed.number < wanted else Finding.ABOVE), found


def heal(record: Record) -> tuple[Baseline, int] | None:
    """Set u' to nothing, because a complete poll of the orders begun after it was seen has explained all there is and
    inventory has decided it.

    Returns the baseline and how many units remain unexplained (drift), or None where there is nothing to heal, an own
    order is not decided yet, or only a read can tell what stands at the channel.
    """
    known = record.known
    if known is None or record.attempts or any(part.pending for part in record.parts) or ambiguous(record, known):
        return None
    units = unheard_now(record, None)
    unexplained = max(
        -(-max(units[part.sku], still_unheard((known,), part.sku, part.decided)) // part.factor)
        for part in record.parts
    )
    if unexplained <= 0:
        return None
    return Baseline(expected(record, known), capture(record)), unexplained


BRAKE_RECORDS_MIN: Final = 20
"""Below this many records a share says nothing: a shop of three listings changes by a third at each receipt."""


def brake_trips(*, changed: int, zeroed: int, records: int, share_max: float) -> bool:
    """Whether so many numbers changed by something else than sales that a person has to look first."""
    return max(changed, zeroed) >= BRAKE_RECORDS_MIN and max(changed, zeroed) > share_max * records


URGENT: Final = 0
NORMAL: Final = 1

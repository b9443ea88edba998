"""A small world in virtual time: shops with stock numbers of their own, buyers, late news, an inventory, and senders.

Everything that decides is `services.channels.stock.domain`; what is here is the outside: shops that lower their own
number at a sale, news that takes its time or is lost until the next poll of the orders, requests that are executed
late. Times are seconds. The order of events is a matter of the seed alone.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from contracts.channels.v1 import QuantityTrait
from services.channels.stock import domain
from services.channels.stock.domain import Baseline, Finding, Manner, Observed, Part, Plan, Record, Step

DEADLINE_S = 6.0
"""After this long a request whose outcome is unknown cannot be executed any more."""

RISK_WINDOW_S = 30.0


@dataclass
class Line:
    """A sale at a shop."""

    listing: "Listing"
    units: int
    sold_at: float
    heard_at: float = -1.0
    cancelled: bool = False
    heard: int = 0
    heard_cancelled: bool = False
    asked: int = 0
    decided: int = 0
    short: int = 0


@dataclass
class Listing:
    """A stock record: what the shop shows, and what we know of it."""

    shop: "Shop"
    consumes: dict[str, int]
    buffer: int = 0
    cap: int | None = None
    number: int = 0
    reserved: int = 0
    sold: int = 0
    heard: dict[str, int] = field(default_factory=dict)
    decided: dict[str, int] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    known: Baseline | None = None
    attempts: tuple[Baseline, ...] = ()
    seen_at: float = 0.0
    suspect_until: float = 0.0
    dirty: bool = True
    busy: bool = False
    told: dict[str, int] = field(default_factory=dict)
    next_at: float = 0.0

    @property
    def buyable(self) -> int:
        """What a buyer can buy."""
        return self.number - self.reserved


@dataclass
class Shop:
    """A channel. News of a sale takes `lag_s`, or waits for the next poll where `polled` or lost."""

    manner: Manner
    lag_s: float = 0.1
    latency_s: float = 0.03
    poll_s: float = 5.0
    polled: bool = False
    restores: bool = True
    spacing_s: float = 0.2
    unknown: float = 0.0
    late_s: float = 5.0
    lost: float = 0.0
    listings: list[Listing] = field(default_factory=list)
    unheard_news: list[Line] = field(default_factory=list)


class World:
    """The shops, the inventory and the wire between them. `rule` off sends what is available, and no more."""

    def __init__(self, seed: int, *, rule: bool = True, decide_s: float = 0.05, skew_s: float = 0.02) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.rule = rule
        self.decide_s, self.skew_s = decide_s, skew_s
        self.shops: list[Shop] = []
        self.lines: list[Line] = []
        self.available: dict[str, int] = {}
        self.received: dict[str, int] = {}
        self.levels: dict[str, int] = {}
        self.level_at: dict[str, float] = {}
        self.resurrected = 0
        self.writes = 0
        self.drift = 0
        self._count = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, after_s: float, what: Callable[[], None]) -> None:
        """Let something happen after a while."""
        self._at(self.now + after_s, what)

    def _at(self, moment: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._count), what))

    def run(self, until_s: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= until_s:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until_s

    # The outside.

    def open(self, shop: Shop) -> Shop:
        """A shop opens: its orders are polled from now on."""
        self.shops.append(shop)
        self.at(self.random.uniform(0, shop.poll_s), lambda: self._poll(shop))
        return shop

    def put(self, shop: Shop, consumes: dict[str, int], *, buffer: int = 0, cap: int | None = None) -> Listing:
        """A listing that takes so many units of each SKU; the shop starts with the right number."""
        listing = Listing(shop, consumes, buffer, cap)
        for tally in (listing.heard, listing.decided, listing.pending):
            tally.update(dict.fromkeys(consumes, 0))
        listing.number = min(
            domain.shown(self.levels[sku], factor=factor, buffer=buffer, cap=cap) for sku, factor in consumes.items()
        )
        shop.listings.append(listing)
        self._wake(listing)
        return listing

    def receive(self, sku: str, units: int) -> None:
        """Stock comes in and fills open shortfalls first."""
        self.received[sku] = self.received.get(sku, 0) + units
        self.available[sku] = self.available.get(sku, 0) + units
        if sku not in self.levels:
            self.levels[sku] = units
            return
        for line in self.lines:
            if line.short and sku in line.listing.consumes:
                need = line.short
                if all(self.available[s] >= f * need for s, f in line.listing.consumes.items()):
                    for other, factor in line.listing.consumes.items():
                        self.available[other] -= factor * need
                        self._tell_level(other, [])
                    line.short = 0
        self._tell_level(sku, [])

    def buy(self, listing: Listing, units: int = 1) -> Line | None:
        """A buyer buys, if the shop shows enough."""
        if listing.buyable < units:
            return None
        if listing.shop.manner.trait is QuantityTrait.TOTAL:
            listing.reserved += units
        else:
            listing.number -= units
        listing.sold += units
        line = Line(listing, units, self.now)
        self.lines.append(line)
        self._news(line)
        return line

    def cancel(self, line: Line) -> None:
        """A buyer cancels; the shop puts the units back where it does so."""
        if line.cancelled:
            return
        line.cancelled = True
        listing = line.listing
        listing.sold -= line.units
        if listing.shop.manner.trait is QuantityTrait.TOTAL:
            listing.reserved -= line.units
        elif listing.shop.restores:
            listing.number += line.units
        self._news(line)

    def oversold(self) -> int:
        """Units promised beyond what there ever was, over all SKUs."""
        promised: dict[str, int] = {}
        for line in self.lines:
            for sku, factor in line.listing.consumes.items():
                promised[sku] = promised.get(sku, 0) + (0 if line.cancelled else line.units * factor)
        return sum(max(0, units - self.received[sku]) for sku, units in promised.items())

    # News, inventory, levels.

    def _news(self, line: Line) -> None:
        shop = line.listing.shop
        if shop.polled or self.random.random() < shop.lost:
            shop.unheard_news.append(line)
        else:
            self.at(shop.lag_s * self.random.uniform(0.5, 1.5), lambda: self._hear(line))

    def _poll(self, shop: Shop) -> None:
        begun_at, news = self.now, shop.unheard_news
        shop.unheard_news = []
        orders = [line for line in self.lines if line.listing.shop is shop]

        def returned() -> None:
            for line in news:
                self._hear(line)
            self._heal(shop, begun_at, orders)
            self._read_back(shop)

        self.at(0.05, returned)
        self.at(shop.poll_s, lambda: self._poll(shop))

    def _hear(self, line: Line) -> None:
        listing = line.listing
        asked = 0 if line.cancelled else line.units
        line.heard_cancelled = line.cancelled
        line.heard_at = self.now if line.heard_at < 0 else line.heard_at
        for sku, factor in listing.consumes.items():
            if listing.shop.restores:
                listing.heard[sku] += (asked - line.asked) * factor
            else:
                listing.heard[sku] += (line.units - line.heard) * factor
        line.heard = line.units
        line.asked = asked
        self._count_pending(listing)
        self._wake(listing)
        self.at(self.decide_s * self.random.uniform(0.5, 1.5), lambda: self._decide(line, asked))

    def _decide(self, line: Line, asked: int) -> None:
        """Inventory moves the difference to what it has done. A line is reserved whole or short whole."""
        if line.asked != asked:
            return  # A newer demand is on its way.
        listing, moved = line.listing, asked - line.decided
        if not moved:
            return
        if moved > 0:
            if all(self.available[sku] >= factor * moved for sku, factor in listing.consumes.items()):
                for sku, factor in listing.consumes.items():
                    self.available[sku] -= factor * moved
            else:
                line.short = moved
        elif line.short:
            line.short = 0
        else:
            for sku, factor in listing.consumes.items():
                self.available[sku] -= factor * moved
        line.decided = asked
        for sku, factor in listing.consumes.items():
            self._tell_level(sku, [(line, moved * factor)])

    def _tell_level(self, sku: str, causes: list[tuple[Line, int]]) -> None:
        """The level reaches the channels a little later, in order for each SKU."""
        level = self.available[sku]
        self.level_at[sku] = max(self.level_at.get(sku, 0.0), self.now + self.random.uniform(0, self.skew_s))

        def arrive() -> None:
            self.levels[sku] = level
            for line, units in causes:
                listing = line.listing
                listing.decided[sku] += units if listing.shop.restores else max(0, units)
                line_decided.setdefault((id(line), sku), 0)
                line_decided[id(line), sku] += units
                self._count_pending(listing)
            for shop in self.shops:
                for listing in shop.listings:
                    if sku in listing.consumes:
                        self._wake(listing)

        line_decided = self._line_decided
        self._at(self.level_at[sku], arrive)

    @property
    def _line_decided(self) -> dict[tuple[int, str], int]:
        return self.__dict__.setdefault("line_decided", {})

    def _count_pending(self, listing: Listing) -> None:
        for sku, factor in listing.consumes.items():
            listing.pending[sku] = sum(
                max(0, line.asked * factor - self._line_decided.get((id(line), sku), 0))
                for line in self.lines
                if line.listing is listing
            )

    # The sender.

    def _wake(self, listing: Listing) -> None:
        listing.dirty = True
        self.at(max(0.001, listing.next_at - self.now), lambda: self._push(listing))

    def record(self, listing: Listing) -> Record:
        """What the domain gets to see."""

        def elsewhere(sku: str) -> int:
            units = 0
            for other in (o for shop in self.shops for o in shop.listings if o is not listing and sku in o.consumes):
                left = domain.still_unheard(self._baselines(other), sku, other.decided[sku])
                # What others were told is what they have to be told again when it falls.
                other.told[sku] = max(other.told.get(sku, 0), left)
                units += left
            return units

        parts = tuple(
            Part(
                sku,
                factor,
                self.levels[sku],
                listing.decided[sku],
                listing.heard[sku],
                listing.pending[sku],
                self._held(listing, sku),
                elsewhere(sku) if self.rule else 0,
            )
            for sku, factor in listing.consumes.items()
        )
        return Record(
            *("r", "i", "l", parts, listing.known, listing.attempts, listing.buffer, listing.cap),
            risk=self._risk(listing),
        )

    def _risk(self, listing: Listing) -> float:
        lag_s = listing.shop.poll_s / 2 if listing.shop.polled else listing.shop.lag_s
        since = self.now - RISK_WINDOW_S
        heard = sum(
            line.units
            for line in self.lines
            if line.heard_at > since and any(sku in line.listing.consumes for sku in listing.consumes)
        )
        records = sum(sku in other.consumes for s in self.shops for other in s.listings for sku in listing.consumes)
        return lag_s * heard / RISK_WINDOW_S / max(1, records)

    def _held(self, listing: Listing, sku: str) -> int:
        return sum(
            min(self._line_decided.get((id(line), sku), 0), line.asked * listing.consumes[sku])
            for line in self.lines
            if line.listing is listing
        )

    @staticmethod
    def _baselines(listing: Listing) -> tuple[Baseline, ...]:
        return ((listing.known,) if listing.known else ()) + listing.attempts

    def _push(self, listing: Listing, observed: Observed | None = None, *, mine: bool = False) -> None:
        if not mine and (listing.busy or not listing.dirty):
            return
        if not mine and self.now < listing.next_at:
            self.at(listing.next_at - self.now, lambda: self._push(listing))
            return
        if not mine:  # What came since a claim's first look leaves the record dirty.
            listing.dirty = False
        listing.busy = True
        record = self.record(listing)
        manner = listing.shop.manner
        if not self.rule:
            number = domain._shown(record, {})
            plan = Plan(record, Step.WRITE, number, number, None, Baseline(number, domain.capture(record)))
            if listing.known and listing.known.number == number:
                listing.busy = False
                return
        else:
            plan = domain.plan(record, manner, observed)
        match plan.step:
            case Step.NOTHING:
                if plan.after and (manner.compares or not listing.attempts):
                    listing.known, listing.attempts = plan.after, ()
                    listing.seen_at = self.now - listing.shop.latency_s
                self._done(listing)
            case Step.WAIT:
                listing.dirty = True
                self._done(listing, wait_s=0.5)
            case Step.READ:
                self._read(listing, lambda seen: self._push(listing, seen, mine=True))
            case Step.WRITE:
                self._write(listing, plan)

    def _read(self, listing: Listing, then: Callable[[Observed], None]) -> None:
        tallies = domain.capture(self.record(listing))

        def land() -> None:
            number = listing.number
            self.at(listing.shop.latency_s, lambda: then(Observed(number, tallies)))

        self.at(listing.shop.latency_s, land)

    def _write(self, listing: Listing, plan: Plan) -> None:
        shop = listing.shop
        assert plan.after is not None
        computed_at = self.now

        def execute() -> bool:
            if plan.expected is not None and listing.number != plan.expected:
                return False
            self.writes += 1
            self._judge(listing, plan)
            if shop.manner.trait is QuantityTrait.DELTA:
                listing.number += plan.quantity
            else:
                listing.number = plan.quantity
            return True

        def land() -> None:
            if self.random.random() < shop.unknown:
                if self.random.random() < 0.5:
                    self.at(self.random.uniform(0, shop.late_s), lambda: execute() and None)
                listing.attempts = (*listing.attempts, plan.after)
                listing.suspect_until = self.now + DEADLINE_S
                listing.dirty = True
                self.at(1.0, lambda: self._done(listing, wait_s=0.3))
                return
            accepted = execute()
            self.at(shop.latency_s, lambda: finish(accepted))

        def finish(accepted: bool) -> None:
            if not accepted:
                self._read(listing, lambda seen: self._push(listing, seen, mine=True))
                return
            listing.known = plan.after
            listing.seen_at = computed_at
            if shop.manner.compares:
                listing.attempts = ()
            self._done(listing, wait_s=shop.spacing_s)

        self.at(shop.latency_s, land)

    def _done(self, listing: Listing, wait_s: float = 0.0) -> None:
        listing.busy = False
        for sku in listing.consumes:
            left = domain.still_unheard(self._baselines(listing), sku, listing.decided[sku])
            if left < listing.told.get(sku, 0):
                for other in (o for s in self.shops for o in s.listings if o is not listing and sku in o.consumes):
                    self._wake(other)
            listing.told[sku] = left
        listing.next_at = self.now + wait_s
        if listing.dirty:
            self._wake(listing)

    def _judge(self, listing: Listing, plan: Plan) -> None:
        """Units put back on sale: per write min(k, max(0, w·f − R)) with k sold there and not decided."""
        if listing.shop.manner.trait is not QuantityTrait.ABSOLUTE:
            return
        for sku, factor in listing.consumes.items():
            undecided = sum(
                (line.units - max(0, line.decided)) * factor
                for line in self.lines
                if line.listing is listing and not line.cancelled
            )
            sold = sum(line.units * line.listing.consumes.get(sku, 0) for line in self.lines if not line.cancelled)
            rest = self.received[sku] - sold
            self.resurrected += min(undecided, max(0, plan.quantity * factor - rest))

    # Healing and reading back.

    def _heal(self, shop: Shop, begun_at: float, orders: list[Line]) -> None:
        for listing in shop.listings:
            if listing.seen_at >= begun_at or listing.busy or not self.rule:
                continue
            if any(line.asked != (0 if line.heard_cancelled else line.units) for line in orders):
                continue
            healed = domain.heal(self.record(listing))
            if healed is not None:
                listing.known, drift = healed
                self.drift += drift
                for sku in listing.consumes:
                    for other in (o for s in self.shops for o in s.listings if sku in o.consumes):
                        self._wake(other)

    def _read_back(self, shop: Shop) -> None:
        for listing in shop.listings:
            if listing.busy or not self.rule or self.now < listing.suspect_until:
                continue
            if not listing.attempts and self.random.random() < 0.5:
                continue
            listing.busy = True
            read_at = self.now

            def then(observed: Observed, listing: Listing = listing, read_at: float = read_at) -> None:
                finding, found = domain.read_back(self.record(listing), listing.shop.manner, observed)
                if finding is not Finding.AS_EXPECTED:
                    listing.known, listing.attempts, listing.dirty = found, (), True
                    listing.seen_at = read_at
                self._done(listing)

            self._read(listing, then)

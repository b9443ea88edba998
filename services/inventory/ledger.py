"""The working ledger of one company: what a batch has locked, and the double-entry bookkeeping on it. Pure.

A decision changes this ledger in memory, event by event; what came of all of it is then written with a handful of
statements. Between `begin` and `end` lies one event: its movements share one cause, every SKU it touches gets one new
version, every order it touches one outcome.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeAlias, final

from contracts.channels.v1 import ShortfallPolicy
from contracts.inventory.v1 import AccountState, CauseOutcome

AVAILABLE: Final = AccountState.AVAILABLE.value
RESERVED: Final = AccountState.RESERVED.value
SHIPPED: Final = AccountState.SHIPPED.value
DAMAGED: Final = AccountState.DAMAGED.value
INBOUND: Final = AccountState.INBOUND.value
SUPPLIER: Final = AccountState.SUPPLIER.value
COUNT_DIFFERENCE: Final = AccountState.COUNT_DIFFERENCE.value
COUNTED: Final = (AVAILABLE, RESERVED, SHIPPED, DAMAGED, INBOUND)
"""States that counters are kept for, in the order of the columns of `stock`."""
ON_HAND: Final = frozenset({AVAILABLE, RESERVED, DAMAGED})
"""What somebody who counts a shelf finds on it."""
RETURNED: Final = frozenset({AVAILABLE, DAMAGED, INBOUND})
SHARED_POOL: Final = "shared"
LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
PRIORITY_DEFAULT: Final = 100

Place: TypeAlias = tuple[str, str]
"""Location, pool."""
Account: TypeAlias = tuple[str, str, str]
"""Location, pool, state."""
Unit: TypeAlias = tuple[str, str, str, str]
"""Where units of an order line are: state, location, pool, and for returned ones the location they had left from."""
SHORT: Final[Unit] = ("short", "", "", "")

_REACH: Final = {
    ShortfallPolicy.SHARED_POOL.value: 1,
    ShortfallPolicy.OTHER_POOL.value: 2,
    ShortfallPolicy.OTHER_LOCATION.value: 3,
}


@final
@dataclass(frozen=True, slots=True)
class Location:
    """A place where stock lies. Stock that a channel holds (`held_by`, a connection) is lowered by its sales alone."""

    location: str
    name: str
    held_by: str | None = None
    priority: int = PRIORITY_DEFAULT


@final
@dataclass(slots=True, eq=False)
class Order:
    """An order's newest demand, without its lines' quantities; revision 0: nothing was decided about it yet.

    `cause` is what led to the newest demand: event id, correlation id, trace context.
    """

    order_id: str
    revision: int = 0
    sale_revision: int = 0
    connection_id: str = ""
    pool: str = SHARED_POOL
    policy: str = ""
    all_or_nothing: bool = False
    hold_until: datetime | None = None
    expired: bool = False
    sold_at: datetime = LONG_AGO
    received_at: datetime = LONG_AGO
    cause: tuple[str, str, str] = ("", "", "")
    lines: "dict[tuple[str, str, str], Line]" = field(default_factory=dict)
    """By line id, the SKU that was sold, and the physical SKU; sorted, so that a batch does what its events would."""


@final
@dataclass(slots=True, eq=False)
class Line:
    """One physical SKU of an order line. `per_unit` of it make one unit of what was sold."""

    order: Order
    line_id: str
    sold_sku: str
    sku: str
    per_unit: int
    location: str | None = None
    units: dict[Unit, int] = field(default_factory=dict)
    stored: dict[Unit, int] = field(default_factory=dict)
    """The units as the database has them: what differs is to be written."""
    listed: bool = False
    """Whether the SKU's list of shortfalls has it."""

    @property
    def short(self) -> int:
        """Units asked for and not reserved."""
        return self.units.get(SHORT, 0)

    def claimed(self) -> int:
        """Units the order stands for in all: missing, reserved, shipped, returned."""
        return sum(self.units.values())

    @property
    def name(self) -> str:
        """The line as movements name it."""
        return f"{self.order.order_id}/{self.line_id}/{self.sold_sku}"

    def left(self) -> int:
        """Units that have left, whether or not they came back since."""
        return sum(quantity for (state, _, _, origin), quantity in self.units.items() if state == SHIPPED or origin)


@final
@dataclass(slots=True, eq=False)
class Sku:
    """A locked SKU with the counters of its accounts, and the places where it has ever been, sorted."""

    sku: str
    epoch: int = 0
    version: int = 0
    counters: dict[Account, int] = field(default_factory=dict)
    places: tuple[Place, ...] = ()
    changed: set[Account] = field(default_factory=set)
    shorts: "list[Line]" = field(default_factory=list)
    shorts_sorted: bool = True

    def add_place(self, place: Place) -> None:
        """From now on the SKU has been at `place`."""
        if place not in self.places:
            self.places = tuple(sorted((*self.places, place)))

    def change(self, account: Account, quantity: int) -> None:
        """Count `quantity` more at `account`, if it is one that is counted."""
        if account[2] in COUNTED:
            known = self.counters.get(account)
            if known is None:
                self.add_place(account[:2])
            self.counters[account] = (known or 0) + quantity
            self.changed.add(account)


class Movement(NamedTuple):
    """A quantity that went from one account to another. `trigger` is the event's position in the batch."""

    sku: str
    source: Account
    target: Account
    quantity: int
    cause: str
    line: str
    epoch: int
    version: int
    effective_at: datetime | None
    trigger: int


class SkuCause(NamedTuple):
    """An order line that a level covers for the first time; `units` as in `LevelCause`."""

    order: Order
    sale_revision: int
    line_id: str
    units: int
    outcome: CauseOutcome


class OutcomeLine(NamedTuple):
    """What stands for one physical SKU of an order line."""

    line_id: str
    sku: str
    reserved: int
    short: int
    shipped: int
    returned: int
    locations: tuple[tuple[str, int], ...]
    possible: tuple[str, ...]


class Outcome(NamedTuple):
    """How an order stands after an event. `filled` tells that another's event brought it about."""

    order: Order
    revision: int
    short: bool
    lines: tuple[OutcomeLine, ...]
    trigger: int
    filled: bool


class Expired(NamedTuple):
    """A hold that ran out."""

    order: Order
    revision: int
    trigger: int


@final
@dataclass(slots=True)
class Level:
    """What the next level of a SKU covers."""

    causes: list[SkuCause] = field(default_factory=list)
    triggers: list[int] = field(default_factory=list)


@final
@dataclass(slots=True)
class Ledger:
    """See the module. `orders`, `skus` and `locations` are what the batch has locked or read; the rest is what came of
    deciding, in order."""

    now: datetime
    skus: dict[str, Sku]
    orders: dict[str, Order]
    locations: dict[str, Location]
    movements: list[Movement] = field(default_factory=list)
    reports: list[Outcome | Expired] = field(default_factory=list)
    levels: dict[str, Level] = field(default_factory=dict)
    changed_lines: dict[Line, None] = field(default_factory=dict)
    changed_orders: dict[Order, None] = field(default_factory=dict)
    _moves: dict[tuple[Line | None, str, Account, Account], int] = field(default_factory=dict)
    _causes: dict[str, list[SkuCause]] = field(default_factory=dict)
    _reported: dict[Order, None] = field(default_factory=dict)
    _freed: set[str] = field(default_factory=set)
    _routes: dict[tuple[tuple[Place, ...], str, str, str | None, str], tuple[Account, ...]] = field(
        default_factory=dict
    )
    _trigger: int = 0
    _cause: str = ""
    _own: Order | None = None
    _effective_at: datetime | None = None

    def held_by(self, location: str) -> str | None:
        """The connection that holds the stock there. A location nobody has put is ours."""
        known = self.locations.get(location)
        return known.held_by if known else None

    def put(self, location: Location) -> None:
        """Create or change a location. What lines may draw on follows."""
        self.locations[location.location] = location
        self._routes.clear()

    def begin(self, trigger: int, cause: str, own: Order | None = None, effective_at: datetime | None = None) -> None:
        """Start an event. `cause` is the movements' cause, `own` the order whose event it is, if it is an order's, and
        `effective_at` is set for counts and adjustments."""
        self._trigger, self._cause, self._own, self._effective_at = trigger, cause, own, effective_at

    def report(self, order: Order) -> None:
        """The event changed how `order` stands."""
        self._reported[order] = None

    def because(self, line: Line, units: int, outcome: CauseOutcome) -> None:
        """The SKU's next level covers `units` of `line`, none of them heard of before."""
        if units:
            order = line.order
            cause = SkuCause(order, order.sale_revision, line.line_id, units, outcome)
            self._causes.setdefault(line.sku, []).append(cause)

    def move(self, sku: Sku, source: Account, target: Account, quantity: int, line: Line | None = None) -> None:
        """Book a movement; a negative quantity takes one of this event back."""
        sku.change(source, -quantity)
        sku.change(target, quantity)
        if target[2] == AVAILABLE:
            self._freed.add(sku.sku)
        key = (line, sku.sku, source, target)
        self._moves[key] = self._moves.get(key, 0) + quantity

    def add(self, line: Line, unit: Unit, quantity: int) -> None:
        """Change how many units of `line` are at `unit`."""
        line.units[unit] = line.units.get(unit, 0) + quantity
        self.changed_lines[line] = None

    def ask(self, line: Line, quantity: int) -> None:
        """`quantity` more units are missing on `line`."""
        if quantity:
            self.add(line, SHORT, quantity)

    def restrict(self, line: Line, location: str | None) -> None:
        """From now on `line` is met at `location` alone, or anywhere. Every row of it says so: none stays as stored."""
        if line.location != location:
            line.location = location
            line.stored = dict.fromkeys(line.stored, -1)
            self.changed_lines[line] = None

    def release(self, line: Line, unit: Unit, quantity: int) -> None:
        """Reserved units become available where they lie."""
        _, location, pool, _ = unit
        self.add(line, unit, -quantity)
        sku = self.skus[line.sku]
        self.move(sku, (location, pool, RESERVED), (location, pool, AVAILABLE), quantity, line)

    def take(self, line: Line) -> int:
        """Reserve what is missing on `line`, as far as its order's policy reaches; returns the units reserved."""
        missing, taken = line.short, 0
        sku = self.skus[line.sku]
        for account in self._route(sku, line):
            if taken == missing:
                break
            units = min(sku.counters.get(account, 0), missing - taken)
            if units > 0:
                self._reserve(sku, line, account, units)
                taken += units
        return taken

    def take_whole(self, lines: Iterable[Line]) -> dict[Line, int]:
        """Reserve what is missing on all `lines`, or nothing at all; returns the units reserved per line."""
        taken: dict[Line, int] = {}
        booked: list[tuple[Line, Account, int]] = []
        for line in lines:
            sku = self.skus[line.sku]
            before = {account: sku.counters.get(account, 0) for account in self._route(sku, line)}
            taken[line] = self.take(line)
            booked += [
                (line, account, units - sku.counters[account])
                for account, units in before.items()
                if units != sku.counters.get(account, 0)
            ]
            if line.short:
                for other, account, units in reversed(booked):
                    self._reserve(self.skus[other.sku], other, account, -units)
                return {}
        return taken

    def fill(self) -> None:
        """Give what became available in this event to open shortfalls, the oldest sale first."""
        for code in sorted(self._freed):
            sku = self.skus[code]
            if not sku.shorts:
                continue
            if not sku.shorts_sorted:
                sku.shorts.sort(key=age)
                sku.shorts_sorted = True
            for line in sku.shorts:
                if not any(quantity for account, quantity in sku.counters.items() if account[2] == AVAILABLE):
                    break
                if line.short and not line.order.expired:
                    self._fill(line)
            self._prune(sku)

    def end(self) -> None:
        """Finish the event: list its shortfalls, number its changes, tell its outcomes."""
        moves = [(*key, quantity) for key, quantity in self._moves.items() if quantity]
        for code in dict.fromkeys([*[code for _, code, _, _, _ in moves], *self._causes]):
            self.skus[code].version += 1
            level = self.levels.get(code)
            if level is None:
                level = self.levels[code] = Level()
            level.triggers.append(self._trigger)
            level.causes += self._causes.get(code, ())
        for line, code, source, target, quantity in moves:
            assert quantity > 0
            sku = self.skus[code]
            self.movements.append(
                Movement(
                    code, source, target, quantity, self._cause, line.name if line else "",
                    sku.epoch, sku.version, self._effective_at, self._trigger,
                )
            )  # fmt: skip
        for order in self._reported:
            self.reports.append(self._outcome(order, filled=order is not self._own))
        self._moves.clear()
        self._causes.clear()
        self._reported.clear()
        self._freed.clear()

    def expire(self, order: Order) -> None:
        """Tell that the hold of `order` ran out, instead of how it stands."""
        self._reported.pop(order, None)
        self.reports.append(Expired(order, order.revision, self._trigger))

    def reconsider(self, sku: Sku) -> None:
        """Let `fill` look at the SKU although nothing of it became available: somebody lost a reservation."""
        self._freed.add(sku.sku)

    def list_short(self, line: Line) -> None:
        """Remember a line that misses something, for what becomes available later in the batch."""
        if line.short:
            sku = self.skus[line.sku]
            sku.shorts_sorted = False
            if not line.listed:
                line.listed = True
                sku.shorts.append(line)

    def _reserve(self, sku: Sku, line: Line, account: Account, units: int) -> None:
        location, pool, _ = account
        self.add(line, SHORT, -units)
        self.add(line, (RESERVED, location, pool, ""), units)
        self.move(sku, account, (location, pool, RESERVED), units, line)

    def _fill(self, line: Line) -> None:
        order = line.order
        if order.all_or_nothing:
            taken = self.take_whole([other for other in order.lines.values() if other.short])
        else:
            taken = {line: self.take(line)}
        for other, units in taken.items():
            if units:
                self.because(other, units, CauseOutcome.FILLED)
                self.report(order)

    def _prune(self, sku: Sku) -> None:
        kept = []
        for line in sku.shorts:
            if line.short:
                kept.append(line)
            else:
                line.listed = False
        sku.shorts = kept

    def _route(self, sku: Sku, line: Line) -> tuple[Account, ...]:
        """The accounts that `line` may draw on, nearest first. Stock that a channel holds fills nobody else's line."""
        order = line.order
        key = (sku.places, order.pool, order.policy, line.location, order.connection_id if line.location else "")
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = tuple((*place, AVAILABLE) for place in self._places(sku, line))
        return route

    def _places(self, sku: Sku, line: Line) -> Iterator[Place]:
        order, reach = line.order, _REACH.get(line.order.policy, 1)
        if line.location is not None:
            if self.held_by(line.location) not in (None, order.connection_id):
                return
            near = [line.location]
        else:
            near = self.own_locations(sku)
            if reach < 3:
                near = near[:1]
        for location in near:
            pools = sorted(
                (pool for at, pool in sku.places if at == location), key=lambda pool: (_nearness(order, pool), pool)
            )
            yield from ((location, pool) for pool in pools if reach >= 2 or _nearness(order, pool) < 2)

    def own_locations(self, sku: Sku) -> list[str]:
        """Locations of ours where the SKU has ever been, the lowest priority number first."""
        return sorted(
            {location for location, _ in sku.places if self.held_by(location) is None},
            key=lambda location: (self.priority(location), location),
        )

    def priority(self, location: str) -> int:
        """The location's priority; the usual one where nobody has put the location."""
        known = self.locations.get(location)
        return known.priority if known else PRIORITY_DEFAULT

    def _outcome(self, order: Order, *, filled: bool) -> Outcome:
        lines: dict[tuple[str, str], OutcomeLine] = {}
        short = False
        for line in order.lines.values():
            key = (line.line_id, line.sku)
            told = self._outcome_line(line)
            short = short or told.short > 0
            # A line whose SKU was changed leaves an empty row of its former SKU behind.
            lines[key] = told if key not in lines or line.claimed() else lines[key]
        return Outcome(order, order.revision, short, tuple(lines.values()), self._trigger, filled)

    def _outcome_line(self, line: Line) -> OutcomeLine:
        reserved = short = shipped = returned = 0
        locations: dict[str, int] = {}
        for (state, location, _, origin), quantity in line.units.items():
            if state == RESERVED:
                reserved += quantity
                if quantity:
                    locations[location] = locations.get(location, 0) + quantity
            elif state == "short":
                short = quantity
            else:
                shipped += quantity
                returned += quantity if origin else 0
        possible = self._possible(line) if short else ()
        return OutcomeLine(
            line.line_id, line.sku, reserved, short, shipped, returned, tuple(sorted(locations.items())), possible
        )

    def _possible(self, line: Line) -> tuple[str, ...]:
        """What could fill the rest if a person said so: other pools here, other locations."""
        sku = self.skus[line.sku]
        reached = set(self._route(sku, line))
        near = self.own_locations(sku)[:1]
        found = {
            f"pool:{pool}" if location in near or location == line.location else f"location:{location}"
            for (location, pool, state), quantity in sku.counters.items()
            if state == AVAILABLE and quantity and (location, pool, state) not in reached
            and self.held_by(location) is None
        }  # fmt: skip
        return tuple(sorted(found))


def _nearness(order: Order, pool: str) -> int:
    return 0 if pool == order.pool else 1 if pool == SHARED_POOL else 2


def age(line: Line) -> tuple[datetime, str, str, str]:
    """Shortfalls are filled in this order, reservations that are lost to a count in the reverse one."""
    return line.order.sold_at, line.order.order_id, line.line_id, line.sold_sku

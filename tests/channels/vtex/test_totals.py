"""The number that VTEX is told: what is free plus what it goes on reserving, for every order of events.

The model of VTEX is that of its help page: it reserves at the sale, forgets the reservation of a cancelled order, and
forgets those of handled orders at the next total that is dated after the handling.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.channels.v1 import QuantityTrait
from services.channels.stock import domain
from services.channels.stock.domain import Baseline, Manner, Part, Record, Step

START = datetime(2026, 1, 1, tzinfo=UTC)
MANNER = Manner(QuantityTrait.TOTAL, compares=False)


@dataclass
class Order:
    """An order at VTEX, and what of it is known here: heard at all, cancelled, handled since when, units decided."""

    units: int
    sold_at: datetime
    reserved: int
    cancelled: bool = False
    handled_at: datetime | None = None
    heard: bool = False
    known_cancelled: bool = False
    released_at: datetime | None = None
    decided: int = 0


@dataclass
class World:
    """One SKU on sale at VTEX and elsewhere. News of VTEX's orders come in the order in which things happened."""

    received: int
    available: int = 0
    total: int = 0
    elsewhere: int = 0
    now: datetime = START
    orders: list[Order] = field(default_factory=list)
    news: list[tuple[Order, str]] = field(default_factory=list)
    known: Baseline | None = None
    writes: int = 0

    @property
    def sellable(self) -> int:
        return self.total - sum(order.reserved for order in self.orders)

    @property
    def free(self) -> int:
        """What nobody has bought."""
        return self.received - self.elsewhere - sum(order.units for order in self.orders if not order.cancelled)

    def tick(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def buy(self, units: int) -> None:
        if self.sellable >= units:
            self.orders.append(Order(units, self.tick(), units))
            self.news.append((self.orders[-1], "sold"))

    def cancel(self, which: int) -> None:
        order = self._order(which)
        if order and not order.cancelled:
            order.cancelled, order.reserved = True, 0
            self.news.append((order, "cancelled"))

    def handle(self, which: int) -> None:
        order = self._order(which)
        if order and not order.cancelled and order.handled_at is None:
            order.handled_at = self.tick()
            self.news.append((order, "handled"))

    def _order(self, which: int) -> Order | None:
        return self.orders[which % len(self.orders)] if self.orders else None

    def hear(self, count: int) -> None:
        for order, what in self.news[:count]:
            order.heard = True
            order.known_cancelled = order.known_cancelled or what == "cancelled"
            order.released_at = order.handled_at if what == "handled" else order.released_at
        del self.news[:count]

    def decide(self) -> None:
        for order in self.orders:
            asked = order.units if order.heard and not order.known_cancelled else 0
            self.available -= asked - order.decided
            order.decided = asked

    def sell_elsewhere(self, units: int) -> None:
        sold = min(units, max(0, self.available), max(0, self.free))
        self.elsewhere += sold
        self.available -= sold

    def receive(self, units: int) -> None:
        self.received += units
        self.available += units

    def push(self) -> None:
        """As `claims.inputs` gathers it, `domain.plan` decides it, and VTEX takes it."""
        held = [o for o in self.orders if o.heard and not o.known_cancelled and o.released_at is None]
        released = [order for order in self.orders if order.released_at is not None]
        as_of = max((order.released_at for order in released), default=START)
        undecided = [o.sold_at for o in released if not o.known_cancelled and o.decided < o.units]
        as_of = min([as_of, *undecided])
        part = Part("s", 1, self.available, held=sum(order.decided for order in held))
        plan = domain.plan(Record("r", "i", "l", (part,), self.known, as_of=as_of), MANNER)
        if plan.step is Step.NOTHING:
            return
        assert plan.step is Step.WRITE
        assert plan.quantity >= 0
        assert plan.quantity == max(0, self.available) + part.held
        self.known, self.total = plan.after, plan.quantity
        for order in self.orders:
            if order.handled_at is not None and order.handled_at <= as_of:
                order.reserved = 0
        self.writes += 1


numbers = st.integers(0, 5)
deeds = st.lists(
    st.tuples(
        st.sampled_from(["buy", "cancel", "handle", "hear", "decide", "push", "push", "sell_elsewhere", "receive"]),
        numbers,
    ),
    max_size=60,
)


def opened(units: int) -> World:
    world = World(units, units)
    world.push()
    return world


@given(units=st.integers(0, 20), sequence=deeds)
@pytest.mark.rule(25)
def test_no_total_puts_on_sale_what_somebody_has_bought(units: int, sequence: list[tuple[str, int]]) -> None:
    world = opened(units)
    for deed, number in sequence:
        if deed in ("decide", "push"):
            getattr(world, deed)()
        elif deed in ("cancel", "handle"):
            getattr(world, deed)(number)
        else:
            getattr(world, deed)(number + 1)
        if deed == "push":
            assert world.sellable <= max(0, world.free)
        assert world.total >= 0
    world.hear(len(world.news))
    world.decide()
    world.push()
    assert world.available == world.free
    assert world.sellable == max(0, world.free), "once all is heard, VTEX sells exactly what is free"


@given(units=st.integers(0, 20), sequence=deeds)
def test_where_nobody_else_sells_there_is_never_more_on_sale_than_is_free(
    units: int, sequence: list[tuple[str, int]]
) -> None:
    world = opened(units)
    for deed, number in sequence:
        if deed in ("decide", "push"):
            getattr(world, deed)()
        elif deed != "sell_elsewhere":
            getattr(world, deed)(number)
        assert world.sellable <= world.free


def test_what_is_sold_and_handled_at_vtex_alone_is_not_written_again() -> None:
    world = opened(10)
    world.buy(3)
    world.hear(1)
    world.decide()
    world.push()
    assert (world.total, world.sellable, world.writes) == (10, 7, 1)
    world.handle(0)
    world.hear(1)
    world.push()
    assert (world.total, world.sellable, world.writes) == (7, 7, 2)

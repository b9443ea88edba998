"""What an order is and how it changes. Pure: no clock, no ids, no input or output.

An order is decided from the newest snapshot of its sale and the newest answer of inventory. A snapshot says everything,
so an order ends the same whatever sequence its snapshots come in. What has been acted on is remembered beside it on
purpose, for where a later snapshot is silent: that money came in, that goods left (a later "cancelled" does not put
them back on the shelf), and which SKU a line had when its demand was sent.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, NamedTuple, TypeAlias, final

from pydantic import Discriminator

from contracts.channels.v1 import SaleLine, SaleReported, SaleStatus
from contracts.inventory.v1 import (
    AccountState,
    DemandLine,
    DemandMet,
    DemandShort,
    HoldExpired,
    LineOutcome,
    OrderDemand,
    ReturnedQuantity,
    ShippedQuantity,
)
from contracts.orders.v1 import (
    OrderCancelled,
    OrderClosed,
    OrderConfirmed,
    OrderDelivered,
    OrderFact,
    OrderHeld,
    OrderLine,
    OrderPaid,
    OrderPlaced,
    OrderReturned,
    OrderShipped,
    OrderShort,
    ShortLine,
)

LEFT = frozenset({SaleStatus.SHIPPED, SaleStatus.DELIVERED, SaleStatus.RETURNED})
PAID = LEFT | {SaleStatus.PAID}
US = "us"


@final
@dataclass(frozen=True, slots=True)
class Placed:
    """Known here; inventory has not answered yet."""

    kind: Literal["placed"] = "placed"


@final
@dataclass(frozen=True, slots=True)
class Held:
    """Waits for payment, for a mapping or for a person; its stock is asked for all the same."""

    reason: Literal["payment", "mapping", "person"]
    until: datetime | None = None
    kind: Literal["held"] = "held"


@final
@dataclass(frozen=True, slots=True)
class Short:
    """Something could not be reserved; it stays a standing demand."""

    kind: Literal["short"] = "short"


@final
@dataclass(frozen=True, slots=True)
class Confirmed:
    """Nothing stands in the way: every line has its stock and nothing is waited for."""

    kind: Literal["confirmed"] = "confirmed"


@final
@dataclass(frozen=True, slots=True)
class Cancelled:
    """Cancelled as a whole."""

    kind: Literal["cancelled"] = "cancelled"


@final
@dataclass(frozen=True, slots=True)
class Shipped:
    """On its way to the buyer."""

    kind: Literal["shipped"] = "shipped"


@final
@dataclass(frozen=True, slots=True)
class Delivered:
    """With the buyer."""

    kind: Literal["delivered"] = "delivered"


@final
@dataclass(frozen=True, slots=True)
class Returned:
    """Come back, or on its way back."""

    kind: Literal["returned"] = "returned"


@final
@dataclass(frozen=True, slots=True)
class Closed:
    """Long finished. A newer snapshot opens it again."""

    reason: str
    kind: Literal["closed"] = "closed"


State: TypeAlias = Annotated[
    Placed | Held | Short | Confirmed | Cancelled | Shipped | Delivered | Returned | Closed, Discriminator("kind")
]
STATES = ("placed", "held", "short", "confirmed", "cancelled", "shipped", "delivered", "returned", "closed")


FINALS: dict[SaleStatus, State] = {
    SaleStatus.CANCELLED: Cancelled(),
    SaleStatus.SHIPPED: Shipped(),
    SaleStatus.DELIVERED: Delivered(),
    SaleStatus.RETURNED: Returned(),
}


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """The newest answer of inventory that was about the demand of its day."""

    revision: int
    lines: tuple[LineOutcome, ...]


@final
@dataclass(frozen=True, slots=True)
class Order:
    """All that is known about an order.

    `status` is the sale's word, or `cancelled` where every line is. `paid` stands until a channel says otherwise,
    `left` for good; `expired` is true while the stock of an unpaid order was given back by the clock of its hold.
    """

    sale: SaleReported
    status: SaleStatus
    state: State = Placed()
    version: int = 0
    paid: bool = False
    left: bool = False
    expired: bool = False
    demand: OrderDemand | None = None
    answer: Answer | None = None

    @property
    def settled(self) -> bool:
        """Whether inventory's newest answer is about the newest demand."""
        return self.demand is not None and self.answer is not None and self.answer.revision == self.demand.revision

    # The copies below name every field: `dataclasses.replace` takes five times as long, and every sale needs several.

    def heard(self, sale: SaleReported, status: SaleStatus, *, paid: bool, left: bool) -> "Order":
        """This order with a newer snapshot of its sale."""
        return Order(sale, status, self.state, self.version, paid, left, self.expired, self.demand, self.answer)

    def asking(self, demand: OrderDemand) -> "Order":
        """This order with a newer demand; what had expired is asked for again."""
        return Order(self.sale, self.status, self.state, self.version, self.paid, self.left, False, demand, self.answer)

    def answered(self, answer: Answer | None, *, expired: bool = False) -> "Order":
        """This order with another answer to its demand, or with none any more."""
        return Order(
            self.sale, self.status, self.state, self.version, self.paid, self.left, expired, self.demand, answer
        )

    def reached(self, state: State, version: int) -> "Order":
        """This order in `state` at `version`."""
        return Order(
            self.sale, self.status, state, version, self.paid, self.left, self.expired, self.demand, self.answer
        )


@final
@dataclass(frozen=True, slots=True)
class CloseDue:
    """The time in which something could still happen to a finished order has passed."""


Event: TypeAlias = SaleReported | DemandMet | DemandShort | HoldExpired | CloseDue


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """What an event leads to: the order as it is now, the facts to tell, and the demand to send if it changed."""

    order: Order | None
    facts: tuple[OrderFact, ...] = ()
    demand: OrderDemand | None = None


def decide(order: Order | None, event: Event, now: datetime) -> Decision:
    """Decide what `event` does to `order`; an event that says nothing new returns the order as it was, the same object.

    Nothing new are: a snapshot that is not newer than the known one, an answer to another revision than the demand's,
    and anything but a snapshot where there is no order.
    """
    if isinstance(event, SaleReported):
        if order and event.revision <= order.sale.revision:
            return Decision(order)
        return _settle(order, _hear(order, event), now)
    if order and isinstance(event, CloseDue):
        return _close(order, now)
    if order is None or order.demand is None or isinstance(event, CloseDue):
        return Decision(order)
    if event.revision > order.demand.revision:
        # Inventory has seen a revision that is not known here, as after a restored backup: ask again above it.
        demand = order.demand.model_copy(update={"revision": event.revision})
        return _settle(order, order.asking(demand).answered(None, expired=order.expired), now, again=True)
    if event.revision < order.demand.revision:
        return Decision(order)
    if isinstance(event, HoldExpired):
        return _settle(order, order.answered(None, expired=True), now)
    return _settle(order, order.answered(Answer(event.revision, event.lines)), now)


def _hear(order: Order | None, sale: SaleReported) -> Order:
    word, left = _word(sale), sale.status in LEFT
    if order is None:
        return Order(sale, word, paid=sale.status in PAID, left=left)
    # A request to cancel, a cancel, or a status nobody knows says nothing about money.
    paid = sale.status in PAID or (order.paid and sale.status is not SaleStatus.AWAITING_PAYMENT)
    return order.heard(sale, word, paid=paid, left=order.left or left)


def _word(sale: SaleReported) -> SaleStatus:
    for line in sale.lines:
        if line.cancelled < line.quantity:
            return sale.status
    return SaleStatus.CANCELLED if sale.lines else sale.status


def _settle(before: Order | None, heard: Order, now: datetime, *, again: bool = False) -> Decision:
    again = again or (heard.expired and heard.paid)
    # An answer alone changes what is asked for only where goods wait to leave.
    told = before is not None and before.sale is heard.sale and not heard.left
    demand = None if told and not again else _demand(heard, again=again)
    after = heard.asking(demand) if demand else heard
    waits, missing = hold(after), short_lines(after)
    state = _state(after, waits, missing)
    facts = _facts(before, after, state, waits, missing, now)
    return Decision(after.reached(state, after.version + len(facts)), facts, demand)


def _close(order: Order, now: datetime) -> Decision:
    if not isinstance(order.state, Cancelled | Delivered | Returned):
        return Decision(order)
    closed = order.reached(Closed(order.state.kind), order.version + 1)
    return Decision(closed, (OrderClosed(**_head(closed, closed.version, now), reason=order.state.kind),))


def _state(order: Order, waits: Held | None, missing: tuple[ShortLine, ...]) -> State:
    if final := FINALS.get(order.status):
        return final
    if missing:
        return Short()
    return waits or (Confirmed() if order.answer else Placed())


def hold(order: Order) -> Held | None:
    """What the order waits for beside its stock. A person comes before a mapping, a mapping before payment."""
    word = order.status
    if word is SaleStatus.CANCELLED:
        return None
    if word is SaleStatus.CANCEL_REQUESTED:
        return Held("person")
    if word is SaleStatus.UNKNOWN or unresolved_lines(order):
        return Held("mapping")
    return Held("payment", order.sale.payment_due) if word is SaleStatus.AWAITING_PAYMENT else None


def unresolved_lines(order: Order) -> list[str]:
    """Lines that ask for something and whose SKU nobody knows yet."""
    unknown = [line for line in order.sale.lines if line.sku is None]
    if not unknown:
        return []
    known = {line.line_id for line in order.demand.lines} if order.demand else set()
    return [line.line_id for line in unknown if line.line_id not in known and line.cancelled < line.quantity]


def short_lines(order: Order) -> tuple[ShortLine, ...]:
    """What inventory said to be missing, per line and physical SKU. A cancelled order misses nothing."""
    if order.answer is None or order.status is SaleStatus.CANCELLED:
        return ()
    return tuple(
        [ShortLine(line_id=line.line_id, sku=line.sku, missing=line.short) for line in order.answer.lines if line.short]
    )


def returned_lines(order: Order) -> tuple[OrderLine, ...]:
    """What the channel says to have come back, per line and in all."""
    sale = order.sale
    whole = sale.status is SaleStatus.RETURNED
    back = [(line, _returned(sale, line)) for line in sale.lines if whole or line.returned]
    return tuple([OrderLine(line_id=line.line_id, sku=line.sku, quantity=units) for line, units in back if units])


def alerts(order: Order) -> frozenset[str]:
    """What a person should look at: a missing mapping, a request to cancel, missing stock. Payment is the clock's."""
    if isinstance(order.state, Placed | Confirmed):
        return frozenset()  # the states of an order that waits for nothing and misses nothing
    waits = hold(order)
    kinds = {waits.reason} - {"payment"} if waits else set()
    return frozenset(kinds | ({"short"} if short_lines(order) else set()))


def _returned(sale: SaleReported, line: SaleLine) -> int:
    # A channel that calls an order returned and names no quantities means all of it.
    if sale.status is SaleStatus.RETURNED and not any(other.returned for other in sale.lines):
        return max(0, line.quantity - line.cancelled)
    return min(line.returned, line.quantity)


def _demand(order: Order, *, again: bool) -> OrderDemand | None:
    """The order's demand at a new revision, or None where it asks for what it asked for before."""
    sale, known = order.sale, order.demand
    asked = _asked(order, {})
    if not asked:
        return None
    if known and not again and asked == known.lines and _terms(sale) == _terms(known):
        # Goods leave only once inventory has answered what else there was to ask: before that, the answer's
        # reservations are those of another demand.
        asked = _asked(order, _shippable(order)) if order.left and order.settled else asked
        if asked == known.lines:
            return None
    return OrderDemand(
        order_id=sale.order_id,
        revision=known.revision + 1 if known else 1,
        sale_revision=sale.revision,
        connection_id=sale.connection_id,
        pool=sale.pool,
        shortfall_policy=sale.shortfall_policy,
        all_or_nothing=sale.all_or_nothing,
        sold_at=sale.sold_at,
        received_at=sale.received_at,
        lines=asked,
    )


def _asked(order: Order, ship: Mapping[str, Mapping[str, int]]) -> tuple[DemandLine, ...]:
    """What every line asks for in all, if `ship` (location → units, per line) leaves now."""
    before = {line.line_id: line for line in order.demand.lines} if order.demand else {}
    lines = []
    for line in order.sale.lines:
        told = before.pop(line.line_id, None)
        # A link that was removed does not undo what was asked for while it stood.
        sku = line.sku or (told.sku if told else None)
        if sku:
            told = told if told and told.sku == sku else None
            lines.append(_demand_line(order, line, sku, told, ship.get(line.line_id, {})))
    for gone in before.values():
        # Said aloud instead of left out, so that nothing hangs on what a missing line means.
        kept = sum(shipped.quantity for shipped in gone.shipped)
        lines.append(gone.model_copy(update={"cancelled": gone.ordered - kept}))
    return tuple(lines)


def _terms(asked: SaleReported | OrderDemand) -> tuple[object, ...]:
    return asked.pool, asked.shortfall_policy, asked.all_or_nothing


def _demand_line(
    order: Order, line: SaleLine, sku: str, told: DemandLine | None, ship: Mapping[str, int]
) -> DemandLine:
    # Goods that have left come back as returned, not as cancelled.
    whole = order.status is SaleStatus.CANCELLED and not order.left
    cancelled = line.quantity if whole else line.cancelled
    location = None if line.fulfilled_by == US else line.fulfilled_by
    shipped = {was.location: was.quantity for was in told.shipped} if told else {}
    if not shipped and not ship:
        return DemandLine(
            line_id=line.line_id, sku=sku, ordered=line.quantity, cancelled=min(cancelled, line.quantity),
            location=location,
        )  # fmt: skip
    left = sum(shipped.values())
    for at, quantity in sorted(ship.items()):
        if taken := min(quantity, line.quantity - left):
            shipped[at] = shipped.get(at, 0) + taken
            left += taken
    places = sorted(shipped.items())
    return DemandLine(
        line_id=line.line_id,
        sku=sku,
        ordered=line.quantity,
        cancelled=min(cancelled, line.quantity - left),
        shipped=tuple(ShippedQuantity(location=at, quantity=units) for at, units in places),
        returned=_returns(places, _returned(order.sale, line)),
        location=location,
    )


def _returns(places: Iterable[tuple[str, int]], quantity: int) -> tuple[ReturnedQuantity, ...]:
    """Returns go back where they came from, and count as inbound until somebody has looked at them."""
    returns = []
    for location, units in places:
        if taken := min(units, quantity):
            returns.append(ReturnedQuantity(location=location, state=AccountState.INBOUND, quantity=taken))
            quantity -= taken
    return tuple(returns)


def _shippable(order: Order) -> dict[str, Counter[str]]:
    """Per line and location, how many units of the demanded SKU are reserved and can leave."""
    assert order.demand
    assert order.answer
    return {
        line.line_id: _kits_by_location(line, [part for part in order.answer.lines if part.line_id == line.line_id])
        for line in order.demand.lines
    }


def _kits_by_location(line: DemandLine, parts: Sequence[LineOutcome]) -> Counter[str]:
    """Reserved units of `line`'s SKU per location.

    A kit counts where all its components lie. One whose components lie apart stays reserved: one location cannot tell
    what left where, and units wrongly taken from one place would go back on sale in another.
    """
    per_part = [
        Counter({at.location: at.quantity // factor for at in part.locations})
        for part, factor in zip(parts, _factors(line, parts), strict=True)
    ]
    if not per_part:
        return Counter()
    return Counter({at: min(part[at] for part in per_part) for at in per_part[0]})


def _factors(line: DemandLine, parts: Iterable[LineOutcome]) -> list[int]:
    """How many units of each part one unit of the demanded SKU takes, from what inventory accounts for in all."""
    asked = line.ordered - line.cancelled
    return [
        1 if part.sku == line.sku or not asked else max(1, (part.reserved + part.short + part.shipped) // asked)
        for part in parts
    ]


class Standing(NamedTuple):
    """Where one line stands, in units of its own SKU. ordered = cancelled + reserved + short + open.

    `reserved` includes what has since been shipped; `open` waits for an answer of inventory or for a mapping.
    """

    line_id: str
    sku: str | None
    ordered: int
    cancelled: int
    reserved: int
    short: int
    open: int
    shipped: int
    returned: int


def standing(order: Order) -> tuple[Standing, ...]:
    """Where each line of the order stands."""
    demanded = {line.line_id: line for line in order.demand.lines} if order.demand else {}
    missing = [part for part in order.answer.lines if part.short] if order.answer and order.settled else None
    whole = order.status is SaleStatus.CANCELLED
    return tuple([_stands(line, demanded.get(line.line_id), missing, whole=whole) for line in order.sale.lines])


def _stands(line: SaleLine, told: DemandLine | None, missing: list[LineOutcome] | None, *, whole: bool) -> Standing:
    """Where `line` stands, `missing` being what the answer to the newest demand lacks; None where there is none yet."""
    cancelled = told.cancelled if told else line.quantity if whole else min(line.cancelled, line.quantity)
    asked = line.quantity - cancelled
    answered = told is not None and missing is not None
    short = 0
    if told and missing:
        parts = [part for part in missing if part.line_id == line.line_id]
        kits = [-(-part.short // factor) for part, factor in zip(parts, _factors(told, parts), strict=True)]
        short = min(asked, max(kits, default=0))
    # By position: named arguments take twice as long, and every order is looked at twice.
    return Standing(
        line.line_id,
        told.sku if told else line.sku,
        line.quantity,
        cancelled,
        asked - short if answered else 0,
        short,
        0 if answered else asked,
        sum(was.quantity for was in told.shipped) if told and told.shipped else 0,
        sum(was.quantity for was in told.returned) if told and told.returned else 0,
    )


def _facts(
    before: Order | None, after: Order, state: State, waits: Held | None, missing: tuple[ShortLine, ...], now: datetime
) -> tuple[OrderFact, ...]:
    """What there is to tell, each fact one version above the one before it."""
    facts: list[OrderFact] = []

    def head() -> dict[str, object]:
        return _head(after, after.version + len(facts) + 1, now)

    sale = after.sale
    if before is None:
        lines = tuple([OrderLine(line_id=line.line_id, sku=line.sku, quantity=line.quantity) for line in sale.lines])
        facts.append(
            OrderPlaced(**head(), sold_at=sale.sold_at, customer_ref=sale.customer_ref, paid=after.paid, lines=lines)
        )
    elif after.paid and not before.paid:
        facts.append(OrderPaid(**head()))
    if waits and not (before and waits == hold(before)):
        facts.append(OrderHeld(**head(), reason=waits.reason, until=waits.until))
    if missing and not (before and missing == short_lines(before)):
        facts.append(OrderShort(**head(), lines=missing))
    if not (before and before.state == state):
        match state:
            case Confirmed():
                facts.append(OrderConfirmed(**head()))
            case Cancelled():
                facts.append(OrderCancelled(**head(), reason="channel"))
            case Shipped():
                facts.append(OrderShipped(**head()))
            case Delivered():
                facts.append(OrderDelivered(**head()))
            case _:
                pass
    back = returned_lines(after)
    if back and not (before and back == returned_lines(before)):
        facts.append(OrderReturned(**head(), lines=back))
    return tuple(facts)


def _head(order: Order, version: int, now: datetime) -> dict[str, object]:
    sale = order.sale
    return {
        "order_id": sale.order_id,
        "version": version,
        "connection_id": sale.connection_id,
        "external_id": sale.external_id,
        "sale_revision": sale.revision,
        "at": now,
    }

"""What an order is and how it changes. Pure: no clock, no ids, no input or output.

An order is decided from the newest snapshot of its sale and the newest answer of inventory. A snapshot says everything,
so an order ends the same whatever sequence its snapshots come in. What has been acted on is remembered beside it on
purpose, for where a later snapshot is silent: that money came in, that goods left (a later "cancelled" does not put
them back on the shelf), and which SKU a line had when its demand was sent. What follows once stock is there, of money,
invoice and parcels, is its process (`process`, `wanted`); most sales pass here without one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, final

from pydantic import Discriminator

from contracts.channels.v1 import PaymentCollector, SaleLine, SaleReported, SaleStatus
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
    OrderCancelling,
    OrderChanged,
    OrderClosed,
    OrderConfirmed,
    OrderDelivered,
    OrderFact,
    OrderHeld,
    OrderInvoiced,
    OrderLine,
    OrderPacked,
    OrderPaid,
    OrderPlaced,
    OrderReturned,
    OrderShipped,
    OrderShort,
    ShortLine,
)
from contracts.payments.v1 import AuthorizePayment
from services.orders import due
from services.orders.process import (
    NOTHING,
    STAGES,
    DeadlineDue,
    Parcel,
    PersonSaid,
    Process,
    ProcessEvent,
    answered,
    came_back,
    concerns,
    departed,
    entered,
    hear,
    held_back,
    overdue,
)
from services.orders.wanted import US, Command, View, ask, money_settled, needs_invoice, paid_by_us, tell

LEFT = frozenset({SaleStatus.SHIPPED, SaleStatus.DELIVERED, SaleStatus.RETURNED})
PAID = LEFT | {SaleStatus.PAID}
UNPAID = frozenset({SaleStatus.PLACED, SaleStatus.AWAITING_PAYMENT, SaleStatus.PAID})
"""What a channel may say of an order whose money is ours to see."""
STAGE_OF: Final = {
    "placed": "placed", "short": "short", "invoiced": "prepare", "packed": "dispatch", "cancelling": "cancelling",
}  # fmt: skip
RANKS: Final = {"cancelled": 0, "shipped": 1, "delivered": 2, "returned": 3}


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
class Invoiced:
    """It has its invoice, and its parcels are being prepared."""

    kind: Literal["invoiced"] = "invoiced"


@final
@dataclass(frozen=True, slots=True)
class Packed:
    """Every parcel has its label and waits for its carrier."""

    kind: Literal["packed"] = "packed"


@final
@dataclass(frozen=True, slots=True)
class Cancelling:
    """To be cancelled; parcels are being stopped and money given back."""

    reason: str
    kind: Literal["cancelling"] = "cancelling"


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
    Placed
    | Held
    | Short
    | Confirmed
    | Invoiced
    | Packed
    | Cancelling
    | Cancelled
    | Shipped
    | Delivered
    | Returned
    | Closed,
    Discriminator("kind"),
]
STATES = (
    "placed", "held", "short", "confirmed", "invoiced", "packed", "cancelling", "cancelled", "shipped", "delivered",
    "returned", "closed",
)  # fmt: skip


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

    `status` is the sale's word as far as it has one: `cancelled` where every line or the process is, and whether it is
    paid as the gateway says, where we take the money. `paid` stands until a channel says otherwise, `left` for good;
    `expired` is true while the stock of an unpaid order was given back by the clock of its hold.
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
    process: Process = NOTHING

    @property
    def settled(self) -> bool:
        """Whether inventory's newest answer is about the newest demand."""
        return self.demand is not None and self.answer is not None and self.answer.revision == self.demand.revision

    # The copies below name every field: `dataclasses.replace` takes five times as long, and every sale needs several.

    def heard(self, sale: SaleReported, status: SaleStatus, *, paid: bool, left: bool) -> "Order":
        """This order with a newer snapshot of its sale."""
        return Order(
            sale, status, self.state, self.version, paid, left, self.expired, self.demand, self.answer, self.process
        )

    def asking(self, demand: OrderDemand) -> "Order":
        """This order with a newer demand; what had expired is asked for again."""
        return Order(
            self.sale, self.status, self.state, self.version, self.paid, self.left, False, demand, self.answer,
            self.process,
        )  # fmt: skip

    def answered(self, answer: Answer | None, *, expired: bool = False) -> "Order":
        """This order with another answer to its demand, or with none any more."""
        return Order(
            self.sale, self.status, self.state, self.version, self.paid, self.left, expired, self.demand, answer,
            self.process,
        )  # fmt: skip

    def reached(self, state: State, version: int) -> "Order":
        """This order in `state` at `version`."""
        return Order(
            self.sale, self.status, state, version, self.paid, self.left, self.expired, self.demand, self.answer,
            self.process,
        )  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class CloseDue:
    """The time in which something could still happen to a finished order has passed."""


Event: TypeAlias = (
    SaleReported | DemandMet | DemandShort | HoldExpired | CloseDue | ProcessEvent | DeadlineDue | PersonSaid
)


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """What an event leads to: the order as it is now, the facts to tell, the demand to send if it changed, and what
    else is asked of others."""

    order: Order | None
    facts: tuple[OrderFact, ...] = ()
    demand: OrderDemand | None = None
    commands: tuple[Command, ...] = ()


def decide(order: Order | None, event: Event, now: datetime) -> Decision:
    """Decide what `event` does to `order`; an event that says nothing new returns the order as it was, the same object.

    Nothing new are: a snapshot that is not newer than the known one, an answer to another revision than the demand's,
    and anything but a snapshot where there is no order.
    """
    if isinstance(event, SaleReported):
        if order and event.revision <= order.sale.revision:
            return Decision(order)
        return _settle(order, _hear(order, event), now)
    if order is None:
        return Decision(order)
    if isinstance(event, CloseDue):
        return _close(order, now)
    if isinstance(event, DemandMet | DemandShort | HoldExpired):
        return _answer(order, event, now)
    if isinstance(event, DeadlineDue):
        return _deadline(order, event, now)
    if isinstance(event, PersonSaid):
        process = entered(order.process, stage_of(order), now)
        return _settle(order, _proceeding(order, answered(process, event.answer)), now)
    process = hear(order.process, event)
    return Decision(order) if process is order.process else _settle(order, _proceeding(order, process), now)


def _answer(order: Order, event: DemandMet | DemandShort | HoldExpired, now: datetime) -> Decision:
    if order.demand is None or event.revision < order.demand.revision:
        return Decision(order)
    if event.revision > order.demand.revision:
        # Inventory has seen a revision that is not known here, as after a restored backup: ask again above it.
        demand = order.demand.model_copy(update={"revision": event.revision})
        return _settle(order, order.asking(demand).answered(None, expired=order.expired), now, again=True)
    if isinstance(event, HoldExpired):
        return _settle(order, order.answered(None, expired=True), now)
    heard = order.answered(Answer(event.revision, event.lines))
    if isinstance(event, DemandShort) and paid_by_us(order.sale) and not order.process.parcels:
        # Nobody waits in our own shop for what is not there: what was paid already is given back.
        cancel = order.process.cancel or "sold_out"
        heard = _proceeding(heard, replace(order.process, cancel=cancel))
    return _settle(order, heard, now)


def _deadline(order: Order, event: DeadlineDue, now: datetime) -> Decision:
    """The deadline of the order's stage passed: what it waits for is asked for again, or its default is done.

    Orders on their usual way keep no stage until somebody looks after them here.
    """
    stage = stage_of(order)
    watched = order.process.stage == stage
    process = entered(order.process, stage, now)
    if watched or stage == "placed":
        process = overdue(process, event)
    asked = STAGES[stage].alert in ("shipping", "compensate") and watched
    return _settle(order, _proceeding(order, process), now, again=stage == "placed", repeat=asked)


def _hear(order: Order | None, sale: SaleReported) -> Order:
    left = sale.status in LEFT
    if order is None:
        paid = sale.status in PAID and not paid_by_us(sale)
        return Order(sale, _word(sale, NOTHING, paid=paid), paid=paid, left=left)
    # A request to cancel, a cancel, or a status nobody knows says nothing about money.
    paid = sale.status in PAID or (order.paid and sale.status is not SaleStatus.AWAITING_PAYMENT)
    if paid_by_us(sale):
        paid = order.paid
    word = _word(sale, order.process, paid=paid)
    heard = order.heard(sale, word, paid=paid, left=order.left or left)
    return _proceeding(heard, order.process) if paid_by_us(sale) else heard


def _proceeding(order: Order, process: Process) -> Order:
    """This order with its process a step further, and with what that says of its money and of a cancel."""
    sale, paid = order.sale, order.paid
    if paid_by_us(sale) and not process.cancel:
        paid = paid or _is_covered(order, process)
    return replace(order, process=process, paid=paid, status=_word(sale, process, paid=paid))


def _is_covered(order: Order, process: Process) -> bool:
    """Whether the buyer's money is there, or as good as there. A free order needs none, once its buyer has chosen."""
    due_minor, paying = owed(order), process.paying
    if paying is None:
        checkout = order.sale.checkout
        return due_minor == 0 and checkout is not None and checkout.attempt > 0
    return paying.good_minor >= due_minor


def _word(sale: SaleReported, process: Process, *, paid: bool) -> SaleStatus:
    word = sale.status
    if process.cancel:
        return SaleStatus.CANCELLED
    if word is SaleStatus.CANCEL_REQUESTED and process.answer("person") == "ship":
        word = SaleStatus.PAID if paid else SaleStatus.AWAITING_PAYMENT
    if word in UNPAID and paid_by_us(sale):
        word = SaleStatus.PAID if paid else SaleStatus.AWAITING_PAYMENT
    for line in sale.lines:
        if line.cancelled < line.quantity:
            return word
    return SaleStatus.CANCELLED if sale.lines else word


def _settle(
    before: Order | None, heard: Order, now: datetime, *, again: bool = False, repeat: bool = False
) -> Decision:
    again = again or (heard.expired and heard.paid)
    # An answer alone changes what is asked for only where goods wait to leave.
    told = before is not None and before.sale is heard.sale and before.process is heard.process and not heard.left
    demand = None if told and not again else _demand(heard, again=again)
    after = heard.asking(demand) if demand else heard
    waits, missing = hold(after), short_lines(after)
    state, commands = _state(after, waits, missing), tuple[Command, ...]()
    if _has_process(after, state):
        view = _view(after, waits, missing)
        process, commands = ask(view, after.process, again=repeat)
        if any(isinstance(command, AuthorizePayment) for command in commands):
            after = _without_token(after)
        state = _state_of_process(replace(after, process=process), view, waits, missing)
        after = replace(after, process=entered(process, _stage(after, state, process), now))
    facts = _facts(before, after, state, waits, missing, now)
    after = after.reached(state, after.version + len(facts))
    if commands or after.process is not NOTHING or after.sale.checkout:
        process, progress = tell(
            after.process, after.sale, state.kind, waits.reason if waits and state is waits else None, now,
            answered=after.answer is not None,
        )  # fmt: skip
        if progress:
            after, commands = replace(after, process=process), (*commands, progress)
    return Decision(after, facts, demand, commands)


def _close(order: Order, now: datetime) -> Decision:
    if not isinstance(order.state, Cancelled | Delivered | Returned):
        return Decision(order)
    closed = order.reached(Closed(order.state.kind), order.version + 1)
    sums = {"due_minor": owed(order), "currency": order.sale.currency}
    return Decision(closed, (OrderClosed(**_head(closed, closed.version, now), **sums, reason=order.state.kind),))


def _without_token(order: Order) -> Order:
    """This order once its buyer's token was handed on: it is of use once, and kept no longer."""
    sale, checkout = order.sale, order.sale.checkout
    assert checkout
    spent = checkout.model_copy(update={"token": ""})
    return replace(order, sale=sale.model_copy(update={"checkout": spent}))


def _state(order: Order, waits: Held | None, missing: tuple[ShortLine, ...]) -> State:
    if final := FINALS.get(order.status):
        return final
    if missing:
        return Short()
    return waits or (Confirmed() if order.answer else Placed())


def _has_process(order: Order, state: State) -> bool:
    """Whether there is more to an order than its sale and its stock. What most sales go through is not."""
    if order.process is not NOTHING or order.sale.checkout is not None:
        return True
    match state:
        case Placed() | Cancelled() | Delivered() | Returned() | Held(reason="payment"):
            return False
        case Confirmed():
            return order.paid and not needs_invoice(order.sale)
        case _:
            return True


def _state_of_process(order: Order, view: View, waits: Held | None, missing: tuple[ShortLine, ...]) -> State:
    process, sale = order.process, order.sale
    left = _state_of_parcels(order, view)
    if order.status is SaleStatus.CANCELLED:
        # What left in spite of a cancel of ours goes on; of a cancel by its channel nothing does.
        if left and sale.status is not SaleStatus.CANCELLED:
            return left
        stopped = not any(parcel.open for parcel in process.parcels)
        done = stopped and money_settled(view, process)
        return Cancelled() if done else Cancelling(process.cancel or "channel")
    word = FINALS.get(order.status)
    if left and not (word and RANKS[word.kind] > RANKS[left.kind]):
        return left
    if word and (view.by_word or not isinstance(word, Shipped)):
        return word
    if missing or waits or not order.answer:
        return _state(replace(order, status=SaleStatus.PAID), waits, missing)
    still = [parcel for parcel in process.parcels if parcel.open]
    if still and all(parcel.labelled for parcel in still):
        return Packed()
    return Invoiced() if process.invoice else Confirmed()


def _state_of_parcels(order: Order, view: View) -> State | None:
    """Shipped, delivered or returned, once everything that is still wanted has left in our parcels."""
    process, gone = order.process, departed(order.process)
    sent = [one for one in process.parcels if one.dispatched_at and not _is_written_off(process, one)]
    if not sent or any(parcel.open for parcel in process.parcels):
        return None
    if not view.cancelled and any(sum(gone.get(line, {}).values()) < units for line, units in view.asked.items()):
        return None
    units = sum(quantity for parcel in sent for _, quantity in parcel.lines)
    if sum(line.quantity for lines in came_back(process).values() for line in lines) >= units:
        return Returned()
    taken = "delivered" in (process.answer("deliver"), process.answer("lost"))
    return Delivered() if taken or all(parcel.delivered_at for parcel in sent) else Shipped()


def _view(order: Order, waits: Held | None, missing: tuple[ShortLine, ...]) -> View:
    sale, process, demand = order.sale, order.process, order.demand
    cancelled = order.status is SaleStatus.CANCELLED
    skus = {line.line_id: line.sku for line in demand.lines} if demand else {}
    ours = [line for line in sale.lines if line.fulfilled_by == US and line.line_id in skus]
    asked = {} if cancelled else {line.line_id: max(0, line.quantity - line.cancelled) for line in ours}
    stocked = order.settled and not missing and not order.expired and not cancelled
    reserved = None
    if stocked and ours:
        found = _shippable(order)
        reserved = {line.line_id: found[line.line_id] for line in ours}
    by_word = _left_by_word(order)
    clear = stocked and waits is None and not by_word
    return View(
        sale=sale,
        due_minor=owed(order),
        cancelled=cancelled,
        payable=stocked and not order.paid and paid_by_us(sale) and order.status is SaleStatus.AWAITING_PAYMENT,
        ready=clear and order.paid and (process.invoice is not None or not needs_invoice(sale)),
        by_word=by_word,
        asked=asked,
        skus=skus,
        reserved=reserved,
    )


def _left_by_word(order: Order) -> bool:
    """Whether the channel alone says that goods left. Once a parcel of ours has, the parcels say what did."""
    return order.left and not any(parcel.dispatched_at for parcel in order.process.parcels)


def owed(order: Order) -> int:
    """What the buyer owes in all: the whole order, less what is cancelled, lost or came back."""
    sale, process = order.sale, order.process
    cancelled = order.status is SaleStatus.CANCELLED
    if process is NOTHING and not cancelled and sale.total_minor and sale.status is not SaleStatus.RETURNED:
        for line in sale.lines:
            if line.cancelled or line.returned:
                break
        else:
            return sale.total_minor  # The usual case.
    if cancelled and not paid_by_us(sale):
        return 0
    received = {line_id: sum(line.quantity for line in lines) for line_id, lines in came_back(process).items()}
    if cancelled:
        # Money follows the goods: what may still leave is owed until its parcel is stopped.
        left = Counter[str]()
        for parcel in process.parcels:
            if parcel.open or (parcel.dispatched_at and not _is_written_off(process, parcel)):
                left.update(dict(parcel.lines))
        kept = {line.line_id: min(line.quantity, left[line.line_id]) for line in sale.lines}
    else:
        kept = {line.line_id: max(0, line.quantity - line.cancelled) for line in sale.lines}
    freight = any(kept.values())
    for line in sale.lines:
        kept[line.line_id] -= min(kept[line.line_id], max(_returned(sale, line), received.get(line.line_id, 0)))
    return due.due_minor(sale, kept, freight=freight)


def _is_written_off(process: Process, parcel: Parcel) -> bool:
    """Whether a parcel that left is taken for lost."""
    return process.cancel == "lost" and parcel.delivered_at is None


def stage_of(order: Order) -> str:
    """The row of STAGES that the order is at."""
    return _stage(order, order.state, order.process)


def _stage(order: Order, state: State, process: Process) -> str:
    match state:
        case Held(reason="payment"):
            return "checkout" if paid_by_us(order.sale) else "payment"
        case Held(reason=reason):
            return reason
        case Confirmed():
            return "prepare" if process.invoice or not needs_invoice(order.sale) else "invoice"
        case Shipped():
            lost = any(parcel.lost and not parcel.delivered_at for parcel in process.parcels)
            return "lost" if lost else "deliver"
        case Cancelled() | Delivered() | Returned() | Closed():
            waits = money_settled(_view(order, None, ()), process)
            return "finished" if waits else "refunding"
        case _:
            return STAGE_OF[state.kind]


def hold(order: Order) -> Held | None:
    """What the order waits for beside its stock. A person comes before a mapping, a mapping before payment."""
    word = order.status
    if word is SaleStatus.CANCELLED:
        return None
    if word is SaleStatus.CANCEL_REQUESTED:
        return Held("person")
    if word is SaleStatus.UNKNOWN or unresolved_lines(order):
        return Held("mapping")
    if word is not SaleStatus.AWAITING_PAYMENT:
        return None
    checkout = order.sale.checkout
    return Held("payment", checkout.hold_until if checkout else order.sale.payment_due)


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
    """What came back, by the channel's word or to our dock, per line and in all."""
    sale, received = order.sale, came_back(order.process) if order.process.returns else {}
    whole = sale.status is SaleStatus.RETURNED
    back = [
        (line, max(_returned(sale, line), sum(one.quantity for one in received.get(line.line_id, ()))))
        for line in sale.lines
        if whole or line.returned or received
    ]
    return tuple([_line(line, units) for line, units in back if units])


def alerts(order: Order) -> frozenset[str]:
    """What a person should look at: a missing mapping, a request to cancel, missing stock, what the process lacks. The
    payment of a marketplace's buyer is the clock's."""
    process = order.process
    if process is NOTHING and isinstance(order.state, Placed | Confirmed):
        return frozenset()  # the states of an order that waits for nothing and misses nothing
    waits = hold(order)
    kinds = set[str]()
    if waits and waits.reason != "payment":
        kinds.add(waits.reason)
    if process is not NOTHING:
        kinds |= concerns(process, cancelled=order.status is SaleStatus.CANCELLED)
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
    hold_until = None if order.paid or not sale.checkout else sale.checkout.hold_until
    terms = sale.pool, sale.shortfall_policy, sale.all_or_nothing, hold_until
    if known and not again and asked == known.lines and terms == _terms(known):
        # Goods leave only once inventory has answered what else there was to ask: before that, the answer's
        # reservations are those of another demand.
        asked = _asked(order, _shippable(order)) if order.settled and _left_by_word(order) else asked
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
        hold_until=hold_until,
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


def _terms(asked: OrderDemand) -> tuple[object, ...]:
    return asked.pool, asked.shortfall_policy, asked.all_or_nothing, asked.hold_until


def _demand_line(
    order: Order, line: SaleLine, sku: str, told: DemandLine | None, ship: Mapping[str, int]
) -> DemandLine:
    # Goods that have left come back as returned, not as cancelled.
    whole = order.status is SaleStatus.CANCELLED and not _left_by_word(order)
    cancelled = line.quantity if whole else line.cancelled
    location = None if line.fulfilled_by == US else line.fulfilled_by
    shipped = {was.location: was.quantity for was in told.shipped} if told else {}
    parcels = order.process.parcels
    if not shipped and not ship and not parcels:
        return DemandLine(
            line_id=line.line_id, sku=sku, ordered=line.quantity, cancelled=min(cancelled, line.quantity),
            location=location,
        )  # fmt: skip
    if parcels:
        shipped = _left(shipped, departed(order.process).get(line.line_id, {}), line.quantity)
    left = sum(shipped.values())
    for at, quantity in sorted(ship.items()):
        if taken := min(quantity, line.quantity - left):
            shipped[at] = shipped.get(at, 0) + taken
            left += taken
    places = sorted(shipped.items())
    if line.line_id in held_back(order.process):
        # Nothing of a line is given back while a parcel with it may still leave: inventory says which units it frees,
        # and they might be those in the parcel.
        cancelled = told.cancelled if told else 0
    return DemandLine(
        line_id=line.line_id,
        sku=sku,
        ordered=line.quantity,
        cancelled=min(cancelled, line.quantity - left),
        shipped=tuple(ShippedQuantity(location=at, quantity=units) for at, units in places),
        returned=_came_back(order, line, places),
        location=location,
    )


def _left(told: Mapping[str, int], parcels: Mapping[str, int], quantity: int) -> dict[str, int]:
    """Units that left per location: those of our parcels, and what else was said to have left, no more than ordered."""
    shipped = dict(parcels)
    rest = quantity - sum(shipped.values())
    for at, units in sorted(told.items()):
        more = min(max(0, units - shipped.get(at, 0)), rest)
        if more > 0:
            shipped[at] = shipped.get(at, 0) + more
            rest -= more
    return shipped


def _came_back(order: Order, line: SaleLine, places: Sequence[tuple[str, int]]) -> tuple[ReturnedQuantity, ...]:
    """What was looked at lies where and as it was found; what the channel alone says is on its way in."""
    seen = Counter[tuple[str, AccountState]]()
    for one in came_back(order.process).get(line.line_id, ()):
        seen[one.location, one.state] += one.quantity
    looked_at = tuple(
        ReturnedQuantity(location=at, state=state, quantity=units) for (at, state), units in sorted(seen.items())
    )
    return looked_at + _returns(places, max(0, _returned(order.sale, line) - seen.total()))


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

    def owing() -> dict[str, object]:
        return head() | {"due_minor": owed(after), "currency": sale.currency}

    if before is None:
        facts.append(_placed(after, head()))
    elif after.paid and not before.paid:
        facts.append(OrderPaid(**owing()))
    if before and before.sale is not sale and _is_changed(before, after):
        facts.append(OrderChanged(**owing(), lines=_lines(after)))
    if waits and not (before and waits == hold(before)):
        facts.append(OrderHeld(**head(), reason=waits.reason, until=waits.until))
    if before and after.process is not before.process and (reason := _waits_for_person(before, after)):
        facts.append(OrderHeld(**head(), reason=reason))
    if missing and not (before and missing == short_lines(before)):
        facts.append(OrderShort(**head(), lines=missing))
    if not (before and before.state == state):
        match state:
            case Confirmed() | Invoiced() if not (before and isinstance(before.state, Confirmed | Invoiced | Packed)):
                facts.append(OrderConfirmed(**head()))
            case Packed():
                parcels = after.process.parcels
                facts.append(OrderPacked(**head(), shipment_ids=tuple(one.shipment_id for one in parcels if one.open)))
            case Cancelling(reason=reason):
                facts.append(OrderCancelling(**head(), reason=reason))
            case Cancelled():
                facts.append(OrderCancelled(**owing(), reason=after.process.cancel or "channel"))
            case Shipped():
                facts.append(OrderShipped(**head()))
            case Delivered():
                facts.append(OrderDelivered(**owing()))
            case _:
                pass
    invoice = after.process.invoice
    if invoice and not (before and before.process.invoice == invoice):
        facts.append(
            OrderInvoiced(
                **head(), invoice_id=invoice.document_id, invoice_key=invoice.invoice_key,
                total_minor=invoice.total_minor, currency=invoice.currency,
            )
        )  # fmt: skip
    back = returned_lines(after)
    if back and not (before and back == returned_lines(before)):
        facts.append(OrderReturned(**owing(), lines=back))
    return tuple(facts)


def _placed(order: Order, head: Mapping[str, Any]) -> OrderPlaced:
    sale = order.sale
    return OrderPlaced(
        **head,
        sold_at=sale.sold_at,
        customer_ref=sale.customer_ref,
        paid=order.paid,
        payment_by=sale.checkout.payment_by if sale.checkout else PaymentCollector.CHANNEL,
        due_minor=owed(order),
        currency=sale.currency,
        total_minor=sale.total_minor,
        freight_minor=sale.freight_minor,
        lines=tuple([_line(line, line.quantity) for line in sale.lines]),
    )


def _line(line: SaleLine, quantity: int) -> OrderLine:
    return OrderLine(
        line_id=line.line_id,
        sku=line.sku,
        quantity=quantity,
        unit_price_minor=line.unit_price_minor,
        discount_minor=line.discount_minor,
    )


def _lines(order: Order) -> tuple[OrderLine, ...]:
    """What is still asked for, line by line."""
    return tuple(
        _line(line, line.quantity - line.cancelled) for line in order.sale.lines if line.cancelled < line.quantity
    )


def _is_changed(before: Order, after: Order) -> bool:
    """Whether a newer snapshot asks for something else, or costs something else, and is not cancelled as a whole."""
    if after.status is SaleStatus.CANCELLED or before.status is SaleStatus.CANCELLED:
        return False
    old, new = before.sale, after.sale
    return _lines(before) != _lines(after) or (old.total_minor, old.freight_minor) != (
        new.total_minor,
        new.freight_minor,
    )


def _waits_for_person(before: Order, after: Order) -> str:
    """What a person is asked for, the first time that a stage has lasted too long."""
    stage = after.process.stage
    if not stage or not after.process.rounds or (before.process.stage == stage and before.process.rounds):
        return ""
    return STAGES[stage].held


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

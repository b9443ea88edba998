"""How an order changes. Pure: no clock, no ids, no input or output.

A snapshot of a sale says everything, so an order ends the same whatever sequence its snapshots come in. What follows
once stock is there, of money, invoice and parcels, is its process (`process`, `wanted`); most sales pass here without.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeAlias, final

from contracts.channels.v1 import SaleReported, SaleStatus
from contracts.inventory.v1 import (
    DemandMet,
    DemandShort,
    HoldExpired,
    OrderDemand,
)
from contracts.orders.v1 import (
    OrderClosed,
    OrderFact,
    ShortLine,
)
from contracts.payments.v1 import AuthorizePayment
from services.orders.demand import demand_of
from services.orders.facts import facts_of, head_of
from services.orders.order import (
    FINALS,
    LEFT,
    PAID,
    UNPAID,
    Answer,
    Cancelled,
    Cancelling,
    Closed,
    Confirmed,
    Delivered,
    Held,
    Invoiced,
    Order,
    Packed,
    Placed,
    Returned,
    Shipped,
    Short,
    State,
)
from services.orders.process import (
    NOTHING,
    STAGES,
    WITHDRAWAL,
    DeadlineDue,
    PersonSaid,
    Process,
    ProcessEvent,
    answered,
    came_back,
    concerns,
    departed,
    entered,
    hear,
    is_astray,
    lost_units,
    overdue,
)
from services.orders.standing import hold, is_doubtful, left_by_word, misfit, owed, shippable, short_lines
from services.orders.wanted import US, Command, View, ask, money_settled, needs_invoice, paid_by_us, tell

RANKS: Final = {"cancelled": 0, "shipped": 1, "delivered": 2, "returned": 3}


STAGE_OF: Final = {
    "placed": "placed", "short": "short", "invoiced": "prepare", "packed": "dispatch", "cancelling": "cancelling",
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class CloseDue:
    """The time in which something could still happen to a finished order has passed."""


Event: TypeAlias = (
    SaleReported | DemandMet | DemandShort | HoldExpired | CloseDue | ProcessEvent | DeadlineDue | PersonSaid
)


@final
class Decision(NamedTuple):
    """What an event leads to: the order as it is now, the facts to tell, the demand to send if it changed, and what
    else is asked of others."""

    order: Order | None
    facts: tuple[OrderFact, ...] = ()
    demand: OrderDemand | None = None
    commands: tuple[Command, ...] = ()


def decide(order: Order | None, event: Event, now: datetime, withdrawal: timedelta = WITHDRAWAL) -> Decision:
    """Decide what `event` does to `order`; an event that says nothing new returns the order as it was, the same object.
    `withdrawal` is how long after its delivery an order that comes back whole has its freight given back.

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
    process = hear(order.process, event, withdrawal)
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
    return _proceeding(heard, order.process) if paid_by_us(sale) or order.process.parcels else heard


def _proceeding(order: Order, process: Process) -> Order:
    """This order with its process a step further, and with what that says of its money and of a cancel."""
    sale, paid = order.sale, order.paid
    if not process.cancel and _is_lost(sale, process):
        process = replace(process, cancel="lost")
    if paid_by_us(sale) and not process.cancel:
        paid = paid or _is_covered(order, process)
        if process.unpaid and not departed(process):
            process = replace(process, cancel="payment_failed")
    return replace(order, process=process, paid=paid, status=_word(sale, process, paid=paid))


def _is_lost(sale: SaleReported, process: Process) -> bool:
    """Whether all that is wanted of an order was in parcels that were written off."""
    lost = lost_units(process)
    if not lost or sale.status is SaleStatus.CANCELLED:
        return False
    wanted = {line.line_id: line.quantity - line.cancelled for line in sale.lines}
    return any(wanted.values()) and all(lost[line_id] >= units for line_id, units in wanted.items())


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
    demand = None if told and not again else demand_of(heard, again=again)
    after = heard.asking(demand) if demand else heard
    waits, missing = hold(after), short_lines(after)
    state = _state(after, waits, missing)
    commands: tuple[Command, ...] = ()
    if _has_process(after, state):
        view = _view(after, waits, missing)
        process, commands = ask(view, after.process, again=repeat)
        if any(isinstance(command, AuthorizePayment) for command in commands):
            after = _without_token(after)
        state = _state_of_process(replace(after, process=process), view, waits, missing)
        after = replace(after, process=entered(process, _stage(after, state, process), now))
    facts = facts_of(before, after, state, waits, missing, now)
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
    return Decision(closed, (OrderClosed(**head_of(closed, closed.version, now), **sums, reason=order.state.kind),))


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
    if _is_taken_for_delivered(process) and not left and (word is None or isinstance(word, Shipped)):
        return Delivered()
    if left and not (word and RANKS[word.kind] > RANKS[left.kind]):
        return left
    if word and (view.by_word or not isinstance(word, Shipped)):
        return word
    if missing or waits or not order.answer:
        return _state(replace(order, status=SaleStatus.PAID), waits, missing)
    still = [parcel for parcel in process.parcels if parcel.open]
    if view.misfit:
        return Confirmed()  # It waits for its invoice once more.
    if still and all(parcel.labelled for parcel in still):
        return Packed()
    return Invoiced() if process.invoice else Confirmed()


def _state_of_parcels(order: Order, view: View) -> State | None:
    """Shipped, delivered or returned, once everything that is still wanted has left in our parcels."""
    process, gone = order.process, departed(order.process)
    sent = [one for one in process.parcels if one.dispatched_at and not one.missing]
    if not sent or any(parcel.open for parcel in process.parcels):
        return None
    if not view.cancelled and any(sum(gone.get(line, {}).values()) < units for line, units in view.asked.items()):
        return None
    units = sum(quantity for parcel in sent for _, quantity in parcel.lines)
    if sum(line.quantity for lines in came_back(process, missing=False).values() for line in lines) >= units:
        return Returned()
    arrived = _is_taken_for_delivered(process) or all(parcel.delivered_at for parcel in sent)
    return Delivered() if arrived else Shipped()


def _is_taken_for_delivered(process: Process) -> bool:
    """Whether a person, or a silence that lasted, says that what left has arrived."""
    return "delivered" in (process.answer("deliver"), process.answer("lost"))


def _view(order: Order, waits: Held | None, missing: tuple[ShortLine, ...]) -> View:
    sale, demand = order.sale, order.demand
    cancelled = order.status is SaleStatus.CANCELLED
    skus = {line.line_id: line.sku for line in demand.lines} if demand else {}
    ours = [line for line in sale.lines if line.fulfilled_by == US and line.line_id in skus]
    asked = {} if cancelled else {line.line_id: max(0, line.quantity - line.cancelled) for line in ours}
    stocked = order.settled and not missing and not order.expired and not cancelled
    reserved = None
    if stocked and ours:
        found = shippable(order)
        reserved = {line.line_id: found[line.line_id] for line in ours}
    by_word = left_by_word(order)
    clear = stocked and waits is None and not by_word
    return View(
        sale=sale,
        due_minor=owed(order),
        cancelled=cancelled,
        payable=stocked and not order.paid and paid_by_us(sale) and order.status is SaleStatus.AWAITING_PAYMENT,
        ready=clear and order.paid and _is_invoiced(order),
        by_word=by_word,
        misfit=misfit(order) is not None,
        asked=asked,
        skus=skus,
        reserved=reserved,
    )


def stage_of(order: Order) -> str:
    """The row of STAGES that the order is at."""
    return _stage(order, order.state, order.process)


def _stage(order: Order, state: State, process: Process) -> str:
    match state:
        case Held(reason="payment"):
            return "checkout" if paid_by_us(order.sale) else "payment"
        case Held(reason=reason):
            return reason
        case Confirmed() if not any(line.fulfilled_by == US for line in order.sale.lines):
            return "deliver"  # Its channel ships it, from stock that it holds itself.
        case Confirmed():
            return "prepare" if _is_invoiced(order) else "invoice"
        case Shipped():
            lost = any(one.lost and not one.delivered_at and not one.written_off for one in process.parcels)
            return "lost" if lost else "deliver"
        case Cancelled() | Delivered() | Returned() | Closed():
            waits = money_settled(_view(order, None, ()), process)
            return "finished" if waits else "refunding"
        case _:
            return STAGE_OF[state.kind]


def _is_invoiced(order: Order) -> bool:
    """Whether the order has the invoice that it needs."""
    return not needs_invoice(order.sale) or (order.process.invoice is not None and misfit(order) is None)


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
        if _left_unpaid(order):
            kinds.add("unpaid")
        if misfit(order):
            kinds.add("replace_invoice")
        if is_doubtful(order):
            kinds.add("check_invoice")
        if order.sale.status is SaleStatus.CANCELLED and not paid_by_us(order.sale) and is_astray(process):
            kinds.add("intercept")
    return frozenset(kinds | ({"short"} if short_lines(order) else set()))


def _left_unpaid(order: Order) -> bool:
    """Whether goods left and nothing of what is owed for them is with us, nor will be.

    Money that came, and went back to a buyer whose goods came back, is no concern of anybody.
    """
    paying = order.process.paying
    if paying is None or paying.good_minor > 0 or not departed(order.process):
        return False
    return owed(order) > 0 and (paying.over or not isinstance(order.state, Returned))

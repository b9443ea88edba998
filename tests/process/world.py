"""A company in memory: the real decisions of orders, inventory, payments and fulfillment, and everything round them
that goes wrong.

Channels, buyers, a gateway, a carrier, an issuer of invoices and people are models. Messages between the services come
late, in any order and up to three times; the gateway's answers get lost, before or after it did what was asked. Time
passes only where nothing else happens.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from contracts.channels.v1 import Checkout, OrderProgress, SaleLine, SaleReported, SaleStatus
from contracts.erp.v1 import InvoiceIssued
from contracts.fulfillment.v1 import CancelShipment, PrepareShipment, ReceivedLine, TrackingStatus
from contracts.inventory.v1 import AccountState, OrderDemand, PutItem, ReceiveStock
from contracts.orders.v1 import OrderCancelled
from contracts.payments.v1 import (
    AuthorizePayment,
    CapturePayment,
    PaymentMethod,
    RefundPayment,
    VoidPayment,
)
from services.fulfillment import domain as fulfillment
from services.inventory import domain as inventory
from services.inventory.announce import report_message
from services.inventory.ledger import AVAILABLE, COUNT_DIFFERENCE, COUNTED, RESERVED, SHIPPED, Location
from services.orders import domain as orders
from services.orders import story
from services.orders.order import LEFT, Order
from services.orders.process import NOTHING, STAGES, DeadlineDue, PersonSaid, deadline
from services.orders.settings import OrdersSettings
from services.orders.standing import misfit, owed
from services.payments import domain as payments
from services.payments.domain import Kind, Part, Portion, Seen, Status
from services.payments.ledger import Movement
from tests.inventory.given import Store
from tests.payments.given import ModelGateway, Refusal

START: Final = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
SETTINGS: Final = OrdersSettings()
HOUR: Final = timedelta(hours=1)
SKUS: Final = ("MUG", "TRAY")
PLACES: Final = (("main", "shared"), ("annex", "shared"))
MONEY: Final = (AuthorizePayment, CapturePayment, VoidPayment, RefundPayment)
FINAL: Final = ("cancelled", "delivered", "returned")
REACH: Final = 8
"""A message is overtaken by at most so many others."""
STEPS_MAX: Final = 4000
"""Of one company: more, and something goes in circles."""


@dataclass
class Sale:
    """A sale as its channel has it."""

    order_id: str
    ours: bool
    currency: str
    lines: list[SaleLine]
    sold_at: datetime
    status: SaleStatus
    revision: int = 0
    freight_minor: int = 700
    checkout: Checkout | None = None
    by_word: bool = False
    "The channel ships it, without a parcel of ours."

    def snapshot(self) -> SaleReported:
        """The sale as it is now, at its next revision."""
        self.revision += 1
        goods_minor = sum(line.unit_price_minor * line.quantity - line.discount_minor for line in self.lines)
        return SaleReported(
            connection_id="shop" if self.ours else "market", external_id=self.order_id, order_id=self.order_id,
            revision=self.revision, status=self.status, sold_at=self.sold_at, received_at=self.sold_at,
            customer_ref="customer", currency=self.currency, lines=tuple(self.lines), all_or_nothing=self.ours,
            total_minor=goods_minor + self.freight_minor, freight_minor=self.freight_minor, checkout=self.checkout,
        )  # fmt: skip


@dataclass
class Gateway(ModelGateway):
    """The model gateway with Pix, which its buyer pays, refunds that take their time and may fail, and disputes."""

    pix: set[str] = field(default_factory=set)
    declined: set[str] = field(default_factory=set)

    def _after(self, payment_id: str, kind: Kind, n: int, amount_minor: int) -> Seen:
        was = self.seen.get(payment_id)
        if kind is Kind.CHARGE and was and was.status is Status.OPEN and payment_id in self.pix:
            return replace(was, status=Status.PENDING)
        self.declines = payment_id in self.declined
        if kind is Kind.REFUND and was and amount_minor > free_minor(was):
            raise Refusal("more than is there")
        return super()._after(payment_id, kind, n, amount_minor)

    def pay(self, payment_id: str, amount_minor: int) -> bool:
        """The buyer pays a Pix, if it can be paid."""
        was = self.seen.get(payment_id)
        if not was or was.status is not Status.PENDING:
            return False
        self.seen[payment_id] = replace(was, status=Status.CAPTURED, captured_minor=amount_minor)
        return True

    def finish_refunds(self, payment_id: str, before: Part, after: Part) -> bool:
        """What was being given back, or was, is now so; whether there was any."""
        was = self.seen[payment_id]
        moved = {name: replace(one, part=after) for name, one in was.refunds.items() if one.part is before}
        self.seen[payment_id] = replace(was, refunds={**was.refunds, **moved})
        return bool(moved)

    def dispute(self, payment_id: str, amount_minor: int, part: Part) -> None:
        """A buyer's bank disputes a payment, or its dispute ends."""
        self.seen[payment_id] = replace(self.seen[payment_id], disputes={"dispute": Portion(amount_minor, part)})


def free_minor(seen: Seen) -> int:
    """What of a payment is neither given back nor with the buyer's bank."""
    given = sum(one.amount_minor for one in seen.refunds.values() if one.part in (Part.OPEN, Part.DONE))
    taken = sum(one.amount_minor for one in seen.disputes.values() if one.part is not Part.WON)
    return seen.captured_minor - given - taken


def lost_minor(seen: Seen) -> int:
    """What of a payment the buyer's bank took back."""
    return sum(one.amount_minor for one in seen.disputes.values() if one.part is Part.LOST)


class World:
    """One company with its orders. `run` lets it live until nothing is left to happen."""

    def __init__(self, seed: int, orders_wanted: int = 10) -> None:
        self.random = random.Random(seed)
        self.now, self.steps = START, 0
        self.short_default = self.random.choice(["wait", "cancel"])
        self.sales: dict[str, Sale] = {}
        self.orders: dict[str, Order | None] = {}
        self.facts: dict[str, list[Any]] = {}
        self.stock = Store(
            *(PutItem(sku=sku, name=sku) for sku in SKUS),
            locations=(Location("main", "Main", priority=1), Location("annex", "Annex", priority=2)),
            stock={sku: {place: self.random.randint(2, 12) for place in PLACES} for sku in SKUS},
            now=START,
        )
        self.received = Counter({sku: self._counted(sku) for sku in SKUS})
        self.gateway = Gateway(refunds_pend=self.random.random() < 0.3)
        self.payments: dict[str, payments.Pay] = {}
        self.booked: list[Movement] = []
        self.happened: Counter[str] = Counter()
        self.returned: Counter[str] = Counter()
        self.shipments: dict[str, fulfillment.Shipment] = {}
        self.sent: dict[str, list[int]] = {}
        self.bag: list[Any] = []
        self.timers: list[tuple[datetime, int, Callable[[], None]]] = []
        self._ids, self._replacements = itertools.count(), itertools.count(3)
        for number in range(orders_wanted):
            self._begin(f"order-{seed}-{number}")
        self.after(self.random.uniform(20, 300), self._restock)

    # Time and messages

    def after(self, hours: float, do: Callable[[], None]) -> None:
        """Do something so many hours from now."""
        heapq.heappush(self.timers, (self.now + hours * HOUR, next(self._ids), do))

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def say(self, *messages: Any) -> None:
        """Send messages on their way, some of them twice or three times."""
        for message in messages:
            copies = 1 + self.chance(0.1) + self.chance(0.05)
            self.bag += [message] * copies

    def run(self) -> None:
        """Deliver, work and let time pass until nothing is left."""
        while self.bag or self._wait():
            self.steps += 1
            assert self.steps < STEPS_MAX, f"something goes in circles: {[type(one).__name__ for one in self.bag[:9]]}"
            if self.bag:
                index = self.random.randrange(min(REACH, len(self.bag)))
                if self.chance(0.05):
                    self.bag.append(self.bag.pop(index))  # It fails and is tried again later.
                else:
                    self._deliver(self.bag.pop(index))

    def _deliver(self, message: Any) -> None:
        match message:
            case OrderDemand():
                self.stock.meet(message)
                self._answer()
            case AuthorizePayment() | CapturePayment() | VoidPayment() | RefundPayment():
                self._obey(message)
            case PrepareShipment() | CancelShipment():
                self._ship(message.shipment_id, message.order_id, message)
            case OrderProgress():
                self._hear_progress(message)
            case _:
                self._decide(message.order_id, message)

    def _wait(self) -> bool:
        """Let time pass until something is due, and do it; False where nothing ever will be."""
        due = [(at, 0, order_id) for order_id in self.orders if (at := self._due(order_id))]
        holds = [one.hold_until for one in self.stock.ledger.orders.values() if one.hold_until and not one.expired]
        paying = [at for pay in self.payments.values() if (at := payments.due(pay, self.now, HOUR)) and self._live(pay)]
        moments = [at for at, _, _ in due] + holds + paying + [at for at, _, _ in self.timers[:1]]
        if not moments:
            return False
        self.now = self.stock.ledger.now = max(self.now, min(moments))
        while self.timers and self.timers[0][0] <= self.now:
            heapq.heappop(self.timers)[2]()
        for held in list(self.stock.ledger.orders.values()):
            inventory.expire(self.stock.ledger, held, next(self._ids))
        self._answer()
        for payment_id in list(self.payments):
            self._pay(payment_id)
        for at, _, order_id in due:
            if at <= self.now and self._due(order_id) == at:
                self._overdue(order_id)
        return True

    # Orders

    def _decide(self, order_id: str, event: Any) -> None:
        before = self.orders.get(order_id)
        decision = orders.decide(before, event, self.now)
        self.orders[order_id] = decision.order
        told = self.facts.setdefault(order_id, [])
        for fact in decision.facts:
            assert fact.version == len(told) + 1
            told.append(fact)
            if isinstance(fact, OrderCancelled):
                self._check_cancelled(order_id)
        after = decision.order
        if after and (unfit := misfit(after)):
            known = before is not None and (misfit(before), owed(before)) == (unfit, owed(after))
            prepared = [one for one in decision.commands if isinstance(one, PrepareShipment)]
            assert not prepared, f"{order_id} is packed with an invoice over another sum than it owes"
            if not known:
                self._replace_invoice(after)
        if after and "lost" in orders.alerts(after) and not (before and "lost" in orders.alerts(before)):
            self.after(self.random.uniform(0.1, 40), lambda: self._give_up(order_id))
        if isinstance(event, PersonSaid) and event.answer == "lost":
            stopped = [one for one in decision.commands if isinstance(one, CancelShipment)]
            assert not stopped, f"a lost parcel of {order_id} stopped {stopped[0].shipment_id}"
        commands = [decision.demand, *decision.commands] if decision.demand else list(decision.commands)
        for command in commands:
            about = f"{type(command).__name__} {order_id}"
            if isinstance(command, MONEY):
                about = command.payment_id
            elif isinstance(command, PrepareShipment | CancelShipment):
                about = command.shipment_id
            known = self.sent.setdefault(about, [])
            assert not known or command.revision > known[-1], f"{about}: revision {command.revision} after {known[-1]}"
            known.append(command.revision)
        self.say(*commands)

    def _check_cancelled(self, order_id: str) -> None:
        """Whoever is told that an order is cancelled has his money back."""
        order = self.orders[order_id]
        assert order
        kept, whole = 0, True
        for payment_id, seen in self.gateway.seen.items():
            if payment_id.startswith(f"{order_id}:"):
                assert seen.status is not Status.AUTHORIZED, f"{order_id} is cancelled with {payment_id} authorised"
                kept += free_minor(seen)
                whole = whole and not seen.disputes and not self.returned[payment_id]
        due_minor = owed(order) if kept else 0
        assert kept == due_minor if whole else kept <= due_minor, f"{order_id} is cancelled with {kept} of its buyer's"

    def _due(self, order_id: str) -> datetime | None:
        order = self.orders.get(order_id)
        return deadline(order.process, order.sale, SETTINGS.lengths) if order and order.process is not NOTHING else None

    def _overdue(self, order_id: str) -> None:
        order = self.orders[order_id]
        assert order
        answers = [one for one in STAGES[orders.stage_of(order)].answers if one != "refund"]
        patience = order.process.rounds < 3
        if answers and self.chance(0.3) and (patience or answers != ["wait"]):
            self._decide(order_id, PersonSaid(self.random.choice(answers)))
        else:
            self._decide(order_id, DeadlineDue(self.short_default))

    def _give_up(self, order_id: str) -> None:
        """A person asks the carrier about a parcel, and it is not found."""
        order = self.orders[order_id]
        assert order
        if self.chance(0.7) and "lost" in story.answers(order):
            self.happened["lost beside others"] += any(one.open for one in order.process.parcels)
            self._decide(order_id, PersonSaid("lost"))

    def _look_after(self, order_id: str) -> None:
        """What the loop does about an order that has stayed where most go on."""
        order = self.orders.get(order_id)
        if order and order.state.kind in ("placed", "confirmed") and not self._due(order_id):
            self._decide(order_id, DeadlineDue(self.short_default))

    # Channels and buyers

    def _begin(self, order_id: str) -> None:
        ours, at = self.chance(0.5), self.now + self.random.uniform(0, 5) * HOUR
        lines = [
            SaleLine(
                line_id=str(number), sku=self.random.choice(SKUS), quantity=self.random.randint(1, 3), listing="l",
                stock_record="r", unit_price_minor=self.random.randint(100, 9_999),
                discount_minor=self.random.randint(0, 99),
            )
            for number in range(self.random.randint(1, 3))
        ]  # fmt: skip
        first = SaleStatus.AWAITING_PAYMENT if ours or self.chance(0.3) else SaleStatus.PAID
        sale = Sale(order_id, ours, self.random.choice(["BRL", "USD"]), lines, at, first)
        self.sales[order_id], self.orders[order_id] = sale, None
        begin = (at - self.now) / HOUR
        if ours:
            self.after(begin, lambda: self._hold(sale, minutes=15))
            self.after(begin + self.random.uniform(0.01, 0.3), lambda: self._choose(sale))
            if self.chance(0.2):
                self.after(begin + self.random.uniform(0.02, 0.5), lambda: self._choose(sale))
            if self.chance(0.1):
                self.after(begin + self.random.uniform(1, 120), lambda: self._dispute(sale))
        else:
            self.after(begin, lambda: self.say(sale.snapshot()))
            paid = SaleStatus.CANCELLED if self.chance(0.2) else SaleStatus.PAID
            if first is SaleStatus.AWAITING_PAYMENT:
                self.after(begin + self.random.uniform(0.1, 48), lambda: self._becomes(sale, paid))
            if self.chance(0.1):
                sale.by_word = True
                self.after(begin + self.random.uniform(49, 90), lambda: self._becomes(sale, SaleStatus.SHIPPED))
                self.after(begin + self.random.uniform(91, 150), lambda: self._becomes(sale, SaleStatus.DELIVERED))
        if self.chance(0.2):
            self.after(begin + self.random.uniform(0.05, 90), lambda: self._becomes(sale, SaleStatus.CANCELLED))
        if self.chance(0.15):
            self.after(begin + self.random.uniform(0.05, 90), lambda: self._cancel_part(sale))
        if self.chance(0.15):
            self.after(begin + self.random.uniform(1, 90), lambda: self._becomes(sale, SaleStatus.CANCEL_REQUESTED))
        self.after(begin + 1, lambda: self._look_after(order_id))
        self.after(begin + self.random.uniform(0.1, 40), lambda: self._invoice(sale, 1))

    def _becomes(self, sale: Sale, status: SaleStatus) -> None:
        """The channel changes its mind, as far as a channel does."""
        ranks = list(SaleStatus)
        left = sale.status in LEFT
        if sale.status is SaleStatus.CANCELLED or (left and ranks.index(status) <= ranks.index(sale.status)):
            return
        if sale.ours and status is SaleStatus.CANCELLED and self._parcels(sale.order_id):
            status = SaleStatus.CANCEL_REQUESTED  # Our shop lets nobody cancel by himself what is being packed.
        sale.status = status
        self.say(sale.snapshot())

    def _cancel_part(self, sale: Sale) -> None:
        if sale.status in LEFT or sale.status is SaleStatus.CANCELLED:
            return
        index = self.random.randrange(len(sale.lines))
        line = sale.lines[index]
        if self._dispatched(sale.order_id) or line.cancelled == line.quantity:
            return
        cancelled = self.random.randint(line.cancelled + 1, line.quantity)
        sale.lines[index] = line.model_copy(update={"cancelled": cancelled})
        self.say(sale.snapshot())

    def _hold(self, sale: Sale, minutes: int) -> None:
        sale.checkout = Checkout(hold_until=self.now + timedelta(minutes=minutes), carrier="table")
        self.say(sale.snapshot())

    def _choose(self, sale: Sale) -> None:
        """The buyer tries to pay, or has gone."""
        if self.chance(0.15) or sale.checkout is None or sale.status is not SaleStatus.AWAITING_PAYMENT:
            return
        method = self.random.choice([PaymentMethod.CARD, PaymentMethod.PIX])
        hold = self.now + timedelta(minutes=30) if method is PaymentMethod.PIX else sale.checkout.hold_until
        sale.checkout = sale.checkout.model_copy(
            update={
                "method": method, "gateway": "model", "token": "tok", "attempt": sale.checkout.attempt + 1,
                "hold_until": hold,
            }
        )  # fmt: skip
        payment_id = f"{sale.order_id}:p{sale.checkout.attempt}"
        if method is PaymentMethod.PIX:
            self.gateway.pix.add(payment_id)
            if self.chance(0.8):
                self.after(self.random.uniform(0.02, 0.7), lambda: self._pay_pix(payment_id))
        elif self.chance(0.2):
            self.gateway.declined.add(payment_id)
        elif self.chance(0.1):
            self.after(self.random.uniform(0.3, 60), lambda: self._lapse(payment_id))
        self.say(sale.snapshot())

    def _pay_pix(self, payment_id: str) -> None:
        pay = self.payments.get(payment_id)
        if pay and pay.choice and self.gateway.pay(payment_id, pay.choice.amount_minor):
            self._hint(payment_id)

    def _lapse(self, payment_id: str) -> None:
        """The bank lets go of what it had reserved."""
        was = self.gateway.seen.get(payment_id)
        if was and was.status is Status.AUTHORIZED:
            self.gateway.seen[payment_id] = replace(was, status=Status.VOIDED)
            self._hint(payment_id)

    def _hear_progress(self, progress: OrderProgress) -> None:
        sale = self.sales[progress.order_id]
        if sale.ours:
            return
        if progress.cancelled_reason:
            self._becomes(sale, SaleStatus.CANCELLED)
        elif any(parcel.delivered_at for parcel in progress.parcels) and self.chance(0.5):
            whole = progress.state == "delivered"
            self._becomes(sale, SaleStatus.DELIVERED if whole else SaleStatus.SHIPPED)
        elif progress.parcels and self.chance(0.5):
            self._becomes(sale, SaleStatus.SHIPPED)

    def _invoice(self, sale: Sale, number: int) -> None:
        order = self.orders.get(sale.order_id)
        if order and order.status is not SaleStatus.CANCELLED:
            self.say(
                InvoiceIssued(
                    order_id=sale.order_id, document_id=f"{sale.order_id}-{number}", invoice_no=str(number), series="1",
                    invoice_key=f"{number:044}", issued_at=self.now, total_minor=owed(order), currency=sale.currency,
                )
            )  # fmt: skip
            if number == 1 and self.chance(0.1):
                self.after(self.random.uniform(0.1, 30), lambda: self._invoice(sale, 2))

    def _replace_invoice(self, order: Order) -> None:
        """A person gives another invoice where the order is over another sum than the one that stands."""
        sale, number = self.sales[order.sale.order_id], next(self._replacements)
        self.after(self.random.uniform(0.1, 20), lambda: self._invoice(sale, number))

    # Stock

    def _answer(self) -> None:
        ledger = self.stock.ledger
        for movement in ledger.movements:
            assert COUNT_DIFFERENCE not in (movement.source[2], movement.target[2]), f"stock left twice: {movement}"
            freely = movement.source[2] == AVAILABLE and movement.target[2] == SHIPPED
            assert not freely, f"it was for sale when it left: {movement}"
        tx: Any = SimpleNamespace(now=self.now)
        self.say(*(report_message(report, tx) for report in ledger.reports))
        ledger.reports.clear()
        ledger.movements.clear()
        ledger.levels.clear()

    def _restock(self) -> None:
        for sku in SKUS:
            self.stock.do(ReceiveStock(sku=sku, location="main", quantity=80))
            self.received[sku] += 80
        self._answer()

    def _counted(self, sku: str) -> int:
        return sum(self.stock.units(sku, state) for state in COUNTED)

    # Payments

    def _obey(self, command: Any) -> None:
        before = self.payments.get(command.payment_id)
        self.payments[command.payment_id] = payments.command(before, command, "account-1")
        self._pay(command.payment_id)

    def _hint(self, payment_id: str) -> None:
        if self.chance(0.1):  # A webhook that is lost: it is looked at now and then, hint or not.
            self._pay(payment_id)
        else:
            self._say_hint(payment_id)

    def _say_hint(self, payment_id: str) -> None:
        """A webhook that comes, if need be for the third time: of what it says nobody would ask by himself."""
        self.payments[payment_id] = payments.hinted(self.payments[payment_id])
        self._pay(payment_id)

    def _live(self, pay: payments.Pay) -> bool:
        """Whether time alone can bring it on: a Pix that nobody will pay waits for its expiry alone."""
        return payments.next_call(pay, self.now) is not None or payments.waits(pay)

    def _pay(self, payment_id: str) -> None:
        """Take the steps that are due, until an outcome is unknown or the gateway is waited for."""
        for _ in range(9):
            pay = self.payments[payment_id]
            step = payments.next_call(pay, self.now) or (payments.Look() if payments.waits(pay) else None)
            if step is None:
                return
            if isinstance(step, payments.Close):
                self._saw(payment_id, payments.close(pay, step, self.now))
                continue
            if isinstance(step, payments.Look):
                self._saw(payment_id, payments.saw(pay, self.gateway.seen.get(payment_id), self.now, looked=pay.hinted))
                if payments.next_call(self.payments[payment_id], self.now) is None:
                    return
                continue
            pay = self.payments[payment_id] = payments.begun(pay, step)
            try:
                lost = self.random.random()
                if lost < 0.05:
                    self.payments[payment_id] = payments.ended(pay, payments.Outcome.UNKNOWN)
                    return
                key = payments.key(payment_id, step)
                seen = self.gateway.execute(payment_id, step.kind, step.n, step.amount_minor, key)
                if step.kind is Kind.REFUND and self.gateway.refunds_pend:
                    self.after(self.random.uniform(0.1, 5), lambda: self._finish_refund(payment_id))
                if lost < 0.1:
                    self.payments[payment_id] = payments.ended(pay, payments.Outcome.UNKNOWN)
                    return
                self._saw(payment_id, payments.saw(pay, seen, self.now, answer=True))
            except Refusal:
                self.payments[payment_id] = payments.ended(pay, payments.Outcome.REFUSED)

    def _finish_refund(self, payment_id: str) -> None:
        fails = self.chance(0.2)
        if self.gateway.finish_refunds(payment_id, Part.OPEN, Part.FAILED if fails else Part.DONE):
            self.happened["refund failed"] += fails
            self._hint(payment_id)
        if self.chance(0.15):
            self.after(self.random.uniform(1, 50), lambda: self._return_refund(payment_id))

    def _return_refund(self, payment_id: str) -> None:
        """The buyer's bank sends back what was given back."""
        if self.gateway.finish_refunds(payment_id, Part.DONE, Part.FAILED):
            self.happened["refund returned"] += 1
            self.returned[payment_id] += 1
            self._say_hint(payment_id)

    def _dispute(self, sale: Sale) -> None:
        """The buyer's bank disputes what was taken for a sale, and decides a while later."""
        for payment_id, seen in self.gateway.seen.items():
            amount_minor = free_minor(seen)
            if payment_id.startswith(f"{sale.order_id}:") and amount_minor > 0 and not seen.disputes:
                if self.chance(0.3):
                    amount_minor = self.random.randint(1, amount_minor)
                self.happened["dispute"] += 1
                self.gateway.dispute(payment_id, amount_minor, Part.OPEN)
                self._say_hint(payment_id)
                end = self.random.choice([Part.WON, Part.LOST])
                self.after(self.random.uniform(1, 200), partial(self._decide_dispute, payment_id, amount_minor, end))

    def _decide_dispute(self, payment_id: str, amount_minor: int, end: Part) -> None:
        self.gateway.dispute(payment_id, amount_minor, end)
        self._say_hint(payment_id)

    def _saw(self, payment_id: str, decision: payments.Decision) -> None:
        self.payments[payment_id] = decision.pay
        self.booked += decision.booked
        self.say(*decision.facts)

    # Parcels

    def _parcels(self, order_id: str) -> Iterator[fulfillment.Shipment]:
        return (
            one for one in self.shipments.values() if one.order_id == order_id and one.prepare and not one.cancelled
        )

    def _dispatched(self, order_id: str) -> list[fulfillment.Shipment]:
        return [one for one in self._parcels(order_id) if one.dispatched_at]

    def _ship(self, shipment_id: str, order_id: str, event: Any) -> None:
        before = self.shipments.get(shipment_id) or fulfillment.Shipment(shipment_id, order_id)
        decision = fulfillment.decide(before, event, self.now)
        self.shipments[shipment_id] = decision.shipment
        self.say(*decision.facts)
        late = decision.shipment.state == "delivered" and self.chance(0.4)
        self.after(self.random.choice([0, 0, 0.5, 3, 20]) + 200 * late, lambda: self._pack(shipment_id))

    def _pack(self, shipment_id: str) -> None:
        """The next thing that somebody does about a shipment."""
        shipment = self.shipments[shipment_id]
        event = self._next(shipment)
        if event:
            self._ship(shipment_id, shipment.order_id, event)

    def _next(self, shipment: fulfillment.Shipment) -> Any:
        if shipment.prepare and not shipment.is_named and not shipment.label:
            return fulfillment.Named("table", "standard")
        match shipment.state:
            case "awaiting_address":
                return fulfillment.BuyerKnown(1)
            case "to_pick" | "picked":
                return fulfillment.Packed(500, (100, 100, 100))
            case "packed" if shipment.blocked:
                return fulfillment.TryAgain()
            case "packed" if shipment.awaits_label:
                return fulfillment.Buying()
            case "buying":
                refused = self.chance(0.1)
                label = fulfillment.LabelMade("label", "table", "standard", tracking_code="SD1")
                return fulfillment.CarrierRefused("no_service") if refused else label
            case "stopping":
                return fulfillment.Stopped(self.chance(0.6))
            case "labelled":
                return fulfillment.Dispatched(self.now) if self.chance(0.7) else self._scan(TrackingStatus.ACCEPTED)
            case "dispatched" | "in_transit":
                if self.chance(0.05):
                    return None  # Its carrier says no more.
                lost = self.chance(0.05)
                return self._scan(TrackingStatus.LOST if lost else TrackingStatus.DELIVERED)
            case "delivered" | "lost" if not shipment.returns and self.chance(0.2):
                return self._return(shipment)
            case _:
                return None

    def _scan(self, status: TrackingStatus) -> fulfillment.Scan:
        return fulfillment.Scan(status, self.now)

    def _return(self, shipment: fulfillment.Shipment) -> fulfillment.Received:
        assert shipment.prepare
        lines = []
        for line in shipment.prepare.lines:
            back = self.random.randint(0, line.quantity) if self.chance(0.5) else line.quantity
            if back:
                state = self.random.choice([AccountState.AVAILABLE, AccountState.DAMAGED])
                place = self.random.choice(["main", "annex"])
                lines.append(
                    ReceivedLine(line_id=line.line_id, sku=line.sku, quantity=back, location=place, state=state)
                )
        return fulfillment.Received("return-1", tuple(lines), self.now)

    # What must be true in the end

    def check(self) -> None:
        """Raise `AssertionError` unless every order has ended once, and stock and money are balanced."""
        for order_id, order in self.orders.items():
            assert order, f"{order_id} was never placed"
            self._check_end(order_id, order)
            self._check_money(order_id, order)
            self._check_units(order_id)
        for sku in SKUS:
            assert self._counted(sku) == self.received[sku], f"{sku}: {self._counted(sku)} of {self.received[sku]}"
            assert self.stock.units(sku, RESERVED) == 0, f"{sku} is held for nobody"
        assert sum(payments_balances(self.booked).values()) == 0

    def _check_end(self, order_id: str, order: Order) -> None:
        assert order.state.kind in FINAL, f"{order_id} ended {order.state} at {order.process.stage}"
        assert orders.stage_of(order) == "finished", f"{order_id} is {order.state.kind} and {orders.stage_of(order)}"
        assert not any(parcel.open for parcel in order.process.parcels)
        for shipment in self._parcels(order_id):
            assert shipment.dispatched_at, f"{shipment.shipment_id} still may leave: {shipment.state}"
        kinds = [type(fact).__name__ for fact in self.facts[order_id]]
        assert kinds.count("OrderPlaced") == 1
        ended = {"cancelled": "OrderCancelled", "delivered": "OrderDelivered", "returned": "OrderReturned"}
        assert ended[order.state.kind] in kinds

    def _check_money(self, order_id: str, order: Order) -> None:
        taken = payments_balances(self.booked).get(f"customer:{order_id}", 0)
        due_minor = owed(order) if self.sales[order_id].ours else 0
        if "unpaid" in orders.alerts(order):
            due_minor = 0  # Goods left before their money lapsed: a person asks the buyer for it.
        self._check_freight(order_id, order)
        lost = sum(lost_minor(seen) for name, seen in self.gateway.seen.items() if name.startswith(f"{order_id}:"))
        # What a bank took back is the company's loss, and never gone twice.
        assert -taken <= due_minor <= lost - taken, f"{order_id} is {order.state}, owes {due_minor} and gave {-taken}"
        for payment_id, seen in self.gateway.seen.items():
            if payment_id.startswith(f"{order_id}:"):
                known = self.payments[payment_id].seen
                assert known
                assert known.captured_minor == seen.captured_minor
                assert self.gateway.moved[payment_id, Kind.CAPTURE] <= 1
                assert seen.status not in (Status.OPEN, Status.PENDING, Status.AUTHORIZED), f"{payment_id} hangs"

    def _check_freight(self, order_id: str, order: Order) -> None:
        """An order of ours that came back whole owes its freight only if that took longer than its buyer has."""
        sale, left = self.sales[order_id], self._dispatched(order_id)
        sent = sum(line.quantity for one in left if one.prepare for line in one.prepare.lines)
        back = sum(line.quantity for one in left for came in one.returns for line in came.lines)
        arrived = [one.delivered_at for one in left if one.delivered_at]
        if sale.ours and sent and back == sent and len(arrived) == len(left):
            came = [came.received_at for one in left for came in one.returns]
            late = any(at > one + SETTINGS.lengths["withdrawal_h"] for one, at in zip(arrived, came, strict=True))
            self.happened["freight kept" if late else "freight back"] += 1
            assert owed(order) == (sale.freight_minor if late else 0), f"{order_id} owes {owed(order)} and came back"

    def _check_units(self, order_id: str) -> None:
        """What left the shelf in parcels is what inventory has as left, line by line, and no more than was ordered."""
        sale, known = self.sales[order_id], self.stock.ledger.orders.get(order_id)
        left, back = Counter[str](), Counter[str]()
        for shipment in self._dispatched(order_id):
            assert shipment.prepare
            left.update({line.line_id: line.quantity for line in shipment.prepare.lines})
            back.update({line.line_id: line.quantity for one in shipment.returns for line in one.lines})
        booked, returned = Counter[str](), Counter[str]()
        for line in known.lines.values() if known else ():
            booked[line.line_id] += line.left()
            returned[line.line_id] += sum(units for unit, units in line.units.items() if unit[3])
            assert line.short == 0, f"{order_id} still misses {line.short} of {line.sku}"
        for one in sale.lines:
            assert left[one.line_id] <= one.quantity, f"{order_id}: more of line {one.line_id} left than was sold"
        if not sale.by_word:
            assert +left == +booked, f"{order_id}: {left} left, {booked} booked"
            assert +back == +returned, f"{order_id}: {back} came back, {returned} booked"


def payments_balances(booked: list[Movement]) -> dict[str, int]:
    """What came into each account less what went out of it."""
    sums = Counter[str]()
    for movement in booked:
        sums[movement.from_account] -= movement.amount_minor
        sums[movement.to_account] += movement.amount_minor
    return dict(sums)

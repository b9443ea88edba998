"""The process of an order behind its stock: what was heard of its money, invoice and parcels, and its deadlines. Pure.

What is heard is joined, not replayed: facts carry their sums and versions, so a copy, an older one or another order of
arrival ends the same. What was sent is remembered beside it, because every command is absolute and counts its revision.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias, final

from contracts.channels.v1 import ProgressAccepted, ProgressRefused, SaleReported
from contracts.erp.v1 import InvoiceIssued
from contracts.fulfillment.v1 import (
    LabelCreated,
    ParcelFact,
    ReceivedLine,
    ReturnReceived,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentFact,
    ShipmentFailed,
    ShipmentPrepared,
    ShipmentTracked,
)
from contracts.payments.v1 import (
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDisputed,
    PaymentFact,
    PaymentFailed,
    PaymentPending,
    PaymentRefunded,
    PaymentVoided,
)

PaymentStatus: TypeAlias = Literal["asked", "pending", "authorized", "captured", "failed", "voided"]


@final
@dataclass(frozen=True, slots=True)
class Payment:
    """One attempt to pay, as payments told of it, and what was asked of it in all.

    `held_minor` is in open disputes, `lost_minor` was taken back by banks. `by_hand_minor` a person gave back outside,
    `let_go`: a person saw to what hung there. `revision` is of the newest command.
    """

    payment_id: str
    attempt: int
    amount_minor: int
    expires_at: datetime | None = None
    status: PaymentStatus = "asked"
    authorized_minor: int = 0
    captured_minor: int = 0
    refunded_minor: int = 0
    held_minor: int = 0
    lost_minor: int = 0
    by_hand_minor: int = 0
    version: int = 0
    dispute_version: int = 0
    reason: str = ""
    pix_text: str | None = None
    next_url: str | None = None
    paid_at: datetime | None = None
    revision: int = 0
    capture_minor: int = 0
    refund_minor: int = 0
    void: bool = False
    let_go: bool = False

    @property
    def over(self) -> bool:
        """Nothing was taken by it and nothing will be."""
        return self.status in ("failed", "voided")

    @property
    def good_minor(self) -> int:
        """What we have of it, or may still take."""
        if self.captured_minor:
            return self.captured_minor - self.refunded_minor - self.lost_minor
        return self.authorized_minor if self.status == "authorized" else 0


@final
@dataclass(frozen=True, slots=True)
class Invoice:
    """The invoice that stands, as erp told of it."""

    document_id: str
    invoice_key: str
    invoice_no: str
    series: str
    issued_at: datetime
    total_minor: int
    currency: str
    content_url: str = ""
    version: int = 1


@final
@dataclass(frozen=True, slots=True)
class Parcel:
    """What leaves one location, as asked for and as fulfillment told of it. `lines` are units by line id.

    `revision` is of the newest command, `asked_revision` of the newest that asked for the parcel; `stopping`: the
    newest asked for its end. `terms` are what it was asked for with beside its lines. `lost` is the carrier's word, and
    `written_off` what a person or the clock made of it: its buyer gets the money back.
    """

    shipment_id: str
    location: str
    lines: tuple[tuple[str, int], ...]
    terms: tuple[str, ...] = ()
    revision: int = 0
    asked_revision: int = 0
    stopping: bool = False
    too_late: bool = False
    cancelled: bool = False
    labelled: bool = False
    packed: bool = False
    lost: bool = False
    written_off: bool = False
    version: int = 0
    reason: str = ""
    carrier: str = ""
    service: str = ""
    tracking_code: str = ""
    tracking_url: str = ""
    dispatched_at: datetime | None = None
    delivered_at: datetime | None = None
    tracking: tuple[tuple[str, datetime], ...] = ()

    @property
    def open(self) -> bool:
        """It may still leave."""
        return not self.cancelled and self.dispatched_at is None

    @property
    def missing(self) -> bool:
        """It was written off, and has not arrived since."""
        return self.written_off and self.delivered_at is None


@final
@dataclass(frozen=True, slots=True)
class Return:
    """Goods of a parcel that came back. `withdrawal` is how long after its delivery they may come for the freight to be
    given back, too."""

    shipment_id: str
    return_id: str
    version: int
    lines: tuple[ReceivedLine, ...]
    received_at: datetime | None = None
    withdrawal: timedelta = timedelta(0)


@final
@dataclass(frozen=True, slots=True)
class Process:
    """All that happened to an order beside its sale and its stock.

    `cancel` is why it is to be cancelled, empty where it is not; `payer` the payment that counts. `stage` is what is
    waited for since `entered_at`, and `rounds` how often in vain.
    """

    payments: tuple[Payment, ...] = ()
    payer: str = ""
    invoice: Invoice | None = None
    parcels: tuple[Parcel, ...] = ()
    returns: tuple[Return, ...] = ()
    cancel: str = ""
    answers: tuple[tuple[str, str], ...] = ()
    told: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    progress_revision: int = 0
    progress_digest: str = ""
    stage: str = ""
    entered_at: datetime | None = None
    rounds: int = 0

    @property
    def paying(self) -> Payment | None:
        """The payment that counts, if one does."""
        return next((payment for payment in self.payments if payment.payment_id == self.payer), None)

    @property
    def unpaid(self) -> bool:
        """The money that counted is gone, and not because we let go of it or gave it back."""
        paying = self.paying
        if paying is None:
            return False
        if paying.captured_minor:
            return paying.good_minor <= 0 and paying.refund_minor < paying.captured_minor
        return paying.over and not paying.void

    def answer(self, stage: str) -> str:
        """What was answered at `stage` (or about the invoice of that id), empty if nothing was."""
        return dict(self.answers).get(stage, "")


NOTHING: Final = Process()


@final
@dataclass(frozen=True, slots=True)
class DeadlineDue:
    """The time of the order's stage has passed. `short_default` is what becomes of a marketplace's short order."""

    short_default: str = "wait"


@final
@dataclass(frozen=True, slots=True)
class PersonSaid:
    """A person answers what the order waits for."""

    answer: str


ShipmentHeard: TypeAlias = (
    ShipmentPrepared | LabelCreated | ShipmentDispatched | ShipmentTracked | ShipmentDelivered | ShipmentCancelled
    | ShipmentFailed
)  # fmt: skip
PaymentHeard: TypeAlias = (
    PaymentPending | PaymentAuthorized | PaymentCaptured | PaymentFailed | PaymentVoided | PaymentRefunded
    | PaymentDisputed
)  # fmt: skip
ProcessEvent: TypeAlias = (
    PaymentHeard | ShipmentHeard | ReturnReceived | InvoiceIssued | ProgressAccepted | ProgressRefused
)


WITHDRAWAL: Final = timedelta(days=8)
"""A consumer who buys at a distance may withdraw within seven days and has all back that he paid, freight included (Lei
8.078/1990, art. 49; Decreto 7.962/2013, art. 5). The day of delivery does not count (Lei 10.406/2002, art. 132)."""


def hear(process: Process, event: ProcessEvent, withdrawal: timedelta = WITHDRAWAL) -> Process:
    """The process with what `event` says; the same object where it says nothing new.

    `withdrawal` is how long after their delivery goods may come back for their freight to be given back, too; 0: never.
    """
    match event:
        case PaymentFact():
            return _paid(process, event)
        case ShipmentFact():
            return _moved(process, event)
        case ReturnReceived():
            return _received(process, event, withdrawal)
        case InvoiceIssued():
            return _invoiced(process, event)
        case ProgressAccepted():
            refused = tuple(one for one in process.refused if one[0] != event.step)
            told = process.told if event.step in process.told else (*process.told, event.step)
            changed = told != process.told or refused != process.refused
            return replace(process, told=told, refused=refused) if changed else process
        case ProgressRefused():
            if event.step in process.told or (event.step, event.reason) in process.refused:
                return process
            rest = tuple(one for one in process.refused if one[0] != event.step)
            return replace(process, refused=(*rest, (event.step, event.reason)))


def _paid(process: Process, fact: PaymentFact) -> Process:
    known = next((one for one in process.payments if one.payment_id == fact.payment_id), None)
    # One that was asked for before a backup was restored holds money all the same.
    before = known or Payment(fact.payment_id, attempt=0, amount_minor=fact.amount_minor)
    after = before
    if isinstance(fact, PaymentDisputed) and fact.version > before.dispute_version:
        after = replace(after, held_minor=fact.disputed_minor, lost_minor=fact.lost_minor, dispute_version=fact.version)
    if isinstance(fact, PaymentPending) and not (after.pix_text or after.next_url):
        after = replace(after, pix_text=fact.pix_text, next_url=fact.next_url, expires_at=fact.expires_at)
    if fact.version > before.version:
        after = replace(
            after, status=_status(before, fact), authorized_minor=fact.authorized_minor, version=fact.version,
            captured_minor=fact.captured_minor, refunded_minor=fact.refunded_minor,
            reason=fact.reason if isinstance(fact, PaymentFailed | PaymentVoided) else before.reason,
        )  # fmt: skip
    if after.good_minor > 0 and after.paid_at is None:
        after = replace(after, paid_at=fact.at)
    if after == known:
        return process
    others = [one for one in process.payments if one.payment_id != fact.payment_id]
    payments = tuple(sorted([*others, after], key=lambda one: (one.attempt, one.payment_id)))
    process = replace(process, payments=payments)
    paying = process.paying
    if after.good_minor > 0 and (paying is None or paying.over):
        # The first that has the buyer's money counts, for good: any other is let go of or given back.
        return replace(process, payer=after.payment_id)
    return process


def _status(before: Payment, fact: PaymentFact) -> PaymentStatus:
    if fact.captured_minor:
        return "captured"
    match fact:
        case PaymentPending():
            return "pending"
        case PaymentAuthorized():
            return "authorized"
        case PaymentFailed() if fact.final:
            return "failed"
        case PaymentVoided():
            return "voided"
        case _:
            return before.status


def _moved(process: Process, fact: ShipmentFact) -> Process:
    before = next((one for one in process.parcels if one.shipment_id == fact.shipment_id), None)
    if before is None:
        return process
    after = _parcel(before, fact)
    if after == before:
        return process
    parcels = tuple(after if one is before else one for one in process.parcels)
    return replace(process, parcels=parcels)


def _parcel(parcel: Parcel, fact: ShipmentFact) -> Parcel:
    """The parcel after `fact`. That it left and arrived is true whenever it is heard; the rest is of its own time."""
    newer = fact.version > parcel.version
    after = replace(parcel, version=max(parcel.version, fact.version))
    if isinstance(fact, ParcelFact) and (newer or not parcel.carrier):
        after = replace(
            after, carrier=fact.carrier, service=fact.service, tracking_code=fact.tracking_code,
            tracking_url=fact.tracking_url,
        )  # fmt: skip
    match fact:
        case ShipmentDispatched():
            lines = tuple((line.line_id, line.quantity) for line in fact.lines)
            return replace(after, dispatched_at=fact.dispatched_at, lines=lines, cancelled=False)
        case ShipmentTracked() if not parcel.tracking or fact.happened_at > parcel.tracking[-1][1]:
            # Only ever appended to: a report from before the newest one is no news to anybody.
            return replace(after, tracking=(*parcel.tracking, (fact.status.value, fact.happened_at)))
        case ShipmentDelivered():
            return replace(after, delivered_at=fact.delivered_at)
        case ShipmentFailed(reason="lost"):
            return replace(after, lost=True)
        case ShipmentFailed(reason="too_late") if newer:
            return replace(after, too_late=parcel.stopping)
        case ShipmentFailed() if newer:
            return replace(after, reason=fact.reason)
        case ShipmentCancelled() if newer and fact.revision >= parcel.asked_revision:
            return replace(after, cancelled=True, too_late=False, reason="")
        case LabelCreated() if newer:
            return replace(after, labelled=True, packed=True, reason="")
        case ShipmentPrepared() if newer:
            return replace(after, packed=True)
        case _:
            return after


def _received(process: Process, event: ReturnReceived, withdrawal: timedelta) -> Process:
    key = event.shipment_id, event.return_id
    known = next((one for one in process.returns if (one.shipment_id, one.return_id) == key), None)
    if known and known.version >= event.version:
        return process
    others = [one for one in process.returns if one is not known]
    now = Return(*key, event.version, event.lines, event.received_at, withdrawal)
    return replace(process, returns=tuple(sorted([*others, now], key=lambda one: (one.shipment_id, one.return_id))))


def _invoiced(process: Process, event: InvoiceIssued) -> Process:
    known = process.invoice
    # By erp's count: an invoice may be dated before the one whose place it takes.
    now = (event.version, event.issued_at, event.document_id)
    if known and (known.version, known.issued_at, known.document_id) >= now:
        return process
    invoice = Invoice(
        event.document_id, event.invoice_key, event.invoice_no, event.series, event.issued_at, event.total_minor,
        event.currency, event.content_url, event.version,
    )  # fmt: skip
    return replace(process, invoice=invoice)


def departed(process: Process) -> dict[str, dict[str, int]]:
    """Per line and location, units that left in our parcels."""
    return _per_line(parcel for parcel in process.parcels if parcel.dispatched_at)


def held_back(process: Process) -> dict[str, dict[str, int]]:
    """Per line and location, units in parcels that may still leave."""
    return _per_line(parcel for parcel in process.parcels if parcel.open)


def _per_line(parcels: Iterable[Parcel]) -> dict[str, dict[str, int]]:
    units: dict[str, dict[str, int]] = {}
    for parcel in parcels:
        for line_id, quantity in parcel.lines:
            at = units.setdefault(line_id, {})
            at[parcel.location] = at.get(parcel.location, 0) + quantity
    return units


def lost_units(process: Process) -> Counter[str]:
    """Per line, units in parcels that were written off."""
    units = Counter[str]()
    for parcel in process.parcels:
        units.update(dict(parcel.lines) if parcel.missing else {})
    return units


def came_back(process: Process, *, missing: bool = True) -> dict[str, list[ReceivedLine]]:
    """Per line, what came back and was looked at, of parcels that are known to have left; without those that were
    written off where not `missing`."""
    left = {
        parcel.shipment_id for parcel in process.parcels if parcel.dispatched_at and (missing or not parcel.missing)
    }
    lines: dict[str, list[ReceivedLine]] = {}
    for one in process.returns:
        for line in one.lines if one.shipment_id in left else ():
            lines.setdefault(line.line_id, []).append(line)
    return lines


def is_withdrawn(process: Process) -> bool:
    """Whether all that came back did so while its buyer could still withdraw, or a person says that the freight goes
    back as well; also where it never reached its buyer."""
    if process.answer("freight") == FREIGHT_BACK:
        return True
    parcels = {parcel.shipment_id: parcel for parcel in process.parcels}
    return bool(process.returns) and all(_in_time(one, parcels.get(one.shipment_id)) for one in process.returns)


def _in_time(back: Return, parcel: Parcel | None) -> bool:
    if parcel is None or back.received_at is None or not back.withdrawal:
        return False
    if parcel.delivered_at is None:
        return any(status == "returned" for status, _ in parcel.tracking)
    return back.received_at <= parcel.delivered_at + back.withdrawal


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """What an order waits for, how long, and what happens then.

    `setting` names the duration (a field of OrdersSettings). Each time it passes, `alert` is raised; the first time
    the order is told to be held for `held`, where a person is waited for. After `rounds` of them (0: never) `default`
    is done. `then` says for people what happens. `answers` are what a person may say meanwhile; `undone` is how a
    cancel compensates what was done so far.
    """

    waits_for: str
    setting: str
    then: str
    alert: str = ""
    held: str = ""
    rounds: int = 0
    default: str = ""
    answers: tuple[str, ...] = ("cancel", "wait")
    undone: str = "demand cancelled"


STAGES: Final[Mapping[str, Stage]] = {
    "placed": Stage(
        "inventory's answer; the demand is sent again", "answer_s",
        "a person is told, and the demand is sent again", alert="silent",
    ),
    # The marketplace's word alone ends it: its stock is never given back by a clock.
    "payment": Stage(
        "the marketplace's word that its buyer paid; it is asked again", "payment_margin_s",
        "a person is told, and the marketplace is asked again", "payment",
    ),
    "checkout": Stage(
        "the buyer's money, until the hold ends", "hold_grace_s",
        "the order is cancelled and its stock is free again", rounds=1, default="expire",
        undone="payment voided or refunded, demand cancelled",
    ),
    "mapping": Stage("a SKU or a status that somebody maps", "mapping_h", "a person is told again", alert="mapping"),
    "person": Stage(
        "a person's word on a request to cancel", "cancel_request_h",
        "it is cancelled, or shipped where a parcel is packed", alert="person", rounds=1, default="decide",
        answers=("cancel", "ship"),
    ),
    "short": Stage(
        "stock that is missing", "short_h",
        "it waits on or is cancelled, as the setting `short_default` says", alert="short", held="person",
        rounds=1, default="short_default",
        undone="payment voided or refunded, demand cancelled",
    ),
    "invoice": Stage(
        "the invoice; nothing ships without", "invoice_h", "a person is told", alert="invoice", held="invoice",
        undone="payment voided or refunded, demand cancelled",
    ),
    "prepare": Stage(
        "parcels with their labels; they are asked for again", "prepare_h",
        "a person is told, and parcels are asked for again", alert="shipping", held="shipping",
        undone="parcels stopped, payment voided or refunded, demand cancelled, invoice listed to be cancelled",
    ),
    "dispatch": Stage(
        "the carrier's collection", "dispatch_h", "a person is told", alert="shipping", held="shipping",
        undone="parcels stopped or, too late, refunded when they come back; the rest as before",
    ),
    "deliver": Stage(
        "the carrier's word of delivery", "delivery_h",
        "a person is told; the second time it counts as delivered", alert="lost", held="shipping", rounds=2,
        default="delivered",
        answers=("delivered", "lost", "wait"), undone="a return",
    ),
    "lost": Stage(
        "a person's word on a parcel that the carrier lost", "lost_h",
        "it counts as lost and its buyer gets the money back", alert="lost", held="refund", rounds=1,
        default="lost", answers=("delivered", "lost", "wait"), undone="refunded; its stock stays shipped",
    ),
    "cancelling": Stage(
        "parcels stopped and money given back; the commands are sent again", "compensate_s",
        "it is asked for again; the third time a person is told", alert="compensate",
        answers=("refund", "wait"), undone="nothing: it is the compensation",
    ),
    "refunding": Stage(
        "money given back for what came back; the command is sent again", "compensate_s",
        "it is asked for again; the third time a person is told", alert="compensate",
        answers=("refund", "wait"), undone="nothing: it is the compensation",
    ),
    "finished": Stage(
        "nothing any more", "close_after_h",
        "the order is closed", answers=(), undone="nothing is left to undo",
    ),
}  # fmt: skip
"""Every state of an order has its row here; the first line of `stage_of` in the domain says which it is."""

QUIET_ROUNDS: Final = 3
"""A compensation is asked for this often before a person is told."""
DOUBLINGS_MAX: Final = 8
"""Of the distance between two tries of a compensation."""


def entered(process: Process, stage: str, now: datetime) -> Process:
    """The process at `stage`, since `now` if it was at another."""
    if process.stage == stage:
        return process
    return replace(process, stage=stage, entered_at=now if stage else None, rounds=0)


def deadline(process: Process, sale: SaleReported, lengths: Mapping[str, timedelta]) -> datetime | None:
    """When the process's stage has lasted too long; None where no clock of this row says so.

    `lengths` are the durations by the name of their setting. Orders that wait for a marketplace's money, and finished
    ones, have columns of their own.
    """
    if process.entered_at is None or process.stage in ("", "payment", "finished"):
        return None
    length = lengths[STAGES[process.stage].setting]
    if process.stage == "checkout":
        pending = [one.expires_at for one in process.payments if one.status == "pending" and one.expires_at]
        held = sale.checkout.hold_until if sale.checkout else None
        return max([*pending, held or process.entered_at]) + length * (process.rounds + 1)
    if STAGES[process.stage].alert == "compensate":
        # A refund may take days: it is asked for again at twice the distance each time, up to a day.
        often = min(process.rounds, DOUBLINGS_MAX)
        distances = (1 << (often + 1)) - 1 + ((process.rounds - often) << often)
        return process.entered_at + length * distances
    due = process.entered_at + length * (process.rounds + 1)
    if process.stage == "invoice" and sale.ship_by and not process.rounds:
        # Early enough for somebody to do something; not at once for an order that is late already.
        return max(min(due, sale.ship_by - lengths["ship_margin_h"]), process.entered_at + length / 24)
    return due


def overdue(process: Process, event: DeadlineDue) -> Process:
    """The process once the deadline of its stage has passed: one more round, and after the last one the default."""
    stage = STAGES[process.stage]
    process = replace(process, rounds=process.rounds + 1)
    if not stage.rounds or process.rounds < stage.rounds:
        return process
    match stage.default:
        case "short_default":
            return answered(process, event.short_default, person=False)
        case "decide":
            packed = any(parcel.packed or parcel.dispatched_at for parcel in process.parcels)
            return answered(process, "ship" if packed else "cancel", person=False)
        case default:
            return answered(process, default, person=False)


def answered(process: Process, answer: str, *, person: bool = True) -> Process:
    """The process once `answer` is given at its stage, by a person or as its default."""
    noted = replace(process, answers=(*process.answers, (process.stage, answer)))
    match answer:
        case "cancel":
            return replace(noted, cancel=noted.cancel or ("person" if person else _reason(process.stage)))
        case "expire":
            return replace(noted, cancel=noted.cancel or "payment_expired")
        case "lost":
            parcels = _written_off(process.parcels)
            # Its other parcels go on. Where none of ours is away, what its channel sent is lost, and all of it.
            return replace(process, parcels=parcels, cancel=process.cancel if parcels != process.parcels else "lost")
        case "refund":
            return replace(noted, payments=tuple(_by_hand(payment) for payment in process.payments))
        case _ if answer in (INVOICE_CANCELLED, INVOICE_CHECKED) and process.invoice:
            # Noted with the invoice: another one of the order has to be seen to by itself.
            return replace(process, answers=(*process.answers, (process.invoice.document_id, answer)))
        case _ if answer == PARCEL_SETTLED:
            return replace(process, answers=(*process.answers, ("parcel", answer)))
        case _ if answer == FREIGHT_BACK:
            return replace(process, answers=(*process.answers, ("freight", answer)))
        case "wait":
            return replace(process, rounds=0, stage="", entered_at=None) if person else process
        case _:
            return noted


def _written_off(parcels: tuple[Parcel, ...]) -> tuple[Parcel, ...]:
    """Parcels once those are given up that their carrier lost; all that are under way, where it has lost none."""
    away = [one for one in parcels if one.dispatched_at and one.delivered_at is None]
    lost = [one for one in away if one.lost] or away
    return tuple(replace(one, written_off=True) if one in lost else one for one in parcels)


def _by_hand(payment: Payment) -> Payment:
    """A payment once a person has given back outside what was asked for and not done; it is asked for no more."""
    missing_minor = max(0, payment.refund_minor - payment.refunded_minor)
    return replace(
        payment, by_hand_minor=payment.by_hand_minor + missing_minor, refund_minor=payment.refund_minor - missing_minor,
        let_go=True,
    )  # fmt: skip


def _reason(stage: str) -> str:
    return "sold_out" if stage == "short" else "person"


INVOICE_CANCELLED: Final = "invoice_cancelled"
"""A person's answer where an order was cancelled that has an invoice: that is cancelled now as well."""


INVOICE_CHECKED: Final = "invoice_checked"
"""A person's answer where an invoice could not be compared with its order, or differs: it was seen to."""


PARCEL_SETTLED: Final = "parcel_settled"
"""A person's answer where a parcel left though its channel cancelled the order: it was stopped, or is paid for."""


FREIGHT_BACK: Final = "freight_back"
"""A person's answer where an order came back whole, too late for its freight: its buyer has asked in time, which is
what the law counts, or is to have it anyway."""


def is_astray(process: Process) -> bool:
    """Whether goods of an order that its channel cancelled are away, until they came back or a person saw to them."""
    if process.answer("parcel") == PARCEL_SETTLED:
        return False
    back = came_back(process)
    return any(
        sum(places.values()) > sum(row.quantity for row in back.get(line, ()))
        for line, places in departed(process).items()
    )


def invoice_to_cancel(process: Process, *, cancelled: bool) -> Invoice | None:
    """The invoice of a cancelled order of which nothing left, until a person says that it is cancelled too.

    Only a person can: at the tax authority, within 24 hours of its issue (Ajuste SINIEF 7/2005, clause 12) and before
    the goods move. Later it takes another invoice that undoes it.
    """
    gone = any(one.dispatched_at for one in process.parcels)
    if not cancelled or gone or process.invoice is None:
        return None
    return None if process.answer(process.invoice.document_id) == INVOICE_CANCELLED else process.invoice


def concerns(process: Process, *, cancelled: bool) -> set[str]:
    """What a person should look at because of the process: kinds of alerts."""
    kinds: set[str] = set()
    if process.stage:
        stage = STAGES[process.stage]
        patience = QUIET_ROUNDS if stage.alert == "compensate" else 1
        kinds |= {stage.alert} if stage.alert and process.rounds >= patience else set()
    if any(one.held_minor or one.lost_minor for one in process.payments):
        kinds.add("dispute")
    if any(one.lost and not one.delivered_at and not one.written_off for one in process.parcels):
        kinds.add("lost")
    if any(one.open and one.reason for one in process.parcels):
        kinds.add("shipping")
    if invoice_to_cancel(process, cancelled=cancelled):
        kinds.add("cancel_invoice")
    if process.refused:
        kinds.add("telling")
    return kinds

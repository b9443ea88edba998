"""What is wanted of a payment, what its gateway was seen to have done, and the one next step between the two.

Commands are absolute and each field keeps its newest revision; what is seen is joined into what was seen before, so
that a copy, an older look or another order of arrival ends the same. No step is taken whose forerunner has an unknown
outcome: the gateway is looked at first, and what turns out not to have happened is done again under its first key.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeAlias, final

from contracts.payments.v1 import (
    AuthorizePayment,
    CapturePayment,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDisputed,
    PaymentFact,
    PaymentFailed,
    PaymentMethod,
    PaymentPending,
    PaymentRefunded,
    PaymentVoided,
    RefundPayment,
    VoidPayment,
)
from services.payments.ledger import Books, Movement, Sums, movements

Command: TypeAlias = AuthorizePayment | CapturePayment | VoidPayment | RefundPayment


class Kind(StrEnum):
    """What a gateway is asked to do. `open` charges nothing; `charge` may authorise or take the whole amount."""

    OPEN = "open"
    CHARGE = "charge"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"


class Outcome(StrEnum):
    """What became of a call. `going`: its row is there and no answer yet, the process may have died meanwhile.
    `again`: it is known not to have happened."""

    GOING = "going"
    DONE = "done"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    AGAIN = "again"


class Status(StrEnum):
    """How far a payment is at its gateway, in the order in which one overrules another."""

    OPEN = "open"
    PENDING = "pending"
    AUTHORIZED = "authorized"
    FAILED = "failed"
    VOIDED = "voided"
    CAPTURED = "captured"


class Part(StrEnum):
    """How far a refund or a dispute is: a refund ends `done` or `failed`, a dispute `won` or `lost`.

    `returned` is a refund that was done and failed afterwards, as where the buyer's account is closed: we have it back.
    """

    OPEN = "open"
    FAILED = "failed"
    DONE = "done"
    RETURNED = "returned"
    WON = "won"
    LOST = "lost"


AGE_SHARE: Final = 8
"""A captured payment is looked at again after this part of its age."""
REST_MAX: Final = 7
"""As many times the usual distance is the longest: a bank gives a week or more to answer a dispute."""

_STATUS_RANK: Final = {status: rank for rank, status in enumerate(Status)}
_PART_RANK: Final = {part: rank for rank, part in enumerate(Part)}


@final
@dataclass(frozen=True, slots=True)
class Portion:
    """One refund (by our id) or one dispute (by the gateway's): how much, and how far it is."""

    amount_minor: int
    part: Part


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """A payment as its gateway shows it. An answer may show a part of it: what is left out was seen before.

    `currency` is empty where the answer names none. `dispute_fees` are by the gateway's id of what it took, less than
    zero where it gave a fee back.
    """

    reference: str
    status: Status
    authorized_minor: int = 0
    captured_minor: int = 0
    refunds: Mapping[str, Portion] = field(default_factory=dict)
    disputes: Mapping[str, Portion] = field(default_factory=dict)
    fee_minor: int = 0
    reason: str = ""
    pix_text: str | None = None
    next_url: str | None = None
    currency: str = ""
    dispute_fees: Mapping[str, int] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """How the buyer chose to pay, as the newest AuthorizePayment says, and the account of ours it goes through.

    `account_id` is empty where the company has no account at that gateway.
    """

    revision: int
    connection_id: str
    method: PaymentMethod
    gateway: str
    account_id: str
    amount_minor: int
    currency: str
    expires_at: datetime


@final
@dataclass(frozen=True, slots=True)
class Want:
    """What is wanted in all. Each sum has the revision it was said at; a void is for good."""

    capture_minor: int = 0
    capture_revision: int = 0
    refund_minor: int = 0
    refund_revision: int = 0
    refund_reason: str = ""
    void_reason: str = ""
    void_revision: int = 0


@final
@dataclass(frozen=True, slots=True)
class Call:
    """The newest call of the gateway: the `n`th that was decided of its kind; done again, it keeps its number."""

    kind: Kind
    n: int
    amount_minor: int
    revision: int
    outcome: Outcome = Outcome.GOING


@final
@dataclass(frozen=True, slots=True)
class Pay:
    """A payment. Without a choice nothing is done yet: only its other commands have come."""

    order_id: str
    payment_id: str
    choice: Choice | None = None
    want: Want = Want()
    revision: int = 0
    seen: Seen | None = None
    call: Call | None = None
    charge_refused_revision: int = 0
    decided: Mapping[Kind, int] = field(default_factory=dict)
    closed: bool = False
    hinted: int = 0
    looked: int = 0
    version: int = 0

    @property
    def sums(self) -> Sums:
        """What was done in all."""
        if self.seen is None:
            return Sums()
        seen, disputes, fees = self.seen, self.seen.disputes.values(), self.seen.dispute_fees.values()
        return Sums(
            captured_minor=seen.captured_minor,
            refunded_minor=_total(seen.refunds.values(), Part.DONE, Part.RETURNED),
            refund_failed_minor=_total(seen.refunds.values(), Part.RETURNED),
            fee_minor=seen.fee_minor + sum(fee for fee in fees if fee > 0),
            fee_returned_minor=-sum(fee for fee in fees if fee < 0),
            disputed_minor=_total(disputes, *Part),
            won_minor=_total(disputes, Part.WON),
            lost_minor=_total(disputes, Part.LOST),
        )


def _total(portions: Iterable[Portion], *parts: Part) -> int:
    return sum(portion.amount_minor for portion in portions if portion.part in parts)


@final
@dataclass(frozen=True, slots=True)
class Look:
    """Next: see at the gateway what is true."""


@final
@dataclass(frozen=True, slots=True)
class Close:
    """Next: end the payment here, because nothing was taken by a gateway and nothing will be asked of one."""

    reason: str
    voided: bool


Step: TypeAlias = Call | Look | Close | None


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """A payment after a step, what to tell and what to book."""

    pay: Pay
    facts: tuple[PaymentFact, ...] = ()
    booked: tuple[Movement, ...] = ()


def command(pay: Pay | None, message: Command, account_id: str = "") -> Pay:
    """The payment after a command; the same where the command says nothing new.

    `account_id` is the company's live account at the gateway that an AuthorizePayment names, empty where it has none.
    """
    pay = pay or Pay(message.order_id, message.payment_id)
    want, revision = pay.want, message.revision
    match message:
        case AuthorizePayment():
            pay = _chosen(pay, message, account_id)
            want = pay.want
        case CapturePayment():
            want = _capture(want, message.captured_total_minor, revision)
        case VoidPayment() if not want.void_reason or revision < want.void_revision:
            want = replace(want, void_reason=message.reason, void_revision=revision)
        case RefundPayment():
            want = _capture(want, message.captured_total_minor, revision)
            if revision > want.refund_revision:
                want = replace(
                    want, refund_minor=message.refunded_total_minor, refund_revision=revision,
                    refund_reason=message.reason,
                )  # fmt: skip
    changed = replace(pay, want=want, revision=max(pay.revision, revision))
    return pay if changed == pay else changed


def _capture(want: Want, capture_minor: int, revision: int) -> Want:
    if revision <= want.capture_revision:
        return want
    return replace(want, capture_minor=capture_minor, capture_revision=revision)


def _chosen(pay: Pay, message: AuthorizePayment, account_id: str) -> Pay:
    before = pay.choice
    if before and message.revision <= before.revision:
        return pay
    choice = Choice(
        message.revision, message.connection_id, message.method, message.gateway, account_id, message.amount_minor,
        message.currency, message.expires_at,
    )  # fmt: skip
    if before is None or not pay.decided:
        return replace(pay, choice=choice)
    if _terms(choice) != _terms(before):
        # The gateway was asked on the old terms: this payment is let go of, and another try is another payment.
        reason = pay.want.void_reason or "changed"
        return replace(pay, want=replace(pay.want, void_reason=reason, void_revision=message.revision))
    if Kind.CHARGE in pay.decided:
        return pay
    return replace(pay, choice=replace(choice, account_id=before.account_id))


def _terms(choice: Choice) -> tuple[object, ...]:
    return choice.method, choice.gateway, choice.amount_minor, choice.currency


def hinted(pay: Pay) -> Pay:
    """The gateway says that something happened: it is to be looked at once more."""
    return replace(pay, hinted=pay.hinted + 1)


def next_call(pay: Pay, now: datetime) -> Step:
    """The one next step; None where there is nothing to do before something is heard or the clock has gone on."""
    choice, call = pay.choice, pay.call
    if choice is None or pay.closed:
        return None
    if call and call.outcome in (Outcome.GOING, Outcome.UNKNOWN):
        return Look()
    if pay.hinted > pay.looked:
        return Look()
    if pay.seen is None and not choice.account_id:
        return Close("no_gateway", voided=False)
    wanted = _wanted(pay, now)
    if wanted is None or isinstance(wanted, Close):
        return wanted
    kind, amount_minor = wanted
    if kind is Kind.CHARGE and pay.charge_refused_revision == pay.revision:
        # What cannot be charged is let go of, so that nobody can charge it later.
        kind, amount_minor = Kind.VOID, 0
    if call and call.kind is kind:
        if call.outcome is Outcome.REFUSED and call.revision == pay.revision:
            uncharged = pay.seen is None or pay.seen.status is Status.OPEN
            return Close("gateway", voided=False) if uncharged else None
        if _unseen(pay):
            return None
        # Under its first key a gateway would do what was wanted first, so another amount is another call.
        if call.outcome is Outcome.AGAIN and call.amount_minor == amount_minor:
            return replace(call, outcome=Outcome.GOING)
    return Call(kind, pay.decided.get(kind, 0) + 1, amount_minor, pay.revision)


def _wanted(pay: Pay, now: datetime) -> tuple[Kind, int] | Close | None:
    choice, want, seen = pay.choice, pay.want, pay.seen
    assert choice
    late = now >= choice.expires_at
    if seen is None:
        if want.void_reason:
            return Close(want.void_reason, voided=True)
        return Close("expired", voided=False) if late else (Kind.OPEN, choice.amount_minor)
    match seen.status:
        case Status.OPEN:
            return (Kind.VOID, 0) if want.void_reason or late else (Kind.CHARGE, choice.amount_minor)
        case Status.PENDING:
            return (Kind.VOID, 0) if want.void_reason or late else None
        case Status.AUTHORIZED:
            if want.void_reason:
                return Kind.VOID, 0
            capture_minor = min(want.capture_minor, seen.authorized_minor)
            return (Kind.CAPTURE, capture_minor) if capture_minor else None
        case Status.CAPTURED:
            given_minor = _total(seen.refunds.values(), Part.OPEN, Part.DONE)
            # What a bank took back, or holds until it has decided, is not ours to give.
            taken_minor = _total(seen.disputes.values(), Part.OPEN, Part.LOST)
            missing_minor = min(want.refund_minor, seen.captured_minor - taken_minor) - given_minor
            return (Kind.REFUND, missing_minor) if missing_minor > 0 and not _refund_failed(pay) else None
        case _:
            return None


def _refund_failed(pay: Pay) -> bool:
    """Whether the newest refund came to nothing: only a newer command tries again."""
    if not pay.call or pay.call.kind is not Kind.REFUND or not pay.seen or pay.call.revision < pay.revision:
        return False
    portion = pay.seen.refunds.get(refund_id(pay.payment_id, pay.call.n))
    return portion is not None and portion.part in (Part.FAILED, Part.RETURNED)


def _unseen(pay: Pay) -> bool:
    """Whether the gateway answered that the newest call is done, and does not show yet what it did."""
    call = pay.call
    if call is None or pay.seen is None or call.outcome is not Outcome.DONE:
        return False
    return not _settled(pay.payment_id, call, pay.seen)


def refund_id(payment_id: str, n: int) -> str:
    """Our id of the `n`th refund of a payment."""
    return f"{payment_id}:refund:{n}"


def key(payment_id: str, call: Call) -> str:
    """The idempotency key of a call: the same as often as this call is made."""
    return f"{payment_id}:{call.kind}:{call.n}"


def begun(pay: Pay, call: Call) -> Pay:
    """The payment once `call` is about to be made: to be stored before it is."""
    decided = {**pay.decided, call.kind: max(call.n, pay.decided.get(call.kind, 0))}
    return replace(pay, call=call, decided=decided)


def ended(pay: Pay, outcome: Outcome) -> Pay:
    """The payment after its call ended without an answer to see; what was refused is looked at, too."""
    assert pay.call
    changed = replace(pay, call=replace(pay.call, outcome=outcome))
    if outcome is not Outcome.REFUSED:
        return changed
    if pay.call.kind is Kind.CHARGE:
        changed = replace(changed, charge_refused_revision=pay.call.revision)
    return hinted(changed)


def saw(pay: Pay, seen: Seen | None, now: datetime, *, answer: bool = False, looked: int = 0) -> Decision:
    """What follows from what the gateway shows; `seen` is None where it knows no such payment.

    `answer`: this is the answer to the newest call, which is then done. Otherwise it was looked at, and `looked` is
    how many hints there were before: a call of unknown outcome is now known to be done, or is done again.
    """
    joined = _joined(pay.seen, seen) if seen else pay.seen
    call = pay.call
    if call and call.outcome in (Outcome.GOING, Outcome.UNKNOWN):
        done = answer or (joined is not None and _settled(pay.payment_id, call, joined))
        call = replace(call, outcome=Outcome.DONE if done else Outcome.AGAIN)
    after = replace(pay, seen=joined, call=call, looked=max(pay.looked, looked))
    return _told(pay, after, now)


def strange(pay: Pay, seen: Seen) -> str:
    """Why what a gateway shows is no answer about this payment; empty where it is one.

    Less than was asked for may be captured, but whoever authorises another sum or currency means something else.
    """
    assert pay.choice
    if pay.seen and pay.seen.reference != seen.reference:
        return "it shows another payment"
    if seen.currency not in ("", pay.choice.currency):
        return "it shows another currency"
    if seen.status is Status.AUTHORIZED and seen.authorized_minor != pay.choice.amount_minor:
        return "it shows another amount"
    return ""


def _settled(payment_id: str, call: Call, seen: Seen) -> bool:
    match call.kind:
        case Kind.OPEN:
            return True
        case Kind.CHARGE:
            return seen.status is not Status.OPEN
        case Kind.CAPTURE:
            return seen.captured_minor > 0
        case Kind.VOID:
            return seen.status in (Status.VOIDED, Status.FAILED, Status.CAPTURED)
        case Kind.REFUND:
            return refund_id(payment_id, call.n) in seen.refunds


def _joined(before: Seen | None, seen: Seen) -> Seen:
    if before is None:
        return seen
    newer = _STATUS_RANK[seen.status] >= _STATUS_RANK[before.status]
    return Seen(
        reference=before.reference or seen.reference,
        status=seen.status if newer else before.status,
        authorized_minor=max(before.authorized_minor, seen.authorized_minor),
        captured_minor=max(before.captured_minor, seen.captured_minor),
        refunds=_furthest(before.refunds, seen.refunds),
        disputes=_furthest(before.disputes, seen.disputes),
        fee_minor=max(before.fee_minor, seen.fee_minor),
        reason=(seen.reason or before.reason) if newer else before.reason,
        pix_text=before.pix_text or seen.pix_text,
        next_url=before.next_url or seen.next_url,
        dispute_fees={**before.dispute_fees, **seen.dispute_fees},
    )


def _furthest(before: Mapping[str, Portion], seen: Mapping[str, Portion]) -> dict[str, Portion]:
    joined = dict(before)
    for name, portion in seen.items():
        if name not in joined:
            joined[name] = portion
        elif {portion.part, joined[name].part} == {Part.DONE, Part.FAILED}:
            joined[name] = replace(portion, part=Part.RETURNED)
        elif _PART_RANK[portion.part] > _PART_RANK[joined[name].part]:
            joined[name] = portion
    return joined


def close(pay: Pay, step: Close, now: datetime) -> Decision:
    """The payment ended whatever its gateway has of it: voided or failed."""
    kind: Any = PaymentVoided if step.voided else PaymentFailed
    more: dict[str, Any] = {"reason": step.reason} if step.voided else {"reason": step.reason, "final": True}
    after = replace(pay, closed=True, version=pay.version + 1)
    return Decision(after, (kind(**_base(after, now), **more),))


def _base(pay: Pay, now: datetime) -> dict[str, Any]:
    choice, sums = pay.choice, pay.sums
    assert choice
    return {
        "order_id": pay.order_id, "payment_id": pay.payment_id, "version": pay.version,
        "connection_id": choice.connection_id, "method": choice.method, "gateway": choice.gateway,
        "reference": pay.seen.reference if pay.seen else "", "currency": choice.currency,
        "amount_minor": choice.amount_minor, "authorized_minor": pay.seen.authorized_minor if pay.seen else 0,
        "captured_minor": sums.captured_minor, "refunded_minor": sums.given_back_minor, "at": now,
    }  # fmt: skip


def _told(before: Pay, after: Pay, now: datetime) -> Decision:
    choice = after.choice
    assert choice
    facts: list[PaymentFact] = []
    pay = after
    for kind, more in _news(before, after, now):
        pay = replace(pay, version=pay.version + 1)
        facts.append(kind(**_base(pay, now), **more))
    books = Books.of(pay.order_id, choice.gateway, choice.account_id)
    booked = movements(pay.payment_id, books, choice.currency, before.sums, pay.sums)
    return Decision(pay, tuple(facts), booked)


def _news(before: Pay, after: Pay, at: datetime) -> Iterable[tuple[type[Any], dict[str, Any]]]:
    was, now, choice, want = before.seen, after.seen, after.choice, after.want
    if now is None or choice is None:
        return
    moved = was is None or was.status is not now.status
    old, new = before.sums, after.sums
    if moved and now.status is Status.PENDING:
        more = {"expires_at": choice.expires_at, "pix_text": now.pix_text, "next_url": now.next_url}
        yield PaymentPending, more
    if moved and now.status is Status.AUTHORIZED:
        yield PaymentAuthorized, {}
    if new.captured_minor > old.captured_minor:
        yield PaymentCaptured, {}
    if moved and now.status is Status.FAILED:
        yield PaymentFailed, {"reason": now.reason or "gateway", "final": True}
    if moved and now.status is Status.VOIDED:
        if want.void_reason and want.void_reason != "changed":
            yield PaymentVoided, {"reason": want.void_reason}
        else:
            late = at >= choice.expires_at
            yield PaymentFailed, {"reason": want.void_reason or ("expired" if late else "gateway"), "final": True}
    if new.given_back_minor != old.given_back_minor:
        failed = new.given_back_minor < old.given_back_minor
        yield PaymentRefunded, {"reason": "refund_failed" if failed else want.refund_reason or "gateway"}
    if (new.disputed_minor, new.won_minor, new.lost_minor) != (old.disputed_minor, old.won_minor, old.lost_minor):
        held_minor = new.disputed_minor - new.won_minor - new.lost_minor
        reason = "lost" if new.lost_minor > old.lost_minor else "won" if new.won_minor > old.won_minor else "opened"
        yield PaymentDisputed, {"reason": reason, "disputed_minor": held_minor, "lost_minor": new.lost_minor}


def waits(pay: Pay) -> bool:
    """Whether its gateway alone knows when this payment goes on: it is looked at now and then, hint or not."""
    if pay.closed or pay.choice is None or pay.seen is None:
        return False
    refunding = any(portion.part is Part.OPEN for portion in pay.seen.refunds.values())
    return refunding or pay.seen.status is Status.PENDING or _unseen(pay)


def look_at(pay: Pay, now: datetime, every: timedelta, disputable: timedelta) -> datetime | None:
    """When a payment at rest is looked at, whether or not a webhook has told of it; None where nothing can come of it.

    Banks let go of what is not captured in time, and buyers dispute what was, up to `disputable` after they paid. What
    is authorised or in dispute is looked at `every` so often, what is captured less often the older it is.
    """
    choice, seen = pay.choice, pay.seen
    if pay.closed or choice is None or seen is None:
        return None
    if seen.status is Status.AUTHORIZED or any(one.part is Part.OPEN for one in seen.disputes.values()):
        return now + every
    age = now - choice.expires_at
    if seen.status is not Status.CAPTURED or age > disputable:
        return None
    return now + min(max(every, age / AGE_SHARE), every * REST_MAX)


def concern(pay: Pay) -> str | None:
    """What a person has to see to, in a word; None where all is well."""
    choice, seen, sums, call = pay.choice, pay.seen, pay.sums, pay.call
    if choice is None or seen is None or pay.closed:
        return None
    if sums.disputed_minor > sums.won_minor + sums.lost_minor:
        return "disputed"
    if sums.captured_minor and sums.captured_minor not in (choice.amount_minor, pay.want.capture_minor):
        return "another_amount"
    if _refund_failed(pay):
        return "refund_failed"
    refused = call is not None and call.outcome is Outcome.REFUSED and call.revision == pay.revision
    return "refused" if refused and call and not _settled(pay.payment_id, call, seen) else None


def due(pay: Pay, now: datetime, look_every: timedelta) -> datetime | None:
    """When there is something to do next; None where only a command or a hint can bring something."""
    if next_call(pay, now) is not None:
        return now
    if not waits(pay):
        return None
    expires_at = pay.choice.expires_at if pay.choice else now
    return min(now + look_every, expires_at) if expires_at > now else now + look_every

"""Commands as orders sends them, and a gateway that keeps books and can misbehave at every call."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from contracts.payments.v1 import (
    AuthorizePayment,
    CapturePayment,
    PaymentMethod,
    RefundPayment,
    VoidPayment,
)
from services.payments.domain import Kind, Part, Portion, Seen, Status, refund_id

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=15)
ORDER, PAYMENT, ACCOUNT = "order-a", "order-a:p1", "account-1"
AMOUNT = 10_000


def authorize(revision: int = 1, **more: Any) -> AuthorizePayment:
    given: dict[str, Any] = {
        "order_id": ORDER, "payment_id": PAYMENT, "revision": revision, "connection_id": "shop",
        "method": PaymentMethod.CARD, "gateway": "model", "token": "pm_1", "amount_minor": AMOUNT,
        "currency": "BRL", "expires_at": LATER,
    }  # fmt: skip
    return AuthorizePayment(**given | more)


def capture(revision: int = 2, total_minor: int = AMOUNT, **more: Any) -> CapturePayment:
    given = {"order_id": ORDER, "payment_id": PAYMENT, "revision": revision} | more
    return CapturePayment(**given, captured_total_minor=total_minor, currency="BRL")


def void(revision: int = 2, **more: Any) -> VoidPayment:
    given = {"order_id": ORDER, "payment_id": PAYMENT, "revision": revision} | more
    return VoidPayment(**given, reason="cancelled")


def refund(revision: int = 3, total_minor: int = AMOUNT, captured_minor: int = AMOUNT, **more: Any) -> RefundPayment:
    given = {"order_id": ORDER, "payment_id": PAYMENT, "revision": revision} | more
    return RefundPayment(
        **given, captured_total_minor=captured_minor, refunded_total_minor=total_minor, currency="BRL",
        reason="returned",
    )  # fmt: skip


class Refusal(Exception):
    """The model gateway refuses a call in its present state."""


@dataclass
class ModelGateway:
    """A gateway's books: what every payment is, every key it has seen, and how often money was really moved."""

    seen: dict[str, Seen] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    moved: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    declines: bool = False
    refunds_pend: bool = False

    def execute(self, payment_id: str, kind: Kind, n: int, amount_minor: int, key: str) -> Seen:
        """Do it once a key; raises `Refusal` where the state forbids it."""
        if key in self.keys:
            return self.seen[payment_id]
        now = self._after(payment_id, kind, n, amount_minor)
        self.keys.add(key)
        self.moved[payment_id, kind] += 1
        self.seen[payment_id] = now
        return now

    def _after(self, payment_id: str, kind: Kind, n: int, amount_minor: int) -> Seen:
        if kind is Kind.OPEN:
            return Seen(f"ref-{payment_id}", Status.OPEN)
        was = self.seen[payment_id]
        status, refunds = was.status, dict(was.refunds)
        authorized_minor, captured_minor, reason = was.authorized_minor, was.captured_minor, ""
        match kind, status:
            case Kind.CHARGE, Status.OPEN if self.declines:
                status, reason = Status.FAILED, "declined"
            case Kind.CHARGE, Status.OPEN:
                status, authorized_minor = Status.AUTHORIZED, amount_minor
            case Kind.CAPTURE, Status.AUTHORIZED:
                status, captured_minor = Status.CAPTURED, amount_minor
            case Kind.VOID, Status.OPEN | Status.PENDING | Status.AUTHORIZED:
                status = Status.VOIDED
            case Kind.REFUND, Status.CAPTURED:
                part = Part.OPEN if self.refunds_pend else Part.DONE
                refunds[refund_id(payment_id, n)] = Portion(amount_minor, part)
            case _:
                raise Refusal(f"{kind} of a payment that is {status}")
        return Seen(was.reference, status, authorized_minor, captured_minor, refunds, was.disputes, reason=reason)

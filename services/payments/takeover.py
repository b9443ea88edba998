"""What a marketplace took of its buyers, read from what orders says: told as a payment, and booked. Pure.

No gateway of ours is asked. A marketplace keeps what its buyer owes once the order is paid, and gives back what the
order is owed less: so every fact is a snapshot, and a copy or an older one changes nothing.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias, final

from contracts.channels.v1 import PaymentCollector
from contracts.orders.v1 import (
    OrderCancelled,
    OrderChanged,
    OrderClosed,
    OrderDelivered,
    OrderPaid,
    OrderPlaced,
    OrderReturned,
)
from contracts.payments.v1 import PaymentMethod, PaymentTakenOver
from services.payments.ledger import Movement

OrderHeard: TypeAlias = (
    OrderPlaced | OrderPaid | OrderChanged | OrderCancelled | OrderDelivered | OrderReturned | OrderClosed
)


@final
@dataclass(frozen=True, slots=True)
class Taken:
    """An order whose marketplace takes the money. Sums are in minor units of `currency`, empty while none was said.

    What it took and what it gave back each only grow; the difference is what it keeps for us.
    """

    connection_id: str
    order_version: int = 0
    currency: str = ""
    paid: bool = False
    due_minor: int = 0
    captured_minor: int = 0
    refunded_minor: int = 0
    version: int = 0

    @property
    def kept_minor(self) -> int:
        """What the marketplace has of the buyer's money."""
        return self.captured_minor - self.refunded_minor


def heard(taken: Taken | None, fact: OrderHeard) -> Taken | None:
    """The order after a fact; None where it is not for a marketplace to take its money, or was never seen placed."""
    if taken is None:
        if not isinstance(fact, OrderPlaced) or fact.payment_by is not PaymentCollector.CHANNEL:
            return None
        taken = Taken(fact.connection_id)
    if fact.version <= taken.order_version:
        return taken
    due_minor = fact.due_minor
    if due_minor is None:
        match fact:
            case OrderPlaced():
                due_minor = max(0, fact.total_minor)
            case OrderCancelled():
                due_minor = 0
            case _:
                due_minor = taken.due_minor
    paid = taken.paid or isinstance(fact, OrderPaid) or (isinstance(fact, OrderPlaced) and fact.paid)
    now = replace(
        taken,
        order_version=fact.version,
        currency=fact.currency or taken.currency,
        paid=paid,
        due_minor=due_minor,
    )
    more_minor = due_minor - now.kept_minor if paid and now.currency else 0
    now = replace(
        now,
        captured_minor=now.captured_minor + max(0, more_minor),
        refunded_minor=now.refunded_minor + max(0, -more_minor),
    )
    return replace(now, version=taken.version + 1) if _sums(now) != _sums(taken) else now


def _sums(taken: Taken) -> tuple[int, int]:
    return taken.captured_minor, taken.refunded_minor


def told(order_id: str, taken: Taken, at: datetime) -> PaymentTakenOver:
    """The fact about it."""
    return PaymentTakenOver(
        order_id=order_id,
        payment_id=f"{order_id}:channel",
        version=taken.version,
        connection_id=taken.connection_id,
        method=PaymentMethod.CHANNEL,
        gateway="channel",
        currency=taken.currency,
        amount_minor=taken.due_minor,
        authorized_minor=taken.captured_minor,
        captured_minor=taken.captured_minor,
        refunded_minor=taken.refunded_minor,
        at=at,
    )


def booked(order_id: str, before: Taken | None, after: Taken) -> tuple[Movement, ...]:
    """What to book: the buyer's money is at the channel, until it pays out."""
    was = _sums(before) if before else (0, 0)
    customer, channel = f"customer:{order_id}", f"channel:{after.connection_id}"
    entries = (
        ("captured", customer, channel, was[0], after.captured_minor),
        ("refunded", channel, customer, was[1], after.refunded_minor),
    )
    return tuple(
        Movement(f"{order_id}:channel:{name}:{now}", giver, taker, after.currency, now - then)
        for name, giver, taker, then, now in entries
        if now > then
    )

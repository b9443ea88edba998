"""What a fact means in the journal: units and money that were not there before it. Pure.

Facts say what is true in all; the journal says what changed, so that it can be summed. Over the rows `sale`, `cancel`
and `return` of an order the amounts add up to what its buyer owes; over `payment` and `refund`, to what was kept; over
`invoice`, to the one that stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import NamedTuple, TypeAlias

from contracts.fulfillment.v1 import ShipmentDispatched
from contracts.inventory.v1 import AccountRef, ItemChanged, MovementRecorded, PutItem
from contracts.orders.v1 import (
    OrderCancelled,
    OrderChanged,
    OrderClosed,
    OrderDelivered,
    OrderLine,
    OrderOwing,
    OrderPaid,
    OrderPlaced,
    OrderReturned,
    OrderShipped,
)
from contracts.payments.v1 import PaymentCaptured, PaymentDisputed, PaymentRefunded, PaymentTakenOver

OrderHeard: TypeAlias = (
    OrderPlaced
    | OrderPaid
    | OrderChanged
    | OrderCancelled
    | OrderShipped
    | OrderDelivered
    | OrderReturned
    | OrderClosed
)
PaymentHeard: TypeAlias = PaymentCaptured | PaymentRefunded | PaymentDisputed | PaymentTakenOver


class Row(NamedTuple):
    """A row of the journal. `line` makes it unique within its event; empty: what no line of an order accounts for.

    `quantity` is in units of `sku`; `amount_minor` is signed, positive towards us, None where no sum was said.
    `reference` is the id of what it is about: order, payment, shipment, document or movement.
    """

    kind: str
    order_id: str
    reference: str
    line: str = ""
    sku: str = ""
    quantity: int | None = None
    amount_minor: int | None = None
    currency: str = ""
    from_account: str = ""
    to_account: str = ""


class Line(NamedTuple):
    """Units of an order line and what they are worth in minor units of the order's currency."""

    sku: str
    quantity: int
    value_minor: int


@dataclass(frozen=True, slots=True)
class Order:
    """An order as the journal knows it. `currency` is empty while no sum was said, `left_at` until its goods left."""

    connection_id: str
    external_id: str
    version: int = 0
    currency: str = ""
    due_minor: int = 0
    cancelled: bool = False
    standing: Mapping[str, Line] = field(default_factory=dict)
    returned: Mapping[str, Line] = field(default_factory=dict)
    left_at: datetime | None = None

    @property
    def is_unpriced(self) -> bool:
        """Whether the sale names no price, in its sum or in any line."""
        ended = self.cancelled or self.returned
        return not (ended or self.due_minor or any(line.value_minor for line in self.standing.values()))


class Sale(NamedTuple):
    """An order whose goods have left, as other systems book it. `total_minor` is what it came to, freight included."""

    order_id: str
    connection_id: str
    currency: str
    total_minor: int
    left_on: date
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Payment:
    """The sums of a payment as the journal knows them, in minor units."""

    version: int = 0
    captured_minor: int = 0
    refunded_minor: int = 0
    lost_minor: int = 0


def take(order: Order | None, fact: OrderHeard) -> tuple[Order | None, list[Row]]:
    """The order after `fact` and the rows it makes.

    A fact that is not newer changes nothing, and neither does one about an order whose placing was never heard of.
    """
    if order is None:
        if not isinstance(fact, OrderPlaced):
            return None, []
        order = Order(fact.connection_id, fact.external_id)
    if fact.version <= order.version:
        return order, []
    said = fact if isinstance(fact, OrderOwing) else None
    currency = (said and said.currency) or order.currency
    due_minor = said.due_minor if said else None
    standing, returned, kind = order.standing, order.returned, ""
    match fact:
        case OrderPlaced():
            standing, kind = _lines(fact.lines), "sale"
            due_minor = fact.total_minor if due_minor is None else due_minor
        case OrderChanged():
            standing, kind = _lines(fact.lines), "cancel"
        case OrderCancelled():
            standing, kind = {}, "cancel"
        case OrderReturned():
            returned, kind = _lines(fact.lines), "return"
    rows = [_sold(change) for change in _changes(order.standing, standing)]
    rows += [_came_back(change) for change in _changes(order.returned, returned)]
    rest = 0
    if currency and due_minor is not None:
        rest = due_minor - order.due_minor - sum(row.amount_minor or 0 for row in rows)
    if rest:
        if kind in ("", "cancel"):
            kind = "sale" if rest > 0 else "cancel"  # An order grows too, by freight that the buyer chose late.
        rows.append(Row(kind, "", "", amount_minor=rest))
    if not currency:
        rows = [row._replace(amount_minor=None) for row in rows]
    order = replace(
        order,
        version=fact.version,
        currency=currency,
        due_minor=order.due_minor + sum(row.amount_minor or 0 for row in rows),
        cancelled=order.cancelled or isinstance(fact, OrderCancelled),
        standing=standing,
        returned=returned,
        left_at=order.left_at or (fact.at if isinstance(fact, OrderShipped | OrderDelivered) else None),
    )
    return order, [row._replace(order_id=fact.order_id, reference=fact.order_id, currency=currency) for row in rows]


def _lines(lines: tuple[OrderLine, ...]) -> dict[str, Line]:
    return {
        one.line_id: Line(one.sku or "", one.quantity, one.unit_price_minor * one.quantity - one.discount_minor)
        for one in lines
    }


def _changes(before: Mapping[str, Line], now: Mapping[str, Line]) -> list[tuple[str, Line]]:
    """Per line that differs what was added to it, below zero where it was taken off."""
    changes = []
    for line_id in sorted(before.keys() | now.keys()):
        old, new = before.get(line_id), now.get(line_id)
        sku = (new or old or Line("", 0, 0)).sku
        units = (new.quantity if new else 0) - (old.quantity if old else 0)
        value_minor = (new.value_minor if new else 0) - (old.value_minor if old else 0)
        if units or value_minor:
            changes.append((line_id, Line(sku, units, value_minor)))
    return changes


def _sold(change: tuple[str, Line]) -> Row:
    line_id, line = change
    kind = "sale" if (line.quantity, line.value_minor) > (0, 0) else "cancel"
    return Row(kind, "", "", f"sold:{line_id}", line.sku, abs(line.quantity), line.value_minor)


def _came_back(change: tuple[str, Line]) -> Row:
    line_id, line = change
    return Row("return", "", "", f"returned:{line_id}", line.sku, line.quantity, -line.value_minor)


def sale_of(order_id: str, order: Order, utc_offset: timedelta) -> Sale | None:
    """The order as a sale, whatever came back since; None: its goods have not left. Days begin at `utc_offset`."""
    if order.left_at is None:
        return None
    total_minor = order.due_minor + sum(line.value_minor for line in order.returned.values())
    lines = tuple(line for _, line in sorted(order.standing.items()))
    return Sale(order_id, order.connection_id, order.currency, total_minor, (order.left_at + utc_offset).date(), lines)


def item_wanted(known: ItemChanged | None, code: str, name: str, *, active: bool) -> PutItem | None:
    """The command that makes an item what the ERP says of it; None where it is so, or is not worth beginning.

    The rest of an item is Saldo's own and stays. Raises `ValueError` where an item cannot be that.
    """
    if known is None:
        return PutItem(sku=code, name=name, active=True) if active else None
    if (known.name, known.active) == (name, active):
        return None
    own = known.model_dump(include=set(PutItem.model_fields) - {"name", "active"})
    return PutItem(name=name, active=active, **own)


def pay(payment: Payment | None, fact: PaymentHeard) -> tuple[Payment, list[Row]]:
    """The payment after `fact` and the rows it makes: money taken, given back, and lost in disputes."""
    before = payment or Payment()
    if fact.version <= before.version:
        return before, []
    lost_minor = fact.lost_minor if isinstance(fact, PaymentDisputed) else before.lost_minor
    now = Payment(fact.version, fact.captured_minor, fact.refunded_minor, lost_minor)
    changes = (
        ("payment", "captured", now.captured_minor - before.captured_minor),
        ("refund", "refunded", before.refunded_minor - now.refunded_minor),
        ("refund", "disputed", before.lost_minor - now.lost_minor),
    )
    rows = [
        Row(kind, fact.order_id, fact.payment_id, line, amount_minor=change_minor, currency=fact.currency)
        for kind, line, change_minor in changes
        if change_minor
    ]
    return now, rows


def ship(fact: ShipmentDispatched) -> list[Row]:
    """What left with a shipment."""
    return [
        Row("shipment", fact.order_id, fact.shipment_id, line.line_id, line.sku, line.quantity) for line in fact.lines
    ]


def move(fact: MovementRecorded) -> Row:
    """A movement of stock, with the order whose line it went to, if any."""
    order_id = fact.line.partition("/")[0]
    accounts = _account(fact.from_account), _account(fact.to_account)
    return Row("movement", order_id, fact.movement_id, "", fact.sku, fact.quantity, None, "", *accounts)


def _account(account: AccountRef) -> str:
    return f"{account.location}/{account.pool}/{account.state.value}"

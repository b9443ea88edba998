"""What the services said of every order's way: paid, invoiced, packed, sent, delivered, given back. Pure."""

from dataclasses import dataclass, field
from typing import Final

from contracts.crm.v1 import CustomerIdentified, CustomersMerged
from contracts.envelope import Message
from contracts.erp.v1 import InvoiceIssued
from contracts.fulfillment.v1 import (
    LabelCreated,
    ReturnReceived,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentFact,
    ShipmentFailed,
    ShipmentPrepared,
)
from contracts.orders.v1 import (
    OrderCancelled,
    OrderChanged,
    OrderClosed,
    OrderConfirmed,
    OrderDelivered,
    OrderFact,
    OrderInvoiced,
    OrderOwing,
    OrderPaid,
    OrderPlaced,
    OrderReturned,
    OrderShort,
)
from contracts.payments.v1 import PaymentFact, PaymentTakenOver

ENDS: Final = (OrderDelivered, OrderCancelled, OrderReturned, OrderClosed)


@dataclass(slots=True)
class Parcel:
    """The newest fact of each kind about one shipment."""

    facts: dict[type[ShipmentFact], ShipmentFact] = field(default_factory=dict)

    def add(self, fact: ShipmentFact) -> None:
        """Take a fact in, whatever order they come in."""
        known = self.facts.get(type(fact))
        if known is None or known.version < fact.version:
            self.facts[type(fact)] = fact

    @property
    def dispatched(self) -> ShipmentDispatched | None:
        """The fact that it left, if it did."""
        fact = self.facts.get(ShipmentDispatched)
        assert fact is None or isinstance(fact, ShipmentDispatched)
        return fact


@dataclass(slots=True)
class Journey:
    """One order: the facts about it, its payments by id, its parcels by shipment, its invoices, what came back."""

    facts: dict[int, OrderFact] = field(default_factory=dict)
    payments: dict[str, PaymentFact] = field(default_factory=dict)
    parcels: dict[str, Parcel] = field(default_factory=dict)
    invoices: list[InvoiceIssued] = field(default_factory=list)
    returns: dict[str, ReturnReceived] = field(default_factory=dict)

    @property
    def placed(self) -> OrderPlaced | None:
        """How the order began; None where only others spoke of it."""
        return next((fact for fact in self.facts.values() if isinstance(fact, OrderPlaced)), None)

    @property
    def newest(self) -> OrderFact | None:
        """What orders said last."""
        return self.facts[max(self.facts)] if self.facts else None

    @property
    def ended(self) -> bool:
        """Whether the order has come to one of its ends. An invoice that is heard of only then is no way back."""
        said = [fact for _, fact in sorted(self.facts.items()) if not isinstance(fact, OrderInvoiced)]
        return bool(said) and isinstance(said[-1], ENDS)

    @property
    def waits_for_stock(self) -> bool:
        """Whether units are missing: the order stands until stock comes or a person decides. Its being paid meanwhile,
        or asked for less, says nothing of that."""
        said = [fact for _, fact in sorted(self.facts.items()) if not isinstance(fact, OrderPaid | OrderChanged)]
        return bool(said) and isinstance(said[-1], OrderShort)

    @property
    def owing(self) -> OrderOwing | None:
        """The fact that said last what the buyer owes in all; None: it was never said."""
        owed = [fact for _, fact in sorted(self.facts.items()) if isinstance(fact, OrderOwing)]
        return next((fact for fact in reversed(owed) if fact.due_minor is not None), None)

    @property
    def due_minor(self) -> int | None:
        """What that was, minor units."""
        return self.owing.due_minor if self.owing else None

    @property
    def ours(self) -> list[PaymentFact]:
        """Payments through gateways of ours."""
        return [fact for fact in self.payments.values() if not isinstance(fact, PaymentTakenOver)]

    def sale_to_label_ms(self, paid_ms: int) -> float | None:
        """From the sale, or from its being paid (`paid_ms`) where that was later, to the label of its last parcel,
        milliseconds; None where there is none."""
        labels = [fact.at for parcel in self.parcels.values() if (fact := parcel.facts.get(LabelCreated))]
        if not labels or self.placed is None:
            return None
        return max(labels).timestamp() * 1000 - max(self.placed.sold_at.timestamp() * 1000, paid_ms)


@dataclass(slots=True)
class Journeys:
    """Every order by id, and what crm said. Facts may come in any order, and more than once.

    `confirmed`, `changed`, `labelled` and `delivered` only grow, in the order of what was heard: people follow them.
    """

    by_order: dict[str, Journey] = field(default_factory=dict)
    confirmed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    labelled: list[LabelCreated] = field(default_factory=list)
    delivered: list[ShipmentDelivered] = field(default_factory=list)
    customers: set[str] = field(default_factory=set)
    merges: set[tuple[str, str]] = field(default_factory=set)
    payment_kinds: dict[str, set[str]] = field(default_factory=dict)

    def add(self, message: Message) -> None:
        """Take one fact in; what is none of an order's way is left alone."""
        match message:
            case OrderFact():
                self._journey(message.order_id).facts[message.version] = message
                if isinstance(message, OrderConfirmed):
                    self.confirmed.append(message.order_id)
                if isinstance(message, OrderChanged):
                    self.changed.append(message.order_id)
            case PaymentFact():
                known = self._journey(message.order_id).payments.get(message.payment_id)
                if known is None or known.version < message.version:
                    self._journey(message.order_id).payments[message.payment_id] = message
                self.payment_kinds.setdefault(type(message).__name__, set()).add(message.payment_id)
            case ShipmentFact():
                parcels = self._journey(message.order_id).parcels
                parcels.setdefault(message.shipment_id, Parcel()).add(message)
                if isinstance(message, LabelCreated):
                    self.labelled.append(message)
                if isinstance(message, ShipmentDelivered):
                    self.delivered.append(message)
            case ReturnReceived():
                returns = self._journey(message.order_id).returns
                if message.return_id not in returns or returns[message.return_id].version < message.version:
                    returns[message.return_id] = message
            case InvoiceIssued():
                self._journey(message.order_id).invoices.append(message)
            case CustomerIdentified():
                self.customers.add(message.customer_id)
            case CustomersMerged():
                self.merges.add((message.customer_id, message.merged_customer_id))
            case _:
                pass

    @property
    def is_over(self) -> bool:
        """Whether every order has come to an end, or waits for stock that nobody has."""
        return all(one.ended or one.waits_for_stock for one in self.by_order.values())

    def _journey(self, order_id: str) -> Journey:
        return self.by_order.setdefault(order_id, Journey())

    def parcels(self, kind: type[ShipmentFact]) -> int:
        """How many shipments a fact of this kind was said of."""
        return sum(kind in parcel.facts for one in self.by_order.values() for parcel in one.parcels.values())

    @property
    def parcel_counts(self) -> dict[str, int]:
        """Shipments by how far they came."""
        return {
            "prepared": self.parcels(ShipmentPrepared),
            "labelled": self.parcels(LabelCreated),
            "dispatched": self.parcels(ShipmentDispatched),
            "delivered": self.parcels(ShipmentDelivered),
            "cancelled": self.parcels(ShipmentCancelled),
            "failed": self.parcels(ShipmentFailed),
        }

    @property
    def payment_counts(self) -> dict[str, int]:
        """Payments of which each was said at any time; `taken_over` are those that marketplaces collected."""
        names = {
            "pending": "PaymentPending",
            "authorized": "PaymentAuthorized",
            "captured": "PaymentCaptured",
            "refunded": "PaymentRefunded",
            "failed": "PaymentFailed",
            "voided": "PaymentVoided",
            "disputed": "PaymentDisputed",
            "taken_over": "PaymentTakenOver",
        }
        return {key: len(self.payment_kinds.get(name, ())) for key, name in names.items()}

    @property
    def return_counts(self) -> dict[str, int]:
        """Returns that came in, and their units by what they lie as."""
        lines = [line for one in self.by_order.values() for back in one.returns.values() for line in back.lines]
        return {
            "received": sum(len(one.returns) for one in self.by_order.values()),
            "available": sum(line.quantity for line in lines if line.state.value == "available"),
            "damaged": sum(line.quantity for line in lines if line.state.value == "damaged"),
        }

"""The catalogue: every message with its type name, stream and key; every stream with its owner, partitions, retention.

`CATALOGUE` is the whole of what the services say. Topics are created from it, AsyncAPI and the JSON Schemas are
generated from it, and the bus refuses to publish what is not in it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from contracts.channels import v1 as channels
from contracts.crm import v1 as crm
from contracts.envelope import Message
from contracts.erp import v1 as erp
from contracts.fulfillment import v1 as fulfillment
from contracts.inventory import v1 as inventory
from contracts.orders import v1 as orders
from contracts.payments import v1 as payments

SINCE_FIRST: Final = "0.1.0"


class StreamKind(StrEnum):
    """Facts are kept as history; a state stream carries absolute state, latest (epoch, version) wins."""

    FACTS = "facts"
    STATE = "state"
    COMMANDS = "commands"


@dataclass(frozen=True, slots=True)
class Stream:
    """A topic. Its key is `tenant:aggregate`, so that everything about one aggregate stays in order.

    `retention_h` and `segment_h` are hours; a segment is never longer than a day, because an active segment outlives
    its retention. `personal` marks a stream that may carry personal data; `readers` are the services that may read it
    (empty: all). `urgent` marks one on the way from a sale to the numbers that other channels show: in a rush it is
    sent before the others.
    """

    name: str
    owner: str
    kind: StreamKind
    retention_h: int
    summary: str
    partitions: int = 6
    segment_h: int = 24
    personal: bool = False
    readers: tuple[str, ...] = ()
    urgent: bool = False

    @property
    def major(self) -> int:
        """The major version that the topic's name ends in."""
        return int(self.name.rsplit(".v", 1)[1])


@dataclass(frozen=True, slots=True)
class MessageType:
    """One major version of one message.

    `key` names the fields whose values, joined by `:`, are the aggregate. `upcast` turns this version into the next
    major; `downcast` turns the next major into this one while both are still published.
    """

    model: type[Message]
    stream: Stream
    key: tuple[str, ...]
    since: str = SINCE_FIRST
    upcast: Callable[[Any], Message] | None = None
    downcast: Callable[[Any], Message] | None = None
    name: str = field(init=False)
    """The CloudEvents type: `saldo.<owner>.<message in kebab case>.v<major>`."""

    def __post_init__(self) -> None:
        name = f"saldo.{self.stream.owner}.{kebab(self.model.__name__)}.v{self.stream.major}"
        object.__setattr__(self, "name", name)

    def aggregate(self, message: Message) -> str:
        """The aggregate that `message` is about: the key without the tenant."""
        if len(self.key) == 1:
            return str(getattr(message, self.key[0]))
        return ":".join(str(getattr(message, name)) for name in self.key)


def kebab(name: str) -> str:
    """`StockLevelChanged` → `stock-level-changed`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def split_type(type_name: str) -> tuple[str, int]:
    """`saldo.orders.order-placed.v2` → (`saldo.orders.order-placed`, 2); major 0 where there is none.

    Never raises: the name may be anything that somebody wrote into a header.
    """
    stem, separator, major = type_name.rpartition(".v")
    return (stem, int(major)) if separator and major.isdecimal() and len(major) <= 9 else (type_name, 0)


@dataclass(frozen=True)
class Catalogue:
    """An index over message types. Built once; raises `ValueError` on two types of one name or an unsafe stream."""

    types: tuple[MessageType, ...]
    by_name: Mapping[str, MessageType] = field(init=False, repr=False)
    by_model: Mapping[type[Message], MessageType] = field(init=False, repr=False)
    streams: Mapping[str, Stream] = field(init=False, repr=False)
    older: Mapping[str, MessageType] = field(init=False, repr=False)
    """The major before, by the name of the type it is the predecessor of."""

    def __post_init__(self) -> None:
        by_name = {entry.name: entry for entry in self.types}
        if len(by_name) != len(self.types):
            raise ValueError("two message types share one name")
        streams = {entry.stream.name: entry.stream for entry in self.types}
        for stream in streams.values():
            if stream.segment_h > 24:
                raise ValueError(f"{stream.name}: a segment longer than a day outlives the inbox")
        object.__setattr__(self, "by_name", by_name)
        object.__setattr__(self, "by_model", {entry.model: entry for entry in self.types})
        object.__setattr__(self, "streams", streams)
        older = {}
        for entry in self.types:
            stem, major = split_type(entry.name)
            if f"{stem}.v{major + 1}" in by_name:
                older[f"{stem}.v{major + 1}"] = entry
        object.__setattr__(self, "older", older)

    def of(self, message: Message) -> MessageType:
        """The type of `message`. Raises `KeyError` with the way out where it is not in the catalogue."""
        try:
            return self.by_model[type(message)]
        except KeyError:
            raise KeyError(
                f"{type(message).__name__} is not in the catalogue: add it to contracts/catalogue.py"
            ) from None

    def publications(self, message: Message) -> list[tuple[MessageType, Message]]:
        """`message` in every major that is published: the newest first, then each older one by its downcaster."""
        entry = self.of(message)
        published = [(entry, message)]
        while (older := self.older.get(entry.name)) and older.downcast:
            message = older.downcast(message)
            entry = older
            published.append((entry, message))
        return published

    def newest(self, entry: MessageType, message: Message) -> Message:
        """`message` lifted to the newest major of its type, step by step."""
        while entry.upcast:
            message = entry.upcast(message)
            entry = self.of(message)
        return message

    def types_of(self, stream: str) -> list[MessageType]:
        """Every type that travels on `stream`."""
        return [entry for entry in self.types if entry.stream.name == stream]


def _on(stream: Stream, key: tuple[str, ...], *models: type[Message]) -> Iterable[MessageType]:
    return (MessageType(model=model, stream=stream, key=key) for model in models)


WEEK_H: Final = 7 * 24
MONTH_H: Final = 30 * 24

ITEMS = Stream(
    "inventory.items.v1", "inventory", StreamKind.STATE, WEEK_H, "The items of the catalogue, kits included."
)
SALES = Stream(
    "channels.sales.v1", "channels", StreamKind.FACTS, WEEK_H, "Sales heard from channels, as snapshots.", urgent=True
)
BUYERS = Stream(
    "channels.buyers.v1",
    "channels",
    StreamKind.FACTS,
    72,
    "Personal data of buyers, for crm and fulfillment alone.",
    segment_h=1,
    personal=True,
    readers=("crm", "fulfillment"),
)
CHANNEL_COMMANDS = Stream(
    "channels.commands.v1", "channels", StreamKind.COMMANDS, WEEK_H, "What channels is asked to do about an order."
)
LISTINGS = Stream("channels.listings.v1", "channels", StreamKind.FACTS, WEEK_H, "Numbers accepted by channels, drift.")
CONNECTIONS = Stream(
    "channels.connections.v1",
    "channels",
    StreamKind.STATE,
    WEEK_H,
    "Connections, their state and traits.",
    partitions=1,
)
ORDERS = Stream("orders.orders.v1", "orders", StreamKind.FACTS, MONTH_H, "The life of every order.")
INVENTORY_COMMANDS = Stream(
    "inventory.commands.v1",
    "inventory",
    StreamKind.COMMANDS,
    WEEK_H,
    "Demand of orders, written by orders alone.",
    urgent=True,
)
STOCK_COMMANDS = Stream(
    "inventory.stock-commands.v1", "inventory", StreamKind.COMMANDS, WEEK_H, "Commands of people and of the ERP."
)
RESERVATIONS = Stream(
    "inventory.reservations.v1", "inventory", StreamKind.FACTS, WEEK_H, "How the demand of an order was met."
)
LEVELS = Stream(
    "inventory.levels.v1", "inventory", StreamKind.STATE, WEEK_H, "Stock levels of physical SKUs.", urgent=True
)
MOVEMENTS = Stream(
    "inventory.movements.v1", "inventory", StreamKind.FACTS, MONTH_H, "The ledger, movement by movement."
)
PAYMENT_COMMANDS = Stream(
    "payments.commands.v1", "payments", StreamKind.COMMANDS, WEEK_H, "What is wanted of a payment, in all."
)
PAYMENTS = Stream("payments.payments.v1", "payments", StreamKind.FACTS, MONTH_H, "The money of every order.")
FULFILLMENT_COMMANDS = Stream(
    "fulfillment.commands.v1",
    "fulfillment",
    StreamKind.COMMANDS,
    WEEK_H,
    "What is wanted of a shipment, in all, and quotes for the own shop.",
)
SHIPMENTS = Stream(
    "fulfillment.shipments.v1", "fulfillment", StreamKind.FACTS, MONTH_H, "The life of every parcel, and returns."
)
CUSTOMERS = Stream(
    "crm.customers.v1",
    "crm",
    StreamKind.FACTS,
    MONTH_H,
    "Who is one customer, consent and erasure, by ids alone.",
    # A merge is about two customers: one partition keeps it in order with both.
    partitions=1,
)
DOCUMENTS = Stream(
    "erp.documents.v1", "erp", StreamKind.FACTS, MONTH_H, "Invoices of orders, and what other systems have booked."
)

CATALOGUE: Final = Catalogue(
    types=(
        *_on(ITEMS, ("sku",), inventory.ItemChanged),
        *_on(SALES, ("order_id",), channels.SaleReported, channels.ProgressAccepted, channels.ProgressRefused),
        *_on(BUYERS, ("customer_ref",), channels.BuyerReported),
        *_on(CHANNEL_COMMANDS, ("order_id",), channels.ResendBuyer, channels.RefetchSale, channels.OrderProgress),
        *_on(LISTINGS, ("connection_id", "stock_record"), channels.StockPushed, channels.DriftFound),
        *_on(CONNECTIONS, ("connection_id",), channels.ConnectionChanged),
        *_on(
            ORDERS,
            ("order_id",),
            orders.OrderPlaced,
            orders.OrderConfirmed,
            orders.OrderShort,
            orders.OrderHeld,
            orders.OrderPaid,
            orders.OrderChanged,
            orders.OrderInvoiced,
            orders.OrderPacked,
            orders.OrderCancelling,
            orders.OrderCancelled,
            orders.OrderShipped,
            orders.OrderDelivered,
            orders.OrderReturned,
            orders.OrderClosed,
        ),
        *_on(INVENTORY_COMMANDS, ("order_id",), inventory.OrderDemand),
        *_on(
            STOCK_COMMANDS,
            ("sku",),
            inventory.PutItem,
            inventory.ReceiveStock,
            inventory.AdjustStock,
            inventory.CountStock,
            inventory.TransferStock,
        ),
        *_on(STOCK_COMMANDS, ("location",), inventory.PutLocation),
        *_on(RESERVATIONS, ("order_id",), inventory.DemandMet, inventory.DemandShort, inventory.HoldExpired),
        *_on(LEVELS, ("sku",), inventory.StockLevelChanged),
        *_on(
            MOVEMENTS,
            ("sku",),
            inventory.MovementRecorded,
            inventory.StockCommandBooked,
            inventory.StockCommandRefused,
        ),
        *_on(
            PAYMENT_COMMANDS,
            ("order_id",),
            payments.AuthorizePayment,
            payments.CapturePayment,
            payments.VoidPayment,
            payments.RefundPayment,
        ),
        *_on(
            PAYMENTS,
            ("order_id",),
            payments.PaymentPending,
            payments.PaymentAuthorized,
            payments.PaymentCaptured,
            payments.PaymentFailed,
            payments.PaymentVoided,
            payments.PaymentRefunded,
            payments.PaymentDisputed,
            payments.PaymentTakenOver,
            payments.SettlementReported,
        ),
        *_on(
            FULFILLMENT_COMMANDS,
            ("order_id",),
            fulfillment.PrepareShipment,
            fulfillment.CancelShipment,
            fulfillment.ChangeAddress,
            fulfillment.QuoteDelivery,
        ),
        *_on(
            SHIPMENTS,
            ("order_id",),
            fulfillment.ShipmentPrepared,
            fulfillment.LabelCreated,
            fulfillment.ShipmentDispatched,
            fulfillment.ShipmentTracked,
            fulfillment.ShipmentDelivered,
            fulfillment.ShipmentCancelled,
            fulfillment.ShipmentFailed,
            fulfillment.ReturnReceived,
            fulfillment.DeliveryQuoted,
        ),
        *_on(
            CUSTOMERS,
            ("customer_id",),
            crm.CustomerIdentified,
            crm.CustomersMerged,
            crm.CustomersUnmerged,
            crm.ConsentChanged,
            crm.CustomerErased,
        ),
        *_on(DOCUMENTS, ("order_id",), erp.InvoiceIssued, erp.DocumentBooked, erp.DocumentRejected),
    )
)

"""Version 1 of the messages that orders owns."""

from pydantic import Field

from contracts.channels.v1 import PaymentCollector
from contracts.envelope import Code, Currency, Message, MinorSum, MinorUnits, PositiveQuantity, Sku, UtcDatetime
from contracts.erp.v1 import InvoiceKey


class OrderFact(Message):
    """What every fact about an order says: which order, its version, and the sale it was decided on.

    `version` grows by one with every change of the order; `at` is when orders decided.
    """

    order_id: str
    version: int
    connection_id: str
    external_id: str
    sale_revision: int
    at: UtcDatetime


class OrderOwing(OrderFact):
    """A fact that may change what the buyer owes."""

    due_minor: MinorSum | None = Field(
        default=None, description="What the buyer owes in all, after cancels and returns; absent: not said."
    )
    currency: Currency | None = Field(default=None, description="Of every sum of this fact; absent: no sum is said.")


class OrderLine(Message):
    """A line as orders knows it."""

    # Units of `sku` as it was sold, a kit as one; levels are of physical SKUs. None: no advert of ours is linked to it.

    line_id: Code
    sku: Sku | None
    quantity: PositiveQuantity
    unit_price_minor: MinorUnits = Field(default=0, description="Price of one unit, in the currency of the order.")
    discount_minor: MinorUnits = Field(
        default=0, description="Taken off the whole line as it was sold, in the currency of the order."
    )


class OrderPlaced(OrderOwing):
    """An order was heard of for the first time. `paid` if the marketplace says so already; else `OrderPaid` follows."""

    sold_at: UtcDatetime
    customer_ref: str
    paid: bool
    payment_by: PaymentCollector = PaymentCollector.CHANNEL
    total_minor: MinorUnits = Field(default=0, description="The whole order as it was sold, freight included.")
    freight_minor: MinorUnits = 0
    lines: tuple[OrderLine, ...]


class OrderConfirmed(OrderFact):
    """Every line that asks for stock of ours has it."""


class ShortLine(Message):
    """What is missing on a line, in units of a physical SKU."""

    line_id: Code
    sku: Sku
    missing: PositiveQuantity


class OrderShort(OrderFact):
    """Part of the order could not be reserved; it stays a standing demand until filled, or until a person decides."""

    lines: tuple[ShortLine, ...]


class OrderHeld(OrderFact):
    """The order waits for what `reason` names."""

    reason: Code = Field(
        description="`payment`, `mapping`, `person` (somebody decides), `invoice`, `shipping`, `refund`."
    )
    until: UtcDatetime | None = None


class OrderPaid(OrderOwing):
    """The buyer of an order that was placed unpaid has paid: the marketplace says so, or payments did it."""


class OrderChanged(OrderOwing):
    """Part of the order was cancelled; per line what is still asked for in all. A line that is gone is left out."""

    lines: tuple[OrderLine, ...]


class OrderInvoiced(OrderFact):
    """The order has its invoice and may be packed."""

    invoice_id: str = Field(description="Id of the document at erp, which keeps it.")
    invoice_key: InvoiceKey
    total_minor: MinorSum
    currency: Currency


class OrderPacked(OrderFact):
    """Every parcel of the order has its label."""

    shipment_ids: tuple[str, ...]


class OrderCancelling(OrderFact):
    """The order is to be cancelled, and waits until its parcels are stopped and its money is given back."""

    reason: Code = Field(description="As of OrderCancelled.")


class OrderCancelled(OrderOwing):
    """The order is cancelled as a whole; its stock goes back once."""

    reason: Code = Field(description="`channel`, `payment_expired`, `payment_failed`, `sold_out`, `person`, `lost`.")


class OrderShipped(OrderFact):
    """The marketplace or fulfillment says that everything has left."""


class OrderDelivered(OrderOwing):
    """The buyer has the goods."""


class OrderReturned(OrderOwing):
    """Goods came back; per line what returned in all."""

    lines: tuple[OrderLine, ...]


class OrderClosed(OrderOwing):
    """Nothing more will happen to the order."""

    reason: Code

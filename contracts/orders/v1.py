"""Version 1 of the messages that orders owns."""

from contracts.envelope import Code, Message, PositiveQuantity, Sku, UtcDatetime


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


class OrderLine(Message):
    """A line as orders knows it."""

    # Units of `sku` as it was sold, a kit as one; levels are of physical SKUs. None: no advert of ours is linked to it.

    line_id: Code
    sku: Sku | None
    quantity: PositiveQuantity


class OrderPlaced(OrderFact):
    """An order was heard of for the first time. `paid` if the marketplace says so already; else `OrderPaid` follows."""

    sold_at: UtcDatetime
    customer_ref: str
    paid: bool
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
    """The order waits: for payment, for a mapping, or for a person. `reason` says which."""

    reason: Code
    until: UtcDatetime | None = None


class OrderPaid(OrderFact):
    """The marketplace says that the buyer of an order that was placed unpaid has paid."""


class OrderCancelled(OrderFact):
    """The order is cancelled as a whole; its stock goes back once."""

    reason: Code


class OrderShipped(OrderFact):
    """The marketplace or fulfillment says that everything has left."""


class OrderDelivered(OrderFact):
    """The buyer has the goods."""


class OrderReturned(OrderFact):
    """Goods came back; per line what returned in all."""

    lines: tuple[OrderLine, ...]


class OrderClosed(OrderFact):
    """Nothing more will happen to the order."""

    reason: Code

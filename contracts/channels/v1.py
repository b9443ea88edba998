"""Version 1 of the messages that channels owns."""

from typing import Annotated

from pydantic import Field

from contracts.envelope import (
    Code,
    Currency,
    Message,
    MinorSum,
    MinorUnits,
    OpenEnum,
    PositiveQuantity,
    Quantity,
    Revision,
    Sku,
    UtcDatetime,
)
from contracts.erp.v1 import InvoiceKey
from contracts.payments.v1 import PaymentMethod


class SaleStatus(OpenEnum):
    """Where a sale stands in its channel's own words, after mapping."""

    PLACED = "placed"
    AWAITING_PAYMENT = "awaiting_payment"
    PAID = "paid"
    CANCEL_REQUESTED = "cancel_requested"
    CANCELLED = "cancelled"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    RETURNED = "returned"
    UNKNOWN = "unknown"


class ShortfallPolicy(OpenEnum):
    """How far inventory may go to fill what its own pool and location cannot: each value includes those before it."""

    SHARED_POOL = "shared_pool"
    OTHER_POOL = "other_pool"
    OTHER_LOCATION = "other_location"
    UNKNOWN = "unknown"


class ConnectionState(OpenEnum):
    """The life of a connection: only `live` takes in sales and pushes stock."""

    DRAFT = "draft"
    VALIDATED = "validated"
    LIVE = "live"
    PAUSED = "paused"
    UNKNOWN = "unknown"


class QuantityTrait(OpenEnum):
    """Which number a channel expects: what is available, the total including its own reservations, or a change."""

    ABSOLUTE = "absolute"
    TOTAL = "total"
    DELTA = "delta"
    UNKNOWN = "unknown"


class PaymentCollector(OpenEnum):
    """Who takes the buyer's money: the channel, or we through a gateway of ours."""

    CHANNEL = "channel"
    US = "us"
    UNKNOWN = "unknown"


class InvoiceRule(OpenEnum):
    """Which invoice an order must have before it is packed: none, or a Brazilian NF-e."""

    NONE = "none"
    NFE = "nfe"
    UNKNOWN = "unknown"


class SaleLine(Message):
    """One line of a sale. `quantity` counts units of `sku`; `cancelled` and `returned` are parts of it.

    `sku` is absent while the channel's item is linked to none of ours; such a line waits alone.
    `stock_record` names the record whose number this sale lowered at the channel.
    """

    line_id: Code
    sku: Sku | None
    quantity: PositiveQuantity
    cancelled: Quantity = 0
    returned: Quantity = 0
    unit_price_minor: MinorUnits = 0
    discount_minor: MinorUnits = 0
    listing: str
    stock_record: str
    fulfilled_by: str = Field(default="us", description="`us`, or the code of the location the channel ships from.")


class Checkout(Message):
    """What the buyer of the own shop has chosen so far. Sales of other channels have none."""

    hold_until: UtcDatetime | None = Field(
        default=None, description="Until when the basket holds its stock unpaid; absent once it is paid."
    )
    method: PaymentMethod | None = None
    gateway: Code | None = None
    token: str = Field(
        default="",
        repr=False,
        description="The gateway's single-use token for what the buyer entered, sealed for payments. Empty for Pix.",
    )
    carrier: Code | None = Field(default=None, description="Of the option chosen; its service is `shipping_service`.")
    payment_by: PaymentCollector = PaymentCollector.US
    attempt: Annotated[int, Field(ge=0)] = Field(
        default=0, description="One more each time the buyer asks to pay; 0: not yet."
    )


class SaleReported(Message):
    """A full snapshot of a sale at a channel: any revision alone is enough, an older one changes nothing."""

    connection_id: str
    external_id: str
    order_id: str
    revision: Annotated[int, Field(ge=1)]
    status: SaleStatus
    sold_at: UtcDatetime
    received_at: UtcDatetime
    customer_ref: str
    pool: Code = "shared"
    shortfall_policy: ShortfallPolicy = ShortfallPolicy.OTHER_LOCATION
    all_or_nothing: bool = False
    currency: Currency
    lines: tuple[SaleLine, ...]
    total_minor: MinorUnits = 0
    freight_minor: MinorUnits = 0
    shipping_service: str | None = None
    ship_by: UtcDatetime | None = None
    payment_due: UtcDatetime | None = Field(
        default=None, description="Documented deadline of an unpaid order; past it the channel is asked again."
    )
    unresolved: tuple[str, ...] = Field(default=(), description="Names of fields that no mapping covers yet.")
    checkout: Checkout | None = Field(default=None, description="Set for a sale of the own shop.")
    invoice: InvoiceRule | None = Field(
        default=None, description="What the channel asks for; absent: an order in BRL needs an NF-e, others none."
    )


class ResendBuyer(Message):
    """Command to channels: report the buyer of this order once more, if still kept."""

    order_id: str


class RefetchSale(Message):
    """Command to channels: read this order from its marketplace again, because its deadline passed in silence."""

    order_id: str
    reason: str


class BuyerAddress(Message):
    """A postal address as the channel gave it."""

    kind: Code
    street: str = ""
    number: str = ""
    complement: str = ""
    district: str = ""
    city: str = ""
    region: str = ""
    postal_code: str = ""
    country: str = ""


class BuyerReported(Message):
    """Personal data of a buyer. Nothing else in the system carries these fields."""

    customer_ref: str
    order_id: str
    sale_revision: int = Field(default=0, description="Revision of the sale that the buyer was read with; 0: not said.")
    name: str = ""
    document: str = ""
    emails: tuple[str, ...] = ()
    phones: tuple[str, ...] = ()
    addresses: tuple[BuyerAddress, ...] = ()
    contact_allowed: bool = Field(
        default=False, description="The channel lets us write to its buyer outside the channel, with consent."
    )


class ProgressLine(Message):
    """Units of an order line that a parcel holds, as sold, a kit as one."""

    line_id: Code
    quantity: PositiveQuantity


class TrackingTold(Message):
    """Where a parcel was at a moment."""

    status: Code = Field(description="A value of fulfillment's TrackingStatus.")
    happened_at: UtcDatetime


class InvoiceTold(Message):
    """The invoice of an order, as a channel must hear of it before it hears of a parcel."""

    invoice_id: str = Field(description="Id of the document at erp, which keeps it.")
    invoice_key: InvoiceKey
    invoice_no: str
    series: str
    issued_at: UtcDatetime
    total_minor: MinorSum
    currency: Currency
    content_url: str = Field(default="", description="Where the XML is read with a service's own token; empty: none.")


class ParcelTold(Message):
    """A parcel that has left."""

    shipment_id: str
    carrier: Code = Field(description="Our code; channels maps it to the channel's own.")
    service: Code = Field(description="Our code; channels maps it to the channel's own.")
    tracking_code: str = ""
    tracking_url: str = ""
    lines: tuple[ProgressLine, ...]
    dispatched_at: UtcDatetime
    tracking: tuple[TrackingTold, ...] = Field(default=(), description="Oldest first; only ever appended to.")
    delivered_at: UtcDatetime | None = None


class PaymentTold(Message):
    """How the latest payment of an order of the own shop stands, and what the buyer has to do."""

    status: Code = Field(
        description="`asked`, `pending`, `authorized`, `captured`, `failed`, `voided`, or `refunded` as a whole."
    )
    attempt: Annotated[int, Field(ge=0)] = Field(default=0, description="The checkout's attempt that this is about.")
    pix_text: str | None = Field(default=None, description="Text of the Pix, to copy or to show as a QR code.")
    next_url: str | None = Field(default=None, description="The gateway's page that the buyer is sent to.")
    expires_at: UtcDatetime | None = None
    reason: Code | None = None
    paid_at: UtcDatetime | None = None


class OrderProgress(Message):
    """Command to channels, written by orders alone: all there is to tell a channel of an order, at this revision.

    Channels tells the difference to what it has told, step by step; an old revision changes nothing.
    """

    order_id: str
    revision: Revision
    connection_id: str
    state: Code = Field(description="The order's state in the words of orders, as `held`, `confirmed`, `shipped`.")
    state_at: UtcDatetime
    held_for: Code | None = Field(default=None, description="What a held order waits for: the reason of OrderHeld.")
    invoice: InvoiceTold | None = None
    parcels: tuple[ParcelTold, ...] = ()
    cancelled_reason: Code | None = Field(
        default=None, description="Set where we cancelled the order and the channel must hear of it."
    )
    payment: PaymentTold | None = None
    tell_by: UtcDatetime | None = Field(default=None, description="When the channel must have heard of the parcels.")


ProgressStep = Annotated[
    str,
    Field(
        min_length=1,
        description="`invoice`, `invoice:<invoice_id>` (one in the place of the first), `shipment:<shipment_id>`, "
        "`tracking:<shipment_id>:<index>`, `delivery:<shipment_id>`, `cancel`.",
    ),
]


class ProgressAccepted(Message):
    """A channel took one step of an order's progress."""

    order_id: str
    revision: int = Field(description="Of the OrderProgress that held the step.")
    step: ProgressStep
    at: UtcDatetime


class ProgressRefused(Message):
    """A channel will not take one step of an order's progress, or cannot; a person decides."""

    order_id: str
    revision: int = Field(description="Of the OrderProgress that held the step.")
    step: ProgressStep
    reason: Code = Field(description="A word of ours, as `not_supported`; the channel's own text may name a buyer.")
    at: UtcDatetime


class CoveredVersion(Message):
    """A level that a pushed number takes into account."""

    sku: Sku
    epoch: int
    version: int


class PushCause(Message):
    """A sale or cancel that a pushed number covers."""

    order_id: str
    sale_revision: int
    line_id: Code
    connection_id: str
    sku: Sku
    version: int
    sold_at: UtcDatetime
    received_at: UtcDatetime


class StockPushed(Message):
    """A channel accepted a number for a stock record: the source of the propagation measure."""

    connection_id: str
    stock_record: str
    quantity: int
    wanted_seq: int
    covered: tuple[CoveredVersion, ...]
    causes: tuple[PushCause, ...] = Field(default=(), max_length=1000)
    causes_omitted: Quantity = 0
    oldest_sold_at: UtcDatetime | None = None
    request_id: str = Field(default="", description="Id of the request at the channel, to match with its own books.")
    wanted_at: UtcDatetime
    sent_at: UtcDatetime
    accepted_at: UtcDatetime


class DriftFound(Message):
    """A channel shows another number than it accepted, and no order explains the difference."""

    connection_id: str
    stock_record: str
    wanted: int
    observed: int
    since: UtcDatetime
    suspected_cause: str


class ConnectionChanged(Message):
    """The state of a connection and the traits that others must respect."""

    connection_id: str
    version: int
    epoch: int = 0
    connector: Code
    environment: Code
    account: str
    state: ConnectionState
    pool: Code
    quantity_trait: QuantityTrait
    reserves_unpaid: bool
    restores_on_cancel: bool
    lag_p99_ms: int | None = None

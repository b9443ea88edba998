"""Version 1 of the messages that channels owns."""

from typing import Annotated

from pydantic import Field

from contracts.envelope import (
    Code,
    Currency,
    Message,
    MinorUnits,
    OpenEnum,
    PositiveQuantity,
    Quantity,
    Sku,
    UtcDatetime,
)


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
    name: str = ""
    document: str = ""
    emails: tuple[str, ...] = ()
    phones: tuple[str, ...] = ()
    addresses: tuple[BuyerAddress, ...] = ()


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

"""Version 1 of the messages that fulfillment owns.

No message here holds an address: fulfillment learns it from channels' personal stream and joins by `order_id`.
Quantities count units as sold, a kit as one.
"""

from typing import Annotated

from pydantic import Field

from contracts.envelope import (
    Code,
    Currency,
    Message,
    MinorSum,
    OpenEnum,
    PositiveQuantity,
    Revision,
    Sku,
    UtcDatetime,
)
from contracts.erp.v1 import InvoiceKey
from contracts.inventory.v1 import AccountState

Days = Annotated[int, Field(ge=0, description="Business days from dispatch.")]
BuyerOfSale = Annotated[
    int,
    Field(
        ge=0,
        description="`sale_revision` of the BuyerReported that holds the address meant: it is waited for. "
        "0: the buyer as heard of last.",
    ),
]


class TrackingStatus(OpenEnum):
    """Where a parcel is, after mapping of the carrier's own words."""

    ACCEPTED = "accepted"
    IN_TRANSIT = "in_transit"
    OUT_FOR_DELIVERY = "out_for_delivery"
    ATTEMPT_FAILED = "attempt_failed"
    DELIVERED = "delivered"
    RETURNING = "returning"
    RETURNED = "returned"
    LOST = "lost"
    UNKNOWN = "unknown"


class ShipmentLine(Message):
    """Units of an order line that one shipment holds."""

    line_id: Code
    sku: Sku
    quantity: PositiveQuantity


class ReceivedLine(Message):
    """Units of an order line that came back, where they lie, and as what."""

    line_id: Code
    sku: Sku
    quantity: PositiveQuantity
    location: Code
    state: AccountState = Field(description="`available` or `damaged`.")


class DeliveryOption(Message):
    """A way to deliver that the buyer of the own shop may choose."""

    option_id: Code = Field(description="Names the option within its quote.")
    carrier: Code
    service: Code
    price_minor: MinorSum
    currency: Currency
    days_min: Days
    days_max: Days


class ShipmentCommand(Message):
    """What every command about a shipment says: which one, and its revision over all kinds of commands.

    A shipment is what leaves one location for one order, drawn by orders: `<order_id>:s<n>`, n from 1.
    """

    order_id: str
    shipment_id: str
    revision: Revision


class PrepareShipment(ShipmentCommand):
    """Pick, pack and label these lines, all of the shipment; sent again with a higher revision when anything changes.

    Where `invoice_required`, no label is made before `invoice_key` is given.
    """

    connection_id: str
    location: Code
    lines: tuple[ShipmentLine, ...] = Field(min_length=1)
    carrier: Code | None = Field(default=None, description="As the sale says, before fulfillment's own mapping.")
    service: str | None = Field(default=None, description="As the sale says, before fulfillment's own mapping.")
    declared_minor: MinorSum = Field(default=0, description="Value of the goods, for the carrier and its insurance.")
    currency: Currency
    invoice_required: bool
    invoice_key: InvoiceKey | None = None
    ship_by: UtcDatetime | None = None


class CancelShipment(ShipmentCommand):
    """Stop this shipment if it has not left; the answer is `ShipmentCancelled`, or `ShipmentFailed` as too late."""

    reason: Code


class ChangeAddress(ShipmentCommand):
    """The address of this shipment changed; the new one comes on channels' personal stream."""

    sale_revision: BuyerOfSale = 0


class QuoteDelivery(Message):
    """Command of the own shop: what would it cost, and how long take, to deliver this basket to its buyer.

    A new address or basket is a new `quote_id`; the shop takes the answer to its latest one and no other.
    """

    order_id: str
    quote_id: str
    connection_id: str
    sale_revision: BuyerOfSale = 0
    lines: tuple[ShipmentLine, ...] = Field(min_length=1)
    declared_minor: MinorSum = Field(default=0, description="Value of the goods, for the carrier and its insurance.")
    currency: Currency


class ShipmentFact(Message):
    """What every fact about a shipment says: its version, the revision of the command it obeys, all that it holds."""

    order_id: str
    shipment_id: str
    version: int = Field(description="Grows by one with every fact about this shipment.")
    revision: int = Field(description="Of the newest command that was obeyed.")
    location: Code
    lines: tuple[ShipmentLine, ...]
    at: UtcDatetime


class ShipmentPrepared(ShipmentFact):
    """The parcel is packed and weighed."""

    weight_g: Annotated[int, Field(gt=0, description="Grams, packed.")]
    dimensions_mm: tuple[int, int, int] = Field(description="Length, width and height in millimetres, packed.")


class ParcelFact(ShipmentFact):
    """What is known of every parcel from its label on: who carries it, and how to follow it."""

    carrier: Code = Field(description="Code of the carrier, after mapping.")
    service: Code = Field(description="Code of the service, after mapping.")
    tracking_code: str = Field(default="", description="Empty where the carrier follows no parcels.")
    tracking_url: str = Field(default="", description="The carrier's own page about the parcel, where it has one.")


class LabelCreated(ParcelFact):
    """The label is bought and kept by fulfillment; the parcel may leave."""

    label_id: str
    price_minor: MinorSum | None = Field(default=None, description="What the carrier charges us, if it says so.")
    currency: Currency | None = Field(default=None, description="Of the price; given with it.")


class ShipmentDispatched(ParcelFact):
    """The parcel left the location: its units are shipped."""

    dispatched_at: UtcDatetime


class ShipmentTracked(ParcelFact):
    """The carrier says where the parcel is. `happened_at` is the carrier's moment, and reports may come in any order.

    Delivery is told by `ShipmentDelivered` too, once.
    """

    status: TrackingStatus
    happened_at: UtcDatetime
    detail: Code | None = Field(
        default=None, description="A word of ours; the carrier's own text may name who opened the door."
    )


class ShipmentDelivered(ParcelFact):
    """The buyer has the parcel."""

    delivered_at: UtcDatetime


class ShipmentCancelled(ShipmentFact):
    """The shipment was stopped before it left: its stock is free again."""


class ShipmentFailed(ShipmentFact):
    """The shipment, or what was asked of it, cannot be done as it stands."""

    reason: Code = Field(
        description="`too_late`, `no_address`, `no_service`, `invoice_missing`, `lost`, `refused_by_carrier`."
    )
    final: bool = Field(description="Nothing more will be tried; else it waits for what `reason` names.")


class ReturnReceived(Message):
    """Goods of a shipment came back and were looked at: all lines of this return. A later version replaces them.

    `version` is counted with the facts about the shipment; what came back in all is the sum over its returns.
    """

    order_id: str
    shipment_id: str
    version: int
    return_id: str
    lines: tuple[ReceivedLine, ...]
    received_at: UtcDatetime


class DeliveryQuoted(Message):
    """The ways to deliver a basket, none where nobody delivers. `incomplete`: a carrier did not answer in time."""

    order_id: str
    quote_id: str
    options: tuple[DeliveryOption, ...]
    incomplete: bool = False

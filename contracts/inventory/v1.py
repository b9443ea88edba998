"""Version 1 of the messages that inventory owns: its commands, and what it reports."""

from typing import Annotated

from pydantic import Field

from contracts.channels.v1 import ShortfallPolicy
from contracts.envelope import Code, Message, OpenEnum, PositiveQuantity, Quantity, Sku, UtcDatetime


class AccountState(OpenEnum):
    """States of stock that counters are kept for, and the outside that needs none."""

    AVAILABLE = "available"
    RESERVED = "reserved"
    SHIPPED = "shipped"
    DAMAGED = "damaged"
    INBOUND = "inbound"
    SUPPLIER = "supplier"
    CUSTOMER = "customer"
    COUNT_DIFFERENCE = "count-difference"
    UNKNOWN = "unknown"


class CauseOutcome(OpenEnum):
    """What inventory decided about a demanded quantity.

    What an order stands for in all is the sum of reserved, short and released. The others count for nothing new:
    filled and revoked move units between short and reserved (a receipt came, a count found less), shipped and returned
    tell where they are now.
    """

    RESERVED = "reserved"
    SHORT = "short"
    FILLED = "filled"
    RELEASED = "released"
    REVOKED = "revoked"
    SHIPPED = "shipped"
    RETURNED = "returned"
    UNKNOWN = "unknown"


class Component(Message):
    """One physical SKU inside a kit, and how many units of it one kit takes."""

    sku: Sku
    quantity: PositiveQuantity


class ItemChanged(Message):
    """The state of an item of the catalogue. `components` makes it a kit (one level deep); prices are not here."""

    sku: Sku
    version: int
    epoch: int = 0
    name: str
    active: bool = True
    unit: Code = "un"
    gtin: str | None = None
    weight_g: Quantity | None = None
    dimensions_mm: tuple[int, int, int] | None = None
    tax_class: str | None = Field(default=None, description="NCM code in Brazil.")
    components: tuple[Component, ...] = ()


class PutItem(Message):
    """Create or change an item; the whole item is given."""

    sku: Sku
    name: str
    active: bool = True
    unit: Code = "un"
    gtin: str | None = None
    weight_g: Quantity | None = None
    dimensions_mm: tuple[int, int, int] | None = None
    tax_class: str | None = None
    components: tuple[Component, ...] = ()


class PutLocation(Message):
    """Create or change a place where stock lies. `held_by` names the connection whose sales alone may lower it."""

    location: Code
    name: str
    held_by: str | None = None
    priority: int = Field(default=100, description="Reservations draw on the lowest number first.")


class ReceiveStock(Message):
    """Stock came in from a supplier. `opening` marks a take-on, accepted once per SKU and location."""

    sku: Sku
    location: Code
    pool: Code = "shared"
    quantity: PositiveQuantity
    reference: str = ""
    opening: bool = False


class AdjustStock(Message):
    """A person corrects stock by a signed quantity."""

    sku: Sku
    location: Code
    pool: Code = "shared"
    state: AccountState = AccountState.AVAILABLE
    quantity: int
    reason: str
    effective_at: UtcDatetime


class CountStock(Message):
    """Somebody counted what is on hand (available, reserved and damaged together) at a moment.

    `epoch` and `version` are those of the level the count was taken against, where the counter knew it.
    """

    sku: Sku
    location: Code
    counted: Quantity
    counted_at: UtcDatetime
    epoch: int | None = None
    version: int | None = None
    reference: str = ""


class TransferStock(Message):
    """Move available stock between pools or locations."""

    sku: Sku
    quantity: PositiveQuantity
    from_location: Code
    from_pool: Code = "shared"
    to_location: Code
    to_pool: Code = "shared"
    reason: str = ""


class ShippedQuantity(Message):
    """What has left from a location, in units of the demanded SKU."""

    location: Code
    quantity: PositiveQuantity


class ReturnedQuantity(Message):
    """What came back to a location, and in which state it is now."""

    location: Code
    state: AccountState
    quantity: PositiveQuantity


class DemandLine(Message):
    """The absolute target of one order line, in units of `sku` (a kit counts as one)."""

    line_id: Code
    sku: Sku
    ordered: PositiveQuantity
    cancelled: Quantity = 0
    shipped: tuple[ShippedQuantity, ...] = ()
    returned: tuple[ReturnedQuantity, ...] = ()
    location: Code | None = Field(default=None, description="Set where the channel ships from stock it holds itself.")


class OrderDemand(Message):
    """Command to inventory, written by orders alone: what an order asks for in all, at this revision.

    Inventory moves the difference between this and what it has done; an old revision changes nothing.
    """

    order_id: str
    revision: Annotated[int, Field(ge=1)]
    sale_revision: int
    connection_id: str
    pool: Code = "shared"
    shortfall_policy: ShortfallPolicy = ShortfallPolicy.OTHER_LOCATION
    all_or_nothing: bool = False
    hold_until: UtcDatetime | None = Field(default=None, description="Only for unpaid orders of the own shop.")
    sold_at: UtcDatetime
    received_at: UtcDatetime
    lines: tuple[DemandLine, ...]


class LineOutcome(Message):
    """What stands for one physical SKU of an order line, in absolute units of that SKU.

    `shipped` is all that has left, `returned` the part of it that came back.
    """

    line_id: Code
    sku: Sku
    reserved: Quantity
    short: Quantity = 0
    shipped: Quantity = 0
    returned: Quantity = 0
    locations: tuple[ShippedQuantity, ...] = Field(default=(), description="Where the reserved units lie.")
    possible: tuple[str, ...] = Field(default=(), description="What could fill the rest: `pool:x`, `location:y`.")


class DemandMet(Message):
    """The order's demand is met in full at this revision (after a cancel: everything asked for was given back)."""

    order_id: str
    revision: int
    lines: tuple[LineOutcome, ...]


class DemandShort(Message):
    """Part of the order's demand cannot be met now; what is missing stays a standing demand."""

    order_id: str
    revision: int
    lines: tuple[LineOutcome, ...]


class HoldExpired(Message):
    """The hold of an unpaid order of the own shop ran out; its stock is available again."""

    order_id: str
    revision: int
    expired_at: UtcDatetime


class LocationLevel(Message):
    """Counters of one location and pool. `held_by` is the connection whose stock this is, if it is not ours to show."""

    location: Code
    pool: Code
    available: Quantity
    reserved: Quantity
    held_by: str | None = None


class LevelCause(Message):
    """An order line that this level covers for the first time. `units` is signed, in units of the level's SKU.

    Reserved and short are positive (the channel has sold them). Released is negative: a cancel or an expired hold gave
    them back, whether they were reserved or short. The other outcomes repeat units that were counted before. A kit has
    a cause on the level of each component, in units of that component.
    """

    order_id: str
    sale_revision: int
    line_id: Code
    connection_id: str
    units: int
    outcome: CauseOutcome
    sold_at: UtcDatetime
    received_at: UtcDatetime


class StockLevelChanged(Message):
    """The level of a physical SKU after a decision; (epoch, version) orders levels, the latest wins.

    A decision that changes no counter (a shortfall) still makes a level, so that its cause is heard. `available` and
    `reserved` are the sums over the levels that no channel holds; `oldest_sold_at` is set where causes were omitted.
    """

    sku: Sku
    epoch: int
    version: int
    levels: tuple[LocationLevel, ...]
    available: Quantity
    reserved: Quantity
    causes: tuple[LevelCause, ...] = Field(default=(), max_length=1000)
    causes_omitted: Quantity = 0
    oldest_sold_at: UtcDatetime | None = None


class AccountRef(Message):
    """One side of a movement. Outside states (supplier, customer, count-difference) keep no counter."""

    location: Code
    pool: Code
    state: AccountState


class MovementRecorded(Message):
    """A quantity went from one account to another. Append-only; unique by cause, line and accounts.

    `line` is empty for a person's command, else `<order_id>/<line_id>/<sold sku>`: a movement that fills another
    order's shortfall has the cause that made stock available and the line it went to.
    """

    movement_id: str
    sku: Sku
    from_account: AccountRef
    to_account: AccountRef
    quantity: PositiveQuantity
    epoch: int
    sku_version: int
    cause: str = Field(description="`order:<order_id>:<revision>`, `expiry:<order_id>:<revision>`, or `command:<id>`.")
    line: str
    at: UtcDatetime


class StockCommandBooked(Message):
    """A person's stock command took effect, or was found to have taken effect before."""

    command_id: str
    sku: str
    effect: str


class StockCommandRefused(Message):
    """A person's stock command changed nothing; `reason` says why and what to do."""

    command_id: str
    sku: str
    reason: str

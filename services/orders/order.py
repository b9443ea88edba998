"""An order and its states: all that is known of one, and how it is copied. Pure.

It is decided from the newest snapshot of its sale and the newest answer of inventory. What has been acted on is
remembered beside them on purpose, for where a later snapshot is silent: that money came in, that goods left (a later
"cancelled" does not put them back on the shelf), and which SKU a line had when its demand was sent.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, TypeAlias, final

from pydantic import Discriminator

from contracts.channels.v1 import SaleReported, SaleStatus
from contracts.inventory.v1 import (
    LineOutcome,
    OrderDemand,
)
from services.orders.process import (
    NOTHING,
    Process,
)

LEFT = frozenset({SaleStatus.SHIPPED, SaleStatus.DELIVERED, SaleStatus.RETURNED})


PAID = LEFT | {SaleStatus.PAID}


UNPAID = frozenset({SaleStatus.PLACED, SaleStatus.AWAITING_PAYMENT, SaleStatus.PAID})
"""What a channel may say of an order whose money is ours to see."""


@final
@dataclass(frozen=True, slots=True)
class Placed:
    """Known here; inventory has not answered yet."""

    kind: Literal["placed"] = "placed"


@final
@dataclass(frozen=True, slots=True)
class Held:
    """Waits for payment, for a mapping or for a person; its stock is asked for all the same."""

    reason: Literal["payment", "mapping", "person"]
    until: datetime | None = None
    kind: Literal["held"] = "held"


@final
@dataclass(frozen=True, slots=True)
class Short:
    """Something could not be reserved; it stays a standing demand."""

    kind: Literal["short"] = "short"


@final
@dataclass(frozen=True, slots=True)
class Confirmed:
    """Nothing stands in the way: every line has its stock and nothing is waited for."""

    kind: Literal["confirmed"] = "confirmed"


@final
@dataclass(frozen=True, slots=True)
class Invoiced:
    """It has its invoice, and its parcels are being prepared."""

    kind: Literal["invoiced"] = "invoiced"


@final
@dataclass(frozen=True, slots=True)
class Packed:
    """Every parcel has its label and waits for its carrier."""

    kind: Literal["packed"] = "packed"


@final
@dataclass(frozen=True, slots=True)
class Cancelling:
    """To be cancelled; parcels are being stopped and money given back."""

    reason: str
    kind: Literal["cancelling"] = "cancelling"


@final
@dataclass(frozen=True, slots=True)
class Cancelled:
    """Cancelled as a whole."""

    kind: Literal["cancelled"] = "cancelled"


@final
@dataclass(frozen=True, slots=True)
class Shipped:
    """On its way to the buyer."""

    kind: Literal["shipped"] = "shipped"


@final
@dataclass(frozen=True, slots=True)
class Delivered:
    """With the buyer."""

    kind: Literal["delivered"] = "delivered"


@final
@dataclass(frozen=True, slots=True)
class Returned:
    """Come back, or on its way back."""

    kind: Literal["returned"] = "returned"


@final
@dataclass(frozen=True, slots=True)
class Closed:
    """Long finished. A newer snapshot opens it again."""

    reason: str
    kind: Literal["closed"] = "closed"


State: TypeAlias = Annotated[
    Placed
    | Held
    | Short
    | Confirmed
    | Invoiced
    | Packed
    | Cancelling
    | Cancelled
    | Shipped
    | Delivered
    | Returned
    | Closed,
    Discriminator("kind"),
]


STATES = (
    "placed", "held", "short", "confirmed", "invoiced", "packed", "cancelling", "cancelled", "shipped", "delivered",
    "returned", "closed",
)  # fmt: skip


FINALS: dict[SaleStatus, State] = {
    SaleStatus.CANCELLED: Cancelled(),
    SaleStatus.SHIPPED: Shipped(),
    SaleStatus.DELIVERED: Delivered(),
    SaleStatus.RETURNED: Returned(),
}


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """The newest answer of inventory that was about the demand of its day."""

    revision: int
    lines: tuple[LineOutcome, ...]


@final
@dataclass(slots=True)
class Order:
    """All that is known about an order. Nobody changes one in place: what has changed is a copy, and the one it was
    made from stays as it was. Not frozen, because that makes a copy five times as dear, and every sale needs five.

    `status` is the sale's word as far as it has one: `cancelled` where every line or the process is, and whether it is
    paid as the gateway says, where we take the money. `paid` stands until a channel says otherwise, `left` for good;
    `expired` is true while the stock of an unpaid order was given back by the clock of its hold.
    """

    sale: SaleReported
    status: SaleStatus
    state: State = Placed()
    version: int = 0
    paid: bool = False
    left: bool = False
    expired: bool = False
    demand: OrderDemand | None = None
    answer: Answer | None = None
    process: Process = NOTHING

    @property
    def settled(self) -> bool:
        """Whether inventory's newest answer is about the newest demand."""
        return self.demand is not None and self.answer is not None and self.answer.revision == self.demand.revision

    # The copies below name every field: `dataclasses.replace` takes five times as long.

    def heard(self, sale: SaleReported, status: SaleStatus, *, paid: bool, left: bool) -> "Order":
        """This order with a newer snapshot of its sale."""
        return Order(
            sale, status, self.state, self.version, paid, left, self.expired, self.demand, self.answer, self.process
        )

    def asking(self, demand: OrderDemand) -> "Order":
        """This order with a newer demand; what had expired is asked for again."""
        return Order(
            self.sale, self.status, self.state, self.version, self.paid, self.left, False, demand, self.answer,
            self.process,
        )  # fmt: skip

    def answered(self, answer: Answer | None, *, expired: bool = False) -> "Order":
        """This order with another answer to its demand, or with none any more."""
        return Order(
            self.sale, self.status, self.state, self.version, self.paid, self.left, expired, self.demand, answer,
            self.process,
        )  # fmt: skip

    def reached(self, state: State, version: int) -> "Order":
        """This order in `state` at `version`."""
        return Order(
            self.sale, self.status, state, version, self.paid, self.left, self.expired, self.demand, self.answer,
            self.process,
        )  # fmt: skip

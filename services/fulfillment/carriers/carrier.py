"""What a carrier is asked, and what it answers.

A carrier's methods raise what `services.border.errors` names: `Throttled` and `Unreachable` (nothing was done),
`OutcomeUnknown` (it may have been done: `find` is asked before the next try), `Rejected` (never as it stands).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.fulfillment.labels import Place
from services.fulfillment.packing import Dimensions
from services.fulfillment.rates import Quote


@dataclass(frozen=True, slots=True)
class Traits:
    """What book-keeping has to know: the carrier's name here, and how long an unanswered purchase may still come
    true."""

    name: str
    late_s: float


@dataclass(frozen=True, slots=True)
class Parcel:
    """A packed parcel and its way."""

    tenant: str
    weight_g: int
    dimensions_mm: Dimensions
    declared_minor: int
    currency: str
    origin: Place
    destination: Place
    invoice_key: str = ""


@dataclass(frozen=True, slots=True)
class Purchase:
    """One decided purchase. `key` names it at the carrier, a retry has the same; `serial` is a number of its own."""

    key: str
    serial: int
    carrier: str
    service: str


@dataclass(frozen=True, slots=True)
class Bought:
    """What the carrier says of a bought label."""

    reference: str
    tracking_code: str
    tracking_url: str = ""
    price_minor: int | None = None
    currency: str | None = None


class Carrier(Protocol):
    """Somebody who takes parcels. `quote` and `find` change nothing and may be asked as often as one likes."""

    @property
    def traits(self) -> Traits: ...

    async def quote(self, parcel: Parcel) -> Sequence[Quote]:
        """The services that take the parcel; none where the carrier does not deliver."""
        ...

    async def buy(self, parcel: Parcel, purchase: Purchase) -> Bought:
        """Buy the label."""
        ...

    async def find(self, purchase: Purchase) -> Bought | None:
        """What an earlier `buy` of this purchase came to; None if it was never done."""
        ...

    async def cancel(self, purchase: Purchase, reference: str) -> bool:
        """Give the label back; False where it is too late. Again for one that was given back: True."""
        ...

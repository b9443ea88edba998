"""What a carrier is asked, and what it answers.

A carrier's methods raise what `services.border.errors` names: `Throttled` and `Unreachable` (nothing was done),
`OutcomeUnknown` (it may have been done: `resume` is the next try), `Rejected` (never as it stands), and `ValueError`
for an answer that makes no sense.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import NAMESPACE_URL, uuid5

import httpx

from contracts.fulfillment.v1 import TrackingStatus
from services.border.errors import LimiterLike
from services.fulfillment.labels import Place
from services.fulfillment.packing import Dimensions
from services.fulfillment.rates import Quote


@dataclass(frozen=True, slots=True)
class Traits:
    """What book-keeping has to know: the carrier's name here, how long an unanswered purchase may still come true, and
    whether it can be asked where parcels are."""

    name: str
    late_s: float
    follows: bool


@dataclass(frozen=True, slots=True)
class Account:
    """An account as a person gives it."""

    tenant: str
    carrier: str
    environment: str
    base_url: str
    settings: Mapping[str, str]
    credentials: Mapping[str, str] = field(repr=False)

    @property
    def account_id(self) -> str:
        """The same for the same carrier and place, so that an account that is given again is the one there is."""
        identity = [self.tenant, self.carrier, self.environment, self.base_url.rstrip("/")]
        return str(uuid5(NAMESPACE_URL, json.dumps(identity)))


@dataclass(frozen=True, slots=True)
class Session:
    """An account at a carrier. `token` is the access token of now; with one that was refused, a new one."""

    http: httpx.AsyncClient
    limiter: LimiterLike
    base_url: str
    credentials: Mapping[str, str] = field(repr=False)
    settings: Mapping[str, str]
    token: Callable[[str | None], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Parcel:
    """A packed parcel and its way. `document` and `phone` are the recipient's, as carriers ask for them."""

    tenant: str
    weight_g: int
    dimensions_mm: Dimensions
    declared_minor: int
    currency: str
    origin: Place | None
    destination: Place
    invoice_key: str = ""
    document: str = field(default="", repr=False)
    phone: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Purchase:
    """One decided purchase. `key` names it at the carrier, a retry has the same; `serial` is a number of its own;
    `option` is the carrier's own name of the service."""

    key: str
    serial: int
    carrier: str
    service: str
    option: str = ""


@dataclass(frozen=True, slots=True)
class Bought:
    """What the carrier says of a bought label. `label_pdf` is its own label, where we draw none."""

    reference: str
    tracking_code: str
    tracking_url: str = ""
    price_minor: int | None = None
    currency: str | None = None
    label_pdf: bytes | None = field(default=None, repr=False)


class Seen(NamedTuple):
    """Where the carrier says that a parcel is or was; None where it does not say since when."""

    status: TrackingStatus
    happened_at: datetime | None


class Carrier(Protocol):
    """Somebody who takes parcels. `quote` and `track` change nothing and may be asked as often as one likes."""

    @property
    def traits(self) -> Traits: ...

    async def quote(self, parcel: Parcel) -> Sequence[Quote]:
        """The services that take the parcel; none where the carrier does not deliver. Quotes with an `option` name
        carrier and service in the carrier's words, others in ours."""
        ...

    async def buy(self, parcel: Parcel, purchase: Purchase) -> Bought:
        """Buy the label."""
        ...

    async def resume(self, parcel: Parcel, purchase: Purchase) -> Bought:
        """Buy the label after a `buy` of which nobody knows how far it came: look first, and do what is left."""
        ...

    async def cancel(self, purchase: Purchase, reference: str) -> bool:
        """Give the label back; False where it is too late. Again for one that was given back: True."""
        ...

    async def track(self, references: Sequence[str]) -> Mapping[str, Sequence[Seen]]:
        """All that the carrier knows of these parcels; what it does not know is left out."""
        ...

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raises `SignatureInvalid` unless the webhook comes from the carrier."""
        ...

    def named(self, body: bytes) -> str:
        """The reference of the parcel that a verified webhook is about. Raises ValueError."""
        ...

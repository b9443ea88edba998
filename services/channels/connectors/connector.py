"""What a connector is: traits as data, and a few functions. Adding a channel is adding one file like `shopify.py`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import httpx

from contracts.channels.v1 import BuyerReported, QuantityTrait, SaleStatus
from services.border.errors import (
    Limit,
    LimiterLike,
    OutcomeUnknown,
    Rejected,
    SignatureInvalid,
    Throttled,
    Unreachable,
)

__all__ = [
    "ChannelLine",
    "ChannelListing",
    "ChannelOrder",
    "Connector",
    "Delivery",
    "Fetched",
    "Limit",
    "LimiterLike",
    "OutcomeUnknown",
    "Rejected",
    "Session",
    "SignatureInvalid",
    "StockWrite",
    "Throttled",
    "Traits",
    "Unreachable",
    "WriteOutcome",
    "WriteStatus",
]


@dataclass(frozen=True, slots=True)
class Traits:
    """How a channel behaves, as far as the rest of the service has to know.

    `intake` is `push` (webhooks, with a poll as repair), `queue` (pulled and acknowledged) or `poll` (only polled).
    `orders_have_version` says that `ChannelOrder.version` orders the snapshots of one order. `write_timeout_s` is the
    call's own deadline: a read-back after an unknown outcome waits for it. `limits` are by endpoint name, as the
    connector calls them.
    """

    connector: str
    intake: str
    quantity_trait: QuantityTrait
    reserves_unpaid: bool
    restores_on_cancel: bool
    orders_have_version: bool
    compares: bool
    max_batch: int
    write_timeout_s: float
    spacing_ms: int
    unpaid_deadline_h: int
    poll_interval_s: float
    poll_overlap_s: float
    limits: Mapping[str, Limit]
    credentials: tuple[str, ...]
    credentials_optional: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """An open way to one account: where it is, how to sign in, at what pace. Never logged."""

    connection_id: str
    base_url: str
    account: str
    credentials: Mapping[str, str]
    settings: Mapping[str, str]
    http: httpx.AsyncClient
    limiter: LimiterLike


@dataclass(frozen=True, slots=True)
class Delivery:
    """A verified push: the channel's id for it and its topic; `event_id` where one event is told by several pushes."""

    delivery_id: str
    topic: str
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class ChannelLine:
    """A line as the channel tells it. `item` is the advert that was sold (`ChannelListing.listing`).

    `quantity` counts units of the advert, before packs; `cancelled` and `returned` are parts of it.
    """

    line_id: str
    item: str
    sku: str
    quantity: int
    cancelled: int
    returned: int
    unit_price_minor: int
    discount_minor: int


@dataclass(frozen=True, slots=True)
class ChannelOrder:
    """An order as the channel tells it, mapped but not yet linked to our SKUs.

    `version` is comparable text that grows with each change where the channel has one, else empty. `buyer_id` is the
    channel's own id of the buyer (made into `customer_ref` with the tenant's key), `buyer` the personal data.
    """

    external_id: str
    version: str
    status: SaleStatus
    sold_at: datetime
    currency: str
    lines: tuple[ChannelLine, ...]
    total_minor: int
    freight_minor: int
    shipping_service: str
    payment_due: datetime | None
    buyer_id: str
    buyer: BuyerReported | None
    unresolved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """An order's raw body as it came, and the token with which its receipt is acknowledged (queues)."""

    external_id: str
    body: bytes
    receipt: str = ""


@dataclass(frozen=True, slots=True)
class StockWrite:
    """One record to write: the channel's item and location, the number, and what we expect to find (CAS) or None."""

    item: str
    location: str
    quantity: int
    expected: int | None = None


class WriteStatus(StrEnum):
    """What became of one record of a batch."""

    ACCEPTED = "accepted"
    STALE = "stale"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """The channel's answer for one record of a batch; `request_id` matches the channel's own books."""

    status: WriteStatus
    request_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ChannelListing:
    """An advert found at the channel: its id, the stock record it points to, and the seller's SKU text."""

    listing: str
    item: str
    location: str
    sku: str
    title: str
    quantity: int | None


class Connector(Protocol):
    """The functions of a connector. All are stateless; `traits` is data; remote ones raise the errors above."""

    traits: Traits

    def verify(self, headers: Mapping[str, str], body: bytes, credentials: Mapping[str, str]) -> Delivery:
        """Check the raw bytes of a push against the secret, before any parsing. Raises `SignatureInvalid`."""

    def points_to(self, topic: str, body: bytes) -> str:
        """The external id of the order that a delivery only points to; empty where the body is the order itself.

        Pure. Raises `ValueError` as `to_order` does.
        """

    def to_order(self, body: bytes) -> ChannelOrder:
        """Map a raw body. Pure. Raises `ValueError` naming the field where the body has not the documented shape."""

    async def check(self, session: Session, door_url: str) -> Sequence[str]:
        """Find out whether the connection works; returns problems in words, each saying what to do."""

    async def subscribe(self, session: Session, door_url: str) -> None:
        """Make the channel push to `door_url` (nothing for queues). Idempotent."""

    def receive(self, session: Session) -> AsyncIterator[Fetched]:
        """Orders waiting in the channel's queue, each until acknowledged (nothing for push channels)."""

    async def acknowledge(self, session: Session, fetched: Fetched) -> None:
        """Tell the channel that an order is safely ours. Idempotent; called only after our own commit."""

    async def fetch(self, session: Session, external_id: str) -> Fetched:
        """Read one order again."""

    def poll(self, session: Session, since: datetime) -> AsyncIterator[Fetched]:
        """Every order changed since a moment: the repair for lost pushes.

        Of a queue: every order that was never acknowledged, whether or not the queue shows it now.
        """

    async def write_stock(self, session: Session, writes: Sequence[StockWrite]) -> Sequence[WriteOutcome]:
        """Write up to `traits.max_batch` records; one outcome each. Raises the errors above."""

    async def read_stock(self, session: Session, items: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        """Read the numbers shown for (item, location) pairs."""

    def listings(self, session: Session) -> AsyncIterator[ChannelListing]:
        """Every advert of the account."""

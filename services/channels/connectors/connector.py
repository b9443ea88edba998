"""What a connector is: traits as data, and a few functions. Adding a channel is adding one file like `shopify.py`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import httpx

from contracts.channels.v1 import (
    BuyerReported,
    Checkout,
    InvoiceRule,
    InvoiceTold,
    ParcelTold,
    QuantityTrait,
    SaleStatus,
    ShortfallPolicy,
    TrackingTold,
)
from services.border.errors import (
    Limit,
    LimiterLike,
    OutcomeUnknown,
    Rejected,
    SignatureInvalid,
    Throttled,
    Unreachable,
)

if TYPE_CHECKING:
    import asyncpg

__all__ = [
    "ChannelLine",
    "ChannelListing",
    "ChannelOrder",
    "Connector",
    "Delivery",
    "Fetched",
    "Granted",
    "Limit",
    "LimiterLike",
    "OutcomeUnknown",
    "Refreshes",
    "Rejected",
    "Reporter",
    "Session",
    "SignatureInvalid",
    "StockWrite",
    "Throttled",
    "TokenEnded",
    "Told",
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

    `hook`: a queue that pushes as well; what it pushes comes sooner, what it queues is sure. `url_secret`: pushes are
    not signed, so the door's address holds the credential `hook_secret`. `answer_within_s`: when a push that was not
    answered counts as lost; where that is below a second, it is stored first and absorbed later. `credentials_drawn`
    are drawn by us where a person gives none. `fetch_parallel` is how many orders are read again at once. `reports` are
    the steps of an order's progress that the channel is told of (`Reporter`): any of `invoice`, `invoice_again` (one
    that takes the place of the first), `shipment`, `tracking`, `delivery`, `cancel`. `contact_allowed`: the channel
    lets us write to its buyers outside of it. `local`: the channel is in our own database, which its sessions then
    hold.
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
    hook: bool = False
    url_secret: bool = False
    answer_within_s: float = 5.0
    credentials_drawn: tuple[str, ...] = ()
    fetch_parallel: int = 1
    reports: frozenset[str] = frozenset()
    contact_allowed: bool = False
    local: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """An open way to one account: where it is, how to sign in, at what pace. Never logged.

    `token` gives the access token of a channel whose tokens end (`Refreshes`), and `token_refused` says that the
    channel took one for ended: the next `token` is another, or raises. `document` reads the file of an invoice from
    where erp keeps it (`InvoiceTold.content_url`). `database` is there for connectors with `Traits.local`. In
    `remembered` a connector keeps what earlier answers showed, by item; it is gone with the session, and nothing may
    depend on it.
    """

    connection_id: str
    base_url: str
    account: str
    credentials: Mapping[str, str]
    settings: Mapping[str, str]
    http: httpx.AsyncClient
    limiter: LimiterLike
    token: Callable[[], Awaitable[str]] | None = None
    token_refused: Callable[[str], None] | None = None
    document: Callable[[str], Awaitable[bytes]] | None = None
    database: "asyncpg.Pool[asyncpg.Record] | None" = None
    remembered: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A verified push: the channel's id for it and its topic; `event_id` where one event is told by several pushes.

    `ignored`: it is about no order (a ping, a topic of no use), so it is answered well and not kept.
    """

    delivery_id: str
    topic: str
    event_id: str = ""
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class ChannelLine:
    """A line as the channel tells it. `item` is the advert that was sold (`ChannelListing.listing`).

    `quantity` counts units of the advert, before packs; `cancelled` and `returned` are parts of it. `fulfilled_by` is
    the code of the location the channel itself ships from, else `us`.
    """

    line_id: str
    item: str
    sku: str
    quantity: int
    cancelled: int
    returned: int
    unit_price_minor: int
    discount_minor: int
    fulfilled_by: str = "us"


@dataclass(frozen=True, slots=True)
class ChannelOrder:
    """An order as the channel tells it, mapped but not yet linked to our SKUs.

    `version` is comparable text that grows with each change where the channel has one, else empty. `buyer_id` is the
    channel's own id of the buyer (made into `customer_ref` with the tenant's key), `buyer` the personal data.

    `aliases` are other names under which the channel speaks of the order, as `points_to` returns them. `reference` is a
    second id of the order that its reports need. `ship_by` is when the channel wants it on its way; where it only says
    when its buyer is to have it (`deliver_by`), the connection's setting `transit_days` makes one of it. `told` are the
    steps of progress that the channel shows as known to it, in words of `ProgressStep`. `checkout`, `invoice`,
    `shortfall_policy` and `all_or_nothing` go out with the sale as they are. `released_at`, for channels that take
    totals, is when the channel stopped to answer for the order's units: a number dated after that forgets them.
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
    aliases: tuple[str, ...] = ()
    reference: str = ""
    ship_by: datetime | None = None
    deliver_by: datetime | None = None
    told: frozenset[str] = frozenset()
    checkout: Checkout | None = None
    invoice: InvoiceRule | None = None
    shortfall_policy: ShortfallPolicy = ShortfallPolicy.OTHER_LOCATION
    all_or_nothing: bool = False
    released_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """An order's raw body as it came, or a body that only points to it (`points_to` tells which).

    `receipt` is the token with which a queue is told that it is ours. `version` is that of the order where the channel
    tells it beside a pointer: what we have is not read again then.
    """

    external_id: str
    body: bytes
    receipt: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class StockWrite:
    """One record to write: the channel's item and location, the number, and what we expect to find (CAS) or None.

    `as_of`, for channels that take totals, dates the number: orders of the record that the channel released until then
    (`ChannelOrder.released_at`) are no part of it.
    """

    item: str
    location: str
    quantity: int
    expected: int | None = None
    as_of: datetime | None = None


class WriteStatus(StrEnum):
    """What became of one record of a batch. `BUSY`: nothing was written, the record is locked for a while."""

    ACCEPTED = "accepted"
    STALE = "stale"
    REFUSED = "refused"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """The channel's answer for one record of a batch; `request_id` matches the channel's own books.

    `retry_after_s` is how long a `BUSY` record is left alone.
    """

    status: WriteStatus
    request_id: str = ""
    reason: str = ""
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ChannelListing:
    """An advert found at the channel: its id, the stock record it points to, and the seller's SKU text."""

    listing: str
    item: str
    location: str
    sku: str
    title: str
    quantity: int | None


@dataclass(frozen=True, slots=True)
class Told:
    """The order that a report is about: the channel's ids of it, and what the channel is known to know already."""

    external_id: str
    reference: str
    told: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Granted:
    """New tokens of an account; the refresh token that was given for them works no more."""

    access_token: str
    refresh_token: str
    expires_in_s: float


class TokenEnded(Rejected):
    """The channel takes a refresh token for ended or used up: the account has to be authorised again by a person."""


@runtime_checkable
class Refreshes(Protocol):
    """A connector whose access tokens end. Credential `refresh_token` is the first one; later ones are kept by us."""

    async def refresh(self, session: Session, refresh_token: str) -> Granted:
        """Exchange a refresh token. Raises `TokenEnded` and the errors above."""


@runtime_checkable
class Reporter(Protocol):
    """A connector that tells its channel about an order. Each returns the channel's id of the request, or nothing.

    Raises the errors above; a `Rejected` is for good, an `OutcomeUnknown` is looked up with `fetch` and
    `ChannelOrder.told` before it is tried again. Carrier and service are the channel's own words already.
    """

    async def report_invoice(self, session: Session, order: Told, invoice: InvoiceTold) -> str:
        """The order's invoice; the channel hears of it before it hears of a parcel."""

    async def report_shipment(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """A parcel has left."""

    async def report_tracking(self, session: Session, order: Told, parcel: ParcelTold, scan: TrackingTold) -> str:
        """Where a parcel was last."""

    async def report_delivery(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """A parcel has arrived."""

    async def cancel(self, session: Session, order: Told, reason: str) -> str:
        """We cancelled the order."""


class Connector(Protocol):
    """The functions of a connector. All are stateless; `traits` is data; remote ones raise the errors above."""

    traits: Traits

    def verify(self, headers: Mapping[str, str], body: bytes, credentials: Mapping[str, str]) -> Delivery:
        """Check the raw bytes of a push against the secret, before any parsing. Raises `SignatureInvalid`."""

    def points_to(self, topic: str, body: bytes) -> str:
        """The external id of the order that a delivery only points to; empty where the body is the order itself.

        `@` and one of the order's `ChannelOrder.aliases` where the channel speaks of it by that. Asked for what was
        pushed (its topic), and for what `receive` and `poll` gave (topics `queue`, `poll`), `fetch` apart. Pure. Raises
        `ValueError` as `to_order` does.
        """

    def to_order(self, body: bytes) -> ChannelOrder:
        """Map a raw body. Pure. Raises `ValueError` naming the field where the body has not the documented shape."""

    async def check(self, session: Session, door_url: str) -> Sequence[str]:
        """Find out whether the connection works; returns problems in words, each saying what to do."""

    async def subscribe(self, session: Session, door_url: str) -> None:
        """Make the channel push to `door_url` (nothing for queues). Idempotent."""

    def receive(self, session: Session) -> AsyncIterator[Sequence[Fetched]]:
        """What waits in the channel's queue, in lots as it hands them out, each until acknowledged (else nothing)."""

    async def acknowledge(self, session: Session, lot: Sequence[Fetched]) -> None:
        """Tell the channel that a lot is safely ours. Idempotent; called only after our own commit."""

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

    def listings(self, session: Session, known: Container[str] = ()) -> AsyncIterator[ChannelListing]:
        """Every advert of the account. Those in `known` may be left out, and are where each costs a request."""

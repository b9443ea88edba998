"""The retailer's own shop: a channel whose numbers and orders are in our own database (`services.channels.shop`).

Its orders come in as bodies written by our own HTTP API, so nobody pushes and nothing is polled. Settings: `currency`
(BRL), `methods` (card,pix), `card_gateway` (stripe), `card_page_url` (the gateway's page where a card is typed; without
it cards are not offered), `pix_gateway` (pix), `hold_card_min` (15), `hold_pix_min` (30), `track_days` (90),
`time_zone` (America/Sao_Paulo; in it buyers read times).
"""

from collections.abc import AsyncIterator, Container, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeAlias
from uuid import uuid4

import asyncpg
from pydantic import TypeAdapter, ValidationError

from contracts.channels.v1 import InvoiceTold, ParcelTold, QuantityTrait, TrackingTold
from services.channels.connectors.connector import (
    ChannelListing,
    ChannelOrder,
    Delivery,
    Fetched,
    Limit,
    OutcomeUnknown,
    Rejected,
    Session,
    SignatureInvalid,
    StockWrite,
    Told,
    Traits,
    Unreachable,
    WriteOutcome,
    WriteStatus,
)
from services.channels.shop import numbers, store, told
from services.channels.shop.terms import terms_of

LOCATION: Final = "shop"
"""The one place where a shop of ours shows numbers."""
_KEY_LENGTH_MIN: Final = 20
_PAGE: Final = 1000
_DATABASE_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
_order: Final = TypeAdapter(ChannelOrder)

_Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


class Shop:
    """A connection's account is the shop's name, its base URL the address of the storefront."""

    traits: Traits = Traits(
        connector="shop",
        intake="push",
        quantity_trait=QuantityTrait.ABSOLUTE,
        reserves_unpaid=True,
        restores_on_cancel=True,
        orders_have_version=True,
        compares=True,
        max_batch=500,
        write_timeout_s=5.0,
        spacing_ms=0,
        unpaid_deadline_h=0,
        poll_interval_s=60.0,
        poll_overlap_s=0.0,
        # Nobody's limit but ours: a batch holds the shop's numbers for some milliseconds.
        limits={"numbers": Limit(50.0, 10.0)},
        credentials=(),
        credentials_drawn=("api_key",),
        settings=(
            "currency",
            "methods",
            "card_gateway",
            "card_page_url",
            "pix_gateway",
            "hold_card_min",
            "hold_pix_min",
            "track_days",
            "time_zone",
        ),
        reports=frozenset({"invoice", "invoice_again", "shipment", "tracking", "delivery", "cancel"}),
        contact_allowed=True,
        local=True,
    )

    # -- in ----------------------------------------------------------------------------------------------------------

    def verify(self, headers: Mapping[str, str], body: bytes, credentials: Mapping[str, str]) -> Delivery:
        """Nobody outside tells us of our own shop's orders."""
        del headers, body, credentials
        raise SignatureInvalid("this channel does not push")

    def points_to(self, topic: str, body: bytes) -> str:
        """Every body is the order itself."""
        del topic, body
        return ""

    def to_order(self, body: bytes) -> ChannelOrder:
        """The body is the order as our API wrote it."""
        try:
            return _order.validate_json(body)
        except ValidationError as wrong:
            # Without what was given: it may be the buyer's.
            wrongs = [f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['type']}" for one in wrong.errors()]
            raise ValueError("; ".join(wrongs)) from None

    async def receive(self, session: Session) -> AsyncIterator[Sequence[Fetched]]:
        """Nothing: the API stores orders itself."""
        del session
        nothing: tuple[Sequence[Fetched], ...] = ()
        for lot in nothing:
            yield lot

    async def acknowledge(self, session: Session, lot: Sequence[Fetched]) -> None:
        """Nothing: the commit is the acknowledgement."""
        del session, lot

    async def fetch(self, session: Session, external_id: str) -> Fetched:
        """The basket as it is kept, without its buyer."""
        try:
            async with _database(session).acquire() as connection:
                basket = await store.by_external_id(connection, session.connection_id, external_id)
        except _DATABASE_ERRORS:
            raise Unreachable(1.0) from None
        if basket is None:
            raise Rejected(f"there is no basket {external_id}")
        return Fetched(external_id, _order.dump_json(told.to_order(basket, None, "")))

    async def poll(self, session: Session, since: datetime) -> AsyncIterator[Fetched]:
        """Nothing can be lost: a basket and its body are written in one transaction."""
        del session, since
        nothing: tuple[Fetched, ...] = ()
        for fetched in nothing:
            yield fetched

    # -- stock -------------------------------------------------------------------------------------------------------

    async def write_stock(self, session: Session, writes: Sequence[StockWrite]) -> Sequence[WriteOutcome]:
        """All in one transaction; a number that is not the one expected is left as it is."""
        await session.limiter.acquire("numbers")
        request_id = str(uuid4())
        shop = session.connection_id
        try:
            async with _database(session).acquire() as connection, connection.transaction():
                shelf = await numbers.lock(connection, [(shop, write.item) for write in writes])
                outcomes = [_write(shelf, shop, write, request_id) for write in writes]
                await numbers.save(connection, shelf, datetime.now(UTC))
        except _DATABASE_ERRORS as failure:
            raise OutcomeUnknown(f"numbers: {type(failure).__name__}") from None
        return outcomes

    async def read_stock(self, session: Session, items: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        """The numbers that the shop shows; what it does not sell is left out."""
        try:
            async with _database(session).acquire() as connection:
                shown = await numbers.numbers(connection, session.connection_id, [item for item, _ in items])
        except _DATABASE_ERRORS:
            raise Unreachable(1.0) from None
        return {(item, location): shown[item] for item, location in items if item in shown}

    async def listings(self, session: Session, known: Container[str] = ()) -> AsyncIterator[ChannelListing]:
        """One advert a product; its id, its item and its text are the product's SKU."""
        del known  # They come many at a time.
        after = ""
        while True:
            try:
                async with _database(session).acquire() as connection:
                    page = await numbers.products(connection, session.connection_id, after, _PAGE)
            except _DATABASE_ERRORS:
                raise Unreachable(1.0) from None
            for one in page:
                yield ChannelListing(one.sku, one.sku, LOCATION, one.sku, one.title, one.quantity)
            if len(page) < _PAGE:
                return
            after = page[-1].sku

    # -- the account -------------------------------------------------------------------------------------------------

    async def check(self, session: Session, door_url: str) -> Sequence[str]:
        """Whether its settings can be read and it has something to sell."""
        del door_url
        problems = []
        if len(session.credentials.get("api_key", "")) < _KEY_LENGTH_MIN:
            problems.append(
                f"credential api_key is shorter than {_KEY_LENGTH_MIN} characters: leave it out to have one"
            )
        try:
            terms = terms_of(session.settings)
        except ValueError as error:
            return [*problems, str(error)]
        if not any(terms.gateway(method) for method in terms.methods):
            problems.append("no method to pay is offered: set methods to pix, or give card_page_url for cards")
        async with _database(session).acquire() as connection:
            if not await numbers.products(connection, session.connection_id, "", 1):
                problems.append("the shop has no products: put them there with `saldo shop products`")
        return problems

    async def subscribe(self, session: Session, door_url: str) -> None:
        """Nothing: the API is ours."""
        del session, door_url

    # -- reports: the shop hears of an order's progress itself (`shop.handlers.hear`), so each is known already --------

    async def report_invoice(self, session: Session, order: Told, invoice: InvoiceTold) -> str:
        """Known with the progress."""
        del session, order, invoice
        return ""

    async def report_shipment(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """Known with the progress."""
        del session, order, parcel
        return ""

    async def report_tracking(self, session: Session, order: Told, parcel: ParcelTold, scan: TrackingTold) -> str:
        """Known with the progress."""
        del session, order, parcel, scan
        return ""

    async def report_delivery(self, session: Session, order: Told, parcel: ParcelTold) -> str:
        """Known with the progress."""
        del session, order, parcel
        return ""

    async def cancel(self, session: Session, order: Told, reason: str) -> str:
        """Known with the progress."""
        del session, order, reason
        return ""


def _database(session: Session) -> _Pool:
    assert session.database is not None, "sessions of local channels hold the database"
    return session.database


def _write(shelf: numbers.Shelf, shop: str, write: StockWrite, request_id: str) -> WriteOutcome:
    shown = shelf.shown(shop, [write.item]).get(write.item)
    if shown is None:
        return WriteOutcome(WriteStatus.REFUSED, request_id, f"the shop does not sell {write.item}")
    if write.expected is not None and write.expected != shown:
        return WriteOutcome(WriteStatus.STALE, request_id)
    shelf.set("write", shop, write.item, write.quantity, request_id=request_id)
    return WriteOutcome(WriteStatus.ACCEPTED, request_id)

"""A basket from its first line to the order's end, and what a storefront may do with it when. Pure.

What a buyer does and what orders tells are kept; where the basket stands is worked out from both. A refusal changes
nothing and says what to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal, TypeAlias, final
from zoneinfo import ZoneInfo

from contracts.channels.v1 import BuyerReported, OrderProgress, PaymentTold, SaleStatus
from contracts.fulfillment.v1 import DeliveryOption, DeliveryQuoted
from contracts.payments.v1 import PaymentMethod

_SAO_PAULO: Final = ZoneInfo("America/Sao_Paulo")
PAID_STATES: Final = frozenset({"confirmed", "invoiced", "packed", "shipped", "delivered", "returned", "closed"})
"""States of an order, in the words of orders, that an unpaid one never reaches."""
_PAID_PAYMENTS: Final = frozenset({"authorized", "captured"})
_OVER_PAYMENTS: Final = frozenset({"failed", "voided"})


class State(StrEnum):
    """Where a basket stands.

    `open`: inventory has not answered yet. `held`: the stock is reserved. `choosing`: the address is known. `paying`:
    the buyer tries to pay. `placed`: it is paid, and from now on an order. `cancelled`: let go, short, or not paid.
    """

    OPEN = "open"
    HELD = "held"
    CHOOSING = "choosing"
    PAYING = "paying"
    PLACED = "placed"
    CANCELLED = "cancelled"


@final
@dataclass(frozen=True, slots=True)
class BasketLine:
    """Units of a product of the shop, at the price of the moment it was put into the basket."""

    line_id: str
    sku: str
    title: str
    quantity: int
    unit_price_minor: int


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """What a shop offers its buyers, from the settings of its connection. Buyers read times in `time_zone`."""

    currency: str = "BRL"
    methods: tuple[PaymentMethod, ...] = (PaymentMethod.CARD, PaymentMethod.PIX)
    card_gateway: str = "stripe"
    card_page_url: str = ""
    pix_gateway: str = "pix"
    hold_card: timedelta = timedelta(minutes=15)
    hold_pix: timedelta = timedelta(minutes=30)
    track: timedelta = timedelta(days=90)
    time_zone: ZoneInfo = _SAO_PAULO

    def gateway(self, method: PaymentMethod) -> str:
        """The gateway that takes this method; empty where it is not offered."""
        if method not in self.methods or (method is PaymentMethod.CARD and not self.card_page_url):
            return ""
        return self.card_gateway if method is PaymentMethod.CARD else self.pix_gateway


@final
@dataclass(frozen=True, slots=True)
class Basket:
    """A basket with all that was said about it, the buyer's data apart.

    `version` counts what intake was told, `change` every change that a storefront can see. `options` is None until
    fulfillment has answered the quote `quote_id`. `token` is the gateway's, until the try it was given for is told of.
    """

    tenant: str
    connection_id: str
    order_id: str
    basket_id: str
    external_id: str
    language: str
    currency: str
    lines: tuple[BasketLine, ...]
    created_at: datetime
    hold_until: datetime
    traceparent: str = ""
    version: int = 1
    change: int = 1
    quotes: int = 0
    options: tuple[DeliveryOption, ...] | None = None
    incomplete: bool = False
    chosen: DeliveryOption | None = None
    method: PaymentMethod | None = None
    gateway: str = ""
    attempt: int = 0
    ended: Literal["", "cancelled", "delivered", "returned"] = ""
    ended_at: datetime | None = None
    cancelled_for: str = ""
    asked_to_cancel: bool = False
    progress: OrderProgress | None = None

    @property
    def quote_id(self) -> str:
        """The latest quote that was asked for; empty before the first address."""
        return f"{self.order_id}:q{self.quotes}" if self.quotes else ""

    @property
    def goods_minor(self) -> int:
        """What the lines cost."""
        return sum(line.quantity * line.unit_price_minor for line in self.lines)

    @property
    def freight_minor(self) -> int:
        """What the chosen delivery costs."""
        return self.chosen.price_minor if self.chosen else 0

    @property
    def total_minor(self) -> int:
        """What the buyer has to pay."""
        return self.goods_minor + self.freight_minor

    @property
    def payment(self) -> PaymentTold | None:
        """How the buyer's latest try to pay stands; None before the first, and until orders has told of it."""
        told = self.progress.payment if self.progress else None
        return told if told and told.attempt == self.attempt and self.attempt else None

    @property
    def paid(self) -> bool:
        """Whether the money is there, or surely coming."""
        if self.progress is None:
            return False
        told = self.progress.payment
        return self.progress.state in PAID_STATES or (told is not None and told.status in _PAID_PAYMENTS)

    @property
    def trying(self) -> bool:
        """Whether a try to pay is at the gateway, with no answer yet that lets the buyer try another way."""
        if not self.attempt or self.paid:
            return False
        return self.payment is None or self.payment.status == "asked"

    @property
    def held(self) -> bool:
        """Whether inventory has reserved all of it."""
        return self.progress is not None and (self.progress.state == "held" or self.paid) and not self.short

    @property
    def short(self) -> bool:
        """Whether inventory lacks some of it."""
        told = self.progress
        return told is not None and (told.state == "short" or told.cancelled_reason == "sold_out")

    @property
    def state(self) -> State:
        """Where the basket stands."""
        if self.ended == "cancelled":
            return State.CANCELLED
        if self.paid:
            return State.PLACED
        if self.attempt:
            return State.PAYING
        if self.quotes:
            return State.CHOOSING
        return State.HELD if self.held else State.OPEN

    @property
    def status(self) -> SaleStatus:
        """What intake is told. Whether it is paid is payments' word and no channel's, so it is never said here."""
        match self.ended:
            case "cancelled":
                return SaleStatus.CANCELLED
            case "delivered":
                return SaleStatus.DELIVERED
            case "returned":
                return SaleStatus.RETURNED
            case _:
                return SaleStatus.CANCEL_REQUESTED if self.asked_to_cancel else SaleStatus.AWAITING_PAYMENT


@final
@dataclass(frozen=True, slots=True)
class Refusal:
    """What was asked is not done: an HTTP status, a word for programs, a sentence for people, and figures with it."""

    status: int
    code: str
    detail: str
    figures: Mapping[str, str | int] | None = None


@final
@dataclass(frozen=True, slots=True)
class GiveAddress:
    """The buyer and where it goes. A new address asks for a new quote and forgets the choice."""

    buyer: BuyerReported


@final
@dataclass(frozen=True, slots=True)
class ChooseDelivery:
    """One of the options of the latest quote."""

    option_id: str


@final
@dataclass(frozen=True, slots=True)
class Pay:
    """One more try to pay. `token` is the gateway's for a card; Pix has none."""

    method: PaymentMethod
    token: str = ""


@final
@dataclass(frozen=True, slots=True)
class LetGo:
    """The buyer does not want the unpaid basket any more."""


@final
@dataclass(frozen=True, slots=True)
class AskToCancel:
    """The buyer of a paid order wants it cancelled; a person decides."""


Deed: TypeAlias = GiveAddress | ChooseDelivery | Pay | LetGo | AskToCancel


_CANCELLED: Final = Refusal(409, "cancelled", "the basket is cancelled: open a new one")
_PAID: Final = Refusal(409, "paid", "the basket is paid: ask to cancel the order instead")
_TRYING: Final = Refusal(409, "payment_under_way", "a payment is under way: wait for its outcome")


def act(basket: Basket, deed: Deed, terms: Terms, now: datetime) -> Basket | Refusal:
    """What a deed makes of a basket. The same object comes back where nothing changes."""
    if isinstance(deed, AskToCancel):
        return _ask_to_cancel(basket)
    if basket.ended == "cancelled":
        return basket if isinstance(deed, LetGo) else _CANCELLED
    if basket.paid:
        return _PAID
    if basket.trying:
        return _TRYING
    match deed:
        case GiveAddress():
            return _told(basket, quotes=basket.quotes + 1, options=None, incomplete=False, chosen=None)
        case ChooseDelivery(option_id):
            return _choose(basket, option_id)
        case Pay():
            return _pay(basket, deed, terms, now)
        case LetGo():
            return _told(basket, ended="cancelled", ended_at=now, cancelled_for="buyer")


def _told(basket: Basket, **changes: object) -> Basket:
    """The basket with a change that intake hears of."""
    return replace(basket, version=basket.version + 1, change=basket.change + 1, **changes)  # type: ignore[arg-type]


def _choose(basket: Basket, option_id: str) -> Basket | Refusal:
    if basket.options is None:
        return Refusal(409, "no_options", "the delivery options are not known yet: ask for them first")
    chosen = next((option for option in basket.options if option.option_id == option_id), None)
    if chosen is None:
        return Refusal(422, "no_such_option", "option_id is none of the latest delivery options: ask for them again")
    if chosen.currency != basket.currency:
        return Refusal(409, "other_currency", "the price of this option is in another currency than the basket")
    return basket if chosen == basket.chosen else _told(basket, chosen=chosen)


def _pay(basket: Basket, deed: Pay, terms: Terms, now: datetime) -> Basket | Refusal:
    gateway = terms.gateway(deed.method)
    if not gateway:
        return Refusal(422, "no_such_method", "this shop does not take that method: ask for its payment methods")
    if deed.method is PaymentMethod.CARD and not deed.token:
        return Refusal(422, "no_token", "send the token that the gateway's page gave for the card")
    if not basket.held:
        return Refusal(409, "not_held", "the stock is not held yet: ask for the basket until its state is held")
    if basket.chosen is None:
        return Refusal(409, "no_delivery", "choose a delivery option first: it is part of the price")
    if basket.hold_until <= now:
        return Refusal(409, "hold_over", "the time to pay is over and the stock is given back: open a new basket")
    hold_until = held_until(basket, deed.method, terms, now)
    return _told(basket, method=deed.method, gateway=gateway, attempt=basket.attempt + 1, hold_until=hold_until)


def held_until(basket: Basket, method: PaymentMethod, terms: Terms, now: datetime) -> datetime:
    """Until when a basket holds its stock once its buyer pays like this.

    No later than a Pix could be paid that was chosen last in the first hold: else whoever asks for one Pix after the
    other holds stock for ever and pays nothing.
    """
    if method is not PaymentMethod.PIX:
        return basket.hold_until
    last = basket.created_at + terms.hold_card + terms.hold_pix
    return max(basket.hold_until, min(now + terms.hold_pix, last))


def _ask_to_cancel(basket: Basket) -> Basket | Refusal:
    if basket.ended == "cancelled" or basket.asked_to_cancel:
        return basket
    if basket.ended:
        return Refusal(409, "delivered", "the order is delivered: ask to return it instead")
    if not basket.paid:
        return Refusal(409, "unpaid", "the basket is not paid: let it go with DELETE")
    return _told(basket, asked_to_cancel=True)


def hear(basket: Basket, progress: OrderProgress, now: datetime) -> Basket:
    """The basket after what orders tells of it; the same object where that is not new."""
    if basket.progress is not None and progress.revision <= basket.progress.revision:
        return basket
    heard = replace(basket, progress=progress, change=basket.change + 1)
    ended = _end(basket, progress)
    if ended == basket.ended:
        return heard
    return replace(
        heard, version=basket.version + 1, ended=ended, ended_at=basket.ended_at or now,
        cancelled_for=(progress.cancelled_reason or "channel") if ended == "cancelled" else "",
    )  # fmt: skip


def _end(basket: Basket, progress: OrderProgress) -> Literal["", "cancelled", "delivered", "returned"]:
    match progress.state:
        case "cancelled":
            return "cancelled"
        case "delivered" if basket.ended == "":
            return "delivered"
        case "returned" if basket.ended != "cancelled":
            return "returned"
        case _:
            return basket.ended


def told_of_try(basket: Basket) -> bool:
    """Whether the token of the latest try is of no use any more: the gateway has it, or the basket is over."""
    return bool(basket.ended) or basket.paid or not basket.attempt or not basket.trying


def quoted(basket: Basket, answer: DeliveryQuoted) -> Basket:
    """The basket with the options of its latest quote; an answer to an older one changes nothing."""
    if answer.quote_id != basket.quote_id or basket.options is not None:
        return basket
    return replace(basket, options=answer.options, incomplete=answer.incomplete, change=basket.change + 1)


def released(before: Basket, after: Basket) -> bool:
    """Whether the shop's own numbers go up again by what the basket held."""
    return before.ended != "cancelled" and after.ended == "cancelled"


def untold(before: Basket, after: Basket) -> bool:
    """Whether intake has to hear of the change."""
    return after.version != before.version


def shortage(lines: Sequence[tuple[str, int]], shown: Mapping[str, int]) -> tuple[str, int] | None:
    """The first (sku, number shown) that does not have what the lines ask for in all, or None."""
    wanted: dict[str, int] = {}
    for sku, quantity in lines:
        wanted[sku] = wanted.get(sku, 0) + quantity
    return next(((sku, shown.get(sku, 0)) for sku in wanted if shown.get(sku, 0) < wanted[sku]), None)

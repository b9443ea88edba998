"""The shapes of the shop's HTTP API. Money is in the currency's minor units, times are RFC 3339 in UTC."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from contracts.channels.v1 import BuyerAddress, BuyerReported
from contracts.fulfillment.v1 import DeliveryOption
from contracts.payments.v1 import PaymentMethod
from services.border.cards import contains_card
from services.border.tax_ids import cnpj, cpf
from services.channels.shop.domain import Basket, Terms, held_until

_SATURDAY: Final = 5
_DAYS_MAX: Final = 3650
_BRAZIL: Final = "BR"

Language = Literal["pt-BR", "en"]


def _printable(text: str) -> str:
    # Neither PostgreSQL's NUL nor half a character of UTF-16 can be kept.
    if not text.isprintable():
        raise ValueError("holds characters that cannot be printed")
    return text.strip()


Sku = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]
Text = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Given = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]


class CardSeen(ValueError):
    """A card's number was sent. Nothing of it is repeated."""

    def __init__(self) -> None:
        super().__init__("holds the number of a card: send the token that the gateway's page gives for it")


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class NewLine(_Asked):
    """So many units of a product."""

    sku: Sku
    quantity: Annotated[int, Field(ge=1, le=10_000)]


class NewBasket(_Asked):
    """What a buyer wants. A product that is named twice is wanted as often as both say."""

    lines: Annotated[list[NewLine], Field(min_length=1, max_length=100)]
    language: Language = "pt-BR"

    @property
    def wanted(self) -> tuple[tuple[str, int], ...]:
        """(sku, quantity), each product once."""
        units: dict[str, int] = {}
        for line in self.lines:
            units[line.sku] = units.get(line.sku, 0) + line.quantity
        return tuple(units.items())


class NewAddress(_Asked):
    """A postal address."""

    street: Given
    number: Text = ""
    complement: Text = ""
    district: Text = ""
    city: Given
    region: Text = ""
    postal_code: Given
    country: Annotated[str, Field(pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2.")] = _BRAZIL


class NewBuyer(_Asked):
    """Who buys, and where it goes. `document` is a CPF or CNPJ where the address is in Brazil."""

    name: Given
    email: Annotated[str, Field(max_length=200, pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$"), AfterValidator(_printable)]
    document: Text = ""
    phone: Annotated[str, Field(pattern=r"^$|^\+?[0-9() -]{8,20}$")] = ""
    address: NewAddress

    @model_validator(mode="after")
    def _fits(self) -> Self:
        brazil = self.address.country == _BRAZIL
        if brazil and not (cpf(self.document) or cnpj(self.document)):
            raise ValueError("document is no CPF or CNPJ: an order in Brazil is invoiced to one")
        if brazil and sum(one.isdecimal() for one in self.address.postal_code) != len("00000000"):
            raise ValueError("postal_code is no CEP of eight digits")
        # A phone and a CPF or CNPJ have other forms than a card, and may have its check digit by chance.
        if any(contains_card(text) for text in self._texts(brazil)):
            raise CardSeen
        return self

    def _texts(self, brazil: bool) -> Iterator[str]:
        yield from (self.name, self.email, *self.address.model_dump().values())
        if not brazil:
            yield self.document
        if sum(one.isdecimal() for one in self.phone) > len("5511900000000"):
            yield self.phone

    def told(self) -> BuyerReported:
        """As it is reported; the order's ids are filled in by intake."""
        document = cpf(self.document) or cnpj(self.document) or self.document
        return BuyerReported(
            customer_ref="",
            order_id="",
            name=self.name,
            document=document,
            emails=(self.email,),
            phones=(self.phone,) if self.phone else (),
            addresses=(BuyerAddress(kind="shipping", **self.address.model_dump()),),
        )


class NewChoice(_Asked):
    """One of the latest delivery options."""

    option_id: Annotated[str, Field(min_length=1, max_length=64)]


class NewPayment(_Asked):
    """How the buyer pays. `token` is what the gateway's page gave for a card; Pix has none."""

    method: Literal["card", "pix"]
    token: Annotated[str, Field(max_length=200), AfterValidator(_printable)] = ""

    @model_validator(mode="after")
    def _no_card(self) -> Self:
        if contains_card(self.token):
            raise CardSeen
        return self


class NewReturn(_Asked):
    """Why the buyer wants to give the goods back."""

    reason: Literal["damaged", "wrong", "unwanted", "other"] = "other"


class NewProduct(_Asked):
    """A product on sale."""

    sku: Sku
    title: Given
    price_minor: Annotated[int, Field(ge=0, lt=10**12)]


class NewProducts(_Asked):
    """Products to put on sale, or to change; those not named stay as they are."""

    rows: Annotated[list[NewProduct], Field(min_length=1, max_length=10_000)]


class Product(BaseModel):
    """A product and how many units can be bought now."""

    sku: str
    title: str
    price_minor: int
    currency: str
    available: int


class Products(BaseModel):
    """A page of products by SKU; `next` is given as `after` for the one that follows."""

    products: list[Product]
    next: str | None


class Kept(BaseModel):
    """How many products were kept, and how many of them are linked to a SKU of the stock."""

    kept: int
    linked: int


class Line(BaseModel):
    """Units of a product at the price of the moment it was put into the basket."""

    line_id: str
    sku: str
    title: str
    quantity: int
    unit_price_minor: int


class Option(BaseModel):
    """A way to deliver: business days from now, and the dates that they come to."""

    option_id: str
    carrier: str
    service: str
    price_minor: int
    currency: str
    days_min: int
    days_max: int
    earliest_on: date
    latest_on: date


class Options(BaseModel):
    """The ways to deliver, cheapest first; none where nobody delivers, once it is `ready`.

    `incomplete`: a carrier did not answer in time.
    """

    ready: bool
    options: list[Option]
    incomplete: bool


class Method(BaseModel):
    """A way to pay. `page_url` is where a card is typed: add `return_url`; it comes back with `token`."""

    method: str
    page_url: str | None
    hold_until: datetime = Field(description="Until when the stock is held for whoever pays this way now.")


class Methods(BaseModel):
    """The ways to pay that this shop offers."""

    methods: list[Method]


class Payment(BaseModel):
    """The latest try to pay: `asked`, `pending`, `authorized`, `captured`, `failed`, `voided` or `refunded`."""

    method: str
    attempt: int
    status: str
    pix_text: str | None = None
    next_url: str | None = Field(default=None, description="The page on which the buyer answers their bank.")
    expires_at: datetime | None = None
    reason: str | None = None


class BasketTold(BaseModel):
    """A basket. `basket` is its secret name, `order_id` and `number` are the order's; `change` grows with each change.

    States: `open` (the stock is being reserved), `held`, `choosing` (the address is known), `paying`, `placed` (paid),
    `cancelled` (`cancelled_for`: buyer, payment_expired, payment_failed, sold_out, person, …).
    """

    basket: str
    order_id: str
    number: str
    state: Literal["open", "held", "choosing", "paying", "placed", "cancelled"]
    change: int
    language: Language
    currency: str
    lines: list[Line]
    goods_minor: int
    freight_minor: int
    total_minor: int
    hold_until: datetime
    time_zone: str = Field(description="Of the shop, in the IANA database: buyers are told times in it.")
    held: bool
    address_given: bool
    delivery: Option | None
    payment: Payment | None
    order_state: str | None = Field(description="Of the order, in the words of orders, once there is one.")
    cancelled_for: str | None
    tracking_url: str | None


class NumberChange(BaseModel):
    """A number that changed: pushed (`write`, under the push's `request_id`), or by a line of an order."""

    position: int
    kind: Literal["write", "sale", "cancel"]
    sku: str
    number_before: int
    number_after: int
    number: str = Field(description="Of the order, as told to its buyer; empty for a write.")
    line_id: str
    request_id: str
    price_minor: int
    at: datetime


class NumberChanges(BaseModel):
    """Changes in the order in which they happened; `position` is given as `after` for those that follow."""

    changes: list[NumberChange]
    position: int


class Problem(BaseModel):
    """RFC 9457. `code` is for programs; more fields may follow it."""

    title: str
    status: int
    detail: str
    code: str


def business_day(first: date, days: int) -> date:
    """The day that many business days after `first`, ten years at most; holidays are not known."""
    day, days = first, min(days, _DAYS_MAX)
    while days > 0 or day.weekday() >= _SATURDAY:
        day += timedelta(days=1)
        if day.weekday() < _SATURDAY:
            days -= 1
    return day


def option_told(option: DeliveryOption, today: date) -> Option:
    """An option with its dates."""
    return Option(
        **option.model_dump(),
        earliest_on=business_day(today, option.days_min),
        latest_on=business_day(today, option.days_max),
    )


def basket_told(basket: Basket, tracking_url: str | None, now: datetime, zone: ZoneInfo) -> BasketTold:
    """A basket as a storefront of a shop in `zone` sees it. The tracking link is told once it is paid."""
    progress, today = basket.progress, now.astimezone(zone).date()
    return BasketTold(
        basket=basket.basket_id,
        order_id=basket.order_id,
        number=basket.external_id,
        state=basket.state.value,
        change=basket.change,
        language="en" if basket.language == "en" else "pt-BR",
        currency=basket.currency,
        lines=[
            Line(
                line_id=line.line_id,
                sku=line.sku,
                title=line.title,
                quantity=line.quantity,
                unit_price_minor=line.unit_price_minor,
            )
            for line in basket.lines
        ],
        goods_minor=basket.goods_minor,
        freight_minor=basket.freight_minor,
        total_minor=basket.total_minor,
        hold_until=basket.hold_until,
        time_zone=zone.key,
        held=basket.held,
        address_given=basket.quotes > 0,
        delivery=option_told(basket.chosen, today) if basket.chosen else None,
        payment=_payment_told(basket),
        order_state=progress.state if progress else None,
        cancelled_for=basket.cancelled_for or None,
        tracking_url=tracking_url,
    )


def _payment_told(basket: Basket) -> Payment | None:
    if not basket.attempt or basket.method is None:
        return None
    told: dict[str, Any] = {"status": "asked"}
    if basket.payment is not None:
        told = basket.payment.model_dump(include={"status", "pix_text", "next_url", "expires_at", "reason"})
    return Payment(method=basket.method.value, attempt=basket.attempt, **told)


def methods_told(basket: Basket, terms: Terms, now: datetime) -> Methods:
    """The ways to pay a basket."""
    return Methods(
        methods=[
            Method(
                method=method.value,
                page_url=terms.card_page_url if method is PaymentMethod.CARD else None,
                hold_until=held_until(basket, method, terms, now),
            )
            for method in terms.methods
            if terms.gateway(method)
        ]
    )

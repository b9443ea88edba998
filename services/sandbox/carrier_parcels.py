"""A carrier's parcels: what they cost, how they travel, and the accounts they belong to. In memory, kept in the books.

Rows of the books (`shop` is the account), besides what `books.py` says of every row. `order_id` is the carrier's id of
a parcel (the tracking code for the retailer's own rates), `shipment_id` the first tag its sender gave it.

quoted      to_code, weight_g, options [{service, price_minor, days_min, days_max}]
carted      order_id, shipment_id, service, price_minor, late (bool)
bought      order_id, shipment_id, service, price_minor, invoice_key, late (bool)
generated   order_id, shipment_id, tracking_code
printed     order_id, shipment_id, tracking_code
collected   order_id, shipment_id, tracking_code: handed over by a sender with rates of their own
cancelled   order_id, shipment_id, refunded_minor
scan        order_id, shipment_id, tracking_code, scan_id, status, place
webhook     delivery_id, event, order_id, attempt, signed (own, foreign, none), status (an HTTP status, or timeout,
            error, dropped, given_up)

`late` marks a call that was executed while its client was not answered in time.
"""

import math
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from services.sandbox.books import Books, Documents, Fact, now_ms
from services.sandbox.carrier_settings import CarrierService, CarrierSettings
from services.sandbox.limits import Bucket
from services.sandbox.vices import Temper

ScanStatus = Literal[
    "accepted", "in_transit", "out_for_delivery", "attempt_failed", "delivered", "returning", "returned", "lost"
]
ENDS: Final = frozenset({"delivered", "returned", "lost"})
STATUS_OF: Final[dict[str, str]] = {
    "accepted": "posted",
    "in_transit": "posted",
    "out_for_delivery": "posted",
    "attempt_failed": "undelivered",
    "delivered": "delivered",
    "returning": "undelivered",
    "returned": "undelivered",
    "lost": "suspended",
}
"""What Melhor Envio calls a parcel after each scan: its words are fewer than a courier's."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A scan to come: `day` counts from the moment the parcel set off."""

    day: float
    status: ScanStatus
    place: str


def travel(days: float, fate: Literal["delivered", "returned", "lost"], *, goes_back: bool = False) -> list[Stop]:
    """Every scan of a parcel that is promised within `days`, in the order of time."""
    stops = [Stop(0.0, "accepted", "agência de origem"), Stop(0.1 * days, "in_transit", "centro de distribuição")]
    if fate == "lost":
        return [*stops, Stop(1.5 * days, "lost", "centro de distribuição")]
    stops.append(Stop(0.8 * days, "out_for_delivery", "unidade de destino"))
    if goes_back:
        stops.append(Stop(0.9 * days, "in_transit", "centro de distribuição"))
    if fate == "returned":
        stops.append(Stop(days, "attempt_failed", "unidade de destino"))
        stops.append(Stop(1.1 * days, "returning", "unidade de destino"))
        return [*stops, Stop(2.0 * days, "returned", "agência de origem")]
    stops.append(Stop(days, "delivered", "endereço de destino"))
    if goes_back:
        stops.append(Stop(1.1 * days, "out_for_delivery", "unidade de destino"))
    return stops


def chargeable_g(volumes: Sequence[dict[str, float]], cubic_divisor: int) -> int:
    """Grams that are paid for: each volume by its weight (kg) or its size (cm), whichever is more."""
    total = 0.0
    for one in volumes:
        cubic_kg = one["height"] * one["width"] * one["length"] / cubic_divisor
        total += max(one["weight"], cubic_kg)
    return math.ceil(total * 1000)


def price_minor(service: CarrierService, weight_g: int, from_code: str, to_code: str) -> int:
    """What the service costs for this weight between these postcodes; regions are their first digits."""
    regions = abs(int(from_code[0]) - int(to_code[0]))
    return service.base_minor + service.per_kg_minor * math.ceil(weight_g / 1000) + service.per_region_minor * regions


@dataclass(slots=True)
class Parcel:
    """One parcel, as it is kept. `scans` have happened: {scan_id, status, place, at_ms}; `planned` are to come:
    {due_ms, status, place}, the next one first."""

    order_id: str
    protocol: str
    service: int
    days: float
    price_minor: int
    tags: list[dict[str, Any]]
    invoice_key: str
    sender: dict[str, Any]
    recipient: dict[str, Any]
    volumes: list[dict[str, float]]
    created_ms: int
    status: str = "pending"
    tracking_code: str = ""
    label_token: str = ""
    label_from_ms: int = 0
    paid_ms: int | None = None
    generated_ms: int | None = None
    posted_ms: int | None = None
    delivered_ms: int | None = None
    cancelled_ms: int | None = None
    scans: list[dict[str, Any]] = field(default_factory=list)
    planned: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shipment_id(self) -> str:
        return str(self.tags[0]["tag"]) if self.tags else ""

    def row(self, **more: Any) -> dict[str, Any]:
        """A row of the books about this parcel."""
        return {"order_id": self.order_id, "shipment_id": self.shipment_id, **more}


@dataclass(slots=True)
class Account:
    """A sender's account with everything around it. `spent_minor` is what its living purchases cost."""

    name: str
    settings: CarrierSettings
    bucket: Bucket
    temper: Temper
    parcels: dict[str, Parcel] = field(default_factory=dict)
    by_tracking: dict[str, Parcel] = field(default_factory=dict)
    spent_minor: int = 0

    def service(self, service_id: str) -> CarrierService | None:
        return next((one for one in self.settings.services if str(one.id) == service_id), None)

    def keep(self, parcel: Parcel) -> None:
        """Take the parcel in, or note its new tracking code."""
        self.parcels[parcel.order_id] = parcel
        if parcel.tracking_code:
            self.by_tracking[parcel.tracking_code] = parcel


Announce = Callable[[Account, Parcel, str, list[Fact], int], Documents]


class Depot:
    """All accounts of the carrier. Each deed changes a parcel and hands facts and state to the books together.

    `announce` is asked for the webhooks of a change, which are kept in the same transaction; `planned` is told of every
    parcel that has a scan to come.
    """

    def __init__(self, books: Books) -> None:
        self.books = books
        self.accounts: dict[str, Account] = {}
        self.by_token: dict[str, Account] = {}
        self.deliveries: dict[str, dict[str, Any]] = {}
        self.announce: Announce = lambda *_: {}
        self.planned: Callable[[Account, Parcel], None] = lambda *_: None
        self._load()

    def _load(self) -> None:
        documents = sorted(self.books.documents(), key=lambda document: document[0][1] != "account")
        for (name, kind, key), body in documents:
            if kind == "account":
                self._open(name, CarrierSettings.model_validate(body))
            elif (account := self.accounts.get(name)) is not None:
                if kind == "delivery":
                    self.deliveries[key] = body
                else:
                    parcel = Parcel(**body)
                    account.keep(parcel)
                    if parcel.paid_ms is not None and parcel.cancelled_ms is None:
                        account.spent_minor += parcel.price_minor

    # -- accounts ------------------------------------------------------------------------------------------------

    def put_account(self, name: str, settings: CarrierSettings) -> Account:
        """Create an account, or change what is set; credentials not given are drawn at creation and kept afterwards."""
        drawn = {
            "client_id": str(secrets.randbelow(90_000) + 10_000),
            "client_secret": secrets.token_urlsafe(30),
            "access_token": secrets.token_urlsafe(48),
            "refresh_token": secrets.token_urlsafe(48),
        }
        until_ms = settings.token_until_ms or now_ms() + settings.token_life_s * 1000
        settings = settings.model_copy(update={"credentials": drawn | settings.credentials, "token_until_ms": until_ms})
        account = self._open(name, settings)
        self._keep_settings(account)
        return account

    def renew(self, account: Account) -> None:
        """Draw new tokens; the old ones are worth nothing from now on."""
        fresh = {"access_token": secrets.token_urlsafe(48), "refresh_token": secrets.token_urlsafe(48)}
        until_ms = now_ms() + account.settings.token_life_s * 1000
        update = {"credentials": account.settings.credentials | fresh, "token_until_ms": until_ms}
        self._open(account.name, account.settings.model_copy(update=update))
        self._keep_settings(account)

    def _keep_settings(self, account: Account) -> None:
        key = (account.name, "account", account.name)
        self.books.append(account.name, now_ms(), (), {key: account.settings.model_dump(mode="json")})

    def owner_of(self, name: str, settings: CarrierSettings) -> str | None:
        """Another account that has the access token given here already."""
        owner = self.by_token.get(settings.credentials.get("access_token", ""))
        return None if owner is None or owner.name == name else owner.name

    def _open(self, name: str, settings: CarrierSettings) -> Account:
        bucket = Bucket(settings.requests_per_minute, settings.requests_per_minute / 60)
        temper = Temper(settings.vices, settings.vices_since_ms)
        known = self.accounts.get(name)
        if known is None:
            known = self.accounts[name] = Account(name, settings, bucket, temper)
        else:
            self.by_token.pop(known.settings.credentials["access_token"], None)
            if known.settings.requests_per_minute != settings.requests_per_minute:
                known.bucket = bucket
            if (known.settings.vices, known.settings.vices_since_ms) != (settings.vices, settings.vices_since_ms):
                known.temper = temper
            known.settings = settings
        self.by_token[settings.credentials["access_token"]] = known
        return known

    def forget(self) -> None:
        """Drop every account from memory."""
        self.accounts.clear()
        self.by_token.clear()
        self.deliveries.clear()

    # -- deeds ---------------------------------------------------------------------------------------------------

    def cart(self, account: Account, parcel: Parcel, *, late: bool) -> None:
        """Put a new parcel into the cart; nothing is paid yet."""
        fact = parcel.row(service=str(parcel.service), price_minor=parcel.price_minor, late=late)
        self._commit(account, parcel, [("carted", fact)], now_ms(), "order.created")

    def drop(self, account: Account, parcel: Parcel) -> None:
        """Take an unpaid parcel out of the cart."""
        del account.parcels[parcel.order_id]
        self.books.append(account.name, now_ms(), (), {(account.name, "parcel", parcel.order_id): None})

    def buy(self, account: Account, parcel: Parcel, *, late: bool) -> None:
        """Pay a parcel of the cart from the account's balance."""
        at_ms = now_ms()
        parcel.status, parcel.paid_ms = "released", at_ms
        account.spent_minor += parcel.price_minor
        fact = parcel.row(service=str(parcel.service), price_minor=parcel.price_minor, late=late)
        fact["invoice_key"] = parcel.invoice_key
        self._commit(account, parcel, [("bought", fact)], at_ms, "order.released")

    def generate(self, account: Account, parcel: Parcel) -> None:
        """Give a paid parcel its tracking code and, where the account says so, let it set off by itself."""
        at_ms = now_ms()
        while not parcel.tracking_code or parcel.tracking_code in account.by_tracking:
            parcel.tracking_code = f"ME{secrets.randbelow(10**9):09d}BR"
        parcel.generated_ms = at_ms
        if account.settings.auto_post:
            self._plan(account, parcel, at_ms + account.settings.post_after_days * account.settings.day_ms)
        fact = parcel.row(tracking_code=parcel.tracking_code)
        self._commit(account, parcel, [("generated", fact)], at_ms, "order.generated")

    def print_label(self, account: Account, parcel: Parcel) -> None:
        """Make the label's address; where the account's vice strikes, it stays empty for a while."""
        at_ms = now_ms()
        missing_ms = account.temper.strikes("label_missing", at_ms)
        parcel.label_token = parcel.label_token or secrets.token_urlsafe(16)
        parcel.label_from_ms = at_ms if missing_ms is None else at_ms + (missing_ms or 5000)
        fact = parcel.row(tracking_code=parcel.tracking_code)
        self._commit(account, parcel, [("printed", fact)], at_ms, None)

    def cancel(self, account: Account, parcel: Parcel) -> bool:
        """Cancel a paid parcel that has not been posted, and give the money back; False if it is too late."""
        if parcel.status != "released" or parcel.posted_ms is not None:
            return False
        at_ms = now_ms()
        parcel.status, parcel.cancelled_ms = "canceled", at_ms
        parcel.planned.clear()
        account.spent_minor -= parcel.price_minor
        fact = parcel.row(refunded_minor=parcel.price_minor)
        self._commit(account, parcel, [("cancelled", fact)], at_ms, "order.cancelled")
        return True

    def collect(self, account: Account, tracking_code: str, shipment_id: str, days: float) -> Parcel:
        """Take over a parcel whose sender has rates and labels of their own; it sets off now."""
        at_ms = now_ms()
        tags = [{"tag": shipment_id, "url": None}] if shipment_id else []
        parcel = Parcel(tracking_code, "", 0, days, 0, tags, "", {}, {}, [], at_ms, "collected", tracking_code)
        self._plan(account, parcel, at_ms)
        self._commit(account, parcel, [("collected", parcel.row(tracking_code=tracking_code))], at_ms, None)
        return parcel

    def post(self, account: Account, parcel: Parcel) -> None:
        """Let a parcel with a label set off now."""
        self._plan(account, parcel, now_ms())
        self._commit(account, parcel, [], now_ms(), None)

    def scan(self, account: Account, parcel: Parcel, status: ScanStatus, place: str) -> dict[str, Any]:
        """Somebody scans the parcel. Returns the scan {scan_id, status, place, at_ms}."""
        at_ms = now_ms()
        if parcel.scans:
            # Two scans of one parcel never share a moment, so that their order can be told from their times.
            at_ms = max(at_ms, parcel.scans[-1]["at_ms"] + 1)
        scan = {"scan_id": str(uuid.uuid4()), "status": status, "place": place, "at_ms": at_ms}
        parcel.scans.append(scan)
        before, own_rates = parcel.status, account.settings.kind == "table"
        parcel.status = status if own_rates else STATUS_OF[status]
        parcel.posted_ms = parcel.posted_ms or at_ms
        if status == "delivered":
            parcel.delivered_ms = parcel.delivered_ms or at_ms
        row = {name: scan[name] for name in ("scan_id", "status", "place")}
        facts = [("scan", parcel.row(tracking_code=parcel.tracking_code, **row))]
        told = "parcel.scanned" if own_rates else f"order.{parcel.status}" if parcel.status != before else None
        self._commit(account, parcel, facts, at_ms, told)
        return scan

    def scan_next(self, account: Account, parcel: Parcel) -> None:
        """The next planned scan happens."""
        due = parcel.planned.pop(0)
        self.scan(account, parcel, due["status"], due["place"])

    def _plan(self, account: Account, parcel: Parcel, start_ms: float) -> None:
        at_ms, strikes = now_ms(), account.temper.strikes
        lost, returned = (strikes(name, at_ms) is not None for name in ("lost", "returned"))
        goes_back = strikes("scan_going_back", at_ms) is not None
        stops = travel(parcel.days, "lost" if lost else "returned" if returned else "delivered", goes_back=goes_back)
        day_ms = account.settings.day_ms
        parcel.planned = [
            {"due_ms": int(start_ms + stop.day * day_ms), "status": stop.status, "place": stop.place} for stop in stops
        ]

    def commit(self, account: Account, facts: list[Fact], at_ms: int, extra: Documents) -> None:
        """Hand facts and the state they left to the books, in one transaction."""
        self.books.append(account.name, at_ms, facts, {(account.name, *place): body for place, body in extra.items()})

    def _commit(self, account: Account, parcel: Parcel, facts: list[Fact], at_ms: int, event: str | None) -> None:
        account.keep(parcel)
        told = {} if event is None else self.announce(account, parcel, event, facts, at_ms)
        self.commit(account, facts, at_ms, {("parcel", parcel.order_id): asdict(parcel), **told})
        if parcel.planned:
            self.planned(account, parcel)

"""All shops of one marketplace: in memory for speed, in the books for keeps."""

import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.sandbox.books import Books, DocumentKey, Documents, Fact, now_ms
from services.sandbox.limits import Bucket, Windows
from services.sandbox.settings import ShopSettings
from services.sandbox.shop import Order, Product, QueueEntry, Shop, stable_id
from services.sandbox.vices import Temper


@dataclass(slots=True)
class Subscription:
    """Where a shop sends the webhooks of one topic."""

    subscription_id: int
    topic: str
    address: str
    api_version: str
    created_ms: int


@dataclass(slots=True)
class Account:
    """A shop with everything around its stock: settings, limits in use, habits, subscriptions, replayable answers."""

    settings: ShopSettings
    shop: Shop
    graphql: Bucket
    rest: Bucket
    windows: Windows
    temper: Temper
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers_pending: set[str] = field(default_factory=set)
    kept: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    changed: set[tuple[str, str]] = field(default_factory=set)
    buckets: dict[str, Bucket] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.shop.name

    def keep(self, kind: str, key: str, document: dict[str, Any] | None) -> None:
        """Set (or, with None, drop) a document of the marketplace's own; it is written with the next commit."""
        if document is None:
            self.kept.pop((kind, key), None)
        else:
            self.kept[kind, key] = document
        self.changed.add((kind, key))

    def of_kind(self, kind: str) -> dict[str, dict[str, Any]]:
        """The kept documents of a kind by key."""
        return {key: document for (of_kind, key), document in self.kept.items() if of_kind == kind}

    def fits(self, limit: str, now_s: float) -> bool:
        """Whether one more request fits the limit `<limit>_per_s`: a bucket of twice as many, emptied at that rate."""
        per_s = float(getattr(self.settings.limits, f"{limit}_per_s"))
        bucket = self.buckets.get(limit)
        if bucket is None or bucket.rate_per_s != per_s:
            bucket = self.buckets[limit] = Bucket(max(1.0, 2 * per_s), per_s)
        return bucket.take(1, now_s) == 0


Announce = Callable[[Account, Order, list[Fact], int], Documents]


@dataclass(frozen=True, slots=True)
class Customs:
    """What tells one marketplace from another wherever they are treated alike.

    `credentials` are drawn for a shop's name, `found_by` names those that a request is recognised by. `location` is
    the id of the place a shop has at first. `defaults` are settings in place of the common ones. `suffix` ends each
    order id. `reserves`: units of open orders are counted apart, and a written number is a total that holds them.
    `closed_locations` hold stock that the seller cannot write.
    """

    credentials: Callable[[str], dict[str, str]]
    found_by: tuple[str, ...]
    location: Callable[[str], str]
    numeric_locations: bool = False
    numeric_credentials: tuple[str, ...] = ()
    queued: bool = False
    prefixed: bool = False
    suffix: str = ""
    reserves: bool = False
    closed_locations: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _location_number(name: str) -> str:
    return str(stable_id(name, "location"))


MELI_FULL = "meli_facility"
"""The place of units that lie in Mercado Livre's own warehouses."""

_EIGHT_TRIES_IN_AN_HOUR_S = [60.0, 120.0, 240.0, 420.0, 600.0, 840.0, 1080.0]
_GROWING_S = [float(5 * 2**power) for power in range(10)]

CUSTOMS: dict[str, Customs] = {
    "shopify": Customs(
        lambda _: {"access_token": f"shpat_{secrets.token_hex(16)}", "webhook_secret": secrets.token_hex(16)},
        ("access_token",),
        _location_number,
        numeric_locations=True,
    ),
    "skyhub": Customs(
        lambda name: {
            "user_email": f"{name}@example.com",
            "api_key": secrets.token_urlsafe(16),
            "accountmanager_key": secrets.token_urlsafe(8),
        },
        ("user_email", "api_key"),
        lambda _: "loja1",
        queued=True,
        prefixed=True,
    ),
    "mercadolivre": Customs(
        lambda name: {
            "user_id": str(stable_id(name, "user")),
            "client_id": str(stable_id(name, "application")),
            "client_secret": secrets.token_urlsafe(24),
            "refresh_token": f"TG-{secrets.token_hex(12)}",
        },
        ("client_id", "user_id"),
        _location_number,
        numeric_locations=True,
        numeric_credentials=("client_id", "user_id"),
        closed_locations=frozenset({MELI_FULL}),
        defaults={"webhook_timeout_s": 0.5, "webhook_retry_s": _EIGHT_TRIES_IN_AN_HOUR_S},
    ),
    "vtex": Customs(
        lambda name: {"app_key": f"vtexappkey-{name}-{secrets.token_hex(3)}", "app_token": secrets.token_urlsafe(48)},
        ("app_key",),
        lambda _: "1_1",
        suffix="-01",
        reserves=True,
        defaults={"webhook_retry_s": _GROWING_S, "webhook_removed_after_failures": True},
    ),
}


class Market:
    """One marketplace. `announce` is called after each change of an order and returns the webhooks it wants kept."""

    def __init__(self, marketplace: str, books: Books) -> None:
        self.marketplace = marketplace
        self.customs = CUSTOMS[marketplace]
        self.books = books
        self.accounts: dict[str, Account] = {}
        self.by_key: dict[str, Account] = {}
        self.deliveries: dict[str, dict[str, Any]] = {}
        self.announce: Announce = lambda *_: {}
        self._load()

    def _load(self) -> None:
        documents = sorted(self.books.documents(), key=lambda document: document[0][1] != "shop")
        for (shop, kind, key), body in documents:
            if kind == "shop":
                self._open(shop, ShopSettings.model_validate(body))
                continue
            account = self.accounts.get(shop)
            if account is None:
                continue  # Left behind by a request that was under way while everything was reset.
            match kind:
                case "product":
                    account.shop.load_product(Product(**body))
                case "order":
                    account.shop.load_order(body)
                case "queue":
                    account.shop.load_queue(QueueEntry(**body))
                case "subscription":
                    account.subscriptions[int(key)] = Subscription(**body)
                case "answer":
                    account.answers[key] = body
                case "delivery":
                    self.deliveries[key] = body
                case _:
                    account.kept[kind, key] = body
        for account in self.accounts.values():
            account.shop.loaded()

    def owner_of(self, name: str, settings: ShopSettings) -> str | None:
        """Another shop that has the credentials given here already."""
        owner = self.by_key.get(self._key(self.customs.credentials(name) | settings.credentials))
        return None if owner is None or owner.name == name else owner.name

    def put_shop(self, name: str, settings: ShopSettings) -> Account:
        """Create a shop, or change what is set; what is not given is drawn at creation and kept afterwards."""
        drawn = self.customs.credentials(name)
        credentials = {key: settings.credentials.get(key, value) for key, value in drawn.items()}
        own = {key: value for key, value in self.customs.defaults.items() if key not in settings.model_fields_set}
        settings = settings.model_copy(
            update={
                **own,
                "credentials": credentials,
                "locations": settings.locations or [self.customs.location(name)],
                "domain": settings.domain or f"{name}.myshopify.com",
                "first_order_id": settings.first_order_id or stable_id(name, "orders") % 1_000_000 * 1_000_000 + 1,
            }
        )
        account = self._open(name, settings)
        self.books.append(name, now_ms(), (), {(name, "shop", name): settings.model_dump(mode="json")})
        return account

    def _open(self, name: str, settings: ShopSettings) -> Account:
        limits = settings.limits
        graphql = Bucket(limits.graphql_bucket_points, limits.graphql_restore_points_per_s)
        rest = Bucket(limits.rest_bucket_requests, limits.rest_leak_requests_per_s)
        temper = Temper(settings.vices, settings.vices_since_ms)
        known = self.accounts.get(name)
        prefix = f"{settings.channel}-" if self.customs.prefixed else ""
        if known is None:
            shop = Shop(
                name,
                queued=self.customs.queued,
                prefix=prefix,
                suffix=self.customs.suffix,
                reserves=self.customs.reserves,
                first_order_id=settings.first_order_id or 1,
                locations=settings.locations,
            )
            known = Account(settings, shop, graphql, rest, Windows(), temper)
            self.accounts[name] = known
        else:
            self.by_key.pop(self._key(known.settings.credentials), None)
            if known.settings.limits != limits:
                known.graphql, known.rest = graphql, rest
            if (known.settings.vices, known.settings.vices_since_ms) != (settings.vices, settings.vices_since_ms):
                known.temper = temper
            known.settings = settings
            known.shop.locations = list(settings.locations)
            if not known.shop.orders:
                known.shop.prefix, known.shop.first_order_id = prefix, settings.first_order_id or 1
        self.by_key[self._key(settings.credentials)] = known
        return known

    def _key(self, credentials: dict[str, str]) -> str:
        return "\x1f".join(credentials[name] for name in self.customs.found_by)

    def commit(self, account: Account, facts: Iterable[Fact], at_ms: int, extra: Documents | None = None) -> None:
        """Hand facts and the state they left to the books, in one transaction."""
        own = {place: account.kept.get(place) for place in account.changed}
        account.changed.clear()
        documents: dict[DocumentKey, dict[str, Any] | None] = {
            (account.name, kind, key): body
            for (kind, key), body in {**account.shop.take_dirty(), **own, **(extra or {})}.items()
        }
        self.books.append(account.name, at_ms, facts, documents)

    def commit_order(self, account: Account, order: Order, facts: list[Fact], at_ms: int) -> None:
        """`commit`, and tell the outside about the order in the same transaction."""
        self.commit(account, facts, at_ms, self.announce(account, order, facts, at_ms))

    def forget(self) -> None:
        """Drop every shop from memory."""
        self.accounts.clear()
        self.by_key.clear()
        self.deliveries.clear()


def request_id() -> str:
    """A fresh id for a request that came in."""
    return str(uuid.uuid4())

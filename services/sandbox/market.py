"""All shops of one marketplace: in memory for speed, in the books for keeps."""

import secrets
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from services.sandbox.books import Books, DocumentKey, Fact, now_ms
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

    @property
    def name(self) -> str:
        return self.shop.name


Documents = dict[tuple[str, str], dict[str, Any] | None]
Announce = Callable[[Account, Order, list[Fact], int], Documents]


def _draw_credentials(marketplace: str, name: str) -> dict[str, str]:
    if marketplace == "shopify":
        return {"access_token": f"shpat_{secrets.token_hex(16)}", "webhook_secret": secrets.token_hex(16)}
    return {
        "user_email": f"{name}@example.com",
        "api_key": secrets.token_urlsafe(16),
        "accountmanager_key": secrets.token_urlsafe(8),
    }


class Market:
    """One marketplace. `announce` is called after each change of an order and returns the webhooks it wants kept."""

    def __init__(self, marketplace: str, books: Books) -> None:
        self.marketplace = marketplace
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
        for account in self.accounts.values():
            account.shop.loaded()

    def owner_of(self, name: str, settings: ShopSettings) -> str | None:
        """Another shop that has the credentials given here already."""
        drawn = _draw_credentials(self.marketplace, name)
        owner = self.by_key.get(self._key(drawn | settings.credentials))
        return None if owner is None or owner.name == name else owner.name

    def put_shop(self, name: str, settings: ShopSettings) -> Account:
        """Create a shop, or change what is set; what is not given is drawn at creation and kept afterwards."""
        drawn = _draw_credentials(self.marketplace, name)
        credentials = {key: settings.credentials.get(key, value) for key, value in drawn.items()}
        default_location = str(stable_id(name, "location")) if self.marketplace == "shopify" else "loja1"
        settings = settings.model_copy(
            update={
                "credentials": credentials,
                "locations": settings.locations or [default_location],
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
        queued = self.marketplace == "skyhub"
        prefix = f"{settings.channel}-" if queued else ""
        if known is None:
            first_order_id = settings.first_order_id or 1
            shop = Shop(name, queued=queued, prefix=prefix, first_order_id=first_order_id, locations=settings.locations)
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
        if self.marketplace == "shopify":
            return credentials["access_token"]
        return f"{credentials['user_email']}\x1f{credentials['api_key']}"

    def commit(self, account: Account, facts: Iterable[Fact], at_ms: int, extra: Documents | None = None) -> None:
        """Hand facts and the state they left to the books, in one transaction."""
        documents: dict[DocumentKey, dict[str, Any] | None] = {
            (account.name, kind, key): body
            for (kind, key), body in {**account.shop.take_dirty(), **(extra or {})}.items()
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

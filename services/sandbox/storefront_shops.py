"""The shops of the storefront sandbox: settings, what each has seen of its numbers, and its orders; kept in the books.

The books follow the API's own feed of numbers, each row once: what is noted and how far the feed was read are written
together.
"""

import asyncio
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import httpx
from pydantic import BaseModel, ConfigDict

from services.sandbox.books import Books, Documents, Fact, now_ms
from services.sandbox.settings import SandboxSettings
from services.sandbox.storefront_api import Bank, Refused, ShopApi, Unreachable

LOCATION: Final = "shop"
_AGAIN_S: Final = 0.3
_WAIT_S: Final = 5.0


class ShopSettings(BaseModel):
    """One shop. `credentials` are drawn where none are given; `gateway_account` is whose cards and Pix it takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = "Loja de exemplo"
    currency: str = "BRL"
    credentials: dict[str, str] = {}
    locations: list[str] = [LOCATION]
    gateway_account: str = ""


@dataclass(slots=True)
class Store:
    """A shop with what it has seen: numbers by SKU, how far the feed was read, orders by their number."""

    name: str
    settings: ShopSettings
    api: ShopApi
    numbers: dict[str, int] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    position: int = 0
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    following: asyncio.Task[None] | None = None


class Stores:
    """All shops of the process."""

    def __init__(self, books: Books, settings: SandboxSettings, http: httpx.AsyncClient) -> None:
        self.books, self._http = books, http
        self.bank = Bank(http, settings.gateway_url, settings.token)
        self.shops: dict[str, Store] = {}
        self._shop_url = settings.shop_url
        for (name, kind, key), body in sorted(books.documents(), key=lambda one: one[0][1] != "shop"):
            if kind == "shop":
                self._open(name, ShopSettings.model_validate(body))
            elif name in self.shops and kind == "order":
                self.shops[name].orders[key] = body
            elif name in self.shops and kind == "numbers":
                store = self.shops[name]
                store.numbers, store.titles, store.position = body["numbers"], body["titles"], body["position"]

    def put(self, name: str, settings: ShopSettings) -> Store:
        """Create a shop or change it."""
        drawn = {"api_key": secrets.token_urlsafe(24)}
        settings = settings.model_copy(update={"credentials": drawn | settings.credentials})
        store = self._open(name, settings)
        self.commit(store, [], now_ms(), {("shop", name): settings.model_dump(mode="json")})
        return store

    def _open(self, name: str, settings: ShopSettings) -> Store:
        api = ShopApi(self._http, self._shop_url, settings.credentials["api_key"])
        store = self.shops.get(name)
        if store is None:
            store = self.shops[name] = Store(name, settings, api)
        store.settings, store.api = settings, api
        return store

    def commit(self, store: Store, facts: list[Fact], at_ms: int, documents: Documents | None = None) -> None:
        """Hand facts and the state they left to the books, in one transaction."""
        kept = {(store.name, kind, key): body for (kind, key), body in (documents or {}).items()}
        self.books.append(store.name, at_ms, facts, kept)

    def opened(self, store: Store, products: list[tuple[str, str]]) -> None:
        """Products (sku, title) are on sale; what is new shows nothing yet."""
        fresh = [sku for sku, _ in products if sku not in store.numbers]
        store.numbers |= dict.fromkeys(fresh, 0)
        store.titles |= dict(products)
        facts: list[Fact] = [("opened", {"sku": sku, "location": LOCATION, "number": 0}) for sku in fresh]
        self.commit(store, facts, now_ms(), _seen(store))

    def keep_order(self, store: Store, basket: dict[str, Any]) -> None:
        """Remember an order by its number, and note once that it was paid."""
        number = basket["number"]
        known = store.orders.get(number, {"paid": False})
        paid = basket["state"] == "placed"
        order = {
            "basket": basket["basket"],
            "order_id": basket["order_id"],
            "paid": known["paid"] or paid,
        }
        if order == known:
            return
        store.orders[number] = order
        told: list[Fact] = []
        if paid and not known["paid"]:
            told = [("payment", {"order_id": number, "amount_minor": basket["total_minor"]})]
        self.commit(store, told, now_ms(), {("order", number): order})

    # -- the feed ----------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Follow every shop's feed until cancelled."""
        try:
            while True:
                for store in list(self.shops.values()):
                    if store.following is None or store.following.done():
                        store.following = asyncio.create_task(self._follow(store), name=f"feed of {store.name}")
                await asyncio.sleep(_AGAIN_S)
        finally:
            tasks = [store.following for store in self.shops.values() if store.following]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, store: Store) -> None:
        while self.shops.get(store.name) is store:
            try:
                feed = await store.api.ask("GET", f"/v1/stock-changes?after={store.position}&wait_s={_WAIT_S}")
            except (Refused, Unreachable):
                # Not connected yet, or not live: the feed has everything when it is.
                await asyncio.sleep(_AGAIN_S)
                continue
            for change in feed["changes"]:
                self._note(store, change)

    def _note(self, store: Store, change: dict[str, Any]) -> None:
        sku, after = change["sku"], change["number_after"]
        at_ms = round(datetime.fromisoformat(change["at"]).timestamp() * 1000)
        place = {"sku": sku, "location": LOCATION, "number_after": after}
        units = abs(after - change["number_before"])
        line = place | {"line_id": change["line_id"], "quantity": units}
        fact: Fact
        match change["kind"]:
            case "sale":
                more = {"order_id": change["number"], "price_minor": change["price_minor"], "paid": False}
                fact = ("sale", line | more)
            case "cancel":
                fact = ("cancel", {"order_id": change["number"], "by": "client", "restored": True, "lines": [line]})
            case _:
                fact = ("write", place | _write(change))
        store.numbers[sku] = after
        store.position = change["position"]
        self.commit(store, [fact], at_ms, _seen(store))


def _seen(store: Store) -> Documents:
    return {("numbers", ""): {"numbers": store.numbers, "titles": store.titles, "position": store.position}}


def _write(change: dict[str, Any]) -> dict[str, Any]:
    return {
        "request_id": change["request_id"],
        "client_request_id": None,
        "number_before": change["number_before"],
        "requested": change["number_after"],
        "delta": False,
        "compare": None,
        "reference": None,
        "idempotency_key": None,
        "applied": True,
        "late": False,
    }

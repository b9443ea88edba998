"""A shop of ours on a channels service without Kafka: its API is asked in this process, orders is played by hand."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest_asyncio

from contracts.channels.v1 import OrderProgress, PaymentTold
from contracts.envelope import Envelope
from contracts.fulfillment.v1 import DeliveryOption, DeliveryQuoted
from services.border.vault import Vault
from services.bus import Received
from services.channels.connections.store import Connection
from services.channels.shop import handlers, store
from services.channels.shop.api import Api
from services.channels.shop.desk import Desk
from services.channels.shop.domain import Basket
from services.channels.shop.products import put_products
from services.channels.shop.schemas import NewProduct
from services.channels.shop.shop import Shop
from tests.channels.conftest import Kit

KEY = "an api key of at least twenty characters"
TOKENS = Vault(bytes(range(96, 128)).hex())
BUYER: Mapping[str, Any] = {
    "name": "Ana Souza",
    "email": "ana@example.com",
    "document": "123.456.789-09",
    "phone": "+55 81 90000-0000",
    "address": {
        "street": "Rua das Flores",
        "number": "12",
        "district": "Centro",
        "city": "Recife",
        "region": "PE",
        "postal_code": "50000-000",
    },
}
OPTIONS = (
    DeliveryOption(
        option_id="sedex", carrier="correios", service="sedex", price_minor=2490, currency="BRL", days_min=1, days_max=2
    ),
    DeliveryOption(
        option_id="pac", carrier="correios", service="pac", price_minor=1290, currency="BRL", days_min=4, days_max=7
    ),
)


async def until(good: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as it is so."""
    while True:
        if await good():
            return
        await asyncio.sleep(0.01)


@dataclass
class Counter:
    """The shop with its API, and ways to do what storefronts, orders and fulfillment do."""

    kit: Kit
    shop: Shop
    connection: Connection
    http: httpx.AsyncClient
    revisions: Any = field(default_factory=lambda: itertools.count(1))
    keys: Any = field(default_factory=lambda: itertools.count(1))

    async def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> httpx.Response:
        """Ask the API; a POST has a key of its own unless given."""
        headers = {}
        if method == "POST":
            headers["idempotency-key"] = key or f"key-number-{next(self.keys)}"
        return await self.http.request(method, path, json=body, headers=headers)

    async def open(self, lines: Mapping[str, int] | None = None, **more: Any) -> dict[str, Any]:
        """A basket that orders has not told of."""
        wanted = [{"sku": sku, "quantity": quantity} for sku, quantity in (lines or {"CUP": 2}).items()]
        answer = await self.ask("POST", "/v1/baskets", {"lines": wanted, **more})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    async def held(self, lines: Mapping[str, int] | None = None, **more: Any) -> dict[str, Any]:
        """A basket whose stock is held."""
        basket = await self.open(lines, **more)
        await self.tell(basket, "held", held_for="payment")
        return await self.shown(basket)

    async def ready(self, lines: Mapping[str, int] | None = None) -> dict[str, Any]:
        """A basket that only has to be paid."""
        basket = await self.held(lines)
        assert (await self.ask("PUT", f"/v1/baskets/{basket['basket']}/address", BUYER)).status_code == 202
        await self.quote(basket)
        chosen = await self.ask("PUT", f"/v1/baskets/{basket['basket']}/delivery", {"option_id": "pac"})
        assert chosen.status_code == 200, chosen.text
        return dict(chosen.json())

    async def first(self) -> dict[str, str]:
        """The first basket as soon as it is kept."""
        while True:
            order_id = await self.kit.service.pool.fetchval("SELECT order_id FROM shop_baskets")
            if order_id:
                return {"order_id": order_id}
            await asyncio.sleep(0.01)

    async def shown(self, basket: Mapping[str, Any]) -> dict[str, Any]:
        """The basket as the API shows it."""
        answer = await self.ask("GET", f"/v1/baskets/{basket['basket']}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def tell(
        self,
        basket: Mapping[str, Any],
        state: str,
        *,
        revision: int = 0,
        payment: PaymentTold | None = None,
        **more: Any,
    ) -> None:
        """Orders tells of a basket."""
        clock = self.kit.service.clock()
        progress = OrderProgress(
            order_id=basket["order_id"],
            revision=revision or next(self.revisions),
            connection_id=self.connection.connection_id,
            state=state,
            state_at=clock,
            payment=payment,
            **more,
        )
        async with self.kit.service.transaction() as tx:
            await handlers.hear([self._received(progress)], tx, self.shop)
        await self.kit.absorb()

    async def quote(
        self, basket: Mapping[str, Any], quote: int = 1, options: Any = OPTIONS, *, incomplete: bool = False
    ) -> None:
        """Fulfillment answers a quote."""
        order_id = basket["order_id"]
        answer = DeliveryQuoted(
            order_id=order_id, quote_id=f"{order_id}:q{quote}", options=options, incomplete=incomplete
        )
        async with self.kit.service.transaction() as tx:
            await handlers.take_quotes([self._received(answer)], tx, self.shop)

    def _received(self, message: Any) -> Received[Any]:
        at = self.kit.service.clock()
        return Received(message, Envelope("e1", "t", "s", at, "", self.connection.tenant, message.order_id), "k")

    async def number(self, sku: str = "CUP") -> int:
        """What the shop shows of a product."""
        products = (await self.ask("GET", "/v1/products")).json()["products"]
        return next(int(one["available"]) for one in products if one["sku"] == sku)

    async def kept(self, basket: Mapping[str, Any]) -> Basket:
        """The basket as it is kept."""
        async with self.kit.service.pool.acquire() as connection:
            found = await store.by_order(connection, basket["order_id"])
        assert found is not None
        return found


async def stock(kit: Kit, connection: Connection, **numbers: int) -> None:
    """Products on sale, their numbers as if they had been pushed."""
    rows = [NewProduct(sku=sku, title=f"Produto {sku}", price_minor=1990) for sku in numbers]
    for sku in numbers:
        await kit.service.pool.execute(
            "INSERT INTO items VALUES ($1, $2, 1, 1, '[]') ON CONFLICT DO NOTHING", connection.tenant, sku
        )
    assert await put_products(kit.service, kit.intake, connection, rows) == len(numbers)
    for sku, number in numbers.items():
        await kit.service.pool.execute(
            "UPDATE shop_products SET quantity = $3 WHERE connection_id = $1 AND sku = $2",
            connection.connection_id,
            sku,
            number,
        )


@pytest_asyncio.fixture
async def counter(kit: Kit) -> AsyncIterator[Counter]:
    connection = await kit.connect(
        connector="shop",
        account="loja",
        credentials={"api_key": KEY},
        card_page_url="http://127.0.0.1:9/cards?key=pk",
    )
    await stock(kit, connection, CUP=10, SPOON=5)
    shop = Shop(kit.intake, TOKENS)
    desk = Desk(kit.service, shop)
    writing = asyncio.create_task(desk.run())
    transport = httpx.ASGITransport(Api(kit.service, shop, desk).app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://shop", headers={"authorization": f"Bearer {KEY}"}
    ) as http:
        yield Counter(kit, shop, connection, http)
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing

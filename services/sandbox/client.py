"""A small asynchronous client of a sandbox's control interface: shops, products, buyers' deeds, numbers, books.

All paths are under `/_control` and want `Authorization: Bearer <token>` (but `GET /health`). Bodies are JSON.

GET /health -> 200 {status, marketplace, shops: count}
GET /limits -> 200 {marketplace, shops: {shop: {limit: number}}}
GET /shops -> 200 {shops: [name]}
PUT /shops/{shop} with any fields of `settings.ShopSettings` (what is left out is kept, or drawn at creation)
    -> 201 or 200 {shop, marketplace, base_url, credentials, locations, domain, channel, limits, vices, ...}
GET /shops/{shop} -> 200 the same
PUT /shops/{shop}/products with [{sku, title, quantity, price_minor, location?, adverts?}]
    -> 200 {products: [{sku, number, product_id, variant_id, inventory_item_id}]}; a known product keeps its number
PUT /shops/{shop}/vices with the fields of `vices.Vices`, replacing all -> 200 {vices}
GET /shops/{shop}/numbers[?location=] -> 200 {at_ms, numbers: {sku: number}}, over all locations if none is named
POST /shops/{shop}/buy with {lines: [{sku, quantity}], pay: "now" | "later" | "never", buyer: seed, pack: ""}
    -> 201 {order_id, sold_at_ms, paid, lines: [{line_id, sku, location, quantity, number_after}]}
    -> 409 {reason: "sold_out" | "unknown_sku", sku, refused_at_ms}
    "later" and "never" both leave the order unpaid; it is paid by the call below. Orders bought with the same `pack`
    are one purchase (Mercado Livre: they share pack id and shipment).
POST /shops/{shop}/orders/{order_id}/pay -> 200 {order_id, paid_at_ms} or 409 {reason, error}
POST /shops/{shop}/orders/{order_id}/cancel with {restock: true | false | null (the shop's habit)}
    -> 200 {order_id, cancelled_at_ms, restored} or 409 {reason, error}
POST /shops/{shop}/orders/{order_id}/refund with {lines: [{sku, quantity, restock}]}
    -> 200 {order_id, refund_id, refunded_at_ms} or 409 {reason, error}
POST /shops/{shop}/orders/{order_id}/move with {status: "shipped" | "delivered" | "shipment_exception"}
    -> 200 {order_id, moved_at_ms} or 409 {reason, error}: the marketplace's own carrier, no client, has done it
POST /shops/{shop}/orders/{order_id}/claim with {lines: [{sku, quantity}], low_cost: false} -> 201 {claim_id} or 409
    (Mercado Livre) the buyer claims units of what has left: to be sent back, or with `low_cost` paid back and kept
POST /shops/{shop}/claims/{claim_id}/move with {status: "shipped" | "delivered" | "cancelled"}
    -> 200 {claim_id, moved_at_ms} or 409 {reason, error}: where the return is; one that arrives is paid back
GET /books?since=&limit= -> 200 JSON lines: rows with an id above `since`, at most `limit` (10,000; 50,000 at most)
GET /books/summary
    -> 200 {last_id, shops: {shop: {orders, units_sold, units_cancelled, units_refunded, rows: {kind: count}}}}
POST /reset -> 200 {status: "empty"}; forgets every shop and row, row ids go on

Credentials: Shopify {access_token, webhook_secret}, SkyHub {user_email, api_key, accountmanager_key}, Mercado Livre
{user_id, client_id, client_secret, refresh_token}, VTEX {app_key, app_token}. The rows of the books are described in
`books.py`. Other statuses: 401 wrong token, 404 no such shop or order, 422 a bad body, each with
{error}.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import aiohttp


class SandboxError(Exception):
    """The sandbox refused a control request: status and what it said."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"the sandbox answered {status}: {body}")
        self.status = status
        self.body = body


class SandboxClient:
    """Use as `async with SandboxClient(base_url, token) as sandbox`."""

    def __init__(self, base_url: str, token: str, *, timeout_s: float = 30) -> None:
        self._base_url = base_url.rstrip("/") + "/_control"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=100, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def _call(self, method: str, path: str, body: Any = None, *, also: Sequence[int] = ()) -> dict[str, Any]:
        assert self._session is not None, "use the client in an async with block"
        async with self._session.request(method, self._base_url + path, json=body) as answer:
            told: dict[str, Any] = await answer.json()
            if answer.status >= 300 and answer.status not in also:
                raise SandboxError(answer.status, told)
            return told

    @staticmethod
    def _shop(shop: str) -> str:
        return f"/shops/{quote(shop, safe='')}"

    async def health(self) -> dict[str, Any]:
        """{status, marketplace, shops}."""
        return await self._call("GET", "/health")

    async def limits(self) -> dict[str, Any]:
        """The limits in use, by shop."""
        return await self._call("GET", "/limits")

    async def put_shop(self, shop: str, **settings: Any) -> dict[str, Any]:
        """Create or change a shop; returns it with base URL and credentials."""
        return await self._call("PUT", self._shop(shop), settings)

    async def shops(self) -> list[str]:
        """The names of all shops."""
        return list((await self._call("GET", "/shops"))["shops"])

    async def shop(self, shop: str) -> dict[str, Any]:
        """A shop with base URL, credentials, locations and limits."""
        return await self._call("GET", self._shop(shop))

    async def put_products(self, shop: str, products: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Put products on sale; returns their ids and numbers."""
        told = await self._call("PUT", f"{self._shop(shop)}/products", list(products))
        return list(told["products"])

    async def put_vices(self, shop: str, **vices: Any) -> None:
        """Replace the shop's vices; none named: it behaves."""
        await self._call("PUT", f"{self._shop(shop)}/vices", vices)

    async def numbers(self, shop: str, *, location: str | None = None) -> dict[str, int]:
        """The shop's own numbers now, by SKU."""
        query = "" if location is None else f"?location={quote(location)}"
        told = await self._call("GET", f"{self._shop(shop)}/numbers{query}")
        return dict(told["numbers"])

    async def buy(
        self,
        shop: str,
        lines: Mapping[str, int],
        *,
        pay: Literal["now", "later", "never"] = "now",
        buyer: int = 0,
        pack: str = "",
    ) -> dict[str, Any]:
        """Buy {sku: quantity}. Accepted: {order_id, sold_at_ms, paid, lines}; refused: {reason, sku, refused_at_ms}."""
        wanted = [{"sku": sku, "quantity": quantity} for sku, quantity in lines.items()]
        body = {"lines": wanted, "pay": pay, "buyer": buyer, "pack": pack}
        return await self._call("POST", f"{self._shop(shop)}/buy", body, also=(409,))

    async def pay(self, shop: str, order_id: str) -> dict[str, Any]:
        """The buyer pays."""
        return await self._call("POST", f"{self._shop(shop)}/orders/{quote(order_id, safe='')}/pay")

    async def cancel(self, shop: str, order_id: str, *, restock: bool | None = None) -> dict[str, Any]:
        """The buyer cancels; `restock` None leaves it to the shop's habit."""
        body = {"restock": restock}
        return await self._call("POST", f"{self._shop(shop)}/orders/{quote(order_id, safe='')}/cancel", body)

    async def move(
        self, shop: str, order_id: str, status: Literal["shipped", "delivered", "shipment_exception"]
    ) -> dict[str, Any]:
        """The marketplace's own carrier moves the parcel."""
        path = f"{self._shop(shop)}/orders/{quote(order_id, safe='')}/move"
        return await self._call("POST", path, {"status": status})

    async def refund(
        self, shop: str, order_id: str, lines: Mapping[str, int], *, restock: bool = True
    ) -> dict[str, Any]:
        """The shop refunds {sku: quantity} of an order."""
        wanted = [{"sku": sku, "quantity": quantity, "restock": restock} for sku, quantity in lines.items()]
        path = f"{self._shop(shop)}/orders/{quote(order_id, safe='')}/refund"
        return await self._call("POST", path, {"lines": wanted})

    async def claim(self, shop: str, order_id: str, lines: Mapping[str, int], *, low_cost: bool = False) -> str:
        """The buyer claims {sku: quantity} of an order; returns the claim's id."""
        wanted = [{"sku": sku, "quantity": quantity} for sku, quantity in lines.items()]
        path = f"{self._shop(shop)}/orders/{quote(order_id, safe='')}/claim"
        return str((await self._call("POST", path, {"lines": wanted, "low_cost": low_cost}))["claim_id"])

    async def move_claim(
        self, shop: str, claim_id: str, status: Literal["shipped", "delivered", "cancelled"]
    ) -> dict[str, Any]:
        """The return of a claim moves."""
        return await self._call("POST", f"{self._shop(shop)}/claims/{claim_id}/move", {"status": status})

    async def books(self, *, since: int = 0, page: int = 10_000) -> AsyncIterator[dict[str, Any]]:
        """Every row after `since`, oldest first, until there is no more."""
        assert self._session is not None, "use the client in an async with block"
        while True:
            query = {"since": str(since), "limit": str(page)}
            async with self._session.get(f"{self._base_url}/books", params=query) as answer:
                raw = await answer.read()
                if answer.status != 200:
                    raise SandboxError(answer.status, raw.decode())
            rows = [json.loads(line) for line in raw.splitlines()]
            for row in rows:
                yield row
            if len(rows) < page:
                return
            since = rows[-1]["id"]

    async def summary(self) -> dict[str, Any]:
        """Counts and units of the books, by shop."""
        return await self._call("GET", "/books/summary")

    async def reset(self) -> None:
        """Forget everything."""
        await self._call("POST", "/reset")

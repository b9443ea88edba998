"""The own shop: a channel in our own database. What its buyers do goes through our own API and is tested there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from services.sandbox.client import SandboxClient
from tests.channels.conformance.account import Account, Case
from tests.channels.conftest import Kit
from tests.channels.shop.conftest import KEY, stock


def _as_it_is(order: dict[str, Any]) -> Any:
    return order


class ShopAccount(Account):
    """A shop without a sandbox."""

    @classmethod
    @asynccontextmanager
    async def opened(cls, kit: Kit, case: Case, base_url: str, *, strict: bool = False) -> AsyncIterator[Self]:
        del strict
        connection = await kit.connect(
            connector="shop", account="loja", credentials={"api_key": KEY}, card_page_url="http://127.0.0.1:9/cards"
        )
        entry = kit.intake.registry.get(connection.connection_id)
        assert entry is not None
        yield cls(kit, case, SandboxClient(base_url, "nobody is asked"), "loja", entry)

    async def put(self, **quantities: int) -> None:
        await stock(self.kit, self.entry.connection, **quantities)

    async def numbers(self) -> dict[str, int]:
        rows = await self.kit.service.pool.fetch("SELECT sku, quantity FROM shop_products")
        return {row["sku"]: row["quantity"] for row in rows}


CASE = Case(connector="shop", unknown=_as_it_is, sees_part_refunds=False)
ACCOUNT = ShopAccount

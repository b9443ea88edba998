"""The storefront sandbox: a small shop that a person clicks through, and buyers who need no browser.

It sells by the shop's API (`SALDO_SANDBOX_SHOP_URL`) and by nothing else; buyers pay at the sandbox of the gateway
(`SALDO_SANDBOX_GATEWAY_URL`). Its pages are at `/{shop}`; its control interface: see `storefront_control.py`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
from starlette.applications import Starlette

from services.sandbox.books import Books
from services.sandbox.settings import SandboxSettings
from services.sandbox.storefront_api import TIMEOUT_S
from services.sandbox.storefront_control import StorefrontControl
from services.sandbox.storefront_pages import Pages
from services.sandbox.storefront_shops import Stores
from services.sandbox.wiring import application


def build(settings: SandboxSettings, base_url: str) -> Starlette:
    """Wire the storefront."""
    books = Books(settings.books)
    http = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)
    stores = Stores(books, settings, http)
    pages = Pages(stores, base_url)
    control = StorefrontControl(stores, settings.token, base_url)

    @contextlib.asynccontextmanager
    async def working() -> AsyncIterator[None]:
        following = asyncio.create_task(stores.follow())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await http.aclose()

    return application(books, [*control.routes(), *pages.routes()], working)

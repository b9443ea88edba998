"""What every sandbox's process is made of beside its own face: books, control interface, start and stop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.routing import Route

from services.sandbox.books import Books
from services.sandbox.control import Control
from services.sandbox.deliveries import Deliveries, Delivery
from services.sandbox.guard import Handler
from services.sandbox.market import Account, Market
from services.sandbox.settings import SandboxSettings
from services.sandbox.writes import Writer


def application(
    books: Books, routes: Sequence[Route], working: Callable[[], AbstractAsyncContextManager[None]]
) -> Starlette:
    """One sandbox as an application. `working` runs what it does of itself, for as long as the books are written."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        writing = asyncio.create_task(books.run())
        try:
            async with working():
                yield
        finally:
            books.stop()
            await writing
            books.close()

    return Starlette(routes=[*routes], lifespan=lifespan)


def marketplace(
    market: Market,
    writer: Writer,
    routes: Sequence[Route],
    settings: SandboxSettings,
    base_url: str,
    deliveries: Deliveries[Account, Delivery] | None = None,
    own_control: Sequence[tuple[str, str, Handler]] = (),
) -> Starlette:
    """One marketplace as an application: `routes` are its own, `deliveries` calls its sellers where it does, and
    `own_control` are rows of the control interface that no other marketplace has.
    """
    control = Control(market, settings.token)
    control.base_url = base_url

    @contextlib.asynccontextmanager
    async def working() -> AsyncIterator[None]:
        if deliveries is not None:
            await deliveries.start()
        try:
            yield
        finally:
            if deliveries is not None:
                await deliveries.stop()
            await writer.stop()

    return application(market.books, [*routes, *control.routes(own_control)], working)

"""Runs one marketplace: `python -m services.sandbox.app shopify` or `... skyhub`.

Settings come from the environment (`SALDO_SANDBOX_HOST`, `_PORT`, `_BOOKS`, `_TOKEN`). SIGTERM and Ctrl-C stop it
cleanly; after a kill the next start goes on from the books.
"""

import asyncio
import contextlib
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from typing import NoReturn

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette

from services.sandbox.books import Books
from services.sandbox.control import Control
from services.sandbox.market import Market
from services.sandbox.settings import SandboxSettings
from services.sandbox.shopify import ShopifyFace
from services.sandbox.skyhub import SkyhubFace
from services.sandbox.webhooks import Webhooks
from services.sandbox.writes import Writer

MARKETPLACES = ("shopify", "skyhub")


def build(marketplace: str, settings: SandboxSettings, base_url: str) -> Starlette:
    """Wire one marketplace."""
    books = Books(settings.books)
    market = Market(marketplace, books)
    writer = Writer(market)
    webhooks = Webhooks(market) if marketplace == "shopify" else None
    control = Control(market, settings.token)
    control.base_url = base_url
    face = ShopifyFace(market, writer) if marketplace == "shopify" else SkyhubFace(market, writer)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        writing = asyncio.create_task(books.run())
        if webhooks is not None:
            await webhooks.start()
        try:
            yield
        finally:
            if webhooks is not None:
                await webhooks.stop()
            await writer.stop()
            books.stop()
            await writing
            books.close()

    return Starlette(routes=[*face.routes(), *control.routes()], lifespan=lifespan)


def _give_up(message: str) -> NoReturn:
    sys.exit(f"sandbox: {message}")


def main() -> None:
    """Start the marketplace named on the command line and serve until told to stop."""
    if len(sys.argv) != 2 or sys.argv[1] not in MARKETPLACES:
        _give_up(f"name one marketplace: python -m services.sandbox.app {'|'.join(MARKETPLACES)}")
    marketplace = sys.argv[1]
    try:
        settings = SandboxSettings()
    except ValidationError as error:
        problems = (f"SALDO_SANDBOX_{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors())
        _give_up("; ".join(problems))
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        _give_up(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another SALDO_SANDBOX_PORT"
        )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    base_url = f"http://{host}:{listener.getsockname()[1]}"
    try:
        app = build(marketplace, settings, base_url)
    except (OSError, sqlite3.Error) as error:
        _give_up(f"cannot open the books at {settings.books}: {error}")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        http="h11",  # It writes header names as Shopify does; the official client looks for them in that case.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
    )
    print(f"sandbox {marketplace} listening on {base_url}", flush=True)
    # Once it has stopped cleanly, the server raises the signal again for whoever was there before it: that is success.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

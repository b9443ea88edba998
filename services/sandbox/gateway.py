"""The payment gateway sandbox: Stripe's API and its own pages on the sandbox's port, Pix over mutual TLS on another.

The Pix port is `SALDO_SANDBOX_PIX_PORT` (0: drawn) and told with every account as `pix_base_url`.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.applications import Starlette

from services.sandbox.books import Books
from services.sandbox.certificates import make
from services.sandbox.gateway_accounts import Gateway
from services.sandbox.gateway_bank import BankPages
from services.sandbox.gateway_cards import CardPages
from services.sandbox.gateway_control import GatewayControl
from services.sandbox.gateway_intents import Intents
from services.sandbox.gateway_pix import PixFace
from services.sandbox.gateway_stripe import StripeFace
from services.sandbox.gateway_webhooks import GatewayWebhooks
from services.sandbox.settings import SandboxSettings
from services.sandbox.wiring import application


class _Server(uvicorn.Server):
    """Signals belong to the server of the first port."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers alone."""
        yield


def build(settings: SandboxSettings, base_url: str) -> Starlette:
    """Wire the gateway. Ends the process where the Pix port is taken, as `app` does for the first."""
    certificates = make(settings.certificates or settings.books.parent / "certificates")
    books = Books(settings.books)
    gateway = Gateway(books)
    intents = Intents(gateway, base_url)
    stripe = StripeFace(gateway, intents, base_url)
    pages = CardPages(gateway, intents)
    pix = PixFace(gateway)
    bank = BankPages(gateway, pix)
    webhooks = GatewayWebhooks(gateway, certificates)
    control = GatewayControl(gateway, intents, pix, settings.token, base_url)
    listener, context = _listener(settings), certificates.server_context("server")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    control.pix_base_url = f"https://{host}:{listener.getsockname()[1]}"
    control.certificates = str(certificates.folder.resolve())
    config = uvicorn.Config(
        Starlette(routes=pix.routes()),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
        ssl_context_factory=lambda *_: context,
    )

    @contextlib.asynccontextmanager
    async def working() -> AsyncIterator[None]:
        server = _Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        await webhooks.deliveries.start()
        intents.resume()
        pix.resume()
        try:
            yield
        finally:
            server.should_exit = True
            await serving
            await webhooks.deliveries.stop()
            await gateway.stop()

    return application(books, [*stripe.routes(), *pages.routes(), *bank.routes(), *control.routes()], working)


def _listener(settings: SandboxSettings) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.pix_port))
    except OSError as error:
        sys.exit(
            f"sandbox: cannot listen on {settings.host}:{settings.pix_port}: {error.strerror}; "
            "choose another SALDO_SANDBOX_PIX_PORT"
        )
    listener.listen(2048)
    return listener

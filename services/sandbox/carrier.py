"""Puts the carrier together: Melhor Envio, and the carrier of retailers with rates of their own, in one process."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette

from services.sandbox.books import Books
from services.sandbox.carrier_control import CarrierControl
from services.sandbox.carrier_hooks import Hooks, Scanner
from services.sandbox.carrier_melhorenvio import MelhorEnvioFace
from services.sandbox.carrier_parcels import Depot
from services.sandbox.carrier_table import TableFace
from services.sandbox.settings import SandboxSettings
from services.sandbox.wiring import application


def build(settings: SandboxSettings, base_url: str) -> Starlette:
    """The carrier, reached at `base_url`."""
    books = Books(settings.books)
    depot = Depot(books)
    hooks, scanner = Hooks(depot), Scanner(depot)
    melhorenvio, table = MelhorEnvioFace(depot, base_url), TableFace(depot)
    control = CarrierControl(depot, hooks, settings.token, base_url)

    @contextlib.asynccontextmanager
    async def working() -> AsyncIterator[None]:
        await hooks.deliveries.start()
        await scanner.start()
        try:
            yield
        finally:
            await melhorenvio.stop()
            await scanner.stop()
            await hooks.deliveries.stop()

    return application(books, [*melhorenvio.routes(), *table.routes(), *control.routes()], working)

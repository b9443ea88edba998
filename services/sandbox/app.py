"""Runs one sandbox: `python -m services.sandbox.app shopify`, or another name of `FACES`.

Settings come from the environment (`SALDO_SANDBOX_HOST`, `_PORT`, `_BOOKS`, `_TOKEN`). SIGTERM and Ctrl-C stop it
cleanly; after a kill the next start goes on from the books.
"""

import pkgutil
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette

from services.sandbox.settings import SandboxSettings

FACES: Final[Mapping[str, str]] = {
    "shopify": "services.sandbox.shopify:build",
    "skyhub": "services.sandbox.skyhub:build",
    "mercadolivre": "services.sandbox.mercadolivre:build",
    "vtex": "services.sandbox.vtex:build",
    "gateway": "services.sandbox.gateway:build",
    "carrier": "services.sandbox.carrier:build",
    "shop": "services.sandbox.storefront:build",
}
"""Name → `module:function`; the function takes (settings, base_url) and returns the application. Only the module of the
one that is named gets imported."""


def _give_up(message: str) -> NoReturn:
    sys.exit(f"sandbox: {message}")


def main() -> None:
    """Start the sandbox named on the command line and serve until told to stop."""
    if len(sys.argv) != 2 or sys.argv[1] not in FACES:
        _give_up(f"name one sandbox: python -m services.sandbox.app {'|'.join(FACES)}")
    name = sys.argv[1]
    build: Callable[[SandboxSettings, str], Starlette] = pkgutil.resolve_name(FACES[name])
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
        app = build(settings, base_url)
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
    print(f"sandbox {name} listening on {base_url}", flush=True)
    # Once it has stopped cleanly, the server raises the signal again for whoever was there before it: that is success.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

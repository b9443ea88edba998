"""An account of every connector that has a case."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from aiohttp import web

from services.channels.connectors import CONNECTORS
from tests.channels.conformance.account import NFE, Account
from tests.channels.conformance.cases import ACCOUNTS, CASES
from tests.channels.conftest import Kit
from tests.sandbox.running import Sandbox


@pytest.fixture(scope="session")
def sandbox_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The base URL of a marketplace's sandbox, started when it is first asked for."""
    running: dict[str, Sandbox] = {}

    def started(marketplace: str) -> str:
        if CONNECTORS[marketplace].traits.local:
            return "http://127.0.0.1:9"
        if marketplace not in running:
            sandbox = Sandbox(marketplace, tmp_path_factory.mktemp(marketplace) / "books.sqlite")
            sandbox.start()
            running[marketplace] = sandbox
        return running[marketplace].base_url

    yield started
    for sandbox in running.values():
        sandbox.stop()


@pytest_asyncio.fixture
async def deaf_door() -> AsyncIterator[str]:
    """A door that answers well and keeps nothing: every push is lost."""

    async def lost(_: web.Request) -> web.Response:
        return web.Response()

    application = web.Application()
    application.router.add_post("/{path:.*}", lost)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@asynccontextmanager
async def _opened(
    name: str, kit: Kit, base_url: str, door_url: str, capfd: pytest.CaptureFixture[str], *, strict: bool
) -> AsyncIterator[Account]:
    kit.intake.registry.document = _nfe
    kit.intake.settings = kit.intake.settings.model_copy(update={"door_url": door_url})
    async with ACCOUNTS[name].opened(kit, CASES[name], base_url, strict=strict) as opened:
        yield opened
        secrets = {value for value in opened.session.credentials.values() if len(value) > 6}
        printed = capfd.readouterr()
        for word in (*secrets, "Comprador 7", "comprador.7@", "Rua de Exemplo"):
            assert word not in printed.out + printed.err, f"{name} printed what is nobody's business"


@pytest_asyncio.fixture(params=sorted(CASES))
async def account(
    request: pytest.FixtureRequest,
    kit: Kit,
    sandbox_of: Callable[[str], str],
    deaf_door: str,
    capfd: pytest.CaptureFixture[str],
) -> AsyncIterator[Account]:
    """A live account; whatever the test does with it, nothing of its secrets or its buyer is printed."""
    base_url = sandbox_of(request.param)
    async with _opened(request.param, kit, base_url, deaf_door, capfd, strict=False) as opened:
        yield opened


@pytest_asyncio.fixture(params=sorted(CASES))
async def strict_account(
    request: pytest.FixtureRequest,
    kit: Kit,
    sandbox_of: Callable[[str], str],
    deaf_door: str,
    capfd: pytest.CaptureFixture[str],
) -> AsyncIterator[Account]:
    """The same with the limits that the connector and the sandbox have by themselves."""
    base_url = sandbox_of(request.param)
    async with _opened(request.param, kit, base_url, deaf_door, capfd, strict=True) as opened:
        yield opened


@pytest.fixture
def seller(account: Account) -> Account:
    """An account at which buyers buy."""
    if account.traits.local:
        pytest.skip("traits.local: its orders come from our own API, see tests/channels/shop")
    return account


async def _nfe(url: str) -> bytes:
    """The file of every invoice."""
    del url
    return NFE

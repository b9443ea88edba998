"""One running system for all tests in this folder, and a company of its own for each.

Always the embedded stack, whatever servers the other tests run on: what is tested here is the supervisor with the
services as processes, and kills of them.
"""

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from deploy.local import stack
from services.console import instance
from services.console.client import Admin
from services.console.demo.evidence import Plan
from services.sandbox.client import SandboxClient
from tests.flow.company import SHOP_SETTINGS, Company, Opener, System

ENVIRONMENT = {
    # A request that timed out is executed a second later here, not five; records are read again soon, and often.
    "SALDO_STOCK_LATE_EXECUTION_S": "2",
    "SALDO_STOCK_RECONCILE_EVERY_S": "0.3",
    "SALDO_STOCK_REREAD_AFTER_S": "3",
    "SALDO_BACKOFF_CAP_S": "1",
    "SALDO_ABSORB_IDLE_S": "0.1",
    # Nobody stands at the packing table; what a lost webhook would have told is looked for soon.
    "FULFILLMENT_AUTO_PACK": "1",
    "FULFILLMENT_TRACK_EVERY_S": "2",
    "PAYMENTS_LOOK_EVERY_S": "2",
    "PAYMENTS_SETTLE_EVERY_S": "5",
    # A busy machine is no slow carrier: whoever is asked for a quote is waited for.
    "FULFILLMENT_QUOTE_TIMEOUT_S": "5",
    # What a process had begun when it was killed is begun again soon.
    "PAYMENTS_CALL_TIMEOUT_S": "5",
    "PAYMENTS_LEASE_MARGIN_S": "5",
    "FULFILLMENT_BOOK_LEASE_S": "10",
    "SALDO_LEASE_S": "10",
}


def pytest_report_header() -> str:
    return "flow tests: the embedded stack, with every service as a process"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(pytest_report_header())


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    """Kafka, PostgreSQL, all sandboxes and all services."""
    folder = Path(tempfile.mkdtemp(prefix="saldo-flow-"))
    folder.chmod(0o711)  # As root, PostgreSQL runs as another user and has to reach its data.
    try:
        armed = {"SALDO_FAULTS_FOLDER": str(folder / "faults")}
        # Who is killed again and again is started again at once.
        started = stack.Stack(folder, environment=ENVIRONMENT | armed, pause_cap_s=0.1)
        with stack.start_attached(started) as running:
            yield System(folder, instance.read_endpoints(running.endpoints, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture
async def open_company(system: System) -> AsyncIterator[Opener]:
    """`await open_company(plan, shops)` with shops such as `{"azul": "shopify", "norte": "skyhub"}`.

    The company's shops are named `<tenant>-<name>` and stand in `company.shops` in that order; they show the opening
    stock when it returns.
    """
    async with AsyncExitStack() as opened:
        sandboxes = {
            name: await opened.enter_async_context(SandboxClient(address.base_url, address.token, timeout_s=300))
            for name, address in system.endpoints.sandboxes.items()
        }

        async def open_(plan: Plan, shops: Mapping[str, str], tenant: str = "", **settings: Any) -> Company:
            tenant = tenant or f"flow-{secrets.token_hex(4)}"
            company = Company(system, tenant, plan, Admin(system.endpoints, tenant), sandboxes)
            opened.push_async_callback(company.close)
            await company.put_stock()
            for name, marketplace in shops.items():
                await company.open_shop(marketplace, f"{tenant}-{name}", **{**SHOP_SETTINGS, **settings})
            await company.until_opening_is_shown()
            return company

        yield open_

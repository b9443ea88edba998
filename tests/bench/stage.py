"""What benches on the running system share: a stack that goes again, ten shops without limits, buyers, a report."""

import asyncio
import json
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from deploy.local import stack
from services.channels.connectors import CONNECTORS
from services.console import instance
from services.console.client import Admin
from services.console.demo.evidence import Plan
from services.sandbox.client import SandboxClient
from services.sandbox.settings import ShopLimits
from tests.flow.company import PATIENCE_S, Company, System, plan

SHOPS = {"mercadolivre": 4, "vtex": 2, "shopify": 2, "skyhub": 2}
PRODUCTS, UNITS = 200, 1_000_000
WARM_RATE, WARM_S = 5.0, 8.0
OFF_PER_S = 100_000
PACE_OFF: Final = {"skyhub": {"poll_interval_s": "0.1"}, "vtex": {"spacing_ms": "0"}}
LOCK_OFF: Final = {"vtex": {"inventory_lock_s": 0}}
TENANT = "bench"
SERVICES = ("inventory", "orders", "channels")
STOCK_ALONE: Final[Mapping[str, Any]] = {"services": SERVICES, "sandboxes": tuple(SHOPS)}
"""The parts of a stack that a sale needs to reach ten shops."""


@asynccontextmanager
async def open_company(
    folder: Path,
    endpoints: dict[str, Any],
    products: Plan,
    shops: Mapping[str, int] = SHOPS,
    *,
    patience_s: float = PATIENCE_S,
    **shop: Any,
) -> AsyncIterator[Company]:
    """A company with these products in all `shops`, so many of each marketplace, on a stack that runs."""
    known = instance.read_endpoints(endpoints, folder)
    async with AsyncExitStack() as opened:
        sandboxes = {
            name: await opened.enter_async_context(
                SandboxClient(known.sandboxes[name].base_url, known.sandboxes[name].token)
            )
            for name in known.sandboxes
        }
        admin = opened.enter_context(Admin(known, TENANT))
        company = Company(System(folder, known), TENANT, products, admin, sandboxes, patience_s=patience_s)
        await company.put_stock()
        await open_shops(company, shops, **shop)
        yield company


def many_products() -> Plan:
    """Of each more than is ever sold."""
    return plan(**{f"P{number:03}": UNITS for number in range(PRODUCTS)})


@contextmanager
def running(name: str, **parts: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A stack, of which `parts` names the services and sandboxes, in a folder that is gone afterwards; yields both."""
    folder = Path(tempfile.mkdtemp(prefix=f"saldo-bench-{name}-"))
    folder.chmod(0o711)  # As root, PostgreSQL runs as another user and has to reach its data.
    try:
        with stack.start_attached(stack.Stack(folder, **parts)) as attached:
            yield folder, attached.endpoints
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_report(name: str, report: Mapping[str, Any]) -> None:
    """To `var/bench`."""
    path = Path(__file__).parents[2] / "var" / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def limits_off(marketplace: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings of a sandbox's shop and of the connection to it with which nothing is ever throttled.

    SkyHub's queue is looked at more often than its documented limit allows, and VTEX locks no SKU after a write.
    """
    per_s = [name for name in ShopLimits.model_fields if name.endswith("_per_s") or "bucket" in name]
    traits = CONNECTORS[marketplace].traits
    endpoints = {f"limit.{endpoint}": f"{OFF_PER_S}/{OFF_PER_S}" for endpoint in traits.limits}
    pace = PACE_OFF.get(marketplace, {})
    return {"limits": dict.fromkeys(per_s, OFF_PER_S), **LOCK_OFF.get(marketplace, {})}, endpoints | pace


async def open_shops(company: Company, shops: Mapping[str, int] = SHOPS, **shop: Any) -> None:
    """One after another: each shows every product before the first sale. `shop` are settings of the shops."""
    for marketplace, number in shops.items():
        settings, connection = limits_off(marketplace)
        for index in range(number):
            await company.open_shop(
                marketplace, f"{marketplace}-{index + 1}", connection=connection, **settings, **shop
            )
    await company.until_opening_is_shown()


async def warm_up(company: Company, draw: random.Random) -> None:
    """Some seconds of buyers that are not measured: plans, caches and connections are there afterwards."""
    await sell(company, WARM_RATE, WARM_S, draw)


async def sell(company: Company, rate: float, seconds: float, draw: random.Random) -> tuple[int, int]:
    """Buyers at `rate` a second, none waiting for another; returns the first and last moment, milliseconds."""
    skus = list(company.plan.opening)
    begun, begun_ms = time.perf_counter(), int(time.time() * 1000)
    async with asyncio.TaskGroup() as buyers:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            shop = draw.choice(company.shops)
            buyers.create_task(shop.buy({draw.choice(skus): 1}))
    return begun_ms, int(time.time() * 1000)

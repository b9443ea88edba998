"""What `saldo up` has begun goes on after `saldo down`: orders, stock, connections and the shops' own numbers."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local import stack
from services.console import instance as instances
from services.console.client import Admin
from services.console.demo.markets import MARKETS
from services.sandbox.client import SandboxClient
from tests.flow.company import until

SKU, OTHER_SKU = "SKU-0008", "SKU-0009"


@pytest.fixture
def folder() -> Iterator[Path]:
    at = Path(tempfile.mkdtemp(prefix="saldo-kept-"))
    at.chmod(0o711)  # As root, PostgreSQL runs as another user and has to reach its data.
    try:
        yield at
    finally:
        stack.stop(at)
        shutil.rmtree(at, ignore_errors=True)


async def saldo(folder: Path, *arguments: str) -> str:
    """Run the `saldo` command as a person does; returns what it printed."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", "from services.console.cli import main; main()", *arguments],
        env=os.environ | {"SALDO_INSTANCE": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def get(folder: Path, service: str, path: str) -> Any:
    with Admin(instances.find(str(folder)), "demo") as admin:
        return await asyncio.to_thread(admin.get, service, path)


async def shown(folder: Path) -> dict[str, dict[str, int]]:
    """The numbers of every sandbox shop."""
    numbers = {}
    sandboxes = instances.find(str(folder)).sandboxes
    for address in (sandboxes[marketplace] for marketplace in MARKETS):
        async with SandboxClient(address.base_url, address.token) as sandbox:
            numbers |= {shop: await sandbox.numbers(shop) for shop in await sandbox.shops()}
    return numbers


async def everything(folder: Path) -> dict[str, Any]:
    """All that must not change by stopping and starting."""
    return {
        "endpoints": stack.status(folder)["endpoints"],
        "orders": await get(folder, "orders", "orders"),
        "stock": await get(folder, "inventory", "stock"),
        "items": await get(folder, "inventory", "items"),
        "connections": await get(folder, "channels", "connections"),
        "shown": await shown(folder),
    }


async def buy(folder: Path, shop: str, sku: str) -> str:
    """Buy two of a SKU and wait until all shops but the paused one show what is left; returns the order's number."""
    before = (await shown(folder))[shop][sku]
    order = str(json.loads(await saldo(folder, "sandbox", "buy", shop, f"{sku}:2", "--json"))["order_id"])
    await until(
        lambda: shown(folder),
        lambda numbers: all(of[sku] == before - 2 for name, of in numbers.items() if name != "casa-sul"),
        f"{sku} at {before - 2}",
    )
    await until(
        lambda: get(folder, "orders", f"orders/{order}"),
        lambda told: told["state"] == "confirmed" and told["answered_revision"] == told["demand_revision"],
        f"the confirmation of {order}",
    )
    return order


@pytest.mark.asyncio
async def test_up_finds_what_was_there_before_down(folder: Path) -> None:
    await saldo(folder, "up", "--skus", "10")
    connections = (await get(folder, "channels", "connections"))["connections"]
    paused = next(one["connection_id"] for one in connections if one["account"] == "casa-sul")
    with Admin(instances.find(str(folder)), "demo") as admin:
        await asyncio.to_thread(admin.post, "channels", f"connections/{paused}/pause")
    order = await buy(folder, "loja-azul", SKU)
    before = await everything(folder)
    assert sorted(one["state"] for one in before["connections"]["connections"]) == [*["live"] * 6, "paused"]

    await saldo(folder, "down")
    assert stack.status(folder)["phase"] == "stopped"
    await saldo(folder, "up", "--skus", "10")
    assert await everything(folder) == before
    assert order in await saldo(folder, "trace", order)

    await buy(folder, "casa-norte", OTHER_SKU)
    assert await get(folder, "inventory", "deadletters") == []

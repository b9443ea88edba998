"""`saldo up`, `down`, `status`, `demo`, `bench`: the system as a whole."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.markup import escape

from deploy.local import parts, stack
from deploy.local.files import keep_secrets
from deploy.local.postgres import SUPERUSER, Postgres, create_database
from deploy.local.supervisor import PROJECT
from services.console import instance as instances
from services.console import output
from services.console.client import Admin, AdminError, alerts_of, is_ready
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant


def register(root: typer.Typer) -> None:
    """Add the commands to the root."""
    for command in (up, down, status, demo, chaos, database, bench):
        root.command()(command)


def up(
    skus: Annotated[int, typer.Option(min=10, help="SKUs of the demonstration set, at the first start.")] = 200,
    empty: Annotated[bool, typer.Option("--empty", help="Start without shops, connections and SKUs.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw the instance's data away first.")] = False,
    seed: Annotated[int, typer.Option(help="Of the demonstration set.")] = 1,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Start everything in the background; data stays in var/. The first start opens shops on five kinds of channel."""
    from services.console.demo.seed import set_up

    folder = instances.make_folder(instance or "up")
    if stack.status(folder)["phase"] == "ready":
        if fresh:
            raise Failed("Saldo is running: stop it with `saldo down` before its data is thrown away")
        output.console.print("Saldo is running already: `saldo status` tells where, `saldo down` stops it")
        return
    with output.errors.status("starting") as shown:
        state = stack.start_background(stack.Stack(folder, fresh=fresh), lambda state: shown.update(_phase(state)))
        endpoints = instances.read_endpoints(state["endpoints"], folder)
        if not empty:
            set_up(endpoints, tenant, skus=skus, seed=seed, progress=shown.update)
    if json_wanted:
        output.as_json(_status(folder, tenant))
    else:
        output.console.print("Saldo is running: `saldo status` tells where, `saldo down` stops it")
        if not empty:
            output.console.print(f"its own shop: {storefront(endpoints)}", highlight=False, soft_wrap=True)


def storefront(endpoints: instances.Endpoints) -> str:
    """Where a person can click through the demonstration company's own shop."""
    from services.console.demo.seed import OWN_SHOP

    marketplace, shop = OWN_SHOP
    return f"{endpoints.sandboxes[marketplace].base_url}/{shop}"


def _phase(state: Mapping[str, Any]) -> str:
    waiting = [name for name, process in state["processes"].items() if process["health"] != "ready"]
    return f"{state['phase']} {', '.join(waiting)}"


def down(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None) -> None:
    """Stop what `up` started; data stays."""
    del tenant  # The processes serve every company.
    folder = instances.folder(instance or "up")
    with output.errors.status("stopping"):
        stopped = stack.stop(folder)
    output.console.print("stopped" if stopped else f"nothing was running in {folder}")


def status(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """Every endpoint, the sandboxes' credentials, the connections, and the health of each process."""
    if instance is None and (given := instances.from_environment(os.environ)):
        told = _status_elsewhere(given, tenant)
    else:
        folders = [instances.folder(name) for name in ([instance] if instance else ["up", "demo"])]
        folder = next((one for one in folders if stack.status(one)["running"]), folders[0])
        told = _status(folder, tenant)
    if json_wanted:
        output.as_json(told)
    else:
        _print_status(told)
    healthy = told["running"] and all(one["health"] == "ready" for one in told["processes"].values())
    if not healthy:
        raise typer.Exit(1)


def _status(folder: Path, tenant: str) -> dict[str, Any]:
    """What `status` tells: `running`, `processes`, `kafka`, `databases`, `webhooks`, `sandboxes`, `connections`,
    `alerts`.
    """
    state = stack.status(folder)
    told: dict[str, Any] = {
        "instance": str(folder),
        "running": state["running"],
        "phase": state["phase"],
        "processes": state["processes"],
        **{name: {} for name in ("kafka", "databases", "webhooks", "sandboxes", "admin")},
        "connections": [],
        "alerts": [],
    }
    if not state["running"] or not state["endpoints"]:
        return told
    endpoints = instances.read_endpoints(state["endpoints"], folder)
    told |= state["endpoints"]
    return told | _asked(endpoints, tenant)


def _status_elsewhere(endpoints: instances.Endpoints, tenant: str) -> dict[str, Any]:
    """The same of a system that was started by other means, as far as its own listeners tell."""
    processes = {
        name: {"pid": None, "health": "ready" if is_ready(address)[0] else "not ready", "restarts": None}
        for name, address in endpoints.admin.items()
    }
    ready = all(process["health"] == "ready" for process in processes.values())
    told: dict[str, Any] = {
        "instance": "as SALDO_ADMIN_<SERVICE>_URL tell",
        "running": True,
        "phase": "ready" if ready else "not ready",
        "processes": processes,
        "kafka": {"bootstrap_servers": endpoints.kafka},
        "databases": {name: {"verify_dsn": dsn} for name, dsn in endpoints.verify_dsns.items()},
        "webhooks": {"base_url": endpoints.webhooks},
        "admin": {name: {"base_url": one.base_url, "token": one.token} for name, one in endpoints.admin.items()},
    }
    return told | _asked(endpoints, tenant)


def _asked(endpoints: instances.Endpoints, tenant: str) -> dict[str, Any]:
    """What sandboxes, services and channels themselves have to be asked."""
    told: dict[str, Any] = {
        "sandboxes": asyncio.run(_sandboxes(endpoints)),
        "connections": [],
        "alerts": [
            {"service": name, "alert": alert} for name, one in endpoints.admin.items() for alert in alerts_of(one)
        ],
    }
    try:
        with Admin(endpoints, tenant) as client:
            told["connections"] = client.get("channels", "connections")["connections"]
    except AdminError as error:
        told["problem"] = str(error)
    return told


async def _sandboxes(endpoints: instances.Endpoints) -> dict[str, Any]:
    """Each sandbox with its shops, those of marketplaces and the own one; accounts at gateway and carrier are ours."""
    import aiohttp

    from services.console.demo.markets import MARKETS
    from services.sandbox.client import SandboxClient, SandboxError

    told: dict[str, Any] = {}
    for name, address in endpoints.sandboxes.items():
        told[name] = {"base_url": address.base_url, "control_token": address.token, "shops": {}}
        if name not in MARKETS:
            continue
        try:
            async with SandboxClient(address.base_url, address.token) as sandbox:
                for shop in await sandbox.shops():
                    described = await sandbox.shop(shop)
                    wanted = ("base_url", "credentials", "locations", "domain")
                    told[name]["shops"][shop] = {field: described[field] for field in wanted if field in described}
        except (SandboxError, aiohttp.ClientError, OSError) as error:
            told[name]["problem"] = f"does not answer ({type(error).__name__})"
    return told


def _print_status(told: Mapping[str, Any]) -> None:
    output.console.print(f"[bold]{escape(told['instance'])}[/]: {told['phase']}", highlight=False)
    rows = [{"process": name, **process} for name, process in told["processes"].items()]
    output.table(rows, ("process", "health", "pid", "restarts"), empty="nothing is running: start it with `saldo up`")
    if not told["running"]:
        return
    output.console.print()
    places = [{"what": "kafka", "where": told["kafka"].get("bootstrap_servers")}]
    places += [
        {"what": f"database {name}", "where": _without_secret(one.get("dsn") or one["verify_dsn"])}
        for name, one in told["databases"].items()
    ]
    places += [{"what": "webhooks", "where": told["webhooks"].get("base_url")}]
    places += [{"what": f"admin {name}", "where": one["base_url"]} for name, one in told["admin"].items()]
    for name, sandbox in told["sandboxes"].items():
        places.append({"what": f"sandbox {name}", "where": sandbox["base_url"]})
        for shop, one in sandbox["shops"].items():
            shown = " ".join(f"{field}={value}" for field, value in one["credentials"].items())
            if one["base_url"] != sandbox["base_url"]:
                shown = f"{one['base_url']} {shown}"
            places.append({"what": f"  shop {shop}", "where": shown})
    output.table(places, ("what", "where"))
    output.console.print()
    output.table(
        told["connections"], ("connection_id", "connector", "account", "environment", "state"), empty="no connections"
    )
    for one in told["alerts"]:
        output.console.print(f"[yellow]{one['service']}:[/] {escape(one['alert'])}", highlight=False, soft_wrap=True)
    if problem := told.get("problem"):
        output.errors.print(f"[red]{escape(problem)}[/]", highlight=False, soft_wrap=True)
    output.console.print("[dim]`--json` has passwords and tokens too[/]")


def _without_secret(dsn: str) -> str:
    """A DSN without its password."""
    scheme, separator, rest = dsn.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}{at}{place}"


def demo(
    orders: Annotated[int | None, typer.Option(min=1, help="Stop after this many orders.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Orders a second over all connections.")] = 3.0,
    skus: Annotated[int, typer.Option(min=10, help="SKUs on sale, kits and scarce ones among them.")] = 200,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="How long buyers buy; 60 where --orders does not end it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed has the same buyers.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running afterwards, until Ctrl-C.")] = False,
    stock_alone: Annotated[
        bool, typer.Option("--stock-alone", help="Two kinds of channel and three services: nothing is paid or sent.")
    ] = False,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Everything from nothing: servers, services, shops, buyers, and a verdict. Exit code 0 only if it passes."""
    from services.console.demo.run import DemoOptions, run_demo

    folder = instances.make_folder(instance or "demo")
    options = DemoOptions(orders, rate, skus, seconds, seed, tenant, keep, stock_alone)
    passed = run_demo(folder, options, json_wanted=json_wanted)
    if not passed:
        raise typer.Exit(1)


def chaos(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long faults strike.")] = 20.0,
    seed: Annotated[int, typer.Option(help="The same seed has the same faults, buyers and records.")] = 7,
    rate: Annotated[float, typer.Option(min=0.1, help="Orders a second at the sandboxes.")] = 11.0,
    stream_rate: Annotated[float, typer.Option(min=0.1, help="Orders a second put straight on Kafka.")] = 35.0,
    brokers: Annotated[int, typer.Option(help="1, or 3: a cluster of which one after the other is lost.")] = 1,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Kill, cut, stall and flood the whole system while it sells. Exit code 0 only if every order's history holds."""
    from services.console.chaos.run import ChaosOptions, run_chaos

    if brokers not in {1, 3}:
        raise Failed("--brokers is 1 or 3: of two, none may be lost")
    folder = instances.make_folder(instance or "chaos")
    options = ChaosOptions(minutes, seed, rate, stream_rate, tenant, brokers)
    if not run_chaos(folder, options, json_wanted=json_wanted):
        raise typer.Exit(1)


def database(
    name: Annotated[str, typer.Argument(help="What it is called, and the role that owns it: the service's name.")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """Make a database for a service of your own on the running instance's server, and print its POSTGRES_DSN."""
    del tenant  # A database is a service's, not a company's.
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,50}", name) or name in (*parts.SERVICES, stack.READER, SUPERUSER):
        raise Failed(f"{name} cannot be the name: give a-z, 0-9 and _, and none that Saldo uses itself")
    folder = instances.folder(instance or "up")
    state = stack.status(folder)
    if state["phase"] != "ready":
        raise Failed(f"nothing is running in {folder}: start it with `saldo up`")
    port = urlsplit(state["endpoints"]["databases"][next(iter(parts.SERVICES))]["dsn"]).port
    admin_password, password = keep_secrets(folder, ("postgres", f"own_{name}_database")).values()
    postgres = Postgres(folder / "postgres", port or 0, admin_password)
    asyncio.run(create_database(postgres.admin_dsn, name, name, password))
    print(postgres.dsn(name, name, password))  # Bare, for POSTGRES_DSN=$(saldo database NAME).


def bench(
    name: Annotated[str, typer.Argument(help="Which bench.")] = "pipeline",
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to the bench, after --.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
) -> None:
    """Run a bench of tests/bench (a checkout only). It writes var/bench/NAME.json."""
    del tenant  # Benches bring servers and a company of their own.
    folder = PROJECT / "tests" / "bench"
    known = sorted(
        path.stem
        for path in folder.glob("*.py")
        if not path.stem.startswith("bare") and "def main(" in path.read_text("utf-8")
    )
    if not known:
        raise Failed("benches are part of the source checkout: run `saldo bench` there")
    if name not in known:
        raise Failed(f"no bench {name}; there are: {', '.join(known)}")
    done = subprocess.run(  # noqa: S603 - a module of this checkout, chosen from its own folder
        [sys.executable, "-m", f"tests.bench.{name}", *(arguments or [])], cwd=PROJECT, check=False
    )
    raise typer.Exit(done.returncode)

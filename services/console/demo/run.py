"""`saldo demo`: from nothing to a verdict. Everything is started, set up, bought, waited for, judged and stopped."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.local import stack
from services.console import instance as instances
from services.console import output
from services.console.client import Admin, AdminError
from services.console.commands.deadletters import all_letters
from services.console.demo import report
from services.console.demo.buyers import Tally, buy_all, plan_purchases, rates
from services.console.demo.collector import BookReader, Collector, settle
from services.console.demo.company import CARRIER_DAYS_PER_S
from services.console.demo.evidence import Evidence, cancelled_orders
from services.console.demo.live import View, watch
from services.console.demo.markets import MARKETS
from services.console.demo.office import Office
from services.console.demo.path import PathVerdict
from services.console.demo.path import judge as judge_path
from services.console.demo.report import Played
from services.console.demo.seed import Scene, set_up
from services.console.demo.verdict import judge, unsettled
from services.console.instance import Endpoints
from services.console.verification import verify
from services.sandbox.client import SandboxClient

SECONDS = 60.0
SETTLE_TIMEOUT_S = 30.0
PATH_TIMEOUT_S = 90.0
ASK_AGAIN_S = 0.5
# Nobody stands at the packing table, and what a lost webhook would have told is looked for soon.
STOCK_ALONE = {"services": ("inventory", "orders", "channels"), "sandboxes": ("shopify", "skyhub")}
"""The spine: a sale on two kinds of channel lowers the stock on the others, and nothing is paid, packed or sent."""

ENVIRONMENT = {"FULFILLMENT_AUTO_PACK": "1", "FULFILLMENT_TRACK_EVERY_S": "5", "PAYMENTS_LOOK_EVERY_S": "5"}


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What a run is told. `seconds` None: 60, or as long as `orders` takes."""

    orders: int | None
    rate: float
    skus: int
    seconds: float | None
    seed: int
    tenant: str
    keep: bool = False
    stock_alone: bool = False

    @property
    def buying_s(self) -> float | None:
        """How long buyers come; None: until `orders` have."""
        return SECONDS if self.seconds is None and self.orders is None else self.seconds


def run_demo(folder: Path, options: DemoOptions, *, json_wanted: bool) -> bool:
    """Run the demo in an instance of its own, whose data is thrown away first; True if the verdict passes.

    Writes `report.json` into the instance's folder. Raises `StartError`, `InstanceBusyError`, `Failed`, `AdminError`.
    """
    console = output.errors if json_wanted else output.console
    folder.mkdir(parents=True, exist_ok=True)
    begun_s = time.monotonic()
    with contextlib.ExitStack() as running:
        with console.status("starting Kafka, PostgreSQL, the sandboxes and the services") as shown:
            some: dict[str, Any] = dict(STOCK_ALONE) if options.stock_alone else {}
            wanted = stack.Stack(folder, fresh=True, environment=ENVIRONMENT, **some)
            attached = running.enter_context(stack.start_attached(wanted))
            endpoints = instances.read_endpoints(attached.endpoints, folder)
            scene = set_up(endpoints, options.tenant, skus=options.skus, seed=options.seed, progress=shown.update)
        console.print(f"ready after {time.monotonic() - begun_s:.1f} s in {folder}", highlight=False)
        _print_limits(console, scene, options)
        played = asyncio.run(_play(endpoints, scene, options, console))
        told = report.compose(played, seed=options.seed)
        report.write(folder / "report.json", told)
        if json_wanted:
            output.as_json(told)
        else:
            report.show(console, told, played.stock)
        console.print(f"[dim]{folder / 'report.json'}[/]", highlight=False, soft_wrap=True)
        if options.keep:
            console.print("still running: look around with `saldo --help`, end it with Ctrl-C")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    return not told["failures"]


async def _play(endpoints: Endpoints, scene: Scene, options: DemoOptions, console: Console) -> Played:
    """Let buyers buy, wait until all is settled, and judge it."""
    plan, channels = scene.catalogue.plan, scene.channels
    purchases = plan_purchases(
        channels,
        scene.catalogue,
        rate=options.rate,
        seconds=options.buying_s,
        orders=options.orders,
        seed=options.seed,
    )
    async with contextlib.AsyncExitStack() as opened:
        sandboxes: Mapping[str, SandboxClient] = {
            name: await opened.enter_async_context(SandboxClient(address.base_url, address.token))
            for name, address in endpoints.sandboxes.items()
        }
        collector = Collector(endpoints.kafka, options.tenant)
        await collector.start()
        opened.push_async_callback(collector.stop)
        reader = BookReader(sandboxes)
        tally = Tally()
        watched = [*scene.catalogue.scarce[:3], *list(plan.opening)[-2:], *list(plan.kits)[:1]]
        begun_s = time.monotonic()
        admin = opened.enter_context(Admin(endpoints, options.tenant))
        refused: list[str] = []
        if scene.courier:
            office = Office(admin, scene.courier, collector.journeys, options.seed, refused=refused)
            opened.push_async_callback(_dismiss, asyncio.create_task(office.run(), name="office"))
        view = View(channels, watched, tally, collector, sandboxes, admin, len(purchases))
        buying = asyncio.create_task(buy_all(purchases, channels, sandboxes, tally))
        await watch(view, console, buying)
        await buying

        with console.status("the last sale is made: waiting until every unit has found its place"):
            decided = await settle(collector, reader, _is_decided, plan, channels, SETTLE_TIMEOUT_S)
        open_units, _ = unsettled(decided)

        steps = {channel.connection_id: MARKETS[channel.marketplace].told for channel in channels}

        def judged(evidence: Evidence) -> PathVerdict | None:
            if scene.courier is None:
                return None
            gateway, carrier = reader.outside(options.tenant)
            told, movements, cancelled = reader.told(channels), evidence.heard.movements, cancelled_orders(evidence)
            return judge_path(
                collector.journeys, gateway, carrier, told, movements, plan, steps=steps, cancelled=cancelled,
                paid=reader.paid(channels), invoiced=True,
            )  # fmt: skip

        def is_over(evidence: Evidence) -> bool:
            path = judged(evidence)
            return unsettled(evidence) == (0, 0) and not (path and path.failures)

        with console.status("waiting until every order has come to its end"):
            evidence = await settle(collector, reader, is_over, plan, channels, PATH_TIMEOUT_S)
        duration_s = time.monotonic() - begun_s
        reviews = await asyncio.to_thread(admin.get, "crm", "reviews", limit=1000) if scene.courier else {"reviews": []}
        return Played(
            stock=judge(evidence),
            path=judged(evidence),
            late_units=open_units,
            duration_s=duration_s,
            deadletters=await _count_dead_letters(admin),
            reviews=len(reviews["reviews"]),
            refused=tuple(refused),
            checks=await verify(endpoints.verify_dsns, options.tenant),
        )


def _is_decided(evidence: Evidence) -> bool:
    return unsettled(evidence)[0] == 0


async def _dismiss(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _count_dead_letters(admin: Admin) -> int:
    """Dead letters of all services; a service that is just being restarted is asked again."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        try:
            return len(await asyncio.to_thread(all_letters, admin, None, None))
        except AdminError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(ASK_AGAIN_S)


def _print_limits(console: Console, scene: Scene, options: DemoOptions) -> None:
    """Say how fast buyers will come, which limits the sandboxes enforce, and how fast the carrier's clock runs."""
    if scene.courier:
        console.print(
            f"  the carrier's clock runs fast: {CARRIER_DAYS_PER_S:g} of its days is a second", highlight=False
        )
    per_connection = rates(scene.channels, options.rate)
    for channel in scene.channels:
        limits = channel.limits
        console.print(
            f"  {channel.name}: buyers at {per_connection[channel.connection_id]:.2f} orders/s; its documented limits: "
            f"{limits.requests_per_s:g} stock writes/s (burst {limits.burst:g}) of up to {limits.max_batch} listings",
            highlight=False,
            soft_wrap=True,
        )

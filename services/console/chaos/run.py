"""`saldo chaos`: everything is started, set up, sold from and struck; then it is left alone, waited for and judged."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape

from contracts.orders.v1 import OrderHeld
from deploy.local import stack
from services.console import instance as instances
from services.console import output
from services.console.chaos import stream
from services.console.chaos.buyers import Crowd, plan_buyers
from services.console.chaos.hand import Hand
from services.console.chaos.history import History, Ordered
from services.console.chaos.proxy import Proxy
from services.console.chaos.schedule import SERVERS, Fault, plan_faults
from services.console.chaos.stream import Stream
from services.console.client import Admin, AdminError
from services.console.commands.deadletters import all_letters
from services.console.demo import path as paths
from services.console.demo import report
from services.console.demo.collector import BookReader, Collector, settle
from services.console.demo.evidence import Evidence, cancelled_orders
from services.console.demo.journeys import Journey
from services.console.demo.markets import MARKETS
from services.console.demo.office import NOT_YET, Office
from services.console.demo.path import PathVerdict
from services.console.demo.seed import OWN_SHOP, SHOPS, Scene, set_up
from services.console.demo.verdict import Verdict, judge, to_report, unsettled
from services.console.instance import Endpoints
from services.console.verification import Outcome, verify
from services.sandbox.client import SandboxClient

SKUS: Final = 200
DOUBLES: Final = {"inventory": 1, "orders": 2}
"""Services with a second process: of inventory it stands by, of orders it shares the work."""
ENVIRONMENT: Final = {
    "FULFILLMENT_AUTO_PACK": "1",
    "FULFILLMENT_TRACK_EVERY_S": "5",
    "PAYMENTS_LOOK_EVERY_S": "5",
    "SALDO_STOCK_RECONCILE_EVERY_S": "5",
}
TELL_EVERY_S: Final = 10.0
SETTLE_TIMEOUT_S: Final = 120.0
SETTLE_PER_MINUTE_S: Final = 12.0
"""So much longer for every minute of sales: what the end is judged by grows with them."""
REDELIVERY_MS: Final = 20_000
"""When SkyHub shows an order again that was handed out and not deleted: its own five minutes outlast most runs."""
LOOK_S: Final = 0.2
OFFICE_TRIES: Final = 2_000
"""Ten minutes: a service that is ended again and again is away for longer than a demonstration's people wait."""
AUTHOR: Final = "chaos"
"""Who gives up what nobody can read."""


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """What a run is told. `rate` of orders at the sandboxes, `stream_rate` of those on Kafka, each a second.

    Of three `brokers` one after the other is lost; otherwise there is one, with a proxy before it.
    """

    minutes: float
    seed: int
    rate: float
    stream_rate: float
    tenant: str
    brokers: int = 1

    @property
    def seconds(self) -> float:
        """How long faults strike and buyers come."""
        return self.minutes * 60

    @property
    def settle_timeout_s(self) -> float:
        """How long all may take to come to its end, once everything is back."""
        return SETTLE_TIMEOUT_S + SETTLE_PER_MINUTE_S * self.minutes

    @property
    def depth(self) -> int:
        """How many times the demonstration's stock it takes, so that only what is scarce runs out."""
        return math.ceil((self.rate + self.stream_rate) * self.seconds * 2 / (SKUS * 60))


@dataclass
class Judged:
    """What a run is judged by."""

    stock: Verdict
    path: PathVerdict
    checks: Sequence[Outcome]
    letters: Sequence[str]
    parked: int
    unknown: Sequence[str]
    overtaken: Sequence[str]
    refused: Sequence[str]

    @property
    def failures(self) -> list[str]:
        """What is wrong, in words; empty: the history holds."""
        named = {
            "acknowledged orders are in no book": self.unknown,
            "events came after a later one of their key": self.overtaken,
            "dead letters that nobody asked for": self.letters,
            "deeds of the office were refused": self.refused,
            "checks in the databases found contradictions": [
                f"{one.check.what}: {one.contradictions[0]}" for one in self.checks if one.contradictions
            ],
        }
        return [
            *self.stock.failures,
            *self.path.failures,
            *(f"{len(found)} {what}: {'; '.join(found[:3])}" for what, found in named.items() if found),
        ]


@dataclass
class Run:
    """One run on a running instance."""

    options: ChaosOptions
    scene: Scene
    endpoints: Endpoints
    hand: Hand
    history: History
    console: Console
    heard_of: set[tuple[str, str]] = field(default_factory=set)
    told_s: float = -math.inf

    async def play(self, faults: Sequence[Fault]) -> tuple[Judged, Stream, Crowd]:
        """Sell and strike, wait until all is settled, and judge."""
        options, channels = self.options, (*self.scene.channels, stream.CHANNEL)
        records = stream.plan_records(self.scene.catalogue, options.seed, options.seconds, options.stream_rate)
        streaming = Stream(self.endpoints.kafka, options.tenant, self.history)
        collector = Collector(self.endpoints.kafka, options.tenant, Ordered(dirty=stream.CONNECTION))
        async with contextlib.AsyncExitStack() as opened:
            sandboxes: Mapping[str, SandboxClient] = {
                name: await opened.enter_async_context(SandboxClient(address.base_url, address.token))
                for name, address in self.endpoints.sandboxes.items()
            }
            reader = BookReader(sandboxes)
            reader.rows[stream.MARKETPLACE] = streaming.books.rows
            await collector.start()
            opened.push_async_callback(collector.stop)
            admin = opened.enter_context(Admin(self.endpoints, options.tenant))
            assert self.scene.courier
            office = Office(admin, self.scene.courier, collector.journeys, options.seed, tries=OFFICE_TRIES)
            await opened.enter_async_context(_at_work(office.run()))
            crowd = Crowd(sandboxes, self.history)
            async with _at_work(self._tell(streaming, crowd)):
                begun = asyncio.get_running_loop().time()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.hand.run(faults, begun))
                    group.create_task(streaming.run(records, begun))
                    purchases = plan_buyers(self.scene, options.rate, options.seconds, options.seed)
                    group.create_task(crowd.run(purchases, self.scene.channels, begun))
            self.heard_of = set(crowd.acknowledged)
            await self._until_ready()
            self.console.print("everything is back: waiting until every order has come to its end", highlight=False)
            parked, letters = await self._clear_letters(admin, stream.spoilt_orders(records, options.tenant))

            def judged(seen: Evidence) -> PathVerdict:
                return self._judge_path(collector, reader, seen)

            def is_over(seen: Evidence) -> bool:
                open_units, wrong_numbers = unsettled(seen)
                failures = judged(seen).failures
                self._tell_rest(open_units, wrong_numbers, failures)
                return not (open_units or wrong_numbers or failures)

            evidence = await settle(
                collector, reader, is_over, self.scene.catalogue.plan, channels, options.settle_timeout_s
            )
            sold = {(one, line.order) for one, books in evidence.books.items() for line in books.sold}
            assert isinstance(collector.heard, Ordered)
            return (
                Judged(
                    stock=judge(evidence, timed=False),
                    path=judged(evidence),
                    checks=await verify(self.endpoints.verify_dsns, options.tenant),
                    letters=[*letters, *(await self._clear_letters(admin, set()))[1]],
                    parked=parked,
                    unknown=[f"{one} {order}" for one, order in crowd.acknowledged if (one, order) not in sold],
                    overtaken=collector.heard.overtaken,
                    refused=office.refused,
                ),
                streaming,
                crowd,
            )

    def _judge_path(self, collector: Collector, reader: BookReader, seen: Evidence) -> PathVerdict:
        gateway, carrier = reader.outside(self.options.tenant)
        channels = self.scene.channels
        verdict = paths.judge(
            collector.journeys, gateway, carrier, reader.told(channels), seen.heard.movements,
            self.scene.catalogue.plan, steps={one.connection_id: MARKETS[one.marketplace].told for one in channels},
            cancelled=cancelled_orders(seen), paid=reader.paid(channels), invoiced=True,
        )  # fmt: skip
        return replace(
            verdict, unended=[one for one in verdict.unended if not self._may_wait(collector.journeys.by_order[one])]
        )

    def _may_wait(self, one: Journey) -> bool:
        """Whether an order waits for its buyer's payment, and rightly so: those on Kafka are never paid, and of the own
        shop's those that nobody heard of wait until their hold is over.
        """
        placed = one.placed
        if placed is None or not isinstance(one.newest, OrderHeld):
            return False
        if placed.connection_id == stream.CONNECTION:
            return True
        own = {channel.connection_id for channel in self.scene.channels if channel.marketplace == OWN_SHOP[0]}
        return placed.connection_id in own and (placed.connection_id, placed.external_id) not in self.heard_of

    async def _clear_letters(self, admin: Admin, spoilt: set[str]) -> tuple[int, list[str]]:
        """Give up what nobody can read, so that what is parked behind it follows; (how many, what else is buried)."""
        given_up = 0
        while True:
            try:
                letters = await asyncio.to_thread(all_letters, admin)
                ours = [one for one in letters if (one["aggregate"] or "").rpartition(":")[2] in spoilt]
                for one in ours:
                    await asyncio.to_thread(
                        admin.post, one["service"], f"deadletters/{one['id']}/discard", author=AUTHOR,
                        reason="told again, readably",
                    )  # fmt: skip
                    given_up += 1
            except AdminError as error:
                if error.status not in NOT_YET:
                    raise
                await asyncio.sleep(LOOK_S)
                continue
            if not ours:
                return given_up, [
                    f"{one['service']} {one['aggregate'] or one['type']}: {one['error']}" for one in letters
                ]

    async def _until_ready(self) -> None:
        def waited_for() -> list[str]:
            processes = stack.read_state(self.hand.folder)["processes"]
            # Of two processes of a service, the one without a slot is never ready.
            return [
                name
                for name, process in processes.items()
                if process["health"] != "ready" and not (name in DOUBLES and process["health"] == "not ready")
            ]

        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while waiting := waited_for():
            if time.monotonic() > deadline:
                self.console.print(f"[red]not ready:[/] {', '.join(waiting)}", highlight=False)
                return
            await asyncio.sleep(LOOK_S)

    async def _tell(self, streaming: Stream, crowd: Crowd) -> None:
        begun_s = time.monotonic()
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            self.console.print(
                f"{time.monotonic() - begun_s:5.0f} s  {self.hand.count()} faults ({self.hand.kills} kills, "
                f"{self.hand.count('server')} servers), {len(crowd.acknowledged)} orders by HTTP "
                f"({crowd.refused} refused), {streaming.books.orders} on Kafka",
                highlight=False,
            )

    def _tell_rest(self, open_units: int, wrong_numbers: int, failures: Sequence[str]) -> None:
        if time.monotonic() > self.told_s + TELL_EVERY_S:
            self.told_s = time.monotonic()
            waiting = [f"{open_units} units open", f"{wrong_numbers} numbers to be shown", *failures]
            self.console.print(f"[dim]{escape('; '.join(waiting))}[/]", highlight=False, soft_wrap=True)


def run_chaos(folder: Path, options: ChaosOptions, *, json_wanted: bool) -> bool:
    """Run in an instance of its own, whose data is thrown away first; True if the history check holds.

    Writes `history.jsonl` and `report.json` into the instance's folder. Raises `StartError`, `InstanceBusyError`,
    `Failed`, `AdminError`.
    """
    console = output.errors if json_wanted else output.console
    told = asyncio.run(_run(folder.absolute(), options, console))
    report.write(folder / "report.json", told)
    if json_wanted:
        output.as_json(told)
    else:
        _show(console, told)
    console.print(f"[dim]{folder / 'report.json'}[/]", highlight=False, soft_wrap=True)
    return not told["failures"]


async def _run(folder: Path, options: ChaosOptions, console: Console) -> dict[str, Any]:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # That servers are away is what the run is about.
    outside = [name for name in (*MARKETS, "gateway", "carrier") if name != "shop"]
    alone = options.brokers == 1
    servers, brokers = (
        (SERVERS, ["kafka"]) if alone else (["postgres"], [f"kafka-{n + 1}" for n in range(options.brokers)])
    )
    system = stack.Stack(
        folder, fresh=True, environment={**ENVIRONMENT, "SALDO_FAULTS_FOLDER": str(folder / "faults")},
        pause_cap_s=0.5, detours=(*servers, *outside), doubles=DOUBLES, brokers=options.brokers,
    )  # fmt: skip
    faults = plan_faults(options.seed, options.minutes, list(system.services), list(DOUBLES), outside, brokers)
    begun_s = time.monotonic()
    with History(folder / "history.jsonl") as history:
        async with _started(system) as (attached, proxies):
            endpoints = instances.read_endpoints(attached.endpoints, folder)
            way = _way(attached.endpoints["detours"])
            with console.status("setting up") as shown:
                scene = await asyncio.to_thread(
                    set_up, endpoints, options.tenant, skus=SKUS, seed=options.seed, progress=shown.update,
                    depth=options.depth, way=way,
                )  # fmt: skip
            await _shorten_redelivery(endpoints)
            console.print(f"ready after {time.monotonic() - begun_s:.1f} s; {len(faults)} faults are to come")
            run = Run(options, scene, endpoints, Hand(folder, proxies, history), history, console)
            judged, streaming, crowd = await run.play(faults)
    return _compose(run, judged, streaming, crowd, len(faults), time.monotonic() - begun_s)


async def _shorten_redelivery(endpoints: Endpoints) -> None:
    address = endpoints.sandboxes["skyhub"]
    async with SandboxClient(address.base_url, address.token) as sandbox:
        for marketplace, shop in SHOPS:
            if marketplace == "skyhub":
                await sandbox.put_shop(shop, queue_redelivery_ms=REDELIVERY_MS)


@asynccontextmanager
async def _started(system: stack.Stack) -> AsyncIterator[tuple[stack.Attached, dict[str, Proxy]]]:
    """The instance with its detours open, for as long as the block runs."""
    loop, proxies, opening = asyncio.get_running_loop(), dict[str, Proxy](), list["asyncio.Future[Any]"]()

    def open_detours(state: stack.State) -> None:
        # Called until all is ready, from a thread: the ports are known before the first server has started.
        if not opening and (told := state["endpoints"].get("detours")):
            opening.append(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_open(told, proxies), loop), loop=loop))

    attached = await asyncio.to_thread(stack.start_attached, system, open_detours)
    try:
        await asyncio.gather(*opening)
        yield attached, proxies
    finally:
        await asyncio.to_thread(attached.stop)
        for proxy in proxies.values():
            await proxy.stop()


async def _open(told: Mapping[str, Mapping[str, int]], proxies: dict[str, Proxy]) -> None:
    for name, ports in told.items():
        proxies[name] = Proxy(ports["come"], ports["pass"])
        await proxies[name].start()


def _way(detours: Mapping[str, Mapping[str, int]]) -> Callable[[str], str]:
    """From a sandbox's address to the one of its proxy."""
    come = {ports["pass"]: ports["come"] for ports in detours.values()}

    def way(base_url: str) -> str:
        parts = urlsplit(base_url)
        port = come.get(parts.port or 0)
        return parts._replace(netloc=f"{parts.hostname}:{port}").geturl() if port else base_url

    return way


@asynccontextmanager
async def _at_work(work: Any) -> AsyncIterator[None]:
    """A task that ends with the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _compose(
    run: Run, judged: Judged, streaming: Stream, crowd: Crowd, planned: int, duration_s: float
) -> dict[str, Any]:
    """`report.json`."""
    told = to_report(judged.stock, seed=run.options.seed, duration_s=duration_s, deadletters=len(judged.letters))
    told |= paths.to_report(judged.path, reviews=0)
    for name in ("channels", "shortfalls", "sale_to_label_ms"):
        del told[name]
    return told | {
        "verdict": "fail" if judged.failures else "pass",
        "minutes": run.options.minutes,
        "brokers": run.options.brokers,
        "faults": {
            "planned": planned,
            "took_effect": run.hand.count(),
            "kills": run.hand.kills,
            "server_restarts": run.hand.count("server"),
            "by_kind": dict(sorted(run.hand.named.items())),
        },
        "sold": {
            "http": len(crowd.acknowledged),
            "refused": crowd.refused,
            "unheard": crowd.unheard,
            "stream": streaming.books.orders,
        },
        "dirt": {"flooded_records": streaming.flooded, "given_up_letters": judged.parked},
        "checks": {one.check.what: not one.contradictions for one in judged.checks},
        "failures": judged.failures,
    }


def _show(console: Console, told: Mapping[str, Any]) -> None:
    faults, orders, units = told["faults"], told["orders"], told["units"]
    kinds = ", ".join(f"{number} {kind}" for kind, number in faults["by_kind"].items())
    console.print(
        f"[bold]faults[/] {faults['took_effect']} of {faults['planned']} took effect: {kinds}", highlight=False
    )
    console.print(
        f"[bold]orders[/] {told['sold']['http']} by HTTP, {told['sold']['stream']} on Kafka; {orders['reserved']} "
        f"reserved, {orders['short']} short, {orders['cancelled']} cancelled, {orders['open']} open, {orders['lost']} "
        f"lost, {orders['doubled']} doubled; {units['oversold']} units oversold",
        highlight=False,
    )  # fmt: skip
    balanced = "balanced" if told["money"]["balanced"] else "[red]not balanced[/]"
    console.print(f"[bold]money[/]  {told['money']['captured_minor'] / 100:,.2f} taken, {balanced}", highlight=False)
    for failure in told["failures"]:
        console.print(f"[red]-[/] {escape(failure)}", highlight=False, soft_wrap=True)
    console.print("[bold red]the history does not hold[/]" if told["failures"] else "[bold green]the history holds[/]")

"""The hand that does what the schedule says: ends and freezes processes, arms fault points, spoils the proxies."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from deploy.local import stack
from services.console.chaos.history import History
from services.console.chaos.proxy import Proxy
from services.console.chaos.schedule import KILLS, Fault

LOOK_S: Final = 0.05
UP_AGAIN_S: Final = 10.0


@dataclass
class Hand:
    """Strikes the instance in `folder`. `done` counts, by kind, what took effect: a fault point that nobody passed and
    a process that was down already do not count. `named` counts the same by the names of the report.
    """

    folder: Path
    proxies: Mapping[str, Proxy]
    history: History
    done: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)

    @property
    def armed(self) -> Path:
        """Where services look for fault points that are to end them."""
        return self.folder / "faults"

    async def run(self, faults: Sequence[Fault], begun: float) -> None:
        """Strike at every fault's moment, counted from `begun` on the loop's clock; return when the last is over.

        Cancelled, everything is let go at once.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as strikes:
            for fault in faults:
                await asyncio.sleep(max(0.0, begun + fault.at_s - loop.time()))
                strikes.create_task(self._strike(fault))

    async def _strike(self, fault: Fault) -> None:
        took_effect = await self._do(fault)
        self.history.note(
            "fault", kind=fault.kind, target=fault.target, detail=fault.detail, s=round(fault.duration_s, 1),
            took_effect=took_effect,
        )  # fmt: skip
        if took_effect:
            self.done["server" if fault.of_server else fault.kind] += 1
            self.named[fault.name] += 1

    async def _do(self, fault: Fault) -> bool:
        match fault.kind:
            case "kill":
                return await self._signal(fault.target, signal.SIGKILL)
            case "leave":
                return await self._signal(fault.target, signal.SIGTERM)
            case "stop":
                gentle = signal.SIGINT if fault.target == "postgres" else signal.SIGTERM
                return await self._signal(fault.target, gentle)
            case "point":
                return await self._arm(fault)
            case "freeze" | "orphan":
                return await self._freeze(fault)
            case _:
                return await self._spoil(self.proxies[fault.target], fault)

    def pid(self, process: str) -> int | None:
        """The process's id while it runs."""
        found = stack.read_state(self.folder)["processes"].get(process)
        return found["pid"] if found and found["health"] in ("ready", "not ready", "starting") else None

    async def _signal(self, process: str, number: int) -> bool:
        """Send a signal; who is down is waited for, but not for long."""
        for _ in range(round(UP_AGAIN_S / LOOK_S)):
            pid = self.pid(process)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                    return True
            await asyncio.sleep(LOOK_S)
        return False

    async def _arm(self, fault: Fault) -> bool:
        at = self.armed / fault.target / fault.detail
        at.parent.mkdir(parents=True, exist_ok=True)
        at.touch()
        try:
            for _ in range(round(fault.duration_s / LOOK_S)):
                await asyncio.sleep(LOOK_S)
                if not at.exists():
                    return True
            return False
        finally:
            at.unlink(missing_ok=True)

    async def _freeze(self, fault: Fault) -> bool:
        pid = self.pid(fault.target)
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(fault.duration_s)
        except ProcessLookupError:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return True

    async def _spoil(self, proxy: Proxy, fault: Fault) -> bool:
        open_before = proxy.connections
        match fault.kind:
            case "cut":
                proxy.cut()
            case "dead" | "deaf":
                proxy.kill(deaf=fault.kind == "deaf")
            case "commit":
                return await self._cut_commit(proxy, fault)
            case _:
                async with _spoilt(proxy, fault):
                    await asyncio.sleep(fault.duration_s)
                return True
        return open_before > 0

    async def _cut_commit(self, proxy: Proxy, fault: Fault) -> bool:
        before = proxy.commits_cut
        when: Literal["before", "after"] = "before" if fault.detail == "before" else "after"
        proxy.commit = when
        for _ in range(round(fault.duration_s / LOOK_S)):
            await asyncio.sleep(LOOK_S)
            if proxy.commits_cut > before:
                return True
        proxy.commit = ""
        return False

    def count(self, *kinds: str) -> int:
        """How many faults of these kinds took effect; of none named, of all."""
        return sum(number for kind, number in self.done.items() if not kinds or kind in kinds)

    @property
    def kills(self) -> int:
        """Processes of services that were ended."""
        return self.count(*KILLS)


@asynccontextmanager
async def _spoilt(proxy: Proxy, fault: Fault) -> AsyncIterator[None]:
    """A fault that lasts; two of one kind that overlap end with the first."""
    try:
        match fault.kind:
            case "delay":
                proxy.delay_s = int(fault.detail) / 1000
            case "refuse":
                proxy.refusing = True
                proxy.cut()
            case _:
                proxy.stall()
        yield
    finally:
        match fault.kind:
            case "delay":
                proxy.delay_s = 0.0
            case "refuse":
                proxy.refusing = False
            case _:
                proxy.flow()

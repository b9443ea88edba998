"""What one sees while buyers buy: rates, propagation, a few SKUs side by side, lag and outbox age.

The figures here come from pushes as they are reported and from the services' own listeners: quick to have, good for
looking at. The verdict uses none of them.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.console.client import Admin, AdminError
from services.console.demo.buyers import Tally
from services.console.demo.collector import Collector
from services.console.demo.evidence import Channel
from services.console.demo.propagation import percentile
from services.sandbox.client import SandboxClient, SandboxError

SKUS_SHOWN = 6
RATE_WINDOW_S = 5
PLAIN_EVERY_S = 10


@dataclass(slots=True)
class View:
    """The state of the picture; `refresh` brings it up to date once a second."""

    channels: Sequence[Channel]
    watched: Sequence[str]
    tally: Tally
    collector: Collector
    sandboxes: Mapping[str, SandboxClient]
    admin: Admin
    planned: int
    numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    lag: dict[str, int] = field(default_factory=dict)
    outbox_age_s: dict[str, float] = field(default_factory=dict)
    history: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW_S + 1))
    begun_s: float = 0.0

    async def refresh(self) -> None:
        """Ask for numbers, lag and outbox age; who does not answer keeps what was known."""
        self.history.append((asyncio.get_running_loop().time(), self.tally.accepted))
        for channel in self.channels:
            with contextlib.suppress(SandboxError, aiohttp.ClientError, OSError, TimeoutError):
                self.numbers[channel.connection_id] = await self.sandboxes[channel.marketplace].numbers(channel.shop)
        for service in self.admin.endpoints.admin:
            with contextlib.suppress(AdminError):
                consumers = await asyncio.to_thread(self.admin.get, service, "consumers")
                self.lag[service] = sum(sum(one["lag"].values()) for one in consumers)
                outbox = await asyncio.to_thread(self.admin.get, service, "outbox")
                self.outbox_age_s[service] = outbox["oldest_age_s"]

    @property
    def orders_per_s(self) -> float:
        """Accepted orders a second over the last few seconds."""
        if len(self.history) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self.history[0], self.history[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def propagation(self, channel: Channel) -> tuple[float | None, ...]:
        """p50, p95 and p99 of the pushes reported lately, milliseconds from the sale."""
        values = list(self.collector.recent_ms.get(channel.connection_id, ()))
        return tuple(percentile(values, share) for share in (0.50, 0.95, 0.99))

    def render(self) -> RenderableType:
        """The whole picture."""
        return Group(self._headline(), self._connections(), self._numbers(), Text())

    def line(self) -> str:
        """The picture as one line, for logs."""
        p99 = max((one for channel in self.channels if (one := self.propagation(channel)[2])), default=None)
        return (
            f"{self.tally.accepted} orders, {self.orders_per_s:.1f}/s, "
            f"worst p99 {'-' if p99 is None else f'{p99:.0f} ms'}, lag {sum(self.lag.values())}"
        )

    def _headline(self) -> Text:
        oldest_s = max(self.outbox_age_s.values(), default=0.0)
        text = Text()
        text.append(f"{self.orders_per_s:5.1f} orders/s", style="bold green")
        text.append(f"   {self.tally.attempted} of {self.planned} buyers came, {self.tally.accepted} orders accepted, ")
        text.append(f"{self.tally.refused} found it sold out")
        text.append(f"   lag {sum(self.lag.values())}   outbox age {oldest_s:.2f} s", style="dim")
        return text

    def _connections(self) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("connection", min_width=24)
        for name in ("orders", "p50 ms", "p95 ms", "p99 ms"):
            table.add_column(name, justify="right", min_width=8)
        for channel in self.channels:
            figures = ["-" if one is None else f"{one:.0f}" for one in self.propagation(channel)]
            table.add_row(channel.name, str(self.tally.by_connection.get(channel.connection_id, 0)), *figures)
        return table

    def _numbers(self) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("shown now", min_width=24)
        for sku in self.watched[:SKUS_SHOWN]:
            table.add_column(sku, justify="right", min_width=8)
        for channel in self.channels:
            shown = self.numbers.get(channel.connection_id, {})
            cells = []
            for sku in self.watched[:SKUS_SHOWN]:
                number = shown.get(sku)
                cells.append(Text("-" if number is None else str(number), style="red" if number == 0 else ""))
            table.add_row(channel.name, *cells)
        return table


async def watch(view: View, console: Console, done: "asyncio.Task[Any]") -> None:
    """Show the view until `done` is; as a picture in a terminal, as a line now and then elsewhere."""
    if console.is_terminal:
        with Live(view.render(), console=console, refresh_per_second=2, transient=False) as live:
            while not done.done():
                await view.refresh()
                live.update(view.render())
                await asyncio.wait({done}, timeout=1.0)
        return
    seconds = 0
    while not done.done():
        await view.refresh()
        if seconds % PLAIN_EVERY_S == 0:
            console.print(view.line(), highlight=False)
        seconds += 1
        await asyncio.wait({done}, timeout=1.0)

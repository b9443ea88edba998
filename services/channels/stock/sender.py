"""The stock sender: makes every live channel's numbers follow what they should be.

Per connection two lanes run beside each other, the urgent one for zero and low stock. A lane sleeps until somebody says
that it has something to do; the table is asked now and then for what nobody said.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from services.channels.stock import claims
from services.channels.stock.breaker import Breaker
from services.channels.stock.domain import NORMAL, URGENT
from services.channels.stock.ledger import Ledger
from services.channels.stock.limiter import Lane, Turnstile
from services.channels.stock.metrics import StockMetrics
from services.channels.stock.push import Pusher
from services.channels.stock.settings import StockSettings
from services.channels.stock.wake import Due, Wake

if TYPE_CHECKING:
    from services.channels.connections.registry import Open
    from services.runtime import Service

LOOK_S: Final = 0.25
"""The table is asked this often for what another process, or the end of a pause, made due."""

_log = structlog.get_logger(__name__)


class LiveConnections(Protocol):
    """What the sender asks the registry of connections."""

    def live(self) -> "list[Open]": ...


@dataclass(frozen=True, slots=True)
class _Running:
    """A lane at work for as long as its connection is this one."""

    entry: object
    task: asyncio.Task[None]
    due: asyncio.Event


@dataclass(slots=True)
class Sender:
    """Runs two lanes for every live connection; made once by `app.py`, `run` is a loop of the service."""

    connections: LiveConnections
    wake: Wake
    settings: StockSettings
    metrics: StockMetrics
    breakers: dict[str, Breaker] = field(default_factory=dict)
    _lanes: dict[Due, _Running] = field(default_factory=dict)
    _woken: Counter[str] = field(default_factory=Counter)

    async def run(self, service: "Service") -> None:
        """Follow the live connections, and wake the lanes that have something due."""
        ledger = Ledger(service, self.settings, self.metrics)
        look_at = 0.0
        try:
            while True:
                due = await self.wake.wait(max(0.0, look_at - time.monotonic()))
                if not due or time.monotonic() >= look_at:
                    self._follow(service, ledger)
                    owners = [(one.connection.tenant, one.connection.connection_id) for one in self.connections.live()]
                    async with service.pool.acquire() as connection:
                        due |= await claims.due_lanes(connection, owners, service.clock())
                    look_at = time.monotonic() + LOOK_S
                for lane in due & self._lanes.keys():
                    self._woken[lane[0]] += 1
                    self._lanes[lane].due.set()
        finally:
            tasks = [running.task for running in self._lanes.values()]
            self._lanes.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await ledger.close()

    def _follow(self, service: "Service", ledger: Ledger) -> None:
        live = {entry.connection.connection_id: entry for entry in self.connections.live()}
        for (connection_id, lane), running in list(self._lanes.items()):
            task = running.task
            if live.get(connection_id) is not running.entry or task.done():
                if task.done() and not task.cancelled() and (failure := task.exception()):
                    _log.error("stock lane failed", connection=connection_id, lane=lane, error=type(failure).__name__)
                task.cancel()
                del self._lanes[connection_id, lane]
        for connection_id, entry in live.items():
            if (connection_id, NORMAL) in self._lanes and (connection_id, URGENT) in self._lanes:
                continue
            breaker = self.breakers.setdefault(connection_id, Breaker(time.monotonic))
            self.metrics.breaker_state.labels(connection_id).set_function(partial(getattr, breaker, "state"))
            turnstile = Turnstile(entry.session.limiter)
            for lane in (URGENT, NORMAL):
                if (connection_id, lane) in self._lanes:
                    continue
                limiter = Lane(turnstile, urgent=lane == URGENT)
                pusher = Pusher(service, entry, lane, limiter, breaker, self.settings, ledger)
                due = asyncio.Event()
                self._lanes[connection_id, lane] = _Running(entry, asyncio.create_task(self._push(pusher, due)), due)

    async def _push(self, pusher: Pusher, due: asyncio.Event) -> None:
        connection_id, spacing = pusher.connection_id, pusher.terms.spacing
        while True:
            await due.wait()
            due.clear()
            woken = self._woken[connection_id]
            claimed = await pusher.push()
            if pusher.more:
                due.set()
            if claimed and self._woken[connection_id] != woken:
                # What was dirtied meanwhile may be a record that this lane had: whoever looked found it taken, and
                # whoever looks now may find that it was written a moment ago.
                both = {(connection_id, URGENT), (connection_id, NORMAL)}
                self.wake.dirtied(both)
                self.wake.later(spacing.total_seconds(), both)

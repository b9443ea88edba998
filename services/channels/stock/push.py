"""The stock sender: makes every live channel's numbers follow what they should be.

Nothing waits in memory: what dirties a record is a row, and a failed send leaves it there. Per connection two lanes run
beside each other, the urgent one for zero and low stock. A lane holds the channel's token first. Then one transaction
claims what is dirty by then, computes the numbers from one snapshot and remembers them as attempts under a lease; the
call follows, and a second transaction settles.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from opentelemetry.trace import SpanKind

from contracts.channels.v1 import CoveredVersion, PushCause, QuantityTrait, StockPushed
from contracts.inventory.v1 import CauseOutcome
from services.bus import Cause, Transaction
from services.channels.alerts import Alert, raise_alerts
from services.channels.connectors.connector import (
    Connector,
    OutcomeUnknown,
    Rejected,
    Session,
    StockWrite,
    Throttled,
    Unreachable,
    WriteOutcome,
    WriteStatus,
)
from services.channels.stock import claims, domain, upkeep
from services.channels.stock.breaker import Breaker, State
from services.channels.stock.claims import Attempt, Claimed, Settled
from services.channels.stock.domain import NORMAL, URGENT, Manner, Observed, Plan, Record, Step
from services.channels.stock.facts import LINKS_MAX
from services.channels.stock.limiter import Lane, Turnstile
from services.channels.stock.metrics import StockMetrics
from services.channels.stock.settings import StockSettings
from services.channels.stock.wake import Due, Wake

if TYPE_CHECKING:
    from services.channels.connections.registry import Open
    from services.runtime import Service

BUSY_S: Final = 0.05
IDLE_S: Final = 0.25
"""The table is asked this often when nobody wakes, and more often while something was due lately."""
_ROUNDS_MAX: Final = 4
_CAUSES_MAX: Final = 1000
_STALE_PAUSE_S: Final = 0.1
_UNKNOWN_PAUSE_S: Final = 1.0
_REJECTED_PAUSE_S: Final = 30.0
_REFUSED_PAUSE_S: Final = 60.0
_REFUSED_CAP_S: Final = 3600.0
_LEASE_MARGIN_S: Final = 3.0
_PIPELINE_LAG_S: Final = 0.3
"""How long a sale typically takes from a channel's answer to our table, polling apart."""

_log = structlog.get_logger(__name__)


class LiveConnections(Protocol):
    """What the sender asks the registry of connections."""

    def live(self) -> "list[Open]": ...


@dataclass(slots=True)
class _Round:
    """The plans of one transaction that still need the channel."""

    writes: list[tuple[Claimed, Plan]] = field(default_factory=list)
    reads: list[tuple[Claimed, Record]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a read of a record showed, and when it began."""

    observed: Observed
    at: datetime


class Pusher:
    """Writes one lane of one connection. `push` is one batch, from claim to settled."""

    def __init__(
        self,
        service: "Service",
        entry: "Open",
        lane: int,
        limiter: Lane,
        breaker: Breaker,
        settings: StockSettings,
        metrics: StockMetrics,
    ) -> None:
        self._service, self._lane, self._limiter, self._breaker = service, lane, limiter, breaker
        self._settings = settings
        self._propagation = metrics.propagation.labels(entry.connection.connection_id)
        self.tenant, self.connection_id = entry.connection.tenant, entry.connection.connection_id
        self._connector: Connector = entry.connector
        self._session: Session = replace(entry.session, limiter=limiter)
        traits = entry.connector.traits
        self._traits = traits
        self._manner = Manner(traits.quantity_trait, traits.compares, settings.low_stock, settings.risk_max)
        self._spacing = timedelta(milliseconds=max(traits.spacing_ms, settings.spacing_ms))
        self._lag_s = _PIPELINE_LAG_S + (traits.poll_interval_s / 2 if traits.intake == "queue" else 0.0)
        # For one round, begun anew with the next: so long are the records of a process that died out of reach.
        self._lease_s = traits.write_timeout_s + _LEASE_MARGIN_S
        self._late_s = traits.write_timeout_s + settings.late_execution_s

    async def push(self) -> int:
        """Send what is due; returns how many records were claimed."""
        if (wait_s := self._breaker.wait_s) > 0:
            await asyncio.sleep(wait_s)
        await self._limiter.prepare()
        limit = 1 if self._breaker.state is State.HALF_OPEN else self._traits.max_batch
        async with self._service.transaction() as tx:
            claimed = await claims.claim(
                tx.connection, self.tenant, self.connection_id, self._lane, limit, late_s=self._late_s, now=tx.now
            )
            if not claimed:
                return 0
            round_ = await self._decide(tx, claimed, {})
        self._service.faults.point("push.claimed")
        causes = dict.fromkeys(cause for each, _ in round_.writes for cause in each.causes)
        linked = [Cause(*cause) for cause in list(causes)[:LINKS_MAX]]
        for _ in range(_ROUNDS_MAX):
            if not round_.writes and not round_.reads:
                break
            stale = await self._write(round_.writes, linked) if round_.writes else []
            round_ = await self._look_again(round_.reads + stale)
        await self._release(round_.writes, round_.reads)
        return len(claimed)

    async def _decide(
        self,
        tx: Transaction,
        claimed: Sequence[Claimed],
        seen: Mapping[str, _Seen],
        refused: Sequence[Settled] = (),
    ) -> _Round:
        """Compute numbers of claimed and locked records; settle what needs no call, remember what will be sent."""
        total = self._manner.trait is QuantityTrait.TOTAL
        found = await claims.inputs(tx.connection, claimed, self._lag_s, tx.now, held=total)
        observed = {key: one.observed for key, one in seen.items()}
        plans = [
            (each, domain.plan(record, self._manner, observed.get(each.stock_record)))
            for each, record in found
            if record is not None
        ]
        plans, braked = await self._brake(tx, plans, observed)
        plans = self._limit_reads(plans, braked)
        # Without a level for every SKU there is nothing to say yet: the level that comes dirties the record again.
        settled = [replace(self._left(each, tx.now), changes=each.changes) for each, record in found if record is None]
        settled += refused
        attempts: list[Attempt] = []
        unchanged: list[Plan] = []
        for each, plan in plans:
            match plan.step:
                case Step.WRITE:
                    attempts.append(Attempt(each, plan.number, plan.after))
                case Step.READ:
                    attempts.append(Attempt(each))
                case Step.WAIT:
                    settled.append(self._left(each, tx.now + timedelta(seconds=_UNKNOWN_PAUSE_S)))
                case Step.NOTHING:
                    unchanged.append(plan)
                    settled.append(self._unchanged(each, plan, seen.get(each.stock_record), tx.now))
        if unchanged:
            covered = [version for plan in unchanged for version in _covered(plan, unchanged=True)]
            await claims.settle_propagation(tx.connection, self.tenant, covered, tx.now)
        lease_until = tx.now + timedelta(seconds=self._lease_s)
        held = await claims.keep(tx.connection, attempts, settled, lease_until, tx.now)
        going = [(held[each.stock_record], plan) for each, plan in plans if each.stock_record in held]
        return _Round(
            [(each, plan) for each, plan in going if plan.step is Step.WRITE],
            [(each, plan.record) for each, plan in going if plan.step is Step.READ],
        )

    def _limit_reads(self, plans: list[tuple[Claimed, Plan]], braked: bool) -> list[tuple[Claimed, Plan]]:
        """A channel that does not compare is read item by item: the lowest numbers are, the others written blind."""
        if self._manner.compares:
            return plans
        looks = sorted((plan.number, each.stock_record) for each, plan in plans if plan.step is Step.READ)
        blind = {stock_record for _, stock_record in looks[self._settings.reads_max :]}
        manner = replace(self._manner, low_stock=-1, risk_max=float("inf"), looks=False)
        return [
            (each, domain.plan(plan.record, manner, brake=braked) if each.stock_record in blind else plan)
            for each, plan in plans
        ]

    async def _brake(
        self, tx: Transaction, plans: list[tuple[Claimed, Plan]], observed: Mapping[str, Observed]
    ) -> tuple[list[tuple[Claimed, Plan]], bool]:
        """Hold back a mass change that no sale explains, until a person has looked."""
        changing = [
            plan
            for _, plan in plans
            if plan.record.other_change and plan.record.approved and plan.number != plan.record.approved.number
        ]
        if not changing:
            return plans, False
        braked = await upkeep.brake_of(tx.connection, self.tenant, self.connection_id)
        if not braked:
            since = tx.now - timedelta(seconds=self._settings.brake_window_s)
            changed, zeroed, records = await upkeep.changed_lately(
                tx.connection, self.tenant, self.connection_id, since
            )
            changed += len(changing)
            zeroed += sum(plan.number == 0 for plan in changing)
            braked = domain.brake_trips(
                changed=changed, zeroed=zeroed, records=records, share_max=self._settings.brake_share
            )
            if braked:
                await upkeep.set_brake(tx.connection, self.tenant, self.connection_id, changed, zeroed, records, tx.now)
                await raise_alerts(tx.connection, [self._brake_alert(changed, zeroed, records)], tx.now)
        if braked:
            plans = [
                (each, domain.plan(plan.record, self._manner, observed.get(each.stock_record), brake=True))
                for each, plan in plans
            ]
        return plans, braked

    def _brake_alert(self, changed: int, zeroed: int, records: int) -> Alert:
        return Alert(
            tenant=self.tenant,
            connection_id=self.connection_id,
            kind="stock_brake",
            subject="mass change",
            text=f"{changed} of {records} numbers would change and {zeroed} would be zero, and no sale explains it; "
            "they wait, sales still pass: look at the last import, count or mapping, then release the brake",
            urgent=True,
        )

    async def _write(self, writes: list[tuple[Claimed, Plan]], causes: Sequence[Cause]) -> list[tuple[Claimed, Record]]:
        """Call the channel and settle; returns what was refused as stale, to be read."""
        attributes = {"saldo.connection": self.connection_id, "saldo.records": len(writes)}
        name = f"push {self._traits.connector}"
        with self._service.tracing.span(name, causes, kind=SpanKind.CLIENT, attributes=attributes) as cause:
            rows = [
                StockWrite(
                    plan.record.item, plan.record.location, plan.quantity, plan.expected, as_of=plan.record.as_of
                )
                for _, plan in writes
            ]
            sent_at = self._service.clock()
            self._limiter.writing = True
            try:
                call = asyncio.ensure_future(self._connector.write_stock(self._session, rows))
                writes = await self._lease_until_done(call, writes)
                outcomes: Sequence[WriteOutcome] = call.result()
            except Throttled as throttled:
                self._breaker.failed() if isinstance(throttled, Unreachable) else self._breaker.succeeded()
                await self._leave(writes, throttled.retry_after_s)
                return []
            except OutcomeUnknown as unknown:
                self._breaker.failed()
                await self._suspect(writes, str(unknown))
                return []
            except Rejected as rejected:
                self._breaker.failed()
                await self._rejected(writes, str(rejected))
                return []
            finally:
                self._limiter.writing = False
            self._breaker.succeeded()
            self._service.faults.point("push.sent")
            await self._settle(list(zip(writes, outcomes, strict=True)), sent_at, cause)
            self._service.faults.point("push.accepted")
        stale = [pair for pair, outcome in zip(writes, outcomes, strict=True) if outcome.status is WriteStatus.STALE]
        return [(each, plan.record) for each, plan in stale]

    async def _lease_until_done(
        self, call: "asyncio.Future[Sequence[WriteOutcome]]", writes: list[tuple[Claimed, Plan]]
    ) -> list[tuple[Claimed, Plan]]:
        """A call may take several requests, each with a timeout of its own, and then longer than a lease."""
        try:
            while not (await asyncio.wait({call}, timeout=self._lease_s / 3))[0]:
                async with self._service.transaction() as tx:
                    until = tx.now + timedelta(seconds=self._lease_s)
                    claimed = [each for each, _ in writes]
                    renewed = await claims.renew(tx.connection, self.tenant, claimed, until, tx.now)
                writes = [(each, plan) for each, (_, plan) in zip(renewed, writes, strict=True)]
        finally:
            call.cancel()
        return writes

    async def _settle(
        self, results: Sequence[tuple[tuple[Claimed, Plan], WriteOutcome]], sent_at: datetime, cause: Cause
    ) -> None:
        async with self._service.transaction() as tx:
            accepted = [(each, plan, one) for (each, plan), one in results if one.status is WriteStatus.ACCEPTED]
            refused = [(each, one.reason) for (each, _), one in results if one.status is WriteStatus.REFUSED]
            busy = [(each, one.retry_after_s) for (each, _), one in results if one.status is WriteStatus.BUSY]
            settled = [self._accepted(each, plan, tx.now) for each, plan, _ in accepted]
            settled += [self._refused(each, reason, tx.now) for each, reason in refused]
            # Nothing was written, so no attempt is kept.
            settled += [self._left(each, tx.now + timedelta(seconds=pause_s)) for each, pause_s in busy]
            if not settled:
                return
            await raise_alerts(tx.connection, [self._refusal_alert(each, reason) for each, reason in refused], tx.now)
            covered = [version for _, plan, _ in accepted for version in _covered(plan, unchanged=False)]
            sales = await claims.settle_propagation(tx.connection, self.tenant, covered, tx.now)
            for each, plan, outcome in accepted:
                rows = sales.get(each.stock_record, [])
                for row in rows:
                    if row["outcome"] == CauseOutcome.RELEASED:  # Younger than the sale it is dated by.
                        continue
                    self._propagation.observe((tx.now - row["received_at"]).total_seconds())
                tx.publish(
                    StockPushed(
                        connection_id=self.connection_id,
                        stock_record=each.stock_record,
                        quantity=plan.number,
                        wanted_seq=each.changes[-1] if each.changes else 0,
                        covered=tuple(
                            CoveredVersion(sku=part.sku, epoch=part.epoch, version=part.version)
                            for part in plan.record.parts
                        ),
                        causes=tuple(
                            PushCause(
                                order_id=row["order_id"],
                                sale_revision=row["sale_revision"],
                                line_id=row["line_id"],
                                connection_id=row["sold_connection_id"],
                                sku=row["sku"],
                                version=row["version"],
                                sold_at=row["sold_at"],
                                received_at=row["received_at"],
                            )
                            for row in rows[:_CAUSES_MAX]
                        ),
                        causes_omitted=max(0, len(rows) - _CAUSES_MAX),
                        oldest_sold_at=rows[0]["sold_at"] if len(rows) > _CAUSES_MAX else None,
                        request_id=outcome.request_id,
                        wanted_at=each.changed_at or sent_at,
                        sent_at=sent_at,
                        accepted_at=tx.now,
                    ),
                    tenant=self.tenant,
                    cause=cause,
                    correlation_id=rows[0]["correlation_id"] if rows else cause.correlation_id,
                )
            await claims.settle(tx.connection, settled, tx.now)

    async def _look_again(self, reads: Sequence[tuple[Claimed, Record]]) -> _Round:
        """Read the numbers of records and decide anew about them."""
        if not reads:
            return _Round()
        read_at = self._service.clock()
        numbers = await self._read(reads)
        if numbers is None:
            return _Round()
        seen = {
            each.stock_record: _Seen(Observed(numbers[each.item, each.location], domain.capture(record)), read_at)
            for each, record in reads
            if (each.item, each.location) in numbers
        }
        before = {each.stock_record: each for each, _ in reads}
        async with self._service.transaction() as tx:
            locked = await claims.relock(tx.connection, self.tenant, list(before.values()))
            # What was just refused stands nowhere: only attempts from before this claim count. The number covers the
            # changes from before the read, since decisions that came during it may be counted as unheard as well.
            again = [
                replace(
                    each,
                    attempts=(first := before[each.stock_record]).attempts,
                    changes=first.changes,
                    changed_at=first.changed_at,
                    causes=first.causes,
                )
                for each in locked
                if each.stock_record in seen
            ]
            unknown = [each for each, _ in reads if each.stock_record not in seen]
            reason = "the channel shows no such item at this location: link or import the listing again"
            await raise_alerts(tx.connection, [self._refusal_alert(each, reason) for each in unknown], tx.now)
            refused = [self._refused(each, reason, tx.now) for each in unknown]
            return await self._decide(tx, again, seen, refused)

    async def _read(self, reads: Sequence[tuple[Claimed, Record]]) -> Mapping[tuple[str, str], int] | None:
        """The numbers shown, or None where they cannot be had now; the records are left dirty then."""
        try:
            numbers = await self._connector.read_stock(self._session, [(e.item, e.location) for e, _ in reads])
        except Throttled as throttled:
            self._breaker.failed() if isinstance(throttled, Unreachable) else self._breaker.succeeded()
            await self._leave([(each, None) for each, _ in reads], throttled.retry_after_s)
            return None
        except (Rejected, ValueError) as rejected:  # ValueError: an answer that cannot be read
            self._breaker.failed()
            await self._rejected([(each, None) for each, _ in reads], str(rejected))
            return None
        self._breaker.succeeded()
        return numbers

    # How a claim of one record ends.

    def _accepted(self, each: Claimed, plan: Plan, now: datetime) -> Settled:
        assert plan.after is not None
        # Compare-and-set proves where the number stands; elsewhere only a read after the deadline does.
        attempts = () if self._manner.compares else each.attempts
        unheard = any(tally.unheard for tally in plan.after.tallies.values())
        return Settled(
            each,
            plan.after,
            attempts,
            now + self._spacing,
            each.changes,
            number=plan.number,
            accepted_at=now,
            seen_at=now,
            approve=not plan.braked,
            guessed=unheard and (each.guessed or bool(each.attempts)),
        )

    def _unchanged(self, each: Claimed, plan: Plan, seen: _Seen | None, now: datetime) -> Settled:
        return Settled(
            each,
            plan.after or each.known,
            () if seen and self._manner.compares else each.attempts,
            now,
            each.changes,
            number=plan.number,
            observed=seen.observed.number if seen else None,
            seen_at=seen.at if seen else None,
            approve=not plan.braked,
            guessed=each.guessed or (seen is not None and bool(each.attempts)),
        )

    def _left(self, each: Claimed, next_at: datetime, refusal: str = "", failures: int = 0) -> Settled:
        """Still dirty; nothing happened at the channel."""
        return Settled(
            each, each.known, each.attempts, next_at, guessed=each.guessed, failures=failures, refusal=refusal
        )

    def _refused(self, each: Claimed, reason: str, now: datetime) -> Settled:
        pause_s = min(_REFUSED_CAP_S, _REFUSED_PAUSE_S * 2 ** min(each.failures, 10))
        return self._left(each, now + timedelta(seconds=pause_s), reason[:500], each.failures + 1)

    def _refusal_alert(self, each: Claimed, reason: str) -> Alert:
        text = f"the channel refuses the number of item {each.item}: {reason[:300]}"
        return Alert(self.tenant, self.connection_id, "stock_refused", each.stock_record, text)

    async def _end(self, settled: Sequence[Settled]) -> None:
        async with self._service.transaction() as tx:
            await claims.settle(tx.connection, settled, tx.now)

    async def _leave(self, plans: Sequence[tuple[Claimed, Plan | None]], pause_s: float) -> None:
        next_at = self._service.clock() + timedelta(seconds=pause_s)
        await self._end([self._left(each, next_at) for each, _ in plans])

    async def _rejected(self, plans: Sequence[tuple[Claimed, Plan | None]], reason: str) -> None:
        _log.warning("channel refuses the request", connection=self.connection_id, reason=reason)
        next_at = self._service.clock() + timedelta(seconds=_REJECTED_PAUSE_S)
        await self._end([self._left(each, next_at, reason[:500], each.failures) for each, _ in plans])

    async def _suspect(self, writes: Sequence[tuple[Claimed, Plan]], reason: str) -> None:
        """The numbers may stand there or come to stand there later: a read after the deadline will tell."""
        _log.warning("outcome of a write is unknown", connection=self.connection_id, reason=reason, records=len(writes))
        now = self._service.clock()
        until = now + timedelta(seconds=self._late_s)
        await self._end(
            [
                replace(
                    self._left(each, now + timedelta(seconds=_UNKNOWN_PAUSE_S)),
                    attempts=(*each.attempts, plan.after) if plan.after else each.attempts,
                    suspect_until=until,
                )
                for each, plan in writes
            ]
        )

    async def _release(self, writes: Sequence[tuple[Claimed, Plan]], reads: Sequence[tuple[Claimed, Record]]) -> None:
        """Give back what is still stale after several rounds: somebody else writes all the time."""
        left = [each for each, _ in writes] + [each for each, _ in reads]
        if left:
            next_at = self._service.clock() + timedelta(seconds=_STALE_PAUSE_S)
            await self._end([self._left(each, next_at) for each in left])


def _covered(plan: Plan, *, unchanged: bool) -> list[tuple[str, str, int, int, bool]]:
    return [(plan.record.stock_record, part.sku, part.epoch, part.version, unchanged) for part in plan.record.parts]


class Sender:
    """Runs two lanes for every live connection; made once by `app.py`, `run` is a loop of the service."""

    def __init__(
        self, connections: LiveConnections, wake: Wake, settings: StockSettings, metrics: StockMetrics
    ) -> None:
        self._connections, self._wake, self._settings, self._metrics = connections, wake, settings, metrics
        self._lanes: dict[Due, tuple[object, asyncio.Event, asyncio.Task[None]]] = {}
        self.breakers: dict[str, Breaker] = {}

    async def run(self, service: "Service") -> None:
        """Follow the live connections, and wake the lanes that have something due."""
        look_at = 0.0
        try:
            while True:
                due = await self._wake.wait(max(0.0, look_at - time.monotonic()))
                if not due or time.monotonic() >= look_at:
                    # For what another process, or the end of a pause, made due.
                    self._follow(service)
                    owners = [(one.connection.tenant, one.connection.connection_id) for one in self._connections.live()]
                    async with service.pool.acquire() as connection:
                        due |= await claims.due_lanes(connection, owners, service.clock())
                    look_at = time.monotonic() + (BUSY_S if due else IDLE_S)
                for lane in due & self._lanes.keys():
                    self._lanes[lane][1].set()
        finally:
            tasks = [task for _, _, task in self._lanes.values()]
            self._lanes.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _follow(self, service: "Service") -> None:
        live = {entry.connection.connection_id: entry for entry in self._connections.live()}
        for (connection_id, lane), (entry, _, task) in list(self._lanes.items()):
            if live.get(connection_id) is not entry or task.done():
                if task.done() and not task.cancelled() and (failure := task.exception()):
                    _log.error("stock lane failed", connection=connection_id, lane=lane, error=type(failure).__name__)
                task.cancel()
                del self._lanes[connection_id, lane]
        for connection_id, entry in live.items():
            if (connection_id, NORMAL) in self._lanes and (connection_id, URGENT) in self._lanes:
                continue
            breaker = self.breakers.setdefault(connection_id, Breaker(time.monotonic))
            self._metrics.breaker_state.labels(connection_id).set_function(partial(getattr, breaker, "state"))
            turnstile = Turnstile(entry.session.limiter)
            for lane in (URGENT, NORMAL):
                if (connection_id, lane) in self._lanes:
                    continue
                limiter = Lane(turnstile, urgent=lane == URGENT)
                pusher = Pusher(service, entry, lane, limiter, breaker, self._settings, self._metrics)
                event = asyncio.Event()
                self._lanes[connection_id, lane] = (entry, event, asyncio.create_task(_lane(pusher, event)))


async def _lane(pusher: Pusher, event: asyncio.Event) -> None:
    while True:
        await event.wait()
        event.clear()
        while await pusher.push():
            pass

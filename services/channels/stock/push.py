"""One lane of one connection: calls the channel with the numbers that the ledger gives it, and tells it the answers.

Nothing waits in memory: what dirties a record is a row, and a failed send leaves it there. A lane holds the channel's
token first. Then one transaction claims what is dirty by then, computes the numbers from one snapshot and remembers
them as attempts under a lease; the call follows, and a second transaction settles. Both are shared with other lanes
(`Ledger`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog
from opentelemetry.trace import SpanKind

from services.bus import Cause
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
from services.channels.stock import claims, domain, ledger
from services.channels.stock.breaker import Breaker, State
from services.channels.stock.claims import Claimed, Settled
from services.channels.stock.domain import Observed, Plan, Record
from services.channels.stock.facts import LINKS_MAX
from services.channels.stock.ledger import Accepted, Answer, Ledger, Round, Seen, Terms, Turn
from services.channels.stock.limiter import Lane
from services.channels.stock.settings import StockSettings

if TYPE_CHECKING:
    from services.channels.connections.registry import Open
    from services.runtime import Service

_ROUNDS_MAX: Final = 4
_STALE_PAUSE_S: Final = 0.1
_REJECTED_PAUSE_S: Final = 30.0

_log = structlog.get_logger(__name__)

Writes = list[tuple[Claimed, Plan]]


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
        ledger: Ledger,
    ) -> None:
        self._service, self._limiter, self._breaker, self._ledger = service, limiter, breaker, ledger
        self.connection_id = entry.connection.connection_id
        self._connector: Connector = entry.connector
        self._session: Session = replace(entry.session, limiter=limiter)
        self.terms = Terms(entry.connection, lane, entry.connector.traits, settings)
        self.more = False
        """Whether the last batch left something behind."""

    async def push(self) -> int:
        """Send what is due; returns how many records were claimed."""
        if (wait_s := self._breaker.wait_s) > 0:
            await asyncio.sleep(wait_s)
        await self._limiter.prepare()
        limit = 1 if self._breaker.state is State.HALF_OPEN else self.terms.traits.max_batch
        round_ = await self._ledger.take(Turn(self.terms, limit))
        claimed, self.more = round_.claimed, round_.more
        if not claimed:
            return 0
        self._service.faults.point("push.claimed")
        causes = dict.fromkeys(cause for each, _ in round_.writes for cause in each.causes)
        linked = [Cause(*cause) for cause in list(causes)[:LINKS_MAX]]
        for _ in range(_ROUNDS_MAX):
            if not round_.writes and not round_.reads:
                break
            stale = await self._write(round_.writes, linked) if round_.writes else []
            round_ = await self._look_again(round_.reads + stale)
        await self._release(round_.writes, round_.reads)
        return claimed

    async def _write(self, writes: Writes, causes: Sequence[Cause]) -> list[tuple[Claimed, Record]]:
        """Call the channel and settle; returns what was refused as stale, to be read."""
        attributes = {"saldo.connection": self.connection_id, "saldo.records": len(writes)}
        name = f"push {self.terms.traits.connector}"
        with self._service.tracing.span(name, causes, kind=SpanKind.CLIENT, attributes=attributes) as cause:
            rows = [
                StockWrite(
                    plan.record.item, plan.record.location, plan.quantity, plan.expected, as_of=plan.record.as_of
                )
                for _, plan in writes
            ]
            answer = Answer(self.terms, self._service.clock(), cause=cause)
            self._limiter.writing = True
            try:
                call = asyncio.ensure_future(self._connector.write_stock(self._session, rows))
                writes = await self._lease_until_done(call, writes)
                outcomes: Sequence[WriteOutcome] = call.result()
            except Throttled as throttled:
                self._breaker.failed() if isinstance(throttled, Unreachable) else self._breaker.succeeded()
                await self._leave([each for each, _ in writes], throttled.retry_after_s)
                return []
            except OutcomeUnknown as unknown:
                self._breaker.failed()
                await self._suspect(writes, str(unknown))
                return []
            except Rejected as rejected:
                self._breaker.failed()
                await self._rejected([each for each, _ in writes], str(rejected))
                return []
            finally:
                self._limiter.writing = False
            self._breaker.succeeded()
            self._service.faults.point("push.sent")
            results = list(zip(writes, outcomes, strict=True))
            await self._answered(replace(answer, sent_at=answer.at, at=self._service.clock()), results)
            self._service.faults.point("push.accepted")
        return [(each, plan.record) for (each, plan), one in results if one.status is WriteStatus.STALE]

    async def _lease_until_done(self, call: "asyncio.Future[Sequence[WriteOutcome]]", writes: Writes) -> Writes:
        """A call may take several requests, each with a timeout of its own, and then longer than a lease."""
        try:
            while not (await asyncio.wait({call}, timeout=self.terms.lease_s / 3))[0]:
                async with self._service.transaction() as tx:
                    until = tx.now + timedelta(seconds=self.terms.lease_s)
                    claimed = [each for each, _ in writes]
                    renewed = await claims.renew(tx.connection, self.terms.tenant, claimed, until, tx.now)
                writes = [(each, plan) for each, (_, plan) in zip(renewed, writes, strict=True)]
        finally:
            call.cancel()
        return writes

    async def _answered(self, answer: Answer, results: Sequence[tuple[tuple[Claimed, Plan], WriteOutcome]]) -> None:
        accepted = [Accepted(each, plan, one) for (each, plan), one in results if one.status is WriteStatus.ACCEPTED]
        refused = [(each, one.reason) for (each, _), one in results if one.status is WriteStatus.REFUSED]
        settled = [ledger.refused(each, reason, answer.at) for each, reason in refused]
        # Nothing was written, so no attempt is kept.
        settled += [
            ledger.left(each, answer.at + timedelta(seconds=one.retry_after_s))
            for (each, _), one in results
            if one.status is WriteStatus.BUSY
        ]
        if accepted or settled:
            alerts = [ledger.refusal_alert(each, reason) for each, reason in refused]
            await self._ledger.settle(replace(answer, accepted=accepted, settled=settled, alerts=alerts))

    async def _look_again(self, reads: Sequence[tuple[Claimed, Record]]) -> Round:
        """Read the numbers of records and decide anew about them."""
        if not reads:
            return Round()
        read_at = self._service.clock()
        numbers = await self._read([each for each, _ in reads])
        if numbers is None:
            return Round()
        seen = {
            each.stock_record: Seen(Observed(numbers[each.item, each.location], domain.capture(record)), read_at)
            for each, record in reads
            if (each.item, each.location) in numbers
        }
        return await self._ledger.take(Turn(self.terms, read=[each for each, _ in reads], seen=seen))

    async def _read(self, claimed: Sequence[Claimed]) -> Mapping[tuple[str, str], int] | None:
        """The numbers shown, or None where they cannot be had now; the records are left dirty then."""
        try:
            numbers = await self._connector.read_stock(self._session, [(each.item, each.location) for each in claimed])
        except Throttled as throttled:
            self._breaker.failed() if isinstance(throttled, Unreachable) else self._breaker.succeeded()
            await self._leave(claimed, throttled.retry_after_s)
            return None
        except (Rejected, ValueError) as rejected:  # ValueError: an answer that cannot be read
            self._breaker.failed()
            await self._rejected(claimed, str(rejected))
            return None
        self._breaker.succeeded()
        return numbers

    # What ends without an answer.

    async def _end(self, settled: Sequence[Settled]) -> None:
        await self._ledger.settle(Answer(self.terms, self._service.clock(), settled=settled))

    async def _leave(self, claimed: Sequence[Claimed], pause_s: float) -> None:
        next_at = self._service.clock() + timedelta(seconds=pause_s)
        await self._end([ledger.left(each, next_at) for each in claimed])

    async def _rejected(self, claimed: Sequence[Claimed], reason: str) -> None:
        _log.warning("channel refuses the request", connection=self.connection_id, reason=reason)
        next_at = self._service.clock() + timedelta(seconds=_REJECTED_PAUSE_S)
        await self._end([ledger.left(each, next_at, reason[:500], each.failures) for each in claimed])

    async def _suspect(self, writes: Writes, reason: str) -> None:
        _log.warning("outcome of a write is unknown", connection=self.connection_id, reason=reason, records=len(writes))
        now = self._service.clock()
        await self._end([ledger.suspect(each, plan, now, self.terms.late_s) for each, plan in writes])

    async def _release(self, writes: Writes, reads: Sequence[tuple[Claimed, Record]]) -> None:
        """Give back what is still stale after several rounds: somebody else writes all the time."""
        if claimed := [each for each, _ in writes] + [each for each, _ in reads]:
            await self._leave(claimed, _STALE_PAUSE_S)

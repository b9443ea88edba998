"""Looking at what channels really show: after unknown outcomes, for drift, and to heal what was held to be unheard.

* A suspect record is read back once its request cannot be executed any more.
* Settled records are read now and then, the riskiest first. Less than expected may be sales not heard of: they are
  taken off until a complete poll of the orders has explained them, and what no order explains is drift. More than
  expected is lowered at once and reported: somebody else writes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from contracts.channels.v1 import DriftFound, QuantityTrait
from services.bus import Cause, Transaction
from services.channels.connectors.connector import Rejected, Throttled
from services.channels.stock import claims, domain, upkeep
from services.channels.stock.claims import Asked, Claimed, Settled
from services.channels.stock.domain import Baseline, Finding, Manner, Observed, Record
from services.channels.stock.sender import LiveConnections
from services.channels.stock.settings import StockSettings
from services.channels.stock.wake import Wake

if TYPE_CHECKING:
    from services.channels.connections.registry import Open
    from services.runtime import Service

_LEASE_S: Final = 30.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Look:
    """A claimed record with the tallies captured before its number is read."""

    claimed: Claimed
    record: Record


class Reconciler:
    """Made once by `app.py`; `run` is a loop of the service."""

    def __init__(self, connections: LiveConnections, wake: Wake, settings: StockSettings) -> None:
        self._connections, self._wake, self._settings = connections, wake, settings
        self._pruned_at: datetime | None = None

    async def run(self, service: "Service") -> None:
        """Go round the live connections until cancelled; a connection that fails does not stop the others."""
        while True:
            for entry in await self._in_need(service):
                try:
                    await self.reconcile(service, entry)
                except (Throttled, Rejected, ValueError) as refused:
                    _log.info("reading back waits", connection=entry.connection.connection_id, reason=str(refused))
            await self._prune(service)
            await asyncio.sleep(self._settings.reconcile_every_s)

    async def _in_need(self, service: "Service") -> "list[Open]":
        """One look for all connections: most of the time most of them need nothing."""
        live = {entry.connection.connection_id: entry for entry in self._connections.live()}
        before = service.clock() - timedelta(seconds=self._settings.reread_after_s)
        owners = [(entry.connection.tenant, key) for key, entry in live.items()]
        async with service.pool.acquire() as database:
            needy = await upkeep.in_need(database, owners, before, service.clock())
        return [entry for key, entry in live.items() if key in needy]

    async def reconcile(self, service: "Service", entry: "Open") -> None:
        """One round of one connection: read suspects back, heal, read some others.

        Raises `Throttled`, `Rejected`, and `ValueError` for an answer that cannot be read.
        """
        connection = entry.connection
        manner = Manner(entry.connector.traits.quantity_trait, entry.connector.traits.compares)
        tenant, connection_id, limit = connection.tenant, connection.connection_id, self._settings.reconcile_batch_max
        await self._read_back(
            service,
            entry,
            manner,
            lambda tx: upkeep.claim_suspects(tx.connection, tenant, connection_id, limit, _LEASE_S, tx.now),
        )
        await self.heal(service, tenant, connection_id)
        before = timedelta(seconds=self._settings.reread_after_s)
        await self._read_back(
            service,
            entry,
            manner,
            lambda tx: upkeep.claim_for_reading(
                tx.connection, tenant, connection_id, limit, _LEASE_S, tx.now - before, tx.now
            ),
        )
        self._wake.dirtied()

    async def _read_back(
        self,
        service: "Service",
        entry: "Open",
        manner: Manner,
        claim: Callable[[Transaction], Awaitable[list[Claimed]]],
    ) -> None:
        async with service.transaction() as tx:
            claimed = await claim(tx)
            if not claimed:
                return
            [inputs] = await claims.inputs(tx.connection, [Asked(claimed)], tx.now)
        looks = [_Look(each, record) for each, record in inputs if record is not None]
        read_at = service.clock()
        try:
            numbers = await entry.connector.read_stock(
                entry.session, [(look.claimed.item, look.claimed.location) for look in looks]
            )
        except (Throttled, Rejected, ValueError):
            await self._give_back(service, claimed)
            raise
        async with service.transaction() as tx:
            again = {each.stock_record: each for each in await claims.relock(tx.connection, claimed)}
            settled = []
            for look in looks:
                number = numbers.get((look.claimed.item, look.claimed.location))
                each = again.get(look.claimed.stock_record)
                if each is None:  # Somebody else has taken up the lease.
                    continue
                if number is None:
                    settled.append(_back(each, tx.now))
                    continue
                finding, found = domain.read_back(look.record, manner, Observed(number, domain.capture(look.record)))
                settled.append(
                    self._found(tx, entry, look, replace(each, attempts=look.claimed.attempts), finding, found, read_at)
                )
            missing = {each.stock_record for each in claimed} - {each.claimed.stock_record for each in settled}
            settled += [_back(each, tx.now) for each in claimed if each.stock_record in missing]
            await claims.settle(tx.connection, settled, tx.now)

    def _found(
        self,
        tx: Transaction,
        entry: "Open",
        look: _Look,
        each: Claimed,
        finding: Finding,
        found: Baseline,
        read_at: datetime,
    ) -> Settled:
        """What a number read back changes. What was expected stays as it is; all else is decided anew."""
        observed = found.number
        if entry.connector.traits.quantity_trait is QuantityTrait.DELTA and look.record.known is not None:
            observed = look.record.known.number
        if finding is Finding.ABOVE:
            expected = domain.expected(look.record, look.record.known) if look.record.known else 0
            drift = DriftFound(
                connection_id=each.connection_id,
                stock_record=each.stock_record,
                wanted=expected,
                observed=observed,
                since=read_at,
                suspected_cause="somebody else writes this number, or a cancel has not been heard of",
            )
            tx.publish(drift, tenant=each.tenant, cause=_started(each))
        same = finding is Finding.AS_EXPECTED
        return Settled(
            each,
            each.known if same else found,
            each.attempts if same else (),
            tx.now,
            observed=observed,
            seen_at=None if same else read_at,
            guessed=each.guessed if same else finding is Finding.UNKNOWN,
            dirty=not same,
        )

    async def _give_back(self, service: "Service", claimed: Sequence[Claimed]) -> None:
        async with service.transaction() as tx:
            await claims.settle(tx.connection, [_back(each, tx.now) for each in claimed], tx.now)

    async def heal(self, service: "Service", tenant: str, connection_id: str) -> int:
        """Let a complete poll of the orders, begun after a record was seen, settle what was held to be unheard.

        Returns how many records were healed. What no order explains is reported as drift, unless it was only a guess
        after an unknown outcome.
        """
        async with service.transaction() as tx:
            begun_at = await upkeep.complete_poll(tx.connection, connection_id)
            if begun_at is None:
                return 0
            found = await upkeep.claim_to_heal(
                tx.connection,
                tenant,
                connection_id,
                begun_at,
                self._settings.reconcile_batch_max,
                _LEASE_S,
                tx.now,
            )
            if not found:
                return 0
            seen_at = {each.stock_record: seen for each, seen in found}
            settled, healed = [], []
            [inputs] = await claims.inputs(tx.connection, [Asked([each for each, _ in found])], tx.now)
            for each, record in inputs:
                result = domain.heal(record) if record else None
                if record is None or result is None:
                    settled.append(_back(each, tx.now))
                    continue
                baseline, units = result
                healed.append(each.stock_record)
                settled.append(replace(_back(each, tx.now), known=baseline, guessed=False, dirty=True))
                if not each.guessed:
                    _report_unexplained(tx, each, record, units, seen_at[each.stock_record])
            await claims.settle(tx.connection, settled, tx.now)
        return len(healed)

    async def _prune(self, service: "Service") -> None:
        now = service.clock()
        if self._pruned_at is not None and now - self._pruned_at < timedelta(seconds=self._settings.prune_every_s):
            return
        self._pruned_at = now
        before = now - timedelta(days=self._settings.measures_keep_days)
        rows = 1
        while rows:
            async with service.transaction() as tx:
                rows = await upkeep.compact_changes(tx.connection, tx.now)
            async with service.transaction() as tx:
                rows += await upkeep.prune(tx.connection, before, tx.now)


def _report_unexplained(tx: Transaction, each: Claimed, record: Record, units: int, seen_at: datetime) -> None:
    observed = domain.expected(record, record.known) if record.known else 0
    drift = DriftFound(
        connection_id=each.connection_id,
        stock_record=each.stock_record,
        wanted=observed + units,
        observed=observed,
        since=seen_at,
        suspected_cause="the number was lowered at the channel, and no order explains it",
    )
    tx.publish(drift, tenant=each.tenant, cause=_started(each))


def _started(each: Claimed) -> Cause:
    """Nothing but the look itself led to it."""
    return Cause("", each.stock_record)


def _back(each: Claimed, now: datetime) -> Settled:
    """End a claim and change nothing."""
    return Settled(each, each.known, each.attempts, now, guessed=each.guessed, failures=each.failures)

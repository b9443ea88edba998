"""The transactions of all lanes: claims that are wanted at once are one, answers that come in together are one.

A lane's own part is pure or concerns its own records alone, so that what is decided does not depend on who else is in
the transaction.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from contracts.channels.v1 import CoveredVersion, PushCause, QuantityTrait, StockPushed
from contracts.inventory.v1 import CauseOutcome
from services.border.together import Together
from services.bus import Cause, Transaction
from services.channels.alerts import Alert, raise_alerts
from services.channels.connections.lifecycle import poll_interval_s, spacing_ms
from services.channels.connections.store import Connection
from services.channels.connectors.connector import Traits, WriteOutcome
from services.channels.stock import claims, domain, upkeep
from services.channels.stock.claims import Asked, Attempt, Claimed, Covered, Settled, Wanted
from services.channels.stock.domain import Manner, Observed, Plan, Record, Step
from services.channels.stock.metrics import StockMetrics
from services.channels.stock.settings import StockSettings

if TYPE_CHECKING:
    import asyncpg

    from services.runtime import Service

_LANES_MAX: Final = 32
"""So many lanes share a transaction at most: their records are locked until its end."""
_ANSWERS_WAIT_S: Final = 0.01
"""Answers wait so long for others. Nobody waits for them: the channel shows the number already."""
_CAUSES_MAX: Final = 1000
_UNKNOWN_PAUSE: Final = timedelta(seconds=1)
_REFUSED_PAUSE_S: Final = 60.0
_REFUSED_CAP_S: Final = 3600.0
_NOTHING: Final = Cause("", "")
_LEASE_MARGIN_S: Final = 3.0
_PIPELINE_LAG_S: Final = 0.3
"""How long a sale typically takes from a channel's answer to our table, polling apart."""


class Terms:
    """How one lane of a connection is written: derived from the connector's traits and the connection's settings."""

    def __init__(self, connection: Connection, lane: int, traits: Traits, settings: StockSettings) -> None:
        self.tenant, self.connection_id = connection.tenant, connection.connection_id
        self.lane, self.traits = lane, traits
        self.manner = Manner(traits.quantity_trait, traits.compares, settings.low_stock, settings.risk_max)
        self.spacing = timedelta(milliseconds=max(spacing_ms(traits, connection.settings), settings.spacing_ms))
        polled_s = poll_interval_s(traits, connection.settings) if traits.intake == "queue" else 0.0
        self.lag_s = _PIPELINE_LAG_S + polled_s / 2
        # For one round, begun anew with the next: so long are the records of a process that died out of reach.
        self.lease_s = traits.write_timeout_s + _LEASE_MARGIN_S
        self.late_s = traits.write_timeout_s + settings.late_execution_s


@dataclass(frozen=True, slots=True)
class Seen:
    """What a read of a record showed, and when it began."""

    observed: Observed
    at: datetime


@dataclass(frozen=True, slots=True)
class Turn:
    """What a lane asks for: up to `limit` records, or that those it has `read` are decided anew.

    `seen` is what the read showed, by record.
    """

    terms: Terms
    limit: int = 0
    read: Sequence[Claimed] = ()
    seen: Mapping[str, Seen] = field(default_factory=dict)


@dataclass(slots=True)
class Round:
    """What a turn came to: the plans that need the channel, of how many records, and whether more may be due."""

    writes: list[tuple[Claimed, Plan]] = field(default_factory=list)
    reads: list[tuple[Claimed, Record]] = field(default_factory=list)
    claimed: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """A number that the channel took."""

    claimed: Claimed
    plan: Plan
    outcome: WriteOutcome


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came to: what was `accepted`, and how the other claims end. `at` is when it came."""

    terms: Terms
    at: datetime
    accepted: Sequence[Accepted] = ()
    settled: Sequence[Settled] = ()
    alerts: Sequence[Alert] = ()
    sent_at: datetime | None = None
    cause: Cause = _NOTHING


@dataclass(slots=True)
class _Decision:
    """A turn with what was decided about its records."""

    turn: Turn
    claimed: Sequence[Claimed]
    more: bool = False
    plans: list[tuple[Claimed, Plan]] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)


class Ledger:
    """Made once for all lanes of a process."""

    def __init__(self, service: "Service", settings: StockSettings, metrics: StockMetrics) -> None:
        self._service, self._settings, self._metrics = service, settings, metrics
        self._turns = Together[Turn, Round](self._take, linger_s=0.0, most=_LANES_MAX)
        self._answers = Together[Answer, None](self._settle, linger_s=_ANSWERS_WAIT_S, most=_LANES_MAX)

    async def take(self, turn: Turn) -> Round:
        """Claim records, compute their numbers, and lease those that need the channel."""
        return await self._turns(turn)

    async def settle(self, answer: Answer) -> None:
        """End claims. What the channel has answered is kept even if whoever asked it is cancelled meanwhile."""
        await asyncio.shield(self._answers(answer))

    async def close(self) -> None:
        """Wait until what was asked for is done."""
        await self._turns.close()
        await self._answers.close()

    # Claims and decisions.

    async def _take(self, turns: Sequence[Turn]) -> list[Round]:
        async with self._service.transaction() as tx:
            again, new = [turn for turn in turns if turn.read], [turn for turn in turns if not turn.read]
            # First what may have to wait for somebody's lock: claims wait for nobody, so no two wait for each other.
            decisions = await self._relock(tx, again) if again else []
            if new:
                found = await claims.claim(tx.connection, [_wanted(turn) for turn in new], tx.now)
                decisions += [_Decision(turn, one.claimed, one.more) for turn, one in zip(new, found, strict=True)]
            rounds = await self._decide(tx, [one for one in decisions if one.claimed or one.settled])
        return [rounds.get(id(turn), Round()) for turn in turns]

    async def _relock(self, tx: Transaction, turns: Sequence[Turn]) -> list[_Decision]:
        """What was just refused stands nowhere: only attempts from before this claim count. The number covers the
        changes from before the read, since decisions that came during it may be counted as unheard as well.
        """
        locked = await claims.relock(tx.connection, [each for turn in turns for each in turn.read])
        rows = {each.stock_record: each for each in locked}
        decisions = []
        for turn in turns:
            again = [
                replace(
                    row,
                    attempts=first.attempts,
                    changes=first.changes,
                    changed_at=first.changed_at,
                    causes=first.causes,
                )
                for first in turn.read
                if first.stock_record in turn.seen and (row := rows.get(first.stock_record))
            ]
            unknown = [each for each in turn.read if each.stock_record not in turn.seen]
            reason = "the channel shows no such item at this location: link or import the listing again"
            await raise_alerts(tx.connection, [refusal_alert(each, reason) for each in unknown], tx.now)
            decisions.append(_Decision(turn, again, settled=[refused(each, reason, tx.now) for each in unknown]))
        return decisions

    async def _decide(self, tx: Transaction, decisions: Sequence[_Decision]) -> dict[int, Round]:
        """Compute numbers of claimed and locked records; settle what needs no call, remember what will be sent."""
        if not decisions:
            return {}
        asked = [
            Asked(one.claimed, one.turn.terms.lag_s, one.turn.terms.manner.trait is QuantityTrait.TOTAL)
            for one in decisions
        ]
        attempts: list[Attempt] = []
        covered: list[Covered] = []
        for one, found in zip(decisions, await claims.inputs(tx.connection, asked, tx.now), strict=True):
            await self._plan(tx, one, found)
            lease_until = tx.now + timedelta(seconds=one.turn.terms.lease_s)
            for each, plan in one.plans:
                match plan.step:
                    case Step.WRITE:
                        attempts.append(Attempt(each, lease_until, plan.number, plan.after))
                    case Step.READ:
                        attempts.append(Attempt(each, lease_until))
                    case Step.WAIT:
                        one.settled.append(left(each, tx.now + _UNKNOWN_PAUSE))
                    case Step.NOTHING:
                        covered += _covered(each, plan, unchanged=True, at=tx.now)
                        one.settled.append(_unchanged(one.turn, each, plan, tx.now))
        if covered:
            await claims.settle_propagation(tx.connection, covered)
        held = await claims.keep(tx.connection, attempts, [end for one in decisions for end in one.settled], tx.now)
        return {id(one.turn): _round(one, held) for one in decisions}

    async def _plan(self, tx: Transaction, one: _Decision, found: Sequence[tuple[Claimed, Record | None]]) -> None:
        manner = one.turn.terms.manner
        observed = {key: seen.observed for key, seen in one.turn.seen.items()}
        plans = [
            (each, domain.plan(record, manner, observed.get(each.stock_record)))
            for each, record in found
            if record is not None
        ]
        # Without a level for every SKU there is nothing to say yet: the level that comes dirties the record again.
        one.settled += [replace(left(each, tx.now), changes=each.changes) for each, record in found if record is None]
        plans, braked = await self._brake(tx, one.turn.terms, plans, observed)
        one.plans = self._limit_reads(manner, plans, braked=braked)

    def _limit_reads(
        self, manner: Manner, plans: list[tuple[Claimed, Plan]], *, braked: bool
    ) -> list[tuple[Claimed, Plan]]:
        """A channel that does not compare is read item by item: the lowest numbers are, the others written blind."""
        if manner.compares:
            return plans
        looks = sorted((plan.number, each.stock_record) for each, plan in plans if plan.step is Step.READ)
        blind = {stock_record for _, stock_record in looks[self._settings.reads_max :]}
        manner = replace(manner, low_stock=-1, risk_max=float("inf"), looks=False)
        return [
            (each, domain.plan(plan.record, manner, brake=braked) if each.stock_record in blind else plan)
            for each, plan in plans
        ]

    async def _brake(
        self,
        tx: Transaction,
        terms: Terms,
        plans: list[tuple[Claimed, Plan]],
        observed: Mapping[str, Observed],
    ) -> tuple[list[tuple[Claimed, Plan]], bool]:
        """Hold back a mass change that no sale explains, until a person has looked."""
        changing = [
            plan
            for _, plan in plans
            if plan.record.other_change and plan.record.approved and plan.number != plan.record.approved.number
        ]
        if not changing:
            return plans, False
        tenant, connection_id = terms.tenant, terms.connection_id
        braked = await upkeep.brake_of(tx.connection, tenant, connection_id)
        if not braked:
            since = tx.now - timedelta(seconds=self._settings.brake_window_s)
            changed, zeroed, records = await upkeep.changed_lately(tx.connection, tenant, connection_id, since)
            changed += len(changing)
            zeroed += sum(plan.number == 0 for plan in changing)
            braked = domain.brake_trips(
                changed=changed, zeroed=zeroed, records=records, share_max=self._settings.brake_share
            )
            if braked:
                await upkeep.set_brake(tx.connection, tenant, connection_id, changed, zeroed, records, tx.now)
                await raise_alerts(tx.connection, [_brake_alert(terms, changed, zeroed, records)], tx.now)
        if braked:
            plans = [
                (each, domain.plan(plan.record, terms.manner, observed.get(each.stock_record), brake=True))
                for each, plan in plans
            ]
        return plans, braked

    # Answers.

    async def _settle(self, answers: Sequence[Answer]) -> list[None]:
        async with self._service.transaction() as tx:
            await raise_alerts(tx.connection, [alert for answer in answers for alert in answer.alerts], tx.now)
            covered = [
                version
                for answer in answers
                for one in answer.accepted
                for version in _covered(one.claimed, one.plan, unchanged=False, at=answer.at)
            ]
            sales = await claims.settle_propagation(tx.connection, covered) if covered else {}
            settled = [end for answer in answers for end in answer.settled]
            for answer in answers:
                for one in answer.accepted:
                    self._publish(tx, answer, one, sales.get(one.claimed.stock_record, []))
                    settled.append(_accepted(answer, one))
            await claims.settle(tx.connection, settled, tx.now)
        return [None] * len(answers)

    def _publish(self, tx: Transaction, answer: Answer, one: Accepted, rows: "Sequence[asyncpg.Record]") -> None:
        """`rows` are the sales that the number covers, as `propagation` measures them."""
        connection_id, each, plan = answer.terms.connection_id, one.claimed, one.plan
        propagation = self._metrics.propagation.labels(connection_id)
        for row in rows:
            if row["outcome"] != CauseOutcome.RELEASED:  # That is younger than the sale it is dated by.
                propagation.observe((answer.at - row["received_at"]).total_seconds())
        sent_at = answer.sent_at or answer.at
        pushed = StockPushed(
            connection_id=connection_id,
            stock_record=each.stock_record,
            quantity=plan.number,
            wanted_seq=each.changes[-1] if each.changes else 0,
            covered=tuple(
                CoveredVersion(sku=part.sku, epoch=part.epoch, version=part.version) for part in plan.record.parts
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
            request_id=one.outcome.request_id,
            wanted_at=each.changed_at or sent_at,
            sent_at=sent_at,
            accepted_at=answer.at,
        )
        flow = rows[0]["correlation_id"] if rows else answer.cause.correlation_id
        tx.publish(pushed, tenant=answer.terms.tenant, cause=answer.cause, correlation_id=flow)


def _wanted(turn: Turn) -> Wanted:
    terms = turn.terms
    return Wanted(terms.tenant, terms.connection_id, terms.lane, turn.limit, terms.late_s)


def _round(one: _Decision, held: Mapping[str, Claimed]) -> Round:
    """What goes on: the plans of records whose lease is ours."""
    going = [(held[each.stock_record], plan) for each, plan in one.plans if each.stock_record in held]
    return Round(
        [(each, plan) for each, plan in going if plan.step is Step.WRITE],
        [(each, plan.record) for each, plan in going if plan.step is Step.READ],
        len(one.claimed),
        one.more,
    )


def _covered(each: Claimed, plan: Plan, *, unchanged: bool, at: datetime) -> list[Covered]:
    return [
        (each.tenant, each.stock_record, part.sku, part.epoch, part.version, unchanged, at)
        for part in plan.record.parts
    ]


def _brake_alert(terms: Terms, changed: int, zeroed: int, records: int) -> Alert:
    return Alert(
        tenant=terms.tenant,
        connection_id=terms.connection_id,
        kind="stock_brake",
        subject="mass change",
        text=f"{changed} of {records} numbers would change and {zeroed} would be zero, and no sale explains it; "
        "they wait, sales still pass: look at the last import, count or mapping, then release the brake",
        urgent=True,
    )


# How a claim of one record ends.


def _accepted(answer: Answer, one: Accepted) -> Settled:
    each, plan, now = one.claimed, one.plan, answer.at
    assert plan.after is not None
    # Compare-and-set proves where the number stands; elsewhere only a read after the deadline does.
    attempts = () if answer.terms.manner.compares else each.attempts
    unheard = any(tally.unheard for tally in plan.after.tallies.values())
    return Settled(
        each,
        plan.after,
        attempts,
        now + answer.terms.spacing,
        each.changes,
        number=plan.number,
        accepted_at=now,
        seen_at=now,
        approve=not plan.braked,
        guessed=unheard and (each.guessed or bool(each.attempts)),
    )


def _unchanged(turn: Turn, each: Claimed, plan: Plan, now: datetime) -> Settled:
    seen = turn.seen.get(each.stock_record)
    return Settled(
        each,
        plan.after or each.known,
        () if seen and turn.terms.manner.compares else each.attempts,
        now,
        each.changes,
        number=plan.number,
        observed=seen.observed.number if seen else None,
        seen_at=seen.at if seen else None,
        approve=not plan.braked,
        guessed=each.guessed or (seen is not None and bool(each.attempts)),
    )


def left(each: Claimed, next_at: datetime, refusal: str = "", failures: int = 0) -> Settled:
    """Still dirty; nothing happened at the channel."""
    return Settled(each, each.known, each.attempts, next_at, guessed=each.guessed, failures=failures, refusal=refusal)


def refused(each: Claimed, reason: str, now: datetime) -> Settled:
    """The channel does not take this record's number; asked again after a pause that grows."""
    pause_s = min(_REFUSED_CAP_S, _REFUSED_PAUSE_S * 2 ** min(each.failures, 10))
    return left(each, now + timedelta(seconds=pause_s), reason[:500], each.failures + 1)


def refusal_alert(each: Claimed, reason: str) -> Alert:
    """For a person who can make the channel take the number."""
    text = f"the channel refuses the number of item {each.item}: {reason[:300]}"
    return Alert(each.tenant, each.connection_id, "stock_refused", each.stock_record, text)


def suspect(each: Claimed, plan: Plan, now: datetime, late_s: float) -> Settled:
    """The number may stand there or come to stand there later: a read after the deadline will tell."""
    return replace(
        left(each, now + _UNKNOWN_PAUSE),
        attempts=(*each.attempts, plan.after) if plan.after else each.attempts,
        suspect_until=now + timedelta(seconds=late_s),
    )

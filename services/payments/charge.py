"""The loop that asks gateways: what is about to be asked is committed before, what came of it after.

A process that ends between any two steps leaves a row that says what may have happened; whoever comes next looks.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeAlias, final

import structlog

from services.border.errors import OutcomeUnknown, Rejected, Throttled
from services.border.vault import Vault
from services.bus import Transaction
from services.payments import domain, store
from services.payments.domain import Call, Close, Decision, Kind, Look, Outcome, Seen
from services.payments.gateways.gateway import Gateway, Refund, Session, Wanted
from services.payments.settings import PaymentsSettings
from services.payments.store import Key, Stored

Sessions: TypeAlias = Callable[[str, str], Awaitable[tuple[Gateway, Session]]]
"""From a tenant and an account of its to the gateway and a session there. Raises `Rejected` where there is none."""

_LOOK_AGAIN_S = 60.0
_log = structlog.get_logger("saldo.payments")


@final
@dataclass(frozen=True, slots=True)
class Task:
    """One payment claimed, and the step to take at its gateway."""

    key: Key
    stored: Stored
    step: Call | Look
    claim: str


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a step: what was seen, or how it ended without; `wait_s` until the next step."""

    seen: Seen | None = None
    outcome: Outcome = Outcome.DONE
    wait_s: float = 0


@final
class Charger:
    """Works on payments that are due. `point` is reached between any two steps."""

    def __init__(
        self,
        transaction: Callable[[], AbstractAsyncContextManager[Transaction]],
        sessions: Sessions,
        vault: Vault,
        settings: PaymentsSettings,
        point: Callable[[str], None],
    ) -> None:
        self._transaction, self._sessions, self._vault = transaction, sessions, vault
        self._settings, self._point = settings, point

    async def run(self) -> None:
        """Work for ever, pausing when nothing is due."""
        while True:
            if not await self.work():
                await asyncio.sleep(self._settings.poll_interval_s)

    async def work(self) -> int:
        """Take one step for each of some payments that are due; returns for how many."""
        tasks, found = await self._claim()
        self._point("charge.saved")
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(self._take(task))
        return found

    async def _claim(self) -> tuple[list[Task], int]:
        tasks = []
        async with self._transaction() as tx:
            rows = await store.lock_due(tx.connection, tx.now, self._settings.charge_parallel)
            name = tx.new_id()
            for key, stored in rows.items():
                step = domain.next_call(stored.pay, tx.now) or (Look() if domain.waits(stored.pay) else None)
                if step is None or isinstance(step, Close):
                    decision = domain.close(stored.pay, step, tx.now) if step else Decision(stored.pay)
                    await self._apply(tx, key, stored, decision, None)
                    continue
                if isinstance(step, Call):
                    stored = replace(stored, pay=domain.begun(stored.pay, step))
                    await store.begin_call(tx.connection, *key, step, tx.now)
                await store.put_payments(tx.connection, {key: (stored, tx.now)})
                tasks.append(Task(key, stored, step, name))
            until = store.lease(tx.now, self._settings.call_timeout_s)
            await store.claim(tx.connection, [task.key for task in tasks], name, until)
        return tasks, len(rows)

    async def _take(self, task: Task) -> None:
        answer = await self._asked(task)
        self._point("charge.answered")
        await self._settle(task, answer)
        self._point("charge.settled")

    async def _asked(self, task: Task) -> Answer:
        tenant, payment_id = task.key
        choice = task.stored.pay.choice
        assert choice
        late_s = _LOOK_AGAIN_S
        try:
            gateway, session = await self._sessions(tenant, choice.account_id)
            late_s = gateway.traits.late_s
            async with asyncio.timeout(self._settings.call_timeout_s):
                return Answer(await self._perform(gateway, session, task))
        except Throttled as throttled:
            return Answer(outcome=Outcome.AGAIN, wait_s=throttled.retry_after_s)
        except Rejected as rejected:
            _log.warning("refused by the gateway", tenant=tenant, payment_id=payment_id, why=str(rejected))
            return Answer(outcome=Outcome.REFUSED)
        except (OutcomeUnknown, TimeoutError, ValueError) as unknown:
            # An answer that cannot be read is no answer.
            _log.warning("outcome unknown", tenant=tenant, payment_id=payment_id, error=type(unknown).__name__)
            return Answer(outcome=Outcome.UNKNOWN, wait_s=late_s)

    async def _perform(self, gateway: Gateway, session: Session, task: Task) -> Seen | None:
        pay, step, (tenant, payment_id) = task.stored.pay, task.step, task.key
        assert pay.choice
        reference = pay.seen.reference if pay.seen else ""
        if isinstance(step, Look):
            return await gateway.look(session, reference, payment_id)
        key, choice = domain.key(payment_id, step), pay.choice
        match step.kind:
            case Kind.OPEN:
                wanted = Wanted(payment_id, step.amount_minor, choice.currency, choice.expires_at)
                return await gateway.open(session, wanted, key)
            case Kind.CHARGE:
                sealed = task.stored.token_sealed
                token = self._vault.open(sealed, tenant=tenant, owner=payment_id, field="token") if sealed else b""
                return await gateway.charge(session, reference, token.decode(), key)
            case Kind.CAPTURE:
                return await gateway.capture(session, reference, step.amount_minor, key)
            case Kind.VOID:
                return await gateway.void(session, reference, key)
            case Kind.REFUND:
                refund_id = domain.refund_id(payment_id, step.n)
                refund = Refund(refund_id, step.amount_minor, choice.currency)
                return await gateway.refund(session, reference, refund, key)

    async def _settle(self, task: Task, answer: Answer) -> None:
        async with self._transaction() as tx:
            stored = (await store.lock_payments(tx.connection, [task.key]))[task.key]
            if not await store.release(tx.connection, task.key, task.claim):
                return  # The claim ran out: whoever has it now looks for what this call did.
            pay, looking = stored.pay, isinstance(task.step, Look)
            if looking and answer.outcome is Outcome.DONE:
                decision = domain.saw(pay, answer.seen, tx.now, looked=task.stored.pay.hinted)
            elif looking:
                wait_s = answer.wait_s or _LOOK_AGAIN_S
                await self._apply(tx, task.key, stored, Decision(pay), tx.now + timedelta(seconds=wait_s))
                return
            elif answer.outcome is Outcome.DONE:
                decision = domain.saw(pay, answer.seen, tx.now, answer=True)
            else:
                decision = Decision(domain.ended(pay, answer.outcome))
            later = tx.now + timedelta(seconds=answer.wait_s) if answer.wait_s else None
            await self._apply(tx, task.key, stored, decision, later)

    async def _apply(
        self, tx: Transaction, key: Key, stored: Stored, decision: Decision, later: datetime | None
    ) -> None:
        tenant, payment_id = key
        pay = decision.pay
        due_at = later or domain.due(pay, tx.now, self._settings.look_every)
        await store.put_payments(tx.connection, {key: (replace(stored, pay=pay), due_at)})
        if pay.call and pay.call != stored.pay.call:
            await store.end_call(tx.connection, tenant, payment_id, pay.call, tx.now)
        await store.book(tx.connection, tenant, decision.booked, tx.now)
        for fact in decision.facts:
            tx.publish(fact, tenant=tenant, cause=stored.cause)

"""The loop that asks gateways: what is about to be asked is committed before, what came of it after.

A process that ends between any two steps leaves a row that says what may have happened; whoever comes next looks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeAlias, final

import asyncpg
import structlog
from opentelemetry.trace import SpanKind

from services.border.client import AddressRefused
from services.border.errors import Rejected, Throttled
from services.border.together import Together
from services.border.vault import Vault
from services.bus import Cause, Transaction
from services.bus.failures import waited
from services.bus.tracing import UNTRACED, Tracing
from services.payments import domain, store
from services.payments.domain import Call, Close, Decision, Kind, Look, Outcome, Seen
from services.payments.gateways.gateway import Gateway, Refund, Session, Wanted
from services.payments.settings import PaymentsSettings
from services.payments.store import Key, Stored

Sessions: TypeAlias = Callable[[str, str], Awaitable[tuple[Gateway, Session]]]
"""From a tenant and an account of its to the gateway and a session there. Raises `Rejected` where there is none."""

_LATER_S = 60.0
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
        due: asyncio.Event,
        tracing: Tracing = UNTRACED,
    ) -> None:
        """`due` is set where a payment may have become due; those that only the clock makes due are found anyway."""
        self._transaction, self._sessions, self._vault = transaction, sessions, vault
        self._settings, self._point, self._due, self._tracing = settings, point, due, tracing
        self._settle = Together(self._settle_all)
        self._going: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work for ever, pausing when nothing is due."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._due.clear()
                if not await self.work(group):
                    await waited(self._due, self._settings.poll_interval_s)

    async def work(self, group: asyncio.TaskGroup) -> int:
        """Begin one step in `group` for each of some payments that are due; returns for how many.

        Where as many are under way as may be, the first one that ends makes room.
        """
        if len(self._going) >= self._settings.charge_parallel:
            await asyncio.wait(self._going, return_when=asyncio.FIRST_COMPLETED)
        tasks, found = await self._claim(self._settings.charge_parallel - len(self._going))
        self._point("charge.saved")
        for task in tasks:
            step = group.create_task(self._take(task))
            self._going.add(step)
            step.add_done_callback(self._going.discard)
        return found

    async def _claim(self, room: int) -> tuple[list[Task], int]:
        tasks = []
        async with self._transaction() as tx:
            rows = await store.lock_due(tx.connection, tx.now, room)
            name = tx.new_id()
            for key, stored in rows.items():
                step = domain.next_call(stored.pay, tx.now) or (Look() if domain.waits(stored.pay) else None)
                if step is None or isinstance(step, Close):
                    decision = domain.close(stored.pay, step, tx.now) if step else Decision(stored.pay)
                    await self._apply(tx, key, stored, decision, None, stored.cause)
                    continue
                if isinstance(step, Call):
                    stored = replace(stored, pay=domain.begun(stored.pay, step))
                    await store.begin_call(tx.connection, *key, step, tx.now)
                await store.put_payments(tx.connection, {key: (stored, tx.now)})
                tasks.append(Task(key, stored, step, name))
            # Nobody waits for these: they are looked at where nothing else is to be done.
            idle = not rows and not self._going
            resting = await store.lock_resting(tx.connection, tx.now, max(1, room // 2)) if idle else {}
            tasks += [Task(key, stored, Look(), name) for key, stored in resting.items()]
            until = store.lease(tx.now, self._settings.call_timeout_s, self._settings.lease_margin_s)
            await store.claim(tx.connection, [task.key for task in tasks], name, until)
        return tasks, len(rows) + len(resting)

    async def _take(self, task: Task) -> None:
        step = task.step.kind.value if isinstance(task.step, Call) else "look"
        about = {"saldo.tenant": task.key[0], "saldo.step": step}
        with self._tracing.span("ask gateway", task.stored.causes, kind=SpanKind.CLIENT, attributes=about) as cause:
            answer = await self._asked(task)
        self._point("charge.answered")
        try:
            await self._settle((task, answer, cause))
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, ValueError) as error:
            # The claim keeps it back for a while, and then the gateway is looked at once more.
            tenant, payment_id = task.key
            _log.error("answer cannot be kept", tenant=tenant, payment_id=payment_id, error=type(error).__name__)
        self._point("charge.settled")

    async def _asked(self, task: Task) -> Answer:
        """Whatever goes wrong ends this step alone. Errors are named by type: their texts may hold secrets."""
        pay, (tenant, payment_id) = task.stored.pay, task.key
        assert pay.choice
        about = {"tenant": tenant, "payment_id": payment_id}
        try:
            gateway, session = await self._sessions(tenant, pay.choice.account_id)
            token = self._token(task)
        except Rejected as rejected:
            return _refused(rejected, about)
        except Exception as error:  # noqa: BLE001
            _log.error("account cannot be opened: nothing was sent", **about, error=type(error).__name__)
            return Answer(outcome=Outcome.AGAIN, wait_s=_LATER_S)
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                seen = await self._perform(gateway, session, task, token)
        except Throttled as throttled:
            if isinstance(throttled.__context__, AddressRefused):
                # Only another base URL can help, so it is not tried again as what is merely out of reach is.
                return _refused(throttled.__context__, about)
            return Answer(outcome=Outcome.AGAIN, wait_s=throttled.retry_after_s)
        except Rejected as rejected:
            return _refused(rejected, about)
        except Exception as error:  # noqa: BLE001
            # An answer that cannot be read is no answer.
            _log.warning("outcome unknown", **about, error=type(error).__name__)
            return Answer(outcome=Outcome.UNKNOWN, wait_s=gateway.traits.late_s)
        if seen and (strange := domain.strange(pay, seen)):
            _log.error("the gateway does not answer about what it was asked", **about, why=strange)
            return Answer(outcome=Outcome.UNKNOWN, wait_s=_LATER_S)
        if seen is None and pay.seen and pay.seen.reference:
            # Something else answers than what gave the reference, so it cannot tell that a call did not happen.
            _log.warning("the gateway does not know a payment that it made", **about)
            return Answer(outcome=Outcome.UNKNOWN, wait_s=_LATER_S)
        return Answer(seen)

    def _token(self, task: Task) -> str:
        tenant, payment_id = task.key
        sealed = task.stored.token_sealed
        if sealed is None or not isinstance(task.step, Call) or task.step.kind is not Kind.CHARGE:
            return ""
        return self._vault.open(sealed, tenant=tenant, owner=payment_id, field="token").decode()

    async def _perform(self, gateway: Gateway, session: Session, task: Task, token: str) -> Seen | None:
        pay, step, (_, payment_id) = task.stored.pay, task.step, task.key
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
                return await gateway.charge(session, reference, token, key)
            case Kind.CAPTURE:
                return await gateway.capture(session, reference, step.amount_minor, key)
            case Kind.VOID:
                return await gateway.void(session, reference, key)
            case Kind.REFUND:
                refund_id = domain.refund_id(payment_id, step.n)
                refund = Refund(refund_id, step.amount_minor, choice.currency)
                return await gateway.refund(session, reference, refund, key)

    async def _settle_all(self, ended: Sequence[tuple[Task, Answer, Cause]]) -> list[None]:
        async with self._transaction() as tx:
            found = await store.lock_payments(tx.connection, [task.key for task, _, _ in ended])
            for task, answer, cause in ended:
                # Where the claim ran out, whoever has it now looks for what this call did.
                if await store.release(tx.connection, task.key, task.claim):
                    again = answer.outcome in (Outcome.AGAIN, Outcome.UNKNOWN)
                    stored = replace(found[task.key], tried=cause.traceparent if again else "")
                    await self._ended(tx, task, stored, answer, cause)
            tx.after_commit(self._due.set)
        return [None] * len(ended)

    async def _ended(self, tx: Transaction, task: Task, stored: Stored, answer: Answer, cause: Cause) -> None:
        pay, looking = stored.pay, isinstance(task.step, Look)
        if looking and answer.outcome is Outcome.DONE:
            decision = domain.saw(pay, answer.seen, tx.now, looked=task.stored.pay.hinted)
        elif looking:
            # One at rest is looked at again when it is its turn.
            rests = domain.due(pay, tx.now, self._settings.look_every) is None
            later = None if rests else tx.now + timedelta(seconds=answer.wait_s or _LATER_S)
            await self._apply(tx, task.key, stored, Decision(pay), later, cause)
            return
        elif answer.outcome is Outcome.DONE:
            decision = domain.saw(pay, answer.seen, tx.now, answer=True)
        else:
            decision = Decision(domain.ended(pay, answer.outcome))
        later = tx.now + timedelta(seconds=answer.wait_s) if answer.wait_s else None
        await self._apply(tx, task.key, stored, decision, later, cause)

    async def _apply(
        self, tx: Transaction, key: Key, stored: Stored, decision: Decision, later: datetime | None, cause: Cause
    ) -> None:
        tenant, payment_id = key
        pay = decision.pay
        due_at = later or domain.due(pay, tx.now, self._settings.look_every)
        look_at = domain.look_at(pay, tx.now, *self._settings.rests)
        await store.put_payments(tx.connection, {key: (replace(stored, pay=pay, look_at=look_at), due_at)})
        if pay.call and pay.call != stored.pay.call:
            await store.end_call(tx.connection, tenant, payment_id, pay.call, tx.now)
        await store.book(tx.connection, [(tenant, one) for one in decision.booked], tx.now)
        for fact in decision.facts:
            tx.publish(fact, tenant=tenant, cause=cause)


def _refused(error: Exception, about: dict[str, str]) -> Answer:
    _log.warning("refused by the gateway", **about, why=str(error))
    return Answer(outcome=Outcome.REFUSED)

"""The SQL of payments: one function a statement, the connection first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias, final

import asyncpg
from pydantic import TypeAdapter

from services.bus import Cause, columns
from services.payments.domain import Call, Pay, Status, concern, key
from services.payments.gateways.gateway import Hint
from services.payments.ledger import Movement, balances
from services.payments.takeover import Taken

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Key: TypeAlias = tuple[str, str]
"""Tenant and payment id."""
_pay = TypeAdapter(Pay)
_TAKEN: Final = tuple(one.name for one in fields(Taken))
_TOKEN_WANTED: Final = ("asked", Status.OPEN)


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """A payment with what its row has beside it: the sealed token, why the payment last changed, the span of the step
    before where that one has to be taken again, and when it is looked at where nothing else is due."""

    pay: Pay
    token_sealed: bytes | None
    cause: Cause
    claim: str | None = None
    tried: str = ""
    look_at: datetime | None = None

    @property
    def causes(self) -> list[Cause]:
        """What the next step follows from."""
        return [self.cause, *([self.cause._replace(traceparent=self.tried)] if self.tried else ())]


def _stored(row: asyncpg.Record) -> Stored:
    cause = Cause(row["cause_event"], row["cause_flow"], row["cause_trace"])
    pay = _pay.validate_json(row["body"], extra="ignore")
    return Stored(pay, row["token_sealed"], cause, row["claim"], row["tried"], row["look_at"])


def _status(pay: Pay) -> str:
    return "closed" if pay.closed else pay.seen.status if pay.seen else "asked"


async def lock_payments(connection: Connection, keys: Iterable[Key]) -> dict[Key, Stored]:
    """Lock those of `keys` that exist, in one sorted statement."""
    wanted = sorted(keys)
    rows = await connection.fetch(
        """
        SELECT p.* FROM payments p JOIN unnest($1::text[], $2::text[]) AS wanted (tenant, payment_id)
            USING (tenant, payment_id)
        ORDER BY p.tenant, p.payment_id FOR UPDATE OF p
        """,
        [tenant for tenant, _ in wanted],
        [payment_id for _, payment_id in wanted],
    )
    return {(row["tenant"], row["payment_id"]): _stored(row) for row in rows}


async def live_accounts(connection: Connection, tenants: Iterable[str]) -> dict[Key, str]:
    """(tenant, gateway) → the account that new payments go through."""
    rows = await connection.fetch(
        "SELECT tenant, gateway, account_id FROM gateway_accounts WHERE state = 'live' AND tenant = ANY($1::text[])",
        sorted(set(tenants)),
    )
    return {(row["tenant"], row["gateway"]): row["account_id"] for row in rows}


async def put_payments(connection: Connection, payments: Mapping[Key, tuple[Stored, datetime | None]]) -> None:
    """Write payments and when each is due. A claim stays: whoever has it goes on, and finds what is written here."""
    rows = []
    for (tenant, payment_id), (stored, due_at) in sorted(payments.items(), key=lambda item: item[0]):
        pay, status = stored.pay, _status(stored.pay)
        token = stored.token_sealed if status in _TOKEN_WANTED else None
        rows.append(
            (
                tenant, payment_id, pay.order_id, pay.choice.account_id if pay.choice else "",
                pay.seen.reference if pay.seen else "", status, pay.sums.captured_minor, pay.sums.given_back_minor,
                _pay.dump_json(pay).decode(), token, due_at, *stored.cause, concern(pay), stored.tried,
                stored.look_at,
            )
        )  # fmt: skip
    await connection.executemany(
        """
        INSERT INTO payments (tenant, payment_id, order_id, account_id, reference, status, captured_minor,
            refunded_minor, body, token_sealed, due_at, cause_event, cause_flow, cause_trace, concern, tried,
            look_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
        ON CONFLICT (tenant, payment_id) DO UPDATE SET account_id = excluded.account_id,
            reference = excluded.reference, status = excluded.status, captured_minor = excluded.captured_minor,
            refunded_minor = excluded.refunded_minor, body = excluded.body, token_sealed = excluded.token_sealed,
            due_at = excluded.due_at, cause_event = excluded.cause_event, cause_flow = excluded.cause_flow,
            cause_trace = excluded.cause_trace, concern = excluded.concern, tried = excluded.tried,
            look_at = excluded.look_at
        """,
        rows,
    )


async def lock_due(connection: Connection, now: datetime, limit: int) -> dict[Key, Stored]:
    """Lock payments that something is to be done about and that nobody has claimed."""
    rows = await connection.fetch(
        """
        SELECT * FROM payments WHERE due_at <= $1 AND (claimed_until IS NULL OR claimed_until <= $1)
        ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
        """,
        now,
        limit,
    )
    return {(row["tenant"], row["payment_id"]): _stored(row) for row in rows}


async def lock_resting(connection: Connection, now: datetime, limit: int) -> dict[Key, Stored]:
    """Lock payments that nothing is to be done about, and that are looked at all the same."""
    rows = await connection.fetch(
        """
        SELECT * FROM payments
        WHERE look_at <= $1 AND due_at IS NULL AND (claimed_until IS NULL OR claimed_until <= $1)
        ORDER BY look_at LIMIT $2 FOR UPDATE SKIP LOCKED
        """,
        now,
        limit,
    )
    return {(row["tenant"], row["payment_id"]): _stored(row) for row in rows}


async def claim(connection: Connection, keys: Sequence[Key], name: str, until: datetime) -> None:
    """Claim payments under a name, for a call of the gateway that takes no longer than `until`."""
    await connection.executemany(
        "UPDATE payments SET claim = $3, claimed_until = $4 WHERE tenant = $1 AND payment_id = $2",
        [(*one, name, until) for one in keys],
    )


async def release(connection: Connection, key: Key, name: str) -> bool:
    """Give a claim back; False where it has run out and somebody else has it."""
    released = await connection.fetchval(
        """
        UPDATE payments SET claim = NULL, claimed_until = NULL WHERE tenant = $1 AND payment_id = $2 AND claim = $3
        RETURNING true
        """,
        *key,
        name,
    )
    return bool(released)


async def begin_call(connection: Connection, tenant: str, payment_id: str, call: Call, now: datetime) -> None:
    """Keep that a call is about to be made; one that is made again keeps its row."""
    await connection.execute(
        """
        INSERT INTO payment_calls (tenant, payment_id, kind, n, key, amount_minor, outcome, begun_at)
        VALUES ($1, $2, $3, $4, $5, $6, 'going', $7)
        ON CONFLICT (tenant, payment_id, kind, n) DO UPDATE SET outcome = 'going', ended_at = NULL,
            tries = payment_calls.tries + 1
        """,
        tenant, payment_id, call.kind, call.n, key(payment_id, call), call.amount_minor, now,
    )  # fmt: skip


async def end_call(connection: Connection, tenant: str, payment_id: str, call: Call, now: datetime) -> None:
    """Keep what became of a call."""
    await connection.execute(
        """
        UPDATE payment_calls SET outcome = $5, ended_at = $6
        WHERE tenant = $1 AND payment_id = $2 AND kind = $3 AND n = $4
        """,
        tenant, payment_id, call.kind, call.n, call.outcome, now,
    )  # fmt: skip


async def book(connection: Connection, booked: Sequence[tuple[str, Movement]], now: datetime) -> None:
    """Write movements, each with its company, and the balances after them.

    Raises `UniqueViolationError` for what is booked already.
    """
    if not booked:
        return
    rows = [
        (tenant, one.cause, one.from_account, one.to_account, one.currency, one.amount_minor) for tenant, one in booked
    ]
    await connection.execute(
        """
        INSERT INTO money_movements (tenant, cause, from_account, to_account, currency, amount_minor, at)
        SELECT *, $7 FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[],
            $5::text::text[], $6::text::bigint[])
        """,
        *columns(rows, 6), now,
    )  # fmt: skip
    by_tenant: dict[str, list[Movement]] = {}
    for tenant, one in booked:
        by_tenant.setdefault(tenant, []).append(one)
    sums = [
        (tenant, *place, amount_minor)
        for tenant, found in by_tenant.items()
        for place, amount_minor in balances(found).items()
    ]
    # Sorted, so that two transactions that touch the same accounts wait for each other instead of for ever.
    await connection.execute(
        """
        INSERT INTO money_balances (tenant, account, currency, amount_minor)
        SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::bigint[])
        ON CONFLICT (tenant, account, currency)
        DO UPDATE SET amount_minor = money_balances.amount_minor + excluded.amount_minor
        """,
        *columns(sorted(sums), 4),
    )


async def lock_taken(connection: Connection, keys: Iterable[Key]) -> dict[Key, Taken]:
    """Lock what is known of orders, by tenant and order id, whose marketplaces take the money."""
    rows = await connection.fetch(
        """
        SELECT t.* FROM taken_over t JOIN unnest($1::text::text[], $2::text::text[]) AS wanted (tenant, order_id)
            USING (tenant, order_id)
        ORDER BY t.tenant, t.order_id FOR UPDATE OF t
        """,
        *columns(sorted(keys), 2),
    )
    return {(row["tenant"], row["order_id"]): Taken(*(row[name] for name in _TAKEN)) for row in rows}


async def put_taken(connection: Connection, taken: Mapping[Key, Taken]) -> None:
    """Write what is known of orders whose marketplaces take the money."""
    rows = [
        (*key, *(getattr(one, name) for name in _TAKEN)) for key, one in sorted(taken.items(), key=lambda one: one[0])
    ]
    await connection.execute(
        """
        INSERT INTO taken_over (tenant, order_id, connection_id, order_version, currency, paid, due_minor,
            captured_minor, refunded_minor, version)
        SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::bigint[],
            $5::text::text[], $6::text::boolean[], $7::text::bigint[], $8::text::bigint[], $9::text::bigint[],
            $10::text::bigint[])
        ON CONFLICT (tenant, order_id) DO UPDATE SET order_version = excluded.order_version,
            currency = excluded.currency, paid = excluded.paid, due_minor = excluded.due_minor,
            captured_minor = excluded.captured_minor, refunded_minor = excluded.refunded_minor,
            version = excluded.version
        """,
        *columns(rows, 10),
    )


async def named(connection: Pool, account_id: str, hint: Hint) -> list[Cause]:
    """Why the payments that a webhook names last changed."""
    rows = await connection.fetch(
        "SELECT cause_event, cause_flow, cause_trace FROM payments "
        "WHERE account_id = $1 AND reference = ANY($2::text[]) AND reference <> '' ORDER BY tenant, payment_id",
        account_id, list(hint.references),
    )  # fmt: skip
    return [Cause(*row) for row in rows]


async def keep_hint(
    connection: Connection, tenant: str, account_id: str, hint: Hint, now: datetime
) -> dict[Key, Stored] | None:
    """Keep a webhook and lock the payments that it names; None where it has come before."""
    rows = await connection.fetch(
        "SELECT * FROM payments WHERE account_id = $1 AND reference = ANY($2::text[]) AND reference <> '' "
        "ORDER BY tenant, payment_id FOR UPDATE",
        account_id,
        list(hint.references),
    )
    found = {row["reference"] for row in rows}
    kept = await connection.fetchval(
        """
        INSERT INTO hints (account_id, delivery_id, tenant, received_at, strangers) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (account_id, delivery_id) DO NOTHING RETURNING true
        """,
        account_id, hint.delivery_id, tenant, now, [one for one in hint.references if one not in found],
    )  # fmt: skip
    return {(row["tenant"], row["payment_id"]): _stored(row) for row in rows} if kept else None


async def forget_hints(connection: Connection, before: datetime) -> None:
    """Delete what was kept of webhooks that came before a moment."""
    await connection.execute("DELETE FROM hints WHERE received_at < $1", before)


async def forget_calls(connection: Connection, before: datetime, limit: int) -> int:
    """Delete calls that ended before a moment, of payments of which nothing is due; returns how many.

    What they moved stays in the books.
    """
    status = await connection.execute(
        """
        DELETE FROM payment_calls WHERE (tenant, payment_id, kind, n) IN (
            SELECT tenant, payment_id, kind, n FROM payment_calls JOIN payments USING (tenant, payment_id)
            WHERE ended_at < $1 AND outcome IN ('done', 'refused') AND due_at IS NULL
            ORDER BY ended_at LIMIT $2)
        """,
        before,
        limit,
    )
    return int(status.rpartition(" ")[2])


async def all_accounts(connection: Pool) -> list[Key]:
    """Tenant and id of every account: what went through one that is paused now is paid out, too."""
    rows = await connection.fetch("SELECT tenant, account_id FROM gateway_accounts ORDER BY tenant, account_id")
    return [(row["tenant"], row["account_id"]) for row in rows]


async def known_payouts(connection: Pool, account_id: str, payout_ids: Sequence[str]) -> set[str]:
    """Those of an account's payouts that were read."""
    rows = await connection.fetch(
        "SELECT payout_id FROM payouts WHERE account_id = $1 AND payout_id = ANY($2::text[])",
        account_id, list(payout_ids),
    )  # fmt: skip
    return {row["payout_id"] for row in rows}


async def keep_payout(connection: Connection, account_id: str, payout_id: str, now: datetime) -> bool:
    """Keep that a payout is read; False where it was before."""
    kept = await connection.fetchval(
        "INSERT INTO payouts VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING true", account_id, payout_id, now
    )
    return bool(kept)


async def referenced(connection: Connection, account_id: str, references: Sequence[str]) -> dict[str, Stored]:
    """Payments of an account by their references at the gateway."""
    rows = await connection.fetch(
        "SELECT * FROM payments WHERE account_id = $1 AND reference = ANY($2::text[]) AND reference <> ''",
        account_id, list(references),
    )  # fmt: skip
    return {row["reference"]: _stored(row) for row in rows}


async def list_payments(
    connection: Pool, tenant: str, order_id: str | None, status: str | None, concerning: bool, after: str, limit: int
) -> list[dict[str, Any]]:
    """Payments of a company by id; `concerning`: those alone that a person has to see to."""
    rows = await connection.fetch(
        """
        SELECT payment_id, order_id, account_id, reference, status, captured_minor, refunded_minor, concern, due_at
        FROM payments
        WHERE tenant = $1 AND ($2::text IS NULL OR order_id = $2) AND ($3::text IS NULL OR status = $3)
            AND (NOT $4 OR concern IS NOT NULL) AND payment_id > $5
        ORDER BY payment_id LIMIT $6
        """,
        tenant, order_id, status, concerning, after, limit,
    )  # fmt: skip
    return [dict(row) for row in rows]


def lease(now: datetime, timeout_s: float, margin_s: float) -> datetime:
    """Until when a claim holds whose call takes `timeout_s` at most: with time to spare for what comes around it."""
    return now + timedelta(seconds=timeout_s + margin_s)

"""Rows of what channels are told. The connection comes first."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from contracts.channels.v1 import OrderProgress
from services.bus import Cause, array, columns
from services.channels.alerts import Database
from services.channels.report.domain import State, told_as


@dataclass(frozen=True, slots=True)
class Known:
    """The order that a progress is about: whose it is, and of which channel."""

    tenant: str
    connection_id: str
    connector: str


async def known_orders(connection: Database, order_ids: Sequence[str]) -> dict[str, Known]:
    """Orders by id; those never taken in here are left out."""
    rows = await connection.fetch(
        """
        SELECT order_id, o.tenant, connection_id, connector FROM intake_orders o JOIN connections USING (connection_id)
        WHERE order_id = ANY($1::text::text[])
        """,
        array(order_ids),
    )
    return {row["order_id"]: Known(*list(row.values())[1:]) for row in rows}


async def put(connection: Database, new: Sequence[tuple[Known, OrderProgress, Cause]], now: datetime) -> None:
    """Keep what is newest and make it due; what was refused of an older revision is tried again, but for a second
    invoice, which a person sees to."""
    await connection.execute(
        """
        WITH kept AS (
            INSERT INTO progress (order_id, tenant, connection_id, revision, wanted, due_at, tell_by, event_id,
                correlation_id, traceparent)
            SELECT n.order_id, n.tenant, n.connection_id, n.revision, n.wanted::jsonb, $10, n.tell_by, n.event_id,
                n.correlation_id, n.traceparent
            FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::int[], $5::text::text[],
                    $6::text::timestamptz[], $7::text::text[], $8::text::text[], $9::text::text[])
                AS n (order_id, tenant, connection_id, revision, wanted, tell_by, event_id, correlation_id, traceparent)
            ORDER BY n.order_id
            ON CONFLICT (order_id) DO UPDATE SET revision = excluded.revision, wanted = excluded.wanted,
                due_at = excluded.due_at, tries = 0, tell_by = excluded.tell_by, event_id = excluded.event_id,
                correlation_id = excluded.correlation_id, traceparent = excluded.traceparent
            WHERE progress.revision < excluded.revision
            RETURNING order_id
        )
        DELETE FROM progress_steps USING kept WHERE progress_steps.order_id = kept.order_id AND state = 'refused'
            AND step NOT LIKE 'invoice:%'
        """,
        array([progress.order_id for _, progress, _ in new]),
        array([known.tenant for known, _, _ in new]),
        array([known.connection_id for known, _, _ in new]),
        array([progress.revision for _, progress, _ in new]),
        array([progress.model_dump_json() for _, progress, _ in new]),
        array([progress.tell_by for _, progress, _ in new]),
        array([cause.event_id for _, _, cause in new]),
        array([cause.correlation_id for _, _, cause in new]),
        array([cause.traceparent for _, _, cause in new]),
        now,
    )


@dataclass(slots=True)
class Claim:
    """An order whose channel is told by this process alone until `until`, also its fence.

    `wanted` is as orders said it, `words` are the channel's own by (kind, our code), `tried` is the span of the last
    try, if that one failed. `told_before`: what the channel was told of the order once is forgotten here.
    """

    order_id: str
    connection_id: str
    tenant: str
    external_id: str
    reference: str
    wanted: OrderProgress
    words: Mapping[tuple[str, str], str]
    tries: int
    cause: Cause
    until: datetime
    lease: timedelta
    tried: str = ""
    told_before: bool = False


async def claim(connection: Database, connections: Mapping[str, int], lease: timedelta, now: datetime) -> list[Claim]:
    """Claim orders that are due, the longest due first, at most so many of each connection."""
    rows = await connection.fetch(
        """
        WITH due AS (
            SELECT p.order_id FROM unnest($1::text::text[], $2::text::int[]) AS c (connection_id, most)
                CROSS JOIN LATERAL (
                    SELECT order_id FROM progress WHERE connection_id = c.connection_id AND due_at <= $4
                        AND (claimed_until IS NULL OR claimed_until < $4)
                    ORDER BY due_at LIMIT c.most FOR UPDATE SKIP LOCKED) AS p
        )
        UPDATE progress SET claimed_until = $3 FROM due JOIN intake_orders o USING (order_id)
        WHERE progress.order_id = due.order_id
        RETURNING progress.order_id, progress.connection_id, progress.tenant, o.external_id,
            coalesce(o.snapshot->>'reference', '') AS reference, progress.wanted, progress.tries, progress.event_id,
            progress.correlation_id, progress.traceparent, progress.tried, o.told_before
        """,
        array(list(connections)),
        array(list(connections.values())),
        now + lease,
        now,
    )
    words = await mappings_of(connection, {row["connection_id"] for row in rows}) if rows else {}
    return [
        Claim(
            row["order_id"],
            row["connection_id"],
            row["tenant"],
            row["external_id"],
            row["reference"],
            OrderProgress.model_validate_json(row["wanted"]),
            words.get(row["connection_id"], {}),
            row["tries"],
            Cause(row["event_id"], row["correlation_id"], row["traceparent"]),
            now + lease,
            lease,
            row["tried"],
            row["told_before"],
        )
        for row in rows
    ]


async def held(connection: Database, claims: Sequence[Claim]) -> set[str]:
    """Lock the orders of these claims that no other process has taken over; which they are."""
    rows = await connection.fetch(
        """
        SELECT order_id FROM progress JOIN unnest($1::text::text[], $2::text::timestamptz[]) AS c (order_id, until)
            USING (order_id)
        WHERE claimed_until = c.until ORDER BY order_id FOR UPDATE OF progress
        """,
        *columns([(one.order_id, one.until) for one in claims], 2),
    )
    return {row["order_id"] for row in rows}


async def renew(connection: Database, claims: Sequence[tuple[str, datetime]]) -> None:
    """Hold the claims of these orders, which are locked, until then."""
    await connection.execute(
        """
        UPDATE progress SET claimed_until = c.until
        FROM unnest($1::text::text[], $2::text::timestamptz[]) AS c (order_id, until)
        WHERE progress.order_id = c.order_id
        """,
        *columns(claims, 2),
    )


async def release(connection: Database, given: Sequence[tuple[Claim, datetime | None, int]], now: datetime) -> bool:
    """Give orders back, each due later, with the span of what was tried, or not at all, after so many tries; whether
    one of them is due already, since news came meanwhile."""
    rows = await connection.fetch(
        """
        WITH held AS (
            SELECT progress.order_id, c.revision, c.due_at, c.tries, c.tried FROM progress
            JOIN unnest($1::text::text[], $2::text::timestamptz[], $3::text::int[], $4::text::timestamptz[],
                $5::text::int[], $6::text::text[]) AS c (order_id, until, revision, due_at, tries, tried)
                USING (order_id)
            WHERE claimed_until = c.until ORDER BY progress.order_id FOR UPDATE OF progress
        )
        UPDATE progress SET claimed_until = NULL, tried = held.tried, told_at = $7,
            tries = CASE WHEN progress.revision = held.revision THEN held.tries ELSE progress.tries END,
            due_at = CASE WHEN progress.revision = held.revision THEN held.due_at ELSE progress.due_at END
        FROM held WHERE progress.order_id = held.order_id
        RETURNING progress.due_at
        """,
        *columns(
            [
                (one.order_id, one.until, one.wanted.revision, due_at, tries, one.tried if due_at else "")
                for one, due_at, tries in given
            ],
            6,
        ),
        now,
    )
    return any(row["due_at"] and row["due_at"] <= now for row in rows)


async def steps_of(connection: Database, order_ids: Sequence[str]) -> dict[str, dict[str, State]]:
    """How far each step that was begun got, by order; of each that was asked for, if only none. The first invoice that
    was told is there by its own name as well."""
    rows = await connection.fetch(
        "SELECT order_id, step, state, invoice_id FROM progress_steps WHERE order_id = ANY($1::text::text[])",
        array(order_ids),
    )
    found: dict[str, dict[str, State]] = {order_id: {} for order_id in order_ids}
    for row in rows:
        found[row["order_id"]][row["step"]] = State(row["state"])
        if row["invoice_id"]:
            found[row["order_id"]][told_as(row["invoice_id"])] = State(row["state"])
    return found


@dataclass(frozen=True, slots=True)
class Noted:
    """How far a step got: with the channel's name of the request, or why it refused. `invoice_id` is the invoice that
    was told first."""

    order_id: str
    step: str
    state: State
    request_id: str = ""
    reason: str = ""
    invoice_id: str = ""


async def put_steps(connection: Database, steps: Sequence[Noted], now: datetime) -> None:
    """Note how far steps got; what is accepted stays so."""
    await connection.execute(
        """
        INSERT INTO progress_steps (order_id, step, state, request_id, reason, invoice_id, at)
        SELECT *, $7 FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[],
            $5::text::text[], $6::text::text[]) AS noted (order_id, step, state, request_id, reason, invoice_id)
            ORDER BY order_id, step
        ON CONFLICT (order_id, step) DO UPDATE SET state = excluded.state, request_id = excluded.request_id,
            reason = excluded.reason, at = excluded.at
        WHERE progress_steps.state <> 'accepted'
        """,
        *columns(
            [(one.order_id, one.step, one.state.value, one.request_id, one.reason, one.invoice_id) for one in steps], 6
        ),
        now,
    )


async def drop_steps(connection: Database, steps: Sequence[tuple[str, str]]) -> None:
    """The calls of these steps (order, step) never reached the channel."""
    await connection.execute(
        """
        DELETE FROM progress_steps USING unnest($1::text::text[], $2::text::text[]) AS dropped (order_id, step)
        WHERE progress_steps.order_id = dropped.order_id AND progress_steps.step = dropped.step AND state = 'going'
        """,
        *columns(steps, 2),
    )


async def retry(connection: Database, tenant: str | None, order_id: str, now: datetime) -> bool:
    """Have what was refused tried again; False where nothing is to be told of this order."""
    status = await connection.execute(
        "UPDATE progress SET due_at = $3, tries = 0 WHERE order_id = $1 AND ($2::text IS NULL OR tenant = $2)",
        order_id,
        tenant,
        now,
    )
    await connection.execute("DELETE FROM progress_steps WHERE order_id = $1 AND state = 'refused'", order_id)
    return status.endswith(" 1")


LATE: Final = """
    SELECT tenant, connection_id, order_id, tell_by FROM progress WHERE tell_by < $1 AND due_at IS NOT NULL
    UNION
    SELECT p.* FROM progress_steps s CROSS JOIN LATERAL (
        SELECT tenant, connection_id, order_id, tell_by FROM progress
        WHERE order_id = s.order_id AND tell_by < $1 LIMIT 1) AS p
    WHERE state = 'refused'
    ORDER BY tell_by LIMIT 1000
"""


async def late(connection: Database, before: datetime) -> list[tuple[str, str, str, datetime]]:
    """(tenant, connection, order, deadline) of what is not told and should be before this moment."""
    rows = await connection.fetch(LATE, before)
    return [tuple(row) for row in rows]


async def shown(connection: Database, tenant: str | None, order_id: str) -> dict[str, Any] | None:
    """What a channel is told of an order and how far that got, for a person."""
    row = await connection.fetchrow(
        """
        SELECT p.order_id, p.connection_id, p.revision, p.due_at, p.tries, p.tell_by,
            coalesce((SELECT jsonb_agg(jsonb_build_object('step', s.step, 'state', s.state, 'request_id', s.request_id,
                'reason', s.reason, 'at', s.at) ORDER BY s.at, s.step) FROM progress_steps s
                WHERE s.order_id = p.order_id), '[]') AS steps
        FROM progress p WHERE p.order_id = $1 AND ($2::text IS NULL OR p.tenant = $2)
        """,
        order_id,
        tenant,
    )
    return {**row, "steps": json.loads(row["steps"])} if row else None


async def forget(connection: Database, before: datetime, limit: int) -> int:
    """Delete what channels were told of orders of which nothing has been due since; returns of how many orders.

    The order itself keeps that its channel was told, so that it is looked at before it is ever told more.
    """
    status = await connection.execute(
        """
        WITH old AS (
            SELECT order_id FROM progress WHERE due_at IS NULL AND told_at < $1 AND claimed_until IS NULL
            ORDER BY told_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ), marked AS (
            UPDATE intake_orders SET told_before = true FROM old WHERE intake_orders.order_id = old.order_id
        )
        DELETE FROM progress USING old WHERE progress.order_id = old.order_id
        """,
        before,
        limit,
    )
    return int(status.rpartition(" ")[2])


async def put_mapping(connection: Database, connection_id: str, kind: str, ours: str, theirs: str) -> None:
    """Our code of a carrier or service is this word at the channel."""
    await connection.execute(
        """
        INSERT INTO mappings_out VALUES ($1, $2, $3, $4)
        ON CONFLICT (connection_id, kind, ours) DO UPDATE SET theirs = excluded.theirs
        """,
        connection_id,
        kind,
        ours,
        theirs,
    )


async def mappings_of(connection: Database, connection_ids: Collection[str]) -> dict[str, dict[tuple[str, str], str]]:
    """The channels' own words by (kind, our code), by connection."""
    rows = await connection.fetch(
        "SELECT connection_id, kind, ours, theirs FROM mappings_out WHERE connection_id = ANY($1::text::text[])",
        array(list(connection_ids)),
    )
    found: dict[str, dict[tuple[str, str], str]] = {}
    for row in rows:
        found.setdefault(row["connection_id"], {})[row["kind"], row["ours"]] = row["theirs"]
    return found

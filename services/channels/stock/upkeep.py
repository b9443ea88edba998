"""The brake on mass changes, what is to be looked at again, and what is forgotten. The connection comes first."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from services.bus import array
from services.channels.alerts import Database
from services.channels.stock.claims import Claimed, reclaim
from services.channels.stock.facts import OWN_SALES_KEPT

_CROWDED: Final = 20
"""So many changes of one record are left alone: the next push takes them all."""
_RECORDS_MAX: Final = 1_000
_ROWS_MAX: Final = 20_000
"""How much one transaction forgets, so that none outlasts the time of a statement or keeps others waiting."""

# The brake.


async def brake_of(connection: Database, tenant: str, connection_id: str) -> bool:
    """Whether a mass change of this connection waits for a person."""
    found = await connection.fetchval(
        "SELECT 1 FROM stock_brakes WHERE tenant = $1 AND connection_id = $2", tenant, connection_id
    )
    return found is not None


async def changed_lately(
    connection: Database, tenant: str, connection_id: str, since: datetime
) -> tuple[int, int, int]:
    """Records changed by something else than sales since a moment, those of them at zero, and all records."""
    row = await connection.fetchrow(
        """
        SELECT count(*) FILTER (WHERE other_change_at > $3) AS changed,
            count(*) FILTER (WHERE other_change_at > $3 AND wanted = 0) AS zeroed, count(*) AS records
        FROM stock_records WHERE tenant = $1 AND connection_id = $2
        """,
        tenant,
        connection_id,
        since,
    )
    assert row is not None
    return row["changed"], row["zeroed"], row["records"]


async def set_brake(
    connection: Database, tenant: str, connection_id: str, changed: int, zeroed: int, records: int, now: datetime
) -> None:
    """Stop the mass changes of a connection."""
    await connection.execute(
        "INSERT INTO stock_brakes VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        tenant,
        connection_id,
        now,
        changed,
        zeroed,
        records,
    )


async def release_brake(connection: Database, tenant: str, connection_id: str) -> bool:
    """A person has looked: let the changes pass, those no sender has looked at included. False where there was no
    brake. Locks the records, sorted, first.
    """
    # What was approved is what is wanted now: forgetting the old approval lets this change through, once.
    await connection.execute(
        """
        WITH braked AS MATERIALIZED (
            SELECT r.tenant, r.stock_record FROM stock_records r
            WHERE r.tenant = $1 AND r.connection_id = $2 AND (r.other_change OR EXISTS (SELECT FROM stock_changes c
                WHERE c.tenant = r.tenant AND c.stock_record = r.stock_record AND c.other))
            ORDER BY r.tenant, r.stock_record FOR UPDATE OF r
        ), released AS (
            UPDATE stock_records r SET approved = NULL, next_at = '-infinity' FROM braked
            WHERE r.tenant = braked.tenant AND r.stock_record = braked.stock_record
            RETURNING r.tenant, r.stock_record, r.connection_id
        )
        INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, changed_at)
        SELECT tenant, stock_record, connection_id, 1, true, now() FROM released
        """,
        tenant,
        connection_id,
    )
    status = await connection.execute(
        "DELETE FROM stock_brakes WHERE tenant = $1 AND connection_id = $2", tenant, connection_id
    )
    return status.endswith(" 1")


# Reconciliation. Records are locked as they are chosen: a sender that claims, writes and settles one in between would
# leave a number behind that was seen after the poll, or a request under way, for which they were not chosen.


_SUSPECT: Final = "r.suspect AND r.suspect_until <= $now AND (r.claimed_until IS NULL OR r.claimed_until < $now)"
_UNSEEN: Final = """r.known IS NOT NULL AND NOT r.suspect
    AND NOT EXISTS (SELECT FROM stock_changes c WHERE c.tenant = r.tenant AND c.stock_record = r.stock_record)
    AND coalesce(r.observed_at, '-infinity') < $before AND coalesce(r.accepted_at, '-infinity') < $before
    AND (r.claimed_until IS NULL OR r.claimed_until < $now)"""
_UNHEARD: Final = """r.known IS NOT NULL AND NOT r.suspect AND r.seen_at < $before
    AND NOT EXISTS (SELECT FROM stock_changes c WHERE c.tenant = r.tenant AND c.stock_record = r.stock_record)
    AND (r.claimed_until IS NULL OR r.claimed_until < $now)
    AND EXISTS (SELECT FROM record_skus s WHERE s.tenant = r.tenant AND s.stock_record = r.stock_record
        AND (least(s.unheard, s.unheard_until - s.decided) > 0 OR s.heard - s.decided + s.slack > 0))"""
"""Which records, r, are to be read back, read again, or healed. `_of` gives the names in them a place."""


def _of(condition: str, *, before: str, now: str) -> str:
    return condition.replace("$before", before).replace("$now", now)


async def in_need(
    connection: Database, connections: Sequence[tuple[str, str]], before: datetime, now: datetime
) -> set[str]:
    """Which of these (tenant, connection) have a record to be read back, healed, or read again since `before`."""
    found = await connection.fetch(
        f"""
        SELECT k.connection_id FROM unnest($1::text::text[], $2::text::text[]) AS k (tenant, connection_id)
            LEFT JOIN polls p USING (connection_id)
        WHERE EXISTS (SELECT FROM stock_records r WHERE r.tenant = k.tenant AND r.connection_id = k.connection_id
            AND ({_of(_SUSPECT, before="$3", now="$4")}
                OR {_of(_UNHEARD, before="p.begun_at", now="$4")}
                OR {_of(_UNSEEN, before="$3", now="$4")}) OFFSET 0)
        """,  # noqa: S608 - nothing but our own text goes in
        array([tenant for tenant, _ in connections]),
        array([connection_id for _, connection_id in connections]),
        before,
        now,
    )
    return {row["connection_id"] for row in found}


async def claim_suspects(
    connection: Database, tenant: str, connection_id: str, limit: int, lease_s: float, now: datetime
) -> list[Claimed]:
    """Suspect records whose request cannot be executed any more, to be read back."""
    keys = await connection.fetch(
        f"""
        SELECT r.stock_record FROM stock_records r
        WHERE r.tenant = $1 AND r.connection_id = $2 AND {_of(_SUSPECT, before="", now="$3")}
        ORDER BY r.suspect_until LIMIT $4 FOR UPDATE SKIP LOCKED
        """,  # noqa: S608 - nothing but our own text goes in
        tenant,
        connection_id,
        now,
        limit,
    )
    return await reclaim(connection, tenant, [row["stock_record"] for row in keys], lease_s, now) if keys else []


async def claim_for_reading(
    connection: Database, tenant: str, connection_id: str, limit: int, lease_s: float, before: datetime, now: datetime
) -> list[Claimed]:
    """Settled records not looked at since `before`, riskiest first: little stock, then long unseen."""
    keys = await connection.fetch(
        f"""
        SELECT r.stock_record FROM stock_records r
        WHERE r.tenant = $1 AND r.connection_id = $2 AND {_of(_UNSEEN, before="$3", now="$4")}
        ORDER BY r.observed_at IS NOT NULL, r.accepted <= 5 DESC, r.observed_at LIMIT $5 FOR UPDATE SKIP LOCKED
        """,  # noqa: S608 - nothing but our own text goes in
        tenant,
        connection_id,
        before,
        now,
        limit,
    )
    return await reclaim(connection, tenant, [row["stock_record"] for row in keys], lease_s, now) if keys else []


async def complete_poll(connection: Database, connection_id: str) -> datetime | None:
    """When the newest complete poll of the orders began, once every body it brought has been absorbed."""
    begun_at: datetime | None = await connection.fetchval(
        """
        SELECT p.begun_at FROM polls p WHERE p.connection_id = $1 AND p.begun_at IS NOT NULL
            AND NOT EXISTS (SELECT FROM intake i WHERE i.connection_id = p.connection_id
                AND i.intake_id <= p.through_intake_id AND i.state IN ('new', 'poisoned'))
            -- What only points to an order is heard when it is fetched. One that a person has been told cannot be
            -- read must not keep all others from healing.
            AND NOT EXISTS (SELECT FROM intake_orders o WHERE o.connection_id = p.connection_id
                AND o.fetched_seq < o.notified_seq AND NOT EXISTS (SELECT FROM alerts a
                    WHERE a.connection_id = o.connection_id AND a.kind = 'order_unreadable' AND a.subject = o.order_id
                        AND a.resolved_at IS NULL))
        """,
        connection_id,
    )
    return begun_at


async def claim_to_heal(
    connection: Database, tenant: str, connection_id: str, begun_at: datetime, limit: int, lease_s: float, now: datetime
) -> list[tuple[Claimed, datetime]]:
    """Records that are held to have unheard sales, and when they were seen: before a complete poll began."""
    rows = await connection.fetch(
        f"""
        SELECT r.stock_record, r.seen_at FROM stock_records r
        WHERE r.tenant = $1 AND r.connection_id = $2 AND {_of(_UNHEARD, before="$3", now="$4")}
        ORDER BY r.stock_record LIMIT $5 FOR UPDATE OF r SKIP LOCKED
        """,  # noqa: S608 - nothing but our own text goes in
        tenant,
        connection_id,
        begun_at,
        now,
        limit,
    )
    if not rows:
        return []
    known = {row["stock_record"]: row for row in rows}
    claimed = await reclaim(connection, tenant, list(known), lease_s, now)
    return [(each, known[each.stock_record]["seen_at"]) for each in claimed]


async def compact_changes(connection: Database, now: datetime) -> int:
    """Forget changes that an older one of the same record says as well; returns how many rows went.

    Those of a connection that nobody sends to grow with every sale. Of a record that a sender is busy with nothing is
    forgotten: a change that it has not read may be older than one that it has, and is going to delete.
    """
    crowded = await connection.fetch(
        """
        WITH crowded AS MATERIALIZED (
            SELECT tenant, stock_record FROM stock_changes GROUP BY tenant, stock_record
            HAVING count(*) > $1 ORDER BY count(*) DESC LIMIT $2
        )
        SELECT r.tenant, r.stock_record FROM crowded JOIN stock_records r USING (tenant, stock_record)
        WHERE r.claimed_until IS NULL OR r.claimed_until < $3
        ORDER BY r.tenant, r.stock_record FOR UPDATE OF r SKIP LOCKED
        """,
        _CROWDED,
        _RECORDS_MAX,
        now,
    )
    rows = 0
    for record in crowded:
        # A lease that has run out is worth nothing from now on, should its holder wake up once more.
        await connection.execute(
            "UPDATE stock_records SET claimed_until = NULL"
            " WHERE tenant = $1 AND stock_record = $2 AND claimed_until IS NOT NULL",
            *record,
        )
        status = await connection.execute(
            """
            DELETE FROM stock_changes WHERE tenant = $1 AND stock_record = $2 AND change = ANY (ARRAY(
                SELECT change FROM stock_changes WHERE tenant = $1 AND stock_record = $2 AND change NOT IN (
                    SELECT min(change) FROM stock_changes WHERE tenant = $1 AND stock_record = $2 GROUP BY lane, other)
                LIMIT $3))
            """,
            *record,
            _ROWS_MAX,
        )
        rows += int(status.rpartition(" ")[2])
    return rows


async def prune(connection: Database, before: datetime, now: datetime) -> int:
    """Forget some measures from before a moment, and decided own sales; returns how many rows went, 0 at the end."""
    settled = await connection.execute(
        """
        DELETE FROM propagation WHERE ctid = ANY (ARRAY(SELECT ctid FROM propagation WHERE settled_at < $1 LIMIT $2))
        """,
        before,
        _ROWS_MAX,
    )
    never = await connection.execute(
        """
        DELETE FROM propagation WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM propagation WHERE settled_at IS NULL AND received_at < $1 LIMIT $2))
        """,
        before,
        _ROWS_MAX,
    )
    # Record by record, since that is how the index goes.
    sold = await connection.execute(
        """
        DELETE FROM own_sales WHERE ctid = ANY (ARRAY(
            SELECT o.ctid FROM stock_records r JOIN own_sales o USING (tenant, stock_record)
            WHERE o.received_at < $1 AND NOT o.held AND o.asked <= o.decided LIMIT $2))
            AND NOT held AND asked <= decided
        """,
        now - OWN_SALES_KEPT,
        _ROWS_MAX,
    )
    return sum(int(status.rpartition(" ")[2]) for status in (settled, never, sold))

"""The brake on mass changes, what is to be looked at again, and what is forgotten. The connection comes first."""

from datetime import datetime

from services.channels.alerts import Database
from services.channels.stock.claims import Claimed, reclaim
from services.channels.stock.facts import OWN_SALES_KEPT

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
    """A person has looked: let the changes pass. False where there was no brake."""
    status = await connection.execute(
        "DELETE FROM stock_brakes WHERE tenant = $1 AND connection_id = $2", tenant, connection_id
    )
    # What was approved is what is wanted now: forgetting the old approval lets this change through, once.
    await connection.execute(
        """
        WITH released AS (
            UPDATE stock_records SET approved = NULL, next_at = '-infinity'
            WHERE tenant = $1 AND connection_id = $2 AND other_change RETURNING tenant, stock_record, connection_id
        )
        INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, changed_at)
        SELECT tenant, stock_record, connection_id, 1, true, now() FROM released
        """,
        tenant,
        connection_id,
    )
    return status.endswith(" 1")


# Reconciliation. Records are locked as they are chosen: a sender that claims, writes and settles one in between would
# leave a number behind that was seen after the poll, or a request under way, for which they were not chosen.


async def claim_suspects(
    connection: Database, tenant: str, connection_id: str, limit: int, lease_s: float, now: datetime
) -> list[Claimed]:
    """Suspect records whose request cannot be executed any more, to be read back."""
    keys = await connection.fetch(
        """
        SELECT stock_record FROM stock_records
        WHERE tenant = $1 AND connection_id = $2 AND suspect AND suspect_until <= $3
            AND (claimed_until IS NULL OR claimed_until < $3) ORDER BY suspect_until LIMIT $4 FOR UPDATE SKIP LOCKED
        """,
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
        """
        SELECT stock_record FROM stock_records r WHERE tenant = $1 AND connection_id = $2 AND known IS NOT NULL
            AND NOT suspect AND NOT EXISTS (SELECT FROM stock_changes c
                WHERE c.tenant = r.tenant AND c.stock_record = r.stock_record)
            AND coalesce(observed_at, '-infinity') < $3 AND coalesce(accepted_at, '-infinity') < $3
            AND (claimed_until IS NULL OR claimed_until < $4)
        ORDER BY observed_at IS NOT NULL, accepted <= 5 DESC, observed_at LIMIT $5 FOR UPDATE SKIP LOCKED
        """,
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
        """
        SELECT r.stock_record, r.seen_at FROM stock_records r
        WHERE r.tenant = $1 AND r.connection_id = $2 AND r.known IS NOT NULL AND NOT r.suspect AND r.seen_at < $3
            AND NOT EXISTS (SELECT FROM stock_changes c WHERE c.tenant = r.tenant AND c.stock_record = r.stock_record)
            AND (r.claimed_until IS NULL OR r.claimed_until < $4)
            AND EXISTS (SELECT FROM record_skus s WHERE s.tenant = r.tenant AND s.stock_record = r.stock_record
                AND (least(s.unheard, s.unheard_until - s.decided) > 0 OR s.heard - s.decided + s.slack > 0))
        ORDER BY r.stock_record LIMIT $5 FOR UPDATE OF r SKIP LOCKED
        """,
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


async def compact_changes(connection: Database) -> int:
    """Forget changes that a later one of the same record says as well; returns how many rows went.

    Those of a connection that nobody sends to grow with every sale.
    """
    status = await connection.execute(
        """
        DELETE FROM stock_changes c WHERE EXISTS (SELECT FROM stock_changes later
            WHERE later.tenant = c.tenant AND later.stock_record = c.stock_record AND later.change > c.change
                AND later.lane <= c.lane AND later.other >= c.other)
        """
    )
    return int(status.rpartition(" ")[2])


async def prune(connection: Database, before: datetime, now: datetime) -> int:
    """Forget measures from before a moment, and decided own sales; returns how many rows went."""
    measured = await connection.execute("DELETE FROM propagation WHERE coalesce(settled_at, received_at) < $1", before)
    sold = await connection.execute(
        "DELETE FROM own_sales WHERE received_at < $1 AND NOT held AND asked <= decided", now - OWN_SALES_KEPT
    )
    return int(measured.rpartition(" ")[2]) + int(sold.rpartition(" ")[2])

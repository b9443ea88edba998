"""Claims of stock records: taken, computed from one snapshot, leased for a call, settled. The connection comes first.

Only whoever holds a record's lease writes its `stock_records` row.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from services.bus import array
from services.channels.alerts import Database
from services.channels.stock import domain
from services.channels.stock.domain import Baseline, Part, Record, Tally
from services.channels.stock.wake import Due

SALES_WINDOW_S: Final = 30.0
"""Sales of the last this many seconds tell the rate at which a record may be selling unheard."""


async def due_lanes(connection: Database, connections: Sequence[tuple[str, str]], now: datetime) -> set[Due]:
    """Lanes of these (tenant, connection) that have a record to be sent now."""
    rows = await connection.fetch(
        """
        SELECT k.connection_id, n.lane
        FROM unnest($1::text::text[], $2::text::text[]) AS k (tenant, connection_id), (VALUES (0), (1)) AS n (lane)
        -- One change after the other until one is due: written as a join, all there is would be joined first, which
        -- takes a hundred times as long where much is waiting.
        WHERE EXISTS (SELECT FROM stock_changes c
            WHERE c.tenant = k.tenant AND c.connection_id = k.connection_id AND c.lane = n.lane AND c.due_at <= $3
                AND (SELECT r.next_at <= $3 AND (r.claimed_until IS NULL OR r.claimed_until < $3) FROM stock_records r
                    WHERE r.tenant = c.tenant AND r.stock_record = c.stock_record)
            OFFSET 0)
        """,
        array([tenant for tenant, _ in connections]),
        array([connection_id for _, connection_id in connections]),
        now,
    )
    return {(row["connection_id"], row["lane"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Claimed:
    """A record that this sender alone may write. `until` is what stands as its lease in the row, and so its fence.

    The rest comes with its inputs: `changes` are the rows of `stock_changes` that the number covers, of which the first
    was made at `changed_at`, by `causes`; `other` if something else than sales was among them or before; `unheard` is
    what is kept of each SKU as (unheard, until, slack). Changes that come during a claim belong to the next one.
    """

    tenant: str
    connection_id: str
    stock_record: str
    item: str
    location: str
    locations: tuple[str, ...] | None
    pool: str
    buffer: int
    cap: int | None
    known: Baseline | None
    attempts: tuple[Baseline, ...]
    failures: int
    guessed: bool
    until: datetime | None
    suspect_until: datetime | None
    changes: tuple[int, ...] = ()
    changed_at: datetime | None = None
    causes: tuple[tuple[str, str, str], ...] = ()
    other: bool = False
    unheard: Mapping[str, "Unheard"] = field(default_factory=dict)


Unheard = tuple[int, int, int]
"""Of one SKU of a record: `unheard`, `unheard_until` and `slack` of its row in `record_skus`."""


def _claimed(row: asyncpg.Record, late_s: float = 0.0) -> Claimed:
    """A record that still carries attempts was left in flight by a process that died: it is suspect until `late_s`
    after it was sent.
    """
    attempts = tuple(_from_json(each) for each in json.loads(row["attempts"]))
    suspect_until = row["suspect_until"]
    if attempts and not row["suspect"]:
        suspect_until = row["sent_at"] + timedelta(seconds=late_s)
    return Claimed(
        tenant=row["tenant"],
        connection_id=row["connection_id"],
        stock_record=row["stock_record"],
        item=row["item"],
        location=row["location"],
        locations=tuple(row["locations"]) if row["locations"] is not None else None,
        pool=row["pool"],
        buffer=row["buffer"],
        cap=row["cap"],
        known=_from_json(json.loads(row["known"])) if row["known"] else None,
        attempts=attempts,
        failures=row["failures"],
        guessed=row["guessed"],
        until=row["claimed_until"],
        suspect_until=suspect_until,
    )


def _to_json(baseline: Baseline) -> dict[str, Any]:
    return {
        "x": baseline.number,
        "t": {sku: [t.unheard, t.decided, t.heard, t.pending, t.sold, t.above] for sku, t in baseline.tallies.items()},
        **({"a": baseline.as_of.isoformat()} if baseline.as_of else {}),
    }


def _from_json(value: Mapping[str, Any]) -> Baseline:
    as_of = datetime.fromisoformat(value["a"]) if "a" in value else None
    return Baseline(value["x"], {sku: Tally(*units) for sku, units in value["t"].items()}, as_of)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one lane of a connection wants: up to `limit` records. `late_s` is how long after its deadline a request of
    this connection may still be executed.
    """

    tenant: str
    connection_id: str
    lane: int
    limit: int
    late_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """What was claimed for a lane, and whether it may have more to do."""

    claimed: list[Claimed]
    more: bool


async def claim(connection: Database, lanes: Sequence[Wanted], now: datetime) -> list[Found]:
    """Lock dirty records whose time has come, for each lane, oldest change first; those of another sender are passed
    over, so that nobody is waited for.

    The locks last to the end of the transaction, in which the record is leased (`keep`) or settled. Nobody who hears of
    a sale waits for them.
    """
    rows = await connection.fetch(
        """
        SELECT k.place - 1 AS place, r.* FROM unnest($1::text::text[], $2::text::text[], $3::text::int[],
                $4::text::int[]) WITH ORDINALITY AS k (tenant, connection_id, lane, most, place)
            CROSS JOIN LATERAL (
                SELECT r.* FROM stock_changes c JOIN stock_records r USING (tenant, stock_record)
                WHERE c.tenant = k.tenant AND c.connection_id = k.connection_id AND c.lane = k.lane AND c.due_at <= $5
                    AND r.next_at <= $5 AND (r.claimed_until IS NULL OR r.claimed_until < $5)
                ORDER BY c.change LIMIT k.most FOR UPDATE OF r SKIP LOCKED
            ) AS r
        """,
        array([each.tenant for each in lanes]),
        array([each.connection_id for each in lanes]),
        array([each.lane for each in lanes]),
        array([each.limit for each in lanes]),
        now,
    )
    claimed: list[dict[str, Claimed]] = [{} for _ in lanes]
    for row in rows:
        # A record has several changes, some of them for the other lane: it is claimed once.
        if not any(row["stock_record"] in found for found in claimed):
            claimed[row["place"]][row["stock_record"]] = _claimed(row, lanes[row["place"]].late_s)
    changes = Counter(row["place"] for row in rows)
    return [Found(list(found.values()), changes[place] == lanes[place].limit) for place, found in enumerate(claimed)]


async def reclaim(
    connection: Database, tenant: str, stock_records: Sequence[str], lease_s: float, now: datetime
) -> list[Claimed]:
    """Claim these records, whatever their lane, unless another sender has them."""
    rows = await connection.fetch(
        """
        WITH due AS (
            SELECT tenant, stock_record FROM stock_records WHERE tenant = $1 AND stock_record = ANY($2::text::text[])
                AND (claimed_until IS NULL OR claimed_until < $4) ORDER BY stock_record FOR UPDATE
        )
        UPDATE stock_records r SET claimed_until = $3
        FROM due WHERE r.tenant = due.tenant AND r.stock_record = due.stock_record
        RETURNING r.*
        """,
        tenant,
        array(stock_records),
        now + timedelta(seconds=lease_s),
        now,
    )
    return [_claimed(row) for row in rows]


async def relock(connection: Database, claimed: Sequence[Claimed]) -> list[Claimed]:
    """Lock records that this sender has claimed for another round of the same claim; what came since is seen.

    A record whose lease somebody else has taken up meanwhile is left out.
    """
    rows = await connection.fetch(
        """
        SELECT r.* FROM stock_records r
            JOIN unnest($1::text::text[], $2::text::text[], $3::text::timestamptz[]) AS c (tenant, stock_record, until)
                ON r.tenant = c.tenant AND r.stock_record = c.stock_record AND r.claimed_until = c.until
        ORDER BY r.tenant, r.stock_record FOR UPDATE OF r
        """,
        array([each.tenant for each in claimed]),
        array([each.stock_record for each in claimed]),
        array([each.until for each in claimed]),
    )
    return [_claimed(row) for row in rows]


async def renew(
    connection: Database, tenant: str, claimed: Sequence[Claimed], lease_until: datetime, now: datetime
) -> list[Claimed]:
    """Lease records for longer while their call goes on; what it may execute is as late as now.

    Returns the claims with the lease they have now, which is the old one where somebody else has taken it up.
    """
    rows = await connection.fetch(
        """
        WITH mine AS MATERIALIZED (
            SELECT r.tenant, r.stock_record FROM stock_records r
                JOIN unnest($2::text::text[], $3::text::timestamptz[]) AS c (stock_record, until)
                    ON r.tenant = $1 AND r.stock_record = c.stock_record AND r.claimed_until = c.until
            ORDER BY r.stock_record FOR UPDATE OF r
        )
        UPDATE stock_records r SET claimed_until = $4, sent_at = $5 FROM mine
        WHERE r.tenant = mine.tenant AND r.stock_record = mine.stock_record RETURNING r.stock_record
        """,
        tenant,
        array([each.stock_record for each in claimed]),
        array([each.until for each in claimed]),
        lease_until,
        now,
    )
    held = {row["stock_record"] for row in rows}
    return [replace(each, until=lease_until) if each.stock_record in held else each for each in claimed]


@dataclass(frozen=True, slots=True)
class Asked:
    """Claimed records of one connection. `lag_s` is how long this channel's sales typically take to be heard, `held`
    whether it reserves units that inventory has decided on.
    """

    claimed: Sequence[Claimed]
    lag_s: float = 0.0
    held: bool = False


async def inputs(
    connection: Database, asked: Sequence[Asked], now: datetime
) -> list[list[tuple[Claimed, Record | None]]]:
    """Everything the numbers of claimed records are computed from, in one statement; None where a SKU has no level yet.

    Handlers change these rows in one transaction each, so that one statement sees what fits together: a level and the
    change that came with it. What is committed later has a change of its own.
    """
    wanted = [(each, one.held) for one in asked for each in one.claimed]
    rows = await connection.fetch(
        """
        SELECT r.stock_record, s.sku, s.factor, s.heard, s.decided, s.unheard, s.unheard_until, s.slack,
            l.epoch, l.version, l.counters, l.sold, r.approved, c.changes, c.changed_at, c.causes,
            r.other_change OR coalesce(c.other, false) AS other,
            coalesce((SELECT sum(o.asked - o.decided) FROM own_sales o WHERE o.tenant = s.tenant
                AND o.stock_record = s.stock_record AND o.sku = s.sku AND o.asked > o.decided), 0)::bigint AS pending,
            -- Of a record with many orders on their way that is a long sum, which few channels have a use for.
            CASE WHEN k.held THEN coalesce((SELECT sum(least(o.asked, o.decided)) FROM own_sales o
                WHERE o.tenant = s.tenant AND o.stock_record = s.stock_record AND o.sku = s.sku AND o.held), 0)
                ELSE 0 END::bigint AS held,
            -- What is released and not decided yet is still among what is available, so nothing may forget it: the date
            -- stays before its sale, because a release is told later than it was.
            CASE WHEN k.held THEN coalesce((SELECT least(max(o.released_at),
                    min(o.sold_at) FILTER (WHERE o.asked > o.decided))
                FROM own_sales o WHERE o.tenant = s.tenant
                    AND o.stock_record = s.stock_record AND o.sku = s.sku AND o.released_at IS NOT NULL),
                (SELECT n.validated_at FROM connections n WHERE n.connection_id = r.connection_id)) END AS as_of,
            coalesce((SELECT sum(greatest(0, least(e.unheard, e.unheard_until - e.decided)))
                FROM record_skus e WHERE e.tenant = s.tenant AND e.sku = s.sku
                AND e.stock_record <> s.stock_record), 0)::bigint AS elsewhere,
            coalesce((SELECT sum(o.asked) FROM record_skus e JOIN own_sales o USING (tenant, stock_record, sku)
                WHERE e.tenant = s.tenant AND e.sku = s.sku AND o.received_at > $3), 0)::float
                / (s.factor * (SELECT count(*) FROM record_skus e WHERE e.tenant = s.tenant AND e.sku = s.sku))
                AS recent
        FROM unnest($1::text::text[], $2::text::text[], $4::text::bool[]) AS k (tenant, stock_record, held)
            JOIN stock_records r USING (tenant, stock_record)
            LEFT JOIN record_skus s USING (tenant, stock_record)
            LEFT JOIN levels l ON l.tenant = s.tenant AND l.sku = s.sku
            LEFT JOIN LATERAL (SELECT array_agg(c.change ORDER BY c.change) AS changes, min(c.changed_at) AS changed_at,
                    bool_or(c.other) AS other,
                    -- A span has so many links at most.
                    (array_agg(c.causes ORDER BY c.change) FILTER (WHERE c.causes <> '[]'))[:128] AS causes
                FROM stock_changes c WHERE c.tenant = k.tenant AND c.stock_record = k.stock_record) AS c ON true
        ORDER BY r.stock_record, s.sku
        """,
        array([each.tenant for each, _ in wanted]),
        array([each.stock_record for each, _ in wanted]),
        now - timedelta(seconds=SALES_WINDOW_S),
        array([held for _, held in wanted]),
    )
    by_record: dict[str, list[asyncpg.Record]] = {each.stock_record: [] for each, _ in wanted}
    for row in rows:
        by_record[row["stock_record"]].append(row)
    return [
        [
            (
                _with_inputs(each, by_record[each.stock_record]),
                _record(each, by_record[each.stock_record], one.lag_s),
            )
            for each in one.claimed
        ]
        for one in asked
    ]


def _with_inputs(claimed: Claimed, rows: Sequence[asyncpg.Record]) -> Claimed:
    """The claim with what it covers, once: a later round of the same claim covers what the first one did."""
    row = rows[0]
    unheard = {row["sku"]: (row["unheard"], row["unheard_until"], row["slack"]) for row in rows if row["sku"]}
    claimed = replace(claimed, other=row["other"], unheard=unheard)
    if claimed.changes or row["changes"] is None:
        return claimed
    causes = dict.fromkeys(tuple(cause) for causes in row["causes"] or () for cause in json.loads(causes))
    return replace(claimed, changes=tuple(row["changes"]), changed_at=row["changed_at"], causes=tuple(causes))


def _record(claimed: Claimed, rows: Sequence[asyncpg.Record], lag_s: float) -> Record | None:
    if not rows or any(row["counters"] is None for row in rows):
        return None
    return Record(
        stock_record=claimed.stock_record,
        item=claimed.item,
        location=claimed.location,
        parts=tuple(
            Part(
                sku=row["sku"],
                factor=row["factor"],
                available=available(json.loads(row["counters"]), claimed),
                decided=row["decided"],
                heard=row["heard"],
                pending=row["pending"],
                held=row["held"],
                elsewhere=row["elsewhere"],
                sold=row["sold"],
                epoch=row["epoch"],
                version=row["version"],
            )
            for row in rows
        ),
        known=claimed.known,
        attempts=claimed.attempts,
        buffer=claimed.buffer,
        cap=claimed.cap,
        approved=_from_json(json.loads(rows[0]["approved"])) if rows[0]["approved"] else None,
        other_change=rows[0]["other"],
        risk=max(row["recent"] for row in rows) * lag_s / SALES_WINDOW_S,
        as_of=min((row["as_of"] for row in rows if row["as_of"]), default=None),
    )


def available(counters: Iterable[Sequence[Any]], claimed: Claimed) -> int:
    """Units that a record may show: of its pool and the shared one, at its locations.

    Stock that a channel holds is counted by a record of that channel which names its location, and by none else.
    """
    return sum(
        units
        for location, pool, units, held_by in counters
        if pool in ("shared", claimed.pool)
        and (
            (claimed.locations is None or location in claimed.locations)
            if held_by is None
            else held_by == claimed.connection_id and location in (claimed.locations or ())
        )
    )


@dataclass(frozen=True, slots=True)
class Attempt:
    """A claim that goes on after its transaction, leased until then: `number` is about to be written (`after` stands
    then), or, where they are None, the record is about to be read.
    """

    claimed: Claimed
    lease_until: datetime
    number: int | None = None
    after: Baseline | None = None


async def keep(
    connection: Database,
    attempts: Sequence[Attempt],
    settled: "Sequence[Settled]",
    now: datetime,
) -> dict[str, Claimed]:
    """Lease records and remember what is being sent, so that a process that dies in the call leaves its trace; end the
    other claims. The caller holds the records' locks.

    Returns the claims with the lease they have now; one whose lease somebody else has taken up is left out.
    """
    kept = await _lease(connection, attempts, now) if attempts else {}
    raised = [
        (attempt.claimed, claimed.unheard)
        for attempt in attempts
        if (claimed := kept.get(attempt.claimed.stock_record))
    ]
    ended = await _end(connection, settled, now) if settled else []
    # Once, because who locks tallies in two goes waits for one that locks them in order, and is waited for.
    await _remember_unheard(connection, raised + ended, now)
    return kept


async def _lease(connection: Database, attempts: Sequence[Attempt], now: datetime) -> dict[str, Claimed]:
    attempts = sorted(attempts, key=lambda attempt: attempt.claimed.stock_record)
    rows = await connection.fetch(
        """
        UPDATE stock_records r SET claimed_until = a.lease_until, wanted = coalesce(a.number, r.wanted),
            sent = coalesce(a.number, r.sent), sent_at = CASE WHEN a.number IS NULL THEN r.sent_at ELSE $10 END,
            attempts = coalesce(a.attempts::jsonb, r.attempts), other_change = a.other,
            suspect = r.suspect OR a.suspect, suspect_until = a.suspect_until
        FROM unnest($1::text::text[], $2::text::text[], $3::text::timestamptz[], $4::text::bigint[], $5::text::text[],
                $6::text::bool[], $7::text::bool[], $8::text::timestamptz[], $9::text::timestamptz[])
            AS a (tenant, stock_record, until, number, attempts, other, suspect, suspect_until, lease_until)
        WHERE r.tenant = a.tenant AND r.stock_record = a.stock_record AND r.claimed_until IS NOT DISTINCT FROM a.until
        RETURNING r.stock_record
        """,
        array([attempt.claimed.tenant for attempt in attempts]),
        array([attempt.claimed.stock_record for attempt in attempts]),
        array([attempt.claimed.until for attempt in attempts]),
        array([attempt.number for attempt in attempts]),
        array(
            [
                json.dumps([_to_json(each) for each in (*attempt.claimed.attempts, attempt.after)])
                if attempt.after
                else None
                for attempt in attempts
            ]
        ),
        array([attempt.claimed.other for attempt in attempts]),
        array([bool(attempt.claimed.attempts) for attempt in attempts]),
        array([attempt.claimed.suspect_until for attempt in attempts]),
        array([attempt.lease_until for attempt in attempts]),
        now,
    )
    held = {row["stock_record"] for row in rows}
    return {
        attempt.claimed.stock_record: replace(
            attempt.claimed, until=attempt.lease_until, unheard=_raised(attempt.claimed.unheard, attempt.after)
        )
        for attempt in attempts
        if attempt.claimed.stock_record in held
    }


def _raised(before: Mapping[str, Unheard], after: Baseline | None) -> dict[str, Unheard]:
    """Of the numbers that may stand while one is being written the larger estimate counts."""
    units = dict(before)
    for sku, (unheard, until, slack) in _unheard((after,) if after else ()).items():
        unheard_before, until_before, _ = before.get(sku, (0, 0, 0))
        units[sku] = max(unheard_before, unheard), max(until_before, until), slack
    return units


def _unheard(baselines: Sequence[Baseline]) -> dict[str, Unheard]:
    """What other records' numbers have to know of a record on which these numbers may stand."""
    units: dict[str, Unheard] = {}
    for sku in {sku for baseline in baselines for sku in baseline.tallies}:
        unheard, until = domain.unheard_bounds(baselines, sku)
        # Where nothing is unheard the bound says nothing either; kept, every decision would write it anew.
        units[sku] = unheard, until if unheard > 0 else 0, domain.unheard_slack(baselines, sku)
    return units


async def _remember_unheard(
    connection: Database, told: Sequence[tuple[Claimed, Mapping[str, Unheard]]], now: datetime
) -> None:
    """Keep what is held to be unheard of records, for the other records' numbers; most of the time nothing changes.

    Where it falls by anything else than a decision (which dirties them all), the records that share a SKU are dirtied.
    """
    rows = sorted(
        (each.tenant, each.stock_record, sku, *units)
        for each, unheard in told
        for sku, units in unheard.items()
        if each.unheard.get(sku) != units
    )
    if not rows:
        return
    await connection.execute(
        """
        WITH told AS MATERIALIZED (
            SELECT s.tenant, s.stock_record, s.sku, u.unheard, u.until, u.slack,
                greatest(0, least(s.unheard, s.unheard_until - s.decided))
                    > greatest(0, least(u.unheard, u.until - s.decided)) AS fell
            FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::bigint[], $5::text::bigint[],
                    $6::text::bigint[])
                AS u (tenant, stock_record, sku, unheard, until, slack)
            JOIN record_skus s USING (tenant, stock_record, sku)
            ORDER BY s.tenant, s.stock_record, s.sku FOR UPDATE OF s
        ), kept AS (
            UPDATE record_skus s SET unheard = t.unheard, unheard_until = t.until, slack = t.slack FROM told t
            WHERE s.tenant = t.tenant AND s.stock_record = t.stock_record AND s.sku = t.sku
        )
        INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, changed_at)
        SELECT DISTINCT o.tenant, o.stock_record, r.connection_id, 1, false, $7::timestamptz
        FROM told t JOIN record_skus o USING (tenant, sku)
            JOIN stock_records r ON r.tenant = o.tenant AND r.stock_record = o.stock_record
        WHERE t.fell AND o.stock_record <> t.stock_record
        """,
        *map(array, zip(*rows, strict=True)),
        now,
    )


@dataclass(frozen=True, slots=True)
class Settled:
    """The end of one claim of one record.

    `known` and `attempts` are what stands from now on. `changes` are what the number covers: none leaves the record
    dirty. `approve` makes the number the last approved one; `seen_at` dates what is known of unheard sales. `dirty`
    dirties the record anew.
    """

    claimed: Claimed
    known: Baseline | None
    attempts: tuple[Baseline, ...]
    next_at: datetime
    changes: tuple[int, ...] = ()
    number: int | None = None
    accepted_at: datetime | None = None
    observed: int | None = None
    seen_at: datetime | None = None
    approve: bool = False
    suspect_until: datetime | None = None
    guessed: bool = False
    failures: int = 0
    refusal: str = ""
    dirty: bool = False


_SETTLE: Final = """
WITH locked AS MATERIALIZED (
    SELECT r.tenant, r.stock_record FROM stock_records r
        JOIN unnest($1::text::text[], $2::text::text[]) AS k (tenant, stock_record) USING (tenant, stock_record)
    ORDER BY r.tenant, r.stock_record FOR UPDATE OF r
), ended AS (
    UPDATE stock_records r SET claimed_until = NULL, known = coalesce(e.known::jsonb, r.known),
        attempts = e.attempts::jsonb, next_at = e.next_at, wanted = coalesce(e.number, r.wanted),
        accepted = CASE WHEN e.accepted_at IS NULL THEN r.accepted ELSE e.number END,
        accepted_at = coalesce(e.accepted_at, r.accepted_at), observed = coalesce(e.observed, r.observed),
        observed_at = CASE WHEN e.observed IS NULL THEN r.observed_at ELSE $19 END,
        seen_at = coalesce(e.seen_at, r.seen_at),
        other_change_at = CASE WHEN e.approve AND e.other AND (r.approved ->> 'x')::bigint <> e.number THEN $19
            ELSE r.other_change_at END,
        approved = CASE WHEN e.approve THEN coalesce(e.known::jsonb, r.known) ELSE r.approved END,
        other_change = (r.other_change OR e.other) AND NOT e.approve,
        suspect = e.suspect, suspect_until = coalesce(e.suspect_until, r.suspect_until), guessed = e.guessed,
        failures = e.failures, refusal = e.refusal
    FROM unnest($1::text::text[], $2::text::text[], $3::text::timestamptz[], $4::text::text[], $5::text::text[],
            $6::text::timestamptz[], $7::text::bigint[], $8::text::timestamptz[], $9::text::bigint[],
            $10::text::timestamptz[], $11::text::bool[], $12::text::bool[], $13::text::bool[], $14::text::timestamptz[],
            $15::text::bool[], $16::text::int[], $17::text::text[], $18::text::bool[])
        AS e (tenant, stock_record, until, known, attempts, next_at, number, accepted_at, observed, seen_at,
            approve, other, suspect, suspect_until, guessed, failures, refusal, dirty)
        JOIN locked USING (tenant, stock_record)
    WHERE r.tenant = e.tenant AND r.stock_record = e.stock_record
        AND r.claimed_until IS NOT DISTINCT FROM e.until
    RETURNING r.tenant, r.stock_record, r.connection_id, e.dirty
), covered AS (
    DELETE FROM stock_changes c
    -- By the whole key of each row: by record alone, every row of a record would be looked at for every other one.
    USING unnest($20::text::text[], $21::text::text[], $22::text::bigint[]) AS d (tenant, stock_record, change)
        JOIN ended e USING (tenant, stock_record)
    WHERE c.tenant = d.tenant AND c.stock_record = d.stock_record AND c.change = d.change
), dirtied AS (
    INSERT INTO stock_changes (tenant, stock_record, connection_id, lane, other, changed_at)
    SELECT tenant, stock_record, connection_id, 1, false, $19 FROM ended WHERE dirty
)
SELECT stock_record FROM ended
"""


async def settle(connection: Database, settled: Sequence[Settled], now: datetime) -> None:
    """End claims. Locks the records, sorted, first.

    A claim whose lease somebody else has taken up changes nothing: what that one has written since would be forgotten.
    """
    if settled:
        await _remember_unheard(connection, await _end(connection, settled, now), now)


async def _end(
    connection: Database, settled: Sequence[Settled], now: datetime
) -> list[tuple[Claimed, Mapping[str, Unheard]]]:
    """The claims that were ended, with what is held to be unheard of their records."""
    rows = sorted(settled, key=lambda each: each.claimed.stock_record)
    covered = [(each.claimed.tenant, each.claimed.stock_record, change) for each in rows for change in each.changes]
    ended = await connection.fetch(
        _SETTLE,
        array([each.claimed.tenant for each in rows]),
        array([each.claimed.stock_record for each in rows]),
        array([each.claimed.until for each in rows]),
        array([json.dumps(_to_json(each.known)) if each.known else None for each in rows]),
        array([json.dumps([_to_json(attempt) for attempt in each.attempts]) for each in rows]),
        array([each.next_at for each in rows]),
        array([each.number for each in rows]),
        array([each.accepted_at for each in rows]),
        array([each.observed for each in rows]),
        array([each.seen_at for each in rows]),
        array([each.approve for each in rows]),
        array([each.claimed.other for each in rows]),
        # What may stand at the channel besides what is known has to be read back.
        array([bool(each.attempts) for each in rows]),
        array([each.suspect_until or each.claimed.suspect_until for each in rows]),
        array([each.guessed for each in rows]),
        array([each.failures for each in rows]),
        array([each.refusal for each in rows]),
        array([each.dirty for each in rows]),
        now,
        array([tenant for tenant, _, _ in covered]),
        array([stock_record for _, stock_record, _ in covered]),
        array([change for _, _, change in covered]),
    )
    held = {row["stock_record"] for row in ended}
    return [
        (each.claimed, _unheard(((each.known,) if each.known else ()) + each.attempts))
        for each in rows
        if each.claimed.stock_record in held
    ]


Covered = tuple[str, str, str, int, int, bool, datetime]
"""Tenant, record, SKU, epoch and version that a number covers, whether it is unchanged, and since when it stands."""


async def settle_propagation(connection: Database, covered: Sequence[Covered]) -> dict[str, list[asyncpg.Record]]:
    """Close the measure rows that are covered; returns them by record."""
    rows = await connection.fetch(
        """
        UPDATE propagation p SET settled_at = c.settled_at, unchanged = c.unchanged
        FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::int[], $5::text::bigint[],
                $6::text::bool[], $7::text::timestamptz[])
            AS c (tenant, stock_record, sku, epoch, version, unchanged, settled_at)
        WHERE p.tenant = c.tenant AND p.stock_record = c.stock_record AND p.sku = c.sku AND p.settled_at IS NULL
            AND (p.epoch, p.version) <= (c.epoch, c.version)
        RETURNING p.stock_record, p.sku, p.order_id, p.line_id, p.sale_revision, p.sold_connection_id, p.version,
            p.sold_at, p.received_at, p.correlation_id, p.outcome
        """,
        *map(array, zip(*covered, strict=True)),
    )
    found: dict[str, list[asyncpg.Record]] = {}
    for row in sorted(rows, key=lambda row: (row["sold_at"], row["version"])):
        found.setdefault(row["stock_record"], []).append(row)
    return found

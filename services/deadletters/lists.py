"""What there is: letters by filter, groups of one cause, one letter with its record, and how it stands in all."""

from typing import Any, Final, Literal, final

from pydantic import BaseModel, ConfigDict, Field

from services.bus.record import unpack
from services.bus.work import Work

REPLAYS_MAX: Final = 5
"""So often a letter is replayed in vain; then it waits for a person, and no replay of many takes it along."""

_COLUMNS: Final = """
id, consumer, stream, partition, "offset", key, aggregate, event_id, type, tenant, error, cause, attempts, first_at,
last_at, state, reason, author, replaced_by, traceparent, correlation_id,
state = 'open' AND attempts > $1 AS for_person, extract(epoch FROM now() - first_at)::float AS age_s
"""
# A record whose envelope cannot be read belongs to nobody yet, so everybody is shown it.
_CHOSEN: Final = """
($2::text IS NULL OR tenant = $2 OR tenant IS NULL) AND ($3::text IS NULL OR state = $3)
AND ($4::text IS NULL OR stream = $4) AND ($5::text IS NULL OR type = $5)
AND ($6::text IS NULL OR strpos(lower(cause), lower($6)) > 0 OR strpos(lower(error), lower($6)) > 0)
AND ($7::text IS NULL OR $7 IN (key, aggregate, substr(key, strpos(key, ':') + 1)))
AND ($8::float IS NULL OR first_at <= now() - make_interval(secs => $8))
AND ($9::boolean IS NULL OR (state = 'open' AND attempts > $1) = $9)
"""
_LIST: Final = {
    "newest": f"SELECT {_COLUMNS} FROM dead_letters WHERE {_CHOSEN} AND ($10::text IS NULL OR id < $10) "  # noqa: S608
    "ORDER BY id DESC LIMIT $11",
    "oldest": f"SELECT {_COLUMNS} FROM dead_letters WHERE {_CHOSEN} AND ($10::text IS NULL OR id > $10) "  # noqa: S608
    "ORDER BY id LIMIT $11",
}
_GROUPS: Final = f"""
SELECT stream, type, cause, count(*) AS count, count(*) FILTER (WHERE attempts > $1 AND state = 'open') AS for_person,
       sum((SELECT count(*) FROM parked AS p WHERE state = 'open' AND p.consumer = d.consumer AND p.key = d.aggregate))
           ::bigint AS waiting,
       extract(epoch FROM now() - min(first_at))::float AS oldest_age_s, min(first_at) AS oldest_at,
       max(last_at) AS last_at, max(id) AS newest_id, (array_agg(error ORDER BY id DESC))[1] AS newest_error
FROM dead_letters AS d WHERE {_CHOSEN} GROUP BY stream, type, cause ORDER BY min(first_at)
"""  # noqa: S608 - constants of this module
_WAITING: Final = "SELECT count(*) FROM parked WHERE consumer = $1 AND key = $2"


class LetterFilter(BaseModel):
    """Which letters are meant; what is not given, does not matter.

    `cause` is looked for in the cause and in the whole error; `key` is the record's key, with its tenant or without,
    or what was parked. `older_than_s`: buried at least so many seconds ago. `for_person`: replayed in vain too often.
    """

    model_config = ConfigDict(extra="forbid")

    tenant: str | None = None
    state: Literal["open", "replayed", "discarded", "replaced"] | None = None
    stream: str | None = None
    type: str | None = None
    cause: str | None = None
    key: str | None = None
    older_than_s: float | None = Field(default=None, ge=0, le=1e9)
    for_person: bool | None = None

    def values(self) -> tuple[Any, ...]:
        """The parameters of every statement over chosen letters, from `$1` on."""
        return (REPLAYS_MAX, self.tenant, self.state, self.stream, self.type, self.cause, self.key, self.older_than_s,
                self.for_person)  # fmt: skip


@final
class LetterPage(LetterFilter):
    """A page of them, `past` the letter of this id in the order asked for."""

    order: Literal["newest", "oldest"] = "newest"
    past: str | None = None
    limit: int = Field(default=100, ge=1, le=10_000)


async def listed(work: Work, page: LetterPage) -> list[dict[str, Any]]:
    """One page, without payloads."""
    rows = await work.pool.fetch(_LIST[page.order], *page.values(), page.past, page.limit)
    return [dict(row) for row in rows]


async def grouped(work: Work, chosen: LetterFilter) -> list[dict[str, Any]]:
    """One row for each stream, type and cause, the oldest first; `waiting` is how many events wait behind them."""
    return [dict(row) for row in await work.pool.fetch(_GROUPS, *chosen.values())]


async def shown(work: Work, letter_id: str, *, payload: bool) -> dict[str, Any] | None:
    """One letter; its headers and body only on request and never those of a personal stream. None: there is none."""
    row = await work.pool.fetchrow(
        f"SELECT {_COLUMNS}, record, replacement FROM dead_letters WHERE id = $2",  # noqa: S608
        REPLAYS_MAX, letter_id,
    )  # fmt: skip
    if row is None:
        return None
    letter = dict(row)
    kept = {"": letter.pop("record"), "replacement_": letter.pop("replacement")}
    letter["personal"] = work.seal.is_personal(letter["stream"])
    letter["waiting"] = await waiting(work, letter["aggregate"])
    for name, stored in kept.items():
        if payload and stored is not None and not letter["personal"]:
            record = unpack(stored)
            letter[f"{name}payload"] = _readable(record.value)
            letter[f"{name}headers"] = [(header, _readable(value)) for header, value in record.headers]
    return letter


async def waiting(work: Work, aggregate: str | None) -> int:
    """How many events wait for an aggregate to be free again."""
    return int(await work.pool.fetchval(_WAITING, work.service, aggregate))


def _readable(part: bytes | None) -> str | None:
    return None if part is None else part.decode(errors="backslashreplace")

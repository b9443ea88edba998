"""The durable books of a sandbox: what happened, when, and the state it left, in one SQLite file.

`books` is append-only, one row per fact. A row, as `GET /_control/books` gives it, is one JSON object:

    {"id": 17, "at_ms": 1760000000000, "shop": "loja-a", "kind": "sale", ...fields of the kind}

`id` grows by one a row and never restarts, `at_ms` is this machine's wall clock in milliseconds when the thing
happened. Numbers are units of one SKU at one location of the shop; `order_id` is the external id as text.

opened         sku, location, number
sale           one row a line: order_id, line_id, sku, location, quantity, number_after, price_minor, paid (bool)
sale_refused   lines [{sku, quantity}], sku (the first that lacks), reason (sold_out, unknown_sku), number
payment        order_id, amount_minor
cancel         order_id, by (buyer, client), restored (bool), lines [{line_id, sku, location, quantity, number_after}]
refund         order_id, refund_id, lines [{line_id, sku, location, quantity, number_after, restored (bool)}]
write_attempt  request_id, client_request_id, operation, count
write          one row an accepted number: request_id, client_request_id, sku, location, number_before, number_after,
               requested, delta (bool), compare, reference, idempotency_key, applied (bool), late (bool)
write_refused  request_id, client_request_id, why, lines [{sku, location, requested, compare, number}], late (bool)
told           order_id, step (handling, invoice, return, shipment, tracking, delivery, cancel), reference, request_id,
               client_request_id
told_refused   order_id, step, why, request_id, client_request_id
claim          order_id, claim_id, status (label_generated, shipped, delivered, cancelled), low_cost (bool), lines
               [{line_id, quantity}]
moved          order_id, status (shipped, delivered, shipment_exception): by the marketplace's own carrier
topic          topic, action (disabled)
token          action (refreshed, refused), generation
config         what (feed, hook), action (set, "removed: asked", "removed: silent", "removed: failed")
webhook        delivery_id, event_id, topic, order_id, attempt, status (an HTTP status, or timeout, error, dropped,
               given_up)
queue          action (queued, delivered, acknowledged), order_id, status, deliveries

In `cancel` only quantities not refunded before are listed, and `number_after` is null where nothing was given back, as
in `refund`. In `write`, `requested` is the number asked for (or the difference where `delta`), `compare` the expected
number or null, `reference` Shopify's document reference or null, `applied` is false for an answer that claims a change
it did not make, and `late` marks a request that was executed after its client had given up: its `write_attempt` stands
where the client asked. `request_id` is in the `X-Request-Id` header of the answer, `client_request_id` is that header
of the request, or null. `why` is one of throttled, unavailable, stale, invalid_item, invalid_location, not_stocked,
negative, too_high, duplicate, unversioned (no version given where one is needed), locked (too soon after another).
A marketplace that keeps units of open orders apart is asked for a total: there `requested` is that total and the
numbers are what can be bought, which is the total less what is reserved. `told` is what a client reported of an order;
`reference` is the invoice key or tracking number.

A carrier's rows are described in `carrier_parcels.py`.

`documents` holds the state (shops, products with their numbers, orders, queue entries, webhook deliveries, ...) and is
written in the transaction of the rows that changed it, so that both agree after any death of the process.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")

Fact = tuple[str, dict[str, Any]]
DocumentKey = tuple[str, str, str]  # shop, kind, key
Documents = dict[tuple[str, str], dict[str, Any] | None]
"""Of one shop, by kind and key; None deletes."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS books (
    id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, shop TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS documents (
    shop TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (shop, kind, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS last_id (one INTEGER PRIMARY KEY CHECK (one = 1), id INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO last_id VALUES (1, 0);
"""

_SUMMARY = """
SELECT shop, kind, count(*),
       coalesce(sum(json_extract(body, '$.quantity')), 0),
       count(DISTINCT json_extract(body, '$.order_id'))
FROM books GROUP BY shop, kind ORDER BY shop, kind
"""

_RETURNED = """
SELECT books.shop, books.kind, sum(json_extract(line.value, '$.quantity'))
FROM books, json_each(books.body, '$.lines') AS line
WHERE books.kind IN ('cancel', 'refund') GROUP BY books.shop, books.kind
"""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def now_ms() -> int:
    """The one clock of the books."""
    return time.time_ns() // 10**6


@dataclass(slots=True)
class _Pending:
    rows: list[tuple[int, int, str, str, str]]
    documents: dict[DocumentKey, str | None]
    done: asyncio.Future[None]


class Books:
    """One SQLite file with group commit.

    `append` is synchronous and only collects; a writer thread commits what has been collected every few milliseconds,
    and whoever answers a client awaits `settled()` first. With a write-ahead log a committed transaction is in the
    operating system's hands: it survives a killed process (not a power cut, which a sandbox need not survive).
    """

    def __init__(self, path: Path, *, interval_s: float = 0.002) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._interval_s = interval_s
        self._writer = ThreadPoolExecutor(1, "books-writer")
        self._reader = ThreadPoolExecutor(1, "books-reader")
        self._write = self._connect()
        self._write.executescript(_SCHEMA)
        self._read = self._connect()
        row = self._write.execute("SELECT id FROM last_id").fetchone()
        self._last_id: int = row[0]
        self._pending: _Pending | None = None
        self._committing: asyncio.Future[None] | None = None
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self._stopping = False

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=10)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def documents(self) -> Iterable[tuple[DocumentKey, dict[str, Any]]]:
        """The whole kept state; read once, at start."""
        for shop, kind, key, body in self._write.execute("SELECT shop, kind, key, body FROM documents"):
            yield (shop, kind, key), json.loads(body)

    def append(
        self, shop: str, at_ms: int, facts: Iterable[Fact], documents: dict[DocumentKey, dict[str, Any] | None]
    ) -> None:
        """Collect rows and the documents (None: delete) they leave behind; durable once `settled()` returns."""
        if self._failure is not None:
            raise RuntimeError("the books cannot be written any more") from self._failure
        pending = self._pending
        if pending is None:
            pending = self._pending = _Pending([], {}, asyncio.get_running_loop().create_future())
            self._wake.set()
        for kind, body in facts:
            self._last_id += 1
            pending.rows.append((self._last_id, at_ms, shop, kind, _encode(body)))
        for key, document in documents.items():
            pending.documents[key] = None if document is None else _encode(document)

    async def settled(self) -> None:
        """Return when everything appended so far is durable."""
        if self._pending is not None:
            await asyncio.shield(self._pending.done)
        elif self._committing is not None:
            await asyncio.shield(self._committing)

    async def run(self) -> None:
        """The writer: collects for a moment, commits, tells the waiting. Ends after `stop` when nothing is left."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._stopping:
                await asyncio.sleep(self._interval_s)
            batch, self._pending = self._pending, None
            if batch is not None:
                self._committing = batch.done
                try:
                    await loop.run_in_executor(self._writer, self._commit, batch.rows, batch.documents, self._last_id)
                except sqlite3.Error as error:
                    self._failure = error
                    batch.done.set_exception(error)
                    raise
                batch.done.set_result(None)
                self._committing = None
            if self._stopping and self._pending is None:
                return

    def stop(self) -> None:
        """Let `run` write the rest and end."""
        self._stopping = True
        self._wake.set()

    def close(self) -> None:
        """Close the file; `run` must have ended."""
        self._writer.shutdown()
        self._reader.shutdown()
        self._read.close()
        self._write.close()

    def _commit(
        self, rows: Sequence[tuple[int, int, str, str, str]], documents: dict[DocumentKey, str | None], last_id: int
    ) -> None:
        put = [(*key, body) for key, body in documents.items() if body is not None]
        gone = [key for key, body in documents.items() if body is None]
        write = self._write
        write.execute("BEGIN IMMEDIATE")
        try:
            write.executemany("INSERT INTO books (id, at_ms, shop, kind, body) VALUES (?, ?, ?, ?, ?)", rows)
            write.executemany("INSERT OR REPLACE INTO documents (shop, kind, key, body) VALUES (?, ?, ?, ?)", put)
            write.executemany("DELETE FROM documents WHERE shop = ? AND kind = ? AND key = ?", gone)
            write.execute("UPDATE last_id SET id = ?", (last_id,))
            write.execute("COMMIT")
        except BaseException:
            write.execute("ROLLBACK")
            raise

    async def page(self, since: int, limit: int) -> list[bytes]:
        """Rows with an id above `since`, oldest first, each as one line of JSON."""
        return await self._in_reader(lambda: self._page(since, limit))

    def _page(self, since: int, limit: int) -> list[bytes]:
        rows = self._read.execute(
            "SELECT id, at_ms, shop, kind, body FROM books WHERE id > ? ORDER BY id LIMIT ?", (since, limit)
        )
        # The body is stored as a JSON object, so the common fields are put in front of it without parsing it again.
        return [
            f'{{"id":{row_id},"at_ms":{at_ms},"shop":{_encode(shop)},"kind":"{kind}",{body[1:]}\n'.encode()
            for row_id, at_ms, shop, kind, body in rows
        ]

    async def summary(self) -> dict[str, Any]:
        """Counts and units by shop and kind."""
        return await self._in_reader(self._summary)

    def _summary(self) -> dict[str, Any]:
        shops: dict[str, Any] = {}
        for shop, kind, count, units, orders in self._read.execute(_SUMMARY):
            entry = shops.setdefault(shop, {"rows": {}, "orders": 0, "units_sold": 0})
            entry["rows"][kind] = count
            if kind == "sale":
                entry["orders"], entry["units_sold"] = orders, units
        for entry in shops.values():
            entry["units_cancelled"] = entry["units_refunded"] = 0
        for shop, kind, units in self._read.execute(_RETURNED):
            shops[shop]["units_cancelled" if kind == "cancel" else "units_refunded"] = units
        last_id = self._read.execute("SELECT coalesce(max(id), 0) FROM books").fetchone()[0]
        return {"last_id": last_id, "shops": shops}

    async def clear(self) -> None:
        """Forget every row and document; row ids go on from where they were."""
        await self.settled()
        await asyncio.get_running_loop().run_in_executor(
            self._writer, self._write.executescript, "BEGIN; DELETE FROM books; DELETE FROM documents; COMMIT;"
        )

    async def _in_reader(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)

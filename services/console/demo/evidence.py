"""What the verdict is computed from: the sandboxes' own books, and what the services said publicly on Kafka. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contracts.channels.v1 import SaleReported, StockPushed
from contracts.envelope import Envelope, Message
from contracts.inventory.v1 import DemandMet, DemandShort, MovementRecorded, StockLevelChanged


@dataclass(frozen=True, slots=True)
class SendLimits:
    """The documented limits of a channel's stock writes: requests, with a burst, of at most `max_batch` records."""

    requests_per_s: float
    burst: float
    max_batch: int


@dataclass(frozen=True, slots=True)
class Channel:
    """A connection under judgement: where its books are, and which of our SKUs each of its stock records shows."""

    connection_id: str
    name: str
    marketplace: str
    shop: str
    records: Mapping[str, str]
    limits: SendLimits

    @property
    def skus(self) -> tuple[str, ...]:
        """The SKUs on sale here, each once."""
        return tuple(sorted(set(self.records.values())))


@dataclass(frozen=True, slots=True)
class Plan:
    """What was set up before the first sale: `opening` units of each physical SKU, `kits` with their components."""

    opening: Mapping[str, int]
    kits: Mapping[str, Mapping[str, int]]

    def factors(self, sku: str) -> Mapping[str, int]:
        """The physical SKUs that one unit of `sku` takes, and how many of each."""
        return self.kits.get(sku) or {sku: 1}

    def shown(self, sku: str, available: Mapping[str, int]) -> int:
        """The number that a listing of `sku` shows at these levels: as many as the scarcest component allows."""
        return min(max(0, available.get(part, 0)) // factor for part, factor in self.factors(sku).items())


@dataclass(frozen=True, slots=True)
class Sold:
    """One line of a sale that a sandbox accepted, in units of the listing's SKU."""

    row: int
    at_ms: int
    order: str
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Units of an order that its buyer does not take after all; `restored` ones are on sale again in that shop."""

    row: int
    at_ms: int
    order: str
    sku: str
    quantity: int
    restored: bool


@dataclass(frozen=True, slots=True)
class Written:
    """A number that a sandbox accepted from a client, under the ids by which the client knows the request.

    `number` is what can be bought then; `held` are units of open orders that the channel takes off the total that it
    was told, where it wants one.
    """

    row: int
    at_ms: int
    sku: str
    number: int
    request_ids: tuple[str, ...]
    held: int = 0


@dataclass(slots=True)
class ShopBooks:
    """The books of one shop, sorted out by kind; `numbers` is what it shows now, by SKU.

    `history` has (milliseconds, number) of every change of what it shows, by SKU, oldest first.
    """

    sold: list[Sold] = field(default_factory=list)
    given_back: list[GivenBack] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    refused: int = 0
    by_place: dict[tuple[str, str], int] = field(default_factory=dict)
    history: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, int]:
        """Units shown for each SKU, over all locations."""
        shown: dict[str, int] = {}
        for (sku, _), number in self.by_place.items():
            shown[sku] = shown.get(sku, 0) + number
        return shown

    def show(self, at_ms: int, sku: str, location: str, number: int) -> None:
        """The number at a place is another one from now on."""
        self.by_place[sku, location] = number
        total = sum(units for (one, _), units in self.by_place.items() if one == sku) if sku in self.history else number
        self.history.setdefault(sku, []).append((at_ms, total))


def read_books(rows: Iterable[Mapping[str, Any]]) -> dict[str, ShopBooks]:
    """Sort the rows of one marketplace's books by shop, oldest first as they come."""
    shops: dict[str, ShopBooks] = {}
    for row in rows:
        books = shops.setdefault(row["shop"], ShopBooks())
        row_id, at_ms = row["id"], row["at_ms"]
        match row["kind"]:
            case "opened":
                books.show(at_ms, row["sku"], row["location"], row["number"])
            case "sale":
                books.sold.append(Sold(row_id, at_ms, str(row["order_id"]), row["sku"], row["quantity"]))
                books.show(at_ms, row["sku"], row["location"], row["number_after"])
            case "sale_refused":
                books.refused += 1
            case "cancel" | "refund":
                for line in row["lines"]:
                    restored = line["number_after"] is not None
                    order = str(row["order_id"])
                    books.given_back.append(GivenBack(row_id, at_ms, order, line["sku"], line["quantity"], restored))
                    if restored:
                        books.show(at_ms, line["sku"], line["location"], line["number_after"])
            case "write":
                ids = tuple(str(row[name]) for name in ("request_id", "client_request_id") if row.get(name))
                absolute = row.get("applied") and not row.get("delta")
                held = max(0, row["requested"] - row["number_after"]) if absolute else 0
                books.written.append(Written(row_id, at_ms, row["sku"], row["number_after"], ids, held))
                books.show(at_ms, row["sku"], row["location"], row["number_after"])
            case _:
                pass
    return shops


@dataclass(frozen=True, slots=True)
class Level:
    """A level of a physical SKU as it was published, and when."""

    at_ms: int
    message: StockLevelChanged

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, version): what orders the levels of one SKU."""
        return self.message.epoch, self.message.version

    @property
    def to_show(self) -> int:
        """Units available for channels to show: stock that a channel holds itself is never added."""
        return sum(place.available for place in self.message.levels if place.held_by is None)


@dataclass(slots=True)
class Heard:
    """What the services said publicly in this run, each event once, in the order of the log."""

    sales: list[SaleReported] = field(default_factory=list)
    outcomes: list[DemandMet | DemandShort] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    pushes: list[StockPushed] = field(default_factory=list)
    movements: list[MovementRecorded] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def add(self, envelope: Envelope, message: Message) -> bool:
        """Take one event in; False for a second copy, which the relay may send after a restart."""
        identity = (envelope.source, envelope.id)
        if identity in self.seen:
            return False
        self.seen.add(identity)
        match message:
            case SaleReported():
                self.sales.append(message)
            case DemandMet() | DemandShort():
                self.outcomes.append(message)
            case StockLevelChanged():
                self.levels.append(Level(int(envelope.time.timestamp() * 1000), message))
            case StockPushed():
                self.pushes.append(message)
            case MovementRecorded():
                self.movements.append(message)
            case _:
                pass
        return True

    def levels_by_sku(self) -> dict[str, list[Level]]:
        """The levels of each SKU by (epoch, version); an announcement repeats a level and is left out."""
        first: dict[tuple[str, tuple[int, int]], Level] = {}
        for level in self.levels:
            known = first.get((level.message.sku, level.position))
            if known is None or (level.message.causes and not known.message.causes):
                first[level.message.sku, level.position] = level
        sorted_levels: dict[str, list[Level]] = {}
        for (sku, _), level in sorted(first.items(), key=lambda item: item[0]):
            sorted_levels.setdefault(sku, []).append(level)
        return sorted_levels


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the verdict may look at. `books` is by connection id."""

    plan: Plan
    channels: Sequence[Channel]
    books: Mapping[str, ShopBooks]
    heard: Heard


def cancelled_orders(evidence: Evidence) -> set[tuple[str, str]]:
    """Orders (connection, external id) of which the books gave units back."""
    return {(connection_id, back.order) for connection_id, books in evidence.books.items() for back in books.given_back}

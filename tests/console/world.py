"""A retailer in a few lines: two shops, hand-made books and events, from which a verdict is asked."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from contracts.channels.v1 import CoveredVersion, SaleLine, SaleReported, SaleStatus, StockPushed
from contracts.envelope import Envelope, Message
from contracts.inventory.v1 import (
    AccountRef,
    AccountState,
    CauseOutcome,
    DemandMet,
    DemandShort,
    LevelCause,
    LineOutcome,
    LocationLevel,
    MovementRecorded,
    StockLevelChanged,
)
from services.console.demo.evidence import Channel, Evidence, Heard, Plan, SendLimits, read_books

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)


def at(ms: int) -> datetime:
    return START + timedelta(milliseconds=ms)


@dataclass
class World:
    """Two connections, `a` and `b`. Every step writes what the sandboxes and the services would have written."""

    opening: dict[str, int] = field(default_factory=lambda: {"P1": 10})
    kits: dict[str, dict[str, int]] = field(default_factory=dict)
    limits: SendLimits = field(default_factory=lambda: SendLimits(10, 200, 250))
    rows: list[dict[str, Any]] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)
    shown: dict[tuple[str, str], int] = field(default_factory=dict)
    available: dict[str, int] = field(default_factory=dict)
    reserved: dict[str, int] = field(default_factory=dict)
    version: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for sku, units in self.opening.items():
            self.reserved[sku], self.version[sku] = 0, 0
            self.available[sku] = units
            if units:
                self.move(sku, units, AccountState.SUPPLIER, AccountState.AVAILABLE)
            self.level(sku, 0)
        for connection in ("a", "b"):
            for sku in (*self.opening, *self.kits):
                number = self.plan.shown(sku, self.available)
                self.book(connection, 0, "opened", sku=sku, location="L", number=number)
                self.shown[connection, sku] = number

    @property
    def plan(self) -> Plan:
        return Plan(self.opening, self.kits)

    def book(self, connection: str, ms: int, kind: str, **fields: Any) -> None:
        shop = f"shop-{connection}"
        self.rows.append({"id": len(self.rows) + 1, "at_ms": START_MS + ms, "shop": shop, "kind": kind, **fields})

    def publish(self, message: Message, ms: int) -> None:
        self.heard.add(
            Envelope(
                id=f"e{len(self.heard.seen)}",
                type="",
                source="test",
                time=at(ms),
                subject="",
                tenant="demo",
                correlation_id="",
            ),
            message,
        )

    def buy(self, connection: str, ms: int, sku: str = "P1", quantity: int = 1, order: str = "") -> str:
        """A sandbox sells; Saldo has not heard of it."""
        order = order or f"{connection}-{len(self.rows)}"
        self.shown[connection, sku] -= quantity
        number = self.shown[connection, sku]
        line = {"order_id": order, "sku": sku, "location": "L", "quantity": quantity, "number_after": number}
        self.book(connection, ms, "sale", **line)
        return order

    def cancel(self, connection: str, ms: int, order: str, sku: str = "P1", quantity: int = 1) -> None:
        self.shown[connection, sku] += quantity
        line = {"sku": sku, "location": "L", "quantity": quantity, "number_after": self.shown[connection, sku]}
        self.book(connection, ms, "cancel", order_id=order, lines=[line])

    def report(self, connection: str, order: str, ms: int, sold_ms: int, order_id: str = "") -> None:
        """Channels reports the sale."""
        line = SaleLine(line_id="1", sku="P1", quantity=1, listing="l", stock_record="r")
        self.publish(
            SaleReported(
                connection_id=connection,
                external_id=order,
                order_id=order_id or f"id-{order}",
                revision=1,
                status=SaleStatus.PLACED,
                sold_at=at(sold_ms),
                received_at=at(ms),
                customer_ref="c",
                currency="BRL",
                lines=(line,),
            ),
            ms,
        )

    def move(self, sku: str, units: int, source: AccountState, target: AccountState) -> None:
        accounts = [AccountRef(location="L", pool="shared", state=state) for state in (source, target)]
        self.publish(
            MovementRecorded(
                movement_id=f"m{len(self.heard.movements)}",
                sku=sku,
                from_account=accounts[0],
                to_account=accounts[1],
                quantity=units,
                epoch=1,
                sku_version=self.version[sku],
                cause="test",
                line="1",
                at=START,
            ),
            0,
        )

    def level(self, sku: str, ms: int, *causes: LevelCause) -> None:
        self.version[sku] += 1
        place = LocationLevel(location="L", pool="shared", available=self.available[sku], reserved=self.reserved[sku])
        self.publish(
            StockLevelChanged(
                sku=sku,
                epoch=1,
                version=self.version[sku],
                levels=(place,),
                available=self.available[sku],
                reserved=self.reserved[sku],
                causes=causes,
            ),
            ms,
        )

    def cause(self, connection: str, order: str, units: int, outcome: CauseOutcome, revision: int = 1) -> LevelCause:
        return LevelCause(
            order_id=f"id-{order}",
            sale_revision=revision,
            line_id="1",
            connection_id=connection,
            units=units,
            outcome=outcome,
            sold_at=START,
            received_at=START,
        )

    def decide(
        self,
        connection: str,
        order: str,
        ms: int,
        sku: str = "P1",
        reserved: int = 1,
        short: int = 0,
        revision: int = 1,
    ) -> None:
        """Inventory decides: the order's line holds `reserved` units of `sku` from now on and lacks `short`."""
        known = [outcome for outcome in self.heard.outcomes if outcome.order_id == f"id-{order}"]
        lines = {line.sku: line for line in known[-1].lines} if known else {}
        held = lines[sku].reserved if sku in lines else 0
        lines[sku] = LineOutcome(line_id="1", sku=sku, reserved=reserved, short=short)
        kind = DemandShort if any(line.short for line in lines.values()) else DemandMet
        self.publish(kind(order_id=f"id-{order}", revision=revision, lines=tuple(lines.values())), ms)
        taken = reserved - held
        self.available[sku] -= taken
        self.reserved[sku] += taken
        if taken > 0:
            self.move(sku, taken, AccountState.AVAILABLE, AccountState.RESERVED)
        if taken < 0:
            self.move(sku, -taken, AccountState.RESERVED, AccountState.AVAILABLE)
        parts = [(taken, CauseOutcome.RESERVED if taken > 0 else CauseOutcome.RELEASED), (short, CauseOutcome.SHORT)]
        causes = [self.cause(connection, order, units, what, revision) for units, what in parts if units]
        self.level(sku, ms, *causes)

    def hand_over(self, giver_connection: str, giver: str, taker_connection: str, taker: str, ms: int) -> None:
        """A cancelled unit goes to a waiting shortfall in one decision: it is never available to anybody."""
        for order, revision, reserved in ((giver, 2, 0), (taker, 1, 1)):
            line = LineOutcome(line_id="1", sku="P1", reserved=reserved)
            self.publish(DemandMet(order_id=f"id-{order}", revision=revision, lines=(line,)), ms)
        self.move("P1", 1, AccountState.RESERVED, AccountState.AVAILABLE)
        self.move("P1", 1, AccountState.AVAILABLE, AccountState.RESERVED)
        self.level(
            "P1",
            ms,
            self.cause(giver_connection, giver, -1, CauseOutcome.RELEASED),
            self.cause(taker_connection, taker, 1, CauseOutcome.FILLED),
        )

    def push(self, connection: str, ms: int, sku: str = "P1", number: int | None = None, held: int = 0) -> None:
        """A sandbox accepts the number that the latest level asks for, and channels says so.

        `held` units of open orders the channel takes off the total that it is told, which is `number` with them.
        """
        number = self.plan.shown(sku, self.available) if number is None else number
        request = f"q{len(self.rows)}"
        self.shown[connection, sku] = number
        written: dict[str, Any] = {"request_id": request, "client_request_id": None, "sku": sku, "location": "L"}
        written |= {"requested": number + held, "applied": True, "delta": False}
        self.book(connection, ms, "write", **written, number_after=number)
        self.announce_push(connection, ms, request, sku, number)

    def announce_push(self, connection: str, ms: int, request: str, sku: str = "P1", number: int = 0) -> None:
        covered = tuple(
            CoveredVersion(sku=part, epoch=1, version=self.version[part]) for part in self.plan.factors(sku)
        )
        self.publish(
            StockPushed(
                connection_id=connection,
                stock_record=f"record-{sku}",
                quantity=number,
                wanted_seq=1,
                covered=covered,
                request_id=request,
                wanted_at=at(ms),
                sent_at=at(ms),
                accepted_at=at(ms),
            ),
            ms,
        )

    def sale(self, connection: str, ms: int, sku: str = "P1") -> str:
        """A whole flow that goes well: sold, heard 5 ms later, decided at 10 ms, pushed everywhere at 100 ms."""
        order = self.buy(connection, ms, sku)
        self.report(connection, order, ms + 5, ms)
        for part, factor in self.plan.factors(sku).items():
            self.decide(connection, order, ms + 10, part, reserved=factor)
        for other in ("a", "b"):
            for listing in (*self.opening, *self.kits):
                if set(self.plan.factors(listing)) & set(self.plan.factors(sku)):
                    self.push(other, ms + 100, listing)
        return order

    def evidence(self) -> Evidence:
        records = {f"record-{sku}": sku for sku in (*self.opening, *self.kits)}
        books = read_books(sorted(self.rows, key=lambda row: row["at_ms"]))
        channels = [Channel(name, name, "shopify", f"shop-{name}", records, self.limits) for name in ("a", "b")]
        return Evidence(
            plan=self.plan,
            channels=channels,
            books={channel.connection_id: books[channel.shop] for channel in channels},
            heard=self.heard,
        )

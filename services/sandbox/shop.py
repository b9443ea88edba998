"""One shop of a marketplace, in memory: stock, orders, queue, and what it decides. No clock, no chance, no I/O.

Every decision returns the facts to be booked; what changed is remembered in `dirty` until the market has written it.
A refusal is an answer (`Refusal`), not an exception.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from services.sandbox.books import Fact


def stable_id(*parts: str) -> int:
    """A number of at most 13 digits that is always the same for the same parts, safe in JSON and JavaScript."""
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return 1_000_000_000_000 + int.from_bytes(digest) % 9_000_000_000_000


@dataclass(slots=True)
class Product:
    """A thing on sale and how many of it can be bought at each location.

    `version` grows with every change of a number, `adverts` offer it under ids of their own, and `reserved` are units
    of open orders by location where the marketplace counts them apart.
    """

    sku: str
    title: str
    price_minor: int
    numbers: dict[str, int]
    product_id: int
    variant_id: int
    inventory_item_id: int
    created_ms: int
    updated_ms: int
    version: int = 1
    adverts: int = 1
    reserved: dict[str, int] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return sum(self.numbers.values())


@dataclass(slots=True)
class Line:
    """One line of an order; `returned` units have been refunded or cancelled, `restored` of them went back on sale.

    `advert` counts from 0 among those of the product, `held` are its units among those reserved.
    """

    line_id: int
    sku: str
    title: str
    quantity: int
    price_minor: int
    location: str
    returned: int = 0
    restored: int = 0
    advert: int = 0
    held: int = 0


@dataclass(slots=True)
class Refund:
    """Units given back to the buyer: [line id, quantity, back on sale or not] each."""

    refund_id: int
    at_ms: int
    lines: list[tuple[int, int, bool]]


@dataclass(slots=True)
class Order:
    """An accepted sale. `status`: new, approved, handling, invoiced, shipped, delivered, shipment_exception, canceled.

    Orders of one purchase share a `pack`. `handled_ms` is when its seller took over to answer for its units, where the
    marketplace reserves them.
    """

    order_id: str
    number: int
    lines: list[Line]
    buyer: int
    placed_ms: int
    updated_ms: int
    status: str
    paid_ms: int | None = None
    cancelled_ms: int | None = None
    refunds: list[Refund] = field(default_factory=list)
    invoice: dict[str, Any] | None = None
    shipment: dict[str, Any] | None = None
    synced: bool = False
    pack: str = ""
    handled_ms: int | None = None

    @property
    def total_minor(self) -> int:
        return sum(line.price_minor * line.quantity for line in self.lines)


@dataclass(slots=True)
class QueueEntry:
    """An order waiting to be taken from the queue; its body is made at delivery, so it always shows the latest."""

    entry_id: int
    order_id: str
    visible_ms: int
    deliveries: int = 0
    shown_status: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request the shop does not grant: a short reason, the message for people and the HTTP status that fits."""

    reason: str
    message: str
    status: int = 422
    sku: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A wanted number of one product at one location: absolute, or a difference where the write is a delta."""

    sku: str
    location: str
    quantity: int
    compare: int | None = None


@dataclass(frozen=True, slots=True)
class WriteContext:
    """What the books note beside every number written, and `as_of_ms`, the moment for which a total is meant."""

    request_id: str
    client_request_id: str | None = None
    reference: str | None = None
    idempotency_key: str | None = None
    late: bool = False
    as_of_ms: int | None = None

    @property
    def fields(self) -> dict[str, Any]:
        return {"request_id": self.request_id, "client_request_id": self.client_request_id}


class Shop:
    """A shop's stock and orders. Location and credentials questions are settled before it is asked."""

    def __init__(
        self,
        name: str,
        *,
        queued: bool,
        prefix: str,
        first_order_id: int,
        locations: Sequence[str],
        suffix: str = "",
        reserves: bool = False,
    ) -> None:
        self.name = name
        self.queued = queued
        self.prefix = prefix
        self.suffix = suffix
        self.reserves = reserves
        self.first_order_id = first_order_id
        self.locations = list(locations)
        self.products: dict[str, Product] = {}
        self.sku_of_item: dict[int, str] = {}
        self.sku_of_variant: dict[int, str] = {}
        self.sku_of_product: dict[int, str] = {}
        self.orders: dict[str, Order] = {}
        self.queue: dict[int, QueueEntry] = {}
        self.last_entry_id = 0
        self.dirty: set[tuple[str, str]] = set()

    # -- loading and keeping -------------------------------------------------------------------------------------

    def load_product(self, product: Product) -> None:
        self.products[product.sku] = product
        self.sku_of_item[product.inventory_item_id] = product.sku
        self.sku_of_variant[product.variant_id] = product.sku
        self.sku_of_product[product.product_id] = product.sku

    def load_order(self, document: dict[str, Any]) -> None:
        lines = [Line(**line) for line in document["lines"]]
        refunds = [
            Refund(refund["refund_id"], refund["at_ms"], [tuple(line) for line in refund["lines"]])
            for refund in document["refunds"]
        ]
        order = Order(**{**document, "lines": lines, "refunds": refunds})
        self.orders[order.order_id] = order

    def load_queue(self, entry: QueueEntry) -> None:
        self.queue[entry.entry_id] = entry
        self.last_entry_id = max(self.last_entry_id, entry.entry_id)

    def loaded(self) -> None:
        """Bring what was read back into the order in which it happened."""
        self.orders = dict(sorted(self.orders.items(), key=lambda item: item[1].number))
        self.queue = dict(sorted(self.queue.items()))

    def take_dirty(self) -> dict[tuple[str, str], dict[str, Any] | None]:
        """The documents changed since the last call; None for what is gone."""
        changed: dict[tuple[str, str], dict[str, Any] | None] = {}
        for kind, key in self.dirty:
            kept: Any
            match kind:
                case "product":
                    kept = self.products.get(key)
                case "order":
                    kept = self.orders.get(key)
                case _:
                    kept = self.queue.get(int(key))
            changed[kind, key] = None if kept is None else asdict(kept)
        self.dirty.clear()
        return changed

    # -- products ------------------------------------------------------------------------------------------------

    def _moved(self, product: Product, now_ms: int) -> None:
        """Remember that a number of the product is another one."""
        product.updated_ms = now_ms
        product.version += 1
        self.dirty.add(("product", product.sku))

    def put_product(
        self, sku: str, title: str, price_minor: int, opening: int, location: str, now_ms: int, adverts: int = 1
    ) -> list[Fact]:
        """Put a product on sale. One that is known keeps its number and takes the new title and price."""
        known = self.products.get(sku)
        self.dirty.add(("product", sku))
        if known is not None:
            known.title, known.price_minor, known.updated_ms = title, price_minor, now_ms
            known.adverts = max(known.adverts, adverts)
            if location in known.numbers:
                return []
            known.numbers[location] = opening
            self._moved(known, now_ms)
        else:
            product_id, variant_id, item_id = (
                stable_id(self.name, sku, kind) for kind in ("product", "variant", "item")
            )
            numbers = {location: opening}
            self.load_product(
                Product(
                    sku, title, price_minor, numbers, product_id, variant_id, item_id, now_ms, now_ms, adverts=adverts
                )
            )
        return [("opened", {"sku": sku, "location": location, "number": opening})]

    # -- buying --------------------------------------------------------------------------------------------------

    def buy(
        self, wanted: Sequence[tuple[str, int]], *, paid: bool, buyer: int, now_ms: int, pack: str = ""
    ) -> tuple[Order | Refusal, list[Fact]]:
        """Sell all lines or none; the shop's own numbers go down at once, paid or not, and never below zero."""
        taken: dict[tuple[str, str], int] = {}
        places: list[str] = []
        for sku, quantity in wanted:
            product = self.products.get(sku)
            place = None if product is None else self._place_with(product, quantity, taken)
            if product is None or place is None:
                return self._refuse(wanted, sku)
            taken[sku, place] = taken.get((sku, place), 0) + quantity
            places.append(place)
        number = len(self.orders) + 1
        # Bare ids travel as JSON numbers, so they have no leading zeros; ids behind a prefix are text of a fixed width.
        id_number = self.first_order_id + number - 1
        order_id = f"{self.prefix}{id_number:09d}" if self.prefix else f"{id_number}{self.suffix}"
        lines: list[Line] = []
        facts: list[Fact] = []
        for place, (sku, quantity) in zip(places, wanted, strict=True):
            product = self.products[sku]
            product.numbers[place] -= quantity
            held = quantity if self.reserves else 0
            if held:
                product.reserved[place] = product.reserved.get(place, 0) + held
            self._moved(product, now_ms)
            line_id = stable_id(self.name, order_id, str(len(lines)))
            advert = number % product.adverts
            line = Line(line_id, sku, product.title, quantity, product.price_minor, place, advert=advert, held=held)
            lines.append(line)
            fact = {"order_id": order_id, "line_id": line_id, "sku": sku, "location": place, "quantity": quantity}
            fact |= {"number_after": product.numbers[place], "price_minor": product.price_minor, "paid": paid}
            facts.append(("sale", fact))
        order = Order(order_id, number, lines, buyer, now_ms, now_ms, "approved" if paid else "new", pack=pack)
        self.orders[order_id] = order
        if paid:
            order.paid_ms = now_ms
            facts.append(("payment", {"order_id": order_id, "amount_minor": order.total_minor}))
        self.dirty.add(("order", order_id))
        facts += self._enqueue(order, now_ms)
        return order, facts

    def _place_with(self, product: Product, quantity: int, taken: dict[tuple[str, str], int]) -> str | None:
        for location, number in product.numbers.items():
            if number - taken.get((product.sku, location), 0) >= quantity:
                return location
        return None

    def _refuse(self, wanted: Sequence[tuple[str, int]], sku: str) -> tuple[Refusal, list[Fact]]:
        product = self.products.get(sku)
        reason = "unknown_sku" if product is None else "sold_out"
        lines = [{"sku": wanted_sku, "quantity": quantity} for wanted_sku, quantity in wanted]
        number = None if product is None else product.number
        fact = {"lines": lines, "sku": sku, "reason": reason, "number": number}
        return Refusal(reason, f"{sku}: {reason}", 409, sku), [("sale_refused", fact)]

    # -- what happens to an order --------------------------------------------------------------------------------

    def touch(self, order: Order, now_ms: int) -> None:
        """Give the order a new time of its last change."""
        # Versions of one order are told apart by updated_at in whole seconds, so each change gets a second of its own.
        order.updated_ms = max(now_ms, (order.updated_ms // 1000 + 1) * 1000)
        self.dirty.add(("order", order.order_id))

    def pay(self, order: Order, now_ms: int) -> list[Fact] | Refusal:
        """The buyer's money arrives."""
        if order.cancelled_ms is not None:
            return Refusal("cancelled", f"order {order.order_id} is cancelled")
        if order.paid_ms is not None:
            return Refusal("paid", f"order {order.order_id} is paid already")
        order.paid_ms = now_ms
        order.status = "approved"
        self.touch(order, now_ms)
        facts: list[Fact] = [("payment", {"order_id": order.order_id, "amount_minor": order.total_minor})]
        return facts + self._enqueue(order, now_ms)

    def cancel(self, order: Order, *, restock: bool, by: str, now_ms: int) -> list[Fact] | Refusal:
        """Cancel what is left of the order; with `restock` the shop's own numbers go up again."""
        if order.cancelled_ms is not None:
            return Refusal("cancelled", f"order {order.order_id} is cancelled already")
        if order.status in ("shipped", "delivered"):
            return Refusal("shipped", f"order {order.order_id} has been shipped")
        left = [(line, line.quantity - line.returned, restock) for line in order.lines if line.quantity > line.returned]
        order.cancelled_ms = now_ms
        order.status = "canceled"
        order.synced = False
        lines = self._give_back(order, left, now_ms, cancel=True)
        self.touch(order, now_ms)
        fact = {"order_id": order.order_id, "by": by, "restored": restock, "lines": lines}
        return [("cancel", fact), *self._enqueue(order, now_ms)]

    def refund(self, order: Order, wanted: Sequence[tuple[int, int, bool]], now_ms: int) -> list[Fact] | Refusal:
        """Refund units of some lines: (line id, quantity, back on sale or not) each."""
        by_id = {line.line_id: line for line in order.lines}
        chosen: list[tuple[Line, int, bool]] = []
        for line_id, quantity, restock in wanted:
            line = by_id.get(line_id)
            already = sum(units for other, units, _ in chosen if other is line)
            if line is None or not 0 < quantity <= line.quantity - line.returned - already:
                return Refusal("line", f"line {line_id} of order {order.order_id} has no {quantity} units to refund")
            chosen.append((line, quantity, restock))
        if not chosen:
            return Refusal("line", "name at least one line to refund")
        lines = self._give_back(order, chosen, now_ms, cancel=False)
        self.touch(order, now_ms)
        return [("refund", {"order_id": order.order_id, "refund_id": order.refunds[-1].refund_id, "lines": lines})]

    def _give_back(
        self, order: Order, chosen: Sequence[tuple[Line, int, bool]], now_ms: int, *, cancel: bool
    ) -> list[dict[str, Any]]:
        told = []
        # Units that a total has left out since are not the marketplace's to give back.
        chosen = [
            (line, quantity, restock and (not self.reserves or line.held > 0)) for line, quantity, restock in chosen
        ]
        for line, quantity, restock in chosen:
            line.returned += quantity
            number_after = None
            product = self.products[line.sku]
            self._release(line, quantity)
            if restock:
                line.restored += quantity
                product.numbers[line.location] += quantity
                self._moved(product, now_ms)
                number_after = product.numbers[line.location]
            entry = {"line_id": line.line_id, "sku": line.sku, "location": line.location, "quantity": quantity}
            told.append(entry | {"number_after": number_after} | ({} if cancel else {"restored": restock}))
        if chosen:
            refund_id = stable_id(self.name, order.order_id, "refund", str(len(order.refunds)))
            moved = [(line.line_id, quantity, restock) for line, quantity, restock in chosen]
            order.refunds.append(Refund(refund_id, now_ms, moved))
        return told

    def _release(self, line: Line, quantity: int) -> None:
        freed = min(line.held, quantity)
        if freed:
            line.held -= freed
            self.products[line.sku].reserved[line.location] -= freed
            self.dirty.add(("product", line.sku))

    def _forget_handled(self, change: Change, as_of_ms: int) -> None:
        """A total is meant for a moment: what was handled until then is no part of it, and reserved no more."""
        for order in self.orders.values():
            if order.handled_ms is None or order.handled_ms > as_of_ms:
                continue
            for line in order.lines:
                if line.held and (line.sku, line.location) == (change.sku, change.location):
                    self._release(line, line.held)
                    self.dirty.add(("order", order.order_id))

    def progress(self, order: Order, status: str, *, after: Sequence[str], now_ms: int) -> Refusal | None:
        """Move an order on its way to the buyer: invoiced, shipped, delivered, shipment_exception."""
        if order.status not in after:
            return Refusal("transition", f"order {order.order_id} is {order.status}: it cannot become {status}")
        order.status = status
        self.touch(order, now_ms)
        return None

    # -- the order queue -----------------------------------------------------------------------------------------

    def _enqueue(self, order: Order, now_ms: int) -> list[Fact]:
        if not self.queued:
            return []
        order.synced = False
        # An entry that nobody has been given yet will show the latest status anyway; one that is out may be deleted
        # by a client that saw the older status, so the change gets an entry of its own.
        if any(entry.order_id == order.order_id and not entry.deliveries for entry in self.queue.values()):
            return []
        self.last_entry_id += 1
        self.queue[self.last_entry_id] = QueueEntry(self.last_entry_id, order.order_id, now_ms)
        self.dirty.add(("queue", str(self.last_entry_id)))
        return [("queue", {"action": "queued", "order_id": order.order_id, "status": order.status, "deliveries": 0})]

    def next_queued(self, redelivery_ms: int, now_ms: int) -> tuple[Order, list[Fact]] | None:
        """The oldest entry nobody holds; it is hidden until `redelivery_ms` from now unless it is acknowledged."""
        for entry in self.queue.values():
            if entry.visible_ms <= now_ms:
                entry.visible_ms = now_ms + redelivery_ms
                entry.deliveries += 1
                self.dirty.add(("queue", str(entry.entry_id)))
                order = self.orders[entry.order_id]
                entry.shown_status = order.status
                fact = {"action": "delivered", "order_id": order.order_id, "status": order.status}
                return order, [("queue", fact | {"deliveries": entry.deliveries})]
        return None

    def acknowledge(self, order_id: str) -> list[Fact] | Refusal:
        """Take the delivered entry of an order out of the queue."""
        for entry in self.queue.values():
            if entry.order_id == order_id and entry.deliveries:
                del self.queue[entry.entry_id]
                order = self.orders[order_id]
                order.synced = all(other.order_id != order_id for other in self.queue.values())
                self.dirty |= {("queue", str(entry.entry_id)), ("order", order_id)}
                fact = {"action": "acknowledged", "order_id": order_id, "status": entry.shown_status}
                return [("queue", fact | {"deliveries": entry.deliveries})]
        return Refusal("not_queued", f"order {order_id} is not in the queue", 404)

    # -- stock writes --------------------------------------------------------------------------------------------

    def check(
        self,
        changes: Sequence[Change],
        *,
        delta: bool = False,
        stocked: bool = True,
        stale: bool = False,
        version: int | None = None,
    ) -> list[tuple[int, str]]:
        """What is wrong with a write: (place in `changes`, code). Empty: it may be done.

        Codes: invalid_item, invalid_location, not_stocked (only where `stocked` is asked for), negative, too_high,
        duplicate, stale (the compare differs from the number, `version` from that of the product, or the vice `stale`
        says so).
        """
        problems: list[tuple[int, str]] = []
        seen: set[tuple[str, str]] = set()
        for place, change in enumerate(changes):
            product = self.products.get(change.sku)
            number = None if product is None else product.numbers.get(change.location)
            if product is None:
                problems.append((place, "invalid_item"))
            elif change.location not in self.locations:
                problems.append((place, "invalid_location"))
            elif number is None and stocked:
                problems.append((place, "not_stocked"))
            elif change.quantity < 0 and not delta:
                problems.append((place, "negative"))
            elif abs(change.quantity) > 1_000_000_000:
                problems.append((place, "too_high"))
            elif (change.sku, change.location) in seen:
                problems.append((place, "duplicate"))
            elif (change.compare is not None and (stale or change.compare != number)) or (
                version is not None and (stale or version != product.version)
            ):
                problems.append((place, "stale"))
            seen.add((change.sku, change.location))
        return problems

    def write(
        self,
        changes: Sequence[Change],
        context: WriteContext,
        now_ms: int,
        *,
        delta: bool = False,
        silent: bool = False,
    ) -> list[Fact]:
        """Set numbers (or move them by a difference). The caller has checked that products and locations exist.

        `silent`: the client is told yes and the number stays.
        """
        facts: list[Fact] = []
        for change in changes:
            product = self.products[change.sku]
            if change.location not in product.numbers:
                product.numbers[change.location] = 0
                facts.append(("opened", {"sku": change.sku, "location": change.location, "number": 0}))
            before = product.numbers[change.location]
            if not silent:
                if context.as_of_ms is not None:
                    self._forget_handled(change, context.as_of_ms)
                reserved = product.reserved.get(change.location, 0)
                product.numbers[change.location] = change.quantity + (before if delta else -reserved)
                self._moved(product, now_ms)
            fact = {"sku": change.sku, "location": change.location, "number_before": before}
            fact |= {"number_after": product.numbers[change.location], "requested": change.quantity, "delta": delta}
            fact |= {"compare": change.compare, "reference": context.reference}
            fact |= {"idempotency_key": context.idempotency_key, "applied": not silent, "late": context.late}
            facts.append(("write", context.fields | fact))
        return facts

    def refused_write(self, changes: Sequence[Change], context: WriteContext, why: str) -> list[Fact]:
        """The row for a stock write that was turned away as a whole."""
        lines = []
        for change in changes:
            product = self.products.get(change.sku)
            number = None if product is None else product.numbers.get(change.location)
            line = {"sku": change.sku, "location": change.location, "requested": change.quantity}
            lines.append(line | {"compare": change.compare, "number": number})
        return [("write_refused", context.fields | {"why": why, "lines": lines, "late": context.late})]

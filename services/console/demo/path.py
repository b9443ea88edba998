"""Whether every order found its way: what the services said, against the books of gateway, carrier and channels. Pure.

Money: what the gateway's books took and gave back for each payment is what payments says, and for an order that has
ended, what its buyer owes. Parcels: each one that left is in the carrier's books once, with the units that the ledger
shipped, and had its invoice before. Documents: a channel that takes both heard of the invoice before the shipment.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.fulfillment.v1 import ShipmentDelivered
from contracts.inventory.v1 import AccountState, MovementRecorded
from services.console.demo.evidence import Plan
from services.console.demo.journeys import Journey, Journeys
from services.console.demo.propagation import summary

_KEPT_IN: Final = (AccountState.RESERVED, AccountState.AVAILABLE, AccountState.COUNT_DIFFERENCE)
"""Where units that leave come from: an order called off while its parcel left has given its units back by then."""


@dataclass(slots=True)
class Taken:
    """What the gateway's books know of one reference, in minor units; `charges` counts how often money was reserved or
    taken anew."""

    charges: int = 0
    reserved_minor: int = 0
    captured_minor: int = 0
    refunded_minor: int = 0


def read_gateway(rows: Iterable[Mapping[str, Any]]) -> dict[str, Taken]:
    """The gateway's books by reference. Its rows are described in `services/sandbox/gateway_accounts.py`."""
    books: dict[str, Taken] = {}
    for row in rows:
        if "reference" not in row:
            continue
        taken = books.setdefault(row["reference"], Taken())
        match row["kind"]:
            case "charge":
                taken.charges += 1
                if row["captured"]:
                    taken.captured_minor += row["amount_minor"]
                else:
                    taken.reserved_minor += row["amount_minor"]
            case "capture":
                taken.captured_minor += row["amount_minor"]
            case "refund" if row["status"] == "succeeded":
                taken.refunded_minor += row["amount_minor"]
            case _:
                pass
    return books


@dataclass(slots=True)
class Carried:
    """What the carrier's books know of parcels, by tracking code: how often each was handed over, and its last scan."""

    handed_over: dict[str, int] = field(default_factory=dict)
    shipments: dict[str, set[str]] = field(default_factory=dict)
    last_scan: dict[str, str] = field(default_factory=dict)


def read_carrier(rows: Iterable[Mapping[str, Any]]) -> Carried:
    """The carrier's books. Its rows are described in `services/sandbox/carrier_parcels.py`."""
    books = Carried()
    for row in rows:
        match row["kind"]:
            case "collected" | "printed":
                code = row["tracking_code"]
                books.handed_over[code] = books.handed_over.get(code, 0) + (row["kind"] == "collected")
                books.shipments.setdefault(row["shipment_id"], set()).add(code)
            case "scan":
                books.last_scan[row["tracking_code"]] = row["status"]
            case _:
                pass
    return books


@dataclass(frozen=True)
class PathVerdict:
    """The judgement on the orders' way. `failures` says in words what is wrong; empty: every order found it."""

    journeys: Journeys
    unended: Sequence[str]
    waiting: int
    money: Sequence[str]
    parcels: Sequence[str]
    undocumented: Sequence[str]
    told_late: Sequence[str]
    untold: Sequence[str]
    captured_minor: int
    refunded_minor: int
    due_minor: int
    labels_ms: Sequence[float]

    @property
    def failures(self) -> list[str]:
        """What is wrong, in words."""
        found = []
        for what, items in (
            ("orders have not come to an end", self.unended),
            ("sums of money do not agree with the gateway's books", self.money),
            ("parcels do not agree with the carrier's books or the ledger", self.parcels),
            ("parcels left without an invoice", self.undocumented),
            ("shipments were told before their invoice", self.told_late),
            ("channels were not told all", self.untold),
        ):
            if items:
                shown = ", ".join(items[:5])
                found.append(f"{len(items)} {what}: {shown}{' …' if len(items) > 5 else ''}")
        return found


def judge(
    journeys: Journeys,
    gateway: Mapping[str, Taken],
    carrier: Carried,
    told: Iterable[tuple[str, str, str, int]],
    movements: Iterable[MovementRecorded],
    plan: Plan,
    *,
    steps: Mapping[str, frozenset[str]],
    cancelled: Collection[tuple[str, str]] = (),
    paid: Mapping[tuple[str, str], int],
    invoiced: bool,
) -> PathVerdict:
    """Judge the orders' way. `told` has (connection, external id, step, milliseconds) of what channels were told.

    `steps`: what each connection is to be told of an order that was delivered, unless it is among those that were
    `cancelled` there (connection, external id): then it hears nothing more. `paid` has when the channel's books have
    the money of an order, milliseconds: a buyer who thinks it over is not waited for by us. `invoiced`: every order of
    this run needs an invoice before it may leave.
    """
    orders = journeys.by_order
    moments = _first_told(told)
    ours = [one for one in orders.values() if one.ours]
    return PathVerdict(
        journeys=journeys,
        unended=[order_id for order_id, one in orders.items() if not (one.ended or one.waits_for_stock)],
        waiting=sum(one.waits_for_stock for one in orders.values()),
        money=_money(orders, gateway),
        parcels=_parcels(orders, carrier, _shipped_units(movements), plan),
        undocumented=_undocumented(orders) if invoiced else [],
        told_late=_told_late(moments),
        untold=[one for key, one in _untold(orders, moments, steps) if key not in cancelled],
        captured_minor=sum(payment.captured_minor for one in ours for payment in one.ours),
        refunded_minor=sum(payment.refunded_minor for one in ours for payment in one.ours),
        due_minor=sum(one.due_minor or 0 for one in ours if one.ended),
        labels_ms=[took for one in orders.values() if (took := one.sale_to_label_ms(_paid_ms(one, paid))) is not None],
    )


def _paid_ms(one: Journey, paid: Mapping[tuple[str, str], int]) -> int:
    return paid.get((one.placed.connection_id, one.placed.external_id), 0) if one.placed else 0


def _money(orders: Mapping[str, Journey], gateway: Mapping[str, Taken]) -> list[str]:
    wrong = []
    known: set[str] = set()
    for order_id, one in orders.items():
        for payment in one.ours:
            known.add(payment.reference)
            taken = gateway.get(payment.reference, Taken())
            said = payment.captured_minor, payment.refunded_minor
            if said != (taken.captured_minor, taken.refunded_minor):
                wrong.append(
                    f"{payment.payment_id} is said to be {said[0]} taken, {said[1]} back, "
                    f"the gateway has {taken.captured_minor}, {taken.refunded_minor}"
                )
            if taken.charges > 1:
                wrong.append(f"{payment.payment_id} was charged {taken.charges} times")
        kept = sum(payment.captured_minor - payment.refunded_minor for payment in one.ours)
        if one.ours and one.ended and one.due_minor is not None and kept != one.due_minor:
            wrong.append(f"order {order_id} owes {one.due_minor}, {kept} is kept of its payments")
    wrong += [
        f"nobody asked for {reference}" for reference, taken in gateway.items() if _unasked(taken, reference, known)
    ]
    return wrong


def _unasked(taken: Taken, reference: str, known: set[str]) -> bool:
    return bool(taken.captured_minor or taken.reserved_minor) and reference not in known


def _shipped_units(movements: Iterable[MovementRecorded]) -> dict[str, dict[str, int]]:
    """Units that left for a buyer by the ledger, by order id and physical SKU."""
    shipped: dict[str, dict[str, int]] = {}
    for movement in {movement.movement_id: movement for movement in movements}.values():
        source, target = movement.from_account.state, movement.to_account.state
        left = source in _KEPT_IN and target is AccountState.SHIPPED
        taken_back = source is AccountState.SHIPPED and target is AccountState.RESERVED
        sign = left - taken_back
        if sign:
            units = shipped.setdefault(movement.line.split("/")[0], {})
            units[movement.sku] = units.get(movement.sku, 0) + sign * movement.quantity
    return shipped


def _parcels(
    orders: Mapping[str, Journey], carrier: Carried, shipped: Mapping[str, Mapping[str, int]], plan: Plan
) -> list[str]:
    wrong = []
    for order_id, one in orders.items():
        packed: dict[str, int] = {}
        for shipment_id, parcel in one.parcels.items():
            left = parcel.dispatched
            if left is None:
                continue
            for line in left.lines:
                for sku, factor in plan.factors(line.sku).items():
                    packed[sku] = packed.get(sku, 0) + factor * line.quantity
            codes = carrier.shipments.get(shipment_id, set())
            if left.tracking_code and codes != {left.tracking_code}:
                wrong.append(
                    f"{shipment_id} left as {left.tracking_code}, the carrier has {sorted(codes) or 'nothing'}"
                )
            elif carrier.handed_over.get(left.tracking_code, 0) > 1:
                wrong.append(f"{shipment_id} was handed over {carrier.handed_over[left.tracking_code]} times")
        if packed:
            booked = {sku: units for sku, units in shipped.get(order_id, {}).items() if units}
            if booked != packed:
                wrong.append(f"{order_id} left with {packed}, the ledger shipped {booked}")
    return wrong


def _undocumented(orders: Mapping[str, Journey]) -> list[str]:
    wrong = []
    for one in orders.values():
        for shipment_id, parcel in one.parcels.items():
            left = parcel.dispatched
            if left is not None and not any(invoice.issued_at <= left.at for invoice in one.invoices):
                wrong.append(shipment_id)
    return wrong


def _first_told(told: Iterable[tuple[str, str, str, int]]) -> dict[tuple[str, str], dict[str, int]]:
    """When each step of an order was told first, by (connection, external id)."""
    moments: dict[tuple[str, str], dict[str, int]] = {}
    for connection, external_id, step, at_ms in told:
        first = moments.setdefault((connection, external_id), {})
        first[step] = min(first.get(step, at_ms), at_ms)
    return moments


def _told_late(moments: Mapping[tuple[str, str], Mapping[str, int]]) -> list[str]:
    """Orders of a channel that takes invoices and heard of a shipment first."""
    return [
        f"{connection} {external_id}"
        for (connection, external_id), first in moments.items()
        if "invoice" in first and "shipment" in first and first["shipment"] < first["invoice"]
    ]


def _untold(
    orders: Mapping[str, Journey],
    moments: Mapping[tuple[str, str], Mapping[str, int]],
    steps: Mapping[str, frozenset[str]],
) -> Iterator[tuple[tuple[str, str], str]]:
    for one in orders.values():
        if one.placed is None or not any(ShipmentDelivered in parcel.facts for parcel in one.parcels.values()):
            continue
        key = one.placed.connection_id, one.placed.external_id
        if left_out := steps.get(key[0], frozenset()) - moments.get(key, {}).keys():
            yield key, f"{key[0]} {key[1]} ({', '.join(sorted(left_out))})"


def to_report(verdict: PathVerdict, *, reviews: int) -> dict[str, Any]:
    """The part of `report.json` about the orders' way. Money in minor units, times in milliseconds."""
    journeys = verdict.journeys
    orders = journeys.by_order.values()
    return {
        "ends": _ends(orders),
        "payments": journeys.payment_counts,
        "money": {
            "balanced": not verdict.money,
            "captured_minor": verdict.captured_minor,
            "refunded_minor": verdict.refunded_minor,
            "due_minor": verdict.due_minor,
        },
        "parcels": journeys.parcel_counts,
        "returns": journeys.return_counts,
        "customers": {
            "identified": len(journeys.customers), "merged": len(journeys.merges), "reviews": reviews
        },
        "documents": {
            "issued": sum(len(one.invoices) for one in orders),
            "missing": len(verdict.undocumented),
            "told_late": len(verdict.told_late),
        },
        "sale_to_label_ms": summary(verdict.labels_ms),
    }  # fmt: skip


def _ends(orders: Iterable[Journey]) -> dict[str, int]:
    """Orders by what was said of them last, in the words of their facts."""
    counts: dict[str, int] = {}
    for one in orders:
        if one.newest is not None:
            name = type(one.newest).__name__.removeprefix("Order").lower()
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))

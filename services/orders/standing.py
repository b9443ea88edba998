"""How an order stands: what it waits for, what it lacks, where its units are, and what its buyer owes. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from contracts.channels.v1 import SaleLine, SaleReported, SaleStatus
from contracts.inventory.v1 import (
    DemandLine,
    LineOutcome,
)
from contracts.orders.v1 import (
    OrderLine,
    ShortLine,
)
from services.orders import due
from services.orders.order import (
    Held,
    Order,
)
from services.orders.process import (
    NOTHING,
    Invoice,
    came_back,
    is_withdrawn,
    lost_units,
)
from services.orders.wanted import needs_invoice, paid_by_us


def hold(order: Order) -> Held | None:
    """What the order waits for beside its stock. A person comes before a mapping, a mapping before payment."""
    word = order.status
    if word is SaleStatus.CANCELLED:
        return None
    if word is SaleStatus.CANCEL_REQUESTED:
        return Held("person")
    if word is SaleStatus.UNKNOWN or unresolved_lines(order):
        return Held("mapping")
    if word is not SaleStatus.AWAITING_PAYMENT:
        return None
    checkout = order.sale.checkout
    return Held("payment", checkout.hold_until if checkout else order.sale.payment_due)


def unresolved_lines(order: Order) -> list[str]:
    """Lines that ask for something and whose SKU nobody knows yet."""
    unknown = [line for line in order.sale.lines if line.sku is None]
    if not unknown:
        return []
    known = {line.line_id for line in order.demand.lines} if order.demand else set()
    return [line.line_id for line in unknown if line.line_id not in known and line.cancelled < line.quantity]


def short_lines(order: Order) -> tuple[ShortLine, ...]:
    """What inventory said to be missing, per line and physical SKU. A cancelled order misses nothing."""
    if order.answer is None or order.status is SaleStatus.CANCELLED:
        return ()
    return tuple(
        [ShortLine(line_id=line.line_id, sku=line.sku, missing=line.short) for line in order.answer.lines if line.short]
    )


def returned_lines(order: Order) -> tuple[OrderLine, ...]:
    """What came back, by the channel's word or to our dock, per line and in all."""
    sale, received = order.sale, came_back(order.process) if order.process.returns else {}
    whole = sale.status is SaleStatus.RETURNED
    back = [
        (line, max(returned_units(sale, line), sum(one.quantity for one in received.get(line.line_id, ()))))
        for line in sale.lines
        if whole or line.returned or received
    ]
    return tuple([OrderLine.of(line_values(line, units)) for line, units in back if units])


def returned_units(sale: SaleReported, line: SaleLine) -> int:
    # A channel that calls an order returned and names no quantities means all of it.
    if sale.status is SaleStatus.RETURNED and not any(other.returned for other in sale.lines):
        return max(0, line.quantity - line.cancelled)
    return min(line.returned, line.quantity)


def left_by_word(order: Order) -> bool:
    """Whether the channel alone says that goods left. Once a parcel of ours has, the parcels say what did."""
    return order.left and not any(parcel.dispatched_at for parcel in order.process.parcels)


def owed(order: Order) -> int:
    """What the buyer owes in all: the whole order, less what is cancelled, lost or came back."""
    sale, process = order.sale, order.process
    cancelled = order.status is SaleStatus.CANCELLED
    if process is NOTHING and not cancelled and sale.total_minor and sale.status is not SaleStatus.RETURNED:
        for line in sale.lines:
            if line.cancelled or line.returned:
                break
        else:
            return sale.total_minor  # The usual case.
    if cancelled and not paid_by_us(sale):
        return 0
    kept = _arrived(order)
    freight = any(kept.values())
    kept = _kept(order, kept)
    if paid_by_us(sale) and not any(kept.values()) and is_withdrawn(process):
        freight = False  # A marketplace decides for itself.
    return due.due_minor(sale, kept, freight=freight)


def owes_freight_alone(order: Order) -> bool:
    """Whether the buyer in our own shop gave everything back, and owes the freight."""
    back = order.process.returns and paid_by_us(order.sale) and not any(_kept(order, _arrived(order)).values())
    return bool(back) and owed(order) > 0


def _arrived(order: Order) -> dict[str, int]:
    """Units by line that the buyer was sent or is to be sent, without those that were lost."""
    lost = lost_units(order.process)
    return {line_id: max(0, units - lost[line_id]) for line_id, units in _bought(order).items()}


def _kept(order: Order, arrived: Mapping[str, int]) -> dict[str, int]:
    """Those of the units `arrived` that did not come back, by the channel's word or to our dock."""
    received = came_back(order.process, missing=False)
    back = {
        line.line_id: max(returned_units(order.sale, line), sum(one.quantity for one in received.get(line.line_id, ())))
        for line in order.sale.lines
    }
    return {line_id: max(0, units - back[line_id]) for line_id, units in arrived.items()}


def _bought(order: Order) -> dict[str, int]:
    """Units by line that the buyer was sent or is to be sent, whatever became of them afterwards."""
    if order.status is not SaleStatus.CANCELLED:
        return {line.line_id: max(0, line.quantity - line.cancelled) for line in order.sale.lines}
    # Money follows the goods: what may still leave is owed until its parcel is stopped.
    left = Counter[str]()
    for parcel in order.process.parcels:
        left.update(dict(parcel.lines) if parcel.open or parcel.dispatched_at else {})
    return {line.line_id: min(line.quantity, left[line.line_id]) for line in order.sale.lines}


def is_doubtful(order: Order) -> bool:
    """Whether a person is to compare the order with its invoice: goods left with one over another sum, as where a
    parcel was faster than the wish to stop it, or the sale names no price, so that nothing could be compared."""
    process, invoice = order.process, order.process.invoice
    if invoice is None or not needs_invoice(order.sale) or process.answer(invoice.document_id):
        return False
    gone = any(parcel.dispatched_at for parcel in process.parcels)
    if order.status is SaleStatus.CANCELLED and not gone:
        return False
    bought = _bought(order)
    sum_minor = due.due_minor(order.sale, bought, freight=any(bought.values()))
    return sum_minor == 0 or ((gone or order.left) and sum_minor != invoice.total_minor)


def misfit(order: Order) -> Invoice | None:
    """The invoice that an order may not leave with, because its buyer owes another sum than it is over.

    What leaves, leaves with an NF-e whose total agrees; once it has left, only another NF-e that undoes it in part can
    follow. A sale that names no price fits any, and a person compares them.
    """
    invoice = order.process.invoice
    if invoice is None or order.status is SaleStatus.CANCELLED or not needs_invoice(order.sale):
        return None
    if order.left or any(parcel.dispatched_at for parcel in order.process.parcels):
        return None
    return None if owed(order) in (0, invoice.total_minor) else invoice


def shippable(order: Order) -> dict[str, Counter[str]]:
    """Per line and location, how many units of the demanded SKU are reserved and can leave."""
    assert order.demand
    assert order.answer
    return {
        line.line_id: _kits_by_location(line, [part for part in order.answer.lines if part.line_id == line.line_id])
        for line in order.demand.lines
    }


def _kits_by_location(line: DemandLine, parts: Sequence[LineOutcome]) -> Counter[str]:
    """Reserved units of `line`'s SKU per location.

    A kit counts where all its components lie. One whose components lie apart stays reserved: one location cannot tell
    what left where, and units wrongly taken from one place would go back on sale in another.
    """
    per_part = [
        Counter({at.location: at.quantity // factor for at in part.locations})
        for part, factor in zip(parts, _factors(line, parts), strict=True)
    ]
    if not per_part:
        return Counter()
    return Counter({at: min(part[at] for part in per_part) for at in per_part[0]})


def _factors(line: DemandLine, parts: Iterable[LineOutcome]) -> list[int]:
    """How many units of each part one unit of the demanded SKU takes, from what inventory accounts for in all."""
    asked = line.ordered - line.cancelled
    return [
        1 if part.sku == line.sku or not asked else max(1, (part.reserved + part.short + part.shipped) // asked)
        for part in parts
    ]


class Standing(NamedTuple):
    """Where one line stands, in units of its own SKU. ordered = cancelled + reserved + short + open.

    `reserved` includes what has since been shipped; `open` waits for an answer of inventory or for a mapping.
    """

    line_id: str
    sku: str | None
    ordered: int
    cancelled: int
    reserved: int
    short: int
    open: int
    shipped: int
    returned: int


def standing(order: Order) -> tuple[Standing, ...]:
    """Where each line of the order stands."""
    demanded = {line.line_id: line for line in order.demand.lines} if order.demand else {}
    missing = [part for part in order.answer.lines if part.short] if order.answer and order.settled else None
    whole = order.status is SaleStatus.CANCELLED
    return tuple([_stands(line, demanded.get(line.line_id), missing, whole=whole) for line in order.sale.lines])


def _stands(line: SaleLine, told: DemandLine | None, missing: list[LineOutcome] | None, *, whole: bool) -> Standing:
    """Where `line` stands, `missing` being what the answer to the newest demand lacks; None where there is none yet."""
    cancelled = told.cancelled if told else line.quantity if whole else min(line.cancelled, line.quantity)
    asked = line.quantity - cancelled
    answered = told is not None and missing is not None
    short = 0
    if told and missing:
        parts = [part for part in missing if part.line_id == line.line_id]
        kits = [-(-part.short // factor) for part, factor in zip(parts, _factors(told, parts), strict=True)]
        short = min(asked, max(kits, default=0))
    # By position: named arguments take twice as long, and every order is looked at twice.
    return Standing(
        line.line_id,
        told.sku if told else line.sku,
        line.quantity,
        cancelled,
        asked - short if answered else 0,
        short,
        0 if answered else asked,
        sum(was.quantity for was in told.shipped) if told and told.shipped else 0,
        sum(was.quantity for was in told.returned) if told and told.returned else 0,
    )


def units(order: Order) -> tuple[int, int, int, int, int]:
    """Units of the whole order: ordered, cancelled, reserved, short, open."""
    ordered = cancelled = reserved = short = still_open = 0
    for line in standing(order):
        ordered += line.ordered
        cancelled += line.cancelled
        reserved += line.reserved
        short += line.short
        still_open += line.open
    return ordered, cancelled, reserved, short, still_open


def line_values(line: SaleLine, quantity: int) -> dict[str, object]:
    """The values of an `OrderLine` about `quantity` of `line`."""
    return {
        "line_id": line.line_id,
        "sku": line.sku,
        "quantity": quantity,
        "unit_price_minor": line.unit_price_minor,
        "discount_minor": line.discount_minor,
    }


def lines_told(order: Order) -> tuple[OrderLine, ...]:
    """What is still asked for, line by line."""
    return tuple(
        OrderLine.of(line_values(line, line.quantity - line.cancelled))
        for line in order.sale.lines
        if line.cancelled < line.quantity
    )

"""Which step of an order's progress a channel is told next. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from contracts.channels.v1 import OrderProgress, ParcelTold, TrackingTold


class Kind(StrEnum):
    """What a step tells; the words of `Traits.reports`. `INVOICE_AGAIN`: one that took the place of one told before."""

    INVOICE = "invoice"
    INVOICE_AGAIN = "invoice_again"
    SHIPMENT = "shipment"
    TRACKING = "tracking"
    DELIVERY = "delivery"
    CANCEL = "cancel"


class State(StrEnum):
    """How far a step got. `GOING`: the channel may have heard it."""

    GOING = "going"
    ACCEPTED = "accepted"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to tell. `name` is the contract's ProgressStep, `invoice_id` what the step `invoice` tells."""

    kind: Kind
    name: str
    parcel: ParcelTold | None = None
    scan: TrackingTold | None = None
    invoice_id: str = ""


def steps(wanted: OrderProgress, reports: frozenset[str]) -> list[Step]:
    """All there is to tell, in the order it is told; what the channel takes no report of is left out.

    A cancel stands alone, and is there even for a channel that takes none: somebody has to hear that it does not.
    """
    if wanted.cancelled_reason is not None:
        return [Step(Kind.CANCEL, "cancel")]
    found = [Step(Kind.INVOICE, "invoice", invoice_id=wanted.invoice.invoice_id)] if wanted.invoice else []
    for parcel in wanted.parcels:
        found.append(Step(Kind.SHIPMENT, f"shipment:{parcel.shipment_id}", parcel))
        if parcel.delivered_at:
            found.append(Step(Kind.DELIVERY, f"delivery:{parcel.shipment_id}", parcel))
        elif parcel.tracking:
            # A channel shows where a parcel is, not where it was.
            last = len(parcel.tracking) - 1
            found.append(Step(Kind.TRACKING, f"tracking:{parcel.shipment_id}:{last}", parcel, parcel.tracking[last]))
    return [step for step in found if step.kind in reports]


def next_step(wanted: OrderProgress, done: Mapping[str, State], reports: frozenset[str]) -> Step | None:
    """The first step not answered yet whose predecessors are accepted; None where a person or news is waited for.

    No parcel is told of before the invoice, nothing of a parcel before that it left. An invoice that took the place of
    one the channel has is a step of its own, which holds nothing back.
    """
    blocked: set[str] = set()
    for step in steps(wanted, reports):
        of = step.parcel.shipment_id if step.parcel else ""
        if blocked & {"", of}:
            continue
        match done.get(step.name):
            case State.ACCEPTED:
                if step.kind is Kind.INVOICE and (another := _other_invoice(wanted, done)):
                    return another
            case State.REFUSED:
                if step.kind in (Kind.INVOICE, Kind.SHIPMENT, Kind.CANCEL):
                    blocked.add(of)
            case _:
                return step
    return None


def told_as(invoice_id: str) -> str:
    """What is known as done once this invoice was told, beside the step `invoice`, which any is told as at first."""
    return f"{Kind.INVOICE}:{invoice_id}"


def _other_invoice(wanted: OrderProgress, done: Mapping[str, State]) -> Step | None:
    assert wanted.invoice
    name = told_as(wanted.invoice.invoice_id)
    known = any(one.startswith(told_as("")) for one in done)
    if not known or done.get(name) in (State.ACCEPTED, State.REFUSED):
        return None
    return Step(Kind.INVOICE_AGAIN, name)


def is_told(step: Step, told: frozenset[str]) -> bool:
    """Whether the channel shows (`ChannelOrder.told`) that it has heard a step.

    A channel names a parcel by its tracking code where it tells several apart; one that knows a single parcel of an
    order has heard of all with the first.
    """
    code = step.parcel.tracking_code if step.parcel else ""
    return step.kind.value in told or (bool(code) and f"{step.kind}:{code}" in told)


def retry_after_s(tries: int) -> float:
    """How long to wait before a step is tried again whose outcome is unknown."""
    return min(300.0, 2.0 * 2.0 ** min(tries, 10))

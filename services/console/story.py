"""An order's story in words: each step as a time, who took it, and what it was. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from services.console.pages import money

HELD: Final = {
    "payment": "waits for its payment",
    "mapping": "waits for a SKU or a status to be mapped",
    "person": "waits for a person's word",
    "invoice": "waits for its invoice",
    "shipping": "waits for a person to see to a parcel",
    "refund": "waits for a person's word on money or a lost parcel",
}
WHY: Final = {
    "channel": "by the channel",
    "person": "by a person",
    "payment_expired": "it was not paid in time",
    "payment_failed": "its payment failed",
    "sold_out": "stock was missing",
    "lost": "its parcel was lost",
}
_SCANS: Final = {
    "accepted": "taken by the carrier",
    "in_transit": "in transit",
    "out_for_delivery": "out for delivery",
    "attempt_failed": "delivery was tried in vain",
    "delivered": "delivered",
    "returning": "on its way back",
    "returned": "back at the sender",
    "lost": "lost",
}
_STEPS: Final = {"invoice": "the invoice", "cancel": "the cancelling"}
_OWED: Final = {"OrderPaid": "paid", "OrderDelivered": "delivered as a whole", "OrderChanged": "changed by the channel"}


class Told(NamedTuple):
    """A step for people: its time as JSON gives it, who took it, in words, and its trace's id, empty if unknown."""

    at: str
    who: str
    words: str
    trace: str


def told(steps: Iterable[Mapping[str, Any]], currency: str) -> list[Told]:
    """The steps worth a person's time, oldest first: what says again what the step before it said is left out."""
    story: list[Told] = []
    progress = ""
    for step in steps:
        detail = step["detail"]
        if step["what"].startswith("OrderProgress"):
            # It is sent again with each scan and each sum; the channel's answers are steps of their own.
            if detail.get("state") == progress:
                continue
            progress = detail.get("state", "")
        if step["what"] == "parcel delivered":
            continue  # Its carrier says it, with the time.
        who, words = _said(step["service"], step["what"], detail, currency)
        if not story or (who, words) != (story[-1].who, story[-1].words):
            story.append(Told(step["at"], who, words, step["trace"]))
    return story


def part(identity: str) -> str:
    """`payment 1` or `parcel 1` from an id as `<order id>:p1`, `<order id>:s1`."""
    tail = identity.rpartition(":")[2]
    kind = {"p": "payment", "s": "parcel"}.get(tail[:1], "")
    return f"{kind} {tail[1:]}" if kind and tail[1:].isdecimal() else identity


def units(lines: Iterable[Mapping[str, Any]], name: str = "quantity") -> str:
    """Lines as `2 × MUG, 1 × CUP`."""
    return ", ".join(f"{line[name]} × {line['sku']}" for line in lines)


def _said(service: str, what: str, detail: Mapping[str, Any], currency: str) -> tuple[str, str]:
    """Who and what. A name that nobody put into words yet is told as it is."""
    name, _, rest = what.partition(" ")
    about = rest.rpartition(" r")[0] or rest
    currency = detail.get("currency", currency)
    match name:
        case "gateway":
            return "gateway", f"{_tried(detail)}{rest}, {money(detail.get('amount_minor'), currency)}"
        case "invoice":
            return service, f"invoice {detail.get('invoice_key') or detail.get('document_id', '')} issued"
        case "parcel":
            return service, _parcel(rest, detail)
        case "PersonSaid":
            return "person", f"answered: {rest}"
        case "ProgressAccepted":
            return "channel", f"heard of {_step(about)}"
        case "ProgressRefused":
            return "channel", f"refused to hear of {_step(about)}: {detail.get('reason', '')}"
        case "ShipmentTracked" | "ShipmentDelivered":
            scan = rest or "delivered"
            return "carrier", f"{part(detail['shipment_id'])}: {_SCANS.get(scan, scan)}"
        case "ShipmentDispatched":
            return "fulfillment", f"{part(detail['shipment_id'])} has left"
        case "PaymentReceived":
            return "payments", f"{part(detail['payment_id'])}: {money(detail['amount_minor'], currency)} is sure"
        case _ if name.endswith(("Payment", "Shipment")) or name == "OrderProgress":
            return service, _asked(name, about, detail, currency)
        case _:
            return service, _became(name, detail, currency) or what


def _tried(detail: Mapping[str, Any]) -> str:
    tries = detail.get("tries", 1)
    return f"after {tries} tries, " if tries > 1 else ""


def _parcel(reached: str, detail: Mapping[str, Any]) -> str:
    waits = f", waits for {detail['waits_for']}" if detail.get("waits_for") else ""
    return f"{part(detail['shipment_id'])} is {reached.replace('_', ' ')}{waits}"


def _step(about: str) -> str:
    """What a channel is told, from the step's name, as `tracking:<parcel>:0`."""
    kind, _, rest = about.partition(":")
    if kind == "tracking":
        rest = rest.rpartition(":")[0]
        return f"a scan of {part(rest)}"
    named = {"shipment": "the sending of", "delivery": "the delivery of"}.get(kind, kind)
    return _STEPS.get(kind, kind) if not rest else f"{named} {part(rest)}"


def _asked(name: str, about: str, detail: Mapping[str, Any], currency: str) -> str:
    """A command that orders sent."""
    match name:
        case "AuthorizePayment":
            through = f"{detail.get('method', '')} through {detail.get('gateway', '')}"
            return f"asks for {part(about)}: {money(detail.get('amount_minor'), currency)} by {through}"
        case "CapturePayment":
            return f"asks to take {money(detail.get('captured_total_minor'), currency)} of {part(about)}"
        case "RefundPayment":
            back = money(detail.get("refunded_total_minor"), currency)
            return f"asks to give back {back} of {part(about)}: {WHY.get(detail['reason'], detail['reason'])}"
        case "VoidPayment":
            return f"asks to let {part(about)} go: {WHY.get(detail['reason'], detail['reason'])}"
        case "PrepareShipment":
            return f"asks for {part(about)} from {detail.get('location', '')}: {units(detail.get('lines', ()))}"
        case "CancelShipment":
            return f"asks to stop {part(about)}: {WHY.get(detail['reason'], detail['reason'])}"
        case "OrderProgress":
            return f"has the channel told: {detail.get('state', '')}"
        case _:
            return f"{name} {about}".strip()


def _became(name: str, detail: Mapping[str, Any], currency: str) -> str:
    """What became of the order; empty for a fact that has no words here."""
    match name:
        case "OrderPlaced":
            return "taken in, its stock is asked for"
        case "OrderConfirmed":
            return "confirmed: its stock is reserved"
        case "OrderHeld":
            return HELD.get(detail["reason"], f"waits for {detail['reason']}")
        case "OrderShort":
            return f"stock is missing: {units(detail['lines'], 'missing')}"
        case "OrderInvoiced":
            return f"invoiced over {money(detail.get('total_minor'), currency)}"
        case "OrderPacked":
            return f"packed: {', '.join(part(one) for one in detail['shipment_ids'])}"
        case "OrderShipped":
            return "shipped as a whole"
        case "OrderReturned":
            return f"came back: {units(detail['lines'])}"
        case "OrderCancelling" | "OrderCancelled":
            state = "is being cancelled" if name == "OrderCancelling" else "cancelled"
            return f"{state}: {WHY.get(detail['reason'], detail['reason'])}"
        case "OrderClosed":
            return "closed: nothing more will happen"
        case _ if name in _OWED:
            return f"{_OWED[name]}, {money(detail.get('due_minor'), currency)} due"
        case _:
            return ""

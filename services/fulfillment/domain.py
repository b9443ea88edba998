"""The shipment as a state machine. Pure.

What is known of a shipment only ever grows: commands by revision, the buyer by revision of the sale, scans as a set.
The state follows from it, so that commands, buyers and scans may come in any order and as often as they like.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from contracts.envelope import Message
from contracts.fulfillment.v1 import (
    CancelShipment,
    ChangeAddress,
    LabelCreated,
    PrepareShipment,
    ReceivedLine,
    ReturnReceived,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentFailed,
    ShipmentLine,
    ShipmentPrepared,
    ShipmentTracked,
    TrackingStatus,
)

State = Literal[
    "wanted", "awaiting_address", "to_pick", "picked", "packed", "buying", "labelled", "stopping", "dispatched",
    "in_transit", "lost", "delivered", "returning", "returned", "cancelled",
]  # fmt: skip

RANKS: Final = {
    TrackingStatus.UNKNOWN: 0,
    TrackingStatus.ACCEPTED: 1,
    TrackingStatus.IN_TRANSIT: 2,
    TrackingStatus.ATTEMPT_FAILED: 3,
    TrackingStatus.OUT_FOR_DELIVERY: 3,
    TrackingStatus.LOST: 4,
    TrackingStatus.DELIVERED: 5,
    TrackingStatus.RETURNING: 6,
    TrackingStatus.RETURNED: 7,
}
"""How far a parcel is. A carrier's reports come in any order: the farthest counts, and of equals the latest."""

_STATE_OF: Final[dict[TrackingStatus, State]] = {
    TrackingStatus.UNKNOWN: "dispatched",
    TrackingStatus.LOST: "lost",
    TrackingStatus.DELIVERED: "delivered",
    TrackingStatus.RETURNING: "returning",
    TrackingStatus.RETURNED: "returned",
}


_HAS_IT: Final = frozenset(RANKS) - {TrackingStatus.UNKNOWN, TrackingStatus.LOST}
"""What a carrier only says of a parcel that it was given."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Where the carrier says that the parcel was; `detail` is a word of ours."""

    status: TrackingStatus
    happened_at: datetime
    detail: str = ""


@dataclass(frozen=True, slots=True)
class BuyerKnown:
    """The buyer's address is kept, as of this revision of the sale (0: not said)."""

    sale_revision: int


@dataclass(frozen=True, slots=True)
class BuyerForgotten:
    """The buyer was erased: a shipment that is wanted again after that waits for a new report."""


@dataclass(frozen=True, slots=True)
class Named:
    """What the sale calls carrier and service, in our words; "" where nobody has said."""

    carrier: str
    service: str


@dataclass(frozen=True, slots=True)
class Picked:
    """The goods are taken from the shelf."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The goods are in a parcel of this weight and size."""

    weight_g: int
    dimensions_mm: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Buying:
    """The label is about to be bought: from here on the carrier may have heard of the parcel."""


@dataclass(frozen=True, slots=True)
class LabelMade:
    """The label is bought and kept. `reference` is how `provider`, who was asked for it, names the parcel."""

    label_id: str
    carrier: str
    service: str
    reference: str = ""
    tracking_code: str = ""
    tracking_url: str = ""
    price_minor: int | None = None
    currency: str | None = None
    provider: str = ""


@dataclass(frozen=True, slots=True)
class CarrierRefused:
    """There is no label: nobody carries this parcel there (`no_service`), or the carrier refuses it."""

    reason: str


@dataclass(frozen=True, slots=True)
class TryAgain:
    """What was refused may go now: rates changed, or a person says so."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The carrier's answer to the wish to cancel a bought label."""

    done: bool


@dataclass(frozen=True, slots=True)
class Dispatched:
    """The parcel was handed over."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Received:
    """Goods that came back, all lines of this return."""

    return_id: str
    lines: tuple[ReceivedLine, ...]
    received_at: datetime


Command: TypeAlias = PrepareShipment | CancelShipment | ChangeAddress
Event: TypeAlias = (
    Command | BuyerKnown | BuyerForgotten | Named | Picked | Packed | Buying | LabelMade | CarrierRefused | TryAgain
    | Stopped | Dispatched | Scan | Received
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shipment:
    """All that is known of one shipment. The three revisions are those of the newest command of each kind."""

    shipment_id: str
    order_id: str
    prepare: PrepareShipment | None = None
    cancel_revision: int = 0
    address_revision: int = 0
    version: int = 0
    sale_revision: int = 0
    buyer_revision: int | None = None
    carrier: str = ""
    service: str = ""
    picked: bool = False
    packed: Packed | None = None
    buying: bool = False
    blocked: str = ""
    label: LabelMade | None = None
    cancelled: bool = False
    dispatched_at: datetime | None = None
    delivered_at: datetime | None = None
    scans: tuple[Scan, ...] = ()
    returns: tuple[Received, ...] = ()

    @property
    def revision(self) -> int:
        """Of the newest command."""
        return max(self.prepare.revision if self.prepare else 0, self.cancel_revision, self.address_revision)

    @property
    def unwanted(self) -> bool:
        """The newest word about the whole shipment is to cancel it."""
        return self.prepare is not None and self.cancel_revision > self.prepare.revision

    @property
    def has_address(self) -> bool:
        """The buyer is known, as new as the newest command asks for."""
        return self.buyer_revision is not None and self.buyer_revision >= self.sale_revision

    @property
    def is_named(self) -> bool:
        """What the sale calls carrier and service is understood; where it names none, the cheapest is taken."""
        asked = self.prepare
        return asked is not None and bool(self.carrier or not asked.carrier) and bool(self.service or not asked.service)

    @property
    def has_invoice(self) -> bool:
        """There is an invoice's key, or none is required."""
        return self.prepare is not None and (not self.prepare.invoice_required or bool(self.prepare.invoice_key))

    @property
    def awaits_label(self) -> bool:
        """Everything that a label needs is there, and none was asked for yet."""
        return self.state == "packed" and self.has_invoice and self.is_named and not self.blocked

    @property
    def tracking(self) -> Scan | None:
        """The scan that counts."""
        return max(self.scans, key=lambda scan: (RANKS[scan.status], scan.happened_at), default=None)

    @property
    def state(self) -> State:
        """Where the shipment stands."""
        if self.prepare is None:
            return "wanted"
        if self.cancelled:
            return "cancelled"
        if self.dispatched_at is not None:
            scan = self.tracking
            return _STATE_OF.get(scan.status, "in_transit") if scan else "dispatched"
        if self.label is not None:
            return "stopping" if self.unwanted else "labelled"
        if self.buying:
            return "buying"
        if not self.has_address:
            return "awaiting_address"
        return "packed" if self.packed else "picked" if self.picked else "to_pick"


@dataclass(frozen=True, slots=True)
class Decision:
    """The shipment afterwards, what is told, and why the event changed nothing (in words for the person who tried)."""

    shipment: Shipment
    facts: tuple[Message, ...] = ()
    refused: str = ""


def decide(before: Shipment, event: Event, now: datetime) -> Decision:
    """What `event` makes of the shipment; one that is not heard of yet is `Shipment(shipment_id, order_id)`."""
    if isinstance(event, PrepareShipment | CancelShipment | ChangeAddress):
        return _command(before, event, now)
    if isinstance(event, BuyerKnown):
        return Decision(replace(before, buyer_revision=max(before.buyer_revision or 0, event.sale_revision)))
    if isinstance(event, BuyerForgotten):
        return Decision(replace(before, buyer_revision=None))
    if isinstance(event, Named):
        if before.label is None and not before.buying:
            return Decision(replace(before, carrier=event.carrier, service=event.service))
        return Decision(before)
    if isinstance(event, TryAgain):
        return Decision(replace(before, blocked=""))
    if isinstance(event, Scan):
        return _scanned(before, event, now)
    if isinstance(event, Dispatched):
        return _dispatched(before, event, now)
    if isinstance(event, Received):
        return _received(before, event)
    if isinstance(event, Picked | Packed):
        return _packing(before, event, now)
    return _labelling(before, event, now)


def _command(before: Shipment, command: Command, now: datetime) -> Decision:
    if isinstance(command, PrepareShipment):
        return _prepare(before, command, now)
    if isinstance(command, CancelShipment):
        if command.revision <= before.cancel_revision:
            return Decision(before)
        return _settled(before, replace(before, cancel_revision=command.revision), now)
    if command.revision <= before.address_revision:
        return Decision(before)
    after = replace(
        before, address_revision=command.revision, sale_revision=max(before.sale_revision, command.sale_revision)
    )
    printed = (after.buying or after.label is not None) and not after.cancelled
    return _told(after, now, too_late=printed and command.sale_revision > (before.buyer_revision or 0))


def _prepare(before: Shipment, command: PrepareShipment, now: datetime) -> Decision:
    was = before.prepare
    if was is not None and command.revision <= was.revision:
        return Decision(before)
    after = replace(before, prepare=command, blocked="")
    if was is None:
        return _settled(before, after, now)
    if before.cancelled and not after.unwanted:
        fresh = Shipment(before.shipment_id, before.order_id, command, before.cancel_revision, before.address_revision)
        again = replace(
            fresh, version=before.version, sale_revision=before.sale_revision, buyer_revision=before.buyer_revision
        )
        return Decision(again)
    if (was.carrier, was.service) != (command.carrier, command.service) and before.label is None and not before.buying:
        after = replace(after, carrier="", service="")
    differs = set(was.lines) != set(command.lines) or was.location != command.location
    if before.buying or before.label is not None:
        # What is on its way to the carrier stays as it is, with its invoice; the rest of the command is obeyed.
        update: dict[str, Any] = {"lines": was.lines, "location": was.location}
        if not after.has_invoice:
            update["invoice_required"], update["invoice_key"] = was.invoice_required, was.invoice_key
        kept = replace(after, prepare=command.model_copy(update=update))
        return _told(kept, now, too_late=differs and not before.cancelled)
    if differs:
        after = replace(after, picked=False, packed=None)
    return _settled(before, after, now)


def _settled(before: Shipment, after: Shipment, now: datetime) -> Decision:
    """What a command leads to at once: an unwanted shipment that nobody has a label of is cancelled."""
    if not after.unwanted:
        return Decision(after)
    if after.dispatched_at is not None:
        return _told(after, now, too_late=after.cancel_revision > before.cancel_revision)
    if after.cancelled or (after.label is None and not after.buying):
        # A repeated wish is answered again: whoever repeats it may not have heard.
        return _tell(replace(after, cancelled=True), ShipmentCancelled, now)
    return Decision(after)


def _packing(before: Shipment, event: Picked | Packed, now: datetime) -> Decision:
    if before.state not in ("to_pick", "picked", "packed"):
        return Decision(before, refused=f"it is {before.state}: only what has an address and no label is packed")
    if isinstance(event, Picked):
        return Decision(replace(before, picked=True))
    if event.weight_g <= 0 or min(event.dimensions_mm) <= 0:
        return Decision(before, refused="weight and dimensions must be more than zero")
    if event == before.packed:
        return Decision(before)
    after = replace(before, picked=True, packed=event)
    decision = _tell(after, ShipmentPrepared, now, weight_g=event.weight_g, dimensions_mm=event.dimensions_mm)
    if after.has_invoice:
        return decision
    missing = _tell(decision.shipment, ShipmentFailed, now, reason="invoice_missing", final=False)
    return Decision(missing.shipment, decision.facts + missing.facts)


def _labelling(before: Shipment, event: Buying | LabelMade | CarrierRefused | Stopped, now: datetime) -> Decision:
    if isinstance(event, Buying):
        if not before.awaits_label:
            return Decision(before, refused=f"it is {before.state} and not ready for a label")
        return Decision(replace(before, buying=True))
    if isinstance(event, Stopped):
        if before.state != "stopping":
            return Decision(before)
        if event.done:
            return _tell(replace(before, cancelled=True), ShipmentCancelled, now)
        # It goes on: the wish to cancel is answered, and no longer stands against the shipment.
        return _told(replace(before, cancel_revision=0, prepare=_renewed(before)), now, too_late=True)
    if not before.buying or before.label is not None:
        return Decision(before)
    if isinstance(event, CarrierRefused):
        after = replace(before, buying=False, blocked=event.reason)
        if after.unwanted:
            return _settled(before, after, now)
        return _tell(after, ShipmentFailed, now, reason=event.reason, final=False)
    after = replace(before, buying=False, label=event, carrier=event.carrier, service=event.service)
    return _tell(
        after, LabelCreated, now, label_id=event.label_id, price_minor=event.price_minor, currency=event.currency,
        **_parcel(after),
    )  # fmt: skip


def _renewed(shipment: Shipment) -> PrepareShipment | None:
    return shipment.prepare and shipment.prepare.model_copy(update={"revision": shipment.revision})


def _dispatched(before: Shipment, event: Dispatched, now: datetime) -> Decision:
    if before.label is None or before.cancelled:
        return Decision(before, refused=f"it is {before.state}: only what has a label leaves")
    if before.dispatched_at is not None:
        return Decision(replace(before, dispatched_at=min(before.dispatched_at, event.at)))
    after = replace(before, dispatched_at=event.at)
    told = _tell(after, ShipmentDispatched, now, dispatched_at=event.at, **_parcel(after))
    late = _told(told.shipment, now, too_late=after.unwanted)
    return Decision(late.shipment, told.facts + late.facts)


def _scanned(before: Shipment, scan: Scan, now: datetime) -> Decision:
    if before.label is None or (before.cancelled and scan.status not in _HAS_IT):
        return Decision(before, refused=f"it is {before.state}: only what has a label is followed")
    if scan in before.scans:
        return Decision(before)
    # A carrier that has the parcel says that it left, whether or not anybody said so here, and even where it was to be
    # stopped: who counts it as back on the shelf counts goods that are with the buyer.
    left = _dispatched(replace(before, cancelled=False), Dispatched(scan.happened_at), now)
    shipment, facts = replace(left.shipment, scans=(*left.shipment.scans, scan)), list(left.facts)
    told = _tell(
        shipment, ShipmentTracked, now, status=scan.status, happened_at=scan.happened_at, detail=scan.detail or None,
        **_parcel(shipment),
    )  # fmt: skip
    shipment, facts = told.shipment, [*facts, *told.facts]
    if scan.status is TrackingStatus.DELIVERED:
        first = before.delivered_at is None
        shipment = replace(shipment, delivered_at=min(before.delivered_at or scan.happened_at, scan.happened_at))
        if first:
            told = _tell(shipment, ShipmentDelivered, now, delivered_at=scan.happened_at, **_parcel(shipment))
            shipment, facts = told.shipment, [*facts, *told.facts]
    if shipment.state == "lost" and before.state != "lost":
        told = _tell(shipment, ShipmentFailed, now, reason="lost", final=True)
        shipment, facts = told.shipment, [*facts, *told.facts]
    return Decision(shipment, tuple(facts))


def _received(before: Shipment, event: Received) -> Decision:
    """A return of no more than was sent; one with a known id replaces what was said of it."""
    if before.prepare is None or before.dispatched_at is None:
        return Decision(before, refused=f"it is {before.state}: only what left comes back")
    if event in before.returns:
        return Decision(before)
    returns = (*(one for one in before.returns if one.return_id != event.return_id), event)
    sent = {(line.line_id, line.sku): line.quantity for line in before.prepare.lines}
    for one in returns:
        for line in one.lines:
            place = (line.line_id, line.sku)
            sent[place] = sent.get(place, 0) - line.quantity
            if sent[place] < 0:
                return Decision(before, refused=f"more of line {line.line_id} ({line.sku}) comes back than was sent")
    after = replace(before, returns=returns, version=before.version + 1)
    fact = ReturnReceived(
        order_id=after.order_id,
        shipment_id=after.shipment_id,
        version=after.version,
        return_id=event.return_id,
        lines=event.lines,
        received_at=event.received_at,
    )
    return Decision(after, (fact,))


def _told(shipment: Shipment, now: datetime, *, too_late: bool) -> Decision:
    """The decision, with the answer to a command that came too late where it did."""
    return _tell(shipment, ShipmentFailed, now, reason="too_late", final=False) if too_late else Decision(shipment)


def _parcel(shipment: Shipment) -> dict[str, str]:
    label = shipment.label
    assert label is not None
    return {
        "carrier": label.carrier,
        "service": label.service,
        "tracking_code": label.tracking_code,
        "tracking_url": label.tracking_url,
    }


def _tell(shipment: Shipment, fact: type[Message], now: datetime, **more: object) -> Decision:
    """The decision that tells `fact`, with the next version."""
    prepare = shipment.prepare
    assert prepare is not None
    lines: tuple[ShipmentLine, ...] = prepare.lines
    after = replace(shipment, version=shipment.version + 1)
    said = fact.model_validate(
        {
            "order_id": after.order_id,
            "shipment_id": after.shipment_id,
            "version": after.version,
            "revision": after.revision,
            "location": prepare.location,
            "lines": lines,
            "at": now,
            **more,
        }
    )
    return Decision(after, (said,))

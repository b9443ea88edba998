"""What an order wants of payments, fulfillment and channels, compared with what it has asked of them. Pure.

Every command is absolute and carries a revision, so that one that is lost, doubled or late does no harm: the deadline
of the order's stage has it sent again. Nothing is sent that says what was said before.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b
from typing import Final, TypeAlias, final

from contracts.channels.v1 import (
    InvoiceRule,
    InvoiceTold,
    OrderProgress,
    ParcelTold,
    PaymentCollector,
    PaymentTold,
    ProgressLine,
    SaleReported,
    TrackingTold,
)
from contracts.fulfillment.v1 import CancelShipment, PrepareShipment, ShipmentLine
from contracts.payments.v1 import AuthorizePayment, CapturePayment, PaymentMethod, RefundPayment, VoidPayment
from services.orders.process import Parcel, Payment, Process, departed, held_back, lost_units

Command: TypeAlias = (
    AuthorizePayment | CapturePayment | VoidPayment | RefundPayment | PrepareShipment | CancelShipment | OrderProgress
)
US: Final = "us"
PAYABLE: Final = (PaymentMethod.CARD, PaymentMethod.PIX)


@final
@dataclass(frozen=True, slots=True)
class View:
    """An order as its process sees it. Units are of the demanded SKU of each line that we ship.

    `due_minor` is what the buyer owes in all; `asked` what is still wanted of each line, `reserved` where its stock
    lies (None while inventory has not answered the newest demand). `payable`: stock is there and money is not. `ready`:
    nothing stands between it and the packing table. `by_word`: the channel says that the goods left, and not by us.
    `misfit`: it has an invoice, over another sum than is owed.
    """

    sale: SaleReported
    due_minor: int
    cancelled: bool
    payable: bool
    ready: bool
    by_word: bool
    misfit: bool
    asked: Mapping[str, int]
    skus: Mapping[str, str]
    reserved: Mapping[str, Mapping[str, int]] | None


def paid_by_us(sale: SaleReported) -> bool:
    """Whether the buyer's money is to come through a gateway of ours."""
    return sale.checkout is not None and sale.checkout.payment_by is PaymentCollector.US


def needs_invoice(sale: SaleReported) -> bool:
    """Whether the order may not be packed before it has an NF-e: as the channel says, else where it is in BRL.

    A rule that this build does not know is taken for one that asks for it.
    """
    return sale.currency == "BRL" if sale.invoice is None else sale.invoice is not InvoiceRule.NONE


def ask(view: View, process: Process, *, again: bool) -> tuple[Process, tuple[Command, ...]]:
    """The process with what it now asks of payments and fulfillment, and those commands.

    `again`: what was asked for in vain is asked for once more, at its next revision.
    """
    process, money = _money(view, process, again=again)
    process, parcels = _parcels(view, process, again=again)
    return process, (*money, *parcels)


def _money(view: View, process: Process, *, again: bool) -> tuple[Process, list[Command]]:
    commands: list[Command] = []
    if opened := _opened(view, process):
        process = replace(process, payments=(*process.payments, opened))
        commands.append(_authorization(view.sale, opened))
    payments = []
    for payment in process.payments:
        asked, command = _claim(view, process, payment, again=again)
        payments.append(asked)
        commands += [command] if command else []
    return (replace(process, payments=tuple(payments)), commands) if commands else (process, [])


def _opened(view: View, process: Process) -> Payment | None:
    """The buyer's newest try to pay, if it was not asked for yet."""
    checkout = view.sale.checkout
    if not view.payable or not checkout or not checkout.hold_until or not checkout.gateway or view.due_minor <= 0:
        return None
    if checkout.method not in PAYABLE or checkout.attempt <= max((one.attempt for one in process.payments), default=0):
        return None
    payment_id = f"{view.sale.order_id}:p{checkout.attempt}"
    return Payment(payment_id, checkout.attempt, view.due_minor, checkout.hold_until, revision=1)


def _authorization(sale: SaleReported, payment: Payment) -> AuthorizePayment:
    checkout = sale.checkout
    assert checkout
    assert checkout.method
    assert checkout.gateway
    assert payment.expires_at
    return AuthorizePayment(
        order_id=sale.order_id, payment_id=payment.payment_id, revision=payment.revision,
        connection_id=sale.connection_id, method=checkout.method, gateway=checkout.gateway, token=checkout.token,
        amount_minor=payment.amount_minor, currency=sale.currency, expires_at=payment.expires_at,
    )  # fmt: skip


def _claim(view: View, process: Process, payment: Payment, *, again: bool) -> tuple[Payment, Command | None]:
    """The payment with the one thing that is asked of it now, if there is one."""
    sale, due_minor = view.sale, _due(view, process, payment)
    revision = payment.revision + 1
    if payment.over and not payment.captured_minor:
        return payment, None
    about = {"order_id": sale.order_id, "payment_id": payment.payment_id, "revision": revision}
    if not payment.captured_minor and not payment.capture_minor:
        if due_minor <= 0 and (again or not payment.void):
            reason = process.cancel or ("cancelled" if view.cancelled else "superseded")
            return replace(payment, void=True, revision=revision), VoidPayment(**about, reason=reason)
        leaving = departed(process) or not any(line.fulfilled_by == US for line in sale.lines)
        if due_minor > 0 and payment.status == "authorized" and leaving:
            taken_minor = min(due_minor, payment.authorized_minor)
            command = CapturePayment(**about, captured_total_minor=taken_minor, currency=sale.currency)
            return replace(payment, capture_minor=taken_minor, revision=revision), command
        return payment, None
    taken_minor = max(payment.captured_minor, payment.capture_minor)
    # What a bank has taken back, or holds until it has decided, or a person gave back, is not given back a second time.
    back_minor = max(0, taken_minor - due_minor - payment.held_minor - payment.lost_minor - payment.by_hand_minor)
    known_minor = payment.refunded_minor if again else max(payment.refund_minor, payment.refunded_minor)
    if back_minor > known_minor:
        refund = RefundPayment(
            **about, captured_total_minor=taken_minor, refunded_total_minor=max(back_minor, payment.refund_minor),
            currency=sale.currency, reason=process.cancel or ("cancelled" if view.cancelled else _why_less(process)),
        )  # fmt: skip
        return replace(payment, refund_minor=max(back_minor, payment.refund_minor), revision=revision), refund
    if again and payment.capture_minor > payment.captured_minor:
        capture = CapturePayment(**about, captured_total_minor=payment.capture_minor, currency=sale.currency)
        return replace(payment, revision=revision), capture
    return payment, None


def _why_less(process: Process) -> str:
    return "lost" if lost_units(process) and not process.returns else "returned"


def _due(view: View, process: Process, payment: Payment) -> int:
    """What the buyer owes through this payment: all of it where it is the one that counts, else nothing."""
    counts = process.paying or (process.payments[-1] if process.payments else None)
    return view.due_minor if counts is payment else 0


def money_settled(view: View, process: Process) -> bool:
    """Whether nothing is to be taken, let go of or given back any more. A person may say that it was done by hand."""
    return all(_is_settled(view, process, payment) for payment in process.payments)


def _is_settled(view: View, process: Process, payment: Payment) -> bool:
    if payment.captured_minor:
        gone_minor = payment.refunded_minor + payment.held_minor + payment.lost_minor + payment.by_hand_minor
        return payment.captured_minor - gone_minor <= _due(view, process, payment) and not payment.held_minor
    return payment.over or payment.let_go


def _parcels(view: View, process: Process, *, again: bool) -> tuple[Process, list[Command]]:
    stop = _to_stop(view, process)
    parcels, commands = [], []
    for parcel in process.parcels:
        asked, command = _asked_again(view, process, parcel, stop=parcel.shipment_id in stop, again=again)
        parcels.append(asked)
        commands += [command] if command else []
    if view.ready and view.reserved is not None:
        for location, lines in _unpacked(view, process).items():
            shipment_id = f"{view.sale.order_id}:s{len(parcels) + 1}"
            parcel = Parcel(shipment_id, location, lines, _terms(view, process), revision=1, asked_revision=1)
            parcels.append(parcel)
            commands.append(_preparation(view, process, parcel))
    return (replace(process, parcels=tuple(parcels)), commands) if commands else (process, [])


def _to_stop(view: View, process: Process) -> set[str]:
    """Parcels that are not to leave as they are: all of a cancelled order, all whose invoice does not fit any more, and
    all with a line of which they hold more than is wanted.

    They are stopped and the rest is prepared anew, because only the end of a parcel is answered, and because inventory
    says which units of a line it frees.
    """
    still = [parcel for parcel in process.parcels if parcel.open]
    if view.cancelled or view.by_word or view.misfit:
        return {parcel.shipment_id for parcel in still}
    held = Counter[str]()
    for parcel in process.parcels:
        held.update(dict(parcel.lines) if not parcel.cancelled else {})
    over = {line for line, units in held.items() if units > view.asked.get(line, 0)}
    return {parcel.shipment_id for parcel in still if any(line in over for line, _ in parcel.lines)}


def _asked_again(
    view: View, process: Process, parcel: Parcel, *, stop: bool, again: bool
) -> tuple[Parcel, Command | None]:
    if not parcel.open:
        return parcel, None
    revision = parcel.revision + 1
    if stop:
        if parcel.stopping and not again:
            return parcel, None
        reason = process.cancel or ("cancelled" if view.cancelled else "changed")
        command = CancelShipment(
            order_id=view.sale.order_id, shipment_id=parcel.shipment_id, revision=revision, reason=reason
        )
        return replace(parcel, stopping=True, revision=revision), command
    terms = _terms(view, process)
    if not parcel.stopping and terms == parcel.terms and not (again and not parcel.labelled):
        return parcel, None
    asked = replace(
        parcel, terms=terms, revision=revision, asked_revision=revision, stopping=False, too_late=False, reason=""
    )
    return asked, _preparation(view, process, asked)


def _terms(view: View, process: Process) -> tuple[str, ...]:
    sale = view.sale
    carrier = sale.checkout.carrier if sale.checkout else None
    key = process.invoice.invoice_key if process.invoice else ""
    return carrier or "", sale.shipping_service or "", key, sale.ship_by.isoformat() if sale.ship_by else ""


def _unpacked(view: View, process: Process) -> dict[str, tuple[tuple[str, int], ...]]:
    """Per location, reserved units by line that no open parcel holds."""
    held, free = held_back(process), dict[str, list[tuple[str, int]]]()
    gone = departed(process)
    for line, places in (view.reserved or {}).items():
        wanted = view.asked.get(line, 0) - sum(gone.get(line, {}).values()) - sum(held.get(line, {}).values())
        for location, units in sorted(places.items()):
            loose = min(wanted, units - held.get(line, {}).get(location, 0))
            if loose > 0:
                wanted -= loose
                free.setdefault(location, []).append((line, loose))
    return {location: tuple(lines) for location, lines in sorted(free.items())}


def _preparation(view: View, process: Process, parcel: Parcel) -> PrepareShipment:
    sale = view.sale
    prices = {line.line_id: line.unit_price_minor for line in sale.lines}
    return PrepareShipment(
        order_id=sale.order_id,
        shipment_id=parcel.shipment_id,
        revision=parcel.revision,
        connection_id=sale.connection_id,
        location=parcel.location,
        lines=tuple(ShipmentLine(line_id=line, sku=view.skus[line], quantity=units) for line, units in parcel.lines),
        carrier=sale.checkout.carrier if sale.checkout else None,
        service=sale.shipping_service,
        declared_minor=max(0, sum(prices.get(line, 0) * units for line, units in parcel.lines)),
        currency=sale.currency,
        invoice_required=needs_invoice(sale),
        invoice_key=process.invoice.invoice_key if process.invoice else None,
        ship_by=sale.ship_by,
    )


def tell(
    process: Process, sale: SaleReported, state: str, held_for: str | None, now: datetime, *, answered: bool
) -> tuple[Process, OrderProgress | None]:
    """The process with what its channel is told now, if there is news for it.

    The own shop hears of every change once inventory has `answered`. Any other channel hears of the invoice, of parcels
    that left, and of a cancel of ours once it is complete.
    """
    parcels = tuple(_parcel_told(parcel) for parcel in process.parcels if parcel.dispatched_at)
    reason = process.cancel if process.cancel and state == "cancelled" else None
    ours = sale.checkout is not None
    if state in ("cancelling", "cancelled") and not ours and not reason:
        return process, None  # Its channel cancelled it itself, or is told once the cancel is complete.
    if not (process.invoice or parcels or reason or (ours and (answered or state == "cancelled"))):
        return process, None
    progress = OrderProgress(
        order_id=sale.order_id,
        revision=process.progress_revision + 1,
        connection_id=sale.connection_id,
        state=state,
        state_at=now,
        held_for=held_for,
        invoice=_invoice_told(process),
        parcels=parcels,
        cancelled_reason=reason,
        payment=_payment_told(process),
        tell_by=sale.ship_by,
    )
    apart = {"revision", "state_at"} | (set() if ours else {"state", "held_for", "payment"})
    digest = blake2b(progress.model_dump_json(exclude=apart).encode(), digest_size=12).hexdigest()
    if digest == process.progress_digest:
        return process, None
    return replace(process, progress_revision=progress.revision, progress_digest=digest), progress


def _invoice_told(process: Process) -> InvoiceTold | None:
    invoice = process.invoice
    return invoice and InvoiceTold(
        invoice_id=invoice.document_id, invoice_key=invoice.invoice_key, invoice_no=invoice.invoice_no,
        series=invoice.series, issued_at=invoice.issued_at, total_minor=invoice.total_minor, currency=invoice.currency,
        content_url=invoice.content_url,
    )  # fmt: skip


def _parcel_told(parcel: Parcel) -> ParcelTold:
    assert parcel.dispatched_at
    return ParcelTold(
        shipment_id=parcel.shipment_id,
        carrier=parcel.carrier,
        service=parcel.service,
        tracking_code=parcel.tracking_code,
        tracking_url=parcel.tracking_url,
        lines=_lines_told(parcel.lines),
        dispatched_at=parcel.dispatched_at,
        tracking=tuple(TrackingTold(status=status, happened_at=at) for status, at in parcel.tracking),
        delivered_at=parcel.delivered_at,
    )


def _lines_told(lines: Iterable[tuple[str, int]]) -> tuple[ProgressLine, ...]:
    units: dict[str, int] = {}
    for line_id, quantity in lines:
        units[line_id] = units.get(line_id, 0) + quantity
    return tuple(ProgressLine(line_id=line_id, quantity=quantity) for line_id, quantity in units.items())


def _payment_told(process: Process) -> PaymentTold | None:
    told = process.paying or _newest(process.payments)
    if told is None:
        return None
    refunded = told.captured_minor and told.refunded_minor >= told.captured_minor
    return PaymentTold(
        status="refunded" if refunded else told.status,
        attempt=told.attempt,
        pix_text=told.pix_text,
        next_url=told.next_url,
        expires_at=told.expires_at,
        reason=told.reason or None,
        paid_at=told.paid_at,
    )


def _newest(payments: Sequence[Payment]) -> Payment | None:
    return payments[-1] if payments else None

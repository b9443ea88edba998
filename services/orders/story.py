"""What became of an order, told step by step with its times and traces, and what it waits for now."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from contracts.channels.v1 import SaleStatus
from services.orders import store
from services.orders.domain import alerts, stage_of
from services.orders.order import Order
from services.orders.process import (
    FREIGHT_BACK,
    INVOICE_CANCELLED,
    INVOICE_CHECKED,
    PARCEL_SETTLED,
    STAGES,
    invoice_to_cancel,
)
from services.orders.standing import owed, owes_freight_alone


def steps(row: asyncpg.Record, story: Iterable[asyncpg.Record]) -> list[dict[str, Any]]:
    """Every step of an order that orders took or heard of, oldest first: `at`, `what`, `detail`, and its trace's id.

    Its placing and its confirming are told by its own row, the others by the rows of its story.
    """
    order = store.read(row)
    sale = order.sale
    told = [_step(row["placed_at"], "OrderPlaced", {"sold_at": sale.sold_at.isoformat()}, row["traceparent"])]
    if row["confirmed_at"]:
        told.append(_step(row["confirmed_at"], "OrderConfirmed", {}, row["traceparent"]))
    told += [_step(one["at"], one["what"], json.loads(one["detail"]), one["traceparent"]) for one in story]
    for parcel in order.process.parcels:
        about = {"shipment_id": parcel.shipment_id, "carrier": parcel.carrier}
        told += [
            _step(at, f"ShipmentTracked {status}", about | {"tracking_code": parcel.tracking_code}, "")
            for status, at in parcel.tracking
        ]
        if parcel.dispatched_at:
            told.append(_step(parcel.dispatched_at, "ShipmentDispatched", about, ""))
        if parcel.delivered_at:
            told.append(_step(parcel.delivered_at, "ShipmentDelivered", about, ""))
    for payment in order.process.payments:
        if payment.paid_at:
            paid = {"payment_id": payment.payment_id, "amount_minor": payment.amount_minor}
            told.append(_step(payment.paid_at, "PaymentReceived", paid, ""))
    # What a person said comes before what came of it at the same moment.
    return sorted(told, key=lambda step: (step["at"], not step["what"].startswith("PersonSaid")))


def _step(at: datetime, what: str, detail: Mapping[str, Any], traceparent: str) -> dict[str, Any]:
    parts = traceparent.split("-")
    return {"at": at, "service": "orders", "what": what, "detail": detail, "trace": parts[1] if len(parts) > 1 else ""}


def answers(order: Order) -> list[str]:
    """What a person may say to the order now."""
    standing = alerts(order)
    more = [INVOICE_CANCELLED] if "cancel_invoice" in standing else []
    more += [INVOICE_CHECKED] if "check_invoice" in standing else []
    more += [PARCEL_SETTLED] if "intercept" in standing else []
    more += [FREIGHT_BACK] if owes_freight_alone(order) else []
    usual = STAGES[stage_of(order)].answers
    # One parcel may be lost while others of its order still wait to leave.
    more += ["lost"] if "lost" in standing and "lost" not in usual else []
    return [*usual, *more]


def process(order: Order, lengths: Mapping[str, timedelta]) -> dict[str, Any]:
    """What an order owes, what it waits for, what happens when that comes too late, and who may answer; its payments,
    invoice and parcels.

    `cancel_invoice_by` is until when the invoice of a cancelled order can be cancelled, null where none is to be.
    `lengths` are durations by the name of their setting.
    """
    known = order.process
    stage = stage_of(order)
    row = STAGES[stage]
    invoice = known.invoice
    undone = invoice_to_cancel(known, cancelled=order.status is SaleStatus.CANCELLED)
    return {
        "due_minor": owed(order),
        "currency": order.sale.currency,
        "stage": stage,
        "waits_for": row.waits_for,
        "then": row.then,
        "rounds": known.rounds,
        "answers": answers(order),
        "cancel": known.cancel or None,
        "invoice_key": invoice.invoice_key if invoice else None,
        "cancel_invoice_by": undone.issued_at + lengths["invoice_cancel_h"] if undone else None,
        "payments": [
            {
                "payment_id": payment.payment_id,
                "status": payment.status,
                "amount_minor": payment.amount_minor,
                "authorized_minor": payment.authorized_minor,
                "captured_minor": payment.captured_minor,
                "refunded_minor": payment.refunded_minor,
                "disputed_minor": payment.held_minor + payment.lost_minor,
                "reason": payment.reason,
            }
            for payment in known.payments
        ],
        "parcels": [
            {
                "shipment_id": parcel.shipment_id,
                "location": parcel.location,
                "units": sum(units for _, units in parcel.lines),
                "revision": parcel.revision,
                "open": parcel.open,
                "carrier": parcel.carrier,
                "tracking_code": parcel.tracking_code,
                "dispatched_at": parcel.dispatched_at,
                "delivered_at": parcel.delivered_at,
                "reason": parcel.reason,
            }
            for parcel in known.parcels
        ],
        "told": list(known.told),
        "refused": [f"{step}: {reason}" for step, reason in known.refused],
    }

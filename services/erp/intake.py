"""An invoice that a person, a file or another system gives is judged, kept, booked and told."""

import hashlib
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import asyncpg
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from contracts.erp.v1 import InvoiceIssued
from services.border.reading import moment
from services.border.vault import Vault
from services.bus import Transaction
from services.erp import store
from services.erp.domain import Order, Row
from services.erp.invoices import CURRENCY, Invoice, check, normalize_key, parse_key, read_xml
from services.erp.settings import ErpSettings
from services.erp.store import Entry

TEXT_MAX = 128
TOTAL_MAX = 10**15


class GivenInvoice(BaseModel):
    """An invoice of an order: its XML, or its key and total. `replaces` names the key whose place it takes.

    `order_version` is the version of the fact that said what the order is over. Who listens to the orders may be
    quicker than erp: nothing is judged by an older version than this.
    """

    model_config = ConfigDict(extra="forbid")

    order_id: str = Field(min_length=1, max_length=TEXT_MAX)
    order_version: int = Field(default=0, ge=0)
    key: str | None = Field(default=None, max_length=TEXT_MAX)
    total_minor: int | None = Field(default=None, ge=0, le=TOTAL_MAX)
    issued_at: AwareDatetime | None = None
    xml: str | None = Field(default=None, max_length=1_000_000)
    replaces: str | None = Field(default=None, max_length=TEXT_MAX)


class Unfit(Exception):
    """The invoice cannot be that of the order; `reasons` are all of them."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


class InTheWay(Exception):
    """Something else stands where this invoice should; the text says what to do."""


def read(given: GivenInvoice, now: datetime) -> Invoice:
    """The invoice that was given; issued `now` where nothing says when. Raises `Unfit`."""
    if given.xml is None:
        if given.key is None or given.total_minor is None:
            raise Unfit(["give the XML, or the key and the total"])
        try:
            issued_at = moment(given.issued_at.isoformat(), "issued_at") if given.issued_at else now
        except ValueError as error:
            raise Unfit([str(error)]) from None
        return Invoice(normalize_key(given.key), given.total_minor, issued_at)
    try:
        invoice = read_xml(given.xml)
    except ValueError as error:
        raise Unfit(str(error).split("; ")) from None
    reasons = []
    if given.key is not None and normalize_key(given.key) != invoice.key:
        reasons.append("the XML is of another key than was given")
    if given.total_minor is not None and given.total_minor != invoice.total_minor:
        reasons.append("the XML is over another total than was given")
    if reasons:
        raise Unfit(reasons)
    return invoice


async def take_invoice(
    given: GivenInvoice, tx: Transaction, *, tenant: str, vault: Vault, settings: ErpSettings
) -> dict[str, Any]:
    """Keep the invoice of an order and tell it; what is kept already is only answered.

    Raises `Unfit` with every reason, `InTheWay` where the order is not known as the giver knows it, has another
    invoice, or another order has this one.
    """
    invoice = read(given, tx.now)
    found = await store.lock_order(tx.connection, tenant, given.order_id)
    if found is None:
        raise InTheWay(f"order {given.order_id} is not here yet: try again, or see `saldo order show`")
    order, cause = found
    if order.version < given.order_version:
        raise InTheWay(f"order {given.order_id} is known here as of version {order.version}: try again")
    if known := await store.find_document(tx.connection, tenant, invoice.key):
        if known["order_id"] != given.order_id:
            raise InTheWay("this invoice is that of another order: " + known["order_id"])
        if known["state"] != "standing":
            raise InTheWay("this invoice was replaced by another one of the order")
        return shown(known)
    await _judge(invoice, order, tx, tenant)
    replaced = await _make_room(given, tx, tenant)
    version = replaced["version"] + 1 if replaced else 1
    document = _document(given, invoice, tx.new_id(), tenant, vault, settings) | {"version": version}
    row = await store.insert_document(tx.connection, document)
    if row is None:
        raise InTheWay("this invoice was given for another order at the same moment")
    told = {name: row[name] for name in InvoiceIssued.model_fields if name != "kind"}
    event_id = tx.publish(InvoiceIssued(**told), tenant=tenant, cause=cause)
    entries = [Entry(tenant, event_id, invoice.issued_at, _booked(row, row["total_minor"]))]
    if replaced:
        # Its own row stays where it was: the sums of a month that was exported do not change behind anybody's back.
        void = _booked(replaced, -replaced["total_minor"])._replace(line="replaced")
        entries.append(Entry(tenant, event_id, tx.now, void))
    await store.lock_journal(tx.connection)
    await store.append(tx.connection, entries)
    return shown(row)


async def _judge(invoice: Invoice, order: Order, tx: Transaction, tenant: str) -> None:
    known = await store.tax_ids(tx.connection, tenant)
    due_minor = None if order.is_unpriced else order.due_minor
    reasons = check(invoice, tax_ids=known, due_minor=due_minor, currency=order.currency, now=tx.now)
    if order.cancelled:
        reasons.append("the order is cancelled")
    if reasons:
        raise Unfit(reasons)


async def _make_room(given: GivenInvoice, tx: Transaction, tenant: str) -> asyncpg.Record | None:
    """The document that stands no more from now on, if the given one takes the place of any."""
    standing = await store.standing_document(tx.connection, tenant, given.order_id)
    replaces = normalize_key(given.replaces) if given.replaces is not None else None
    if standing and standing["invoice_key"] == replaces:
        await store.replace_document(tx.connection, tenant, standing["document_id"])
    elif standing:
        raise InTheWay(
            f"the order has invoice {standing['invoice_key']}: if that one is void, say that this replaces it"
        )
    elif replaces is not None:
        raise InTheWay("the order has no invoice that could be replaced")
    return standing


def _booked(document: asyncpg.Record, amount_minor: int) -> Row:
    return Row(
        "invoice",
        document["order_id"],
        document["document_id"],
        amount_minor=amount_minor,
        currency=document["currency"],
    )


def _document(
    given: GivenInvoice, invoice: Invoice, document_id: str, tenant: str, vault: Vault, settings: ErpSettings
) -> dict[str, Any]:
    key = parse_key(invoice.key)
    raw = given.xml.encode() if given.xml is not None else None
    base = settings.content_url.rstrip("/") if raw is not None else ""
    return {
        "tenant": tenant,
        "document_id": document_id,
        "order_id": given.order_id,
        "invoice_key": invoice.key,
        "invoice_no": str(int(key.invoice_no)),
        "series": str(int(key.series)),
        "total_minor": invoice.total_minor,
        "currency": CURRENCY,
        "issued_at": invoice.issued_at,
        "content_url": base and f"{base}/admin/invoices/{document_id}/xml?tenant={tenant}",
        "content_sealed": raw and vault.seal(raw, tenant=tenant, owner=document_id, field="xml"),
        "sha256": raw and hashlib.sha256(raw).hexdigest(),
        "keep_until": date(invoice.issued_at.year + settings.keep_years, 12, 31),
    }


def shown(document: asyncpg.Record) -> dict[str, Any]:
    """A document as people see it, without what is sealed."""
    return {name: value for name, value in document.items() if name not in ("tenant", "content_sealed")}

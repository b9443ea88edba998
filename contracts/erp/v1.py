"""Version 1 of the messages that erp owns.

A document is about one order and travels under its key, so that what lets an order go on stays in the order's own
sequence.
"""

import re
from typing import Annotated

from pydantic import Field

from contracts.envelope import Code, Currency, Message, MinorSum, UtcDatetime

INVOICE_KEY_PATTERN = re.compile(r"[0-9A-Z]{44}")

InvoiceKey = Annotated[
    str,
    Field(
        pattern=f"^{INVOICE_KEY_PATTERN.pattern}$",
        description="Access key of an NF-e. Its tax id of the issuer may hold letters; the last place is a check digit "
        "mod 11 over the characters' codes less 48.",
    ),
]


class InvoiceIssued(Message):
    """The invoice of an order is here, with a key that was checked. Another one for the order takes this one's place.

    The document itself is kept by erp alone: it may name the buyer.
    """

    order_id: str
    document_id: str
    version: int = Field(default=1, description="Counts the invoices of the order: the one of the highest stands.")
    kind: Code = Field(default="nfe", description="Kind of the document: `nfe`.")
    invoice_no: str
    series: str
    invoice_key: InvoiceKey
    issued_at: UtcDatetime
    total_minor: MinorSum
    currency: Currency
    content_url: str = Field(
        default="", description="Where a service with its own token reads the XML; holds no secret. Empty: no XML."
    )


class DocumentBooked(Message):
    """A document of an order stands in another system."""

    order_id: str
    document_id: str
    kind: Code = Field(description="What was booked: `sale`, `shipment`, `nfe`.")
    target: Code = Field(description="The system it was booked in, as `tryton`.")
    reference: str = Field(description="Its id in that system.")
    at: UtcDatetime


class DocumentRejected(Message):
    """Another system refused a document of an order; a person puts it right there, then it is sent again."""

    order_id: str
    document_id: str
    kind: Code = Field(description="What was to be booked: `sale`, `shipment`, `nfe`.")
    target: Code = Field(description="The system that refused, as `tryton`.")
    reason: Code = Field(description="A word of ours; the other system's own text may hold personal data.")
    at: UtcDatetime

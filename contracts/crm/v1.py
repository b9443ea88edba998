"""Version 1 of the messages that crm owns: ids and references alone, never what is known about a person.

`version` grows by one with every change of the customer named by `customer_id`. `customer_refs` are always all of them.
"""

from pydantic import Field

from contracts.envelope import Code, Message, UtcDatetime


class CustomerIdentified(Message):
    """A customer is new, or was recognised under one more reference of a connection."""

    customer_id: str
    version: int
    customer_refs: tuple[str, ...] = Field(description="Every reference that the customer has now.")
    at: UtcDatetime


class CustomersMerged(Message):
    """Two customers are one: `customer_id` goes on, `merged_customer_id` stands for it from now on."""

    customer_id: str
    version: int
    merged_customer_id: str
    customer_refs: tuple[str, ...] = Field(description="Every reference of the one that goes on.")
    by: Code = Field(description="What decided: `keys` (equal document, or e-mail and phone) or `review` (a person).")
    at: UtcDatetime


class CustomersUnmerged(Message):
    """A merge is undone: both customers have again what was theirs."""

    customer_id: str
    version: int
    restored_customer_id: str
    customer_refs: tuple[str, ...] = Field(description="Every reference that `customer_id` is left with.")
    restored_customer_refs: tuple[str, ...] = Field(description="Every reference of the restored customer.")
    at: UtcDatetime


class ConsentChanged(Message):
    """What a customer allows for one purpose. Without such a fact the answer is no."""

    customer_id: str
    version: int
    purpose: Code
    granted: bool
    source: Code = Field(description="Where it was given or taken back, as `shop` or `support`.")
    at: UtcDatetime


class KeptRecord(Message):
    """What an erasure leaves, because the law, an open order or an open parcel asks for it."""

    kind: Code = Field(description="What it is: `invoice`, `order`, `parcel`.")
    reference: str = Field(description="Its id at the service that keeps it.")
    reason: Code = Field(description="Why it stays: `fiscal_br`, `order_open`, `parcel_open`.")
    until: UtcDatetime


class CustomerErased(Message):
    """A customer is erased: whoever keeps personal data of these orders deletes it, but for `kept`.

    An order that has not ended is in `kept`, and comes in the `order_ids` of another fact, without references, when it
    has ended.
    """

    customer_id: str
    version: int
    customer_refs: tuple[str, ...]
    order_ids: tuple[str, ...]
    kept: tuple[KeptRecord, ...] = ()
    at: UtcDatetime

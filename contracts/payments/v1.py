"""Version 1 of the messages that payments owns.

A command says what is wanted in all, at its revision; payments does the difference to what was done. A fact says what
is true in all, at its version; both count per payment. So the newest of each is enough, and a copy or an older one
changes nothing.
"""

from typing import Annotated

from pydantic import Field

from contracts.envelope import Code, Currency, Message, MinorSum, MinorUnits, OpenEnum, Revision, UtcDatetime


class PaymentMethod(OpenEnum):
    """How a buyer pays. `channel`: a marketplace took the money, no gateway of ours is asked."""

    CARD = "card"
    PIX = "pix"
    CHANNEL = "channel"
    UNKNOWN = "unknown"


class PaymentCommand(Message):
    """What every command says: which payment, and its revision.

    Revisions are counted over all kinds of commands about a payment. A payment is one attempt to pay an order, drawn by
    orders: `<order_id>:p<n>`, n from 1.
    """

    order_id: str
    payment_id: str
    revision: Revision


class AuthorizePayment(PaymentCommand):
    """Open this payment at the gateway and authorise the amount; Pix waits for the buyer and captures by itself.

    Sent again with a higher revision only while nothing is authorised, where the buyer's choice changed.
    """

    connection_id: str
    method: PaymentMethod
    gateway: Code
    token: str = Field(
        default="",
        repr=False,
        description="The gateway's single-use token for what the buyer entered, sealed for payments. Empty for Pix.",
    )
    amount_minor: Annotated[int, Field(gt=0, description="Money in the currency's minor units.")]
    currency: Currency
    expires_at: UtcDatetime = Field(description="Nothing is charged after it.")


class CapturePayment(PaymentCommand):
    """Take this much of what is authorised, in all; what is authorised beyond it lapses."""

    captured_total_minor: MinorSum
    currency: Currency


class VoidPayment(PaymentCommand):
    """Let go of whatever is authorised and not captured; of an unpaid Pix, withdraw the charge."""

    reason: Code


class RefundPayment(PaymentCommand):
    """Give this much back, in all. What is to be captured in all is said again, so that this command alone is enough.

    A refund never exceeds what is captured; it waits for the capture where that is not done yet.
    """

    captured_total_minor: MinorSum
    refunded_total_minor: MinorSum
    currency: Currency
    reason: Code


class PaymentFact(Message):
    """What every fact about a payment says: all of its sums as they are now. Any one alone is enough.

    0 ≤ refunded ≤ captured. A captured amount that was disputed and lost stays captured; see `PaymentDisputed`.
    """

    order_id: str
    payment_id: str
    version: int = Field(description="Grows by one with every fact about this payment.")
    connection_id: str
    method: PaymentMethod
    gateway: Code = Field(
        description="The gateway, or `channel` where the marketplace of the connection took the money."
    )
    reference: str = Field(default="", description="The payment's id at the gateway, once it has one.")
    currency: Currency
    amount_minor: MinorSum = Field(description="What the buyer was asked for.")
    authorized_minor: MinorSum = 0
    captured_minor: MinorSum = 0
    refunded_minor: MinorSum = 0
    at: UtcDatetime


class PaymentPending(PaymentFact):
    """The payment waits for its buyer: to pay a Pix, or to pass the bank's check on a page of the gateway."""

    expires_at: UtcDatetime
    pix_text: str | None = Field(default=None, description="Text of the Pix, to copy or to show as a QR code.")
    next_url: str | None = Field(default=None, description="The gateway's page that the buyer is sent to.")


class PaymentAuthorized(PaymentFact):
    """The whole amount is reserved for us at the buyer's bank; nothing has moved."""


class PaymentCaptured(PaymentFact):
    """Money was taken: `captured_minor` in all."""


class PaymentFailed(PaymentFact):
    """An attempt to take money came to nothing."""

    reason: Code = Field(description="A word of ours, as `declined`, `insufficient`, `expired`, `gateway`.")
    final: bool = Field(description="This payment is over; another try is another payment.")


class PaymentVoided(PaymentFact):
    """What was authorised and not captured is let go of; nothing can be captured any more."""

    reason: Code


class PaymentRefunded(PaymentFact):
    """The gateway accepted to give money back: `refunded_minor` in all."""

    reason: Code


class PaymentDisputed(PaymentFact):
    """The buyer's bank disputes the payment, or a dispute ended: won, both sums fall; lost, it moves to the second."""

    reason: Code
    disputed_minor: MinorSum = Field(description="Held by the gateway in disputes that are open now.")
    lost_minor: MinorSum = Field(default=0, description="Taken back by buyers' banks in all, beside any refund.")


class PaymentTakenOver(PaymentFact):
    """A marketplace's word about money that it took and pays out itself: `<order_id>:channel`.

    `amount_minor` is what its buyer owes now, `captured_minor` and `refunded_minor` what it took and gave back.
    """


class SettlementReported(Message):
    """The gateway paid out, or took back, what this payment brought: gross is fee and net together.

    All three are negative where money goes back. `settlement_id` makes it unique.
    """

    order_id: str
    payment_id: str
    settlement_id: str
    gateway: Code
    currency: Currency
    gross_minor: MinorUnits
    fee_minor: MinorUnits
    net_minor: MinorUnits
    settled_at: UtcDatetime

"""What Stripe decides about a PaymentIntent: confirm, capture, cancel, refund, dispute. A refusal is a `StripeError`.

Every change is kept and announced in the transaction of its rows. Stripe's API reference, "The PaymentIntent object".
"""

import secrets
from typing import Any, Final

from services.sandbox import gateway_stripe_objects as objects
from services.sandbox.books import Fact, now_ms
from services.sandbox.gateway_accounts import Account, Announcement, Card, Gateway, Payment, Refund, drawn_id

CARDS: Final = {
    "4242424242424242": "ok",
    "4000000000000002": "declined",
    "4000000000009995": "insufficient",
    "4000000000003220": "authenticate",
    "4000000000000259": "disputed",
}
"""Stripe's test cards and what they do; every other number is declined."""
READY_MADE: Final = {
    "pm_card_visa": "4242424242424242",
    "pm_card_chargeDeclined": "4000000000000002",
    "pm_card_chargeDeclinedInsufficientFunds": "4000000000009995",
    "pm_card_threeDSecure2Required": "4000000000003220",
    "pm_card_createDispute": "4000000000000259",
}
"""Stripe's ready-made test PaymentMethods: a fresh token is drawn each time one is used."""
_DECLINES: Final = {
    "declined": ("card_declined", "generic_decline", "Your card was declined."),
    "insufficient": ("card_declined", "insufficient_funds", "Your card has insufficient funds."),
    "authenticate": (
        "payment_intent_authentication_failure", None, "The provided PaymentMethod has failed authentication.",
    ),
}  # fmt: skip
_OPEN: Final = ("requires_payment_method", "requires_confirmation", "requires_action")
_PENDING_MS = 2_000


class StripeError(Exception):
    """An error answer: HTTP status and the fields of Stripe's error object."""

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error", **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"type": kind, "message": message} | {name: one for name, one in fields.items() if one is not None}


def tokenise(gateway: Gateway, account: Account, digits: str, month: int, year: int) -> Card:
    """Keep a card as a token with its last four digits."""
    brand = {"4": "visa", "5": "mastercard"}.get(digits[0], "unknown")
    behaviour = CARDS.get(digits, "declined")
    card = Card(drawn_id("pm"), brand, digits[-4:], month, year, behaviour, now_ms())
    return keep_card(gateway, account, card)


def keep_card(gateway: Gateway, account: Account, card: Card) -> Card:
    """Write a card down."""
    account.cards[card.token] = card
    shown = {name: getattr(card, name) for name in Card.__dataclass_fields__}
    gateway.commit(account, (), now_ms(), {("card", card.token): shown})
    return card


class Intents:
    """The decisions; `base_url` is where a buyer finds the page that authenticates."""

    def __init__(self, gateway: Gateway, base_url: str) -> None:
        self._gateway = gateway
        self._base_url = base_url

    def resume(self) -> None:
        """Take up what an earlier process had to do later."""
        for account in self._gateway.accounts.values():
            for payment in account.payments.values():
                if payment.method == "card":
                    self._look_ahead(account, payment)

    def _look_ahead(self, account: Account, payment: Payment) -> None:
        if payment.drops_ms is not None and payment.status == "requires_capture":
            self._gateway.later(account, payment.drops_ms, lambda: self._drop(account, payment))
        if payment.disputes_ms is not None and payment.dispute is None:
            self._gateway.later(account, payment.disputes_ms, lambda: self._dispute_by_itself(account, payment))
        for refund in payment.refunds:
            if refund.status == "pending" and refund.settles_ms is not None:
                self._settle_later(account, payment, refund)

    def _shown(self, payment: Payment) -> dict[str, Any]:
        return objects.intent(payment, self._base_url)

    def _changed(self, account: Account, payment: Payment, facts: list[Fact], *topics: str) -> None:
        shown = self._shown(payment)
        announcements = [(f"payment_intent.{topic}", shown) for topic in topics]
        self._gateway.changed(account, payment, facts, now_ms(), announcements)

    # -- open and charge -----------------------------------------------------------------------------------------

    def create(self, account: Account, payment: Payment, key: str | None, vice: dict[str, str]) -> None:
        """Open a payment; nothing is charged."""
        self._changed(account, payment, [("intent", payment.row(payment.amount_minor, key, **vice))], "created")

    def card(self, account: Account, token: str) -> Card:
        """The card behind a token."""
        if token in READY_MADE:
            return tokenise(self._gateway, account, READY_MADE[token], 12, 2034)
        card = account.cards.get(token)
        if card is None:
            message = f"No such PaymentMethod: '{token}'"
            raise StripeError(400, message, code="resource_missing", param="payment_method")
        if card.used:
            message = (
                "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment. "
                "It may not be used again."
            )
            raise StripeError(400, message, param="payment_method")
        return card

    def confirm(
        self, account: Account, payment: Payment, token: str | None, return_url: str | None, key: str | None,
        vice: dict[str, str],
    ) -> None:  # fmt: skip
        """Charge (or reserve) the amount with a card. Raises what the card's bank says no to."""
        self._must_be(payment, "confirmed", _OPEN)
        token = token or payment.token
        if token is None:
            raise StripeError(400, "You must provide a payment_method to confirm this PaymentIntent.",
                              code="payment_intent_unexpected_state", param="payment_method")  # fmt: skip
        card = self.card(account, token)
        payment.token = card.token
        payment.return_url = return_url or payment.return_url
        unlucky = account.temper.strikes("declined", now_ms()) is not None
        if unlucky or card.behaviour in ("declined", "insufficient"):
            why = "declined" if unlucky else card.behaviour
            raise self._declined(account, payment, why, key, vice)
        if card.behaviour == "authenticate":
            if payment.return_url is None:
                raise StripeError(400, "This PaymentIntent needs a return_url.", param="return_url")
            payment.status, payment.error = "requires_action", None
            self._changed(account, payment, [], "requires_action")
            return
        self._authorise(account, payment, card, key, vice)

    def authenticate(self, account: Account, payment: Payment, *, accept: bool) -> None:
        """The buyer did, or failed, what the bank asked of them."""
        self._must_be(payment, "authenticated", ("requires_action",))
        card = account.cards[payment.token or ""]
        if accept:
            self._authorise(account, payment, card, None, {})
        else:
            self._declined(account, payment, "authenticate", None, {})

    def _declined(
        self, account: Account, payment: Payment, why: str, key: str | None, vice: dict[str, str]
    ) -> StripeError:
        code, decline_code, message = _DECLINES[why]
        reason = "authentication_failed" if why == "authenticate" else decline_code or code
        error = StripeError(402, message, kind="card_error", code=code, decline_code=decline_code)
        payment.status, payment.error, payment.token = "requires_payment_method", dict(error.error), None
        reason = "card_declined" if reason == "generic_decline" else reason
        row = payment.row(payment.amount_minor, key, reason=reason, **vice)
        self._changed(account, payment, [("charge_refused", row)], "payment_failed")
        error.error["payment_intent"] = self._shown(payment)
        return error

    def _authorise(self, account: Account, payment: Payment, card: Card, key: str | None, vice: dict[str, str]) -> None:
        at_ms = now_ms()
        settings = account.settings
        card.used = True
        keep_card(self._gateway, account, card)
        payment.charge_id, payment.charged_ms, payment.error = drawn_id("ch"), at_ms, None
        payment.authorized_minor = payment.amount_minor
        at_once = payment.capture_method != "manual"
        row = payment.row(payment.amount_minor, key, charge_id=payment.charge_id, captured=at_once, **vice)
        early_ms = account.temper.strikes("expires_early", at_ms)
        life_ms = settings.authorization_life_s * 1000 if early_ms is None else early_ms
        payment.drops_ms = None if at_once else at_ms + int(life_ms)
        if card.behaviour == "disputed":
            payment.disputes_ms = at_ms + settings.dispute_after_ms if at_once else None
        payment.status = "requires_capture"
        if at_once:
            self._take(account, payment, payment.amount_minor)
        self._changed(account, payment, [("charge", row)], "succeeded" if at_once else "amount_capturable_updated")
        self._look_ahead(account, payment)

    def _take(self, account: Account, payment: Payment, amount_minor: int) -> None:
        settings = account.settings
        payment.status, payment.captured_minor, payment.captured_ms = "succeeded", amount_minor, now_ms()
        fee_minor = amount_minor * settings.fee_per_mille // 1000 + settings.fee_fixed_minor
        payment.fee_minor = min(amount_minor, fee_minor)

    # -- afterwards ----------------------------------------------------------------------------------------------

    def capture(
        self, account: Account, payment: Payment, amount_minor: int | None, key: str | None, vice: dict[str, str]
    ) -> None:
        """Take reserved money; what is not taken is released."""
        self._must_be(payment, "captured", ("requires_capture",))
        amount_minor = payment.authorized_minor if amount_minor is None else amount_minor
        if amount_minor > payment.authorized_minor:
            message = "The amount_to_capture is greater than the amount that may be captured."
            raise StripeError(400, message, code="amount_too_large", param="amount_to_capture")
        self._take(account, payment, amount_minor)
        if account.cards[payment.token or ""].behaviour == "disputed":
            payment.disputes_ms = now_ms() + account.settings.dispute_after_ms
        row = payment.row(amount_minor, key, charge_id=payment.charge_id, **vice)
        self._changed(account, payment, [("capture", row)], "succeeded")
        self._look_ahead(account, payment)

    def cancel(
        self, account: Account, payment: Payment, reason: str | None, key: str | None, vice: dict[str, str]
    ) -> None:
        """Release what is reserved and end the payment."""
        self._must_be(payment, "canceled", (*_OPEN, "requires_capture"))
        self._void(account, payment, reason, key, "client", vice)

    def _drop(self, account: Account, payment: Payment) -> None:
        if payment.status == "requires_capture":
            self._void(account, payment, "automatic", None, "gateway", {})

    def _void(
        self, account: Account, payment: Payment, reason: str | None, key: str | None, by: str, vice: dict[str, str]
    ) -> None:
        payment.status, payment.cancelled_ms, payment.cancellation_reason = "canceled", now_ms(), reason
        row = payment.row(payment.authorized_minor, key, by=by, charge_id=payment.charge_id, **vice)
        self._changed(account, payment, [("void", row)], "canceled")

    def refund(
        self, account: Account, payment: Payment, amount_minor: int | None, reason: str | None,
        metadata: dict[str, str], key: str | None, vice: dict[str, str],
    ) -> Refund:  # fmt: skip
        """Give taken money back, all that is left of it where no amount is named."""
        left = payment.captured_minor - payment.refunded_minor
        if payment.captured_minor == 0:
            raise StripeError(400, f"PaymentIntent {payment.reference} has no captured charge to refund.",
                              code="payment_intent_unexpected_state")  # fmt: skip
        if left == 0:
            message = f"Charge {payment.charge_id} has already been refunded."
            raise StripeError(400, message, code="charge_already_refunded")
        if payment.dispute is not None and payment.dispute["status"] != "won":
            message = f"Charge {payment.charge_id} has been charged back; cannot issue a refund."
            raise StripeError(400, message, code="charge_disputed")
        amount_minor = left if amount_minor is None else amount_minor
        if amount_minor > left:
            message = f"Refund amount ({amount_minor}) is greater than unrefunded amount on charge ({left})"
            raise StripeError(400, message, param="amount")
        made = drawn_refund(account, drawn_id("re"), metadata.get("refund_id", ""), amount_minor)
        made.reason, made.metadata = reason, metadata
        payment.refunds.append(made)
        self._refunded(account, payment, made, "created", key, vice)
        self._settle_later(account, payment, made)
        return made

    def _refunded(
        self, account: Account, payment: Payment, refund: Refund, topic: str, key: str | None, vice: dict[str, str]
    ) -> None:
        shown = objects.refund(payment, refund)
        announcements: list[Announcement] = [(f"refund.{topic}", shown)]
        if topic == "created":
            announcements.append(("charge.refunded", objects.charge(payment, frozenset({"refunds"}))))
        row = refund_row(payment, refund, key, vice)
        self._gateway.changed(account, payment, [("refund", row)], now_ms(), announcements)

    def _settle_later(self, account: Account, payment: Payment, refund: Refund) -> None:
        if refund.status == "pending" and refund.settles_ms is not None:
            self._gateway.later(account, refund.settles_ms, lambda: self._settle(account, payment, refund))

    def _settle(self, account: Account, payment: Payment, refund: Refund) -> None:
        if refund.status != "pending":
            return
        refund.status, refund.settled_ms = refund.ends_as, now_ms()
        topic = "failed" if refund.status == "failed" else "updated"
        self._refunded(account, payment, refund, topic, None, {})

    def _dispute_by_itself(self, account: Account, payment: Payment) -> None:
        if payment.dispute is None:
            self.dispute(account, payment, "fraudulent", None)

    def dispute(self, account: Account, payment: Payment, reason: str, amount_minor: int | None) -> str:
        """The buyer's bank takes the money back until the case is closed. Returns the dispute's id."""
        if payment.captured_minor == 0 or payment.dispute is not None:
            raise StripeError(409, "only a captured payment can be disputed, and only once")
        amount_minor = payment.captured_minor if amount_minor is None else amount_minor
        dispute_id = drawn_id("dp")
        payment.dispute = {"id": dispute_id, "reason": reason, "status": "needs_response"} | {
            "amount_minor": amount_minor,
            "at_ms": now_ms(),
            "fee_minor": account.settings.dispute_fee_minor,
        }
        self._disputed(account, payment, "created")
        return dispute_id

    def close_dispute(self, account: Account, payment: Payment, outcome: str) -> None:
        """The case is won (the money comes back) or lost."""
        if payment.dispute is None or payment.dispute["status"] != "needs_response":
            raise StripeError(409, "this payment has no open dispute")
        payment.dispute["status"] = outcome
        self._disputed(account, payment, "closed")

    def _disputed(self, account: Account, payment: Payment, topic: str) -> None:
        assert payment.dispute is not None
        kept = payment.dispute
        row = payment.row(kept["amount_minor"], None, dispute_id=kept["id"], status=kept["status"])
        facts: list[Fact] = [("dispute", row | {"reason": kept["reason"], "fee_minor": kept["fee_minor"]})]
        announcements = [(f"charge.dispute.{topic}", objects.dispute(payment))]
        self._gateway.changed(account, payment, facts, now_ms(), announcements)

    @staticmethod
    def _must_be(payment: Payment, deed: str, states: tuple[str, ...]) -> None:
        if payment.status not in states:
            message = (
                f"This PaymentIntent could not be {deed} because it has a status of {payment.status}. "
                f"Only a PaymentIntent with one of the following statuses may be {deed}: {', '.join(states)}."
            )
            raise StripeError(400, message, code="payment_intent_unexpected_state")


def drawn_refund(account: Account, refund_id: str, merchant_id: str, amount_minor: int) -> Refund:
    """A refund as the account's vices want it: done, pending until a time, or failed."""
    at_ms = now_ms()
    ends_as = "succeeded" if account.temper.strikes("refund_failed", at_ms) is None else "failed"
    pending_ms = account.temper.strikes("refund_pending", at_ms)
    if pending_ms is None:
        return Refund(refund_id, merchant_id, amount_minor, ends_as, at_ms, ends_as, settled_ms=at_ms)
    settles_ms = at_ms + (pending_ms or _PENDING_MS)
    return Refund(refund_id, merchant_id, amount_minor, "pending", at_ms, ends_as, settles_ms=settles_ms)


def refund_row(payment: Payment, refund: Refund, key: str | None, vice: dict[str, str]) -> dict[str, Any]:
    """The row of the books for what has become of a refund."""
    more = {"refund_id": refund.refund_id, "merchant_refund_id": refund.merchant_id, "status": refund.status}
    return payment.row(refund.amount_minor, key, **more, **vice)


def new_reference() -> str:
    """A PaymentIntent's id."""
    return f"pi_{secrets.token_hex(12)}"

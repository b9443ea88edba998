"""Stripe: PaymentIntents with manual capture, by its HTTP API (API reference, "PaymentIntents", "Refunds").

An intent is created unconfirmed, which charges nothing, and confirmed afterwards. Every POST carries its
`Idempotency-Key`, which Stripe remembers for 24 hours: the first answer comes again. Stripe's own client library is not
used, because it would go past the address check of ours.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, final

import httpx

from services.border.calls import send
from services.border.errors import Limit, OutcomeUnknown, SignatureInvalid
from services.border.reading import count, identifier, mapping, objects, read_json, text
from services.payments.domain import Part, Portion, Seen, Status
from services.payments.gateways.gateway import Delivery, GatewayTraits, Hint, Refund, Session, Settlement, Wanted

VERSION: Final = "2025-09-30.clover"
_CARD_REFUSED: Final = 402
_IN_USE: Final = 409
_MISSING: Final = 404
_TIME_DIGITS: Final = 12
_TIME_MAX_S: Final = 10**11
_EXPANDED: Final = (
    "latest_charge.refunds",
    "latest_charge.balance_transaction",
    "latest_charge.dispute",
)
_STATUSES: Final = {
    "requires_payment_method": Status.OPEN,
    "requires_confirmation": Status.OPEN,
    "requires_action": Status.PENDING,
    "processing": Status.PENDING,
    "requires_capture": Status.AUTHORIZED,
    "succeeded": Status.CAPTURED,
    "canceled": Status.VOIDED,
}
_REFUNDS: Final = {"succeeded": Part.DONE, "failed": Part.FAILED, "canceled": Part.FAILED}
_DISPUTES: Final = {"won": Part.WON, "lost": Part.LOST}
_TOLERANCE_S: Final = 300
_EVENTS: Final = (
    *(
        f"payment_intent.{word}"
        for word in ("amount_capturable_updated", "canceled", "payment_failed", "processing", "requires_action")
    ),
    "payment_intent.succeeded",
    "charge.refunded",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
)
"""What can be news to us; that an intent was created is none."""
_DECLINES: Final = {"insufficient_funds": "insufficient", "expired_card": "expired_card"}


@final
class Stripe:
    """The gateway `stripe`. Settings of an account: `stripe_version`, `return_url` for a bank's check."""

    traits = GatewayTraits(
        name="stripe",
        call_timeout_s=20,
        late_s=10,
        credentials=("secret_key",),
        # "Rate limits": 100 a second in live mode, 25 in sandboxes.
        limits={"stripe": Limit(25, 25)},
    )

    async def open(self, session: Session, wanted: Wanted, key: str) -> Seen:
        """Create the intent, not confirmed."""
        form = {
            "amount": str(wanted.amount_minor), "currency": wanted.currency.lower(), "capture_method": "manual",
            "confirm": "false", "payment_method_types[]": "card", "metadata[saldo_payment_id]": wanted.payment_id,
        }  # fmt: skip
        return intent(await _post(session, "/v1/payment_intents", form, key))

    async def charge(self, session: Session, reference: str, token: str, key: str) -> Seen:
        """Confirm the intent with the buyer's token. A declined card is an answer, too: the intent's error says why."""
        form = {"payment_method": token}
        if return_url := text(session.settings.get("return_url")):
            form["return_url"] = return_url
        answer = await _post(session, f"/v1/payment_intents/{reference}/confirm", form, key, _CARD_REFUSED)
        if "error" in answer:
            error = mapping(answer["error"], "error")
            return Seen(reference, Status.FAILED, reason=_declined(error))
        return intent(answer)

    async def capture(self, session: Session, reference: str, amount_minor: int, key: str) -> Seen:
        """Capture a part or all; Stripe releases the rest."""
        form = {"amount_to_capture": str(amount_minor)}
        return intent(await _post(session, f"/v1/payment_intents/{reference}/capture", form, key))

    async def void(self, session: Session, reference: str, key: str) -> Seen:
        """Cancel the intent."""
        return intent(await _post(session, f"/v1/payment_intents/{reference}/cancel", {}, key))

    async def refund(self, session: Session, reference: str, refund: Refund, key: str) -> Seen:
        """Refund a part or all; our id goes along, by which a look finds it."""
        form = {
            "payment_intent": reference, "amount": str(refund.amount_minor),
            "metadata[saldo_refund_id]": refund.refund_id,
        }  # fmt: skip
        answer = await _post(session, "/v1/refunds", form, key)
        return Seen(reference, Status.CAPTURED, refunds=_refunds([answer]))

    async def look(self, session: Session, reference: str, payment_id: str) -> Seen | None:
        """The intent with its charge; by our metadata where we have no reference yet.

        Stripe's search lags behind by up to a minute. Creating under the same key finds the same intent where the
        search does not, so an intent that is not found yet is never doubled.
        """
        if not reference:
            query = {"query": f"metadata['saldo_payment_id']:'{payment_id}'"}
            page = mapping(await _get(session, "/v1/payment_intents/search", query), "answer")
            found = objects(page.get("data"), "data")
            if not found:
                return None
            reference = identifier(found[0].get("id"), "data.id")
        path = f"/v1/payment_intents/{reference}"
        answer = await _get(session, path, {"expand[]": list(_EXPANDED)})
        return None if answer is None else intent(answer)

    def verify(self, delivery: Delivery, credentials: Mapping[str, str], now: datetime) -> None:
        """`Stripe-Signature: t=<seconds>,v1=<HMAC-SHA256 of "t.body">` ("Verify webhook signatures manually").

        A time more than five minutes away is refused, so that nobody can send an old webhook again. While a secret is
        being changed there are several, with commas between them.
        """
        parts = [part.strip().partition("=") for part in delivery.headers.get("stripe-signature", "").split(",")]
        at = next((value for name, _, value in parts if name == "t"), "")
        if not (at.isascii() and at.isdecimal() and len(at) <= _TIME_DIGITS):
            raise SignatureInvalid
        signed = b"%b.%b" % (at.encode(), delivery.body)
        secrets = [secret for secret in credentials.get("webhook_secret", "").split(",") if secret]
        wanted = [hmac.digest(secret.encode(), signed, hashlib.sha256).hex().encode() for secret in secrets]
        given = [value.encode() for name, _, value in parts if name == "v1"]
        # Every pair is compared, so that the time it takes tells nothing.
        equal = [hmac.compare_digest(one, other) for one in wanted for other in given]
        if not any(equal) or abs(now.timestamp() - int(at)) > _TOLERANCE_S:
            raise SignatureInvalid

    def hint(self, body: bytes) -> Hint:
        """The intent that an event is about; an event about anything else names none."""
        event = mapping(read_json(body), "event")
        shown = mapping(mapping(event.get("data"), "data").get("object"), "data.object")
        named = shown.get("id" if text(shown.get("object")) == "payment_intent" else "payment_intent")
        reference = text(named)
        return Hint(identifier(event.get("id"), "id"), (reference,) if reference else ())

    async def subscribe(self, session: Session, door_url: str) -> str:
        """Create an endpoint, then delete the older ones of the same address, whose secret nobody knows any more."""
        form = {"url": door_url, "api_version": _version(session)}
        form |= {f"enabled_events[{place}]": event for place, event in enumerate(_EVENTS)}
        made = await _post(session, "/v1/webhook_endpoints", form)
        page = mapping(await _get(session, "/v1/webhook_endpoints", {"limit": "100"}), "answer")
        for one in objects(page.get("data"), "data"):
            if text(one.get("url")) == door_url and one.get("id") != made.get("id"):
                path = f"/v1/webhook_endpoints/{identifier(one.get('id'), 'id')}"
                request = session.http.build_request("DELETE", session.base_url + path, headers=_headers(session))
                await send(session.http, session.limiter, "stripe", request, writes=True, answers=(_MISSING,))
        return identifier(made.get("secret"), "secret")

    async def payouts(self, session: Session) -> Sequence[str]:
        """The newest hundred that are paid (`GET /v1/payouts`)."""
        page = mapping(await _get(session, "/v1/payouts", {"status": "paid", "limit": "100"}), "answer")
        return [identifier(one.get("id"), "data.id") for one in objects(page.get("data"), "data")]

    async def settlements(self, session: Session, payout_id: str) -> Sequence[Settlement]:
        """The balance transactions of a payout (`GET /v1/balance_transactions`) whose source has a PaymentIntent."""
        found: list[Settlement] = []
        query = {"payout": payout_id, "limit": "100", "expand[]": "data.source"}
        while True:
            page = mapping(await _get(session, "/v1/balance_transactions", query), "answer")
            rows = objects(page.get("data"), "data")
            found += [one for row in rows if (one := settlement(row))]
            if not rows or page.get("has_more") is not True:
                return found
            query["starting_after"] = identifier(rows[-1].get("id"), "data.id")


def intent(value: Any) -> Seen:
    """A PaymentIntent as what was seen. Raises `ValueError` where a field is not what it should be."""
    given = mapping(value, "payment intent")
    status = _STATUSES.get(text(given.get("status")))
    if status is None:
        raise ValueError("payment intent.status is none that is documented")
    charge = given.get("latest_charge")
    charge = charge if isinstance(charge, dict) else {}
    error = given.get("last_payment_error")
    reason = ""
    if status is Status.OPEN and isinstance(error, dict):
        status, reason = Status.FAILED, _declined(error)
    amount_minor = count(given.get("amount"), "amount")
    captured_minor = count(given.get("amount_received", 0), "amount_received")
    listed = charge.get("refunds")
    transaction, dispute = charge.get("balance_transaction"), charge.get("dispute")
    return Seen(
        reference=identifier(given.get("id"), "id"),
        status=status,
        authorized_minor=amount_minor if status in (Status.AUTHORIZED, Status.CAPTURED) else 0,
        captured_minor=captured_minor,
        refunds=_refunds(objects(listed.get("data"), "refunds.data")) if isinstance(listed, dict) else {},
        disputes=_dispute(dispute) if isinstance(dispute, dict) else {},
        fee_minor=_fee(transaction, text(given.get("currency"))) if isinstance(transaction, dict) else 0,
        dispute_fees=_dispute_fees(dispute, text(given.get("currency"))) if isinstance(dispute, dict) else {},
        reason=reason,
        next_url=_next_url(given.get("next_action")),
        currency=text(given.get("currency")).upper(),
    )


def _fee(transaction: Mapping[str, Any], currency: str) -> int:
    """What the charge cost; 0 where our balance is in another currency, in which its payout tells of it."""
    return count(transaction.get("fee", 0), "fee") if text(transaction.get("currency")) == currency else 0


def settlement(value: Mapping[str, Any]) -> Settlement | None:
    """A balance transaction with its source as what it settles; None where that is no payment.

    Raises `ValueError` where a field is not what it should be.
    """
    source = value.get("source")
    reference = text(source.get("payment_intent")) if isinstance(source, dict) else ""
    if not reference:
        return None
    return Settlement(
        settlement_id=identifier(value.get("id"), "id"),
        reference=reference,
        currency=identifier(value.get("currency"), "currency").upper(),
        gross_minor=_signed(value.get("amount"), "amount"),
        fee_minor=_signed(value.get("fee"), "fee"),
        settled_at=_moment(value.get("created"), "created"),
    )


def _moment(value: Any, name: str) -> datetime:
    """Seconds since 1970."""
    if not isinstance(value, int) or not 0 <= value < _TIME_MAX_S:
        raise ValueError(f"{name} is no time in seconds")
    return datetime.fromtimestamp(value, UTC)


def _signed(value: Any, name: str) -> int:
    negative = isinstance(value, int) and value < 0
    return -count(-value, name) if negative else count(value, name)


def _refunds(found: list[Any]) -> dict[str, Portion]:
    """By our id; one that a person made at Stripe by Stripe's."""
    portions = {}
    for one in found:
        refund = mapping(one, "refund")
        stripe_id = identifier(refund.get("id"), "refund.id")
        ours = text(mapping(refund.get("metadata") or {}, "metadata").get("saldo_refund_id"))
        part = _REFUNDS.get(text(refund.get("status")), Part.OPEN)
        portions[ours or stripe_id] = Portion(count(refund.get("amount"), "refund.amount"), part)
    return portions


def _dispute(dispute: Mapping[str, Any]) -> dict[str, Portion]:
    status = text(dispute.get("status"))
    if status.startswith("warning_"):
        return {}  # An inquiry withholds no money.
    part = _DISPUTES.get(status, Part.OPEN)
    return {identifier(dispute.get("id"), "dispute.id"): Portion(count(dispute.get("amount"), "dispute.amount"), part)}


def _dispute_fees(dispute: Mapping[str, Any], currency: str) -> dict[str, int]:
    """What a dispute cost, by its balance transactions (API reference, "The Dispute object", `balance_transactions`):
    the first takes the money with a fee, a second one gives it back, and in some countries the fee, too."""
    moved = objects(dispute.get("balance_transactions") or [], "dispute.balance_transactions")
    return {
        identifier(one.get("id"), "balance_transaction.id"): fee
        for one in moved
        if text(one.get("currency")) == currency and (fee := _signed(one.get("fee", 0), "fee"))
    }


def _declined(error: Mapping[str, Any]) -> str:
    return _DECLINES.get(text(error.get("decline_code")) or text(error.get("code")), "declined")


def _next_url(action: Any) -> str | None:
    target = action.get("redirect_to_url") if isinstance(action, dict) else None
    url = text(target.get("url")) if isinstance(target, dict) else ""
    if url and not (url.isprintable() and url.startswith(("https://", "http://"))):
        raise ValueError("next_action.redirect_to_url.url is no address of a page")
    return url or None


def _headers(session: Session) -> dict[str, str]:
    return {"authorization": f"Bearer {session.credentials['secret_key']}", "stripe-version": _version(session)}


def _version(session: Session) -> str:
    return text(session.settings.get("stripe_version")) or VERSION


async def _post(
    session: Session, path: str, form: Mapping[str, str], key: str = "", *answers: int
) -> Mapping[str, Any]:
    # Named here, because a form without a field would go without it, which Stripe's own mock refuses.
    headers = _headers(session) | {"content-type": "application/x-www-form-urlencoded"}
    headers |= {"idempotency-key": key} if key else {}
    request = session.http.build_request("POST", session.base_url + path, data=dict(form), headers=headers)
    answer = await send(session.http, session.limiter, "stripe", request, writes=True, answers=(_IN_USE, *answers))
    if answer.status_code == _IN_USE:
        raise OutcomeUnknown("stripe: the first request with this key is still under way")
    return mapping(read_json(answer.content), "answer")


async def _get(session: Session, path: str, query: Mapping[str, Any]) -> Any:
    request = session.http.build_request("GET", session.base_url + path, params=query, headers=_headers(session))
    answer: httpx.Response = await send(session.http, session.limiter, "stripe", request, answers=(_MISSING,))
    return None if answer.status_code == _MISSING else read_json(answer.content)

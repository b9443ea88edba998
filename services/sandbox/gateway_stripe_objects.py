"""Stripe's objects as its API reference shows them, made from the gateway's state (fields Saldo has no use for: left
out). Times are whole seconds, amounts are in the currency's smallest unit."""

from typing import Any

from services.sandbox.gateway_accounts import Account, Card, Endpoint, Payment, Refund

API_VERSION = "2025-09-30.clover"


def _seconds(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms // 1000


def listed(objects: list[dict[str, Any]], url: str, *, has_more: bool = False) -> dict[str, Any]:
    """A list as every list of the API is wrapped."""
    return {"object": "list", "url": url, "has_more": has_more, "data": objects}


def card(one: Card) -> dict[str, Any]:
    """A PaymentMethod."""
    shown = {"brand": one.brand, "last4": one.last4, "exp_month": one.month, "exp_year": one.year, "funding": "credit"}
    return {
        "id": one.token,
        "object": "payment_method",
        "type": "card",
        "card": shown,
        "created": _seconds(one.created_ms),
        "customer": None,
        "livemode": False,
        "metadata": {},
    }


def refund(payment: Payment, one: Refund) -> dict[str, Any]:
    """A Refund."""
    return {
        "id": one.refund_id,
        "object": "refund",
        "amount": one.amount_minor,
        "charge": payment.charge_id,
        "created": _seconds(one.at_ms),
        "currency": payment.currency,
        "failure_reason": "expired_or_canceled_card" if one.status == "failed" else None,
        "metadata": one.metadata,
        "payment_intent": payment.reference,
        "reason": one.reason,
        "status": one.status,
    }


def dispute(payment: Payment) -> dict[str, Any]:
    """A Dispute; the payment must have one."""
    assert payment.dispute is not None
    kept = payment.dispute
    return {
        "id": kept["id"],
        "object": "dispute",
        "amount": kept["amount_minor"],
        "balance_transactions": [
            {
                "id": name,
                "object": "balance_transaction",
                "amount": amount,
                "currency": payment.currency,
                "fee": fee,
                "net": amount - fee,
                "source": kept["id"],
                "type": "adjustment",
            }
            for name, amount, fee in dispute_movements(payment)
        ],
        "charge": payment.charge_id,
        "created": _seconds(kept["at_ms"]),
        "currency": payment.currency,
        "livemode": False,
        "metadata": {},
        "payment_intent": payment.reference,
        "reason": kept["reason"],
        "status": kept["status"],
    }


def dispute_movements(payment: Payment) -> list[tuple[str, int, int]]:
    """What a dispute moved of the balance: id, amount and fee. The fee is kept where the case is won, too."""
    kept = payment.dispute
    if kept is None:
        return []
    name = f"txn_{kept['id'][3:]}"
    taken = [(name, -kept["amount_minor"], kept["fee_minor"])]
    return taken + ([(f"{name}w", kept["amount_minor"], 0)] if kept["status"] == "won" else [])


def balance_transaction(payment: Payment) -> dict[str, Any]:
    """What a capture did to the merchant's balance."""
    return {
        "id": _transaction_id(payment),
        "object": "balance_transaction",
        "amount": payment.captured_minor,
        "created": _seconds(payment.captured_ms),
        "currency": payment.currency,
        "fee": payment.fee_minor,
        "net": payment.captured_minor - payment.fee_minor,
        "reporting_category": "charge",
        "source": payment.charge_id,
        "status": "pending",
        "type": "charge",
    }


def _transaction_id(payment: Payment) -> str:
    return f"txn_{(payment.charge_id or '')[3:]}"


def charge(payment: Payment, expand: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A Charge; `expand` holds paths below it. `refunds` is there only when asked for, as since version 2022-11-15."""
    captured = payment.captured_minor > 0
    released = payment.status == "canceled"
    done = sum(one.amount_minor for one in payment.refunds if one.status == "succeeded")
    shown: dict[str, Any] = {
        "id": payment.charge_id,
        "object": "charge",
        "amount": payment.authorized_minor,
        "amount_captured": payment.captured_minor,
        "amount_refunded": payment.refunded_minor if not released else payment.authorized_minor,
        "balance_transaction": _transaction_id(payment) if captured else None,
        "captured": captured,
        "created": _seconds(payment.charged_ms),
        "currency": payment.currency,
        "disputed": payment.dispute is not None,
        "livemode": False,
        "metadata": payment.metadata,
        "outcome": {"network_status": "approved_by_network", "reason": None, "type": "authorized"},
        "paid": True,
        "payment_intent": payment.reference,
        "payment_method": payment.token,
        "refunded": released or (captured and done >= payment.captured_minor),
        "status": "succeeded",
    }
    if captured and "balance_transaction" in expand:
        shown["balance_transaction"] = balance_transaction(payment)
    if "refunds" in expand:
        newest_first = [refund(payment, one) for one in reversed(payment.refunds)]
        shown["refunds"] = listed(newest_first, f"/v1/charges/{payment.charge_id}/refunds")
    if payment.dispute is not None:
        shown["dispute"] = dispute(payment) if "dispute" in expand else payment.dispute["id"]
    return shown


def intent(payment: Payment, base_url: str, expand: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A PaymentIntent; `expand` holds paths as the request names them (`latest_charge.refunds`)."""
    capturable = payment.authorized_minor if payment.status == "requires_capture" else 0
    latest: str | dict[str, Any] | None = payment.charge_id
    below = frozenset(one.partition(".")[2] for one in expand if one.partition(".")[0] == "latest_charge")
    if payment.charge_id is not None and below:
        latest = charge(payment, below)
    action = None
    if payment.status == "requires_action":
        page = f"{base_url}/sandbox/authenticate/{payment.reference}"
        action = {"type": "redirect_to_url", "redirect_to_url": {"url": page, "return_url": payment.return_url}}
    return {
        "id": payment.reference,
        "object": "payment_intent",
        "amount": payment.amount_minor,
        "amount_capturable": capturable,
        "amount_received": payment.captured_minor,
        "canceled_at": _seconds(payment.cancelled_ms),
        "cancellation_reason": payment.cancellation_reason,
        "capture_method": payment.capture_method,
        "client_secret": f"{payment.reference}_secret_sandbox",
        "confirmation_method": "automatic",
        "created": _seconds(payment.created_ms),
        "currency": payment.currency,
        "description": payment.description,
        "last_payment_error": payment.error,
        "latest_charge": latest,
        "livemode": False,
        "metadata": payment.metadata,
        "next_action": action,
        "payment_method": payment.token,
        "payment_method_types": ["card"],
        "status": payment.status,
    }


def endpoint(one: Endpoint, *, with_secret: bool) -> dict[str, Any]:
    """A WebhookEndpoint; its secret is shown once, in the answer that creates it."""
    shown: dict[str, Any] = {
        "id": one.endpoint_id,
        "object": "webhook_endpoint",
        "api_version": API_VERSION,
        "created": _seconds(one.created_ms),
        "enabled_events": one.events,
        "livemode": False,
        "metadata": {},
        "status": "enabled",
        "url": one.url,
    }
    return shown | {"secret": one.secret} if with_secret else shown


def event(event_id: str, topic: str, shown: dict[str, Any], at_ms: int) -> dict[str, Any]:
    """An Event with the object as it was when it happened."""
    return {
        "id": event_id,
        "object": "event",
        "api_version": API_VERSION,
        "created": at_ms // 1000,
        "data": {"object": shown},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": topic,
    }


def account(one: Account) -> dict[str, Any]:
    """The merchant's own Account."""
    return {
        "id": f"acct_{one.settings.credentials['publishable_key'][-16:]}",
        "object": "account",
        "charges_enabled": True,
        "country": "BR",
        "default_currency": "brl",
        "details_submitted": True,
        "payouts_enabled": True,
        "type": "standard",
    }

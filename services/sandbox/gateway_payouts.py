"""Payouts of the gateway sandbox: what was captured and given back since the last one goes to the merchant's bank.

A payout is paid when a person or a test says so. Its balance transactions are as Stripe's API reference shows them: one
for a charge with its fee, one for a refund, which takes money back and no fee, one for a dispute, which takes both, and
one for a dispute that was won.
"""

from collections import defaultdict
from typing import Any

from services.sandbox.books import Documents, now_ms
from services.sandbox.gateway_accounts import Account, Gateway, Payment, drawn_id
from services.sandbox.gateway_stripe_objects import dispute_movements


def pay_out(gateway: Gateway, account: Account) -> list[dict[str, Any]]:
    """Pay out what is there, a payout a currency; returns them, none where there is nothing."""
    paid = {one["id"] for payout in account.payouts.values() for one in payout["transactions"]}
    by_currency: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for payment in account.payments.values():
        by_currency[payment.currency] += [one for one in _transactions(payment) if one["id"] not in paid]
    made: list[dict[str, Any]] = [
        {"id": drawn_id("po"), "at_ms": now_ms(), "currency": currency, "transactions": found}
        for currency, found in by_currency.items()
        if found
    ]
    for payout in made:
        account.payouts[payout["id"]] = payout
        row = {
            "reference": payout["id"],
            "payment_id": None,
            "method": "card",
            "amount_minor": total(payout),
            "key": None,
        }
        documents: Documents = {("payout", payout["id"]): payout}
        gateway.commit(account, [("payout", row)], payout["at_ms"], documents)
    return made


def total(payout: dict[str, Any]) -> int:
    """What arrives at the bank, in minor units."""
    return sum(one["amount"] - one["fee"] for one in payout["transactions"])


def _transactions(payment: Payment) -> list[dict[str, Any]]:
    if payment.method != "card" or not payment.captured_minor or payment.charge_id is None:
        return []
    charge_id = payment.charge_id
    moved = [("charge", charge_id, f"txn_{charge_id[3:]}", payment.captured_minor, payment.fee_minor)]
    moved += [
        ("refund", one.refund_id, f"txn_{one.refund_id[3:]}", -one.amount_minor, 0)
        for one in payment.refunds
        if one.status == "succeeded"
    ]
    moved += [
        ("adjustment", payment.dispute["id"], name, amount, fee)
        for name, amount, fee in dispute_movements(payment)
        if payment.dispute
    ]
    return [
        {"id": name, "type": kind, "source": source, "payment_intent": payment.reference, "amount": amount, "fee": fee}
        for kind, source, name, amount, fee in moved
    ]


def payout_shown(payout: dict[str, Any]) -> dict[str, Any]:
    """A Payout."""
    return {
        "id": payout["id"],
        "object": "payout",
        "amount": total(payout),
        "arrival_date": payout["at_ms"] // 1000,
        "automatic": True,
        "created": payout["at_ms"] // 1000,
        "currency": payout["currency"],
        "livemode": False,
        "status": "paid",
    }


def transaction_shown(payout: dict[str, Any], one: dict[str, Any], *, expanded: bool) -> dict[str, Any]:
    """A BalanceTransaction of a payout; `expanded` shows its source as an object."""
    source = {"id": one["source"], "object": one["type"], "payment_intent": one["payment_intent"]}
    return {
        "id": one["id"],
        "object": "balance_transaction",
        "amount": one["amount"],
        "created": payout["at_ms"] // 1000,
        "currency": payout["currency"],
        "fee": one["fee"],
        "net": one["amount"] - one["fee"],
        "source": source if expanded else one["source"],
        "status": "available",
        "type": one["type"],
    }

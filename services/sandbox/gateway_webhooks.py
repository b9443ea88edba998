"""The gateway's side of a webhook: who hears of what, signed (Stripe) or under a certificate (Pix).

Stripe: `Stripe-Signature: t=<seconds>,v1=<hex HMAC-SHA-256 of "t.body">`, signed anew at each attempt. Pix: a POST to
the registered address with `/pix` put behind it, over TLS with the bank's client certificate.
"""

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, replace
from typing import Self

from services.sandbox import gateway_stripe_objects as objects
from services.sandbox.books import Documents, Fact, now_ms
from services.sandbox.certificates import Certificates
from services.sandbox.deliveries import Call, Deliveries, Heard, any_success
from services.sandbox.gateway_accounts import Account, Announcement, Endpoint, Gateway, Payment


@dataclass(slots=True)
class PaymentDelivery:
    """One webhook to one address about a payment."""

    delivery_id: str
    event_id: str
    topic: str
    reference: str
    payment_id: str | None
    method: str
    url: str
    secret: str
    body: str
    due_ms: int
    attempt: int = 0

    def row(self, status: int | str) -> Fact:
        """An attempt in the gateway's books."""
        names = ("reference", "payment_id", "method", "delivery_id", "event_id", "topic", "attempt")
        row = {name: getattr(self, name) for name in names}
        return "webhook", row | {"amount_minor": None, "key": None, "status": status}

    def again(self) -> Self:
        """The same event in a delivery of its own: a reader must tell by the event's id that it has seen it."""
        return replace(self, delivery_id=secrets.token_hex(12))


def signature(secret: str, body: bytes, at_s: int) -> str:
    """The value of `Stripe-Signature` for a body sent at a time (Stripe's documentation, "Verify manually")."""
    digest = hmac.digest(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hex()
    return f"t={at_s},v1={digest}"


class GatewayWebhooks:
    """Announces what happens to payments at the addresses their account listens at."""

    def __init__(self, gateway: Gateway, certificates: Certificates) -> None:
        self._bank = certificates.client_context("bank")
        self._stranger = certificates.client_context("stranger")
        # A connection is made for each webhook: one that was opened with the right certificate must not carry another.
        self.deliveries = Deliveries(gateway, self, PaymentDelivery, keepalive=False)
        gateway.announce = self.announce

    def announce(
        self, account: Account, payment: Payment, announcements: list[Announcement], facts: list[Fact], at_ms: int
    ) -> Documents:
        """Make the deliveries for a change and return them as documents to be kept with it.

        A webhook that the vice swallows is added to `facts`, so that the books know of it.
        """
        documents: Documents = {}
        for topic, shown in announcements:
            # Ids grow with time, so that a list of events read back from the books is in order.
            event_id = f"evt_{at_ms:012x}{len(account.events):08x}{secrets.token_hex(2)}"
            if payment.method == "card":
                shown = objects.event(event_id, topic, shown, at_ms)
                account.events[event_id] = shown
                documents["event", event_id] = shown
            body = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
            for endpoint in self._listening(account, payment, topic):
                delivery = PaymentDelivery(
                    delivery_id=secrets.token_hex(12),
                    event_id=event_id,
                    topic=topic,
                    reference=payment.reference,
                    payment_id=payment.payment_id,
                    method=payment.method,
                    url=endpoint.url,
                    secret=endpoint.secret,
                    body=body,
                    due_ms=at_ms,
                )
                documents |= self.deliveries.send(account, delivery, facts, at_ms)
        return documents

    @staticmethod
    def _listening(account: Account, payment: Payment, topic: str) -> list[Endpoint]:
        if payment.method == "pix":
            one = account.endpoints.get(f"pix:{account.settings.pix_key}")
            return [] if one is None else [one]
        return [one for one in account.endpoints.values() if one.secret and {"*", topic} & set(one.events)]

    # -- what a call looks like ----------------------------------------------------------------------------------

    def request(self, account: Account, delivery: PaymentDelivery) -> Call:
        """Signed anew at each attempt (Stripe), or under a certificate (Pix)."""
        body = delivery.body.encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        foreign = account.temper.strikes("webhook_foreign_signature", now_ms()) is not None
        if delivery.method != "card":
            return Call(f"{delivery.url}/pix", headers, body, self._stranger if foreign else self._bank)
        secret = secrets.token_hex(16) if foreign else delivery.secret
        headers |= {"User-Agent": "Stripe/1.0", "Stripe-Signature": signature(secret, body, now_ms() // 1000)}
        return Call(delivery.url, headers, body, self._bank)

    def heard(self, _account: Account, _delivery: PaymentDelivery, status: int | str) -> Heard:
        """Any 2xx will do, and every failure is tried again."""
        return any_success(status)

    def given_up(self, _account: Account, _delivery: PaymentDelivery) -> Documents:
        """The address stays registered."""
        return {}

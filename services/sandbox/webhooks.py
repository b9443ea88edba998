"""Shopify's side of a webhook: which topics a change raises, what is in the body, how it is signed."""

import base64
import hashlib
import hmac
import json
import uuid

from services.sandbox import shopify_objects
from services.sandbox.books import Documents, Fact
from services.sandbox.deliveries import Call, Deliveries, Delivery, Heard, any_success
from services.sandbox.market import Account, Market, Subscription
from services.sandbox.shop import Order


def topics_of(facts: list[Fact]) -> list[str]:
    """The topics that a change of an order raises, in Shopify's order."""
    kinds = {kind for kind, _ in facts}
    if "sale" in kinds:
        return ["orders/create", *(["orders/paid"] if "payment" in kinds else [])]
    if "cancel" in kinds:
        return ["orders/cancelled", "refunds/create", "orders/updated"]
    if "refund" in kinds:
        return ["refunds/create", "orders/updated"]
    return ["orders/paid", "orders/updated"]


def signature(secret: str, body: bytes) -> str:
    """Base64 of the HMAC-SHA-256 over the raw body (`X-Shopify-Hmac-Sha256`)."""
    return base64.b64encode(hmac.digest(secret.encode(), body, hashlib.sha256)).decode()


class Webhooks:
    """Announces what happens to orders to the subscriptions of their shop."""

    def __init__(self, market: Market) -> None:
        self.deliveries = Deliveries(market, self, Delivery)
        market.announce = self.announce

    def announce(self, account: Account, order: Order, facts: list[Fact], at_ms: int) -> Documents:
        """Make the deliveries for a change and return them as documents to be kept with it."""
        event_id = str(uuid.uuid4())
        bodies: dict[bool, str] = {}
        documents: Documents = {}
        for topic in topics_of(facts):
            about_refund = topic == "refunds/create"
            if about_refund and not order.refunds:
                continue
            for subscription in account.subscriptions.values():
                if subscription.topic != topic:
                    continue
                if about_refund not in bodies:
                    shown = (
                        shopify_objects.refund(account, order, order.refunds[-1])
                        if about_refund
                        else shopify_objects.order(account, order)
                    )
                    bodies[about_refund] = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
                made = self._delivery(order, subscription, event_id, bodies[about_refund], at_ms)
                documents |= self.deliveries.send(account, made, facts, at_ms)
        return documents

    def _delivery(self, order: Order, subscription: Subscription, event_id: str, body: str, at_ms: int) -> Delivery:
        return Delivery(
            delivery_id=str(uuid.uuid4()),
            event_id=event_id,
            subscription_id=subscription.subscription_id,
            topic=subscription.topic,
            order_id=order.order_id,
            address=subscription.address,
            api_version=subscription.api_version,
            body=body,
            triggered_ms=at_ms,
            due_ms=at_ms,
        )

    # -- what a call looks like ----------------------------------------------------------------------------------

    def request(self, account: Account, delivery: Delivery) -> Call:
        """The same signed body at each attempt."""
        body = delivery.body.encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Shopify-Captain-Hook",
            "X-Shopify-Topic": delivery.topic,
            "X-Shopify-Shop-Domain": account.settings.domain,
            "X-Shopify-Hmac-Sha256": signature(account.settings.credentials["webhook_secret"], body),
            "X-Shopify-Api-Version": delivery.api_version,
            "X-Shopify-Webhook-Id": delivery.delivery_id,
            "X-Shopify-Event-Id": delivery.event_id,
            "X-Shopify-Triggered-At": shopify_objects.moment_utc(delivery.triggered_ms),
        }
        return Call(delivery.address, headers, body)

    def heard(self, _account: Account, _delivery: Delivery, status: int | str) -> Heard:
        """Any 2xx will do, and every failure is tried again."""
        return any_success(status)

    def given_up(self, account: Account, delivery: Delivery) -> Documents:
        """The subscription goes too, where the shop is set so."""
        if not account.settings.webhook_removed_after_failures:
            return {}
        account.subscriptions.pop(delivery.subscription_id, None)
        return {("subscription", str(delivery.subscription_id)): None}

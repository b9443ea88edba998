"""Mercado Livre's notifications: an unsigned pointer to what changed, and what becomes of one that nobody took.

The developer page "Notificaciones": HTTP 200 within 500 ms, else eight tries within an hour, then it can be read in
`GET /missed_feeds` for two days. An application that keeps failing may lose the topic, and what happens meanwhile.
"""

import json
import secrets
import uuid
from typing import Any

from services.sandbox import mercadolivre_objects as objects
from services.sandbox.books import Documents, Fact, now_ms
from services.sandbox.deliveries import Call, Deliveries, Delivery, Heard
from services.sandbox.market import Account, Market
from services.sandbox.shop import Order


def topics_of(facts: list[Fact]) -> list[str]:
    """Which topics a change raises: where a parcel is concerns the shipment alone, a refund the order alone."""
    kinds = {kind for kind, _ in facts}
    if kinds <= {"told", "moved"}:
        return ["shipments"]
    return ["orders_v2"] if "refund" in kinds else ["orders_v2", "shipments"]


def notification(account: Account, delivery: Delivery, sent_ms: int) -> dict[str, Any]:
    """The body of one attempt."""
    told: dict[str, Any] = {"actions": ["claims"]} if delivery.topic == "post_purchase" else {}
    return told | {
        "_id": delivery.delivery_id,
        "resource": delivery.body,
        "user_id": objects.user_id(account),
        "topic": delivery.topic,
        "application_id": int(account.settings.credentials["client_id"]),
        "attempts": delivery.attempt,
        "sent": objects.moment_utc(sent_ms),
        "received": objects.moment_utc(delivery.triggered_ms),
    }


class Notifications:
    """Announces what happens to orders at the callback URL of the shop's application."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._failures: dict[tuple[str, str], int] = {}
        self.deliveries = Deliveries(market, self, Delivery)
        market.announce = self.announce

    def announce(self, account: Account, order: Order, facts: list[Fact], at_ms: int) -> Documents:
        """Make the deliveries for a change; orders of one shipment or pack are found by these ids from now on."""
        if any(kind == "sale" for kind, _ in facts):
            self._index(account, "shipment", objects.shipment_id(account, order), order)
            pack = objects.pack_id(account, order)
            if pack is not None:
                self._index(account, "pack", pack, order)
        documents: Documents = {}
        resources = {
            "orders_v2": f"/orders/{order.order_id}",
            "shipments": f"/shipments/{objects.shipment_id(account, order)}",
        }
        topics = [topic for topic in topics_of(facts) if topic in account.settings.topics]
        if topics and account.temper.strikes("hidden_event", at_ms) is not None:
            topics.append(topics[0])
        for topic in topics:
            documents |= self._push(account, topic, order.order_id, resources[topic], facts, at_ms)
        return documents

    def announce_claim(self, account: Account, claim: dict[str, Any], facts: list[Fact], at_ms: int) -> Documents:
        """Make the delivery for a claim that is new or was moved; its resource has no stroke in front."""
        if "post_purchase" not in account.settings.topics:
            return {}
        resource = f"post-purchase/v1/claims/{claim['claim_id']}"
        return self._push(account, "post_purchase", claim["order_id"], resource, facts, at_ms)

    def _push(
        self, account: Account, topic: str, order_id: str, resource: str, facts: list[Fact], at_ms: int
    ) -> Documents:
        if not account.settings.callback_url:
            return {}
        delivery = Delivery(
            delivery_id=secrets.token_hex(12),
            event_id=str(uuid.uuid4()),
            subscription_id=0,
            topic=topic,
            order_id=order_id,
            address=account.settings.callback_url,
            api_version="",
            body=resource,
            triggered_ms=at_ms,
            due_ms=at_ms,
        )
        return self.deliveries.send(account, delivery, facts, at_ms)

    def _index(self, account: Account, kind: str, number: int, order: Order) -> None:
        known = account.kept.get((kind, str(number)), {"orders": []})
        account.keep(kind, str(number), {"orders": [*known["orders"], order.order_id]})

    # -- what a call looks like ----------------------------------------------------------------------------------

    def request(self, account: Account, delivery: Delivery) -> Call:
        """The pointer, with the number of this attempt."""
        body = json.dumps(notification(account, delivery, now_ms()), separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        return Call(delivery.address, headers, body)

    def heard(self, account: Account, delivery: Delivery, status: int | str) -> Heard:
        """200 alone will do. A topic that fails too often in a row is taken away from the application."""
        place = (account.name, delivery.topic)
        if status == 200:
            self._failures.pop(place, None)
            return "accepted"
        if delivery.topic not in account.settings.topics:
            return "stop"
        self._failures[place] = self._failures.get(place, 0) + 1
        most = account.settings.topic_failures_max
        if not most or self._failures[place] < most:
            return "again"
        del self._failures[place]
        left = [topic for topic in account.settings.topics if topic != delivery.topic]
        self._market.put_shop(account.name, account.settings.model_copy(update={"topics": left}))
        self._market.commit(account, [("topic", {"topic": delivery.topic, "action": "disabled"})], now_ms())
        return "stop"

    def given_up(self, account: Account, delivery: Delivery) -> Documents:
        """Keep it for `missed_feeds`, unless its topic has been taken away."""
        if delivery.topic in account.settings.topics:
            told = notification(account, delivery, now_ms())
            account.keep("missed", delivery.delivery_id, {"kept_ms": now_ms(), "message": told})
        return {}

    def missed(self, account: Account, topic: str | None) -> list[dict[str, Any]]:
        """What can still be read of lost notifications, the oldest first."""
        since_ms = now_ms() - int(account.settings.missed_feeds_kept_s * 1000)
        kept = sorted(account.of_kind("missed").items(), key=lambda row: (row[1]["kept_ms"], row[0]))
        messages = [document["message"] for _, document in kept if document["kept_ms"] >= since_ms]
        return [message for message in messages if topic is None or message["topic"] == topic]

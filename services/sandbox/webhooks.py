"""Shopify's side of a webhook: sign, send, try again, and note every attempt in the books.

A delivery is kept beside the order that caused it, in one transaction, so a restarted sandbox goes on sending. Nothing
is sent before it is durable, and nothing here makes a sale wait.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp

from services.sandbox import shopify_objects
from services.sandbox.books import Fact, now_ms
from services.sandbox.market import Account, Documents, Market, Subscription
from services.sandbox.shop import Order


@dataclass(slots=True)
class Delivery:
    """One webhook to one address. `attempt` counts those made; `due_ms` is when the next may start."""

    delivery_id: str
    event_id: str
    subscription_id: int
    topic: str
    order_id: str
    address: str
    api_version: str
    body: str
    triggered_ms: int
    due_ms: int
    attempt: int = 0


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
    """Sends what the market announces. `start` inside the running loop, `stop` before it ends."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        market.announce = self.announce

    async def start(self) -> None:
        """Open the client and take up what an earlier process left unsent."""
        connector = aiohttp.TCPConnector(limit=200, limit_per_host=100, keepalive_timeout=30)
        self._session = aiohttp.ClientSession(connector=connector, skip_auto_headers={"User-Agent"})
        for document in list(self._market.deliveries.values()):
            kept = dict(document)
            account = self._market.accounts.get(kept.pop("shop"))
            if account is not None:
                self._begin(account, Delivery(**kept))
        self._market.deliveries.clear()

    async def stop(self) -> None:
        """Drop what is under way; it stays in the books and is sent after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def announce(self, account: Account, order: Order, facts: list[Fact], at_ms: int) -> Documents:
        """Make the deliveries for a change and return them as documents to be kept with it.

        A webhook that the vice swallows is added to `facts`, so that the books know of it.
        """
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
                for delivery in self._with_vices(account, made, facts, at_ms):
                    documents["delivery", delivery.delivery_id] = {"shop": account.name, **asdict(delivery)}
                    self._begin(account, delivery)
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

    def _with_vices(self, account: Account, delivery: Delivery, facts: list[Fact], at_ms: int) -> Iterator[Delivery]:
        temper = account.temper
        if temper.strikes("webhook_missing", at_ms) is not None:
            facts.append(self._row(delivery, "dropped"))
            return
        for vice in ("webhook_late", "webhook_reordered"):
            delivery.due_ms += temper.strikes(vice, at_ms) or 0
        yield delivery
        again_ms = temper.strikes("webhook_duplicate", at_ms)
        if again_ms is not None:
            # The same delivery once more: a reader must tell by the ids that it has seen it.
            copy = Delivery(**{**asdict(delivery), "due_ms": delivery.due_ms + again_ms})
            self._begin(account, copy)

    def _row(self, delivery: Delivery, status: int | str) -> Fact:
        fact = {"delivery_id": delivery.delivery_id, "event_id": delivery.event_id, "topic": delivery.topic}
        return "webhook", fact | {"order_id": delivery.order_id, "attempt": delivery.attempt, "status": status}

    def _begin(self, account: Account, delivery: Delivery) -> None:
        task = asyncio.create_task(self._deliver(account, delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, account: Account, delivery: Delivery) -> None:
        while True:
            wait_ms = delivery.due_ms - now_ms()
            if wait_ms > 0:
                await asyncio.sleep(wait_ms / 1000)
            await self._market.books.settled()
            delivery.attempt += 1
            status = await self._post(account, delivery)
            if self._market.accounts.get(account.name) is not account:
                return
            facts = [self._row(delivery, status)]
            retries = account.settings.webhook_retry_s
            accepted = isinstance(status, int) and 200 <= status < 300
            if accepted or delivery.attempt > len(retries):
                self._finish(account, delivery, facts, accepted=accepted)
                return
            delivery.due_ms = now_ms() + int(retries[delivery.attempt - 1] * 1000)
            kept: dict[str, Any] = {"shop": account.name, **asdict(delivery)}
            self._market.commit(account, facts, now_ms(), {("delivery", delivery.delivery_id): kept})

    def _finish(self, account: Account, delivery: Delivery, facts: list[Fact], *, accepted: bool) -> None:
        documents: Documents = {("delivery", delivery.delivery_id): None}
        if not accepted:
            facts.append(self._row(delivery, "given_up"))
            if account.settings.webhook_removed_after_failures:
                account.subscriptions.pop(delivery.subscription_id, None)
                documents["subscription", str(delivery.subscription_id)] = None
        self._market.commit(account, facts, now_ms(), documents)

    async def _post(self, account: Account, delivery: Delivery) -> int | str:
        assert self._session is not None
        body = delivery.body.encode()
        settings = account.settings
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Shopify-Captain-Hook",
            "X-Shopify-Topic": delivery.topic,
            "X-Shopify-Shop-Domain": settings.domain,
            "X-Shopify-Hmac-Sha256": signature(settings.credentials["webhook_secret"], body),
            "X-Shopify-Api-Version": delivery.api_version,
            "X-Shopify-Webhook-Id": delivery.delivery_id,
            "X-Shopify-Event-Id": delivery.event_id,
            "X-Shopify-Triggered-At": shopify_objects.moment_utc(delivery.triggered_ms),
        }
        timeout = aiohttp.ClientTimeout(total=settings.webhook_timeout_s)
        try:
            async with self._session.post(
                delivery.address, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                await answer.read()
                return answer.status
        except TimeoutError:
            return "timeout"
        except aiohttp.ClientError:
            return "error"

"""The gateway's side of a webhook: sign (Stripe) or show a certificate (Pix), send, try again, note every attempt.

Stripe: `Stripe-Signature: t=<seconds>,v1=<hex HMAC-SHA-256 of "t.body">`, signed anew at each attempt. Pix: a POST to
the registered address with `/pix` put behind it, over TLS with the bank's client certificate. A delivery is kept
beside the change that caused it, in one transaction, so a restarted gateway goes on sending. Only a 2xx answer ends the
retries.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import aiohttp

from services.sandbox import gateway_stripe_objects as objects
from services.sandbox.books import Fact, now_ms
from services.sandbox.certificates import Certificates
from services.sandbox.gateway_accounts import Account, Announcement, Documents, Endpoint, Gateway, Payment


@dataclass(slots=True)
class Delivery:
    """One webhook to one address. `attempt` counts those made; `due_ms` is when the next may start."""

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


def signature(secret: str, body: bytes, at_s: int) -> str:
    """The value of `Stripe-Signature` for a body sent at a time (Stripe's documentation, "Verify manually")."""
    digest = hmac.digest(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hex()
    return f"t={at_s},v1={digest}"


class GatewayWebhooks:
    """Sends what the gateway announces. `start` inside the running loop, `stop` before it ends."""

    def __init__(self, gateway: Gateway, certificates: Certificates) -> None:
        self._gateway = gateway
        self._certificates = certificates
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        self._bank: ssl.SSLContext | None = None
        self._stranger: ssl.SSLContext | None = None
        gateway.announce = self.announce

    async def start(self) -> None:
        """Open the client and take up what an earlier process left unsent."""
        self._bank = self._certificates.client_context("bank")
        self._stranger = self._certificates.client_context("stranger")
        # A connection is made for each webhook: one that was opened with the right certificate must not carry another.
        connector = aiohttp.TCPConnector(limit=200, limit_per_host=100, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, skip_auto_headers={"User-Agent"})
        for document in list(self._gateway.deliveries.values()):
            kept = dict(document)
            account = self._gateway.accounts.get(kept.pop("account"))
            if account is not None:
                self._begin(account, Delivery(**kept))
        self._gateway.deliveries.clear()

    async def stop(self) -> None:
        """Drop what is under way; it stays in the books and is sent after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

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
                first = Delivery(
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
                for delivery in self._with_vices(account, first, facts, at_ms):
                    documents["delivery", delivery.delivery_id] = self._kept(account, delivery)
                    self._begin(account, delivery)
        return documents

    @staticmethod
    def _listening(account: Account, payment: Payment, topic: str) -> list[Endpoint]:
        if payment.method == "pix":
            one = account.endpoints.get(f"pix:{account.settings.pix_key}")
            return [] if one is None else [one]
        return [one for one in account.endpoints.values() if one.secret and {"*", topic} & set(one.events)]

    @staticmethod
    def _kept(account: Account, delivery: Delivery) -> dict[str, Any]:
        return {"account": account.name, **asdict(delivery)}

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
            # The same event once more: a reader must tell by its id that it has seen it.
            yield replace(delivery, delivery_id=secrets.token_hex(12), due_ms=delivery.due_ms + again_ms)

    @staticmethod
    def _row(delivery: Delivery, status: int | str) -> Fact:
        names = ("reference", "payment_id", "method", "delivery_id", "event_id", "topic", "attempt")
        row = {name: getattr(delivery, name) for name in names}
        return "webhook", row | {"amount_minor": None, "key": None, "status": status}

    def _begin(self, account: Account, delivery: Delivery) -> None:
        task = asyncio.create_task(self._deliver(account, delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, account: Account, delivery: Delivery) -> None:
        while True:
            wait_ms = delivery.due_ms - now_ms()
            if wait_ms > 0:
                await asyncio.sleep(wait_ms / 1000)
            await self._gateway.books.settled()
            delivery.attempt += 1
            status = await self._post(account, delivery)
            if self._gateway.accounts.get(account.name) is not account:
                return
            facts = [self._row(delivery, status)]
            retries = account.settings.webhook_retry_s
            accepted = isinstance(status, int) and 200 <= status < 300
            over = accepted or delivery.attempt > len(retries)
            if over:
                kept = None
                if not accepted:
                    facts.append(self._row(delivery, "given_up"))
            else:
                delivery.due_ms = now_ms() + int(retries[delivery.attempt - 1] * 1000)
                kept = self._kept(account, delivery)
            self._gateway.commit(account, facts, now_ms(), {("delivery", delivery.delivery_id): kept})
            if over:
                return

    async def _post(self, account: Account, delivery: Delivery) -> int | str:
        assert self._session is not None
        assert self._bank is not None
        assert self._stranger is not None
        body = delivery.body.encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        foreign = account.temper.strikes("webhook_foreign_signature", now_ms()) is not None
        url, certificate = delivery.url, self._bank
        if delivery.method == "card":
            secret = secrets.token_hex(16) if foreign else delivery.secret
            headers |= {"User-Agent": "Stripe/1.0", "Stripe-Signature": signature(secret, body, now_ms() // 1000)}
        else:
            url = f"{url}/pix"
            certificate = self._stranger if foreign else self._bank
        timeout = aiohttp.ClientTimeout(total=account.settings.webhook_timeout_s)
        try:
            async with self._session.post(
                url, data=body, headers=headers, timeout=timeout, ssl=certificate, allow_redirects=False
            ) as answer:
                await answer.read()
                return answer.status
        except TimeoutError:
            return "timeout"
        except (aiohttp.ClientError, OSError):
            return "error"

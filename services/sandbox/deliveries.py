"""Calling the address that a seller named: send, try again, and note every attempt in the books.

A delivery is kept beside the order that caused it, in one transaction, so a restarted sandbox goes on sending. Nothing
is sent before it is durable, and nothing here makes a sale wait. What a call looks like is the marketplace's own.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import aiohttp

from services.sandbox.books import Fact, now_ms
from services.sandbox.market import Account, Documents, Market


@dataclass(slots=True)
class Delivery:
    """One call of one address. `attempt` counts those made; `due_ms` is when the next may start.

    `subscription_id` and `api_version` are Shopify's; elsewhere 0 and empty.
    """

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


class Caller(Protocol):
    """What one marketplace has of its own in a call."""

    def request(self, account: Account, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of the attempt that `delivery.attempt` counts already."""
        ...

    def heard(self, account: Account, delivery: Delivery, status: int | str, /) -> Literal["accepted", "again", "stop"]:
        """What an attempt's status ("timeout" and "error" are ones too) means for the delivery."""
        ...

    def given_up(self, account: Account, delivery: Delivery) -> Documents:
        """What to keep in the transaction that ends a delivery nobody took."""
        ...


class Deliveries:
    """Sends what a marketplace announces. `start` inside the running loop, `stop` before it ends."""

    def __init__(self, market: Market, caller: Caller) -> None:
        self._market = market
        self._caller = caller
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

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

    def send(self, account: Account, delivery: Delivery, facts: list[Fact], at_ms: int) -> Documents:
        """Begin a delivery; returns the documents to be kept with the change it tells of.

        A call that the vice swallows is added to `facts`, so that the books know of it.
        """
        documents: Documents = {}
        for kept in self._with_vices(account, delivery, facts, at_ms):
            documents["delivery", kept.delivery_id] = {"shop": account.name, **asdict(kept)}
            self._begin(account, kept)
        return documents

    def _with_vices(self, account: Account, delivery: Delivery, facts: list[Fact], at_ms: int) -> Iterator[Delivery]:
        temper = account.temper
        if temper.strikes("webhook_missing", at_ms) is not None:
            facts.append(_row(delivery, "dropped"))
            return
        for vice in ("webhook_late", "webhook_reordered"):
            delivery.due_ms += temper.strikes(vice, at_ms) or 0
        yield delivery
        again_ms = temper.strikes("webhook_duplicate", at_ms)
        if again_ms is not None:
            # The same delivery once more: a reader must tell by the ids that it has seen it.
            copy = Delivery(**{**asdict(delivery), "due_ms": delivery.due_ms + again_ms})
            self._begin(account, copy)

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
            headers, body = self._caller.request(account, delivery)
            status = await self.call(delivery.address, headers, body, account.settings.webhook_timeout_s)
            if self._market.accounts.get(account.name) is not account:
                return
            facts = [_row(delivery, status)]
            retries: Sequence[float] = account.settings.webhook_retry_s
            heard = self._caller.heard(account, delivery, status)
            if heard == "accepted":
                self._market.commit(account, facts, now_ms(), {("delivery", delivery.delivery_id): None})
                return
            if heard == "stop" or delivery.attempt > len(retries):
                documents = {**self._caller.given_up(account, delivery), ("delivery", delivery.delivery_id): None}
                self._market.commit(account, [*facts, _row(delivery, "given_up")], now_ms(), documents)
                return
            delivery.due_ms = now_ms() + int(retries[delivery.attempt - 1] * 1000)
            kept: dict[str, Any] = {"shop": account.name, **asdict(delivery)}
            self._market.commit(account, facts, now_ms(), {("delivery", delivery.delivery_id): kept})

    async def call(self, address: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> int | str:
        """POST once; the HTTP status, "timeout" or "error"."""
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.post(
                address, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                await answer.read()
                return answer.status
        except TimeoutError:
            return "timeout"
        except (aiohttp.ClientError, ValueError):
            return "error"


def _row(delivery: Delivery, status: int | str) -> Fact:
    fact = {"delivery_id": delivery.delivery_id, "event_id": delivery.event_id, "topic": delivery.topic}
    return "webhook", fact | {"order_id": delivery.order_id, "attempt": delivery.attempt, "status": status}

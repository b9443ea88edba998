"""The carrier's side of time: parcels get scanned when they are due, and the accounts hear of it by signed webhooks.

What is due and what is unsent is kept with the parcel, so a restarted sandbox goes on. Nothing is sent before it is
durable.
"""

import asyncio
import base64
import contextlib
import hashlib
import heapq
import hmac
import json
import secrets
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import aiohttp

from services.sandbox.books import Fact, now_ms
from services.sandbox.carrier_parcels import Account, Depot, Documents, Parcel

_ZONE = timezone(timedelta(hours=-3))

Signed = Literal["own", "foreign", "none"]


def moment(at_ms: int | None) -> str | None:
    """Melhor Envio's way to write a time: `2026-01-31 12:00:00`, of Brasília."""
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, _ZONE).strftime("%Y-%m-%d %H:%M:%S")


def parcel_state(parcel: Parcel) -> dict[str, Any]:
    """A parcel as Melhor Envio's tracking and webhooks show it."""
    code = parcel.tracking_code or None
    return {
        "id": parcel.order_id,
        "protocol": parcel.protocol,
        "status": parcel.status,
        "tracking": code,
        "melhorenvio_tracking": code,
        "self_tracking": None,
        "tags": parcel.tags,
        "created_at": moment(parcel.created_ms),
        "paid_at": moment(parcel.paid_ms),
        "generated_at": moment(parcel.generated_ms),
        "posted_at": moment(parcel.posted_ms),
        "delivered_at": moment(parcel.delivered_ms),
        "canceled_at": moment(parcel.cancelled_ms),
        "expired_at": None,
        "tracking_url": f"https://www.melhorrastreio.com.br/rastreio/{code}" if code else None,
    }


def scanned_state(parcel: Parcel) -> dict[str, Any]:
    """A parcel as the carrier of own rates shows it: every scan, the oldest first, times in UTC."""
    scans = [
        {
            "scan_id": one["scan_id"],
            "status": one["status"],
            "place": one["place"],
            "at": datetime.fromtimestamp(one["at_ms"] / 1000, UTC).isoformat(timespec="milliseconds"),
        }
        for one in parcel.scans
    ]
    return {
        "tracking_code": parcel.tracking_code,
        "shipment_id": parcel.shipment_id,
        "status": parcel.status,
        "scans": scans,
    }


def signature(secret: str, body: bytes) -> str:
    """Base64 of the HMAC-SHA-256 over the raw body (`X-ME-Signature`, `X-Scanner-Signature`)."""
    return base64.b64encode(hmac.digest(secret.encode(), body, hashlib.sha256)).decode()


@dataclass(slots=True)
class Delivery:
    """One webhook. `attempt` counts those made; `due_ms` is when the next may start."""

    delivery_id: str
    event: str
    order_id: str
    address: str
    body: str
    signed: Signed
    due_ms: int
    attempt: int = 0


class Scanner:
    """Scans parcels when they are due. `start` inside the running loop, `stop` before it ends."""

    def __init__(self, depot: Depot) -> None:
        self._depot = depot
        self._due: list[tuple[int, str, str]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        depot.planned = self.planned

    def planned(self, account: Account, parcel: Parcel) -> None:
        """Note when the parcel is due next."""
        heapq.heappush(self._due, (parcel.planned[0]["due_ms"], account.name, parcel.order_id))
        self._wake.set()

    async def start(self) -> None:
        """Take up what is planned already."""
        for account in self._depot.accounts.values():
            for parcel in account.parcels.values():
                if parcel.planned:
                    self.planned(account, parcel)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; what is still planned stays in the books."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            wait_s = max(0.0, (self._due[0][0] - now_ms()) / 1000) if self._due else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)
            self._wake.clear()
            while self._due and self._due[0][0] <= now_ms():
                due_ms, name, order_id = heapq.heappop(self._due)
                account = self._depot.accounts.get(name)
                parcel = account.parcels.get(order_id) if account is not None else None
                # A parcel that was cancelled or set off anew has left older notes behind.
                if account is None or parcel is None or not parcel.planned:
                    continue
                if parcel.planned[0]["due_ms"] == due_ms:
                    self._depot.scan_next(account, parcel)


class Hooks:
    """Sends what the depot announces. `start` inside the running loop, `stop` before it ends."""

    def __init__(self, depot: Depot) -> None:
        self._depot = depot
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        depot.announce = self.announce

    async def start(self) -> None:
        """Open the client and take up what an earlier process left unsent."""
        connector = aiohttp.TCPConnector(limit=200, limit_per_host=100, keepalive_timeout=30)
        self._session = aiohttp.ClientSession(connector=connector, skip_auto_headers={"User-Agent"})
        for document in list(self._depot.deliveries.values()):
            kept = dict(document)
            account = self._depot.accounts.get(kept.pop("account"))
            if account is not None:
                self._begin(account, Delivery(**kept))
        self._depot.deliveries.clear()

    async def stop(self) -> None:
        """Drop what is under way; it stays in the books and is sent after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def announce(self, account: Account, parcel: Parcel, event: str, facts: list[Fact], at_ms: int) -> Documents:
        """Make the webhooks for a change and return them as documents to be kept with it.

        One that the vice swallows is added to `facts`, so that the books know of it.
        """
        if not account.settings.webhook_url:
            return {}
        shown = scanned_state(parcel) if account.settings.kind == "table" else parcel_state(parcel)
        foreign = account.temper.strikes("webhook_foreign_signature", at_ms) is not None
        delivery = self._delivery(account, event, parcel.order_id, shown, "foreign" if foreign else "own", at_ms)
        documents: Documents = {}
        for one in self._with_vices(account, delivery, facts, at_ms):
            documents[account.name, "delivery", one.delivery_id] = {"account": account.name, **asdict(one)}
            self._begin(account, one)
        return documents

    def send(self, account: Account, event: str, order_id: str, data: dict[str, Any], signed: Signed) -> str:
        """Send a webhook that nothing in the depot caused, once; returns its id. It is not kept over a restart."""
        delivery = self._delivery(account, event, order_id, data, signed, now_ms())
        self._begin(account, delivery, once=True)
        return delivery.delivery_id

    def _delivery(
        self, account: Account, event: str, order_id: str, data: dict[str, Any], signed: Signed, at_ms: int
    ) -> Delivery:
        body = json.dumps({"event": event, "data": data}, ensure_ascii=False, separators=(",", ":"))
        address = account.settings.webhook_url
        return Delivery(str(uuid.uuid4()), event, order_id, address, body, signed, at_ms)

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
            self._begin(account, Delivery(**{**asdict(delivery), "due_ms": delivery.due_ms + again_ms}))

    def _row(self, delivery: Delivery, status: int | str) -> Fact:
        fact = {"delivery_id": delivery.delivery_id, "event": delivery.event, "order_id": delivery.order_id}
        return "webhook", fact | {"attempt": delivery.attempt, "signed": delivery.signed, "status": status}

    def _begin(self, account: Account, delivery: Delivery, *, once: bool = False) -> None:
        task = asyncio.create_task(self._deliver(account, delivery, once=once))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, account: Account, delivery: Delivery, *, once: bool) -> None:
        key = (account.name, "delivery", delivery.delivery_id)
        while True:
            wait_ms = delivery.due_ms - now_ms()
            if wait_ms > 0:
                await asyncio.sleep(wait_ms / 1000)
            await self._depot.books.settled()
            delivery.attempt += 1
            status = await self._post(account, delivery)
            if self._depot.accounts.get(account.name) is not account:
                return
            facts, retries = [self._row(delivery, status)], account.settings.webhook_retry_s
            accepted = isinstance(status, int) and 200 <= status < 300
            if accepted or once or delivery.attempt > len(retries):
                if not (accepted or once):
                    facts.append(self._row(delivery, "given_up"))
                self._depot.books.append(account.name, now_ms(), facts, {key: None})
                return
            delivery.due_ms = now_ms() + int(retries[delivery.attempt - 1] * 1000)
            kept: dict[str, Any] = {"account": account.name, **asdict(delivery)}
            self._depot.books.append(account.name, now_ms(), facts, {key: kept})

    async def _post(self, account: Account, delivery: Delivery) -> int | str:
        assert self._session is not None
        body = delivery.body.encode()
        settings = account.settings
        headers = {"Content-Type": "application/json", "User-Agent": "Carrier-Webhook"}
        if delivery.signed != "none":
            own = settings.credentials["client_secret"]
            secret = own if delivery.signed == "own" else secrets.token_urlsafe(30)
            name = "X-Scanner-Signature" if settings.kind == "table" else "X-ME-Signature"
            headers[name] = signature(secret, body)
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

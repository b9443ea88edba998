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
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal, Self

from services.sandbox.books import Documents, Fact, now_ms
from services.sandbox.carrier_parcels import Account, Depot, Parcel
from services.sandbox.deliveries import Call, Deliveries, Heard, any_success

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
class ParcelDelivery:
    """One webhook about a parcel."""

    delivery_id: str
    event: str
    order_id: str
    address: str
    body: str
    signed: Signed
    due_ms: int
    attempt: int = 0

    def row(self, status: int | str) -> Fact:
        """An attempt in the carrier's books."""
        fact = {"delivery_id": self.delivery_id, "event": self.event, "order_id": self.order_id}
        return "webhook", fact | {"attempt": self.attempt, "signed": self.signed, "status": status}

    def again(self) -> Self:
        """The same delivery, under the same id."""
        return replace(self)


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
    """Announces what happens to parcels at the address of their account."""

    def __init__(self, depot: Depot) -> None:
        self.deliveries = Deliveries(depot, self, ParcelDelivery)
        depot.announce = self.announce

    def announce(self, account: Account, parcel: Parcel, event: str, facts: list[Fact], at_ms: int) -> Documents:
        """Make the webhook for a change and return it as a document to be kept with it."""
        if not account.settings.webhook_url:
            return {}
        shown = scanned_state(parcel) if account.settings.kind == "table" else parcel_state(parcel)
        foreign = account.temper.strikes("webhook_foreign_signature", at_ms) is not None
        delivery = self._delivery(account, event, parcel.order_id, shown, "foreign" if foreign else "own", at_ms)
        return self.deliveries.send(account, delivery, facts, at_ms)

    def send(self, account: Account, event: str, order_id: str, data: dict[str, Any], signed: Signed) -> str:
        """Send a webhook that nothing in the depot caused, once; returns its id. It is not kept over a restart."""
        delivery = self._delivery(account, event, order_id, data, signed, now_ms())
        self.deliveries.begin(account, delivery, once=True)
        return delivery.delivery_id

    def _delivery(
        self, account: Account, event: str, order_id: str, data: dict[str, Any], signed: Signed, at_ms: int
    ) -> ParcelDelivery:
        body = json.dumps({"event": event, "data": data}, ensure_ascii=False, separators=(",", ":"))
        address = account.settings.webhook_url
        return ParcelDelivery(str(uuid.uuid4()), event, order_id, address, body, signed, at_ms)

    # -- what a call looks like ----------------------------------------------------------------------------------

    def request(self, account: Account, delivery: ParcelDelivery) -> Call:
        """The same signed body at each attempt."""
        body, settings = delivery.body.encode(), account.settings
        headers = {"Content-Type": "application/json", "User-Agent": "Carrier-Webhook"}
        if delivery.signed != "none":
            own = settings.credentials["client_secret"]
            secret = own if delivery.signed == "own" else secrets.token_urlsafe(30)
            name = "X-Scanner-Signature" if settings.kind == "table" else "X-ME-Signature"
            headers[name] = signature(secret, body)
        return Call(delivery.address, headers, body)

    def heard(self, _account: Account, _delivery: ParcelDelivery, status: int | str) -> Heard:
        """Any 2xx will do, and every failure is tried again."""
        return any_success(status)

    def given_up(self, _account: Account, _delivery: ParcelDelivery) -> Documents:
        """The address stays as it is set."""
        return {}

"""Calling the address that somebody named: send, try again, and note every attempt in the books.

A delivery is kept beside the change that caused it, in one transaction, so a restarted sandbox goes on sending. Nothing
is sent before it is durable, and nothing here makes a sale wait. What a call looks like is the sandbox's own.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import aiohttp

from services.sandbox.books import Books, Documents, Fact, now_ms
from services.sandbox.vices import Temper

Heard = Literal["accepted", "again", "stop"]


class Terms(Protocol):
    """How an account wants to be called: seconds an attempt may take, and seconds before each further one."""

    @property
    def webhook_timeout_s(self) -> float: ...
    @property
    def webhook_retry_s(self) -> Sequence[float]: ...


class Called(Protocol):
    """The account that is called."""

    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> Terms: ...
    @property
    def temper(self) -> Temper: ...


class Due(Protocol):
    """One call of one address, a dataclass. `attempt` counts those made; `due_ms` is when the next may start."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    delivery_id: str
    due_ms: int
    attempt: int

    def row(self, status: int | str, /) -> Fact:
        """How an attempt's status ("dropped" and "given_up" are ones too) stands in the books."""
        ...

    def again(self) -> Self:
        """A copy, for the vice that sends everything twice."""
        ...


class Call(NamedTuple):
    """What one attempt sends."""

    address: str
    headers: Mapping[str, str]
    body: bytes
    certificate: ssl.SSLContext | None = None


A = TypeVar("A", bound=Called)
A_contra = TypeVar("A_contra", bound=Called, contravariant=True)
D = TypeVar("D", bound=Due)
D_contra = TypeVar("D_contra", bound=Due, contravariant=True)


class Kept(Protocol[A]):
    """Where accounts and unsent deliveries are; `commit` hands facts and documents to the books together."""

    books: Books
    accounts: dict[str, A]
    deliveries: dict[str, dict[str, Any]]

    def commit(self, account: A, facts: list[Fact], at_ms: int, extra: Documents, /) -> None: ...


class Caller(Protocol[A_contra, D_contra]):
    """What one sandbox has of its own in a call."""

    def request(self, account: A_contra, delivery: D_contra, /) -> Call:
        """The attempt that `delivery.attempt` counts already."""
        ...

    def heard(self, account: A_contra, delivery: D_contra, status: int | str, /) -> Heard:
        """What an attempt's status ("timeout" and "error" are ones too) means for the delivery."""
        ...

    def given_up(self, account: A_contra, delivery: D_contra, /) -> Documents:
        """What to keep in the transaction that ends a delivery nobody took."""
        ...


def any_success(status: int | str) -> Heard:
    """Any 2xx will do, and every failure is tried again."""
    return "accepted" if isinstance(status, int) and 200 <= status < 300 else "again"


class Deliveries(Generic[A, D]):
    """Sends what a sandbox announces. `start` inside the running loop, `stop` before it ends.

    `kind` is the dataclass of its deliveries. Without `keepalive` every attempt has a connection of its own.
    """

    def __init__(self, kept: Kept[A], caller: Caller[A, D], kind: type[D], *, keepalive: bool = True) -> None:
        self._kept = kept
        self._caller = caller
        self._kind = kind
        self._keepalive = keepalive
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the client and take up what an earlier process left unsent."""
        if self._keepalive:
            connector = aiohttp.TCPConnector(limit=200, limit_per_host=100, keepalive_timeout=30)
        else:
            connector = aiohttp.TCPConnector(limit=200, limit_per_host=100, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, skip_auto_headers={"User-Agent"})
        for document in list(self._kept.deliveries.values()):
            known = dict(document)
            account = self._kept.accounts.get(known.pop("shop"))
            if account is not None:
                self.begin(account, self._kind(**known))
        self._kept.deliveries.clear()

    async def stop(self) -> None:
        """Drop what is under way; it stays in the books and is sent after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def send(self, account: A, delivery: D, facts: list[Fact], at_ms: int) -> Documents:
        """Begin a delivery; returns the documents to be kept with the change it tells of.

        A call that the vice swallows is added to `facts`, so that the books know of it.
        """
        temper = account.temper
        if temper.strikes("webhook_missing", at_ms) is not None:
            facts.append(delivery.row("dropped"))
            return {}
        for vice in ("webhook_late", "webhook_reordered"):
            delivery.due_ms += temper.strikes(vice, at_ms) or 0
        documents = {("delivery", delivery.delivery_id): self._document(account, delivery)}
        again_ms = temper.strikes("webhook_duplicate", at_ms)
        if again_ms is not None:
            # The same once more: a reader must tell by the ids that it has seen it.
            copy = delivery.again()
            copy.due_ms += again_ms
            documents.setdefault(("delivery", copy.delivery_id), self._document(account, copy))
            self.begin(account, copy)
        self.begin(account, delivery)
        return {**documents}

    def begin(self, account: A, delivery: D, *, once: bool = False) -> None:
        """Begin a delivery that is kept already, or, with `once`, one attempt that nobody keeps."""
        task = asyncio.create_task(self._deliver(account, delivery, once=once))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _document(account: A, delivery: D) -> dict[str, Any]:
        return {"shop": account.name, **asdict(delivery)}

    async def _deliver(self, account: A, delivery: D, *, once: bool) -> None:
        place = ("delivery", delivery.delivery_id)
        while True:
            wait_ms = delivery.due_ms - now_ms()
            if wait_ms > 0:
                await asyncio.sleep(wait_ms / 1000)
            await self._kept.books.settled()
            delivery.attempt += 1
            status = await self.call(self._caller.request(account, delivery), account.settings.webhook_timeout_s)
            if self._kept.accounts.get(account.name) is not account:
                return
            facts = [delivery.row(status)]
            retries = account.settings.webhook_retry_s
            heard = self._caller.heard(account, delivery, status)
            if heard == "accepted" or once:
                self._kept.commit(account, facts, now_ms(), {place: None})
                return
            if heard == "stop" or delivery.attempt > len(retries):
                facts.append(delivery.row("given_up"))
                documents = {**self._caller.given_up(account, delivery), place: None}
                self._kept.commit(account, facts, now_ms(), documents)
                return
            delivery.due_ms = now_ms() + int(retries[delivery.attempt - 1] * 1000)
            self._kept.commit(account, facts, now_ms(), {place: self._document(account, delivery)})

    async def call(self, call: Call, timeout_s: float) -> int | str:
        """POST once; the HTTP status, "timeout" or "error"."""
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.post(
                call.address, data=call.body, headers=call.headers, timeout=timeout, allow_redirects=False,
                ssl=call.certificate or True,
            ) as answer:  # fmt: skip
                await answer.read()
                return answer.status
        except TimeoutError:
            return "timeout"
        except (aiohttp.ClientError, OSError, ValueError):
            return "error"


@dataclass(slots=True)
class Delivery:
    """A marketplace's call about an order. `subscription_id` and `api_version` are Shopify's; elsewhere 0 and empty."""

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

    def row(self, status: int | str) -> Fact:
        """An attempt in a marketplace's books."""
        fact = {"delivery_id": self.delivery_id, "event_id": self.event_id, "topic": self.topic}
        return "webhook", fact | {"order_id": self.order_id, "attempt": self.attempt, "status": status}

    def again(self) -> Self:
        """The same delivery, under the same id."""
        return replace(self)

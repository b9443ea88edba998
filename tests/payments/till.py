"""Payments on a database with a model gateway, a clock that only moves when told, and a process that can be killed."""

# The model answers to the signatures of the gateway, needing less of them.
# ruff: noqa: ARG002

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx

from contracts.envelope import Envelope
from contracts.payments.v1 import AuthorizePayment
from services.border.errors import OutcomeUnknown, Rejected, Throttled
from services.border.limiter import Limiter
from services.border.tokens import seal_token
from services.border.vault import Vault
from services.bus import Received, Transaction
from services.payments.charge import Charger
from services.payments.domain import Command, Kind, Seen
from services.payments.gateways.gateway import (
    Delivery,
    Gateway,
    GatewayTraits,
    Hint,
    Refund,
    Session,
    Settlement,
    Wanted,
)
from services.payments.handlers import obey
from services.payments.settings import PaymentsSettings
from tests.payments.given import ACCOUNT, AMOUNT, NOW, ModelGateway, Refusal

SETTINGS = PaymentsSettings(secrets_key=bytes(range(32)).hex(), charge_parallel=1)
VAULT, TOKENS = Vault(bytes(range(32)).hex()), Vault(bytes(range(32, 64)).hex())


def sealed(command: Command, tenant: str) -> Command:
    """The command with its token as the own shop seals it."""
    if not isinstance(command, AuthorizePayment):
        return command
    token = seal_token(TOKENS, command.token, tenant=tenant, order_id=command.order_id)
    return command.model_copy(update={"token": token})


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Asked:
    """The model gateway as the loop asks it. `misbehave` says what goes wrong at the next calls of a kind."""

    books: ModelGateway
    misbehave: dict[Kind, list[str]] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    looks: int = 0
    unknown: bool = False
    traits: GatewayTraits = field(default_factory=lambda: GatewayTraits("model", 30, 5, (), {}))

    def _do(self, payment_id: str, kind: Kind, n: int, amount_minor: int, key: str) -> Seen:
        vices = self.misbehave.get(kind)
        vice = vices.pop(0) if vices else ""
        if vice == "throttled":
            raise Throttled(1)
        if vice == "broken":
            raise RuntimeError("hidden")
        if vice == "dropped":
            raise OutcomeUnknown("no answer")
        try:
            seen = self.books.execute(payment_id, kind, n, amount_minor, key)
        except Refusal as refusal:
            raise Rejected(str(refusal)) from None
        if vice == "timeout":
            raise OutcomeUnknown("no answer")
        return seen

    async def open(self, session: Session, wanted: Wanted, key: str) -> Seen:
        return self._do(wanted.payment_id, Kind.OPEN, 1, wanted.amount_minor, key)

    async def charge(self, session: Session, reference: str, token: str, key: str) -> Seen:
        self.tokens.append(token)
        return self._do(self._payment(reference), Kind.CHARGE, 1, AMOUNT, key)

    async def capture(self, session: Session, reference: str, amount_minor: int, key: str) -> Seen:
        return self._do(self._payment(reference), Kind.CAPTURE, 1, amount_minor, key)

    async def void(self, session: Session, reference: str, key: str) -> Seen:
        return self._do(self._payment(reference), Kind.VOID, 1, 0, key)

    async def refund(self, session: Session, reference: str, refund: Refund, key: str) -> Seen:
        n = int(refund.refund_id.rpartition(":")[2])
        return self._do(self._payment(reference), Kind.REFUND, n, refund.amount_minor, key)

    async def look(self, session: Session, reference: str, payment_id: str) -> Seen | None:
        self.looks += 1
        return None if self.unknown else self.books.seen.get(payment_id)

    def verify(self, delivery: Delivery, credentials: Mapping[str, str], now: datetime) -> None:
        """Whoever sends it."""

    def hint(self, body: bytes) -> Hint:
        return Hint("delivery", ())

    async def subscribe(self, session: Session, door_url: str) -> str:
        return ""

    async def payouts(self, session: Session) -> Sequence[str]:
        return ()

    async def settlements(self, session: Session, payout_id: str) -> Sequence[Settlement]:
        return ()

    @staticmethod
    def _payment(reference: str) -> str:
        return reference.removeprefix("ref-")


class Till:
    """One company's payments from command to facts."""

    def __init__(self, connection: Any, tenant: str = "acme", books: ModelGateway | None = None) -> None:
        self.connection, self.tenant, self.now = connection, tenant, NOW
        self.asked = Asked(books or ModelGateway())
        self.settings = SETTINGS
        # Accounts that lead elsewhere: to another gateway, or to an error.
        self.accounts: dict[str, Asked | Exception] = {}
        self._one = asyncio.Lock()
        self.published: list[tuple[str, Any]] = []
        self.points: Counter[str] = Counter()
        self.reached, self.kill_at = 0, 0
        self._ids = itertools.count()

    async def account(self, tenant: str = "", account_id: str = ACCOUNT) -> None:
        await self.connection.execute(
            "INSERT INTO gateway_accounts (account_id, tenant, gateway, environment, base_url) "
            "VALUES ($1, $2, 'model', 'sandbox', 'http://127.0.0.1')",
            account_id, tenant or self.tenant,
        )  # fmt: skip

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        tx = Transaction(self.connection, self.now, lambda: f"id-{self.tenant}-{next(self._ids)}")
        async with self._one, self.connection.transaction():
            yield tx
            self.point("commit.before")
        self.published += [(one.tenant, one.message) for one in tx.publications]
        self.point("commit.after")

    def point(self, name: str) -> None:
        self.points[name] += 1
        self.reached += 1
        if self.reached == self.kill_at:
            raise Killed

    async def hear(self, *commands: Command, tenant: str = "") -> None:
        """One batch."""
        owner = tenant or self.tenant
        envelope = Envelope("event-1", "", "/test", NOW, "", owner, "order-a")
        async with self.connection.transaction():
            tx = Transaction(self.connection, self.now, lambda: "id")
            received: list[Received[Command]] = [Received(sealed(one, owner), envelope, "key") for one in commands]
            await obey(received, tx, vault=VAULT, tokens=TOKENS, settings=SETTINGS, wake=lambda: None)
        self.published += [(one.tenant, one.message) for one in tx.publications]

    async def work(self, *, rounds: int = 60) -> None:
        """Work until nothing is due, the clock moving on by seconds."""
        charger = self.charger()
        idle = 0
        for _ in range(rounds):
            async with asyncio.TaskGroup() as group:
                found = await charger.work(group)
            idle = 0 if found else idle + 1
            if idle > 10:
                return
            self.now += timedelta(seconds=1)

    def charger(self) -> Charger:
        return Charger(self.transaction, self._session, VAULT, self.settings, self.point, asyncio.Event())

    async def _session(self, tenant: str, account_id: str) -> tuple[Gateway, Session]:
        asked = self.accounts.get(account_id, self.asked)
        if isinstance(asked, Exception):
            raise asked
        return asked, Session(httpx.AsyncClient(), Limiter({}, lambda: 0.0), "http://127.0.0.1", {}, {})

    def restart(self) -> None:
        """Another process, after the claims of the killed one have run out."""
        self.kill_at, self.now = 0, self.now + timedelta(minutes=2)

    async def rows(self, table: str, columns: str = "*", tenant: str = "") -> list[dict[str, Any]]:
        found = await self.connection.fetch(
            f"SELECT {columns} FROM {table} WHERE tenant = $1 ORDER BY 1, 2", tenant or self.tenant
        )
        return [dict(row) for row in found]

    async def end(self) -> dict[str, Any]:
        """What must be the same whatever happened on the way."""
        return {
            "payments": await self.rows(
                "payments", "payment_id, status, captured_minor, refunded_minor, token_sealed, due_at"
            ),
            "balances": await self.rows("money_balances", "account, currency, amount_minor"),
            "calls": await self.rows("payment_calls", "kind, n, amount_minor, outcome"),
            "told": [(owner, type(one).__name__, one.version, one.captured_minor) for owner, one in self.published],
        }

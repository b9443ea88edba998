"""The merchants of the payment gateway sandbox: settings, vices, payments; in memory for speed, in the books for keeps.

Rows of the books, all with `reference` (a `pi_…` or a Pix txid), `payment_id` (the merchant's own id, from the metadata
`saldo_payment_id`; null for Pix), `method` (card, pix), `amount_minor` and `key` (the idempotency key of the request,
null where nobody asked; for a refund by Pix its id):

intent           a payment opened; nothing charged
intent_removed   a Pix charge taken back before it was paid: by (client, gateway)
charge           the buyer's money is reserved (captured false) or taken (captured true): charge_id
charge_refused   reason (card_declined, insufficient_funds, authentication_failed; expired, removed, paid for Pix)
capture          reserved money taken; amount_minor is what was taken: charge_id
void             reserved money released: by (client, gateway), charge_id or null where nothing was reserved
refund           refund_id, merchant_refund_id, status (pending, succeeded, failed): one row a status reached
dispute          dispute_id, status (needs_response, won, lost), reason, fee_minor
payout           paid to the merchant's bank: reference is the payout's id, key null
webhook          delivery_id, event_id, topic, attempt, status (an HTTP status, or timeout, error, dropped, given_up);
                 amount_minor and key are null

Each row may carry `vice`: the habit that struck the request (charge_timeout, charge_late, charge_error): it was done
though its client did not hear so.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.sandbox.books import Books, DocumentKey, Documents, Fact, now_ms
from services.sandbox.limits import Windows
from services.sandbox.vices import Temper, Vice

Operation = Literal["open", "charge", "capture", "void", "refund"]


class GatewayVices(BaseModel):
    """All habits of an account at the gateway.

    charge_timeout: done, then no answer. charge_late: no answer, done min_ms..max_ms later (5 s when both are 0).
    charge_error: done, then answered with 500. These three strike the `operations` named (open: create an intent or a
    Pix charge; charge: confirm; capture; void: cancel or take back; refund). declined: a good card is declined.
    refund_pending: a refund is done min_ms..max_ms later (2 s). refund_failed: a refund fails, after that time where
    it is pending too. expires_early: the gateway drops an authorised or unpaid payment after min_ms..max_ms.
    throttled: 429 (Pix: 503), nothing done. slow: every answer waits. webhook_late, webhook_reordered: sent
    min_ms..max_ms later. webhook_duplicate: sent twice. webhook_missing: never sent. webhook_foreign_signature: signed
    with a secret, or sent with a certificate, that is not the gateway's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    operations: frozenset[Operation] = frozenset({"charge", "capture"})
    charge_timeout: Vice | None = None
    charge_late: Vice | None = None
    charge_error: Vice | None = None
    declined: Vice | None = None
    refund_pending: Vice | None = None
    refund_failed: Vice | None = None
    expires_early: Vice | None = None
    throttled: Vice | None = None
    slow: Vice | None = None
    webhook_late: Vice | None = None
    webhook_reordered: Vice | None = None
    webhook_duplicate: Vice | None = None
    webhook_missing: Vice | None = None
    webhook_foreign_signature: Vice | None = None


class AccountSettings(BaseModel):
    """One merchant's account. What is left out at creation is drawn once and then kept.

    Credentials: `secret_key`, `publishable_key` (Stripe), `client_id`, `client_secret` (Pix). `pix_key` is the
    merchant's key in the Pix directory, `tax_id` its CNPJ. Fees are taken of every capture by card and every dispute.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    credentials: dict[str, str] = {}
    pix_key: str = ""
    tax_id: Annotated[str, Field(pattern="^[0-9A-Z]{14}$")] = "12345678000195"
    key_life_s: Annotated[float, Field(gt=0)] = 86_400
    token_life_s: Annotated[float, Field(gt=0)] = 3_600
    authorization_life_s: Annotated[float, Field(gt=0)] = 7 * 86_400
    dispute_after_ms: Annotated[int, Field(ge=0)] = 1_000
    search_delay_ms: Annotated[int, Field(ge=0)] = 0
    fee_per_mille: Annotated[int, Field(ge=0)] = 39
    fee_fixed_minor: Annotated[int, Field(ge=0)] = 39
    dispute_fee_minor: Annotated[int, Field(ge=0)] = 1_500
    requests_per_s: Annotated[int, Field(gt=0)] = 100
    webhook_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    webhook_retry_s: Annotated[list[float], Field(max_length=30)] = [10, 60, 300, 1800, 3600, 7200, 14400, 28800]
    vices: GatewayVices = GatewayVices()
    vices_since_ms: int = 0


@dataclass(slots=True)
class Card:
    """A tokenised card: what it will do (`behaviour`) and what may be shown of it; the digits are gone."""

    token: str
    brand: str
    last4: str
    month: int
    year: int
    behaviour: str
    created_ms: int
    used: bool = False


@dataclass(slots=True)
class Refund:
    """Money on its way back. `merchant_id`: the merchant's own refund id. `settles_ms`: when a pending one ends."""

    refund_id: str
    merchant_id: str
    amount_minor: int
    status: str
    at_ms: int
    ends_as: str = "succeeded"
    settles_ms: int | None = None
    settled_ms: int | None = None
    reason: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Payment:
    """One payment: a Stripe PaymentIntent or a Pix charge, with the money that moved for it, absolute.

    Status, card: as Stripe names them. Status, pix: ATIVA, CONCLUIDA, REMOVIDA_PELO_USUARIO_RECEBEDOR,
    REMOVIDA_PELO_PSP. `drops_ms`: when the gateway lets go of it by itself (an authorisation's end, the vice).
    """

    reference: str
    method: Literal["card", "pix"]
    status: str
    amount_minor: int
    currency: str
    created_ms: int
    capture_method: str = "manual"
    token: str | None = None
    charge_id: str | None = None
    charged_ms: int | None = None
    authorized_minor: int = 0
    captured_minor: int = 0
    captured_ms: int | None = None
    fee_minor: int = 0
    cancelled_ms: int | None = None
    cancellation_reason: str | None = None
    return_url: str | None = None
    error: dict[str, Any] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    description: str | None = None
    refunds: list[Refund] = field(default_factory=list)
    dispute: dict[str, Any] | None = None
    disputes_ms: int | None = None
    drops_ms: int | None = None
    expires_s: int | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    revision: int = 0

    @property
    def payment_id(self) -> str | None:
        return self.metadata.get("saldo_payment_id")

    @property
    def refunded_minor(self) -> int:
        """What has gone back or is on its way."""
        return sum(one.amount_minor for one in self.refunds if one.status != "failed")

    def row(self, amount_minor: int, key: str | None, **more: Any) -> dict[str, Any]:
        """The fields that every row about this payment has, and more."""
        common = {"reference": self.reference, "payment_id": self.payment_id, "method": self.method}
        return common | {"amount_minor": amount_minor, "key": key} | more


@dataclass(slots=True)
class Endpoint:
    """A webhook address. Stripe: with its secret and event types ("*": all). Pix: one a key, both empty."""

    endpoint_id: str
    url: str
    created_ms: int
    secret: str = ""
    events: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Account:
    """A merchant with everything the gateway knows about it."""

    name: str
    settings: AccountSettings
    temper: Temper
    windows: Windows = field(default_factory=Windows)
    cards: dict[str, Card] = field(default_factory=dict)
    payments: dict[str, Payment] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    payouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys_in_use: set[str] = field(default_factory=set)
    tokens: dict[str, int] = field(default_factory=dict)


Announcement = tuple[str, dict[str, Any]]
"""A webhook's topic and the object it shows."""
Announce = Callable[[Account, Payment, list[Announcement], list[Fact], int], Documents]
_DRAWN: Final = {"secret_key": "sk_test_", "publishable_key": "pk_test_", "client_id": "", "client_secret": ""}
_FOUND_BY: Final = ("secret_key", "publishable_key", "client_id")


class Gateway:
    """All accounts. `announce` is called after each change and returns the webhooks it wants kept."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.accounts: dict[str, Account] = {}
        self.by_credential: dict[str, Account] = {}
        self.deliveries: dict[str, dict[str, Any]] = {}
        self.announce: Announce = lambda *_: {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._load()

    def _load(self) -> None:
        documents = sorted(self.books.documents(), key=lambda document: document[0][1] != "account")
        for (name, kind, key), body in documents:
            if kind == "account":
                self._open(name, AccountSettings.model_validate(body))
                continue
            account = self.accounts.get(name)
            if account is None:
                continue  # Left behind by a request that was under way while everything was reset.
            match kind:
                case "card":
                    account.cards[key] = Card(**body)
                case "payment":
                    refunds = [Refund(**one) for one in body.pop("refunds")]
                    account.payments[key] = Payment(**body, refunds=refunds)
                case "endpoint":
                    account.endpoints[key] = Endpoint(**body)
                case "event":
                    account.events[key] = body
                case "answer":
                    account.answers[key] = body
                case "payout":
                    account.payouts[key] = body
                case "delivery":
                    self.deliveries[key] = body

    def owner_of(self, name: str, settings: AccountSettings) -> str | None:
        """Another account that has one of the credentials given here already."""
        owners = (self.by_credential.get(settings.credentials.get(one, "")) for one in _FOUND_BY)
        return next((owner.name for owner in owners if owner is not None and owner.name != name), None)

    def put_account(self, name: str, settings: AccountSettings) -> Account:
        """Create an account or change it."""
        drawn = {one: prefix + secrets.token_hex(16) for one, prefix in _DRAWN.items()}
        updates = {"credentials": drawn | settings.credentials, "pix_key": settings.pix_key or secrets.token_hex(16)}
        settings = settings.model_copy(update=updates)
        account = self._open(name, settings)
        self.commit(account, (), now_ms(), {("account", name): settings.model_dump(mode="json")})
        return account

    def _open(self, name: str, settings: AccountSettings) -> Account:
        temper = Temper(settings.vices, settings.vices_since_ms)
        account = self.accounts.get(name)
        if account is None:
            account = self.accounts[name] = Account(name, settings, temper)
        else:
            for one in _FOUND_BY:
                self.by_credential.pop(account.settings.credentials[one], None)
            before = account.settings
            if (before.vices, before.vices_since_ms) != (settings.vices, settings.vices_since_ms):
                account.temper = temper
            account.settings = settings
        for one in _FOUND_BY:
            self.by_credential[settings.credentials[one]] = account
        return account

    def commit(self, account: Account, facts: Iterable[Fact], at_ms: int, extra: Documents) -> None:
        """Hand facts and the state they left to the books, in one transaction."""
        documents: dict[DocumentKey, dict[str, Any] | None] = {
            (account.name, kind, key): body for (kind, key), body in extra.items()
        }
        self.books.append(account.name, at_ms, facts, documents)

    def changed(
        self,
        account: Account,
        payment: Payment,
        facts: list[Fact],
        at_ms: int,
        announcements: Iterable[Announcement] = (),
    ) -> None:
        """Keep a payment with the facts of its change and tell the outside, in one transaction."""
        account.payments[payment.reference] = payment
        documents: Documents = {("payment", payment.reference): asdict(payment)}
        documents |= self.announce(account, payment, list(announcements), facts, at_ms)
        self.commit(account, facts, at_ms, documents)

    def later(self, account: Account, at_ms: int, deed: Callable[[], object]) -> None:
        """Do something at a time, unless the account is forgotten by then.

        What must survive a death of the process is found again in the payments at the next start, by whoever asked.
        """

        async def wait() -> None:
            await asyncio.sleep(max(0, at_ms - now_ms()) / 1000)
            if self.accounts.get(account.name) is account:
                deed()

        task = asyncio.create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Drop what was to be done later."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def forget(self) -> None:
        """Drop every account from memory."""
        self.accounts.clear()
        self.by_credential.clear()
        self.deliveries.clear()

    @staticmethod
    def fits(account: Account) -> bool:
        """Whether this request still fits the account's limit."""
        return account.windows.take("requests", account.settings.requests_per_s, time.monotonic())


def drawn_id(prefix: str) -> str:
    """A fresh id as Stripe draws them: `pi_…`."""
    return f"{prefix}_{secrets.token_hex(12)}"

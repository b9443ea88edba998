"""What every payment gateway can do for us. A call is made in two steps: `open` charges nothing, `charge` may.

So that a charge of unknown outcome can always be looked up by an id that we hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, final

import httpx

from services.border.errors import Limit, LimiterLike
from services.payments.domain import Seen


@final
@dataclass(frozen=True, slots=True)
class GatewayTraits:
    """What is peculiar to a gateway.

    `late_s` is how long after a call without an answer what it did may not be seen yet. `certified`: its webhooks come
    with a client certificate, so they are taken at the door that asks for one.
    """

    name: str
    call_timeout_s: float
    late_s: float
    credentials: tuple[str, ...]
    limits: Mapping[str, Limit]
    certified: bool = False


@final
@dataclass(frozen=True, slots=True)
class Session:
    """An account at a gateway, ready to be used."""

    http: httpx.AsyncClient
    limiter: LimiterLike
    base_url: str
    credentials: Mapping[str, str] = field(repr=False)
    settings: Mapping[str, Any]


@final
@dataclass(frozen=True, slots=True)
class Wanted:
    """The payment to open."""

    payment_id: str
    amount_minor: int
    currency: str
    expires_at: datetime


@final
@dataclass(frozen=True, slots=True)
class Refund:
    """Money to give back, under an id of ours."""

    refund_id: str
    amount_minor: int
    currency: str


@final
@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook as it came in. `secret` is what the address had at its end, empty where it has nothing there.

    `certified`: the sender has shown a client certificate that we trust.
    """

    headers: Mapping[str, str]
    body: bytes
    secret: str = ""
    certified: bool = False


@final
@dataclass(frozen=True, slots=True)
class Hint:
    """What a webhook is worth: these payments changed at the gateway, go and look. A repeated one has the same id.

    An empty reference is money that came in for no payment of ours.
    """

    delivery_id: str
    references: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Settlement:
    """What one movement of a payout brought, in minor units: negative where money goes back."""

    settlement_id: str
    reference: str
    currency: str
    gross_minor: int
    fee_minor: int
    settled_at: datetime

    @property
    def net_minor(self) -> int:
        """What arrived at the bank."""
        return self.gross_minor - self.fee_minor


class Gateway(Protocol):
    """A gateway. Whatever asks it raises `Throttled`, `Unreachable` (nothing was done), `OutcomeUnknown`, `Rejected`.

    `key` is the same as often as one call is made. An answer may show a part of the payment only.
    """

    traits: GatewayTraits

    async def open(self, session: Session, wanted: Wanted, key: str) -> Seen:
        """Make the payment known to the gateway; charges nothing."""

    async def charge(self, session: Session, reference: str, token: str, key: str) -> Seen:
        """Authorise the whole amount with what the buyer entered."""

    async def capture(self, session: Session, reference: str, amount_minor: int, key: str) -> Seen:
        """Take so much of what is authorised; the rest lapses."""

    async def void(self, session: Session, reference: str, key: str) -> Seen:
        """Let go of what is authorised, or withdraw what waits for its buyer."""

    async def refund(self, session: Session, reference: str, refund: Refund, key: str) -> Seen:
        """Give money back."""

    async def look(self, session: Session, reference: str, payment_id: str) -> Seen | None:
        """The whole payment as it is now; by our id where `reference` is empty. None: the gateway knows none such."""

    def verify(self, delivery: Delivery, credentials: Mapping[str, str], now: datetime) -> None:
        """Raises `SignatureInvalid` where the gateway did not send this to us, or not just now."""

    def hint(self, body: bytes) -> Hint:
        """What a verified webhook says. Raises `ValueError` where it is none of the gateway's."""

    async def subscribe(self, session: Session, door_url: str) -> str:
        """Have this account's webhooks sent to an address; returns the secret that `verify` wants from now on."""

    async def payouts(self, session: Session) -> Sequence[str]:
        """The ids of the newest payouts that have arrived; none where the gateway pays into the bank at once."""

    async def settlements(self, session: Session, payout_id: str) -> Sequence[Settlement]:
        """What a payout consists of, as far as it is about payments."""

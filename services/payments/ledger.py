"""The money ledger by double entry: every movement leaves one account and enters another, so all balances add up to 0.

Accounts are texts: `customer:<order>` is what a buyer has given us (below zero: so much of the buyer's money is with
us), `gateway:<gateway>:<account>` what a gateway holds for us, `fees:<gateway>` what it kept, `disputed:<gateway>` what
it withholds while a bank disputes it. An authorisation moves nothing.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Sums:
    """What was done about one payment in all, in minor units. Each sum only grows, as each growth is booked once.

    So a refund that fails after it was done stays in `refunded_minor` and is counted in `refund_failed_minor`, too.
    `fee_minor` is of charges and disputes, `fee_returned_minor` what of it was given back, as where a dispute is won.
    `disputed_minor` counts every dispute that was ever opened, `won_minor` and `lost_minor` those that ended.
    """

    captured_minor: int = 0
    refunded_minor: int = 0
    refund_failed_minor: int = 0
    fee_minor: int = 0
    fee_returned_minor: int = 0
    disputed_minor: int = 0
    won_minor: int = 0
    lost_minor: int = 0

    @property
    def given_back_minor(self) -> int:
        """What the buyer has got back: it falls where a refund fails after it was done."""
        return self.refunded_minor - self.refund_failed_minor


@final
@dataclass(frozen=True, slots=True)
class Movement:
    """So much money from one account to another. `cause` names the sum that it was booked up to: it is booked once."""

    cause: str
    from_account: str
    to_account: str
    currency: str
    amount_minor: int


@final
@dataclass(frozen=True, slots=True)
class Books:
    """The accounts that one payment touches."""

    customer: str
    gateway: str
    fees: str
    disputed: str

    @classmethod
    def of(cls, order_id: str, gateway: str, account_id: str) -> "Books":
        """The accounts of a payment of this order through this account at a gateway."""
        return cls(f"customer:{order_id}", f"gateway:{gateway}:{account_id}", f"fees:{gateway}", f"disputed:{gateway}")


def movements(payment_id: str, books: Books, currency: str, before: Sums, after: Sums) -> tuple[Movement, ...]:
    """What to book where the sums of a payment grew from `before` to `after`."""
    entries = (
        ("captured", books.customer, books.gateway, before.captured_minor, after.captured_minor),
        ("refunded", books.gateway, books.customer, before.refunded_minor, after.refunded_minor),
        ("refund_failed", books.customer, books.gateway, before.refund_failed_minor, after.refund_failed_minor),
        ("fee", books.gateway, books.fees, before.fee_minor, after.fee_minor),
        ("fee_returned", books.fees, books.gateway, before.fee_returned_minor, after.fee_returned_minor),
        ("disputed", books.gateway, books.disputed, before.disputed_minor, after.disputed_minor),
        ("won", books.disputed, books.gateway, before.won_minor, after.won_minor),
        ("lost", books.disputed, books.customer, before.lost_minor, after.lost_minor),
    )
    return tuple(
        Movement(f"{payment_id}:{name}:{now}", giver, taker, currency, now - was)
        for name, giver, taker, was, now in entries
        if now > was
    )


def balances(booked: Iterable[Movement]) -> dict[tuple[str, str], int]:
    """What came into each (account, currency) less what went out of it."""
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for movement in booked:
        sums[movement.from_account, movement.currency] -= movement.amount_minor
        sums[movement.to_account, movement.currency] += movement.amount_minor
    return dict(sums)

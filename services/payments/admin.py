"""What payments answers under /admin: accounts at gateways, and payments with their calls."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from services.border.accounts import AccountInvalid
from services.border.errors import OutcomeUnknown, Rejected, Throttled
from services.payments import store
from services.payments.accounts import Account, Accounts
from services.payments.settings import PaymentsSettings
from services.payments.store import Pool

Limit = Annotated[int, Query(ge=1, le=10_000)]


class AccountGiven(BaseModel):
    """The body of an account."""

    model_config = ConfigDict(extra="forbid")

    tenant: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    gateway: str
    environment: Annotated[str, Field(pattern="^(sandbox|test|production)$")]
    base_url: Annotated[str, Field(pattern="^https?://[^/]")]
    merchant: Annotated[str, Field(pattern=r"^[!-~]{1,200}$", description="Stripe's account id, or Pix's client id.")]
    settings: dict[str, str] = {}
    credentials: Annotated[dict[str, str], Field(repr=False)]


def admin_router(pool: Callable[[], Pool], accounts: Accounts, settings: PaymentsSettings) -> APIRouter:
    """The routes of payments."""
    router = APIRouter()
    _add_accounts(router, pool, accounts, settings)
    _add_payments(router, pool)
    return router


def _add_accounts(router: APIRouter, pool: Callable[[], Pool], accounts: Accounts, settings: PaymentsSettings) -> None:
    @router.put("/accounts")
    async def put_account(given: AccountGiven) -> dict[str, str]:
        account = Account(**given.model_dump())
        try:
            async with pool().acquire() as connection, connection.transaction():
                await accounts.put(connection, account)
        except AccountInvalid as invalid:
            raise HTTPException(422, str(invalid)) from None
        return {"account_id": account.account_id}

    @router.post("/accounts/{account_id}/subscribe")
    async def subscribe(account_id: str, tenant: str) -> dict[str, str]:
        try:
            return {"account_id": account_id, "url": await accounts.subscribe(tenant, account_id, settings)}
        except (AccountInvalid, Rejected) as refused:
            raise HTTPException(422, str(refused)) from None
        except ValueError:
            raise HTTPException(502, "the gateway's answer makes no sense: is base_url the gateway's own?") from None
        except (Throttled, OutcomeUnknown):
            raise HTTPException(503, "the gateway does not answer: try again") from None

    @router.get("/accounts")
    async def list_accounts(tenant: str) -> list[dict[str, Any]]:
        rows = await pool().fetch(
            "SELECT account_id, gateway, environment, base_url, merchant, state FROM gateway_accounts "
            "WHERE tenant = $1 ORDER BY gateway, account_id",
            tenant,
        )
        return [dict(row) for row in rows]


def _add_payments(router: APIRouter, pool: Callable[[], Pool]) -> None:
    @router.get("/payments")
    async def list_payments(
        tenant: str, order_id: str | None = None, status: str | None = None, concerning: bool = False, after: str = "",
        limit: Limit = 1000,
    ) -> dict[str, Any]:  # fmt: skip
        found = await store.list_payments(pool(), tenant, order_id, status, concerning, after, limit)
        return {"payments": found, "next": found[-1]["payment_id"] if len(found) == limit else None}

    @router.get("/strangers")
    async def list_strangers(tenant: str, limit: Limit = 1000) -> list[dict[str, Any]]:
        rows = await pool().fetch(
            "SELECT account_id, received_at, strangers FROM hints WHERE tenant = $1 AND strangers <> '{}' "
            "ORDER BY received_at DESC LIMIT $2",
            tenant, limit,
        )  # fmt: skip
        return [dict(row) for row in rows]

    @router.get("/taken-over/{order_id}")
    async def show_taken_over(order_id: str, tenant: str) -> dict[str, Any]:
        row = await pool().fetchrow(
            "SELECT connection_id, currency, paid, due_minor, captured_minor, refunded_minor FROM taken_over "
            "WHERE tenant = $1 AND order_id = $2",
            tenant, order_id,
        )  # fmt: skip
        if row is None:
            raise HTTPException(404, "no marketplace takes the money of such an order")
        return dict(row)

    @router.get("/payments/{payment_id}")
    async def show_payment(payment_id: str, tenant: str) -> dict[str, Any]:
        row = await pool().fetchrow(
            "SELECT payment_id, order_id, account_id, reference, status, captured_minor, refunded_minor, concern, "
            "due_at, body::jsonb #>> '{choice,method}' AS method, body::jsonb #>> '{choice,currency}' AS currency "
            "FROM payments WHERE tenant = $1 AND payment_id = $2",
            tenant, payment_id,
        )  # fmt: skip
        if row is None:
            raise HTTPException(404, "the company has no such payment")
        calls = await pool().fetch(
            "SELECT kind, n, amount_minor, outcome, tries, begun_at, ended_at FROM payment_calls "
            "WHERE tenant = $1 AND payment_id = $2 ORDER BY begun_at, kind, n",
            tenant, payment_id,
        )  # fmt: skip
        return dict(row) | {"calls": [dict(call) for call in calls]}

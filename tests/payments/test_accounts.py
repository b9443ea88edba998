"""Accounts at gateways: sealed, one live a gateway, opened as sessions, and the wiring of the whole service."""

from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from services.border.errors import Rejected
from services.payments.accounts import Account, AccountInvalid, Accounts
from services.payments.admin import admin_router
from services.payments.gateways import gateways
from tests.payments.given import PAYMENT, authorize
from tests.payments.till import VAULT, Till

pytestmark = pytest.mark.asyncio
ACCOUNT = Account(
    "acme", "stripe", "sandbox", "http://127.0.0.1:1", {}, {"secret_key": "sk_hidden", "webhook_secret": "whsec_hidden"}
)


@pytest_asyncio.fixture
async def pool(connection: asyncpg.Connection, database: str) -> AsyncIterator[asyncpg.Pool]:
    pool = await asyncpg.create_pool(database, min_size=1, max_size=2)
    yield pool
    await pool.close()


async def test_credentials_are_sealed_and_open_in_a_session(pool: asyncpg.Pool) -> None:
    accounts = Accounts(lambda: pool, VAULT, gateways())
    async with pool.acquire() as connection:
        await accounts.put(connection, ACCOUNT)
    kept = await pool.fetch("SELECT sealed FROM gateway_credentials")
    assert len(kept) == 2
    assert all(b"hidden" not in row["sealed"] for row in kept)
    gateway, session = await accounts.session("acme", ACCOUNT.account_id)
    assert (gateway.traits.name, session.credentials["secret_key"]) == ("stripe", "sk_hidden")
    assert (await accounts.session("acme", ACCOUNT.account_id))[1] is session
    with pytest.raises(Rejected):
        await accounts.session("zeta", ACCOUNT.account_id)
    await accounts.close()


async def test_another_account_takes_the_place_of_the_live_one(pool: asyncpg.Pool) -> None:
    accounts = Accounts(lambda: pool, VAULT, gateways())
    async with pool.acquire() as connection:
        for account in (ACCOUNT, replace(ACCOUNT, base_url="http://127.0.0.1:2"), ACCOUNT):
            await accounts.put(connection, account)
    rows = await pool.fetch("SELECT account_id FROM gateway_accounts WHERE state = 'live'")
    assert [row["account_id"] for row in rows] == [ACCOUNT.account_id]


@pytest.mark.parametrize("change", [{"gateway": "none"}, {"credentials": {}}, {"credentials": {"other": "x"}}])
async def test_what_does_not_fit_is_refused_without_its_secrets(pool: asyncpg.Pool, change: dict[str, object]) -> None:
    accounts = Accounts(lambda: pool, VAULT, gateways())
    async with pool.acquire() as connection:
        with pytest.raises(AccountInvalid) as refused:
            await accounts.put(connection, replace(ACCOUNT, **change))  # type: ignore[arg-type]
    assert "hidden" not in str(refused.value)


async def test_admin_keeps_accounts_and_shows_payments(pool: asyncpg.Pool, connection: asyncpg.Connection) -> None:
    app = FastAPI()
    app.include_router(admin_router(lambda: pool, Accounts(lambda: pool, VAULT, gateways())))
    till = Till(connection)
    await till.account()
    await till.hear(authorize())
    await till.work()
    body = {
        "tenant": "acme", "gateway": "stripe", "environment": "sandbox", "base_url": "http://127.0.0.1:1",
        "credentials": dict(ACCOUNT.credentials),
    }  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as http:
        assert (await http.put("/accounts", json=body)).json() == {"account_id": ACCOUNT.account_id}
        assert (await http.put("/accounts", json=body | {"gateway": "none"})).status_code == 422
        listed = await http.get("/accounts", params={"tenant": "acme"})
        assert "hidden" not in listed.text
        assert {row["gateway"] for row in listed.json()} == {"model", "stripe"}
        assert (await http.get("/payments", params={"tenant": "zeta"})).json() == []
        shown = (await http.get(f"/payments/{PAYMENT}", params={"tenant": "acme"})).json()
        assert shown["status"] == "authorized"
        assert [call["kind"] for call in shown["calls"]] == ["open", "charge"]
        assert (await http.get(f"/payments/{PAYMENT}", params={"tenant": "zeta"})).status_code == 404

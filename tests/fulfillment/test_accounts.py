"""Accounts at carriers: kept sealed, one in use at a carrier, and a broken one keeps nobody else back."""

from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from services.border.accounts import AccountInvalid
from services.fulfillment import store
from services.fulfillment.carriers.carrier import Account
from tests.fulfillment.office import Office

CREDENTIALS = {"access_token": "s3cret", "refresh_token": "r", "client_id": "1", "client_secret": "c"}
ACCOUNT = Account(
    "acme", "melhorenvio", "production", "https://melhorenvio.com.br", {"contact_email": "ti@example.com"}, CREDENTIALS
)


async def put(office: Office, account: Account) -> None:
    async with office.transaction() as tx:
        await office.carriers.put(tx.connection, account)


@pytest.mark.asyncio
async def test_a_company_has_one_live_account_at_a_carrier(office: Office) -> None:
    other = replace(ACCOUNT, base_url="https://sandbox.melhorenvio.com.br")
    for account in (ACCOUNT, other, other):
        await put(office, account)

    rows = await store.list_accounts(office.connection, "acme")
    assert {row["account_id"]: row["state"] for row in rows} == {
        ACCOUNT.account_id: "paused",
        other.account_id: "live",
    }
    assert await office.carriers.at(ACCOUNT.account_id) is None
    assert (await office.carriers.at(other.account_id)) is not None
    with pytest.raises(asyncpg.UniqueViolationError):
        await office.connection.execute("UPDATE carrier_accounts SET state = 'live'")


@pytest.mark.asyncio
async def test_no_secret_is_kept_or_shown_in_the_open(office: Office) -> None:
    await put(office, ACCOUNT)
    kept = [str(dict(row)) for table in ("carrier_accounts", "carrier_credentials") for row in
            await office.connection.fetch(f"TABLE {table}")]  # fmt: skip
    assert "s3cret" not in "".join(kept) + repr(ACCOUNT)
    assert "s3cret" not in repr(await office.carriers.at(ACCOUNT.account_id))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"carrier": "unknown"}, "one of melhorenvio, table"),
        ({"credentials": {"access_token": "t"}}, "client_id, client_secret, refresh_token"),
        ({"credentials": CREDENTIALS | {"password": "p"}}, "1 credentials are unknown"),
        ({"settings": {}}, "contact_email"),
        ({"settings": {"contact_email": "e", "requests_per_minute": "many"}}, "are numbers"),
        ({"base_url": "https://127.0.0.1"}, "public address"),
        ({"base_url": "http://melhorenvio.com.br"}, "without https"),
    ],
)
async def test_what_cannot_work_is_refused_with_what_to_do(office: Office, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(AccountInvalid, match=reason):
        await put(office, replace(ACCOUNT, **change))
    assert await store.list_accounts(office.connection, "acme") == []


@pytest.mark.asyncio
async def test_an_account_that_does_not_open_leaves_the_company_its_own_rates(office: Office) -> None:
    await put(office, ACCOUNT)
    await office.connection.execute("UPDATE carrier_credentials SET sealed = '\\x00'")

    assert list(await office.carriers.of("acme")) == ["table"]
    assert list(await office.carriers.of("other")) == ["table"]

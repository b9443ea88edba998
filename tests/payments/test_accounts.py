"""Accounts at gateways: sealed, one live a gateway, opened as sessions, and the wiring of the whole service."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi import FastAPI

from services.border.accounts import AccountInvalid
from services.border.errors import Rejected
from services.payments import accounts as opened
from services.payments.accounts import Account, Accounts
from services.payments.admin import admin_router
from services.payments.gateways import gateways
from tests.payments.given import PAYMENT, authorize
from tests.payments.till import SETTINGS, VAULT, Till

pytestmark = pytest.mark.asyncio
ACCOUNT = Account(
    "acme",
    "stripe",
    "sandbox",
    "http://127.0.0.1:1",
    "acct_1",
    {},
    {"secret_key": "sk_hidden", "webhook_secret": "whsec_hidden"},
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


@pytest.fixture(scope="module")
def pem() -> Mapping[str, str]:
    """A certificate that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bank.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = serialization.BestAvailableEncryption(b"hidden")
    return {
        "certificate": certificate.public_bytes(plain).decode(),
        "key": key.private_bytes(plain, form, serialization.NoEncryption()).decode(),
        "locked": key.private_bytes(plain, form, locked).decode(),
    }


def with_credentials(account: Account, **more: str) -> Account:
    return replace(account, credentials={**account.credentials, **more})


async def test_what_cannot_be_opened_is_not_kept(pool: asyncpg.Pool, pem: Mapping[str, str]) -> None:
    accounts = Accounts(lambda: pool, VAULT, gateways())
    pix = replace(ACCOUNT, gateway="pix", credentials={"client_id": "us", "client_secret": "hidden"})
    broken = [
        with_credentials(ACCOUNT, ca_pem="hidden"),
        with_credentials(pix, certificate_pem="hidden", key_pem="hidden"),
        with_credentials(pix, certificate_pem=pem["certificate"], key_pem=pem["locked"]),
        replace(ACCOUNT, base_url="http://hidden:port"),
        replace(ACCOUNT, environment="test"),
    ]
    async with pool.acquire() as connection:
        for account in broken:
            with pytest.raises(AccountInvalid) as refused:
                await accounts.put(connection, account)
            assert "hidden" not in str(refused.value)
        assert await connection.fetchval("SELECT count(*) FROM gateway_accounts") == 0
        whole = with_credentials(pix, certificate_pem=pem["certificate"], key_pem=pem["key"])
        await accounts.put(connection, whole)
    assert (await accounts.session("acme", whole.account_id))[0].traits.name == "pix"
    await accounts.close()


async def test_two_merchants_at_one_gateway_are_two_accounts() -> None:
    assert replace(ACCOUNT, merchant="acct_2").account_id != ACCOUNT.account_id
    assert replace(ACCOUNT, base_url="http://127.0.0.1:1/").account_id == ACCOUNT.account_id


async def test_only_what_is_given_is_kept_and_used(pool: asyncpg.Pool, pem: Mapping[str, str]) -> None:
    accounts = Accounts(lambda: pool, VAULT, gateways())
    fields = "SELECT field FROM gateway_credentials ORDER BY field"
    trusting = replace(ACCOUNT, credentials={"secret_key": "sk_hidden", "ca_pem": pem["certificate"]})
    async with pool.acquire() as connection:
        await accounts.put(connection, trusting)
        assert [row["field"] for row in await connection.fetch(fields)] == ["ca_pem", "secret_key"]
        _, before = await accounts.session("acme", ACCOUNT.account_id)
        await accounts.put(connection, replace(ACCOUNT, credentials={"secret_key": "sk_hidden"}))
        assert [row["field"] for row in await connection.fetch(fields)] == ["secret_key"]
    _, after = await accounts.session("acme", ACCOUNT.account_id)
    assert after is not before
    assert before.http.is_closed
    assert not after.http.is_closed
    await accounts.close()


async def test_an_authority_of_its_own_is_trusted_by_an_account_without_a_certificate(pem: Mapping[str, str]) -> None:
    context = opened._tls({"secret_key": "sk_hidden", "ca_pem": pem["certificate"]})
    assert context
    subjects = [dict(part[0] for part in one["subject"]) for one in context.get_ca_certs()]  # type: ignore[misc]
    assert {"commonName": "bank.example"} in subjects
    assert opened._tls({"secret_key": "sk_hidden"}) is None


async def test_a_gateway_that_answers_with_a_page_is_told_in_words(pool: asyncpg.Pool) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n<html>hush<")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(page, "127.0.0.1", 0)
    accounts, app = Accounts(lambda: pool, VAULT, gateways()), FastAPI()
    app.include_router(admin_router(lambda: pool, accounts, SETTINGS))
    account = replace(ACCOUNT, base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as http:
        async with pool.acquire() as connection:
            await accounts.put(connection, account)
        answer = await http.post(f"/accounts/{account.account_id}/subscribe", params={"tenant": "acme"})
        assert answer.status_code == 502
        assert "base_url" in answer.text
        assert "hush" not in answer.text
    await accounts.close()


async def test_admin_keeps_accounts_and_shows_payments(pool: asyncpg.Pool, connection: asyncpg.Connection) -> None:
    app = FastAPI()
    app.include_router(admin_router(lambda: pool, Accounts(lambda: pool, VAULT, gateways()), SETTINGS))
    till = Till(connection)
    await till.account()
    await till.hear(authorize())
    await till.work()
    body = {
        "tenant": "acme", "gateway": "stripe", "environment": "sandbox", "base_url": "http://127.0.0.1:1",
        "merchant": "acct_1", "credentials": dict(ACCOUNT.credentials),
    }  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as http:
        assert (await http.put("/accounts", json=body)).json() == {"account_id": ACCOUNT.account_id}
        assert (await http.put("/accounts", json=body | {"gateway": "none"})).status_code == 422
        listed = await http.get("/accounts", params={"tenant": "acme"})
        assert "hidden" not in listed.text
        assert {row["gateway"] for row in listed.json()} == {"model", "stripe"}
        assert (await http.get("/payments", params={"tenant": "zeta"})).json() == {"payments": [], "next": None}
        shown = (await http.get(f"/payments/{PAYMENT}", params={"tenant": "acme"})).json()
        assert (shown["status"], shown["method"], shown["currency"]) == ("authorized", "card", "BRL")
        assert [call["kind"] for call in shown["calls"]] == ["open", "charge"]
        assert (await http.get(f"/payments/{PAYMENT}", params={"tenant": "zeta"})).status_code == 404

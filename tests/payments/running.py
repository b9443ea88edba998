"""Payments as a running service with both doors open, beside a gateway sandbox that is a process of its own."""

import asyncio
import itertools
import secrets
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import httpx
from aiokafka import AIOKafkaConsumer

from contracts.catalogue import CATALOGUE
from contracts.payments.v1 import (
    AuthorizePayment,
    CapturePayment,
    PaymentMethod,
    RefundPayment,
    VoidPayment,
)
from services.border.tokens import seal_token
from services.border.vault import Vault
from services.bus import BusSettings
from services.payments.accounts import Accounts
from services.payments.app import build
from services.payments.domain import Command
from services.payments.gateways import gateways
from services.payments.settings import PaymentsSettings
from services.runtime import Service
from services.runtime.command import send_all
from services.sandbox.certificates import Certificates, make
from services.sandbox.gateway_client import GatewayClient
from tests.sandbox.running import TOKEN, Sandbox

AMOUNT = 12_345
T = TypeVar("T")
_numbers = itertools.count(1)


async def until(ask: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    """Ask again until the answer is good; the last one is in the failure."""
    for _ in range(1200):
        if good(answer := await ask()):
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError(f"it did not come about; last seen: {answer}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Running:
    """The service, and everything around it. `facts` has what it published, by company."""

    service: Service
    settings: PaymentsSettings
    bootstrap: str
    control: GatewayClient
    admin: httpx.AsyncClient
    certificates: Certificates
    accounts: Accounts
    facts: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    async def merchant(self, *gateways: str, subscribed: bool = True, **settings: Any) -> "Merchant":
        """A new company with accounts at these gateways."""
        tenant = f"loja-{secrets.token_hex(4)}"
        given = {"webhook_retry_s": [0.1] * 20, "requests_per_s": 1000} | settings
        merchant = Merchant(self, tenant, await self.control.put_account(tenant, **given))
        for gateway in gateways:
            await merchant.open(gateway, subscribed=subscribed)
        return merchant

    async def listen(self) -> None:
        """Collect every fact about payments."""
        streams = ("payments.payments.v1",)
        consumer = AIOKafkaConsumer(*streams, bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            async for record in consumer:
                headers = {name: value.decode() for name, value in record.headers}
                model = CATALOGUE.by_name[headers["ce_type"]].model
                self.facts[headers["ce_tenant"]].append(model.model_validate_json(record.value))
        finally:
            await consumer.stop()


@dataclass
class Merchant:
    """One company with its accounts at the gateway sandbox."""

    running: Running
    tenant: str
    told: dict[str, Any]
    accounts: dict[str, str] = field(default_factory=dict)

    async def open(self, gateway: str, *, subscribed: bool = True) -> None:
        """Give payments an account, and have its webhooks sent."""
        credentials, certificates = self.told["credentials"], self.running.certificates
        body: dict[str, Any] = {"tenant": self.tenant, "gateway": gateway, "environment": "sandbox"}
        if gateway == "stripe":
            body |= {"base_url": self.told["base_url"], "merchant": "acct_1"}
            body["settings"] = {"return_url": "https://shop.example/back"}
            body["credentials"] = {"secret_key": credentials["secret_key"]}
        else:
            body |= {"base_url": self.told["pix_base_url"], "merchant": credentials["client_id"]}
            body["settings"] = {"pix_key": self.told["pix_key"]}
            body["credentials"] = {
                "client_id": credentials["client_id"], "client_secret": credentials["client_secret"],
                "certificate_pem": certificates.certificate("client").read_text(),
                "key_pem": certificates.key("client").read_text(),
                "ca_pem": certificates.certificate("ca").read_text(),
            }  # fmt: skip
        answer = (await self.running.admin.put("accounts", json=body)).raise_for_status()
        self.accounts[gateway] = answer.json()["account_id"]
        if subscribed:
            path = f"accounts/{self.accounts[gateway]}/subscribe"
            (await self.running.admin.post(path, params={"tenant": self.tenant})).raise_for_status()

    async def say(self, *commands: Command) -> None:
        """Send commands as orders does."""
        given = [(f"command-{self.tenant}-{next(_numbers)}", command) for command in commands]
        await send_all(self.running.bootstrap, given, tenant=self.tenant)

    async def pays(self, order_id: str, gateway: str, *, token: str = "", life_s: float = 900) -> str:
        """A buyer chose how to pay; returns the payment's id."""
        payment_id = f"{order_id}:p1"
        token = seal_token(Vault(bytes(range(64, 96)).hex()), token, tenant=self.tenant, order_id=order_id)
        await self.say(
            AuthorizePayment(
                order_id=order_id, payment_id=payment_id, revision=1, connection_id="shop", gateway=gateway,
                method=PaymentMethod.CARD if gateway == "stripe" else PaymentMethod.PIX, token=token,
                amount_minor=AMOUNT, currency="BRL", expires_at=datetime.now(UTC) + timedelta(seconds=life_s),
            )
        )  # fmt: skip
        return payment_id

    async def names(self) -> list[str]:
        """The facts so far, without the word they begin with."""
        return [type(one).__name__.removeprefix("Payment") for one in self.running.facts[self.tenant]]

    async def until_told(self, *names: str) -> Any:
        """Wait until exactly these facts are told; returns the last one."""
        await until(self.names, lambda seen: seen == list(names))
        return self.running.facts[self.tenant][-1]

    async def payment(self, payment_id: str) -> dict[str, Any]:
        """As the admin listener shows it."""
        answer = await self.running.admin.get(f"payments/{payment_id}", params={"tenant": self.tenant})
        return dict(answer.raise_for_status().json())

    async def until_status(self, payment_id: str, status: str) -> dict[str, Any]:
        """Wait until payments has seen this of a payment, and has nothing to do about it now."""
        return await until(lambda: self.payment(payment_id), lambda seen: seen["status"] == status)

    async def rows(self, *kinds: str) -> list[dict[str, Any]]:
        """The gateway's own books."""
        found = [row async for row in self.running.control.books() if row["shop"] == self.tenant]
        return [row for row in found if row["kind"] in kinds]

    async def balances(self) -> dict[str, int]:
        """The money ledger."""
        rows = await self.running.service.pool.fetch(
            "SELECT account, amount_minor FROM money_balances WHERE tenant = $1 AND amount_minor <> 0", self.tenant
        )
        return {row["account"]: row["amount_minor"] for row in rows}


def capture(payment_id: str, revision: int, total_minor: int = AMOUNT) -> CapturePayment:
    order_id = payment_id.partition(":")[0]
    return CapturePayment(
        order_id=order_id, payment_id=payment_id, revision=revision, captured_total_minor=total_minor, currency="BRL"
    )


def refund(payment_id: str, revision: int, total_minor: int, captured_minor: int = AMOUNT) -> RefundPayment:
    order_id = payment_id.partition(":")[0]
    return RefundPayment(
        order_id=order_id, payment_id=payment_id, revision=revision, captured_total_minor=captured_minor,
        refunded_total_minor=total_minor, currency="BRL", reason="returned",
    )  # fmt: skip


def void(payment_id: str, revision: int) -> VoidPayment:
    order_id = payment_id.partition(":")[0]
    return VoidPayment(order_id=order_id, payment_id=payment_id, revision=revision, reason="cancelled")


@asynccontextmanager
async def payments_running(bootstrap: str, database: str, sandbox: Sandbox) -> AsyncIterator[Running]:
    """The service on real servers until the block ends."""
    certificates = make(sandbox.books.parent / "certificates")
    settings = PaymentsSettings(
        secrets_key=bytes(range(64, 96)).hex(),
        door_port=free_port(),
        pix_door_port=free_port(),
        pix_tls_certificate=certificates.certificate("door"),
        pix_tls_key=certificates.key("door"),
        pix_tls_client_ca=certificates.certificate("ca"),
        poll_interval_s=0.02,
        call_timeout_s=2,
        look_every_s=3,
        settle_every_s=0.3,
    )
    admin_token = secrets.token_hex(8)
    bus: Any = {
        "postgres_dsn": database, "kafka_bootstrap_servers": bootstrap, "admin_port": free_port(),
        "admin_token": admin_token,
    }  # fmt: skip
    service = build(BusSettings(**bus), settings)
    running = asyncio.create_task(service.run(handle_signals=False))
    await asyncio.wait({running, asyncio.create_task(service.started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    base_url = f"http://127.0.0.1:{bus['admin_port']}/admin/"
    headers = {"authorization": f"Bearer {admin_token}"}
    async with (
        GatewayClient(sandbox.base_url, TOKEN) as control,
        httpx.AsyncClient(base_url=base_url, headers=headers, trust_env=False) as admin,
    ):
        accounts = Accounts(lambda: service.pool, Vault(bytes(range(64, 96)).hex()), gateways())
        made = Running(service, settings, bootstrap, control, admin, certificates, accounts)
        listening = asyncio.create_task(made.listen())
        yield made
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        await accounts.close()
    service.stop()
    await running

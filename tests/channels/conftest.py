"""A channels service on a fresh database, without Kafka: what it would publish is read from its outbox."""

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest_asyncio
from pydantic import SecretStr

import services.channels
from services.border.vault import Vault
from services.bus import BusSettings
from services.channels.connections import lifecycle
from services.channels.connections.lifecycle import NewConnection
from services.channels.connections.registry import Registry
from services.channels.connections.store import Connection
from services.channels.intake import store
from services.channels.intake.absorb import absorb_once
from services.channels.intake.context import Intake
from services.channels.linking import keep_listings
from services.channels.settings import ChannelsSettings
from services.channels.stock.listings import ListingRow
from services.runtime import Service
from services.runtime.migrate import migrate
from tests.outbox import waiting

MIGRATIONS = Path(services.channels.__file__).parent / "migrations"
START = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=2)


@dataclass
class Kit:
    """The parts of a channels process, and short ways to do what people and channels do."""

    service: Service
    intake: Intake
    vault: Vault
    started: datetime = START
    deliveries: int = field(default=0)

    async def connect(
        self,
        *,
        tenant: str = "loja",
        connector: str = "shopify",
        account: str = "azul.myshopify.com",
        base_url: str = "http://127.0.0.1:9",
        credentials: Mapping[str, str] | None = None,
        live: bool = True,
        **settings: str,
    ) -> Connection:
        """Add a connection; `live` skips the channel's own check."""
        given = (
            credentials
            or {
                "shopify": {"access_token": "shpat_token", "webhook_secret": "shop secret"},
                "skyhub": {"user_email": "a@example.com", "api_key": "key", "accountmanager_key": "manager"},
            }[connector]
        )
        new = NewConnection(tenant, connector, "sandbox", account, base_url, given, settings)
        async with self.service.transaction() as tx:
            connection = await lifecycle.add(tx, self.vault, new)
        if live:
            async with self.service.transaction() as tx:
                connection = await lifecycle.mark_validated(tx, connection.connection_id, connection.version)
                connection = await lifecycle.enable(tx, connection.connection_id, tenant)
        await self.intake.registry.refresh(self.service.pool)
        return connection

    async def link(self, connection: Connection, *skus: str, pack: int = 1) -> None:
        """Adverts whose ids are the SKUs in lower case."""
        rows = [ListingRow(sku.lower(), f"item-{sku}", "1", sku, sku, sku, pack) for sku in skus]
        async with self.service.transaction() as tx:
            await keep_listings(tx, connection, rows)

    async def deliver(self, connection: Connection, body: Any, *, topic: str = "orders/updated", **more: Any) -> None:
        """A body as the door or a pull would store it."""
        self.deliveries += 1
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self.service.tracing.span("receive webhook") as cause:
            sealed = self.intake.seal(
                connection,
                raw,
                topic=topic,
                delivery_id=more.pop("delivery_id", f"delivery-{self.deliveries}"),
                received_at=self.service.clock(),
                cause=cause,
                **more,
            )
        async with self.service.pool.acquire() as database:
            await store.insert_bodies(database, [sealed])

    async def absorb(self) -> None:
        """Until nothing is left."""
        while await absorb_once(self.service, self.intake):
            pass

    async def published(self, stream: str = "channels.sales.v1") -> list[dict[str, Any]]:
        """The bodies in the outbox, in order."""
        return [json.loads(one.payload) for one in await waiting(self.service.pool, stream)]

    async def count(self, table: str, where: str = "true") -> int:
        return int(await self.service.pool.fetchval(f"SELECT count(*) FROM {table} WHERE {where}"))


@pytest_asyncio.fixture
async def kit(database: str) -> AsyncIterator[Kit]:
    vault = Vault(secrets.token_hex(32))
    intake = Intake(ChannelsSettings(secrets_key=SecretStr("unused")), Registry(vault), vault)
    service = Service(name="channels", settings=BusSettings(postgres_dsn=SecretStr(database)), migrations=MIGRATIONS)
    await migrate(database, "channels", MIGRATIONS)
    await service.pool
    try:
        yield Kit(service, intake, vault)
    finally:
        await intake.registry.close()
        await service.pool.close()
        service.tracing.close()


def shopify_order(
    number: int = 1,
    *,
    status: str = "paid",
    minute: int = 0,
    lines: Mapping[str, int] | None = None,
    cancelled: bool = False,
    buyer: str = "Ana Souza",
    **more: Any,
) -> dict[str, Any]:
    """A REST Order; the variant of each line is its SKU in lower case. `minute` is when it was changed last."""
    changed = (START + timedelta(minutes=minute)).isoformat()
    first, _, last = buyer.partition(" ")
    return {
        "id": number,
        "created_at": START.isoformat(),
        "updated_at": changed,
        "cancelled_at": changed if cancelled else None,
        "currency": "BRL",
        "financial_status": status,
        "fulfillment_status": None,
        "total_price": "39.80",
        "customer": {"id": 77, "first_name": first, "last_name": last, "email": "ana@example.com"},
        "shipping_address": {"name": buyer, "address1": "Rua das Flores, 12", "city": "Recife", "zip": "50000-000"},
        "line_items": [
            {"id": f"{number}{place}", "variant_id": sku.lower(), "sku": sku, "quantity": quantity, "price": "19.90"}
            for place, (sku, quantity) in enumerate((lines or {"SKU-1": 2}).items())
        ],
        "shipping_lines": [{"code": "SEDEX", "price": "0.00"}],
        "refunds": [],
        **more,
    }


def skyhub_order(number: int = 1, kind: str = "NEW", *, lines: Mapping[str, int] | None = None) -> dict[str, Any]:
    """An order as the queue shows it; the code of each product is its SKU in lower case."""
    return {
        "code": f"Marketplace-{number}",
        "placed_at": "2026-03-01T09:00:00-03:00",
        "total_ordered": 39.8,
        "shipping_cost": 0.0,
        "shipping_method": "Correios SEDEX",
        "status": {"code": "x", "label": "x", "type": kind},
        "customer": {"name": "Ana Souza", "email": "ana@example.com", "vat_number": "12345678909", "phones": ["81 9"]},
        "shipping_address": {"street": "Rua das Flores", "number": "12", "city": "Recife", "country": "BR"},
        "items": [
            {"id": sku.lower(), "product_id": sku.lower(), "qty": quantity, "original_price": 19.9}
            for sku, quantity in (lines or {"SKU-1": 2}).items()
        ],
    }

"""What people tell channels about shops of their own."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, HTTPException

from services.border.vault import SealBroken
from services.channels.connections import lifecycle, store
from services.channels.connections.store import Connection
from services.channels.intake.context import Intake
from services.channels.shop.products import put_products
from services.channels.shop.schemas import NewProducts
from services.runtime import Service


def admin_router(service: Callable[[], Service], intake: Intake) -> APIRouter:
    """The routes of shops under `/admin`; `service` is made after them."""
    router = APIRouter()

    @router.post("/connections/{connection_id}/products")
    async def put(connection_id: str, body: NewProducts, tenant: str) -> dict[str, Any]:
        shop = await _shop(service(), connection_id, tenant)
        linked = await put_products(service(), intake, shop, body.rows)
        return {"connection_id": connection_id, "kept": len(body.rows), "linked": linked}

    @router.get("/connections/{connection_id}/shop")
    async def shown(connection_id: str, tenant: str) -> dict[str, Any]:
        shop = await _shop(service(), connection_id, tenant)
        async with service().pool.acquire() as connection:
            sealed = await store.sealed_credentials(connection, [connection_id])
        try:
            credentials = lifecycle.open_credentials(intake.vault, shop, sealed[connection_id])
        except SealBroken as error:
            raise HTTPException(409, str(error)) from None
        return {
            "connection_id": connection_id,
            "api_url": intake.settings.public_shop_url,
            "api_key": credentials.get("api_key", ""),
        }

    return router


async def _shop(service: Service, connection_id: str, tenant: str) -> Connection:
    async with service.pool.acquire() as connection:
        found = await store.find(connection, connection_id, tenant)
    if found is None or found.connector != "shop":
        raise HTTPException(404, f"there is no shop {connection_id}: `saldo connection list` shows connections")
    return found

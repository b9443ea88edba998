"""What people and files give and ask erp: invoices, tax ids, the journal."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts.envelope import Tenant
from services.border.tax_ids import cnpj
from services.border.vault import Vault
from services.erp import store
from services.erp.intake import GivenInvoice, InTheWay, Unfit, shown, take_invoice
from services.erp.settings import ErpSettings
from services.runtime import Service


class GivenCompany(BaseModel):
    """A tax id that the company issues invoices under."""

    model_config = ConfigDict(extra="forbid")

    tax_id: str = Field(max_length=32)


def admin_router(service: Callable[[], Service], vault: Vault, settings: ErpSettings) -> APIRouter:
    """The routes of erp under `/admin`."""
    router = APIRouter()
    _add_invoices(router, service, vault, settings)
    _add_journal(router, service)
    return router


def _unfit(reasons: list[str]) -> HTTPException:
    return HTTPException(422, [{"type": "invoice", "loc": ["invoice"], "msg": reason} for reason in reasons])


def _add_invoices(router: APIRouter, service: Callable[[], Service], vault: Vault, settings: ErpSettings) -> None:
    @router.post("/invoices")
    async def invoice(tenant: Tenant, given: GivenInvoice) -> dict[str, Any]:
        """Take the invoice of an order in. The same key again is answered the same way."""
        try:
            async with service().transaction() as tx:
                return await take_invoice(given, tx, tenant=tenant, vault=vault, settings=settings)
        except Unfit as error:
            raise _unfit(error.reasons) from None
        except InTheWay as error:
            raise HTTPException(409, str(error)) from None

    @router.get("/invoices")
    async def standing(tenant: Tenant, order_id: str) -> dict[str, Any]:
        """The invoice of an order that stands."""
        async with service().pool.acquire() as connection:
            row = await store.standing_document(connection, tenant, order_id)
        if row is None:
            raise HTTPException(404, f"order {order_id} has no invoice: give it with `saldo order invoice`")
        return shown(row)

    @router.get("/invoices/{document_id}/xml")
    async def content(tenant: Tenant, document_id: str) -> Response:
        """The XML of an invoice, which may name the buyer."""
        async with service().pool.acquire() as connection:
            row = await store.read_document(connection, tenant, document_id)
        if row is None or row["content_sealed"] is None:
            raise HTTPException(404, f"no XML of document {document_id} is kept")
        raw = vault.open(row["content_sealed"], tenant=tenant, owner=document_id, field="xml")
        return Response(raw, media_type="application/xml")

    @router.post("/companies")
    async def add_company(tenant: Tenant, given: GivenCompany) -> dict[str, Any]:
        """Add a tax id of the company; its invoices are told by it."""
        tax_id = cnpj(given.tax_id)
        if tax_id is None:
            raise HTTPException(422, "the tax id is no CNPJ: 12 letters or digits and 2 check digits")
        async with service().pool.acquire() as connection:
            await store.add_company(connection, tenant, tax_id)
            return {"tax_ids": await store.tax_ids(connection, tenant)}


def _add_journal(router: APIRouter, service: Callable[[], Service]) -> None:
    @router.get("/journal")
    async def journal(
        tenant: Tenant,
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> dict[str, Any]:
        """A page of the journal; `next` is the `after` of the following page, null at the end."""
        async with service().pool.acquire() as connection:
            rows = await store.read_journal(connection, tenant, after, limit)
        return {"rows": [dict(row) for row in rows], "next": rows[-1]["seq"] if len(rows) == limit else None}

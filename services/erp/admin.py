"""What people and files give and ask erp: invoices, tax ids, the journal."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from contracts.envelope import Tenant
from services.border.accounts import AccountInvalid, check_base_url
from services.border.tax_ids import cnpj
from services.border.vault import Vault
from services.erp import bookings, store
from services.erp.booking import LOGIN_FIELD
from services.erp.intake import GivenInvoice, InTheWay, Unfit, shown, take_invoice
from services.erp.settings import ErpSettings
from services.runtime import Service


class GivenCompany(BaseModel):
    """A tax id that the company issues invoices under."""

    model_config = ConfigDict(extra="forbid")

    tax_id: str = Field(max_length=32)


class GivenTarget(BaseModel):
    """A company's ERP and who we are there. Orders that left before `since` are not booked; none given: before now."""

    model_config = ConfigDict(extra="forbid")

    target: Literal["tryton"]
    environment: Literal["sandbox", "test", "production"]
    base_url: str = Field(max_length=500, pattern="^https?://[^/]")
    database: str = Field(min_length=1, max_length=100)
    user: str = Field(min_length=1, max_length=200)
    password: str = Field(min_length=1, max_length=1000, repr=False)
    warehouse: str = Field(default="", max_length=100, description="Its code; empty: the only one.")
    since: AwareDatetime | None = None


def admin_router(service: Callable[[], Service], vault: Vault, settings: ErpSettings) -> APIRouter:
    """The routes of erp under `/admin`."""
    router = APIRouter()
    _add_invoices(router, service, vault, settings)
    _add_journal(router, service)
    _add_targets(router, service, vault)
    _add_bookings(router, service)
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


def _add_targets(router: APIRouter, service: Callable[[], Service], vault: Vault) -> None:
    @router.put("/targets")
    async def put_target(tenant: Tenant, given: GivenTarget) -> dict[str, Any]:
        """Keep the company's ERP; given again, it is changed."""
        try:
            check_base_url(given.base_url, given.environment)
        except AccountInvalid as invalid:
            raise HTTPException(422, str(invalid)) from None
        login = json.dumps({"user": given.user, "password": given.password}).encode()
        kept = given.model_dump(exclude={"user", "password"}) | {
            "tenant": tenant,
            "login_sealed": vault.seal(login, tenant=tenant, owner=given.target, field=LOGIN_FIELD),
        }
        async with service().transaction() as tx:
            await bookings.put_target(tx.connection, kept | {"now": tx.now})
        async with service().transaction() as tx:
            # Now that every handler sees the target, nothing that left meanwhile is missed.
            await bookings.want_all(tx.connection, tenant, given.target, tx.now)
        return {"target": given.target}

    @router.get("/targets")
    async def targets(tenant: Tenant) -> dict[str, Any]:
        """The company's ERPs, what came of the last look at each, and how many sales wait."""
        async with service().pool.acquire() as connection:
            rows = await bookings.targets(connection, tenant)
        return {"targets": [dict(row) | {"told": json.loads(row["told"])} for row in rows]}

    @router.post("/targets/{target}/sync")
    async def sync(tenant: Tenant, target: str) -> dict[str, Any]:
        """Look at an ERP as soon as may be: products in, and every sale that is not there yet out."""
        async with service().transaction() as tx:
            if not await bookings.ask(tx.connection, tenant, target, tx.now):
                raise HTTPException(404, f"the company has no {target}: add it with `saldo erp add`")
            await bookings.want_all(tx.connection, tenant, target, tx.now)
            await bookings.ask_bookings(tx.connection, tenant, target, tx.now)
            return {"asked_at": tx.now}


def _add_bookings(router: APIRouter, service: Callable[[], Service]) -> None:
    @router.get("/bookings")
    async def listed(
        tenant: Tenant,
        state: Literal["wanted", "going", "booked", "rejected"] | None = None,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> dict[str, Any]:
        """A page of what is booked elsewhere, by order; `next` is the `after` of the following one, null at the end."""
        async with service().pool.acquire() as connection:
            rows = await bookings.list_bookings(connection, tenant, state, after, limit)
        return {"bookings": [dict(row) for row in rows], "next": rows[-1]["order_id"] if len(rows) == limit else None}

    @router.post("/bookings/{order_id}/retry")
    async def retry(tenant: Tenant, order_id: str) -> dict[str, Any]:
        """Try again what an ERP refused of an order, now that it was put right there."""
        async with service().transaction() as tx:
            found = await bookings.retry(tx.connection, tenant, order_id, tx.now)
        if not found:
            raise HTTPException(404, f"nothing of order {order_id} was refused: see `saldo erp bookings`")
        return {"targets": found}

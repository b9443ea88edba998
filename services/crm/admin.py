"""What people ask of crm and decide in it. Answers hold personal data: the listener's token is the right to see it."""

from collections.abc import Callable
from typing import Annotated, Any

import asyncpg
import structlog
from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, Field

from contracts.envelope import Code
from services.border.vault import Vault
from services.crm import decisions, store, view
from services.crm.domain import REASONS
from services.crm.erase import erase, erase_letters
from services.crm.settings import CrmSettings
from services.runtime import Service

Limit = Annotated[int, Query(ge=1, le=1000)]
_NOT_FOUND = "no customer is known by this: give a customer's id, an order's id, a CPF or CNPJ, an e-mail or a phone"

_log = structlog.get_logger("saldo.crm")


class Asked(BaseModel):
    """Who is meant: in the body, because an address of a request ends in logs and may name a person."""

    identity: str = Field(min_length=1, max_length=320)
    purpose: Code = view.PURPOSE


class Pair(BaseModel):
    """Two customers."""

    one: Code
    other: Code


class Gone(BaseModel):
    """The customer that went by a merge: in the body, because it is what a person typed."""

    customer_id: Code


class Consent(BaseModel):
    """What a customer said for one purpose, and where."""

    purpose: Code
    granted: bool
    source: Code


def admin_router(service: Callable[[], Service], vault: Vault, settings: CrmSettings) -> APIRouter:
    """The routes of crm under `/admin`: questions write nothing, decisions are a transaction each."""
    router = APIRouter()
    _ask(router, service, vault, settings)
    _decide(router, service, vault, settings)
    return router


def _ask(router: APIRouter, service: Callable[[], Service], vault: Vault, settings: CrmSettings) -> None:
    @router.get("/customers")
    async def customers(tenant: str, after: str = "", limit: Limit = 100) -> dict[str, Any]:
        """A page of customers by id; `next` is the `after` of the following page, null at the end."""
        async with service().pool.acquire() as connection:
            rows = await store.list_customers(connection, tenant, after, limit)
        return {
            "customers": [dict(row) for row in rows],
            "next": rows[-1]["customer_id"] if len(rows) == limit else None,
        }

    @router.post("/customers/show")
    async def shown(tenant: str, asked: Asked) -> dict[str, Any]:
        """All that is known of one customer: profile, references, consent, timeline. It is the export as well."""
        async with service().pool.acquire() as connection, connection.transaction(readonly=True):
            found = await view.find_ids(connection, tenant, asked.identity, vault, settings)
            if not found and (held := await store.held_of(connection, tenant, asked.identity)):
                raise HTTPException(410, view.tell_held(held))
            if not found:
                raise HTTPException(404, _NOT_FOUND)
            if len(found) > 1:
                raise HTTPException(409, f"several customers have this: ask for one of {', '.join(found)}")
            return await view.show(connection, tenant, found[0], vault, purpose=asked.purpose)

    @router.get("/reviews")
    async def reviews(tenant: str, limit: Limit = 100) -> dict[str, Any]:
        """Pairs that may be one customer and wait for a person, each with why."""
        async with service().pool.acquire() as connection:
            rows = await store.list_reviews(connection, tenant, limit)
        return {"reviews": [dict(row) | {"why": REASONS[row["reason"]]} for row in rows]}


def _decide(router: APIRouter, service: Callable[[], Service], vault: Vault, settings: CrmSettings) -> None:
    @router.post("/customers/merge")
    async def merge(tenant: str, pair: Pair) -> dict[str, Any]:
        """Two customers are one; the elder goes on."""
        try:
            async with service().transaction() as tx:
                return {"customer_id": await decisions.merge(tx, tenant, pair.one, pair.other, settings)}
        except decisions.Refused as refused:
            raise HTTPException(409, str(refused)) from None

    @router.post("/customers/keep")
    async def keep(tenant: str, pair: Pair) -> dict[str, Any]:
        """Two customers stay two, and nobody is asked again."""
        try:
            async with service().transaction() as tx:
                await decisions.keep(tx, tenant, pair.one, pair.other)
        except decisions.Refused as refused:
            raise HTTPException(409, str(refused)) from None
        return {"kept": [pair.one, pair.other]}

    @router.post("/customers/unmerge")
    async def unmerge(tenant: str, gone: Gone) -> dict[str, Any]:
        """The merge that this customer went by is undone."""
        try:
            async with service().transaction() as tx:
                was = await decisions.unmerge(tx, tenant, gone.customer_id, settings)
        except decisions.Refused as refused:
            raise HTTPException(409, str(refused)) from None
        return {"customer_id": was, "restored_customer_id": gone.customer_id}

    @router.post("/customers/{customer_id}/consent")
    async def consent(tenant: str, customer_id: str, said: Consent) -> dict[str, Any]:
        """What the customer said about being written to for a purpose."""
        try:
            async with service().transaction() as tx:
                fact = await decisions.consent(
                    tx, tenant, customer_id, said.purpose, granted=said.granted, source=said.source
                )
        except decisions.Refused as refused:
            raise HTTPException(409, str(refused)) from None
        return fact.model_dump(mode="json")

    @router.post("/customers/{customer_id}/erase")
    async def erased(tenant: str, customer_id: str) -> dict[str, Any]:
        """Forget the customer; the answer lists what stays, why and until when."""
        async with service().transaction() as tx:
            fact = await erase(tx, tenant, customer_id, vault=vault, settings=settings)
        if fact is None:
            raise HTTPException(404, f"no customer {customer_id}: it may have been erased already")
        try:
            await erase_letters(service())
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # The customer is erased, and the answer is told once. What is left is done at the next look.
            _log.warning("dead letters of erased orders are still to be erased", error=type(error).__name__)
        return fact.model_dump(mode="json")

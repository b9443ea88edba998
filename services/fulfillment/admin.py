"""What people do at the packing table, and what they ask. Nothing here shows a recipient but the label itself."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

import asyncpg
from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from contracts.fulfillment.v1 import ReceivedLine, TrackingStatus
from contracts.inventory.v1 import AccountState
from services.border.accounts import AccountInvalid
from services.border.vault import Vault
from services.bus import Cause, Transaction
from services.fulfillment import store
from services.fulfillment.accounts import Carriers
from services.fulfillment.book import Form, printed
from services.fulfillment.carriers.carrier import Account
from services.fulfillment.domain import (
    Dispatched,
    Event,
    Packed,
    Picked,
    Received,
    Scan,
    Shipment,
    State,
    TryAgain,
)
from services.fulfillment.handlers import Opens, name, open_desk, try_again
from services.fulfillment.labels import Place
from services.fulfillment.mapping import SEEDS, NameMapping
from services.fulfillment.rates import Rate, postcode
from services.fulfillment.settings import FulfillmentSettings

Millimetres = Annotated[int, Field(gt=0)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Weighed(_Body):
    """A packed parcel; without figures it is what its items' own measures make it."""

    weight_g: Annotated[int, Field(gt=0)] | None = None
    dimensions_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None


class Left(_Body):
    """When the parcel was handed over; now, if nothing is said."""

    at: AwareDatetime | None = None


class Followed(_Body):
    """Where the carrier says that the parcel was."""

    status: TrackingStatus
    happened_at: AwareDatetime | None = None


class Returned(_Body):
    """All lines of one return; the same id once more replaces what was said of it."""

    return_id: str = Field(min_length=1, max_length=64)
    lines: tuple[ReceivedLine, ...] = Field(min_length=1)
    received_at: AwareDatetime | None = None


class Named(_Body):
    """What a channel's name of a carrier or a service means; for every connection unless one is given."""

    kind: Literal["carrier", "service"]
    given: str = Field(min_length=1)
    ours: str = Field(min_length=1, max_length=64)
    connection_id: str = ""


class Priced(_Body):
    """One row of the company's own rates."""

    carrier: str = Field(min_length=1, max_length=64)
    service: str = Field(min_length=1, max_length=64)
    from_code: str
    to_code: str
    up_to_g: Annotated[int, Field(gt=0)]
    price_minor: Annotated[int, Field(ge=0)]
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    days_min: Annotated[int, Field(ge=0)]
    days_max: Annotated[int, Field(ge=0)]


class AccountGiven(_Body):
    """An account at a carrier outside."""

    carrier: str
    environment: Literal["sandbox", "production"]
    base_url: str = Field(pattern="^https?://[^/]")
    settings: dict[str, str] = {}
    credentials: dict[str, str] = Field(repr=False)


def admin_router(opens: Opens, carriers: Carriers, vault: Vault, settings: FulfillmentSettings) -> APIRouter:
    """The routes of fulfillment under `/admin`; `opens` begins a transaction."""
    router = APIRouter()
    _add_questions(router, opens, vault)
    _add_steps(router, opens, settings)
    _add_tables(router, opens, settings)
    _add_accounts(router, opens, carriers, settings)
    return router


def _add_questions(router: APIRouter, opens: Opens, vault: Vault) -> None:
    @router.get("/parcels")
    async def parcels(
        tenant: str, state: str | None = None, after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> dict[str, Any]:
        """A page of shipments by id; `next` is the `after` of the following page, null at the end."""
        if state is not None and state not in get_args(State):
            raise HTTPException(422, f"state must be one of {', '.join(get_args(State))}")
        async with opens() as tx:
            rows = await store.list_shipments(tx.connection, tenant, state, after, limit)
        return {
            "parcels": [_shown(row) for row in rows],
            "next": rows[-1]["shipment_id"] if len(rows) == limit else None,
        }

    @router.get("/parcels/{shipment_id}")
    async def parcel(tenant: str, shipment_id: str) -> dict[str, Any]:
        """One shipment."""
        async with opens() as tx:
            return _shown(await _found(tx, tenant, shipment_id))

    @router.get("/parcels/{shipment_id}/label")
    async def label(tenant: str, shipment_id: str, form: Annotated[Form, Query(alias="format")] = "pdf") -> Response:
        """The label, for the printer."""
        async with opens() as tx:
            made = store.read(await _found(tx, tenant, shipment_id)).label
            kept = await store.read_label(tx.connection, tenant, made.label_id) if made else None
        if made is None or kept is None:
            raise HTTPException(404, f"{shipment_id} has no label: it is not bought yet, or was erased with the buyer")
        content = vault.open(kept[1], tenant=tenant, owner=made.label_id, field=kept[0])
        if kept[0] == "fields":
            content = await asyncio.to_thread(printed, content, form)
        elif kept[0] != form:
            raise HTTPException(404, f"the carrier's label of {shipment_id} is there as {kept[0]} only")
        return Response(content, media_type="application/pdf" if form == "pdf" else "text/plain; charset=utf-8")


def _add_steps(router: APIRouter, opens: Opens, settings: FulfillmentSettings) -> None:
    async def take(
        tenant: str, shipment_id: str, event: Callable[[Transaction], Event] | None = None
    ) -> dict[str, Any]:
        """Take an event to the shipment (None: the proposed parcel), and show it; 409 where it does not fit."""
        async with opens() as tx:
            row = await _found(tx, tenant, shipment_id)
            order_id = store.read(row).order_id
            desk = await open_desk(tx, [(tenant, order_id)], settings)
            happened = event(tx) if event else desk.proposal(tenant, desk.shipments[tenant, shipment_id])
            if happened is None:
                raise HTTPException(409, f"{shipment_id} is not prepared yet")
            decision = desk.decide(tenant, order_id, shipment_id, happened, Cause(*row["cause"]))
            if decision.refused:
                raise HTTPException(409, f"{shipment_id}: {decision.refused}")
            await desk.save()
            return _shown(await _found(tx, tenant, shipment_id))

    @router.post("/parcels/{shipment_id}/pick")
    async def pick(tenant: str, shipment_id: str) -> dict[str, Any]:
        """The goods are taken from the shelf."""
        return await take(tenant, shipment_id, lambda _: Picked())

    @router.post("/parcels/{shipment_id}/pack")
    async def pack(tenant: str, shipment_id: str, weighed: Weighed) -> dict[str, Any]:
        """The goods are in a parcel; its label is bought as soon as nothing else is missing."""
        if weighed.weight_g is None and weighed.dimensions_mm is None:
            return await take(tenant, shipment_id)
        if weighed.weight_g is None or weighed.dimensions_mm is None:
            raise HTTPException(422, "give both weight_g and dimensions_mm, or neither")
        packed = Packed(weighed.weight_g, weighed.dimensions_mm)
        return await take(tenant, shipment_id, lambda _: packed)

    @router.post("/parcels/{shipment_id}/label")
    async def retry(tenant: str, shipment_id: str) -> dict[str, Any]:
        """Ask for the label once more, after what was refused is put right."""
        return await take(tenant, shipment_id, lambda _: TryAgain())

    @router.post("/parcels/{shipment_id}/dispatch")
    async def dispatch(tenant: str, shipment_id: str, left: Left) -> dict[str, Any]:
        """The parcel was handed over."""
        return await take(tenant, shipment_id, lambda tx: Dispatched(left.at or tx.now))

    @router.post("/parcels/{shipment_id}/event")
    async def event(tenant: str, shipment_id: str, followed: Followed) -> dict[str, Any]:
        """The carrier says where the parcel is."""
        return await take(tenant, shipment_id, lambda tx: Scan(followed.status, followed.happened_at or tx.now))

    @router.post("/parcels/{shipment_id}/return")
    async def back(tenant: str, shipment_id: str, returned: Returned) -> dict[str, Any]:
        """Goods came back and were looked at."""
        if any(line.state not in (AccountState.AVAILABLE, AccountState.DAMAGED) for line in returned.lines):
            raise HTTPException(422, "state must be available or damaged")
        return await take(
            tenant,
            shipment_id,
            lambda tx: Received(returned.return_id, returned.lines, returned.received_at or tx.now),
        )


def _add_tables(router: APIRouter, opens: Opens, settings: FulfillmentSettings) -> None:
    @router.get("/rates")
    async def rates(tenant: str) -> dict[str, Any]:
        """The company's own rates."""
        async with opens() as tx:
            return {"rates": (await store.read_rates(tx.connection, [tenant]))[tenant]}

    @router.put("/rates")
    async def put_rates(tenant: str, priced: list[Priced]) -> dict[str, int]:
        """Rates of some services in the place of all that these services had; parcels that waited for one go."""
        rows = [_rate(number, one) for number, one in enumerate(priced, start=1)]
        steps = [(one.carrier, one.service, one.from_code, one.to_code, one.up_to_g) for one in rows]
        if len(set(steps)) < len(steps):
            raise HTTPException(422, "two rows are about the same weight step of the same range of a service")
        async with opens() as tx:
            await store.put_rates(tx.connection, tenant, rows)
            released = await try_again(tx, tenant, settings)
        return {"rates": len(rows), "released": released}

    @router.get("/mappings")
    async def mappings(tenant: str) -> dict[str, Any]:
        """What names of carriers and services mean; what everybody starts with comes first."""
        async with opens() as tx:
            own = await store.read_mappings(tx.connection, [tenant])
        return {"mappings": [*SEEDS, *own.get(tenant, [])]}

    @router.post("/mappings")
    async def put_mapping(tenant: str, named: Named) -> dict[str, int]:
        """Say what a name means; parcels that waited for it go."""
        mapping = NameMapping(named.kind, named.given, named.ours, named.connection_id)
        async with opens() as tx:
            return {"released": await name(tx, tenant, mapping, settings)}

    @router.put("/origins/{location}")
    async def put_origin(tenant: str, location: str, place: Place) -> dict[str, int]:
        """Say where a location is; parcels that waited for it go."""
        async with opens() as tx:
            await store.put_origin(tx.connection, tenant, location, place)
            return {"released": await try_again(tx, tenant, settings)}


def _add_accounts(router: APIRouter, opens: Opens, carriers: Carriers, settings: FulfillmentSettings) -> None:
    @router.put("/carriers")
    async def put_account(tenant: str, given: AccountGiven) -> dict[str, str]:
        """Keep an account; answers its id, and the address that the carrier's webhooks are to be sent to."""
        account = Account(tenant, **given.model_dump())
        try:
            async with opens() as tx:
                await carriers.put(tx.connection, account)
                await store.follow(tx.connection, tenant, account.carrier, tx.now)
        except AccountInvalid as invalid:
            raise HTTPException(422, str(invalid)) from None
        return {
            "account_id": account.account_id,
            "door_url": f"{settings.public_door_url}/hooks/{account.account_id}",
        }

    @router.get("/carriers")
    async def accounts(tenant: str) -> dict[str, Any]:
        """The company's accounts, without what is secret."""
        async with opens() as tx:
            return {"carriers": [dict(row) for row in await store.list_accounts(tx.connection, tenant)]}


def _rate(number: int, one: Priced) -> Rate:
    try:
        from_code, to_code = postcode(one.from_code), postcode(one.to_code)
    except ValueError as wrong:
        raise HTTPException(422, f"row {number}: {wrong}") from None
    if from_code > to_code or one.days_min > one.days_max:
        raise HTTPException(422, f"row {number}: a range of postcodes or days ends before it begins")
    return Rate(
        one.carrier, one.service, from_code, to_code, one.up_to_g, one.price_minor, one.currency, one.days_min,
        one.days_max,
    )  # fmt: skip


async def _found(tx: Transaction, tenant: str, shipment_id: str) -> asyncpg.Record:
    row = await store.find_shipment(tx.connection, tenant, shipment_id)
    if row is None:
        raise HTTPException(404, f"no shipment {shipment_id}: ids are <order id>:s<number>")
    return row


def _waits_for(shipment: Shipment, unmapped: bool) -> str | None:
    """What has to come before the shipment goes on; None where nothing is missing."""
    if shipment.state == "awaiting_address":
        return "address"
    if shipment.blocked:
        return shipment.blocked
    if unmapped and shipment.label is None:
        return "mapping"
    return "invoice" if shipment.state == "packed" and not shipment.has_invoice else None


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    shipment = store.read(row)
    asked, label, scan = shipment.prepare, shipment.label, shipment.tracking
    return {
        "shipment_id": shipment.shipment_id,
        "order_id": shipment.order_id,
        "state": shipment.state,
        "waits_for": _waits_for(shipment, row["unmapped"]),
        "version": shipment.version,
        "revision": shipment.revision,
        "location": asked.location if asked else None,
        "lines": [line.model_dump() for line in asked.lines] if asked else [],
        "ship_by": asked.ship_by if asked else None,
        "invoice_key": asked.invoice_key if asked else None,
        "asked_carrier": asked.carrier if asked else None,
        "asked_service": asked.service if asked else None,
        "carrier": shipment.carrier,
        "service": shipment.service,
        "weight_g": shipment.packed.weight_g if shipment.packed else None,
        "dimensions_mm": shipment.packed.dimensions_mm if shipment.packed else None,
        "label_id": label.label_id if label else None,
        "tracking_code": label.tracking_code if label else "",
        "tracking_url": label.tracking_url if label else "",
        "tracked": {"status": scan.status.value, "happened_at": scan.happened_at} if scan else None,
        "dispatched_at": shipment.dispatched_at,
        "delivered_at": shipment.delivered_at,
        "returns": [one.return_id for one in shipment.returns],
        "changed_at": row["changed_at"],
    }

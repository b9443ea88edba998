"""What people ask and tell channels: connections, listings, records, intake, alerts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from services.border.vault import SealBroken
from services.bus import Transaction
from services.channels.adverts import store as adverts
from services.channels.adverts.loop import session_of
from services.channels.alerts import open_alerts
from services.channels.connections import lifecycle, store
from services.channels.connections.lifecycle import NewConnection, Refused
from services.channels.connections.store import Connection
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import Rejected, Session, Throttled
from services.channels.intake import store as intake_store
from services.channels.intake.absorb import INTAKE_STREAM
from services.channels.intake.context import Intake
from services.channels.linking import keep_listings, link
from services.channels.report import store as report_store
from services.channels.stock import listings, upkeep
from services.channels.stock.listings import LinkConflict, ListingRow
from services.runtime import Service

Limit = Annotated[int, Query(ge=1, le=10_000)]
Tenant = str | None
IntakeId = Annotated[int, Path(ge=1, lt=2**63)]
PACK_MAX = 100_000
TEXT_MAX = 1_000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AddConnection(_Body):
    """A connection as a person adds it; the tenant is the query's."""

    connector: str
    environment: str = "sandbox"
    account: str
    base_url: str
    credentials: dict[str, str] = {}
    settings: dict[str, str] = {}
    category: str = "marketplace"
    pool: Annotated[str, Field(min_length=1, max_length=64)] = "shared"


class GivenListing(_Body):
    """An advert from a file instead of from the channel."""

    listing: Annotated[str, Field(min_length=1)]
    item: Annotated[str, Field(min_length=1)]
    location: str
    seller_sku: str = ""
    title: str = ""
    sku: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    pack: Annotated[int, Field(ge=1, le=PACK_MAX)] = 1


class ImportListings(_Body):
    """Rows to keep; without them the adverts are read from the channel, by and by (`GET …/import`)."""

    rows: list[GivenListing] | None = None


class LinkListing(_Body):
    """Which SKU an advert sells."""

    connection_id: str
    listing: str
    sku: Annotated[str, Field(min_length=1, max_length=128)]
    pack: Annotated[int, Field(ge=1, le=PACK_MAX)] = 1


class ChannelWord(_Body):
    """How a channel calls a carrier or service of ours, when it is told of a parcel."""

    kind: Literal["carrier", "service"]
    ours: Annotated[str, Field(min_length=1, max_length=TEXT_MAX)]
    theirs: Annotated[str, Field(min_length=1, max_length=TEXT_MAX)]


class EraseOrder(_Body):
    """The order whose bodies and buyer are to be erased."""

    order_id: str


class Channels:
    """The routes of channels under `/admin`."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._service: Service | None = None
        self.router = APIRouter()
        self._connections()
        self._listings()
        self._stock()
        self._bodies()
        self._progress()

    def serve(self, service: Service) -> None:
        """Answer for this service, which is made after its routes."""
        self._service = service

    @property
    def service(self) -> Service:
        assert self._service is not None
        return self._service

    # -- connections -------------------------------------------------------------------------------------------------

    def _connections(self) -> None:
        router = self.router

        @router.get("/connections")
        async def listed(tenant: Tenant = None) -> dict[str, Any]:
            async with self.service.pool.acquire() as connection:
                return {"connections": [_shown(one) for one in await store.all_of(connection, tenant)]}

        @router.post("/connections")
        async def add(body: AddConnection, tenant: str) -> dict[str, Any]:
            new = NewConnection(tenant=tenant, **body.model_dump())
            async with _refusing(self.service) as tx:
                return _shown(await lifecycle.add(tx, self._intake.vault, new))

        @router.get("/connections/{connection_id}")
        async def shown(connection_id: str, tenant: Tenant = None) -> dict[str, Any]:
            return _shown(await self._found(connection_id, tenant), details=True)

        @router.get("/connections/{connection_id}/door")
        async def door(connection_id: str, tenant: str) -> dict[str, Any]:
            found = await self._found(connection_id, tenant)
            session = await self._session(found)
            await session.http.aclose()
            return {"connection_id": connection_id, "door_url": self._intake.door_of(found, session)}

        @router.post("/connections/{connection_id}/validate")
        async def validate(connection_id: str, tenant: Tenant = None) -> dict[str, Any]:
            return await self._validate(await self._found(connection_id, tenant))

        @router.post("/connections/{connection_id}/enable")
        async def enable(connection_id: str, tenant: Tenant = None) -> dict[str, Any]:
            async with _refusing(self.service) as tx:
                changed = await lifecycle.enable(tx, connection_id, tenant)
            await self._intake.registry.refresh(self.service.pool)
            return _shown(changed)

        @router.post("/connections/{connection_id}/pause")
        async def pause(connection_id: str, tenant: Tenant = None) -> dict[str, Any]:
            async with _refusing(self.service) as tx:
                changed = await lifecycle.pause(tx, connection_id, tenant)
            await self._intake.registry.refresh(self.service.pool)
            return _shown(changed)

    async def _found(self, connection_id: str, tenant: Tenant) -> Connection:
        async with self.service.pool.acquire() as connection:
            found = await store.find(connection, connection_id, tenant)
        if found is None:
            raise HTTPException(404, f"there is no connection {connection_id}: `saldo connection list` shows them")
        return found

    async def _session(self, connection: Connection) -> Session:
        try:
            return await session_of(self.service, self._intake, connection)
        except (SealBroken, Refused) as error:
            raise HTTPException(409, str(error)) from None

    async def _validate(self, connection: Connection) -> dict[str, Any]:
        """Ask the channel, set up its pushes, and only then say in the table that it works."""
        connector = CONNECTORS[connection.connector]
        session = await self._session(connection)
        door_url = self._intake.door_of(connection, session)
        try:
            problems = list(await connector.check(session, door_url))
            if not problems:
                await connector.subscribe(session, door_url)
        except (Rejected, Throttled, ValueError) as error:
            problems = [f"the channel did not take part: {error}"]
        finally:
            await session.http.aclose()
        if problems:
            return {**_shown(connection), "problems": problems}
        async with _refusing(self.service) as tx:
            changed = await lifecycle.mark_validated(tx, connection.connection_id, connection.version)
        await self._intake.registry.refresh(self.service.pool)
        return {**_shown(changed), "problems": []}

    # -- listings ----------------------------------------------------------------------------------------------------

    def _listings(self) -> None:
        router = self.router

        @router.get("/connections/{connection_id}/listings")
        async def listed(connection_id: str, tenant: Tenant = None) -> dict[str, Any]:
            found = await self._found(connection_id, tenant)
            async with self.service.pool.acquire() as connection:
                rows = await listings.listings_of(connection, found.tenant, connection_id)
            return {"listings": [{**row, "channel_sku": row["seller_sku"]} for row in rows]}

        @router.post("/connections/{connection_id}/listings")
        async def import_(connection_id: str, body: ImportListings, tenant: Tenant = None) -> dict[str, Any]:
            found = await self._found(connection_id, tenant)
            if body.rows is None:
                async with self.service.transaction() as tx:
                    await adverts.begin(tx.connection, found.tenant, connection_id, tx.now)
                self._intake.importing.set()
                return await self._import(connection_id)
            rows = _given_rows(body.rows)
            async with _refusing(self.service) as tx:
                linked = await keep_listings(tx, found, rows)
            self._intake.stock.dirtied()
            return {"listings": len(rows), "linked": linked, "unlinked": len(rows) - linked}

        @router.get("/connections/{connection_id}/import")
        async def imported(connection_id: str, tenant: Tenant = None) -> dict[str, Any]:
            await self._found(connection_id, tenant)
            return await self._import(connection_id)

        @router.post("/listings/link")
        async def link_one(body: LinkListing, tenant: Tenant = None) -> dict[str, Any]:
            found = await self._found(body.connection_id, tenant)
            async with _refusing(self.service) as tx:
                released = await link(tx, found, body.listing, body.sku, body.pack)
            self._intake.stock.dirtied()
            if released is None:
                raise HTTPException(404, f"there is no listing {body.listing}: `saldo listing import` reads them")
            return {"listing": body.listing, "sku": body.sku, "pack": body.pack, "orders_released": released}

    async def _import(self, connection_id: str) -> dict[str, Any]:
        async with self.service.pool.acquire() as database:
            found = await adverts.shown(database, connection_id)
        if found is None:
            raise HTTPException(404, f"no adverts of {connection_id} were read yet: `saldo listing import` begins")
        return found

    # -- what channels are told --------------------------------------------------------------------------------------

    def _progress(self) -> None:
        router = self.router

        @router.get("/progress/{order_id}")
        async def shown(order_id: str, tenant: Tenant = None) -> dict[str, Any]:
            async with self.service.pool.acquire() as database:
                found = await report_store.shown(database, tenant, order_id)
            if found is None:
                raise HTTPException(404, f"no channel has to be told of order {order_id}")
            return found

        @router.post("/progress/{order_id}/retry")
        async def retry(order_id: str, tenant: Tenant = None) -> dict[str, Any]:
            async with self.service.transaction() as tx:
                if not await report_store.retry(tx.connection, tenant, order_id, tx.now):
                    raise HTTPException(404, f"no channel has to be told of order {order_id}")
            self._intake.telling.set()
            return {"order_id": order_id, "due": True}

        @router.post("/connections/{connection_id}/words")
        async def name(connection_id: str, body: ChannelWord, tenant: Tenant = None) -> dict[str, Any]:
            found = await self._found(connection_id, tenant)
            async with self.service.pool.acquire() as database:
                await report_store.put_mapping(database, found.connection_id, body.kind, body.ours, body.theirs)
            return body.model_dump()

    # -- stock records, alerts -----------------------------------------------------------------------------------------

    def _stock(self) -> None:
        router = self.router

        @router.get("/records")
        async def records(tenant: str, connection: str | None = None) -> dict[str, Any]:
            async with self.service.pool.acquire() as database:
                return {"records": await listings.records_of(database, tenant, connection)}

        @router.get("/records/summary")
        async def summary(tenant: Tenant = None) -> dict[str, Any]:
            async with self.service.pool.acquire() as database:
                return {"connections": await listings.summary(database, tenant)}

        @router.post("/connections/{connection_id}/release-brake")
        async def release(connection_id: str, tenant: Tenant = None) -> dict[str, Any]:
            found = await self._found(connection_id, tenant)
            async with self.service.transaction() as tx:
                return {"released": await upkeep.release_brake(tx.connection, found.tenant, connection_id)}

        @router.get("/alerts")
        async def alerts(tenant: Tenant = None, limit: Limit = 100) -> dict[str, Any]:
            async with self.service.pool.acquire() as database:
                return {"alerts": await open_alerts(database, tenant, limit)}

    # -- what came in --------------------------------------------------------------------------------------------------

    def _bodies(self) -> None:
        router = self.router

        @router.get("/intake")
        async def listed(
            tenant: Tenant = None, order_id: str | None = None, state: str | None = None, limit: Limit = 100
        ) -> dict[str, Any]:
            async with self.service.pool.acquire() as database:
                return {"intake": await intake_store.list_bodies(database, tenant, order_id, state, limit)}

        @router.get("/intake/{intake_id}/body")
        async def body(intake_id: IntakeId, tenant: str) -> dict[str, Any]:
            async with self.service.pool.acquire() as database:
                found = await intake_store.one_body(database, tenant, intake_id)
            if found is None:
                raise HTTPException(404, f"there is no intake {intake_id}; bodies are kept for some days only")
            try:
                raw = self._intake.open_body(found.body)
            except SealBroken as error:
                raise HTTPException(409, str(error)) from None
            return {"intake_id": intake_id, "body": raw.decode("utf-8", "backslashreplace")}

        @router.post("/intake/{intake_id}/replay")
        async def replay(intake_id: IntakeId, tenant: Tenant = None) -> dict[str, Any]:
            return await self._end_poison(intake_id, tenant, "new", "replayed", "read again")

        @router.post("/intake/{intake_id}/discard")
        async def discard(intake_id: IntakeId, reason: str, tenant: Tenant = None) -> dict[str, Any]:
            return await self._end_poison(intake_id, tenant, "discarded", "discarded", reason)

        @router.post("/intake/erase")
        async def erase(body: EraseOrder, tenant: str) -> dict[str, Any]:
            async with self.service.transaction() as tx:
                bodies, buyers = await intake_store.erase_orders(tx.connection, tenant, [body.order_id])
            return {"order_id": body.order_id, "bodies": bodies, "buyers": buyers}

    async def _end_poison(
        self, intake_id: int, tenant: Tenant, state: str, letter_state: str, reason: str
    ) -> dict[str, Any]:
        async with self.service.transaction() as tx:
            moved = await intake_store.move_poisoned(tx.connection, tenant, intake_id, state, "")
            if moved:
                await intake_store.close_dead_letter(tx.connection, INTAKE_STREAM, intake_id, letter_state, reason)
        if not moved:
            raise HTTPException(404, f"intake {intake_id} is not poisoned: `GET /admin/intake?state=poisoned`")
        self._intake.arrived.set()
        return {"intake_id": intake_id, "state": state}


def _given_rows(given: list[GivenListing]) -> list[ListingRow]:
    """Rows of a file as they are kept. Refuses the whole file, naming the first row that cannot be."""
    for number, row in enumerate(given, start=1):
        for name in ("listing", "item", "location", "seller_sku", "title", "sku"):
            text = getattr(row, name) or ""
            # PostgreSQL keeps no NUL and UTF-8 has no lone surrogates.
            if len(text) > TEXT_MAX or "\0" in text or text != text.encode(errors="ignore").decode():
                raise HTTPException(422, f"row {number}: {name} cannot be kept: at most {TEXT_MAX} characters of UTF-8")
    if len({row.listing for row in given}) < len(given):
        raise HTTPException(422, "a listing is there twice: give each one once")
    return [ListingRow(**row.model_dump()) for row in given]


@asynccontextmanager
async def _refusing(service: Service) -> AsyncIterator[Transaction]:
    """A transaction whose refusals become answers in words."""
    try:
        async with service.transaction() as tx:
            yield tx
    except (Refused, LinkConflict) as refused:
        raise HTTPException(409, str(refused)) from None


def _shown(connection: Connection, *, details: bool = False) -> dict[str, Any]:
    shown = asdict(connection)
    if details:
        traits = asdict(CONNECTORS[connection.connector].traits)
        shown["traits"] = {name: value for name, value in traits.items() if name not in ("credentials", "settings")}
    return shown

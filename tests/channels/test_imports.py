"""Reading adverts outlasts the request, the process, and a channel that asks to wait."""

from collections.abc import AsyncIterator, Container, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.channels.admin import Channels
from services.channels.adverts import loop, store
from services.channels.connections.store import Connection
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import ChannelListing, Rejected, Session, Throttled
from tests.channels.conftest import Kit

pytestmark = pytest.mark.asyncio
ADVERTS = ["a", "b", "c", "d", "e"]


class Catalogue:
    """A channel that is asked for each advert by itself, and what it was asked for."""

    def __init__(self, *ends: Exception | None) -> None:
        self.asked: list[list[str]] = []
        self.ends = list(ends)

    async def listings(self, session: Session, known: Container[str] = ()) -> AsyncIterator[ChannelListing]:
        del session
        self.asked.append([])
        end = self.ends.pop(0) if self.ends else None
        for listing in ADVERTS:
            if listing in known:
                continue
            if end is not None and len(self.asked[-1]) == 2:
                raise end
            self.asked[-1].append(listing)
            yield ChannelListing(listing, f"item-{listing}", "1", listing.upper(), "t", 1)


@pytest.fixture(autouse=True)
def lots_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_LOT", 1)


async def begun(kit: Kit, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Connection:
    monkeypatch.setattr(type(CONNECTORS["shopify"]), "listings", staticmethod(catalogue.listings))
    connection = await kit.connect(live=False)
    async with kit.service.pool.acquire() as database:
        await store.begin(database, connection.tenant, connection.connection_id, kit.service.clock())
    return connection


async def claimed(kit: Kit, *, after: timedelta = timedelta()) -> store.Import | None:
    async with kit.service.pool.acquire() as database:
        return await store.claim(database, kit.service.clock() + after, loop.LEASE)


async def go_on(kit: Kit, *, after: timedelta = timedelta()) -> None:
    job = await claimed(kit, after=after)
    assert job is not None
    await loop.run(kit.service, kit.intake, job)


async def shown(kit: Kit, connection: Connection) -> dict[str, Any]:
    async with kit.service.pool.acquire() as database:
        found = await store.shown(database, connection.connection_id)
    assert found is not None
    return found


async def test_a_killed_import_asks_for_the_rest_alone(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue(ConnectionError("the process is gone"))
    connection = await begun(kit, catalogue, monkeypatch)
    with pytest.raises(ConnectionError):
        await go_on(kit)
    told = await shown(kit, connection)
    assert (told["state"], told["listings"]) == ("running", 2)
    assert await claimed(kit) is None, "a process that is gone had it a moment ago"
    await go_on(kit, after=loop.LEASE)
    told = await shown(kit, connection)
    assert (told["state"], told["listings"], told["unlinked"]) == ("done", 5, 5)
    assert catalogue.asked == [["a", "b"], ["c", "d", "e"]]
    assert (await kit.count("listings"), await kit.count("listing_imports_kept")) == (5, 0)


async def test_an_import_is_one_processs_at_a_time(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await begun(kit, Catalogue(), monkeypatch)
    slow = await claimed(kit)
    assert slow is not None
    assert await claimed(kit) is None
    fast = await claimed(kit, after=loop.LEASE)
    assert fast is not None
    await loop.run(kit.service, kit.intake, slow)
    assert await kit.count("listings") == 0
    await loop.run(kit.service, kit.intake, fast)
    assert (await shown(kit, connection))["state"] == "done"
    # Asked for again, it begins anew and counts each advert once.
    async with kit.service.pool.acquire() as database:
        for _ in range(2):
            await store.begin(database, connection.tenant, connection.connection_id, kit.service.clock())
    await go_on(kit)
    told = await shown(kit, connection)
    assert (told["state"], told["listings"]) == ("done", 5)


async def test_a_channel_that_asks_to_wait_is_asked_later_and_in_the_end_left_alone(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: Sequence[Exception] = [Throttled(30.0) for _ in range(loop.TRIES_MAX + 2)]
    catalogue = Catalogue(*waits)
    connection = await begun(kit, catalogue, monkeypatch)
    await go_on(kit)
    told = await shown(kit, connection)
    assert (told["state"], told["listings"], told["tries"]) == ("running", 2, 1)
    assert "cannot be asked now" in told["error"]
    assert await claimed(kit) is None
    await go_on(kit, after=timedelta(seconds=31))
    assert (await shown(kit, connection))["listings"] == 4, "what came before it came"
    monkeypatch.setattr(type(CONNECTORS["shopify"]), "listings", staticmethod(nothing))
    for _ in range(loop.TRIES_MAX - 1):
        await go_on(kit, after=timedelta(seconds=62))
    told = await shown(kit, connection)
    assert (told["state"], told["listings"]) == ("failed", 4)


async def nothing(session: Session, known: Container[str] = ()) -> AsyncIterator[ChannelListing]:
    """A channel that gives nothing but asks to wait."""
    del session, known
    raise Throttled(30.0)
    yield


async def test_a_channel_that_refuses_ends_it_in_words_and_people_see_how_far_it_came(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await begun(kit, Catalogue(Rejected("the key is not taken")), monkeypatch)
    channels = Channels(kit.intake)
    channels.serve(kit.service)
    application = FastAPI()
    application.include_router(channels.router)
    path = f"/connections/{connection.connection_id}"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://admin") as client:
        assert (await client.post(f"{path}/listings?tenant=loja", json={})).json()["state"] == "running"
        await go_on(kit)
        told = (await client.get(f"{path}/import?tenant=loja")).json()
        assert (told["state"], told["listings"], told["error"]) == ("failed", 2, "the key is not taken")
        assert (await client.get(f"{path}/import?tenant=outra")).status_code == 404
        assert (await client.post(f"{path}/listings?tenant=loja", json={})).json()["state"] == "running"
        await go_on(kit)
        assert (await client.get(f"{path}/import?tenant=loja")).json()["state"] == "done"

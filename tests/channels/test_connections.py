"""The life of a connection, and what its limits make of its calls."""

import asyncio
import json
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from contracts.channels.v1 import ConnectionState
from services.border.vault import SealBroken
from services.channels import ids
from services.channels.admin import Channels
from services.channels.connections import lifecycle
from services.channels.connections.lifecycle import NewConnection, Refused, limits_of
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import Limit
from tests.channels.conftest import Kit, shopify_order

CREDENTIALS = {"access_token": "token", "webhook_secret": "secret"}
MELI = dict.fromkeys(("client_id", "client_secret", "user_id", "refresh_token"), "1")
SKYHUB = {"user_email": "a@example.com", "api_key": "key", "accountmanager_key": "key"}


def new(**changes: Any) -> NewConnection:
    given = {
        "tenant": "loja",
        "connector": "shopify",
        "environment": "sandbox",
        "account": "azul",
        "base_url": "http://127.0.0.1:9",
        "credentials": CREDENTIALS,
        "settings": {},
    }
    return NewConnection(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tenant": "Loja Azul"}, "tenant"),
        ({"connector": "amazon"}, "shopify, skyhub"),
        ({"environment": "staging"}, "environment"),
        ({"account": ""}, "account"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://user@x"}, "base_url"),
        ({"base_url": "http://x", "environment": "test"}, "https"),
        ({"credentials": {"access_token": "token"}}, "webhook_secret"),
        ({"credentials": {**CREDENTIALS, "password": "hidden"}}, "password"),
        ({"settings": {"colour": "red"}}, "colour"),
        ({"settings": {"limit.rest": "fast"}}, "limit.rest"),
        ({"settings": {"limit.rest": "nan/nan"}}, "limit.rest"),
        ({"settings": {"limit.rest": "inf/1"}}, "limit.rest"),
        ({"settings": {"location": "a\0"}}, "location"),
        ({"connector": "skyhub", "credentials": SKYHUB, "settings": {"unpaid_deadline_h": "9" * 50}}, "hours"),
        ({"connector": "skyhub", "credentials": SKYHUB, "settings": {"transit_days": "soon"}}, "transit_days"),
        ({"connector": "mercadolivre", "credentials": MELI, "settings": {"poll_interval_s": "0.5"}}, "from 1 to 3600"),
        (
            {"connector": "mercadolivre", "credentials": MELI, "settings": {"poll_interval_s": "9" * 50}},
            "from 1 to 3600",
        ),
        ({"connector": "mercadolivre", "credentials": MELI, "settings": {"poll_interval_s": "nan"}}, "from 1 to 3600"),
        ({"connector": "skyhub", "credentials": SKYHUB, "settings": {"poll_interval_s": "0"}}, "from 0.05 to 3600"),
        ({"base_url": "http://[::1"}, "base_url"),
        ({"base_url": "http://x:99999"}, "base_url"),
        ({"base_url": "http://x:port"}, "base_url"),
        ({"base_url": "http://x:0"}, "base_url"),
        ({"base_url": "http://x y"}, "base_url"),
        ({"base_url": "http://x/\0"}, "base_url"),
        ({"base_url": "http://" + "x" * 5_000}, "base_url"),
        ({"account": "a\0b"}, "account"),
        ({"account": "\ud800"}, "account"),
        ({"pool": ""}, "pool"),
        ({"category": "a\0b"}, "category"),
        ({"credentials": {**CREDENTIALS, "access_token": "hidden\r\nx-other: 1"}}, "access_token"),
    ],
)
def test_what_cannot_be_a_connection_is_refused_with_the_field(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused, match=named) as refused:
        lifecycle.check_new(new(**changes))
    assert "hidden" not in str(refused.value)


@pytest.mark.rule(24)
def test_ids_are_derived_and_hold_companies_apart() -> None:
    first = ids.connection_id("loja", "shopify", "sandbox", "azul")
    assert first == ids.connection_id("loja", "shopify", "sandbox", "azul")
    others = {
        ids.connection_id("outra", "shopify", "sandbox", "azul"),
        ids.connection_id("loja", "shopify", "test", "azul"),
        ids.connection_id("lojashopify", "", "sandbox", "azul"),
        ids.connection_id("loja", "shopify", "sandbox", 'azul","'),
    }
    assert len(others | {first}) == 5
    assert ids.order_id("loja", first, "1") != ids.order_id("loja", next(iter(others)), "1")


async def add(kit: Kit, **changes: Any) -> Any:
    async with kit.service.transaction() as tx:
        return await lifecycle.add(tx, kit.vault, new(**changes))


async def step(kit: Kit, name: str, connection: Any) -> Any:
    async with kit.service.transaction() as tx:
        if name == "validate":
            return await lifecycle.mark_validated(tx, connection.connection_id, connection.version)
        move = {"enable": lifecycle.enable, "pause": lifecycle.pause}[name]
        return await move(tx, connection.connection_id, connection.tenant)


@pytest.mark.asyncio
async def test_production_cannot_go_live_and_a_draft_neither(kit: Kit) -> None:
    draft = await add(kit)
    with pytest.raises(Refused, match="saldo connection validate"):
        await step(kit, "enable", draft)
    real = await step(kit, "validate", await add(kit, environment="production", base_url="https://azul.example"))
    with pytest.raises(Refused, match="onboarding"):
        await step(kit, "enable", real)
    assert await kit.count("connections", "state = 'live'") == 0


@pytest.mark.asyncio
async def test_two_connections_never_own_one_account(kit: Kit) -> None:
    mine = await step(kit, "enable", await step(kit, "validate", await add(kit)))
    theirs = await step(kit, "validate", await add(kit, tenant="outra"))
    with pytest.raises(Refused, match="owns this account") as refused:
        await step(kit, "enable", theirs)
    assert mine.connection_id not in str(refused.value), "one company is told of another's connection"
    await step(kit, "pause", mine)
    with pytest.raises(Refused, match="owns this account"):
        await step(kit, "enable", theirs)
    with pytest.raises(asyncpg.UniqueViolationError):
        await kit.service.pool.execute("UPDATE connections SET state = 'live'")


@pytest.mark.asyncio
async def test_every_step_is_announced_with_traits_and_without_secrets(kit: Kit) -> None:
    draft = await add(kit)
    live = await step(kit, "enable", await step(kit, "validate", draft))
    await step(kit, "pause", live)
    told = await kit.published("channels.connections.v1")
    assert [(one["version"], one["state"]) for one in told] == [
        (1, "draft"),
        (2, "validated"),
        (3, "live"),
        (4, "paused"),
    ]
    assert (told[0]["quantity_trait"], told[0]["reserves_unpaid"]) == ("absolute", True)
    assert "token" not in json.dumps(told)
    async with kit.service.transaction() as tx:
        assert await lifecycle.announce_connections(tx, None, "", 1) == draft.connection_id
        assert await lifecycle.announce_connections(tx, None, draft.connection_id, 1) is None
    assert len(await kit.published("channels.connections.v1")) == 5


@pytest.mark.asyncio
async def test_orders_come_in_while_their_connection_is_announced(kit: Kit) -> None:
    connection = await kit.connect()
    async with kit.service.transaction() as tx, asyncio.timeout(30):
        assert await lifecycle.announce_connections(tx, None, "", 100) is None
        await kit.deliver(connection, shopify_order())
        await kit.absorb()
    assert await kit.count("intake_orders") == 1


@pytest.mark.asyncio
async def test_a_connection_changed_while_it_was_validated_is_not_validated(kit: Kit) -> None:
    draft = await add(kit)
    await add(kit, credentials={**CREDENTIALS, "access_token": "another"})
    with pytest.raises(Refused, match="validate it again"):
        await step(kit, "validate", draft)


@pytest.mark.asyncio
async def test_a_pause_keeps_the_session_and_other_credentials_do_not(kit: Kit) -> None:
    shop = await kit.connect()
    before = kit.intake.registry.get(shop.connection_id)
    assert before is not None
    await step(kit, "pause", shop)
    await kit.intake.registry.refresh(kit.service.pool)
    paused = kit.intake.registry.get(shop.connection_id)
    assert paused is not None
    assert paused.session is before.session
    assert (paused.connection.state, paused.live) == (ConnectionState.PAUSED, False)
    await kit.connect(credentials={"access_token": "new", "webhook_secret": "new"})
    changed = kit.intake.registry.get(shop.connection_id)
    assert changed is not None
    assert changed.session is not before.session
    assert before.session.http.is_closed


@pytest.mark.asyncio
async def test_connections_stay_open_while_the_table_cannot_be_read(kit: Kit) -> None:
    shop, registry = await kit.connect(), kit.intake.registry
    await kit.service.pool.execute("ALTER TABLE connections RENAME TO away")
    with pytest.raises(asyncpg.UndefinedTableError):
        await registry.run(kit.service)
    entry = registry.get(shop.connection_id)
    assert entry is not None, "whoever comes now is told that there is no such connection"
    assert not entry.session.http.is_closed, "calls under way were cut off"
    await kit.service.pool.execute("ALTER TABLE away RENAME TO connections")
    following = asyncio.create_task(registry.run(kit.service))
    await asyncio.sleep(0)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert registry.get(shop.connection_id) is None
    assert entry.session.http.is_closed


@pytest.mark.asyncio
async def test_admin_shows_no_secret_and_refuses_in_words(kit: Kit) -> None:
    channels = Channels(kit.intake)
    channels.serve(kit.service)
    app = FastAPI()
    app.include_router(channels.router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as client:
        body = {
            "connector": "shopify",
            "account": "azul",
            "base_url": "http://127.0.0.1:9",
            "credentials": {"access_token": "hidden token", "webhook_secret": "hidden secret"},
        }
        added = await client.post("/connections?tenant=loja", json=body)
        connection_id = added.json()["connection_id"]
        told = added.text + (await client.get(f"/connections/{connection_id}?tenant=loja")).text
        told += (await client.get("/connections?tenant=loja")).text
        assert "hidden" not in told
        refused = await client.post(f"/connections/{connection_id}/enable?tenant=loja")
        assert (refused.status_code, "validate" in refused.json()["detail"]) == (409, True)
        unreachable = await client.post(f"/connections/{connection_id}/validate?tenant=loja")
        assert "cannot be reached" in unreachable.json()["problems"][0]
        for path in ("", "/listings"):
            assert (await client.get(f"/connections/{connection_id}{path}?tenant=outra")).status_code == 404
        assert (await client.get("/connections?tenant=outra")).json() == {"connections": []}
        bad = await client.post("/connections?tenant=loja", json={**body, "settings": {"limit.rest": "fast"}})
        assert (bad.status_code, "limit.rest" in bad.json()["detail"]) == (409, True)

        row: dict[str, Any] = {"listing": "a", "item": "i", "location": "l"}
        wrong = [{**row, "listing": "a\0"}, {**row, "title": "\ud800"}, {**row, "item": "x" * 5_000}]
        wrong += [{**row, "sku": "S", "pack": 10**9}, row]
        for rows in ([each, row] for each in wrong):
            listings = json.dumps({"rows": rows})
            given = await client.post(f"/connections/{connection_id}/listings?tenant=loja", content=listings)
            assert given.status_code == 422, given.text
        assert await kit.count("listings") == 0
        assert (await client.get(f"/intake/{10**22}/body?tenant=loja")).status_code == 422

        shop = await kit.connect(account="verde")
        await kit.deliver(shop, b"{")
        await kit.deliver(shop, shopify_order())
        await kit.absorb()
        poisoned = (await client.get("/intake?tenant=loja&state=poisoned")).json()["intake"]
        assert len(poisoned) == 1
        replayed = await client.post(f"/intake/{poisoned[0]['intake_id']}/replay?tenant=loja")
        assert replayed.status_code == 200
        await kit.absorb()
        assert await kit.count("intake", "state = 'poisoned'") == 1
        assert await kit.count("dead_letters", "state = 'open'") == 1
        order_id = (await kit.published())[0]["order_id"]
        found = (await client.get(f"/intake?tenant=loja&order_id={order_id}")).json()["intake"]
        shown = await client.get(f"/intake/{found[0]['intake_id']}/body?tenant=loja")
        assert json.loads(shown.json()["body"])["id"] == 1
        assert (await client.get(f"/intake/{found[0]['intake_id']}/body?tenant=outra")).status_code == 404
        erased = await client.post("/intake/erase?tenant=loja", json={"order_id": order_id})
        assert erased.json() == {"order_id": order_id, "bodies": 1, "buyers": 1}


def test_limits_are_settings_with_the_documented_ones_as_defaults() -> None:
    traits = CONNECTORS["shopify"].traits
    assert limits_of(traits, {}) == traits.limits
    assert limits_of(traits, {"limit.rest": "4/80"})["rest"] == Limit(4.0, 80.0)
    for wrong in ("fast", "1", "0/1", "1/-1", "1/2/3"):
        with pytest.raises(Refused, match=r"limit\.rest"):
            limits_of(traits, {"limit.rest": wrong})


@pytest.mark.asyncio
async def test_a_row_copied_to_another_connection_does_not_decrypt(kit: Kit) -> None:
    mine = await kit.connect(tenant="loja", base_url="http://127.0.0.1:9")
    theirs = await kit.connect(tenant="outra", base_url="http://127.0.0.2:9", live=False)
    await kit.service.pool.execute(
        """
        UPDATE credentials SET sealed = mine.sealed FROM credentials mine
        WHERE credentials.connection_id = $2 AND mine.connection_id = $1 AND mine.field = credentials.field
        """,
        mine.connection_id,
        theirs.connection_id,
    )
    rows = await kit.service.pool.fetch(
        "SELECT field, sealed FROM credentials WHERE connection_id = $1", theirs.connection_id
    )
    with pytest.raises(SealBroken):
        lifecycle.open_credentials(kit.vault, theirs, {row["field"]: row["sealed"] for row in rows})

"""What the webhook door refuses leaves nothing behind; what it takes and cannot be read is found among the dead."""

import asyncio
import json

import httpx
import pytest

from tests.flow.company import Opener, plan, until

SECRET_WORD = "Rua-dos-Segredos-123"


@pytest.mark.asyncio
async def test_what_the_door_refuses_is_not_stored(open_company: Opener) -> None:
    company = await open_company(plan(CUP=10), {"azul": "shopify", "norte": "skyhub"})
    azul, norte = company.shops
    body = json.dumps({"id": 1, "note": SECRET_WORD}).encode()
    deep = b'{"a":' + b"[" * 64 + b"]" * 64 + b"}"
    large = b'{"a":"' + b"x" * 2_000_000 + b'"}'
    door = company.system.endpoints.webhooks

    async def refused(url: str, body: bytes, **headers: str) -> int:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            given = {"content-type": "application/json", "x-shopify-hmac-sha256": azul.sign(body)}
            given |= {name.replace("_", "-"): value for name, value in headers.items()}
            return (await client.post(f"{door}{url}", content=body, headers=given)).status_code

    at_azul = f"/hooks/{azul.connection_id}"
    assert await refused(at_azul, body, x_shopify_hmac_sha256=azul.sign(body + b" ")) == 401
    assert await refused(at_azul, body, x_shopify_hmac_sha256="") == 401
    assert await refused(at_azul, body, x_shopify_hmac_sha256=body.hex()) == 401
    assert await refused("/hooks/7d3f1c5e-52a7-5f0b-9a53-3c8c5c0f7d21", body) == 404
    assert await refused(f"/hooks/{norte.connection_id}", body) == 404, "SkyHub pushes nothing: it has no door"
    assert await refused(at_azul, large) == 413
    assert await refused(at_azul, deep) == 400
    assert await refused(at_azul, body, content_type="text/plain") == 415
    # One that is taken is stored after everything before it, so it proves that the others are not on their way.
    assert (await company.deliver(azul, b'{"a":' + b"[" * 63 + b"]" * 63 + b"}", "orders/create")).status_code == 200
    rows = await until(company.intake, bool, "the delivery that is not too deep")
    assert len(rows) == 1
    logs = "".join(path.read_text() for path in (company.system.folder / "log").glob("channels*"))
    assert SECRET_WORD not in logs
    assert azul.told["credentials"]["webhook_secret"] not in logs
    assert azul.sign(body) not in logs


@pytest.mark.asyncio
async def test_signed_but_malformed_json_is_kept_and_dead_lettered(open_company: Opener) -> None:
    company = await open_company(plan(CUP=10), {"azul": "shopify", "norte": "skyhub"})
    azul, _ = company.shops
    bodies = [b"{", b"\xff\xfe", b"[1, 2]", b'{"id": 17}', b""]
    for body in bodies:
        assert (await company.deliver(azul, body, "orders/create")).status_code == 200
    rows = await until(
        company.intake,
        lambda rows: [row["state"] for row in rows] == ["poisoned"] * len(bodies),
        "every body set aside",
    )
    assert all(row["error"] for row in rows), "a body was set aside without cause"
    letters = json.loads(await asyncio.to_thread(company.saldo, "deadletters", "list", "--json"))
    assert [letter["stream"] for letter in letters] == ["channels.intake"] * len(bodies)
    # A sale meanwhile passes by what cannot be read.
    external_id = await azul.buy({"CUP": 1})
    await company.until_order(azul, external_id, state="confirmed")
    await company.until_shown({"CUP": 9})

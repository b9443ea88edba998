"""The gateway's Pix side as its client meets it; where the central bank's description is at hand, every request that
is meant to be right and every answer is held against it."""

import asyncio
import itertools
import json
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml
from aiohttp import web
from jsonschema import Draft4Validator

from services.sandbox.certificates import Certificates, make
from services.sandbox.client import SandboxError
from services.sandbox.gateway_client import GatewayClient
from services.sandbox.gateway_pix import copy_and_paste
from tests.sandbox.running import ROOT, TOKEN, Sandbox, running

DESCRIPTION = Path(os.environ.get("SALDO_SPECS_DIR") or ROOT.parent / "shared" / "specs") / "pix" / "openapi.yaml"
needs_description = pytest.mark.skipif(
    not DESCRIPTION.is_file(), reason="Bacen's description of the Pix API is not here: set SALDO_SPECS_DIR"
)
PROBLEM = "application/problem+json"
_numbers = itertools.count(1)


class Description:
    """Bacen's OpenAPI document; finds what is wrong with an answer or a request body."""

    def __init__(self, path: Path) -> None:
        self._document = yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            found: Any = self._document
            for step in node["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            node = found
        return node

    def _problems(self, schema: dict[str, Any], body: Any) -> list[str]:
        whole = {"allOf": [schema], "components": self._document["components"]}
        # OpenAPI 3.0 schemas are draft 4 with additions that this description does not lean on.
        return [f"{error.json_path}: {error.message}" for error in Draft4Validator(whole).iter_errors(body)]

    def answer(self, method: str, template: str, status: int, kind: str, raw: bytes) -> list[str]:
        """What is wrong with an answer."""
        if status in (401, 500, 504):
            # No path names these; the introduction says that every error is a problem of RFC 7807.
            content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problema"}}}
        else:
            responses = self._document["paths"][template][method.lower()]["responses"]
            if str(status) not in responses:
                return [f"{method} {template} never answers {status}"]
            content = self._resolved(responses[str(status)]).get("content", {})
        if not content:
            return ["a body where none belongs"] if raw else []
        if kind not in content:
            return [f"{kind} is not one of {sorted(content)}"]
        return self._problems(content[kind]["schema"], json.loads(raw))

    def request(self, method: str, template: str, body: Any) -> list[str]:
        """What is wrong with a request."""
        wanted = self._document["paths"][template][method.lower()].get("requestBody")
        if wanted is None:
            return [] if body is None else ["a body where none belongs"]
        return self._problems(self._resolved(wanted)["content"]["application/json"]["schema"], body)

    def notice(self, body: Any) -> list[str]:
        """What is wrong with the body of a call of the webhook."""
        schema = self._document["components"]["requestBodies"]["WebhookPixBody"]["content"]["application/json"][
            "schema"
        ]
        return self._problems(schema, body)


@pytest.fixture(scope="module")
def description() -> Description | None:
    return Description(DESCRIPTION) if DESCRIPTION.is_file() else None


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("gateway", tmp_path_factory)


@dataclass
class Merchant:
    """A fresh account with a session that shows the merchant's certificate."""

    name: str
    told: dict[str, Any]
    control: GatewayClient
    http: aiohttp.ClientSession
    description: Description | None
    token: str = ""

    @property
    def certificates(self) -> Certificates:
        return Certificates(Path(self.told["certificates"]))

    async def ask(
        self, method: str, template: str, body: Any = None, *, wrong: bool = False, timeout_s: float = 30, **path: str
    ) -> tuple[int, Any]:
        if self.description is not None and not wrong:
            assert self.description.request(method, template, body) == []
        headers = {"Authorization": f"Bearer {self.token}"}
        timeout = aiohttp.ClientTimeout(timeout_s)
        url = self.told["pix_base_url"] + template.format(**path)
        async with self.http.request(method, url, json=body, headers=headers, timeout=timeout) as answer:
            raw = await answer.read()
        if self.description is not None:
            assert self.description.answer(method, template, answer.status, answer.content_type, raw) == []
        return answer.status, json.loads(raw) if raw else None

    async def sign_in(self) -> None:
        credentials = self.told["credentials"]
        basic = aiohttp.encode_basic_auth(credentials["client_id"], credentials["client_secret"])
        url, form = f"{self.told['pix_base_url']}/oauth/token", {"grant_type": "client_credentials"}
        async with self.http.post(url, data=form, headers={"Authorization": basic}) as answer:
            assert answer.status == 200
            told = await answer.json()
        assert (told["token_type"], told["expires_in"]) == ("Bearer", 3600)
        self.token = told["access_token"]

    def wanted(self, value: str = "37.00", life_s: int = 3600) -> dict[str, Any]:
        return {"calendario": {"expiracao": life_s}, "valor": {"original": value}, "chave": self.told["pix_key"]}

    async def opened(self, value: str = "37.00", life_s: int = 3600) -> str:
        txid = f"saldo{next(_numbers):025d}"
        status, body = await self.ask("PUT", "/cob/{txid}", self.wanted(value, life_s), txid=txid)
        assert (status, body["status"], body["valor"], body["revisao"]) == (201, "ATIVA", {"original": value}, 0)
        return txid

    async def paid(self, value: str = "37.00") -> tuple[str, str]:
        txid = await self.opened(value)
        told = await self.control.pay(self.name, txid)
        return txid, str(told["end_to_end_id"])

    async def rows(self, *kinds: str) -> list[dict[str, Any]]:
        found = [row async for row in self.control.books() if row["shop"] == self.name]
        return [row for row in found if not kinds or row["kind"] in kinds]

    async def wait_for_rows(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        for _ in range(1000):
            if len(rows := await self.rows(kind)) >= count:
                return rows
            await asyncio.sleep(0.02)
        raise AssertionError(f"there are only {len(rows)} rows of kind {kind}, not {count}")


@pytest_asyncio.fixture
async def merchant(process: Sandbox, description: Description | None) -> AsyncIterator[Merchant]:
    name = f"loja-{next(_numbers)}"
    async with GatewayClient(process.base_url, TOKEN) as control:
        told = await control.put_account(name, webhook_retry_s=[0.05] * 8, requests_per_s=1000)
        context = Certificates(Path(told["certificates"])).client_context("client")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
            made = Merchant(name, told, control, http, description)
            await made.sign_in()
            yield made


@dataclass
class Door:
    """Our own webhook listener: TLS, and a client certificate of the authority is required."""

    url: str
    got: "asyncio.Queue[tuple[str, dict[str, Any]]]" = field(default_factory=asyncio.Queue)
    answers: list[int] = field(default_factory=list)

    async def next(self) -> tuple[str, dict[str, Any]]:
        return await asyncio.wait_for(self.got.get(), 20)


@pytest_asyncio.fixture
async def door(merchant: Merchant) -> AsyncIterator[Door]:
    made = Door("")

    async def receive(request: web.Request) -> web.Response:
        made.got.put_nowait((request.path, await request.json()))
        return web.Response(status=made.answers.pop(0) if made.answers else 200)

    application = web.Application()
    application.router.add_post("/{path:.*}", receive)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=merchant.certificates.server_context("door"))
    await site.start()
    made.url = f"https://127.0.0.1:{runner.addresses[0][1]}/hooks/a/secret"
    chave = merchant.told["pix_key"]
    assert await merchant.ask("PUT", "/webhook/{chave}", {"webhookUrl": made.url}, chave=chave) == (200, None)
    yield made
    await runner.cleanup()


@pytest.mark.asyncio
@pytest.mark.parametrize("shown", ["nothing", "stranger", "server"])
async def test_without_a_client_certificate_of_the_authority_nobody_gets_in(merchant: Merchant, shown: str) -> None:
    kept = merchant.certificates
    context = ssl.create_default_context(cafile=kept.certificate("ca"))
    if shown != "nothing":
        context.load_cert_chain(kept.certificate(shown), kept.key(shown))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        with pytest.raises((aiohttp.ClientError, OSError)):
            await http.get(f"{merchant.told['pix_base_url']}/cob/any")


@pytest.mark.asyncio
async def test_a_token_is_given_for_the_right_secret_and_ends(merchant: Merchant) -> None:
    url = f"{merchant.told['pix_base_url']}/oauth/token"
    basic = aiohttp.encode_basic_auth(merchant.told["credentials"]["client_id"], "guessed")
    form = {"grant_type": "client_credentials"}
    async with merchant.http.post(url, data=form, headers={"Authorization": basic}) as answer:
        assert (answer.status, await answer.json()) == (401, {"error": "invalid_client"})
    txid = await merchant.opened()
    good, merchant.token = merchant.token, "guessed"
    assert (await merchant.ask("GET", "/cob/{txid}", txid=txid))[0] == 401
    merchant.token = good
    assert (await merchant.ask("GET", "/cob/{txid}", txid=txid))[0] == 200


@pytest.mark.asyncio
async def test_a_charge_is_opened_paid_announced_and_given_back(merchant: Merchant, door: Door) -> None:
    txid, e2eid = await merchant.paid("37.00")
    path, notice = await door.next()
    assert path == "/hooks/a/secret/pix"
    assert [(one["txid"], one["endToEndId"], one["valor"]) for one in notice["pix"]] == [(txid, e2eid, "37.00")]
    _, charge = await merchant.ask("GET", "/cob/{txid}", txid=txid)
    assert (charge["status"], charge["pix"]) == ("CONCLUIDA", notice["pix"])
    refund = {"valor": "7.00"}
    done = [await merchant.ask("PUT", "/pix/{e2eid}/devolucao/{id}", refund, e2eid=e2eid, id="r1") for _ in range(2)]
    assert done[0] == done[1]
    assert (done[0][0], done[0][1]["status"]) == (201, "DEVOLVIDO")
    assert (await merchant.ask("GET", "/pix/{e2eid}/devolucao/{id}", e2eid=e2eid, id="r1"))[1] == done[0][1]
    _, second = await door.next()
    assert second["pix"][0]["devolucoes"] == [done[0][1]]
    assert (await merchant.ask("GET", "/pix/{e2eid}", e2eid=e2eid))[1] == second["pix"][0]
    if merchant.description is not None:
        assert merchant.description.notice(notice) + merchant.description.notice(second) == []
    rows = await merchant.rows("intent", "charge", "refund")
    assert [(row["kind"], row["amount_minor"], row["reference"], row["key"]) for row in rows] == [
        ("intent", 3700, txid, None), ("charge", 3700, txid, None), ("refund", 700, txid, "r1"),
    ]  # fmt: skip


@pytest.mark.asyncio
async def test_refunds_never_exceed_what_was_paid_and_an_id_is_used_once(merchant: Merchant) -> None:
    _, e2eid = await merchant.paid("10.00")
    path = "/pix/{e2eid}/devolucao/{id}"
    assert (await merchant.ask("PUT", path, {"valor": "6.00"}, e2eid=e2eid, id="a"))[0] == 201
    for body, refund_id, place in [
        ({"valor": "4.01"}, "b", "devolucao.valor"), ({"valor": "5.00"}, "a", "devolucao.id"),
        ({"valor": "0.00"}, "c", "devolucao.valor"), ({"valor": "4"}, "c", "devolucao.valor"),
    ]:  # fmt: skip
        status, problem = await merchant.ask("PUT", path, body, wrong=True, e2eid=e2eid, id=refund_id)
        assert (status, problem["violacoes"][0]["propriedade"]) == (400, place)
        assert problem["type"] == "https://pix.bcb.gov.br/api/v2/error/PixDevolucaoInvalida"
    assert (await merchant.ask("PUT", path, {"valor": "4.00"}, e2eid=e2eid, id="b"))[0] == 201
    assert (await merchant.ask("GET", path, e2eid=e2eid, id="none"))[0] == 404
    assert sum(row["amount_minor"] for row in await merchant.rows("refund")) == 1000


@pytest.mark.asyncio
async def test_a_charge_whose_time_is_over_refuses_the_payer(merchant: Merchant) -> None:
    txid = await merchant.opened(life_s=1)
    await asyncio.sleep(1.1)
    with pytest.raises(SandboxError, match="expired"):
        await merchant.control.pay(merchant.name, txid)
    assert (await merchant.ask("GET", "/cob/{txid}", txid=txid))[1]["status"] == "ATIVA"
    assert [row["reason"] for row in await merchant.rows("charge_refused", "charge")] == ["expired"]


@pytest.mark.asyncio
async def test_a_charge_is_revised_until_it_is_removed_and_paid_only_once(merchant: Merchant) -> None:
    txid = await merchant.opened()
    path = "/cob/{txid}"
    assert (await merchant.ask("PUT", path, merchant.wanted(), txid=txid))[1]["revisao"] == 0
    assert (await merchant.ask("PUT", path, merchant.wanted("38.00"), txid=txid))[1]["revisao"] == 1
    status, body = await merchant.ask("PATCH", path, {"valor": {"original": "39.00"}}, txid=txid)
    assert (status, body["revisao"], body["valor"]["original"]) == (200, 2, "39.00")
    removal = {"status": "REMOVIDA_PELO_USUARIO_RECEBEDOR"}
    assert (await merchant.ask("PATCH", path, removal, txid=txid))[1]["status"] == removal["status"]
    assert (await merchant.ask("PATCH", path, removal, txid=txid))[0] == 400
    assert (await merchant.ask("PUT", path, merchant.wanted("40.00"), txid=txid))[0] == 400
    with pytest.raises(SandboxError, match="removed"):
        await merchant.control.pay(merchant.name, txid)
    paid, _ = await merchant.paid()
    with pytest.raises(SandboxError, match="paid"):
        await merchant.control.pay(merchant.name, paid)
    assert (await merchant.ask("PATCH", path, removal, txid=paid))[0] == 400
    assert [row["by"] for row in await merchant.rows("intent_removed")] == ["client"]


@pytest.mark.asyncio
async def test_what_is_wrong_is_named_as_the_description_names_it(merchant: Merchant) -> None:
    good = merchant.wanted()
    for body, place in [
        ({**good, "valor": {"original": "0.00"}}, "cob.valor.original"),
        ({**good, "valor": {"original": "1,00"}}, "cob.valor.original"),
        ({**good, "chave": "another"}, "cob.chave"),
        ({**good, "calendario": {"expiracao": 0}}, "cob.calendario.expiracao"),
        ({"chave": good["chave"]}, "cob.valor"),
    ]:
        status, problem = await merchant.ask("PUT", "/cob/{txid}", body, wrong=True, txid="a" * 26)
        assert (status, problem["violacoes"][0]["propriedade"]) == (400, place)
    assert (await merchant.ask("PUT", "/cob/{txid}", good, txid="short"))[0] == 400
    assert (await merchant.ask("PUT", "/cob/{txid}", [], wrong=True, txid="a" * 26))[0] == 400
    for template, path in [("/cob/{txid}", {"txid": "b" * 26}), ("/pix/{e2eid}", {"e2eid": "E" * 32})]:
        assert (await merchant.ask("GET", template, **path))[0] == 404
    assert await merchant.rows() == []


@pytest.mark.asyncio
async def test_the_buyer_may_pay_another_amount(merchant: Merchant) -> None:
    txid = await merchant.opened("10.00")
    await merchant.control.pay(merchant.name, txid, amount_minor=1250)
    _, charge = await merchant.ask("GET", "/cob/{txid}", txid=txid)
    assert (charge["valor"]["original"], charge["pix"][0]["valor"]) == ("10.00", "12.50")
    assert (await merchant.control.payments(merchant.name))[txid]["captured_minor"] == 1250


@pytest.mark.asyncio
async def test_vices_of_the_bank(merchant: Merchant) -> None:
    _, e2eid = await merchant.paid("10.00")
    refund = {"e2eid": e2eid, "id": "r1"}
    path = "/pix/{e2eid}/devolucao/{id}"
    await merchant.control.put_vices(merchant.name, charge_timeout={}, operations=["refund"])
    with pytest.raises(TimeoutError):
        await merchant.ask("PUT", path, {"valor": "1.00"}, timeout_s=0.5, **refund)
    assert (await merchant.ask("GET", path, **refund))[1]["status"] == "DEVOLVIDO"
    await merchant.control.put_vices(merchant.name, charge_error={}, operations=["open", "void"])
    txid = "c" * 26
    assert (await merchant.ask("PUT", "/cob/{txid}", merchant.wanted(), txid=txid))[0] == 500
    assert (await merchant.ask("GET", "/cob/{txid}", txid=txid))[1]["status"] == "ATIVA"
    await merchant.control.put_vices(merchant.name, charge_late={"min_ms": 700, "max_ms": 700}, operations=["open"])
    with pytest.raises(TimeoutError):
        await merchant.ask("PUT", "/cob/{txid}", merchant.wanted(), timeout_s=0.3, txid="d" * 26)
    assert (await merchant.ask("GET", "/cob/{txid}", txid="d" * 26))[0] == 404
    assert [row["reference"][0] for row in await merchant.wait_for_rows("intent", 3)] == ["s", "c", "d"]
    await merchant.control.put_vices(merchant.name, throttled={})
    assert (await merchant.ask("GET", "/cob/{txid}", txid=txid))[0] == 503
    await merchant.control.put_vices(merchant.name, expires_early={"min_ms": 10, "max_ms": 10})
    gone = await merchant.opened()
    assert [row["by"] for row in await merchant.wait_for_rows("intent_removed")] == ["gateway"]
    assert (await merchant.ask("GET", "/cob/{txid}", txid=gone))[1]["status"] == "REMOVIDA_PELO_PSP"


@pytest.mark.asyncio
@pytest.mark.parametrize(("failing", "ended"), [({}, "DEVOLVIDO"), ({"refund_failed": {}}, "NAO_REALIZADO")])
async def test_a_refund_under_way_is_announced_when_it_ends(
    merchant: Merchant, door: Door, failing: dict[str, Any], ended: str
) -> None:
    _, e2eid = await merchant.paid()
    await door.next()
    await merchant.control.put_vices(merchant.name, refund_pending={"min_ms": 50, "max_ms": 50}, **failing)
    _, refund = await merchant.ask("PUT", "/pix/{e2eid}/devolucao/{id}", {"valor": "1.00"}, e2eid=e2eid, id="r")
    assert (refund["status"], "liquidacao" in refund["horario"]) == ("EM_PROCESSAMENTO", False)
    _, notice = await door.next()
    assert [one["status"] for one in notice["pix"][0]["devolucoes"]] == [ended]


@pytest.mark.asyncio
async def test_a_stranger_is_not_heard_and_an_unheard_webhook_comes_again(merchant: Merchant, door: Door) -> None:
    await merchant.control.put_vices(merchant.name, webhook_foreign_signature={})
    txid, _ = await merchant.paid()
    rows = await merchant.wait_for_rows("webhook", 2)
    assert {row["status"] for row in rows} == {"error"}
    assert door.got.empty()
    door.answers.append(503)
    await merchant.control.put_vices(merchant.name)
    heard = [(await door.next())[1]["pix"][0]["txid"] for _ in range(2)]
    assert heard == [txid, txid]


@pytest.mark.asyncio
async def test_the_webhook_is_registered_shown_and_taken_away(merchant: Merchant) -> None:
    chave = merchant.told["pix_key"]
    path = "/webhook/{chave}"
    assert (await merchant.ask("GET", path, chave=chave))[0] == 404
    assert (await merchant.ask("PUT", path, {"webhookUrl": "http://shop.example/"}, chave=chave))[0] == 400
    assert (await merchant.ask("PUT", path, {"webhookUrl": "https://shop.example/x/"}, chave="other"))[0] == 400
    assert (await merchant.ask("PUT", path, {"webhookUrl": "https://shop.example/x/"}, chave=chave))[0] == 200
    assert (await merchant.ask("GET", path, chave=chave))[1]["webhookUrl"] == "https://shop.example/x"
    assert await merchant.ask("DELETE", path, chave=chave) == (204, None)
    assert (await merchant.ask("DELETE", path, chave=chave))[0] == 404


@pytest.mark.asyncio
async def test_after_a_kill_a_refund_under_way_ends_and_a_new_token_is_needed(
    books_path: Path, description: Description | None
) -> None:
    sandbox = Sandbox("gateway", books_path)
    sandbox.start()
    try:
        async with GatewayClient(sandbox.base_url, TOKEN) as control:
            told = await control.put_account("loja")
            await control.put_vices("loja", refund_pending={"min_ms": 1000, "max_ms": 1000})
        context = Certificates(Path(told["certificates"])).client_context("client")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
            async with GatewayClient(sandbox.base_url, TOKEN) as control:
                merchant = Merchant("loja", told, control, http, description)
                await merchant.sign_in()
                txid, e2eid = await merchant.paid()
                refund = {"e2eid": e2eid, "id": "r"}
                await merchant.ask("PUT", "/pix/{e2eid}/devolucao/{id}", {"valor": "1.00"}, **refund)
            sandbox.kill()
            sandbox.start()
            async with GatewayClient(sandbox.base_url, TOKEN) as control:
                merchant.control, merchant.told = control, await control.account("loja")
                assert (await merchant.ask("GET", "/cob/{txid}", txid=txid))[0] == 401
                await merchant.sign_in()
                assert [row["status"] for row in await merchant.wait_for_rows("refund", 2)] == ["pending", "succeeded"]
                _, done = await merchant.ask("GET", "/pix/{e2eid}/devolucao/{id}", **refund)
                assert done["status"] == "DEVOLVIDO"
    finally:
        if sandbox.running:
            assert sandbox.stop() == 0


@needs_description
def test_the_description_finds_what_is_wrong(description: Description) -> None:
    charge = {"calendario": {"expiracao": 60}, "valor": {"original": "37.0"}, "chave": "k"}
    assert len(description.request("PUT", "/cob/{txid}", charge)) == 1
    assert description.answer("GET", "/cob/{txid}", 418, "application/json", b"{}") != []
    assert description.answer("GET", "/cob/{txid}", 200, "application/json", b"{}") != []
    assert description.answer("GET", "/cob/{txid}", 404, "application/json", b"{}") != []
    assert description.notice({"pix": [{"txid": "x"}]}) != []


def test_the_text_behind_the_code_ends_with_its_checksum() -> None:
    # CRC-16/CCITT-FALSE of "123456789" is 0x29B1: the polynomial and start value that EMV asks for.
    text = copy_and_paste("pix.example.com/qr/v2/abc", 3700)
    crc = 0xFFFF
    for byte in text[:-4].encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021) & 0xFFFF if crc & 0x8000 else crc << 1 & 0xFFFF
    assert text.endswith(f"6304{crc:04X}")
    assert "540537.00" in text


def test_certificates_are_made_once_and_their_keys_are_the_owners(tmp_path: Path) -> None:
    first = make(tmp_path / "certificates")
    before = first.certificate("client").read_bytes()
    assert make(tmp_path / "certificates").certificate("client").read_bytes() == before
    keys = sorted(path.name for path in first.folder.glob("*.key"))
    assert keys == ["bank.key", "client.key", "door.key", "server.key", "stranger.key"]
    assert {path.stat().st_mode & 0o077 for path in first.folder.glob("*.key")} == {0}
    assert [path.name for path in tmp_path.iterdir()] == ["certificates"]

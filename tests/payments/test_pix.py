"""What is sent by Pix and how its objects read, held against the central bank's description where that is at hand."""

import json
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft4Validator

from services.border.errors import OutcomeUnknown, Rejected, Throttled, Unreachable
from services.payments.domain import Part, Portion, Status, refund_id
from services.payments.gateways.gateway import Refund, Session, Wanted
from services.payments.gateways.pix import Pix, charge, short_id
from tests.payments.given import AMOUNT, NOW, PAYMENT
from tests.payments.server import Answer, Server, away, broken

DESCRIPTION = Path(os.environ.get("SALDO_SPECS_DIR") or Path(__file__).parents[3] / "shared/specs") / "pix/openapi.yaml"
TXID = short_id(PAYMENT)
END_TO_END = "E12345678202603011200a1b2c3d4e5f"
TOKEN = (200, {"access_token": "token-1", "token_type": "Bearer", "expires_in": 3600})
CHARGE: dict[str, Any] = {
    "calendario": {"criacao": "2026-03-01T12:00:00Z", "expiracao": 900}, "txid": TXID, "revisao": 0,
    "loc": {
        "id": 789, "location": "pix.example.com/qr/v2/abc", "tipoCob": "cob", "txid": TXID,
        "criacao": "2026-03-01T12:00:00Z",
    },
    "location": "pix.example.com/qr/v2/abc", "status": "ATIVA", "valor": {"original": "100.00"},
    "chave": "7d9f0335-8dcc-4054-9bf9-0dbd61d36906", "pixCopiaECola": "00020101021226830014BR.GOV.BCB.PIX",
}  # fmt: skip
BACK = {
    "id": short_id(refund_id(PAYMENT, 1)), "rtrId": "D12345678202603011210a1b2c3d4e5f", "valor": "25.50",
    "horario": {"solicitacao": "2026-03-01T12:10:00Z"}, "status": "EM_PROCESSAMENTO",
}  # fmt: skip
PAID = CHARGE | {
    "status": "CONCLUIDA",
    "pix": [{
        "endToEndId": END_TO_END, "txid": TXID, "valor": "100.00", "horario": "2026-03-01T12:05:00Z",
        "componentesValor": {"original": {"valor": "100.00"}},
    }],
}  # fmt: skip
WANTED = Wanted(PAYMENT, AMOUNT, "BRL", NOW + timedelta(minutes=15))


class Bank(Server):
    """A bank that gives a token first, and the account at it."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__(TOKEN, *answers)
        self.pix = Pix(lambda: NOW, lambda: 0.0)

    @property
    def account(self) -> Session:
        credentials = {"client_id": "us", "client_secret": "secret"}
        return self.session("https://pix.example.com/api", credentials, {"pix_key": CHARGE["chave"]})

    def body(self, place: int = -1) -> Any:
        return json.loads(self.requests[place].content)


def problems(template: str, method: str, body: Any, status: int | None = None) -> list[str]:
    """What the description finds wrong with a request, or with the answer of a status."""
    if not DESCRIPTION.is_file():
        pytest.skip("the central bank's description of Pix is not here: set SALDO_SPECS_DIR")
    document = yaml.load(DESCRIPTION.read_text("utf-8"), yaml.CSafeLoader)
    operation = document["paths"][template][method]
    node = operation["requestBody"] if status is None else operation["responses"][str(status)]
    while "$ref" in node:
        node = _found(document, node["$ref"])
    whole = {"allOf": [node["content"]["application/json"]["schema"]], "components": document["components"]}
    return [f"{error.json_path}: {error.message}" for error in Draft4Validator(whole).iter_errors(body)]


def _found(document: Any, reference: str) -> Any:
    for step in reference.removeprefix("#/").split("/"):
        document = document[step]
    return document


@pytest.mark.asyncio
async def test_opening_puts_the_charge_under_its_own_id() -> None:
    bank = Bank((201, CHARGE))
    seen = await bank.pix.open(bank.account, WANTED, "key")
    assert (seen.reference, seen.status, seen.captured_minor) == (TXID, Status.PENDING, 0)
    assert seen.pix_text == CHARGE["pixCopiaECola"]
    assert [(request.method, request.url.path) for request in bank.requests] == [
        ("POST", "/api/oauth/token"), ("PUT", f"/api/cob/{TXID}"),
    ]  # fmt: skip
    assert bank.requests[0].headers["authorization"].startswith("Basic ")
    assert bank.requests[1].headers["authorization"] == "Bearer token-1"
    assert bank.body() == {
        "calendario": {"expiracao": 900}, "valor": {"original": "100.00"}, "chave": CHARGE["chave"],
    }  # fmt: skip
    assert re.fullmatch(r"[a-zA-Z0-9]{26,35}", TXID)


@pytest.mark.asyncio
async def test_what_is_sent_is_what_the_central_bank_describes() -> None:
    bank = Bank((201, CHARGE), (200, CHARGE | {"status": "REMOVIDA_PELO_USUARIO_RECEBEDOR"}), (200, PAID), (201, BACK))
    await bank.pix.open(bank.account, WANTED, "key")
    assert problems("/cob/{txid}", "put", bank.body()) == []
    await bank.pix.void(bank.account, TXID, "key")
    assert problems("/cob/{txid}", "patch", bank.body()) == []
    await bank.pix.refund(bank.account, TXID, Refund(refund_id(PAYMENT, 1), 2_550, "BRL"), "key")
    assert problems("/pix/{e2eid}/devolucao/{id}", "put", bank.body()) == []


@pytest.mark.parametrize(
    ("template", "method", "status", "body"),
    [
        ("/cob/{txid}", "put", 201, CHARGE), ("/cob/{txid}", "get", 200, PAID),
        ("/pix/{e2eid}/devolucao/{id}", "put", 201, BACK),
    ],
)  # fmt: skip
def test_what_these_tests_answer_is_what_the_central_bank_describes(
    template: str, method: str, status: int, body: Any
) -> None:
    assert problems(template, method, body, status) == []


@pytest.mark.asyncio
async def test_a_paid_charge_is_captured_and_its_refunds_have_our_ids() -> None:
    paid = {**PAID, "pix": [PAID["pix"][0] | {"devolucoes": [BACK | {"status": "DEVOLVIDO"}]}]}
    bank = Bank((200, paid))
    seen = await bank.pix.look(bank.account, "", PAYMENT)
    assert seen
    assert (seen.status, seen.captured_minor) == (Status.CAPTURED, AMOUNT)
    assert seen.refunds == {refund_id(PAYMENT, 1): Portion(2_550, Part.DONE)}
    assert bank.requests[1].url.path == f"/api/cob/{TXID}"


@pytest.mark.asyncio
async def test_a_refund_is_put_at_the_pix_that_paid() -> None:
    bank = Bank((200, PAID), (201, BACK))
    name = refund_id(PAYMENT, 1)
    seen = await bank.pix.refund(bank.account, TXID, Refund(name, 2_550, "BRL"), "key")
    assert seen.refunds == {name: Portion(2_550, Part.OPEN)}
    assert bank.requests[-1].url.path == f"/api/pix/{END_TO_END}/devolucao/{short_id(name)}"
    assert bank.body() == {"valor": "25.50"}
    assert re.fullmatch(r"[a-zA-Z0-9]{1,35}", short_id(name))


@pytest.mark.asyncio
async def test_an_unknown_charge_is_none_and_an_unpaid_one_gives_nothing_back() -> None:
    bank = Bank((404, {}), (200, CHARGE))
    assert await bank.pix.look(bank.account, "", PAYMENT) is None
    with pytest.raises(Rejected):
        await bank.pix.refund(bank.account, TXID, Refund(refund_id(PAYMENT, 1), 100, "BRL"), "key")


@pytest.mark.asyncio
async def test_a_token_is_kept_and_another_got_where_it_ended_early() -> None:
    bank = Bank((200, CHARGE), (401, {}), TOKEN, (200, CHARGE))
    await bank.pix.look(bank.account, TXID, PAYMENT)
    with pytest.raises(Unreachable):
        await bank.pix.look(bank.account, TXID, PAYMENT)
    await bank.pix.look(bank.account, TXID, PAYMENT)
    assert [request.url.path.rpartition("/")[2] for request in bank.requests] == ["token", TXID, TXID, "token", TXID]


@pytest.mark.asyncio
async def test_only_reais_are_charged() -> None:
    bank = Bank()
    with pytest.raises(Rejected, match="BRL"):
        await bank.pix.open(bank.account, Wanted(PAYMENT, AMOUNT, "EUR", NOW), "key")
    assert bank.requests == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "raised"),
    [((503, {}), OutcomeUnknown), (broken, OutcomeUnknown), ((429, {}), Throttled), (away, Unreachable),
     ((400, {}), Rejected)],
)  # fmt: skip
async def test_what_became_of_a_withdrawal_is_told_apart(answer: Answer, raised: type[Exception]) -> None:
    bank = Bank(answer)
    with pytest.raises(raised):
        await bank.pix.void(bank.account, TXID, "key")


@pytest.mark.parametrize(
    "change",
    [{"status": "PERDIDA"}, {"txid": None}, {"txid": "a" * 32}, {"pix": [{"valor": "much"}]}, {"pixCopiaECola": "\0"}],
)
def test_an_answer_that_cannot_be_read_names_the_field(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"status|txid|pix\.valor|pixCopiaECola"):
        charge(CHARGE | change, PAYMENT)


def test_a_client_never_shows_its_secrets() -> None:
    server = Server()
    assert "hidden" not in repr(server.session("https://pix.example.com", {"client_secret": "hidden"}, {}))

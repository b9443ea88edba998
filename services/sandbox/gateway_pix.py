"""The Pix API of Brazil's central bank (version 2.9) as a bank offers it: immediate charges, refunds, the webhook.

Served over TLS to clients with a certificate only. `POST /oauth/token` (client credentials in Basic) gives the bearer
token every other path wants. Errors are RFC 7807 problems of the types that the specification names; a throttled
request is 503 `ServicoIndisponivel` with `Retry-After`. An unpaid charge stays `ATIVA` when its time is over, and only
its payment is refused, as the specification has it. Lists (`GET /cob`, `GET /pix`) are not offered.
"""

import asyncio
import base64
import binascii
import hmac
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox.books import Fact, now_ms
from services.sandbox.gateway_accounts import Account, Endpoint, Gateway, Operation, Payment, Refund
from services.sandbox.gateway_intents import drawn_refund, refund_row
from services.sandbox.writes import TIMEOUT_HOLD_S

_BODY_MAX = 100_000
_LATE_MS = 5_000
_DEFAULT_LIFE_S = 86_400
_REFUND_WINDOW_MS = 90 * 86_400_000
_ISPB = "12345678"
_TXID = re.compile(r"[a-zA-Z0-9]{26,35}")
_REFUND_ID = re.compile(r"[a-zA-Z0-9]{1,35}")
_VALUE = re.compile(r"\d{1,10}\.\d{2}")
_REMOVED = "REMOVIDA_PELO_USUARIO_RECEBEDOR"
_TITLES: Final = {
    "RequisicaoInvalida": (400, "Requisição inválida"),
    "CobOperacaoInvalida": (400, "Cobrança inválida"),
    "PixDevolucaoInvalida": (400, "Devolução inválida"),
    "WebhookOperacaoInvalida": (400, "Webhook inválido"),
    "TokenInvalido": (401, "Token ausente, inválido ou expirado"),
    "AcessoNegado": (403, "Acesso negado"),
    "NaoEncontrado": (404, "Não encontrado"),
    "CobNaoEncontrado": (404, "Cobrança não encontrada"),
    "PixNaoEncontrado": (404, "Pix não encontrado"),
    "PixDevolucaoNaoEncontrada": (404, "Devolução não encontrada"),
    "WebhookNaoEncontrado": (404, "Webhook não encontrado"),
    "ErroInternoDoServidor": (500, "Erro interno do servidor"),
    "ServicoIndisponivel": (503, "Serviço indisponível"),
    "IndisponibilidadePorTempoEsgotado": (504, "Tempo esgotado"),
}


class Problem(Exception):
    """An error answer: its type, and what is wrong where."""

    def __init__(self, kind: str, detail: str = "", place: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.status, title = _TITLES[kind]
        self.body: dict[str, Any] = {"type": f"https://pix.bcb.gov.br/api/v2/error/{kind}", "title": title}
        self.body |= {"status": self.status, "detail": detail or title}
        if place:
            self.body["violacoes"] = [{"razao": detail, "propriedade": place}]

    def response(self) -> Response:
        headers = {"Retry-After": "1"} if self.status == 503 else {}
        text = json.dumps(self.body, ensure_ascii=False)
        return Response(text, self.status, headers, "application/problem+json")


@dataclass(frozen=True, slots=True)
class Call:
    """A request that has passed the door: whose it is, its path and JSON body."""

    account: Account
    path: dict[str, str]
    body: dict[str, Any]
    vice: dict[str, str] = field(default_factory=dict)


Handler = Callable[["PixFace", Call], tuple[int, dict[str, Any] | None]]


def value(amount_minor: int) -> str:
    """Centavos as the API writes them: 1234 → "12.34"."""
    return f"{amount_minor // 100}.{amount_minor % 100:02d}"


def minor(text: Any, kind: str, place: str) -> int:
    """Centavos of a value above zero as the API writes it."""
    if not isinstance(text, str) or not _VALUE.fullmatch(text) or not text.isascii():
        raise Problem(kind, "O valor não respeita o schema.", place)
    amount_minor = int(text.replace(".", ""))
    if amount_minor == 0:
        raise Problem(kind, "O valor é zero.", place)
    return amount_minor


def moment(at_ms: int) -> str:
    """RFC 3339 with milliseconds, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _end_to_end_id(letter: str, at_ms: int) -> str:
    minute = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y%m%d%H%M")
    return f"{letter}{_ISPB}{minute}{secrets.token_hex(6)[:11]}"


def _field(tag: str, text: str) -> str:
    return f"{tag}{len(text):02d}{text}"


def copy_and_paste(location: str, amount_minor: int) -> str:
    """The text behind the QR code: EMV fields and their CRC-16 (Bacen's "Manual de Padrões para Iniciação do Pix")."""
    account = _field("00", "br.gov.bcb.pix") + _field("25", location)
    fields = [("00", "01"), ("01", "12"), ("26", account), ("52", "0000"), ("53", "986"), ("54", value(amount_minor))]
    fields += [("58", "BR"), ("59", "LOJA DE TESTE"), ("60", "SAO PAULO"), ("62", _field("05", "***"))]
    text = "".join(_field(tag, one) for tag, one in fields) + "6304"
    return f"{text}{binascii.crc_hqx(text.encode(), 0xFFFF):04X}"


def refund_object(refund: Refund) -> dict[str, Any]:
    """A Devolucao."""
    status = {"pending": "EM_PROCESSAMENTO", "succeeded": "DEVOLVIDO", "failed": "NAO_REALIZADO"}[refund.status]
    times = {"solicitacao": moment(refund.at_ms)}
    if refund.settled_ms is not None:
        times["liquidacao"] = moment(refund.settled_ms)
    return {
        "id": refund.merchant_id,
        "rtrId": refund.refund_id,
        "valor": value(refund.amount_minor),
        "natureza": "ORIGINAL",
        "horario": times,
        "status": status,
    }


def pix_object(account: Account, payment: Payment) -> dict[str, Any]:
    """The Pix that paid a charge."""
    assert payment.captured_ms is not None
    paid = value(payment.captured_minor)
    shown: dict[str, Any] = {
        "endToEndId": payment.charge_id,
        "txid": payment.reference,
        "valor": paid,
        "componentesValor": {"original": {"valor": paid}},
        "chave": account.settings.pix_key,
        "horario": moment(payment.captured_ms),
    }
    if payment.refunds:
        shown["devolucoes"] = [refund_object(one) for one in payment.refunds]
    return shown


def charge_object(account: Account, payment: Payment) -> dict[str, Any]:
    """A Cob, complete."""
    location = f"pix.example.com/qr/v2/{payment.asked['location']}"
    shown: dict[str, Any] = {
        "calendario": {"criacao": moment(payment.created_ms), "expiracao": payment.expires_s},
        "txid": payment.reference,
        "revisao": payment.revision,
        "loc": {
            "id": payment.asked["location_id"],
            "location": location,
            "tipoCob": "cob",
            "criacao": moment(payment.created_ms),
            "txid": payment.reference,
        },
        "location": location,
        "status": payment.status,
        "valor": {"original": value(payment.amount_minor)},
        "chave": account.settings.pix_key,
        "pixCopiaECola": copy_and_paste(location, payment.amount_minor),
    }
    shown |= {name: payment.asked[name] for name in ("solicitacaoPagador", "infoAdicionais") if name in payment.asked}
    if payment.captured_ms is not None:
        shown["pix"] = [pix_object(account, payment)]
    return shown


class PixFace:
    """The routes of the Pix API and what a payer does."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[Route]:
        face = PixFace
        table: list[tuple[str, str, Operation | None, Handler]] = [
            ("PUT", "/cob/{txid}", "open", face._put_charge),
            ("PATCH", "/cob/{txid}", "void", face._patch_charge),
            ("GET", "/cob/{txid}", None, face._charge),
            ("GET", "/pix/{e2eid}", None, face._pix),
            ("PUT", "/pix/{e2eid}/devolucao/{id}", "refund", face._put_refund),
            ("GET", "/pix/{e2eid}/devolucao/{id}", None, face._refund),
            ("PUT", "/webhook/{chave}", None, face._put_webhook),
            ("GET", "/webhook/{chave}", None, face._webhook),
            ("DELETE", "/webhook/{chave}", None, face._delete_webhook),
        ]
        routes = [
            Route(path, self._answered(handler, operation), methods=[method])
            for method, path, operation, handler in table
        ]
        return [Route("/oauth/token", self._token, methods=["POST"]), *routes]

    def resume(self) -> None:
        """Take up what an earlier process had to do later."""
        for account in self._gateway.accounts.values():
            for payment in account.payments.values():
                if payment.method == "pix":
                    self._look_ahead(account, payment)
                    for refund in payment.refunds:
                        self._settle_later(account, payment, refund)

    # -- around every request ------------------------------------------------------------------------------------

    async def _token(self, request: Request) -> Response:
        """OAuth 2.0, RFC 6749 section 4.4; the client's name and secret in Basic."""
        scheme, _, packed = request.headers.get("authorization", "").partition(" ")
        try:
            name, _, secret = base64.b64decode(packed, validate=True).decode().partition(":")
        except ValueError:
            name = secret = ""
        account = self._gateway.by_credential.get(name) if scheme.lower() == "basic" else None
        known = account is not None and account.settings.credentials["client_id"] == name
        if account is None or not known or not hmac.compare_digest(
            account.settings.credentials["client_secret"].encode(), secret.encode()
        ):  # fmt: skip
            return _json(401, {"error": "invalid_client"})
        given = dict(parse_qsl((await request.body()).decode(errors="replace")))
        if given.get("grant_type") != "client_credentials":
            return _json(400, {"error": "unsupported_grant_type"})
        token, life_s = secrets.token_hex(24), account.settings.token_life_s
        account.tokens = {one: end for one, end in account.tokens.items() if end > now_ms()}
        account.tokens[token] = now_ms() + int(life_s * 1000)
        scope = given.get("scope", "cob.read cob.write pix.read pix.write webhook.read webhook.write")
        body = {"access_token": token, "token_type": "Bearer", "expires_in": int(life_s), "scope": scope}
        return _json(200, body, Cache_Control="no-store")

    def _account(self, request: Request) -> Account:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        for account in self._gateway.accounts.values():
            if scheme.lower() == "bearer" and account.tokens.get(token, 0) > now_ms():
                return account
        raise Problem("TokenInvalido")

    def _answered(self, handler: Handler, operation: Operation | None) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                account = self._account(request)
                slow_ms = account.temper.strikes("slow", now_ms())
                if slow_ms:
                    await asyncio.sleep(slow_ms / 1000)
                if not self._gateway.fits(account) or account.temper.strikes("throttled", now_ms()) is not None:
                    raise Problem("ServicoIndisponivel", "Limite de requisições excedido.")
                call = Call(account, dict(request.path_params), await self._body(request))
                return await self._perform(handler, operation, call)
            except Problem as problem:
                await self._gateway.books.settled()
                return problem.response()

        return answer

    @staticmethod
    async def _body(request: Request) -> dict[str, Any]:
        if request.method not in ("PUT", "PATCH"):
            return {}
        raw = await request.body()
        try:
            given = json.loads(raw) if len(raw) <= _BODY_MAX else None
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise Problem("RequisicaoInvalida", "O corpo deve ser um objeto JSON.")
        return given

    async def _perform(self, handler: Handler, operation: Operation | None, call: Call) -> Response:
        """Do the request, now or as the vices want it."""
        account, now = call.account, now_ms()
        temper = account.temper
        exposed = operation is not None and operation in account.settings.vices.operations
        if exposed and (late_ms := temper.strikes("charge_late", now)) is not None:
            late = Call(account, call.path, call.body, {"vice": "charge_late"})
            self._gateway.later(account, now + (late_ms or _LATE_MS), lambda: self._unheard(handler, late))
            await asyncio.sleep(TIMEOUT_HOLD_S)
            raise Problem("IndisponibilidadePorTempoEsgotado")
        if exposed and temper.strikes("charge_timeout", now) is not None:
            self._unheard(handler, Call(account, call.path, call.body, {"vice": "charge_timeout"}))
            await self._gateway.books.settled()
            await asyncio.sleep(TIMEOUT_HOLD_S)
            raise Problem("IndisponibilidadePorTempoEsgotado")
        if exposed and temper.strikes("charge_error", now) is not None:
            self._unheard(handler, Call(account, call.path, call.body, {"vice": "charge_error"}))
            raise Problem("ErroInternoDoServidor")
        status, body = handler(self, call)
        await self._gateway.books.settled()
        return Response(status_code=status) if body is None else _json(status, body)

    def _unheard(self, handler: Handler, call: Call) -> None:
        try:
            handler(self, call)
        except Problem:
            return  # Refused, and nobody hears of that either.

    # -- charges -------------------------------------------------------------------------------------------------

    def _found(self, call: Call) -> Payment:
        payment = call.account.payments.get(call.path["txid"])
        if payment is None or payment.method != "pix":
            raise Problem("CobNaoEncontrado", "Cobrança não encontrada para o txid informado.")
        return payment

    def _asked(self, call: Call) -> tuple[int, int, dict[str, Any]]:
        """Amount, life in seconds and the texts of a wanted charge."""
        body, kind = call.body, "CobOperacaoInvalida"
        wanted, calendar = body.get("valor"), body.get("calendario")
        if not isinstance(wanted, dict):
            raise Problem(kind, "O campo valor é obrigatório.", "cob.valor")
        if not isinstance(calendar, dict):
            raise Problem(kind, "O campo calendario é obrigatório.", "cob.calendario")
        amount_minor = minor(wanted.get("original"), kind, "cob.valor.original")
        life_s = calendar.get("expiracao", _DEFAULT_LIFE_S)
        if type(life_s) is not int or not 0 < life_s < 2**31:
            raise Problem(kind, "O campo expiracao é igual ou menor que zero.", "cob.calendario.expiracao")
        if body.get("chave") != call.account.settings.pix_key:
            raise Problem(kind, "A chave não pertence a este usuário recebedor.", "cob.chave")
        texts: dict[str, Any] = {name: body[name] for name in ("solicitacaoPagador", "infoAdicionais") if name in body}
        if not isinstance(texts.get("solicitacaoPagador", ""), str) or len(texts.get("solicitacaoPagador", "")) > 140:
            raise Problem(kind, "O campo não respeita o schema.", "cob.solicitacaoPagador")
        return amount_minor, life_s, texts

    def _put_charge(self, call: Call) -> tuple[int, dict[str, Any]]:
        account, txid = call.account, call.path["txid"]
        if not _TXID.fullmatch(txid) or not txid.isascii():
            raise Problem("CobOperacaoInvalida", "O txid não respeita o schema.", "cob.txid")
        amount_minor, life_s, texts = self._asked(call)
        known = account.payments.get(txid)
        if known is not None:
            same = (known.amount_minor, known.expires_s, known.asked["texts"]) == (amount_minor, life_s, texts)
            if not same:
                self._revise(account, known, amount_minor, life_s, texts)
            return 201, charge_object(account, known)
        at_ms = now_ms()
        payment = Payment(txid, "pix", "ATIVA", amount_minor, "brl", at_ms, expires_s=life_s)
        payment.asked = {**texts, "texts": texts, "location": secrets.token_hex(16)}
        payment.asked["location_id"] = secrets.randbelow(10**9)
        early_ms = account.temper.strikes("expires_early", at_ms)
        payment.drops_ms = None if early_ms is None else at_ms + early_ms
        row = payment.row(amount_minor, None, **call.vice)
        self._gateway.changed(account, payment, [("intent", row)], at_ms)
        self._look_ahead(account, payment)
        return 201, charge_object(account, payment)

    def _revise(
        self, account: Account, payment: Payment, amount_minor: int, life_s: int, texts: dict[str, Any]
    ) -> None:
        if payment.status != "ATIVA":
            raise Problem("CobOperacaoInvalida", "A cobrança não está ATIVA e não pode ser alterada.", "cob.status")
        payment.amount_minor, payment.expires_s = amount_minor, life_s
        payment.asked |= {**texts, "texts": texts}
        payment.revision += 1
        self._gateway.changed(account, payment, [], now_ms())

    def _patch_charge(self, call: Call) -> tuple[int, dict[str, Any]]:
        account, payment, body = call.account, self._found(call), call.body
        if payment.status != "ATIVA":
            raise Problem("CobOperacaoInvalida", "A cobrança não está ATIVA e não pode ser alterada.", "cob.status")
        if "status" in body:
            if body != {"status": _REMOVED}:
                raise Problem("CobOperacaoInvalida", "Remova sem outras alterações.", "cob.status")
            payment.revision += 1
            self._remove(account, payment, _REMOVED, "client", call.vice)
            return 200, charge_object(account, payment)
        before = {"valor": {"original": value(payment.amount_minor)}, "calendario": {"expiracao": payment.expires_s}}
        whole = before | {"chave": account.settings.pix_key} | payment.asked["texts"] | body
        self._revise(account, payment, *self._asked(Call(account, call.path, whole)))
        return 200, charge_object(account, payment)

    def _remove(self, account: Account, payment: Payment, status: str, by: str, vice: dict[str, str]) -> None:
        payment.status, payment.cancelled_ms = status, now_ms()
        facts: list[Fact] = [("intent_removed", payment.row(payment.amount_minor, None, by=by, **vice))]
        self._gateway.changed(account, payment, facts, now_ms())

    def _look_ahead(self, account: Account, payment: Payment) -> None:
        def drop() -> None:
            if payment.status == "ATIVA":
                self._remove(account, payment, "REMOVIDA_PELO_PSP", "gateway", {})

        if payment.drops_ms is not None and payment.status == "ATIVA":
            self._gateway.later(account, payment.drops_ms, drop)

    def _charge(self, call: Call) -> tuple[int, dict[str, Any]]:
        return 200, charge_object(call.account, self._found(call))

    def pay(self, account: Account, payment: Payment, amount_minor: int | None) -> str | None:
        """The payer pays; the amount asked for where none is named. Returns why not, if not."""
        at_ms = now_ms()
        assert payment.expires_s is not None
        refused = {"CONCLUIDA": "paid", "ATIVA": None}.get(payment.status, "removed")
        if refused is None and at_ms >= payment.created_ms + payment.expires_s * 1000:
            refused = "expired"
        amount_minor = payment.amount_minor if amount_minor is None else amount_minor
        if refused is not None:
            row = payment.row(amount_minor, None, reason=refused)
            self._gateway.changed(account, payment, [("charge_refused", row)], at_ms)
            return refused
        payment.status, payment.captured_minor, payment.captured_ms = "CONCLUIDA", amount_minor, at_ms
        payment.authorized_minor, payment.charged_ms = amount_minor, at_ms
        payment.charge_id = _end_to_end_id("E", at_ms)
        row = payment.row(amount_minor, None, charge_id=payment.charge_id, captured=True)
        announced = [("pix", {"pix": [pix_object(account, payment)]})]
        self._gateway.changed(account, payment, [("charge", row)], at_ms, announced)
        return None

    # -- received Pix and refunds --------------------------------------------------------------------------------

    def _received(self, call: Call) -> Payment:
        for payment in call.account.payments.values():
            if payment.method == "pix" and payment.charge_id == call.path["e2eid"]:
                return payment
        raise Problem("PixNaoEncontrado", "Pix não encontrado para o e2eid informado.")

    def _pix(self, call: Call) -> tuple[int, dict[str, Any]]:
        return 200, pix_object(call.account, self._received(call))

    def _put_refund(self, call: Call) -> tuple[int, dict[str, Any]]:
        account, payment, refund_id = call.account, self._received(call), call.path["id"]
        kind = "PixDevolucaoInvalida"
        if not _REFUND_ID.fullmatch(refund_id) or not refund_id.isascii():
            raise Problem(kind, "O id não respeita o schema.", "devolucao.id")
        amount_minor = minor(call.body.get("valor"), kind, "devolucao.valor")
        known = next((one for one in payment.refunds if one.merchant_id == refund_id), None)
        if known is not None:
            if known.amount_minor != amount_minor:
                raise Problem(kind, "O id já foi utilizado por outra devolução deste Pix.", "devolucao.id")
            return 201, refund_object(known)
        if amount_minor > payment.captured_minor - payment.refunded_minor:
            raise Problem(kind, "A soma das devoluções excederia o valor do Pix.", "devolucao.valor")
        if now_ms() - (payment.captured_ms or 0) > _REFUND_WINDOW_MS:
            raise Problem(kind, "O prazo de 90 dias para devoluções terminou.", "devolucao")
        made = drawn_refund(account, _end_to_end_id("D", now_ms()), refund_id, amount_minor)
        payment.refunds.append(made)
        self._refunded(account, payment, made, call.vice)
        self._settle_later(account, payment, made)
        return 201, refund_object(made)

    def _refunded(self, account: Account, payment: Payment, refund: Refund, vice: dict[str, str]) -> None:
        facts: list[Fact] = [("refund", refund_row(payment, refund, refund.merchant_id, vice))]
        # The webhook is called for a refund that has come to its end, not for one under way.
        final = refund.status != "pending"
        announced = [("pix", {"pix": [pix_object(account, payment)]})] if final else []
        self._gateway.changed(account, payment, facts, now_ms(), announced)

    def _settle_later(self, account: Account, payment: Payment, refund: Refund) -> None:
        def settle() -> None:
            if refund.status == "pending":
                refund.status, refund.settled_ms = refund.ends_as, now_ms()
                self._refunded(account, payment, refund, {})

        if refund.status == "pending" and refund.settles_ms is not None:
            self._gateway.later(account, refund.settles_ms, settle)

    def _refund(self, call: Call) -> tuple[int, dict[str, Any]]:
        for one in self._received(call).refunds:
            if one.merchant_id == call.path["id"]:
                return 200, refund_object(one)
        raise Problem("PixDevolucaoNaoEncontrada", "Devolução não encontrada para o e2eid informado.")

    # -- the webhook ---------------------------------------------------------------------------------------------

    def _own_key(self, call: Call, kind: str) -> str:
        if call.path["chave"] != call.account.settings.pix_key:
            raise Problem(kind, "A chave não pertence a este usuário recebedor.")
        return f"pix:{call.path['chave']}"

    def _put_webhook(self, call: Call) -> tuple[int, None]:
        key = self._own_key(call, "WebhookOperacaoInvalida")
        url = call.body.get("webhookUrl")
        if not isinstance(url, str) or urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
            # Nobody could show a certificate over plain HTTP.
            raise Problem("WebhookOperacaoInvalida", "A URL deve ser https.", "webhook.webhookUrl")
        made = Endpoint(key, url.rstrip("/"), now_ms())
        call.account.endpoints[key] = made
        shown = {name: getattr(made, name) for name in Endpoint.__dataclass_fields__}
        self._gateway.commit(call.account, (), now_ms(), {("endpoint", key): shown})
        return 200, None

    def _registered(self, call: Call) -> Endpoint:
        one = call.account.endpoints.get(self._own_key(call, "WebhookNaoEncontrado"))
        if one is None:
            raise Problem("WebhookNaoEncontrado", "Nenhum webhook para esta chave.")
        return one

    def _webhook(self, call: Call) -> tuple[int, dict[str, Any]]:
        one = self._registered(call)
        shown = {"webhookUrl": one.url, "chave": call.path["chave"], "criacao": moment(one.created_ms)}
        return 200, shown | {"cnpj": call.account.settings.tax_id}

    def _delete_webhook(self, call: Call) -> tuple[int, None]:
        one = self._registered(call)
        del call.account.endpoints[one.endpoint_id]
        self._gateway.commit(call.account, (), now_ms(), {("endpoint", one.endpoint_id): None})
        return 204, None


def _json(status: int, body: dict[str, Any], **headers: str) -> Response:
    text = json.dumps(body, ensure_ascii=False)
    named = {name.replace("_", "-"): one for name, one in headers.items()}
    return Response(text, status, named, "application/json")

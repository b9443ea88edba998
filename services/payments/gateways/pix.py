"""Pix: immediate charges by the API of Brazil's central bank ("API Pix" 2.9), over mutual TLS at the merchant's bank.

The charge's id is ours (`txid`, 26 to 35 letters and digits), and a charge or refund that is put again under its id is
the same one, so every call here may be made twice. The buyer pays by the text of the charge; nothing is authorised.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, final
from urllib.parse import quote

import httpx

from services.border.calls import send
from services.border.errors import Limit, Rejected, SignatureInvalid, Unreachable
from services.border.reading import identifier, mapping, minor, objects, read_json, text
from services.payments.domain import Part, Portion, Seen, Status, refund_id
from services.payments.gateways.gateway import Delivery, GatewayTraits, Hint, Refund, Session, Settlement, Wanted

_CURRENCY: Final = "BRL"
_UNAUTHORIZED: Final = 401
_MISSING: Final = 404
_TOKEN_SPARE_S: Final = 30
_REFUNDS_MAX: Final = 200
"""So many refunds of one payment are told apart by our own ids."""
_REMOVED: Final = "REMOVIDA_PELO_USUARIO_RECEBEDOR"
_STATUSES: Final = {
    "ATIVA": Status.PENDING,
    "CONCLUIDA": Status.CAPTURED,
    _REMOVED: Status.VOIDED,
    "REMOVIDA_PELO_PSP": Status.VOIDED,
}
_REFUNDS: Final = {"EM_PROCESSAMENTO": Part.OPEN, "DEVOLVIDO": Part.DONE, "NAO_REALIZADO": Part.FAILED}


def short_id(name: str) -> str:
    """An id of ours as Pix takes it for a charge or a refund: 32 letters and digits."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


@final
class Pix:
    """The gateway `pix`. Settings of an account: `pix_key` (chave), `token_url` where it is not below the base URL."""

    traits = GatewayTraits(
        name="pix",
        call_timeout_s=20,
        late_s=10,
        credentials=("client_id", "client_secret", "certificate_pem", "key_pem"),
        # Every bank has its own limits; these are below those of the ones that publish any.
        limits={"pix": Limit(10, 20)},
        certified=True,
    )

    def __init__(
        self,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}

    async def open(self, session: Session, wanted: Wanted, key: str) -> Seen:
        """PUT the charge under its id; `key` is not needed for that. Raises `Rejected` for money other than reais."""
        del key
        if wanted.currency != _CURRENCY:
            raise Rejected(f"pix: charges are in {_CURRENCY}, not {wanted.currency}")
        life_s = max(1, int((wanted.expires_at - self._clock()).total_seconds()))
        body = {
            "calendario": {"expiracao": life_s},
            "valor": {"original": _value(wanted.amount_minor)},
            "chave": text(session.settings.get("pix_key")),
        }
        answer = await self._ask(session, "PUT", f"/cob/{short_id(wanted.payment_id)}", body)
        return charge(answer, wanted.payment_id)

    async def charge(self, session: Session, reference: str, token: str, key: str) -> Seen:
        """Nothing to ask for: the buyer pays. What is there is looked at."""
        del token, key
        return charge(await self._ask(session, "GET", f"/cob/{reference}"), "")

    async def capture(self, session: Session, reference: str, amount_minor: int, key: str) -> Seen:
        """Nothing to ask for: a Pix that is paid is captured."""
        del amount_minor, key
        return charge(await self._ask(session, "GET", f"/cob/{reference}"), "")

    async def void(self, session: Session, reference: str, key: str) -> Seen:
        """Withdraw the charge; one that was paid meanwhile is refused, and looked at."""
        del key
        return charge(await self._ask(session, "PATCH", f"/cob/{reference}", {"status": _REMOVED}), "")

    async def refund(self, session: Session, reference: str, refund: Refund, key: str) -> Seen:
        """PUT a refund under its id at the Pix that paid the charge."""
        del key
        paid = _paid(mapping(await self._ask(session, "GET", f"/cob/{reference}"), "charge"))
        if not paid:
            raise Rejected("pix: the charge is not paid, so nothing can be given back")
        end_to_end = identifier(paid[0].get("endToEndId"), "endToEndId")
        path = f"/pix/{end_to_end}/devolucao/{short_id(refund.refund_id)}"
        made = await self._ask(session, "PUT", path, {"valor": _value(refund.amount_minor)})
        portion = _portion(mapping(made, "devolucao"))
        return Seen(reference, Status.CAPTURED, refunds={refund.refund_id: portion})

    async def look(self, session: Session, reference: str, payment_id: str) -> Seen | None:
        """The charge with what paid it and what was given back; its id is known before it exists."""
        answer = await self._ask(session, "GET", f"/cob/{reference or short_id(payment_id)}", answers=(_MISSING,))
        return None if answer is None else charge(answer, payment_id)

    def verify(self, delivery: Delivery, credentials: Mapping[str, str], now: datetime) -> None:
        """The bank's certificate, and the secret at the end of our address: the certificate says that it is a bank,
        the secret that it is ours. A Pix carries no time of sending; what comes again is known by its content."""
        del now
        wanted = credentials.get("webhook_secret", "").encode()
        if not (delivery.certified and wanted and hmac.compare_digest(wanted, delivery.secret.encode())):
            raise SignatureInvalid

    def hint(self, body: bytes) -> Hint:
        """The charges that were paid or paid back; one that is paid without a charge has no `txid`."""
        found = objects(mapping(read_json(body), "notice").get("pix"), "pix")
        references = {text(one.get("txid")): None for one in found}
        return Hint(hashlib.sha256(body).hexdigest(), tuple(references))

    async def subscribe(self, session: Session, door_url: str) -> str:
        """PUT our address for the account's Pix key; the bank calls it with `/pix` at its end."""
        secret = secrets.token_hex(16)
        path = f"/webhook/{quote(text(session.settings.get('pix_key')), safe='')}"
        await self._ask(session, "PUT", path, {"webhookUrl": f"{door_url}/{secret}"})
        return secret

    async def payouts(self, session: Session) -> Sequence[str]:
        """None: a Pix is at the bank once it is paid."""
        del session
        return ()

    async def settlements(self, session: Session, payout_id: str) -> Sequence[Settlement]:
        """None, as there are no payouts."""
        del session, payout_id
        return ()

    async def _ask(
        self, session: Session, method: str, path: str, body: Any = None, answers: tuple[int, ...] = ()
    ) -> Any:
        headers = {"authorization": f"Bearer {await self._token(session)}"}
        request = session.http.build_request(method, session.base_url + path, json=body, headers=headers)
        answer = await send(
            session.http, session.limiter, "pix", request, writes=body is not None,
            answers=(_UNAUTHORIZED, *answers),
        )  # fmt: skip
        if answer.status_code == _UNAUTHORIZED:
            # A token that ended early: nothing was done, and the next try gets another.
            self._tokens.pop(_owner(session), None)
            raise Unreachable(1)
        return None if answer.status_code in answers or not answer.content else read_json(answer.content)

    async def _token(self, session: Session) -> str:
        """The access token (RFC 6749, section 4.4), kept until shortly before it ends."""
        owner = _owner(session)
        token, until = self._tokens.get(owner, ("", 0.0))
        if token and self._monotonic() < until:
            return token
        given = session.credentials
        basic = httpx.BasicAuth(given["client_id"], given["client_secret"])
        url = text(session.settings.get("token_url")) or f"{session.base_url}/oauth/token"
        request = session.http.build_request("POST", url, data={"grant_type": "client_credentials"})
        request = next(basic.auth_flow(request))
        # Getting a token changes nothing, so whatever goes wrong, nothing was done.
        answer = mapping(read_json((await send(session.http, session.limiter, "pix", request)).content), "token")
        token = identifier(answer.get("access_token"), "access_token")
        life_s = float(text(answer.get("expires_in")) or _TOKEN_SPARE_S)
        self._tokens[owner] = token, self._monotonic() + life_s - _TOKEN_SPARE_S
        return token


def _owner(session: Session) -> tuple[str, str]:
    return session.base_url, session.credentials["client_id"]


def _value(amount_minor: int) -> str:
    return f"{amount_minor // 100}.{amount_minor % 100:02d}"


def charge(value: Any, payment_id: str) -> Seen:
    """A charge (`Cob`) as what was seen; without `payment_id` its refunds are left out.

    Raises `ValueError` where a field is not what it should be.
    """
    given = mapping(value, "charge")
    status = _STATUSES.get(text(given.get("status")))
    if status is None:
        raise ValueError("charge.status is none that is documented")
    paid = _paid(given)
    captured_minor = sum(minor(one.get("valor"), _CURRENCY, "pix.valor") for one in paid)
    ours = {short_id(name): name for n in range(1, _REFUNDS_MAX + 1) if (name := refund_id(payment_id, n))}
    refunds = {
        ours.get(found, found): _portion(back)
        for one in paid
        for back in objects(one.get("devolucoes"), "devolucoes")
        if (found := identifier(back.get("id"), "devolucao.id"))
    }
    reference = identifier(given.get("txid"), "txid")
    if payment_id and reference != short_id(payment_id):
        raise ValueError("charge.txid is that of another charge")
    return Seen(
        reference=reference,
        status=status,
        authorized_minor=captured_minor,
        captured_minor=captured_minor,
        refunds=refunds if payment_id else {},
        pix_text=identifier(given["pixCopiaECola"], "pixCopiaECola") if given.get("pixCopiaECola") else None,
    )


def _paid(given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return objects(given.get("pix"), "pix")


def _portion(back: Mapping[str, Any]) -> Portion:
    part = _REFUNDS.get(text(back.get("status")), Part.OPEN)
    return Portion(minor(back.get("valor"), _CURRENCY, "devolucao.valor"), part)

"""The control interface of the payment gateway sandbox: accounts, what buyers and their banks do, vices, books.

Every path but `/_control/health` wants `Authorization: Bearer <SALDO_SANDBOX_TOKEN>`. Shapes: see `gateway_client.py`.
"""

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox.books import now_ms
from services.sandbox.control import Refused
from services.sandbox.gateway_accounts import Account, AccountSettings, Gateway, GatewayVices, Payment
from services.sandbox.gateway_intents import CARDS, Intents, StripeError, tokenise
from services.sandbox.gateway_pix import PixFace

_ROWS_MAX = 50_000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CardBody(_Body):
    kind: Literal["ok", "declined", "insufficient", "authenticate", "disputed"] = "ok"


class PayBody(_Body):
    amount_minor: Annotated[int, Field(gt=0)] | None = None


class AuthenticateBody(_Body):
    accept: bool = True


class DisputeBody(_Body):
    reason: str = "fraudulent"
    amount_minor: Annotated[int, Field(gt=0)] | None = None


class CloseBody(_Body):
    outcome: Literal["won", "lost"]


Handler = Callable[[Request], Awaitable[Response]]


def _json(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body, ensure_ascii=False), status, media_type="application/json")


class GatewayControl:
    """The routes under `/_control`. `base_url` and `pix_base_url` are told to whoever asks for an account."""

    def __init__(self, gateway: Gateway, intents: Intents, pix: PixFace, token: str, base_url: str) -> None:
        self._gateway = gateway
        self._intents = intents
        self._pix = pix
        self._token = token.encode()
        self._base_url = base_url
        self.pix_base_url = ""
        self.certificates = ""

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/accounts", self._accounts),
            ("GET", "/accounts/{account}", self._shown),
            ("PUT", "/accounts/{account}", self._put_account),
            ("PUT", "/accounts/{account}/vices", self._vices),
            ("GET", "/accounts/{account}/payments", self._payments),
            ("POST", "/accounts/{account}/cards", self._card),
            ("POST", "/accounts/{account}/pay/{reference}", self._pay),
            ("POST", "/accounts/{account}/authenticate/{reference}", self._authenticate),
            ("POST", "/accounts/{account}/dispute/{reference}", self._dispute),
            ("POST", "/accounts/{account}/dispute/{reference}/close", self._close),
            ("GET", "/books", self._books),
            ("GET", "/books/summary", self._summary),
            ("POST", "/reset", self._reset),
        ]
        guarded = [
            Route(f"/_control{path}", self._guarded(handler), methods=[method]) for method, path, handler in table
        ]
        return [*guarded, Route("/_control/health", self._health, methods=["GET"])]

    def _guarded(self, handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode(), self._token):
                return _json({"error": "the control interface wants Authorization: Bearer <SALDO_SANDBOX_TOKEN>"}, 401)
            try:
                response = await handler(request)
            except ValidationError as error:
                problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
                response = _json({"error": "; ".join(problems)}, 422)
            except StripeError as error:
                response = _json({"reason": "state", "error": str(error)}, 409)
            except Refused as refused:
                response = _json(refused.body, refused.status)
            await self._gateway.books.settled()
            return response

        return answer

    def _account(self, request: Request) -> Account:
        account = self._gateway.accounts.get(request.path_params["account"])
        if account is None:
            raise Refused(404, {"error": f"no account {request.path_params['account']!r}: create it with PUT"})
        return account

    def _payment(self, request: Request, account: Account, method: str) -> Payment:
        payment = account.payments.get(request.path_params["reference"])
        if payment is None or payment.method != method:
            raise Refused(
                404, {"error": f"no payment by {method} {request.path_params['reference']!r} in this account"}
            )
        return payment

    # -- the process ---------------------------------------------------------------------------------------------

    async def _health(self, _request: Request) -> Response:
        return _json({"status": "ok", "sandbox": "gateway", "accounts": len(self._gateway.accounts)})

    async def _books(self, request: Request) -> Response:
        try:
            since = int(request.query_params.get("since", "0"))
            limit = min(int(request.query_params.get("limit", "10000")), _ROWS_MAX)
        except ValueError:
            raise Refused(400, {"error": "since and limit must be whole numbers"}) from None
        await self._gateway.books.settled()
        return Response(b"".join(await self._gateway.books.page(since, limit)), media_type="application/x-ndjson")

    async def _summary(self, _request: Request) -> Response:
        await self._gateway.books.settled()
        return _json(await self._gateway.books.summary())

    async def _reset(self, _request: Request) -> Response:
        self._gateway.forget()
        await self._gateway.books.clear()
        return _json({"status": "empty"})

    # -- accounts ------------------------------------------------------------------------------------------------

    def _describe(self, account: Account) -> dict[str, Any]:
        places = {"base_url": self._base_url, "pix_base_url": self.pix_base_url, "certificates": self.certificates}
        return {"account": account.name, **places, **account.settings.model_dump(mode="json")}

    async def _accounts(self, _request: Request) -> Response:
        return _json({"accounts": sorted(self._gateway.accounts)})

    async def _shown(self, request: Request) -> Response:
        return _json(self._describe(self._account(request)))

    async def _put_account(self, request: Request) -> Response:
        name = request.path_params["account"]
        try:
            given = json.loads(await request.body() or b"{}")
        except (ValueError, RecursionError):
            raise Refused(400, {"error": "the body is not JSON"}) from None
        if not isinstance(given, dict):
            raise Refused(422, {"error": "the body must be a JSON object"})
        known = self._gateway.accounts.get(name)
        if known is not None:
            kept = known.settings.model_dump(mode="json")
            if isinstance(given.get("credentials"), dict):
                given["credentials"] = kept["credentials"] | given["credentials"]
            given = kept | given
        settings = AccountSettings.model_validate(given)
        taken = self._gateway.owner_of(name, settings)
        if taken is not None:
            raise Refused(409, {"error": f"account {taken!r} has these credentials already"})
        return _json(self._describe(self._gateway.put_account(name, settings)), 200 if known else 201)

    async def _vices(self, request: Request) -> Response:
        account = self._account(request)
        vices = GatewayVices.model_validate_json(await request.body())
        settings = account.settings.model_copy(update={"vices": vices, "vices_since_ms": now_ms()})
        self._gateway.put_account(account.name, settings)
        return _json({"vices": vices.model_dump(mode="json", exclude_none=True)})

    async def _payments(self, request: Request) -> Response:
        account = self._account(request)
        return _json({"at_ms": now_ms(), "payments": [_sums(one) for one in account.payments.values()]})

    # -- what buyers and their banks do --------------------------------------------------------------------------

    async def _card(self, request: Request) -> Response:
        account = self._account(request)
        body = CardBody.model_validate_json(await request.body() or b"{}")
        digits = next(number for number, behaviour in CARDS.items() if behaviour == body.kind)
        card = tokenise(self._gateway, account, digits, 12, 2034)
        return _json({"token": card.token, "brand": card.brand, "last4": card.last4}, 201)

    async def _pay(self, request: Request) -> Response:
        account = self._account(request)
        payment = self._payment(request, account, "pix")
        body = PayBody.model_validate_json(await request.body() or b"{}")
        reason = self._pix.pay(account, payment, body.amount_minor)
        if reason is not None:
            raise Refused(409, {"reason": reason, "error": f"this charge cannot be paid: {reason}"})
        paid = {"end_to_end_id": payment.charge_id, "paid_at_ms": payment.captured_ms}
        return _json({"reference": payment.reference, "amount_minor": payment.captured_minor, **paid}, 201)

    async def _authenticate(self, request: Request) -> Response:
        account = self._account(request)
        payment = self._payment(request, account, "card")
        body = AuthenticateBody.model_validate_json(await request.body() or b"{}")
        self._intents.authenticate(account, payment, accept=body.accept)
        return _json({"reference": payment.reference, "status": payment.status})

    async def _dispute(self, request: Request) -> Response:
        account = self._account(request)
        payment = self._payment(request, account, "card")
        body = DisputeBody.model_validate_json(await request.body() or b"{}")
        dispute_id = self._intents.dispute(account, payment, body.reason, body.amount_minor)
        return _json({"reference": payment.reference, "dispute_id": dispute_id}, 201)

    async def _close(self, request: Request) -> Response:
        account = self._account(request)
        payment = self._payment(request, account, "card")
        body = CloseBody.model_validate_json(await request.body())
        self._intents.close_dispute(account, payment, body.outcome)
        return _json({"reference": payment.reference, "status": body.outcome})


def _sums(payment: Payment) -> dict[str, Any]:
    """What has moved for a payment, absolute; `refunded_minor` is what has gone back for good."""
    refunded = sum(one.amount_minor for one in payment.refunds if one.status == "succeeded")
    dispute = payment.dispute
    return {
        "reference": payment.reference,
        "payment_id": payment.payment_id,
        "method": payment.method,
        "status": payment.status,
        "currency": payment.currency,
        "amount_minor": payment.amount_minor,
        "authorized_minor": payment.authorized_minor,
        "captured_minor": payment.captured_minor,
        "refunded_minor": refunded,
        "refunds_pending_minor": payment.refunded_minor - refunded,
        "disputed_minor": 0 if dispute is None or dispute["status"] == "won" else dispute["amount_minor"],
        "fee_minor": payment.fee_minor,
    }

"""The control interface of the payment gateway sandbox: accounts, what buyers and their banks do, vices, books.

Every path but `/_control/health` wants `Authorization: Bearer <SALDO_SANDBOX_TOKEN>`. Shapes: see `gateway_client.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox.books import now_ms
from services.sandbox.gateway_accounts import Account, AccountSettings, Gateway, GatewayVices, Payment
from services.sandbox.gateway_intents import CARDS, Intents, StripeError, tokenise
from services.sandbox.gateway_payouts import pay_out, total
from services.sandbox.gateway_pix import PixFace
from services.sandbox.guard import Handler, Refused, control_routes, json_answer, json_object


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


class GatewayControl:
    """The routes under `/_control`. `base_url` and `pix_base_url` are told to whoever asks for an account."""

    def __init__(self, gateway: Gateway, intents: Intents, pix: PixFace, token: str, base_url: str) -> None:
        self._gateway = gateway
        self._intents = intents
        self._pix = pix
        self._token = token
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
            ("POST", "/accounts/{account}/payout", self._payout),
            ("POST", "/reset", self._reset),
            ("GET", "/health", self._health),
        ]
        return control_routes(table, self._token, self._gateway.books)

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
        return json_answer({"status": "ok", "sandbox": "gateway", "accounts": len(self._gateway.accounts)})

    async def _reset(self, _request: Request) -> Response:
        self._gateway.forget()
        await self._gateway.books.clear()
        return json_answer({"status": "empty"})

    # -- accounts ------------------------------------------------------------------------------------------------

    def _describe(self, account: Account) -> dict[str, Any]:
        places = {"base_url": self._base_url, "pix_base_url": self.pix_base_url, "certificates": self.certificates}
        return {"account": account.name, **places, **account.settings.model_dump(mode="json")}

    async def _accounts(self, _request: Request) -> Response:
        return json_answer({"accounts": sorted(self._gateway.accounts)})

    async def _shown(self, request: Request) -> Response:
        return json_answer(self._describe(self._account(request)))

    async def _put_account(self, request: Request) -> Response:
        name = request.path_params["account"]
        given = json_object(await request.body())
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
        return json_answer(self._describe(self._gateway.put_account(name, settings)), 200 if known else 201)

    async def _vices(self, request: Request) -> Response:
        account = self._account(request)
        vices = GatewayVices.model_validate_json(await request.body())
        settings = account.settings.model_copy(update={"vices": vices, "vices_since_ms": now_ms()})
        self._gateway.put_account(account.name, settings)
        return json_answer({"vices": vices.model_dump(mode="json", exclude_none=True)})

    async def _payments(self, request: Request) -> Response:
        account = self._account(request)
        return json_answer({"at_ms": now_ms(), "payments": [_sums(one) for one in account.payments.values()]})

    # -- what buyers and their banks do --------------------------------------------------------------------------

    async def _card(self, request: Request) -> Response:
        account = self._account(request)
        body = CardBody.model_validate_json(await request.body() or b"{}")
        digits = next(number for number, behaviour in CARDS.items() if behaviour == body.kind)
        card = tokenise(self._gateway, account, digits, 12, 2034)
        return json_answer({"token": card.token, "brand": card.brand, "last4": card.last4}, 201)

    async def _pay(self, request: Request) -> Response:
        account = self._account(request)
        payment = self._payment(request, account, "pix")
        body = PayBody.model_validate_json(await request.body() or b"{}")
        reason = self._pix.pay(account, payment, body.amount_minor)
        if reason is not None:
            raise Refused(409, {"reason": reason, "error": f"this charge cannot be paid: {reason}"})
        paid = {"end_to_end_id": payment.charge_id, "paid_at_ms": payment.captured_ms}
        return json_answer({"reference": payment.reference, "amount_minor": payment.captured_minor, **paid}, 201)

    async def _authenticate(self, request: Request) -> Response:
        account = self._account(request)
        payment = self._payment(request, account, "card")
        body = AuthenticateBody.model_validate_json(await request.body() or b"{}")
        with _state_told():
            self._intents.authenticate(account, payment, accept=body.accept)
        return json_answer({"reference": payment.reference, "status": payment.status})

    async def _dispute(self, request: Request) -> Response:
        account = self._account(request)
        payment = self._payment(request, account, "card")
        body = DisputeBody.model_validate_json(await request.body() or b"{}")
        with _state_told():
            dispute_id = self._intents.dispute(account, payment, body.reason, body.amount_minor)
        return json_answer({"reference": payment.reference, "dispute_id": dispute_id}, 201)

    async def _close(self, request: Request) -> Response:
        account = self._account(request)
        payment = self._payment(request, account, "card")
        body = CloseBody.model_validate_json(await request.body())
        with _state_told():
            self._intents.close_dispute(account, payment, body.outcome)
        return json_answer({"reference": payment.reference, "status": body.outcome})

    async def _payout(self, request: Request) -> Response:
        made = pay_out(self._gateway, self._account(request))
        return json_answer({"payouts": [{"payout_id": one["id"], "amount_minor": total(one)} for one in made]}, 201)


@contextmanager
def _state_told() -> Iterator[None]:
    try:
        yield
    except StripeError as error:
        raise Refused(409, {"reason": "state", "error": str(error)}) from None


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
        "fee_minor": payment.fee_minor + (dispute["fee_minor"] if dispute else 0),
    }

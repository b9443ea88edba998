"""Stripe's API over HTTP: form-encoded requests with `Authorization: Bearer sk_…`, JSON answers.

Idempotency keys as Stripe documents them: an answer, an error too, is kept for 24 hours and given again (with
`Idempotent-Replayed: true`) to the same key with the same path and parameters; another request with the key is refused
with 400 `idempotency_error`; while the first is under way the key answers 409 `idempotency_key_in_use`. What was turned
away before it began (401, 429, bad parameters) is not kept.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox import gateway_stripe_objects as objects
from services.sandbox.books import Documents, now_ms
from services.sandbox.gateway_accounts import Account, Endpoint, Gateway, Operation, Payment, drawn_id
from services.sandbox.gateway_intents import Intents, StripeError, new_reference
from services.sandbox.gateway_payouts import payout_shown, transaction_shown
from services.sandbox.writes import TIMEOUT_HOLD_S

_BODY_MAX = 100_000
_KEY_MAX = 255
_LATE_MS = 5_000
_AMOUNT_MAX = 99_999_999
_SEARCH = re.compile(r"""^\s*metadata\[["']([^"']+)["']\]\s*:\s*["']([^"']*)["']\s*$""")
_CURRENCY = re.compile(r"^[a-z]{3}$")
_REASONS: Final = ("duplicate", "fraudulent", "requested_by_customer")
_CANCEL_REASONS: Final = (*_REASONS, "abandoned")
_CAPTURE_METHODS: Final = ("automatic", "automatic_async", "manual")


@dataclass(frozen=True, slots=True)
class Call:
    """A request that has passed the door: whose it is, its path and parameters (bracket names nested)."""

    account: Account
    path: dict[str, str]
    given: dict[str, Any]
    key: str | None = None
    vice: dict[str, str] = field(default_factory=dict)

    @property
    def expand(self) -> frozenset[str]:
        wanted = self.given.get("expand", [])
        return frozenset(wanted if isinstance(wanted, list) else [])

    def text(self, name: str, *, required: bool = False) -> str | None:
        """A parameter that is plain text; an empty one counts as left out."""
        value = self.given.get(name)
        if value is not None and not isinstance(value, str):
            raise StripeError(400, f"Invalid string: {name}", param=name)
        if required and not value:
            raise StripeError(400, f"Missing required param: {name}.", code="parameter_missing", param=name)
        return value or None

    def amount(self, name: str, *, required: bool = False) -> int | None:
        """A parameter that is an amount above zero in the currency's smallest unit."""
        text = self.text(name, required=required)
        if text is None:
            return None
        if not text.isdecimal() or not text.isascii():
            raise StripeError(400, f"Invalid integer: {text}", code="parameter_invalid_integer", param=name)
        value = int(text)
        if not 1 <= value <= _AMOUNT_MAX:
            code = "amount_too_large" if value else "parameter_invalid_integer"
            raise StripeError(400, f"{name} must be from 1 to {_AMOUNT_MAX}", code=code, param=name)
        return value

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """A parameter with a fixed set of values."""
        text = self.text(name)
        if text is not None and text not in allowed:
            raise StripeError(400, f"Invalid {name}: must be one of {', '.join(allowed)}", param=name)
        return text

    def metadata(self) -> dict[str, str]:
        given = self.given.get("metadata") or {}
        if not isinstance(given, dict) or not all(isinstance(one, str) for one in given.values()):
            raise StripeError(400, "Invalid object: metadata", param="metadata")
        if len(given) > 50 or any(len(name) > 40 or len(one) > 500 for name, one in given.items()):
            raise StripeError(400, "metadata holds 50 keys of 40 characters with 500 each", param="metadata")
        return given


Handler = Callable[["StripeFace", Call], dict[str, Any]]


def nested(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """`metadata[a]=1&expand[]=x` as `{"metadata": {"a": "1"}, "expand": ["x"]}`, as deep as the brackets go."""
    made: dict[str, Any] = {}
    for name, value in pairs:
        head, *rest = name.replace("]", "").split("[")
        place, step = made, head
        for following in rest:
            if not following or following.isdecimal():
                kept = place.setdefault(step, [])
                if isinstance(kept, list):
                    kept.append(value)
                break
            below = place.setdefault(step, {})
            if not isinstance(below, dict):
                raise StripeError(400, f"Invalid object: {name}", param=name)
            place, step = below, following
        else:
            place[step] = value
    return made


def _json(status: int, body: dict[str, Any], **headers: str) -> Response:
    text = json.dumps(body, ensure_ascii=False, indent=2)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(text, status, {"Request-Id": drawn_id("req"), **named}, "application/json")


class StripeFace:
    """The routes of Stripe's API."""

    def __init__(self, gateway: Gateway, intents: Intents, base_url: str) -> None:
        self._gateway = gateway
        self._intents = intents
        self._base_url = base_url

    def routes(self) -> list[Route]:
        face = StripeFace
        table: list[tuple[str, str, Operation | None, Handler]] = [
            ("POST", "/payment_methods", None, face._create_card),
            ("GET", "/payment_methods/{id}", None, face._card),
            ("POST", "/payment_intents", "open", face._create),
            ("GET", "/payment_intents/search", None, face._search),
            ("GET", "/payment_intents/{id}", None, face._intent),
            ("POST", "/payment_intents/{id}/confirm", "charge", face._confirm),
            ("POST", "/payment_intents/{id}/capture", "capture", face._capture),
            ("POST", "/payment_intents/{id}/cancel", "void", face._cancel),
            ("GET", "/charges/{id}", None, face._charge),
            ("GET", "/balance_transactions", None, face._paid_out),
            ("GET", "/balance_transactions/{id}", None, face._balance_transaction),
            ("GET", "/payouts", None, face._payouts),
            ("POST", "/refunds", "refund", face._create_refund),
            ("GET", "/refunds", None, face._refunds),
            ("GET", "/refunds/{id}", None, face._refund),
            ("GET", "/disputes/{id}", None, face._dispute),
            ("POST", "/webhook_endpoints", None, face._create_endpoint),
            ("GET", "/webhook_endpoints", None, face._endpoints),
            ("GET", "/webhook_endpoints/{id}", None, face._endpoint),
            ("DELETE", "/webhook_endpoints/{id}", None, face._delete_endpoint),
            ("GET", "/events", None, face._events),
            ("GET", "/events/{id}", None, face._event),
            ("GET", "/account", None, face._account_shown),
        ]
        return [
            Route(f"/v1{path}", self._answered(handler, operation), methods=[method])
            for method, path, operation, handler in table
        ]

    # -- around every request ------------------------------------------------------------------------------------

    def _answered(self, handler: Handler, operation: Operation | None) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                account = self._account(request)
                slow_ms = account.temper.strikes("slow", now_ms())
                if slow_ms:
                    await asyncio.sleep(slow_ms / 1000)
                if not self._gateway.fits(account) or account.temper.strikes("throttled", now_ms()) is not None:
                    raise StripeError(429, "Too many requests. Please retry with backoff.", code="rate_limit")
                given = nested(await self._pairs(request))
                key = request.headers.get("idempotency-key") if request.method == "POST" else None
                call = Call(account, dict(request.path_params), given, key)
                if key is None:
                    return await self._perform(handler, operation, call, None)
                return await self._once(handler, operation, call, request.url.path)
            except StripeError as error:
                return _json(error.status, {"error": error.error})

        return answer

    def _account(self, request: Request) -> Account:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        account = self._gateway.by_credential.get(key) if scheme.lower() == "bearer" else None
        if account is None or account.settings.credentials["secret_key"] != key:
            # Not even a part of the wrong key is repeated: it may be a right one of elsewhere.
            raise StripeError(401, "Invalid API Key provided.")
        return account

    async def _pairs(self, request: Request) -> list[tuple[str, str]]:
        if request.method != "POST":
            return parse_qsl(request.url.query, keep_blank_values=True)
        raw = await request.body()
        if len(raw) > _BODY_MAX:
            raise StripeError(413, "Request body is too large.")
        try:
            return parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=1000)
        except ValueError:
            raise StripeError(400, "The body is not a form.") from None

    async def _once(self, handler: Handler, operation: Operation | None, call: Call, path: str) -> Response:
        account, key = call.account, call.key
        assert key is not None
        if len(key) > _KEY_MAX:
            raise StripeError(400, f"Idempotency keys are at most {_KEY_MAX} characters.", kind="idempotency_error")
        text = json.dumps([path, call.given], sort_keys=True)
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        kept = account.answers.get(key)
        if kept is not None and kept["at_ms"] + account.settings.key_life_s * 1000 < now_ms():
            kept = None
        if kept is not None:
            if kept["fingerprint"] != fingerprint:
                message = "Keys for idempotent requests can only be used with the same parameters and endpoint."
                raise StripeError(400, message, kind="idempotency_error")
            return _json(kept["status"], kept["body"], Idempotent_Replayed="true", Idempotency_Key=key)
        if key in account.keys_in_use:
            message = "There is currently another in-progress request using this Idempotent Key."
            raise StripeError(409, message, kind="idempotency_error", code="idempotency_key_in_use")
        return await self._perform(handler, operation, call, fingerprint)

    async def _perform(
        self, handler: Handler, operation: Operation | None, call: Call, fingerprint: str | None
    ) -> Response:
        """Do the request, now or as the vices want it."""
        account, now = call.account, now_ms()
        temper = account.temper
        exposed = operation is not None and operation in account.settings.vices.operations
        if exposed and (late_ms := temper.strikes("charge_late", now)) is not None:
            if call.key is not None:
                account.keys_in_use.add(call.key)
            late = self._marked(call, "charge_late")
            self._gateway.later(account, now + (late_ms or _LATE_MS), lambda: self._do(handler, late, fingerprint))
            return await self._silence()
        if exposed and temper.strikes("charge_timeout", now) is not None:
            self._do(handler, self._marked(call, "charge_timeout"), fingerprint)
            return await self._silence()
        if exposed and temper.strikes("charge_error", now) is not None:
            status, body = self._do(handler, self._marked(call, "charge_error"), fingerprint, broken=True)
        else:
            status, body = self._do(handler, call, fingerprint)
        await self._gateway.books.settled()
        return _json(status, body) if call.key is None else _json(status, body, Idempotency_Key=call.key)

    @staticmethod
    def _marked(call: Call, vice: str) -> Call:
        return Call(call.account, call.path, call.given, call.key, {"vice": vice})

    async def _silence(self) -> Response:
        await self._gateway.books.settled()
        await asyncio.sleep(TIMEOUT_HOLD_S)
        return _json(504, {"error": {"type": "api_error", "message": "The request timed out."}})

    def _do(
        self, handler: Handler, call: Call, fingerprint: str | None, *, broken: bool = False
    ) -> tuple[int, dict[str, Any]]:
        """Execute and keep the answer beside what it did, in one go: nothing else runs in between."""
        account, key = call.account, call.key
        kept = True
        try:
            status, body = 200, handler(self, call)
        except StripeError as error:
            status, body = error.status, {"error": error.error}
            # Bad parameters are found before anything begins.
            kept = "param" not in error.error
        if broken:
            status, body = 500, {"error": {"type": "api_error", "message": "An unknown error occurred."}}
        if key is not None and fingerprint is not None:
            account.keys_in_use.discard(key)
            if kept:
                answer = {"fingerprint": fingerprint, "at_ms": now_ms(), "status": status, "body": body}
                account.answers[key] = answer
                self._gateway.commit(account, (), now_ms(), {("answer", key): answer})
        return status, body

    # -- payment methods and intents -----------------------------------------------------------------------------

    def _create_card(self, call: Call) -> dict[str, Any]:
        given = call.given.get("card")
        if isinstance(given, dict) and "number" in given:
            message = "Sending credit card numbers directly to the Stripe API is generally unsafe. Use the hosted page."
            raise StripeError(402, message)
        message = "A card is tokenised on the hosted page /sandbox/cards, never through the API."
        raise StripeError(400, message, param="card")

    def _card(self, call: Call) -> dict[str, Any]:
        card = call.account.cards.get(call.path["id"])
        if card is None:
            raise self._missing("PaymentMethod", call.path["id"], "payment_method")
        return objects.card(card)

    @staticmethod
    def _missing(kind: str, wanted: str, param: str) -> StripeError:
        return StripeError(404, f"No such {kind}: '{wanted}'", code="resource_missing", param=param)

    def _payment(self, call: Call, reference: str) -> Payment:
        payment = call.account.payments.get(reference)
        if payment is None or payment.method != "card":
            raise self._missing("payment_intent", reference, "intent")
        return payment

    def _shown(self, call: Call, payment: Payment) -> dict[str, Any]:
        return objects.intent(payment, self._base_url, call.expand)

    def _create(self, call: Call) -> dict[str, Any]:
        amount_minor = call.amount("amount", required=True)
        currency = call.text("currency", required=True)
        assert amount_minor is not None
        assert currency is not None
        currency = currency.lower()
        if not _CURRENCY.match(currency):
            raise StripeError(400, f"Invalid currency: {currency}", param="currency")
        token = call.text("payment_method")
        payment = Payment(
            reference=new_reference(),
            method="card",
            status="requires_confirmation" if token else "requires_payment_method",
            amount_minor=amount_minor,
            currency=currency,
            created_ms=now_ms(),
            capture_method=call.one_of("capture_method", _CAPTURE_METHODS) or "automatic_async",
            token=self._intents.card(call.account, token).token if token else None,
            return_url=call.text("return_url"),
            metadata=call.metadata(),
            description=call.text("description"),
        )
        confirm = call.one_of("confirm", ("true", "false")) == "true"
        self._intents.create(call.account, payment, call.key, call.vice)
        if confirm:
            self._intents.confirm(call.account, payment, None, None, call.key, call.vice)
        return self._shown(call, payment)

    def _intent(self, call: Call) -> dict[str, Any]:
        return self._shown(call, self._payment(call, call.path["id"]))

    def _search(self, call: Call) -> dict[str, Any]:
        found = _SEARCH.match(call.text("query", required=True) or "")
        if found is None:
            raise StripeError(400, "This sandbox searches by metadata['key']:'value' only.", param="query")
        name, value = found.groups()
        # Stripe's search sees a payment some time after it was made.
        before_ms = now_ms() - call.account.settings.search_delay_ms
        hits = [
            self._shown(call, one)
            for one in reversed(call.account.payments.values())
            if one.method == "card" and one.metadata.get(name) == value and one.created_ms <= before_ms
        ]
        shown = {"object": "search_result", "url": "/v1/payment_intents/search", "has_more": False, "next_page": None}
        return shown | {"data": hits}

    def _confirm(self, call: Call) -> dict[str, Any]:
        payment = self._payment(call, call.path["id"])
        token, return_url = call.text("payment_method"), call.text("return_url")
        self._intents.confirm(call.account, payment, token, return_url, call.key, call.vice)
        return self._shown(call, payment)

    def _capture(self, call: Call) -> dict[str, Any]:
        payment = self._payment(call, call.path["id"])
        self._intents.capture(call.account, payment, call.amount("amount_to_capture"), call.key, call.vice)
        return self._shown(call, payment)

    def _cancel(self, call: Call) -> dict[str, Any]:
        payment = self._payment(call, call.path["id"])
        reason = call.one_of("cancellation_reason", _CANCEL_REASONS)
        self._intents.cancel(call.account, payment, reason, call.key, call.vice)
        return self._shown(call, payment)

    # -- charges, refunds, disputes ------------------------------------------------------------------------------

    def _by_charge(self, call: Call, charge_id: str | None) -> Payment:
        for payment in call.account.payments.values():
            if payment.method == "card" and payment.charge_id == charge_id and charge_id is not None:
                return payment
        raise self._missing("charge", charge_id or "", "charge")

    def _charge(self, call: Call) -> dict[str, Any]:
        return objects.charge(self._by_charge(call, call.path["id"]), call.expand)

    def _balance_transaction(self, call: Call) -> dict[str, Any]:
        wanted = call.path["id"]
        payment = self._by_charge(call, f"ch_{wanted[5:]}" if wanted.startswith("txn_") else None)
        if payment.captured_minor == 0:
            raise self._missing("balance transaction", wanted, "id")
        return objects.balance_transaction(payment)

    def _payouts(self, call: Call) -> dict[str, Any]:
        newest_first = [payout_shown(one) for one in reversed(call.account.payouts.values())]
        return self._page(call, newest_first, "/v1/payouts")

    def _paid_out(self, call: Call) -> dict[str, Any]:
        """This sandbox lists balance transactions of a payout only."""
        wanted = call.text("payout", required=True) or ""
        payout = call.account.payouts.get(wanted)
        if payout is None:
            raise self._missing("payout", wanted, "payout")
        expanded = "data.source" in call.expand
        shown = [transaction_shown(payout, one, expanded=expanded) for one in payout["transactions"]]
        return self._page(call, shown, "/v1/balance_transactions")

    def _page(self, call: Call, found: list[dict[str, Any]], url: str) -> dict[str, Any]:
        limit = min(call.amount("limit") or 10, 100)
        after = call.text("starting_after")
        if after is not None:
            ids = [one["id"] for one in found]
            if after not in ids:
                raise self._missing("object", after, "starting_after")
            found = found[ids.index(after) + 1 :]
        return objects.listed(found[:limit], url, has_more=len(found) > limit)

    def _refunded(self, call: Call) -> Payment:
        reference = call.text("payment_intent")
        if reference is not None:
            return self._payment(call, reference)
        charge_id = call.text("charge")
        if charge_id is None:
            raise StripeError(400, "One of the following params should be provided: payment_intent or charge.")
        return self._by_charge(call, charge_id)

    def _create_refund(self, call: Call) -> dict[str, Any]:
        payment = self._refunded(call)
        reason, metadata = call.one_of("reason", _REASONS), call.metadata()
        made = self._intents.refund(call.account, payment, call.amount("amount"), reason, metadata, call.key, call.vice)
        return objects.refund(payment, made)

    def _refunds(self, call: Call) -> dict[str, Any]:
        payment = self._refunded(call)
        return objects.listed([objects.refund(payment, one) for one in reversed(payment.refunds)], "/v1/refunds")

    def _refund(self, call: Call) -> dict[str, Any]:
        for payment in call.account.payments.values():
            for one in payment.refunds:
                if payment.method == "card" and one.refund_id == call.path["id"]:
                    return objects.refund(payment, one)
        raise self._missing("refund", call.path["id"], "id")

    def _dispute(self, call: Call) -> dict[str, Any]:
        for payment in call.account.payments.values():
            if payment.dispute is not None and payment.dispute["id"] == call.path["id"]:
                return objects.dispute(payment)
        raise self._missing("dispute", call.path["id"], "id")

    # -- webhooks, events, account -------------------------------------------------------------------------------

    def _create_endpoint(self, call: Call) -> dict[str, Any]:
        url = call.text("url", required=True) or ""
        events = call.given.get("enabled_events")
        if not url.startswith(("http://", "https://")):
            raise StripeError(400, "Not a valid URL", code="url_invalid", param="url")
        if not isinstance(events, list) or not events:
            message = "Missing required param: enabled_events."
            raise StripeError(400, message, code="parameter_missing", param="enabled_events")
        made = Endpoint(drawn_id("we"), url, now_ms(), drawn_id("whsec"), [str(one) for one in events])
        self._keep_endpoint(call.account, made)
        return objects.endpoint(made, with_secret=True)

    def _keep_endpoint(self, account: Account, one: Endpoint) -> None:
        account.endpoints[one.endpoint_id] = one
        shown = {name: getattr(one, name) for name in Endpoint.__dataclass_fields__}
        documents: Documents = {("endpoint", one.endpoint_id): shown}
        self._gateway.commit(account, (), now_ms(), documents)

    def _found_endpoint(self, call: Call) -> Endpoint:
        one = call.account.endpoints.get(call.path["id"])
        if one is None or not one.secret:
            raise self._missing("webhook endpoint", call.path["id"], "webhook_endpoint")
        return one

    def _endpoint(self, call: Call) -> dict[str, Any]:
        return objects.endpoint(self._found_endpoint(call), with_secret=False)

    def _endpoints(self, call: Call) -> dict[str, Any]:
        of_stripe = [one for one in call.account.endpoints.values() if one.secret]
        return objects.listed([objects.endpoint(one, with_secret=False) for one in of_stripe], "/v1/webhook_endpoints")

    def _delete_endpoint(self, call: Call) -> dict[str, Any]:
        one = self._found_endpoint(call)
        del call.account.endpoints[one.endpoint_id]
        self._gateway.commit(call.account, (), now_ms(), {("endpoint", one.endpoint_id): None})
        return {"id": one.endpoint_id, "object": "webhook_endpoint", "deleted": True}

    def _events(self, call: Call) -> dict[str, Any]:
        limit = min(call.amount("limit") or 10, 100)
        newest_first = list(reversed(call.account.events.values()))
        after = call.text("starting_after")
        if after is not None:
            ids = [one["id"] for one in newest_first]
            if after not in ids:
                raise StripeError(400, f"No such event: '{after}'", code="resource_missing", param="starting_after")
            newest_first = newest_first[ids.index(after) + 1 :]
        return objects.listed(newest_first[:limit], "/v1/events", has_more=len(newest_first) > limit)

    def _event(self, call: Call) -> dict[str, Any]:
        event = call.account.events.get(call.path["id"])
        if event is None:
            raise self._missing("event", call.path["id"], "id")
        return event

    def _account_shown(self, call: Call) -> dict[str, Any]:
        return objects.account(call.account)

"""The gateway's own pages: where a buyer types a card, and where their bank asks whether it is really them.

Card digits are seen here and nowhere else: they become a token and are forgotten, and the books keep the last four.

GET /sandbox/cards?return_url=…[&key=pk_test_…]: the form; `key` names the merchant where there is more than one.
POST the same with number, month, year, code: back to return_url with `token=pm_…` (303), or the form and what is wrong.
GET and POST /sandbox/authenticate/{reference}: the bank's question; the answer (accept=yes or no) goes back to the
payment's return_url with `payment_intent` and `redirect_status` (succeeded, failed).
"""

import html
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from services.sandbox.gateway_accounts import Account, Gateway, Payment
from services.sandbox.gateway_intents import CARDS, Intents, StripeError, tokenise

_BODY_MAX = 10_000
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}
PAGE = """<!doctype html><html lang="pt-BR"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><style>body{{font:16px sans-serif;max-width:26rem;margin:3rem auto;
padding:0 1rem}}label{{display:block;margin:.8rem 0}}input{{font:inherit;width:100%}}.wrong{{color:#a00}}</style>
<h1>{title}</h1>{body}</html>"""
_FORM = """<p class="wrong">{wrong}</p><form method="post">
<label>Número do cartão / card number <input name="number" inputmode="numeric" autocomplete="off" required></label>
<label>Mês / month <input name="month" value="12" required></label>
<label>Ano / year <input name="year" value="2034" required></label>
<label>Código / code <input name="code" inputmode="numeric" autocomplete="off" required></label>
<button>Usar este cartão / use this card</button></form>
<p>Teste / test:<br>{cards}</p>"""
_QUESTION = """<p>{amount} {currency}</p><form method="post">
<button name="accept" value="yes">Sou eu / it is me</button> <button name="accept" value="no">Recusar / refuse</button>
</form>"""


def luhn(digits: str) -> bool:
    """Whether a card number's check digit is right (ISO/IEC 7812-1)."""
    doubled = (int(one) * (2 if place % 2 else 1) for place, one in enumerate(reversed(digits)))
    return sum(one - 9 if one > 9 else one for one in doubled) % 10 == 0


def with_query(url: str, **more: str) -> str:
    """A URL with parameters added to those it has."""
    parts = urlsplit(url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *more.items()])
    return urlunsplit(parts._replace(query=query))


def _page(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(PAGE.format(title=html.escape(title), body=body), status, HEADERS)


def _back(url: str, **more: str) -> Response:
    return RedirectResponse(with_query(url, **more), 303, {"Cache-Control": "no-store"})


async def _form(request: Request) -> dict[str, str]:
    raw = await request.body()
    return dict(parse_qsl(raw.decode(errors="replace"))) if len(raw) <= _BODY_MAX else {}


class CardPages:
    """The routes of the pages."""

    def __init__(self, gateway: Gateway, intents: Intents) -> None:
        self._gateway = gateway
        self._intents = intents

    def routes(self) -> list[Route]:
        return [
            Route("/sandbox/cards", self._cards, methods=["GET", "POST"]),
            Route("/sandbox/authenticate/{reference}", self._authenticate, methods=["GET", "POST"]),
        ]

    def _merchant(self, request: Request) -> Account | None:
        key = request.query_params.get("key")
        if key is None:
            accounts = list(self._gateway.accounts.values())
            return accounts[0] if len(accounts) == 1 else None
        account = self._gateway.by_credential.get(key)
        known = account is not None and account.settings.credentials["publishable_key"] == key
        return account if known else None

    async def _cards(self, request: Request) -> Response:
        account, return_url = self._merchant(request), request.query_params.get("return_url", "")
        if account is None:
            return _page("Cartão / card", "<p>key: the merchant's publishable key is missing or unknown</p>", 400)
        if urlsplit(return_url).scheme not in ("http", "https") or not urlsplit(return_url).hostname:
            return _page("Cartão / card", "<p>return_url: a whole http or https address is wanted</p>", 400)
        given = await _form(request) if request.method == "POST" else None
        wrong = "" if given is None else self._wrong(given)
        if given is None or wrong:
            cards = "<br>".join(f"{number} {behaviour}" for number, behaviour in CARDS.items())
            return _page("Cartão / card", _FORM.format(wrong=html.escape(wrong), cards=cards), 422 if wrong else 200)
        digits = given["number"].replace(" ", "")
        card = tokenise(self._gateway, account, digits, int(given["month"]), int(given["year"]))
        await self._gateway.books.settled()
        return _back(return_url, token=card.token)

    @staticmethod
    def _wrong(given: dict[str, str]) -> str:
        digits = given.get("number", "").replace(" ", "")
        if not (digits.isascii() and digits.isdecimal() and 13 <= len(digits) <= 19 and luhn(digits)):
            return "Número inválido / invalid number"
        month, year, code = (given.get(name, "") for name in ("month", "year", "code"))
        if not (month.isascii() and month.isdecimal() and 1 <= int(month[:3]) <= 12):
            return "Mês inválido / invalid month"
        if not (year.isascii() and year.isdecimal() and len(year) == 4):
            return "Ano inválido / invalid year"
        if not (code.isascii() and code.isdecimal() and len(code) in (3, 4)):
            return "Código inválido / invalid code"
        return ""

    def _waiting(self, reference: str) -> tuple[Account, Payment] | None:
        for account in self._gateway.accounts.values():
            payment = account.payments.get(reference)
            if payment is not None and payment.method == "card":
                return account, payment
        return None

    async def _authenticate(self, request: Request) -> Response:
        found = self._waiting(request.path_params["reference"])
        if found is None:
            return _page("Banco / bank", "<p>no such payment</p>", 404)
        account, payment = found
        if request.method == "GET":
            if payment.status != "requires_action":
                return _page("Banco / bank", "<p>Nada a confirmar / nothing to confirm</p>", 409)
            amount = f"{payment.amount_minor // 100}.{payment.amount_minor % 100:02d}"
            return _page(
                "Banco / bank", _QUESTION.format(amount=amount, currency=html.escape(payment.currency.upper()))
            )
        accept = (await _form(request)).get("accept") == "yes"
        try:
            self._intents.authenticate(account, payment, accept=accept)
        except StripeError as error:
            return _page("Banco / bank", f"<p>{html.escape(str(error))}</p>", 409)
        await self._gateway.books.settled()
        assert payment.return_url is not None
        status = "succeeded" if accept else "failed"
        return _back(payment.return_url, payment_intent=payment.reference, redirect_status=status)

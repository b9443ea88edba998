"""The gateway's own pages: where a buyer types a card, and where their bank asks whether it is really them.

Card digits are seen here and nowhere else: they become a token and are forgotten, and the books keep the last four.

GET /sandbox/cards?return_url=…[&key=pk_test_…]: the form; `key` names the merchant where there is more than one.
POST the same with number, month, year, code: back to return_url with `token=pm_…` (303), or the form and what is wrong.
GET and POST /sandbox/authenticate/{reference}: the bank's question; the answer (accept=yes or no) goes back to the
payment's return_url with `payment_intent` and `redirect_status` (succeeded, failed).
"""

import html
from pathlib import Path
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
STYLE: Final = (Path(__file__).parent / "storefront_templates" / "style.css").read_text("utf-8")
"""The storefront's own sheet, within the page: a buyer who goes from one to the other stays in one look."""
PAGE: Final = """<!doctype html>
<html lang="pt-BR">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}
main {{ max-width: 30rem; }}
td {{ padding: .2rem 1rem .2rem 0; }}
</style>
</head>
<body>
<header class="top"><span class="brand">{title}</span></header>
<main><div class="card">{body}</div></main>
<footer>Ambiente de teste: nenhum dinheiro é movido. / A sandbox: no money moves.</footer>
</body>
</html>"""
_FORM = """<h1>Dados do cartão / card details</h1>{wrong}
<form method="post" class="fields">
<div class="field"><label for="number">Número do cartão / card number</label>
<input type="text" id="number" name="number" inputmode="numeric" autocomplete="off" required autofocus></div>
<div class="field little"><label for="month">Mês / month</label>
<input type="text" id="month" name="month" inputmode="numeric" value="12" required></div>
<div class="field little"><label for="year">Ano / year</label>
<input type="text" id="year" name="year" inputmode="numeric" value="2034" required></div>
<div class="field little"><label for="code">Código / code</label>
<input type="text" id="code" name="code" inputmode="numeric" autocomplete="off" required></div>
<button class="wide">Usar este cartão / use this card</button></form>
<p class="soft">Cartões de teste / test cards:</p><table class="soft">{cards}</table>"""
_QUESTION = """<h1>É você quem está pagando? / is it you who pays?</h1><p class="total"><span>Total</span>
<strong>{currency} {amount}</strong></p><form method="post">
<p><button class="wide" name="accept" value="yes">Sou eu / it is me</button></p>
<p><button class="wide quiet" name="accept" value="no">Recusar / refuse</button></p></form>"""
_MEANS: Final = {
    "ok": "paga / pays",
    "declined": "recusado / declined",
    "insufficient": "sem saldo / no funds",
    "authenticate": "o banco pergunta / the bank asks",
    "disputed": "paga, depois contesta / pays, then disputes",
}


def luhn(digits: str) -> bool:
    """Whether a card number's check digit is right (ISO/IEC 7812-1)."""
    doubled = (int(one) * (2 if place % 2 else 1) for place, one in enumerate(reversed(digits)))
    return sum(one - 9 if one > 9 else one for one in doubled) % 10 == 0


def with_query(url: str, **more: str) -> str:
    """A URL with parameters added to those it has."""
    parts = urlsplit(url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *more.items()])
    return urlunsplit(parts._replace(query=query))


def page(title: str, body: str, status: int = 200) -> Response:
    """A page in the storefront's look. `body` is HTML."""
    return HTMLResponse(PAGE.format(title=html.escape(title), style=STYLE, body=body), status, HEADERS)


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
            return page("Cartão / card", "<p>key: the merchant's publishable key is missing or unknown</p>", 400)
        if urlsplit(return_url).scheme not in ("http", "https") or not urlsplit(return_url).hostname:
            return page("Cartão / card", "<p>return_url: a whole http or https address is wanted</p>", 400)
        given = await _form(request) if request.method == "POST" else None
        wrong = "" if given is None else self._wrong(given)
        if given is None or wrong:
            cards = "".join(
                f"<tr><td><code>{number}</code></td><td>{_MEANS[behaviour]}</td></tr>"
                for number, behaviour in CARDS.items()
            )
            told = f'<p class="wrong" role="alert">{html.escape(wrong)}</p>' if wrong else ""
            return page("Cartão / card", _FORM.format(wrong=told, cards=cards), 422 if wrong else 200)
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
            return page("Banco / bank", "<p>no such payment</p>", 404)
        account, payment = found
        if request.method == "GET":
            if payment.status != "requires_action":
                return page("Banco / bank", "<p>Nada a confirmar / nothing to confirm</p>", 409)
            amount = f"{payment.amount_minor // 100}.{payment.amount_minor % 100:02d}"
            return page("Banco / bank", _QUESTION.format(amount=amount, currency=html.escape(payment.currency.upper())))
        accept = (await _form(request)).get("accept") == "yes"
        try:
            self._intents.authenticate(account, payment, accept=accept)
        except StripeError as error:
            return page("Banco / bank", f"<p>{html.escape(str(error))}</p>", 409)
        await self._gateway.books.settled()
        assert payment.return_url is not None
        status = "succeeded" if accept else "failed"
        return _back(payment.return_url, payment_intent=payment.reference, redirect_status=status)

"""The buyer's bank of the gateway sandbox: a page where a Pix is paid by its text, as an app does after scanning.

GET /sandbox/pix?text=…[&return_url=…]: what is to be paid. POST the same: paid, and back to return_url (303), or the
page and why not.
"""

import html
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from services.sandbox.gateway_accounts import Account, Gateway, Payment
from services.sandbox.gateway_cards import page
from services.sandbox.gateway_pix import PixFace

_QUESTION = """<h1>Pix</h1><p class="total"><span>Total</span> <strong>R$ {amount}</strong></p>
<form method="post"><p><button class="wide">Pagar / pay</button></p></form>"""


class BankPages:
    """The routes of the page."""

    def __init__(self, gateway: Gateway, pix: PixFace) -> None:
        self._gateway, self._pix = gateway, pix

    def routes(self) -> list[Route]:
        return [Route("/sandbox/pix", self._page, methods=["GET", "POST"])]

    def _charge(self, text: str) -> tuple[Account, Payment] | None:
        for account in self._gateway.accounts.values():
            for payment in account.payments.values():
                if payment.method == "pix" and f"/{payment.asked['location']}" in text:
                    return account, payment
        return None

    async def _page(self, request: Request) -> Response:
        found = self._charge(request.query_params.get("text", ""))
        if found is None:
            return _told("<p>Pix desconhecido / no such Pix</p>", 404)
        account, payment = found
        amount = f"{payment.amount_minor // 100},{payment.amount_minor % 100:02d}"
        if request.method == "GET":
            return _told(_QUESTION.format(amount=amount))
        refused = self._pix.pay(account, payment, None)
        await self._gateway.books.settled()
        if refused is not None:
            return _told(f"<p>Não pode ser pago / cannot be paid: {html.escape(refused)}</p>", 409)
        return_url = request.query_params.get("return_url", "")
        if urlsplit(return_url).scheme not in ("http", "https"):
            return _told("<p>Pago / paid</p>")
        return RedirectResponse(return_url, 303, {"Cache-Control": "no-store"})


def _told(body: str, status: int = 200) -> Response:
    return page("Banco / bank", body, status)

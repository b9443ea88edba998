"""The sandbox storefront clicked through as a person does, by its links and forms, on the real API of the shop.

Orders, fulfillment and payments are played by hand; the gateway is its sandbox's own pages.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette

from contracts.channels.v1 import PaymentTold
from services.channels.shop import api as shop_api
from services.sandbox.books import Books, now_ms
from services.sandbox.gateway_accounts import AccountSettings, Gateway, Payment
from services.sandbox.gateway_bank import BankPages
from services.sandbox.gateway_cards import CardPages
from services.sandbox.gateway_intents import Intents
from services.sandbox.gateway_pix import PixFace, copy_and_paste
from services.sandbox.settings import SandboxSettings
from services.sandbox.storefront_control import StorefrontControl
from services.sandbox.storefront_pages import Pages
from services.sandbox.storefront_shops import ShopSettings, Store, Stores
from tests.channels.shop.conftest import BUYER, KEY, Counter, until

pytestmark = pytest.mark.asyncio
TOKEN = "a token for tests"


class Seen(HTMLParser):
    """What a person can click on a page: links by their text, and forms with their fields."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: dict[str, str] = {}
        self.forms: list[dict[str, Any]] = []
        self.refreshes = False
        self._link, self._text = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self._link, self._text = given.get("href", ""), ""
        elif tag == "form":
            self.forms.append({"action": given.get("action", ""), "fields": {}})
        elif tag == "input" and self.forms and given.get("name"):
            fields = self.forms[-1]["fields"]
            if given.get("type") != "radio" or "checked" in given:
                fields[given["name"]] = given.get("value", "")
            if given.get("type") == "radio":
                self.forms[-1].setdefault("choices", []).append(given.get("value", ""))
        elif tag == "meta" and given.get("http-equiv") == "refresh":
            self.refreshes = True

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._link:
            self.links[self._text.strip()] = self._link
            self._link = ""


@dataclass
class Browser:
    """A person with a browser at the storefront."""

    http: httpx.AsyncClient
    url: str = ""
    page: Seen = field(default_factory=lambda: Seen(""))
    text: str = ""

    async def go(self, url: str) -> httpx.Response:
        return self._arrived(await self.http.get(urljoin(self.url, url)))

    async def click(self, link: str) -> httpx.Response:
        return await self.go(next(url for text, url in self.page.links.items() if link in text))

    async def submit(self, action: str, **fields: Any) -> httpx.Response:
        form = next(form for form in self.page.forms if form["action"].endswith(action) or action in form["fields"])
        data = {**form["fields"], **fields}
        return self._arrived(await self.http.post(urljoin(self.url, form["action"] or self.url), data=data))

    def _arrived(self, answer: httpx.Response) -> httpx.Response:
        self.url, self.text, self.page = str(answer.url), answer.text, Seen(answer.text)
        return answer


@dataclass
class Front:
    """The storefront with everything around it."""

    counter: Counter
    store: Store
    stores: Stores
    gateway: Gateway
    browser: Browser
    books: Books

    async def at_orders(self) -> dict[str, Any]:
        """The one basket as orders knows it."""
        return await self.counter.first()

    async def rows(self) -> list[dict[str, Any]]:
        import json

        await self.books.settled()
        return [json.loads(row) for row in await self.books.page(0, 1000)]


@pytest_asyncio.fixture
async def front(counter: Counter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    monkeypatch.setattr(shop_api, "ANSWER_S", 0.0)
    monkeypatch.setattr(shop_api, "OPTIONS_S", 0.0)
    bank_books, books = Books(tmp_path / "gateway.sqlite"), Books(tmp_path / "shop.sqlite")
    gateway = Gateway(bank_books)
    intents, pix = Intents(gateway, "http://bank"), PixFace(gateway)
    bank = Starlette(routes=[*CardPages(gateway, intents).routes(), *BankPages(gateway, pix).routes()])
    gateway.put_account("loja", AccountSettings())
    api = counter.http._transport
    http = httpx.AsyncClient(mounts={"http://shop": api, "http://bank": httpx.ASGITransport(bank)})
    settings = SandboxSettings(token=TOKEN, shop_url="http://shop", gateway_url="http://bank")
    stores = Stores(books, settings, http)
    shown = StorefrontControl(stores, TOKEN, "http://front").routes() + Pages(stores, "http://front").routes()
    mounts = {"http://front": httpx.ASGITransport(Starlette(routes=shown)), "http://bank": httpx.ASGITransport(bank)}
    browser = httpx.AsyncClient(mounts={**mounts, "http://127.0.0.1": api}, follow_redirects=True)
    working = [asyncio.create_task(one) for one in (books.run(), bank_books.run(), stores.follow())]
    store = stores.put("loja", ShopSettings(credentials={"api_key": KEY}, title="Loja Azul", gateway_account="loja"))
    try:
        yield Front(counter, store, stores, gateway, Browser(browser), books)
    finally:
        working.pop().cancel()
        for one in (books, bank_books):
            one.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*working)
        for one in (books, bank_books):
            one.close()
        await browser.aclose()


def typed() -> Mapping[str, Any]:
    address = dict(BUYER["address"])
    return {name: value for name, value in BUYER.items() if name != "address"} | address


async def to_payment(front: Front) -> dict[str, Any]:
    """From the products to the payment page; returns the basket for `tell`."""
    browser, counter = front.browser, front.counter
    assert (await browser.go("http://front/loja")).status_code == 200
    await browser.submit("/cart", sku="CUP")
    assert "Carrinho" in browser.text
    await browser.submit("/cart", quantity="2")
    await browser.submit("/checkout")
    assert browser.page.refreshes, "the stock is being held"
    basket = await front.at_orders()
    await counter.tell(basket, "held", held_for="payment")
    await browser.go(browser.url)
    await browser.submit("/address", **{**typed(), "document": "111"})
    assert "CPF ou CNPJ" in browser.text
    assert "Ana Souza" in browser.text, "what was typed is still there"
    await browser.submit("/address", **typed())
    assert browser.page.refreshes, "the delivery is being worked out"
    await counter.quote(basket, options=(), incomplete=True)
    await browser.go(browser.url)
    assert "As transportadoras não responderam a tempo" in browser.text
    await browser.click("Usar outro endereço")
    await browser.submit("/address", **typed())
    await counter.quote(basket, 2, incomplete=True)
    await browser.go(browser.url)
    assert "Nem todas as transportadoras responderam" in browser.text
    assert next(form for form in browser.page.forms if "choices" in form)["choices"] == ["pac", "sedex"]
    await browser.submit("/delivery")
    assert "Cartão de crédito" in browser.text
    return basket


async def test_a_person_buys_by_card(front: Front) -> None:
    browser, counter = front.browser, front.counter
    basket = await to_payment(front)
    page = browser.page.links["Pagar com cartão"]
    back = parse_qs(urlsplit(page).query)["return_url"][0]
    await browser.go(f"http://bank/sandbox/cards?{urlencode({'return_url': back})}")
    form = {"number": "4242 4242 4242 4242", "month": "12", "year": "2034", "code": "123"}
    typed_card = await browser.http.post(browser.url, data=form, follow_redirects=False)
    await browser.go(typed_card.headers["location"])
    assert "Aguardando a confirmação" in browser.text
    await browser.go(browser.url)
    kept = await counter.kept(basket)
    assert (kept.attempt, kept.gateway) == (1, "stripe")
    await browser.go(typed_card.headers["location"])
    assert (await counter.kept(basket)).attempt == 1, "coming back twice pays once"
    await counter.tell(basket, "confirmed", payment=PaymentTold(status="authorized", attempt=1))
    await browser.go(browser.url)
    assert "Obrigado pela compra" in browser.text
    await browser.click("Acompanhar o pedido")
    assert "Pagamento confirmado" in browser.text
    assert "4242" not in str(await counter.kit.published())


async def test_a_person_pays_by_pix_in_english(front: Front) -> None:
    browser, counter = front.browser, front.counter
    basket = await to_payment(front)
    await browser.click("English")
    await browser.submit("/pix")
    assert "Waiting for the payment" in browser.text
    asked = {"location": "5" * 32, "location_id": 1, "texts": {}, "chave": "k"}
    charge = Payment("t" * 30, "pix", "ATIVA", 5270, "brl", now_ms(), expires_s=600, asked=asked)
    front.gateway.changed(front.gateway.accounts["loja"], charge, [], now_ms())
    text = copy_and_paste(f"pix.example.com/qr/v2/{'5' * 32}", 5270)
    await counter.tell(basket, "held", payment=PaymentTold(status="pending", attempt=1, pix_text=text))
    await browser.go(browser.url)
    assert text in browser.text
    assert "data:image/svg+xml" in browser.text
    here = browser.url
    await browser.click("Pay in the sandbox bank")
    assert "R$ 52,70" in browser.text
    paid = await browser.http.post(browser.url, follow_redirects=False)
    assert (paid.status_code, paid.headers["location"]) == (303, here)
    assert charge.captured_minor == 5270
    await counter.tell(basket, "confirmed", payment=PaymentTold(status="captured", attempt=1))
    await browser.go(here)
    assert "Thank you" in browser.text
    await browser.submit("/cancel")
    assert "received your request" in browser.text
    assert (await counter.kit.published())[-1]["status"] == "cancel_requested"


async def test_a_person_is_told_when_it_is_sold_out_or_given_up(front: Front) -> None:
    browser, counter = front.browser, front.counter
    await browser.go("http://front/loja")
    await browser.submit("/cart", sku="CUP")
    await counter.kit.service.pool.execute("UPDATE shop_products SET quantity = 0 WHERE sku = 'CUP'")
    gone = await browser.submit("/checkout")
    assert (gone.status_code, "não há mais unidades" in browser.text) == (409, True)
    await counter.kit.service.pool.execute("UPDATE shop_products SET quantity = 5 WHERE sku = 'CUP'")
    await browser.submit("/checkout")
    await counter.tell(await front.at_orders(), "held", held_for="payment")
    await browser.go(browser.url)
    await browser.submit("/let-go")
    assert "cancelada a seu pedido" in browser.text
    assert await counter.number() == 5


async def test_pages_that_are_not_there_say_so(front: Front) -> None:
    for url in ("/none", "/none/cart", "/loja/b/none", "/loja/paid", "/none/b/x"):
        answer = await front.browser.go(f"http://front{url}")
        assert (answer.status_code, "Esta página não existe" in answer.text) == (404, True)
    front.stores.put("loja", ShopSettings(credentials={"api_key": "no such key"}))
    closed = await front.browser.go("http://front/loja")
    assert (closed.status_code, "não está aberta" in closed.text) == (503, True)


async def test_the_books_follow_the_numbers_of_the_shop(front: Front) -> None:
    counter = front.counter
    front.stores.opened(front.store, [("CUP", "Copo"), ("SPOON", "Colher")])
    basket = await counter.held({"CUP": 2})
    await counter.ask("DELETE", f"/v1/baskets/{basket['basket']}")

    async def followed() -> bool:
        return front.store.position == 2

    await until(followed)
    rows = await front.rows()
    assert [(row["kind"], row.get("sku") or row["lines"][0]["sku"]) for row in rows] == [
        ("opened", "CUP"),
        ("opened", "SPOON"),
        ("sale", "CUP"),
        ("cancel", "CUP"),
    ]
    sale, cancel = rows[2:]
    assert (sale["order_id"], sale["quantity"], sale["number_after"]) == (basket["number"], 2, 8)
    assert (cancel["order_id"], cancel["lines"][0]["quantity"], cancel["lines"][0]["number_after"]) == (
        basket["number"],
        2,
        10,
    )
    again = Stores(front.books, SandboxSettings(token=TOKEN), httpx.AsyncClient())
    assert (again.shops["loja"].position, again.shops["loja"].numbers) == (2, {"CUP": 10, "SPOON": 0})


async def test_buyers_without_a_browser_walk_the_same_way(front: Front) -> None:
    control = front.browser.http
    headers = {"authorization": f"Bearer {TOKEN}"}

    async def ask(path: str, body: Any) -> httpx.Response:
        return await control.post(f"http://front/_control/shops/loja{path}", json=body, headers=headers)

    async def asked() -> bool:
        return (await front.counter.kept(basket)).quotes > 0

    async def paying() -> bool:
        return (await front.counter.kept(basket)).attempt > 0

    lines = [{"sku": "CUP", "quantity": 1}]
    buying = asyncio.create_task(ask("/buy", {"lines": lines, "pay": "now", "buyer": 1}))
    basket = await front.at_orders()
    await front.counter.tell(basket, "held", held_for="payment")
    await until(asked)
    await front.counter.quote(basket)
    await until(paying)
    await front.counter.tell(basket, "confirmed", payment=PaymentTold(status="captured", attempt=1))
    bought = await buying
    assert (bought.status_code, bought.json()["paid"]) == (201, True), bought.text
    assert bought.json()["order_id"] == (await front.counter.kept(basket)).external_id
    sold_out = await ask("/buy", {"lines": [{"sku": "CUP", "quantity": 99}], "pay": "later"})
    assert (sold_out.status_code, sold_out.json()["reason"]) == (409, "sold_out")
    cancelled = await ask(f"/orders/{bought.json()['order_id']}/cancel", {})
    assert (cancelled.status_code, cancelled.json()["restored"]) == (200, False)
    kinds = [row["kind"] for row in await front.rows()]
    assert kinds.count("payment") == kinds.count("sale_refused") == 1

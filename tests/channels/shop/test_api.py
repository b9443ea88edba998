"""Each call of the shop's API: what it does, and what it refuses."""

import asyncio
import json
from datetime import date
from typing import Any

import asyncpg
import httpx
import pytest

from contracts.channels.v1 import PaymentTold
from services.border.tokens import open_token
from services.channels.shop import api, store
from services.channels.shop.schemas import business_day
from tests.channels.shop.conftest import BUYER, KEY, TOKENS, Counter

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers by himself here, so nothing is waited for."""
    monkeypatch.setattr(api, "ANSWER_S", 0.0)
    monkeypatch.setattr(api, "OPTIONS_S", 0.0)


async def test_the_whole_way_from_basket_to_tracking(counter: Counter) -> None:
    basket = await counter.open({"CUP": 2, "SPOON": 1}, language="en")
    assert (basket["state"], basket["total_minor"], basket["language"]) == ("open", 3 * 1990, "en")
    await counter.tell(basket, "held", held_for="payment")
    assert (await counter.shown(basket))["state"] == "held"

    address = await counter.ask("PUT", f"/v1/baskets/{basket['basket']}/address", BUYER)
    assert (address.status_code, address.json()["state"]) == (202, "choosing")
    waiting = await counter.ask("GET", f"/v1/baskets/{basket['basket']}/delivery-options")
    assert (waiting.status_code, waiting.json()["options"]) == (202, [])
    await counter.quote(basket)
    options = (await counter.ask("GET", f"/v1/baskets/{basket['basket']}/delivery-options")).json()["options"]
    assert [(one["option_id"], one["price_minor"]) for one in options] == [("pac", 1290), ("sedex", 2490)]
    assert all(one["earliest_on"] <= one["latest_on"] for one in options)

    chosen = (await counter.ask("PUT", f"/v1/baskets/{basket['basket']}/delivery", {"option_id": "sedex"})).json()
    assert (chosen["freight_minor"], chosen["total_minor"]) == (2490, 3 * 1990 + 2490)
    methods = (await counter.ask("GET", f"/v1/baskets/{basket['basket']}/payment-methods")).json()["methods"]
    assert [(one["method"], one["page_url"]) for one in methods] == [
        ("card", "http://127.0.0.1:9/cards?key=pk"),
        ("pix", None),
    ]
    paying = await counter.ask("POST", f"/v1/baskets/{basket['basket']}/pay", {"method": "card", "token": "pm_1"})
    assert (paying.status_code, paying.json()["state"], paying.json()["payment"]["status"]) == (202, "paying", "asked")
    await counter.tell(basket, "confirmed", payment=PaymentTold(status="authorized", attempt=1))
    placed = await counter.shown(basket)
    assert (placed["state"], placed["order_state"]) == ("placed", "confirmed")
    page = await counter.http.get(placed["tracking_url"], headers={"authorization": ""})
    assert page.status_code == 200
    assert "Payment confirmed" not in page.text, "Portuguese where nobody says another language"
    assert "Pagamento confirmado" in page.text

    sales = await counter.kit.published()
    assert [sale["revision"] for sale in sales] == [1, 2, 3, 4]
    assert {sale["status"] for sale in sales} == {"awaiting_payment"}
    assert [sale["checkout"]["attempt"] for sale in sales] == [0, 0, 0, 1]
    checkout = sales[-1]["checkout"]
    assert checkout["gateway"] == "stripe"
    assert "pm_1" not in json.dumps(sales), "whoever reads the topic could charge it"
    assert open_token(TOKENS, checkout["token"], tenant="loja", order_id=sales[-1]["order_id"]) == "pm_1"
    assert (sales[-1]["checkout"]["carrier"], sales[-1]["shipping_service"]) == ("correios", "sedex")
    assert all(sale["all_or_nothing"] and sale["shortfall_policy"] == "shared_pool" for sale in sales)
    (buyer,) = await counter.kit.published("channels.buyers.v1")
    assert (buyer["name"], buyer["document"], buyer["contact_allowed"]) == ("Ana Souza", "12345678909", True)
    (quote,) = await counter.kit.published("fulfillment.commands.v1")
    assert (quote["sale_revision"], quote["declared_minor"]) == (buyer["sale_revision"], 3 * 1990)
    assert [(line["sku"], line["quantity"]) for line in quote["lines"]] == [("CUP", 2), ("SPOON", 1)]


async def test_a_basket_lowers_the_number_and_gives_it_back_once(counter: Counter) -> None:
    basket = await counter.held({"CUP": 3})
    assert await counter.number() == 7
    gone = await counter.ask("DELETE", f"/v1/baskets/{basket['basket']}")
    assert (gone.status_code, gone.json()["state"], gone.json()["cancelled_for"]) == (200, "cancelled", "buyer")
    assert (await counter.ask("DELETE", f"/v1/baskets/{basket['basket']}")).status_code == 200
    await counter.tell(basket, "cancelled", cancelled_reason="channel")
    assert await counter.number() == 10
    sale = (await counter.kit.published())[-1]
    assert (sale["status"], sale["lines"][0]["cancelled"]) == ("cancelled", 3)


async def test_what_inventory_lacks_is_sold_out_and_given_back(counter: Counter, monkeypatch: Any) -> None:
    monkeypatch.setattr(api, "ANSWER_S", 30.0)
    body = {"lines": [{"sku": "CUP", "quantity": 2}]}
    asking = asyncio.create_task(counter.ask("POST", "/v1/baskets", body))
    basket = await counter.first()
    await counter.tell(basket, "cancelled", cancelled_reason="sold_out")
    answer = await asking
    assert (answer.status_code, answer.json()["code"]) == (409, "sold_out")
    assert await counter.number() == 10
    assert (await counter.kit.published())[-1]["status"] == "cancelled"


async def test_a_new_basket_is_answered_as_soon_as_it_is_held(counter: Counter, monkeypatch: Any) -> None:
    monkeypatch.setattr(api, "ANSWER_S", 30.0)
    asking = asyncio.create_task(counter.ask("POST", "/v1/baskets", {"lines": [{"sku": "CUP", "quantity": 1}]}))
    basket = await counter.first()
    await counter.tell(basket, "placed")
    await counter.tell(basket, "held", held_for="payment")
    answer = await asking
    assert (answer.status_code, answer.json()["held"]) == (201, True)


async def test_a_double_click_is_one_order(counter: Counter) -> None:
    body = {"lines": [{"sku": "CUP", "quantity": 1}]}
    answers = await asyncio.gather(*(counter.ask("POST", "/v1/baskets", body, key="the same key") for _ in range(5)))
    assert len({answer.json()["basket"] for answer in answers}) == 1
    assert (await counter.number(), await counter.kit.count("shop_baskets")) == (9, 1)
    other = {"lines": [{"sku": "CUP", "quantity": 2}]}
    reused = await counter.ask("POST", "/v1/baskets", other, key="the same key")
    assert (reused.status_code, reused.json()["code"]) == (422, "key_reused")


async def test_paying_twice_with_one_key_is_one_try(counter: Counter) -> None:
    basket = await counter.ready()
    path, body = f"/v1/baskets/{basket['basket']}/pay", {"method": "pix"}
    first, second = await asyncio.gather(*(counter.ask("POST", path, body, key="one click") for _ in range(2)))
    assert first.json()["payment"]["attempt"] == second.json()["payment"]["attempt"] == 1
    again = await counter.ask("POST", path, body)
    assert (again.status_code, again.json()["code"]) == (409, "payment_under_way")


async def test_two_tabs_are_one_basket(counter: Counter) -> None:
    basket = await counter.ready()
    path = f"/v1/baskets/{basket['basket']}"
    answers = await asyncio.gather(
        counter.ask("POST", f"{path}/pay", {"method": "pix"}),
        counter.ask("POST", f"{path}/pay", {"method": "card", "token": "pm_2"}),
    )
    assert sorted(answer.status_code for answer in answers) == [202, 409]
    assert (await counter.kept(basket)).attempt == 1


async def test_a_declined_card_can_be_tried_again_until_the_hold_is_over(counter: Counter, monkeypatch: Any) -> None:
    basket = await counter.ready()
    path, body = f"/v1/baskets/{basket['basket']}/pay", {"method": "card", "token": "pm_1"}
    assert (await counter.ask("POST", path, body)).status_code == 202
    await counter.tell(basket, "held", payment=PaymentTold(status="failed", attempt=1, reason="declined"))
    failed = (await counter.shown(basket))["payment"]
    assert (failed["status"], failed["reason"]) == ("failed", "declined")
    assert await counter.kit.count("shop_baskets", "token IS NOT NULL") == 0
    again = await counter.ask("POST", path, body | {"token": "pm_2"})
    assert again.json()["payment"]["attempt"] == 2
    await counter.tell(basket, "held", payment=PaymentTold(status="failed", attempt=2, reason="declined"))
    kept = await counter.kept(basket)
    monkeypatch.setattr(counter.kit.service, "clock", lambda: kept.hold_until)
    monkeypatch.setattr(counter.kit.service._work, "_clock", lambda: kept.hold_until, raising=False)
    monkeypatch.setattr(counter.kit.service._work, "clock", lambda: kept.hold_until, raising=False)
    over = await counter.ask("POST", path, body)
    assert (over.status_code, over.json()["code"]) == (409, "hold_over")


async def test_pix_shows_its_text_and_holds_for_longer(counter: Counter) -> None:
    basket = await counter.ready()
    paying = (await counter.ask("POST", f"/v1/baskets/{basket['basket']}/pay", {"method": "pix"})).json()
    assert paying["hold_until"] > basket["hold_until"]
    told = PaymentTold(status="pending", attempt=1, pix_text="00020126…", expires_at=counter.kit.service.clock())
    await counter.tell(basket, "held", payment=told)
    assert (await counter.shown(basket))["payment"]["pix_text"] == "00020126…"


async def test_another_address_forgets_the_options_of_the_first(counter: Counter) -> None:
    basket = await counter.ready()
    path = f"/v1/baskets/{basket['basket']}"
    moved = BUYER | {"address": dict(BUYER["address"]) | {"city": "Olinda"}}
    answer = (await counter.ask("PUT", f"{path}/address", moved)).json()
    assert (answer["delivery"], answer["total_minor"]) == (None, 2 * 1990)
    await counter.quote(basket, 1)
    late = await counter.ask("GET", f"{path}/delivery-options")
    assert late.status_code == 202, "an answer to the first quote is none to the second"
    await counter.quote(basket, 2)
    assert (await counter.ask("GET", f"{path}/delivery-options")).status_code == 200
    quotes = await counter.kit.published("fulfillment.commands.v1")
    buyers = await counter.kit.published("channels.buyers.v1")
    assert [one["sale_revision"] for one in quotes] == [one["sale_revision"] for one in buyers]


async def test_the_same_address_again_is_quoted_for_the_buyer_that_was_reported(counter: Counter) -> None:
    basket = await counter.ready()
    path = f"/v1/baskets/{basket['basket']}"
    assert (await counter.ask("PUT", f"{path}/address", BUYER)).is_success
    (buyer,) = await counter.kit.published("channels.buyers.v1")
    quotes = await counter.kit.published("fulfillment.commands.v1")
    assert [one["sale_revision"] for one in quotes] == [buyer["sale_revision"]] * 2, "no later one ever comes"


async def test_a_request_to_cancel_or_return_a_paid_order(counter: Counter) -> None:
    basket = await counter.ready()
    path = f"/v1/orders/{basket['order_id']}"
    unpaid = await counter.ask("POST", f"{path}/cancel-request")
    assert (unpaid.status_code, unpaid.json()["code"]) == (409, "unpaid")
    await counter.ask("POST", f"/v1/baskets/{basket['basket']}/pay", {"method": "pix"})
    await counter.tell(basket, "confirmed", payment=PaymentTold(status="captured", attempt=1))
    assert (await counter.ask("POST", f"{path}/cancel-request")).status_code == 202
    assert (await counter.kit.published())[-1]["status"] == "cancel_requested"
    await counter.tell(basket, "delivered", payment=PaymentTold(status="captured", attempt=1))
    assert (await counter.kit.published())[-1]["status"] == "delivered"
    for _ in range(2):
        wanted = await counter.ask("POST", f"{path}/return-request", {"reason": "damaged"})
        assert wanted.status_code == 202
    assert await counter.kit.count("alerts", "kind = 'return_requested'") == 1


REFUSED: dict[str, tuple[str, str, Any, int, str]] = {
    "no such product": ("POST", "/v1/baskets", {"lines": [{"sku": "X", "quantity": 1}]}, 404, "no_such_product"),
    "more than there is": ("POST", "/v1/baskets", {"lines": [{"sku": "CUP", "quantity": 11}]}, 409, "sold_out"),
    "more in two lines": (
        "POST",
        "/v1/baskets",
        {"lines": [{"sku": "CUP", "quantity": 6}, {"sku": "CUP", "quantity": 5}]},
        409,
        "sold_out",
    ),
    "nothing": ("POST", "/v1/baskets", {"lines": []}, 422, "invalid"),
    "no units": ("POST", "/v1/baskets", {"lines": [{"sku": "CUP", "quantity": 0}]}, 422, "invalid"),
    "a field too many": ("POST", "/v1/baskets", {"lines": [{"sku": "CUP", "quantity": 1, "x": 1}]}, 422, "invalid"),
    "unprintable": ("POST", "/v1/baskets", {"lines": [{"sku": "\0", "quantity": 1}]}, 422, "invalid"),
    "no such basket": ("GET", "/v1/baskets/none", None, 404, "no_such_basket"),
    "a basket's name with NUL": ("GET", "/v1/baskets/%00", None, 404, "no_such_basket"),
    "letting go no basket": ("DELETE", "/v1/baskets/none", None, 404, "no_such_basket"),
    "no such order": ("POST", "/v1/orders/none/cancel-request", None, 404, "no_such_basket"),
    "options before the address": ("GET", "/v1/baskets/{basket}/delivery-options", None, 409, "no_address"),
    "a choice before the options": ("PUT", "/v1/baskets/{basket}/delivery", {"option_id": "pac"}, 409, "no_options"),
    "paying before the choice": ("POST", "/v1/baskets/{basket}/pay", {"method": "pix"}, 409, "no_delivery"),
    "a card without token": ("POST", "/v1/baskets/{basket}/pay", {"method": "card"}, 422, "no_token"),
    "no such method": ("POST", "/v1/baskets/{basket}/pay", {"method": "cash"}, 422, "invalid"),
    "no CPF": ("PUT", "/v1/baskets/{basket}/address", {**BUYER, "document": "123"}, 422, "invalid"),
    "nothing there": ("GET", "/v2/baskets", None, 404, "refused"),
    "not for this method": ("PATCH", "/v1/baskets", None, 405, "refused"),
}


async def test_refusals_are_problems_and_change_nothing(counter: Counter) -> None:
    basket = await counter.held({"CUP": 1})
    before = await counter.kept(basket)
    for name, (method, path, body, status, code) in REFUSED.items():
        answer = await counter.ask(method, path.replace("{basket}", basket["basket"]), body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), f"{name}: {answer.text}"
        assert answer.headers["content-type"] == "application/problem+json", name
    assert (await counter.kept(basket), await counter.number()) == (before, 9)


async def test_a_post_without_key_a_wrong_key_and_a_large_body_are_refused(counter: Counter) -> None:
    body = {"lines": [{"sku": "CUP", "quantity": 1}]}
    without = await counter.http.post("/v1/baskets", json=body)
    assert (without.status_code, without.json()["code"]) == (400, "no_idempotency_key")
    for key in ("", "Bearer wrong", f"Basic {KEY}"):
        stranger = await counter.http.get("/v1/products", headers={"authorization": key})
        assert (stranger.status_code, stranger.json()["code"]) == (401, "unauthorized")
    large = await counter.http.post(
        "/v1/baskets", content=b'"' + b"a" * 2_000_001 + b'"', headers={"content-type": "application/json"}
    )
    assert large.status_code == 413
    assert await counter.kit.count("shop_baskets") == 0


async def test_a_shop_that_is_not_live_sells_nothing(counter: Counter) -> None:
    from services.channels.connections import lifecycle

    async with counter.kit.service.transaction() as tx:
        await lifecycle.pause(tx, counter.connection.connection_id, "loja")
    await counter.kit.intake.registry.refresh(counter.kit.service.pool)
    closed = await counter.ask("POST", "/v1/baskets", {"lines": [{"sku": "CUP", "quantity": 1}]})
    assert (closed.status_code, closed.json()["code"]) == (503, "closed")


async def test_a_card_number_is_refused_and_nothing_of_it_is_told(
    counter: Counter, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    basket = await counter.held()
    card = "4242 4242 4242 4242"
    path = f"/v1/baskets/{basket['basket']}"
    sent = [
        await counter.ask("POST", f"{path}/pay", {"method": "card", "token": card}),
        await counter.ask("PUT", f"{path}/address", BUYER | {"name": f"Ana {card}"}),
        await counter.ask("PUT", f"{path}/address", BUYER | {"address": {**BUYER["address"], "complement": card}}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in sent] == [(422, "card_number")] * 3
    hidden = await counter.ask("PUT", f"{path}/address", {**BUYER, card: "x"})
    assert (hidden.status_code, hidden.json()["code"]) == (422, "invalid")
    captured = capsys.readouterr()
    told = "".join(answer.text for answer in (*sent, hidden)) + captured.out + captured.err + caplog.text
    assert "4242" not in told


async def test_a_phone_with_a_cards_check_digit_is_a_phone(counter: Counter) -> None:
    basket = await counter.held()
    for last in range(10):
        buyer = BUYER | {"phone": f"+55 81 90000 000{last}"}
        assert (await counter.ask("PUT", f"/v1/baskets/{basket['basket']}/address", buyer)).status_code == 202


async def test_no_word_about_a_buyer_is_kept_in_the_clear(
    counter: Counter, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    basket = await counter.ready()
    await counter.ask("POST", f"/v1/baskets/{basket['basket']}/pay", {"method": "card", "token": "pm_secret"})
    pool = counter.kit.service.pool
    rows = [
        str(dict(row))
        for table in ("shop_baskets", "shop_keys", "shop_changes", "intake_orders", "intake", "buyers")
        for row in await pool.fetch(f"SELECT * FROM {table}")
    ]
    told = "".join(rows) + json.dumps(await counter.shown(basket)) + caplog.text + capsys.readouterr().err
    for word in ("Ana Souza", "ana@example.com", "12345678909", "Flores", "50000-000", "pm_secret"):
        assert word not in told


async def test_one_shop_does_not_see_the_baskets_of_another(counter: Counter) -> None:
    basket = await counter.held()
    other_key = "another api key of some length"
    await counter.kit.connect(
        tenant="outra", connector="shop", account="outra", base_url="http://127.0.0.2:9",
        credentials={"api_key": other_key}, methods="pix",
    )  # fmt: skip
    headers = {"authorization": f"Bearer {other_key}", "idempotency-key": "a key of theirs"}
    for method, path in (
        ("GET", f"/v1/baskets/{basket['basket']}"),
        ("DELETE", f"/v1/baskets/{basket['basket']}"),
        ("POST", f"/v1/orders/{basket['order_id']}/cancel-request"),
    ):
        answer = await counter.http.request(method, path, headers=headers)
        assert answer.status_code == 404, answer.text
    assert (await counter.http.get("/v1/products", headers=headers)).json()["products"] == []
    assert (await counter.shown(basket))["state"] == "held"


async def test_a_key_that_two_shops_have_opens_neither(counter: Counter) -> None:
    await counter.kit.connect(
        tenant="outra", connector="shop", account="outra", base_url="http://127.0.0.2:9", credentials={"api_key": KEY}
    )
    assert (await counter.ask("GET", "/v1/products")).status_code == 401


async def test_a_basket_is_an_order_of_its_own(counter: Counter) -> None:
    first, second = await counter.open({"CUP": 1}), await counter.open({"CUP": 1})
    assert first["order_id"] != second["order_id"]
    refs = {sale["customer_ref"] for sale in await counter.kit.published()}
    assert len(refs) == 2, "a guest is a customer of one order"


async def test_news_are_waited_for(counter: Counter) -> None:
    basket = await counter.open()
    path = f"/v1/baskets/{basket['basket']}?after={basket['change']}&wait_s=10"
    waiting = asyncio.create_task(counter.ask("GET", path))
    await asyncio.sleep(0)
    await counter.tell(basket, "held", held_for="payment")
    assert (await waiting).json()["change"] > basket["change"]


async def test_what_cannot_be_done_now_is_not_done_at_all(counter: Counter) -> None:
    pool = counter.kit.service.pool
    await pool.execute("ALTER TABLE intake_orders ADD CONSTRAINT broken CHECK (revision < 1)")
    body = {"lines": [{"sku": "CUP", "quantity": 1}]}
    failed = await counter.ask("POST", "/v1/baskets", body, key="tried again")
    assert (failed.status_code, failed.json()["code"], failed.headers["retry-after"]) == (503, "try_again", "1")
    assert (await counter.number(), await counter.kit.count("shop_baskets")) == (10, 0)
    assert await counter.kit.count("intake") == 0
    await pool.execute("ALTER TABLE intake_orders DROP CONSTRAINT broken")
    assert (await counter.ask("POST", "/v1/baskets", body, key="tried again")).status_code == 202


async def test_an_older_word_of_orders_changes_nothing(counter: Counter) -> None:
    basket = await counter.open()
    await counter.tell(basket, "held", revision=5)
    await counter.tell(basket, "cancelled", revision=4, cancelled_reason="sold_out")
    assert (await counter.shown(basket))["state"] == "held"


async def test_the_feed_has_every_change_once_in_order(counter: Counter) -> None:
    session = counter.kit.intake.registry.get(counter.connection.connection_id)
    assert session is not None
    from services.channels.connectors.connector import StockWrite

    basket = await counter.open({"CUP": 2})
    (wrote,) = await session.connector.write_stock(session.session, [StockWrite("CUP", "shop", 20, 8)])
    await counter.ask("DELETE", f"/v1/baskets/{basket['basket']}")
    feed = (await counter.ask("GET", "/v1/stock-changes")).json()
    assert [(one["kind"], one["number_before"], one["number_after"]) for one in feed["changes"]] == [
        ("sale", 10, 8),
        ("write", 8, 20),
        ("cancel", 20, 22),
    ]
    assert feed["changes"][1]["request_id"] == wrote.request_id
    assert [one["number"] for one in feed["changes"]] == [basket["number"], "", basket["number"]]
    later = (await counter.ask("GET", f"/v1/stock-changes?after={feed['position']}")).json()
    assert later == {"changes": [], "position": feed["position"]}


async def test_300_buyers_want_100_units(counter: Counter) -> None:
    await counter.kit.service.pool.execute("UPDATE shop_products SET quantity = 100 WHERE sku = 'CUP'")

    async def buy() -> httpx.Response:
        return await counter.ask("POST", "/v1/baskets", {"lines": [{"sku": "CUP", "quantity": 1}]})

    answers = await asyncio.gather(*(buy() for _ in range(300)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [202] * 100 + [409] * 200
    assert (await counter.number(), await counter.kit.count("shop_baskets")) == (0, 100)
    sales = await counter.kit.published()
    assert len({sale["order_id"] for sale in sales}) == len(sales) == 100


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/products?after=%00", 422),
        ("GET", "/v1/baskets/%00", 404),
        ("POST", "/v1/orders/%00/cancel-request", 404),
        ("POST", "/v1/orders/%00/return-request", 422),
        ("GET", "/t/%00.1.x", 404),
    ],
)
async def test_a_name_that_cannot_be_kept_is_none(counter: Counter, method: str, path: str, status: int) -> None:
    answer = await counter.ask(method, path, {} if method == "POST" else None)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("failure", [ConnectionRefusedError("hush"), asyncpg.InterfaceError("hush")])
async def test_without_its_database_the_shop_says_come_again(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    async def away(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(store, "by_basket", away)
    answer = await counter.ask("GET", "/v1/baskets/any")
    assert (answer.status_code, answer.json()["code"]) == (503, "try_again")
    assert "retry-after" in answer.headers
    assert "hush" not in answer.text


async def test_a_delivery_in_a_million_years_is_no_endless_calendar() -> None:
    assert business_day(date(2026, 3, 6), 1) == date(2026, 3, 9)
    assert business_day(date(2026, 3, 6), 10**9).year < 2050

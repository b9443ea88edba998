"""An ERP that answers nonsense: nothing follows from it, nothing is deleted there, and the look ends with a reason."""

import json
from datetime import date
from typing import Any

import httpx
import pytest

from services.border.errors import OutcomeUnknown, Rejected, Throttled
from services.border.limiter import Limiter
from services.erp.domain import Line, Sale
from services.erp.targets import tryton as target
from services.erp.targets.tryton import Login, Outcome, Product, Refused, Tryton

SALE = Sale("order-a", "connection-a", "BRL", 2000, date(2026, 3, 14), (Line("MUG", 1, 2000),))
LOGIN = Login("http://127.0.0.1:1", "company", "saldo", "secret")
ROW = {"id": 7, "reference": "order-a", "number": "S7", "state": "done", "shipments": [9], "shipment_state": "sent"}
SANE: dict[str, Any] = {
    "common.db.login": [1, "session", None],
    "model.res.user.get_preferences": {"company": 1},
    "model.sale.sale.search_read": [ROW],
    "model.stock.shipment.out.search_read": [{"id": 9, "number": "D9", "state": "done"}],
    "model.product.product.search_read": [
        {"id": 3, "code": "MUG", "active": True, "default_uom": 1, "template": 2, "template.": {"id": 2, "name": "Mug"}}
    ],
    "model.currency.currency.search_read": [{"id": 1, "code": "BRL"}],
    "model.party.party.search_read": [{"id": 5, "addresses": [6]}],
    "model.stock.location.search_read": [{"id": 4, "code": "WH"}],
}
NEW = {"model.sale.sale.search_read": []}


class Fake:
    """As much of Tryton as is asked: answers by method, with some put in their place; `asked` are the methods."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], raw: dict[str, bytes]) -> None:
        self.changed, self.raw, self.asked = changed, raw, list[str]()
        transport = httpx.MockTransport(self._answer)
        monkeypatch.setattr(target, "open_client", lambda **_: httpx.AsyncClient(transport=transport))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        method = json.loads(request.content)["method"]
        self.asked.append(method)
        if method in self.raw:
            return httpx.Response(200, content=self.raw[method])
        return httpx.Response(200, json={"id": 1, "result": (SANE | self.changed).get(method)})

    @property
    def written(self) -> list[str]:
        return [one for one in self.asked if one.startswith("model.") and not one.endswith(("search_read", "ences"))]

    def session(self) -> Tryton:
        return Tryton(LOGIN, Limiter({}, lambda: 0.0), warehouse="", public_only=False, timeout_s=5)

    async def book(self) -> dict[str, Outcome]:
        async with self.session() as session:
            return await session.book([SALE], lambda _: None)

    async def products(self) -> list[Product]:
        async with self.session() as session:
            return [one async for page in session.products() for one in page]


def fake(monkeypatch: pytest.MonkeyPatch, raw: dict[str, bytes] | None = None, **changed: Any) -> Fake:
    return Fake(monkeypatch, {name.replace("__", "."): value for name, value in changed.items()}, raw or {})


RAW = {
    "html": b"<!doctype html><title>Sign in to the network</title>",
    "truncated": b'{"id": 1, "result": [{"id": 7, "reference": "order-a", ',
    "empty": b"",
    "latin": b'{"result": "a\xe7\xe3o"}',
    "deep": b"[" * 100_000,
    "long number": b'{"result": ' + b"9" * 5_000 + b"}",
    "10 MB": b'{"result": "' + b"x" * 10_000_000 + b'"}',
    "no object": b"[1, 2]",
    "no result": b"{}",
    "null": b'{"result": null}',
    "number": b'{"result": 5}',
    "word": b'{"result": "ok"}',
    "rows of numbers": b'{"result": [1, 2]}',
    "rows of nothing": b'{"result": [{}]}',
    "infinite": b'{"result": [{"id": Infinity}]}',
    "strange error": b'{"error": 5}',
    "empty error": b'{"error": []}',
}
ENDS = (Throttled, Rejected, OutcomeUnknown, Refused)


@pytest.mark.asyncio
async def test_a_sane_server_books(monkeypatch: pytest.MonkeyPatch) -> None:
    sane = fake(monkeypatch)
    assert await sane.book() == {"order-a": Outcome("S7", ("D9",))}
    assert await sane.products() == [Product("MUG", "Mug", True)]
    for active in (0, 1):  # As Tryton says it on SQLite.
        rows = [SANE["model.product.product.search_read"][0] | {"active": active}]
        assert (await fake(monkeypatch, model__product__product__search_read=rows).products())[0].active is bool(active)
    assert sane.written == []


@pytest.mark.asyncio
@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
@pytest.mark.parametrize("method", SANE)
async def test_nonsense_ends_the_look_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, method: str, raw: bytes
) -> None:
    mad = fake(monkeypatch, {method: raw}, **({} if "shipment" in method else NEW))
    with pytest.raises(ENDS):
        await mad.book()
    assert mad.written == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "rows",
    [
        [ROW | {"reference": "of somebody else"}],
        [ROW | {"id": 1, "state": "draft", "reference": "x"}, ROW | {"id": 2, "state": "draft", "reference": "x"}],
        [ROW | {"id": "7"}],
        [ROW | {"id": True}],
        [ROW, ROW],
        [ROW | {"shipments": "many"}],
        [ROW | {"shipments": None}],
        [ROW | {"shipments": [None]}],
    ],
)
async def test_rows_that_nobody_asked_for_are_not_taken_for_ours(
    monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]
) -> None:
    mad = fake(monkeypatch, model__sale__sale__search_read=rows)
    with pytest.raises(Rejected, match="none of Tryton"):
        await mad.book()
    assert mad.written == []


@pytest.mark.asyncio
@pytest.mark.parametrize("state", ["", None, "weird", 5])
async def test_a_sale_in_a_state_that_is_none_is_not_booked(monkeypatch: pytest.MonkeyPatch, state: Any) -> None:
    row = ROW | {"state": state, "shipments": [], "shipment_state": "none"}
    assert await fake(monkeypatch, model__sale__sale__search_read=[row]).book() == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("active", [None, 2, "false", {}])
async def test_a_product_goes_off_sale_by_a_clear_no_alone(monkeypatch: pytest.MonkeyPatch, active: Any) -> None:
    rows = [SANE["model.product.product.search_read"][0] | {"active": active}]
    with pytest.raises(Rejected, match="none of Tryton"):
        await fake(monkeypatch, model__product__product__search_read=rows).products()


@pytest.mark.asyncio
async def test_a_server_that_gives_the_first_page_again_and_again_comes_to_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = SANE["model.product.product.search_read"][0]
    rows = [row | {"id": number, "code": f"SKU-{number}"} for number in range(1, target.PAGE + 1)]
    mad = fake(monkeypatch, model__product__product__search_read=rows)
    with pytest.raises(Rejected, match="none of Tryton"):
        await mad.products()
    assert mad.asked.count("model.product.product.search_read") == 2

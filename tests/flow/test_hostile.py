"""What somebody sends who means harm, or a broken channel: a dead letter that stands in nobody's way."""

import json
from typing import Any

import pytest

from tests.flow.company import Opener, plan, until
from tests.flow.test_poison import headers, letters, put, sale


def order(number: int, **changes: Any) -> dict[str, Any]:
    """An order as a shop pushes it, of an advert that is linked to nothing."""
    line = {"id": number, "variant_id": 1, "sku": "x", "quantity": 1, "price": "1.00"}
    moment = "2026-01-01T00:00:00Z"
    return {
        "id": number,
        "created_at": moment,
        "updated_at": moment,
        "financial_status": "paid",
        "currency": "BRL",
        "total_price": "1.00",
        "line_items": [line],
        **changes,
    }


@pytest.mark.asyncio
async def test_an_order_that_cannot_be_kept_holds_up_no_other(open_company: Opener) -> None:
    company = await open_company(plan(CUP=10), {"azul": "shopify"})
    (azul,) = company.shops
    hostile = [
        order(1, total_price="1e900000"),
        order(2, line_items=[order(2)["line_items"][0]] * 2),
        order(3, created_at="0001-01-01T00:00:00+14:00"),
        order(4, currency="B\0L"),
        order(5, customer={"id": "\udc00"}),
        order(6, line_items=[{**order(6)["line_items"][0], "quantity": 2**31}]),
    ]
    for body in hostile:
        assert (await company.deliver(azul, json.dumps(body).encode(), "orders/create")).status_code == 200
    huge = json.dumps(order(7)).replace('"quantity": 1', '"quantity": 1e999999999').encode()
    assert (await company.deliver(azul, huge, "orders/create")).status_code == 200
    await until(
        company.intake,
        lambda rows: [row["state"] for row in rows] == ["poisoned"] * (len(hostile) + 1),
        "every order set aside",
    )
    external_id = await azul.buy({"CUP": 1})
    await company.until_order(azul, external_id, state="confirmed")
    await company.until_shown({"CUP": 9})


@pytest.mark.asyncio
async def test_a_type_name_without_end_stops_no_consumer(open_company: Opener) -> None:
    company = await open_company(plan(CUP=10), {"azul": "shopify"})
    (azul,) = company.shops
    foreign = sale(company, "foreign")
    given = headers(company, foreign, type_="evil.thing.v" + "9" * 5_000)
    await put(company, [(foreign, foreign.model_dump_json().encode(), given)])
    (letter,) = (await until(lambda: letters(company), bool, "the dead letter")).values()
    assert "foreign type" in letter["error"]
    external_id = await azul.buy({"CUP": 1})
    await company.until_order(azul, external_id, state="confirmed")
    await company.assert_conserved()

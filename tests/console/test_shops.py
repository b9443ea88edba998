"""`saldo shop` as a person runs it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.console.conftest import Listener, Printed

Saldo = Callable[..., Printed]
SHOP = {"connection_id": "c1", "connector": "shop", "account": "loja", "settings": {"currency": "BRL"}}


@pytest.fixture
def channels(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """The listener, known as channels too."""
    monkeypatch.setenv("SALDO_ADMIN_CHANNELS_URL", listener.url)
    listener.say("GET", "connections", {"connections": [SHOP]})
    listener.say("POST", "connections/c1/products", {"connection_id": "c1", "kept": 2, "linked": 1})
    listener.say("GET", "connections/c1/shop", {"connection_id": "c1", "api_url": "http://shop", "api_key": "k"})
    return listener


def test_products_of_a_file_go_on_sale_with_prices_in_minor_units(
    saldo: Saldo, channels: Listener, tmp_path: Path
) -> None:
    file = tmp_path / "products.csv"
    file.write_text("sku;title;price\nCUP;Copo;19.90\nSPOON;Colher;5\n", "utf-8")
    printed = saldo("shop", "products", "loja", str(file))
    assert "2 products are on sale, 1 linked" in printed.out
    body = next(body for method, path, _, body in channels.asked if method == "POST")
    assert body == {
        "rows": [
            {"sku": "CUP", "title": "Copo", "price_minor": 1990},
            {"sku": "SPOON", "title": "Colher", "price_minor": 500},
        ]
    }


def test_a_file_with_a_wrong_price_is_refused_whole(saldo: Saldo, channels: Listener, tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_text("sku,title,price\nCUP,Copo,19.90\nSPOON,Colher,-1\nFORK,Garfo,1.999\n", "utf-8")
    printed = saldo("shop", "products", "loja", str(file))
    assert printed.code == 1
    assert "line 3" in printed.err
    assert "line 4" in printed.err
    assert [method for method, *_ in channels.asked if method == "POST"] == []


def test_the_key_is_shown_to_a_person(saldo: Saldo, channels: Listener) -> None:
    told = saldo("shop", "key", "loja", "--json").json
    assert (told["api_url"], told["api_key"]) == ("http://shop", "k")

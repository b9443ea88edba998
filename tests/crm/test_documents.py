"""Documents by published examples, e-mails and phones as buyers write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.crm.documents import document, email, phone


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("390.533.447-05", "39053344705"),  # python-stdnum, stdnum.br.cpf
        ("111.444.777-35", "11144477735"),
        ("16.727.230/0001-97", "16727230000197"),  # python-stdnum, stdnum.br.cnpj
        ("12.ABC.345/01DE-35", "12ABC34501DE35"),  # Receita Federal, on the alphanumeric CNPJ
        ("12abc34501de35", "12ABC34501DE35"),
    ],
)
def test_a_published_document_is_read(text: str, code: str) -> None:
    assert document(text) == code


@pytest.mark.parametrize(
    "text",
    ["390.533.447-06", "390.533.447-15", "16.727.230/0001-98", "12.ABC.345/01DE-36", "111.111.111-11", "00000000000000",
     "231.002.999-00", "1234", "", "12ABC34501DEA5", "३९०५३३४४७०५"],
)  # fmt: skip
def test_what_is_no_document_is_no_key(text: str) -> None:
    assert document(text) is None


@given(st.integers(9, 10), st.integers(1, 9))
def test_a_wrong_check_digit_is_noticed(position: int, change: int) -> None:
    code = "39053344705"
    wrong = (int(code[position]) + change) % 10
    assert document(f"{code[:position]}{wrong}{code[position + 1 :]}") is None


def test_an_email_is_small_letters_and_never_a_relay_s() -> None:
    relays = ("mail.market.example",)
    assert email(" Ana@Loja.Example ", relays) == "ana@loja.example"
    assert email("x1@mail.market.example", relays) is None
    assert email("x1@eu.mail.market.example", relays) is None
    assert email("x1@email.market.example", relays) == "x1@email.market.example"
    assert email("ana at loja", relays) is None


@pytest.mark.parametrize("text", ["(11) 98765-4321", "011 98765 4321", "+55 11 98765-4321", "5511987654321"])
def test_one_phone_in_many_spellings_is_one_key(text: str) -> None:
    assert phone(text) == "5511987654321"


@pytest.mark.parametrize("text", ["", "98765-4321", "00000000000", "1111111111111111111", "+1"])
def test_what_is_no_phone_is_no_key(text: str) -> None:
    assert phone(text) is None


def test_a_foreign_phone_keeps_its_country() -> None:
    assert phone("+351 912 345 678") == "351912345678"

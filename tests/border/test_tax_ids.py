"""CPF and CNPJ by published examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.border.tax_ids import cnpj, cpf, mod_11


@pytest.mark.parametrize(
    ("text", "code"),
    [("390.533.447-05", "39053344705"), ("231.002.999-00", None), ("111.111.111-11", None), ("1234", None)],
)  # python-stdnum, stdnum.br.cpf
def test_a_cpf_is_read_by_its_check_digits(text: str, code: str | None) -> None:
    assert cpf(text) == code
    assert cnpj(text) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("16.727.230/0001-97", "16727230000197"),  # python-stdnum, stdnum.br.cnpj
        ("12.ABC.345/01DE-35", "12ABC34501DE35"),  # Receita Federal, on the alphanumeric CNPJ
        ("12abc34501de35", "12ABC34501DE35"),
        ("16.727.230/0001-98", None),
        ("00000000000000", None),
        ("12ABC34501DEAA", None),
        ("1122233300018", None),
        ("１" * 14, None),
        ("", None),
    ],
)
def test_a_cnpj_is_read_by_its_check_digits_with_and_without_letters(text: str, code: str | None) -> None:
    assert cnpj(text) == code
    assert cpf(text) is None


@given(st.from_regex(r"[0-9A-Z]{12}", fullmatch=True), st.integers(12, 13), st.integers(1, 9))
def test_one_wrong_check_digit_is_noticed(body: str, place: int, change: int) -> None:
    first = mod_11(body)
    right = body + first + mod_11(body + first)
    wrong = f"{right[:place]}{(int(right[place]) + change) % 10}{right[place + 1 :]}"
    assert cnpj(right) == (right if len(set(right)) > 1 else None)
    assert cnpj(wrong) is None

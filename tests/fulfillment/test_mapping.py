"""De-para of carriers and services."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fulfillment.mapping import SEEDS, Kind, NameMapping, folded, translated


@pytest.mark.parametrize(
    ("kind", "name", "ours"),
    [
        ("carrier", "Correios", "ECT"),
        ("carrier", " CORREIOS ", "ECT"),
        ("carrier", "ect", "ECT"),
        ("service", "Sedex  10", "sedex10"),
        ("service", "SEDEX", "sedex"),
        ("service", "Correios", None),
        ("carrier", "Transportadora Nova", None),
    ],
)
def test_what_a_company_starts_with(kind: Kind, name: str, ours: str | None) -> None:
    assert translated(SEEDS, kind, "loja", name) == ours


def test_a_mapping_for_a_connection_goes_before_one_for_all() -> None:
    mappings = [NameMapping("service", "Econômico", "van", "loja-a"), NameMapping("service", "economico", "pac")]
    assert [translated(mappings, "service", where, "ECONÔMICO") for where in ("loja-a", "loja-b")] == ["van", "pac"]
    assert translated(mappings[:1], "service", "loja-b", "Econômico") is None


@given(st.text())
def test_a_name_is_found_however_it_is_spaced_and_folding_again_changes_nothing(name: str) -> None:
    assert folded(folded(name)) == folded(name)
    assert translated([NameMapping("service", name, "x")], "service", "", f"  {name}\t") == "x"

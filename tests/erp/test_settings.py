"""Where erp has its key from."""

import pytest

from services.erp.settings import ErpSettings


def test_the_key_is_its_own_or_else_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALDO_SECRETS_KEY", "of all")
    assert ErpSettings().secrets_key.get_secret_value() == "of all"
    monkeypatch.setenv("ERP_SECRETS_KEY", "its own")
    assert ErpSettings().secrets_key.get_secret_value() == "its own"

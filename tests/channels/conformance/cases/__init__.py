"""One file a connector, each with `CASE` (and `ACCOUNT` where its account is another kind)."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Final

from tests.channels.conformance.account import Account, Case


def _found() -> tuple[dict[str, Case], dict[str, type[Account]]]:
    cases: dict[str, Case] = {}
    accounts: dict[str, type[Account]] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        loaded = importlib.import_module(module.name)
        cases[loaded.CASE.connector] = loaded.CASE
        accounts[loaded.CASE.connector] = getattr(loaded, "ACCOUNT", Account)
    return cases, accounts


_cases, _accounts = _found()
CASES: Final[Mapping[str, Case]] = _cases
ACCOUNTS: Final[Mapping[str, type[Account]]] = _accounts

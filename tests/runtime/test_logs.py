"""Card numbers are in no line that is logged, wherever in it they came."""

import logging
import sys
from collections.abc import Iterator
from typing import Literal

import asyncpg
import pytest
import structlog
from hypothesis import HealthCheck, given, settings

from services.border.cards import contains_card
from services.runtime.logs import _Formatter, configure_logging
from tests.border.test_cards import cards, words


@pytest.fixture(autouse=True)
def afterwards() -> Iterator[None]:
    yield
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["json", "text"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(card=cards(), before=words)
def test_what_a_service_says_holds_no_card(
    capsys: pytest.CaptureFixture[str], log_format: Literal["json", "text"], card: str, before: str
) -> None:
    configure_logging(log_format, "test")
    log = structlog.get_logger("test")
    log.warning("refused", value=card, nested={"token": [f"{before} {card}"]})
    try:
        raise ValueError(f"cannot read {card}")
    except ValueError:
        log.exception("failed")
    printed = capsys.readouterr().out
    assert "refused" in printed
    assert "cannot read" in printed
    assert "[card]" in printed
    assert not contains_card(printed)
    assert card not in printed


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_value_that_fits_no_column_is_not_told(
    capsys: pytest.CaptureFixture[str], log_format: Literal["json", "text"]
) -> None:
    configure_logging(log_format, "test")
    name = "Souza Ana"[6:]  # So that no line of this test holds it, which a traceback shows.
    try:
        try:
            raise asyncpg.DataError(f"invalid input for query argument $3: '{name}: \\ud800' (no surrogates)")
        except asyncpg.DataError as error:
            raise ExceptionGroup("a loop", [error]) from None
    except ExceptionGroup:
        structlog.get_logger("test").error("loop failed", exc_info=True)
    printed = capsys.readouterr().out
    assert "query argument $3" in printed
    assert "Ana:" not in printed


@given(card=cards())
def test_what_a_library_says_holds_no_card(card: str) -> None:
    try:
        raise ValueError(card)
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed for %s", "args": (card,), "exc_info": sys.exc_info()})
    line = _Formatter(logging.BASIC_FORMAT).format(record)
    assert line.count("[card]") == 2
    assert card not in line


def test_libraries_speak_by_that_formatter(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    configure_logging("json", "test")
    assert [type(handler.formatter) for handler in root.handlers] == [_Formatter]

"""What a service says: lines on stdout, never a payload, nor what looks like a card's number."""

import logging
import re
import sys
from typing import Any, Final, Literal

import structlog

from services.border.cards import redact

_VALUE: Final = re.compile(r"(invalid input (?:for query argument|syntax for type|value for) [^:\n]+).*")
"""asyncpg and PostgreSQL repeat a value that fits no type, and it may be a buyer's."""


def configure_logging(log_format: Literal["json", "text"], service: str) -> None:
    """structlog to stdout, one JSON object a line; never a payload. Libraries speak from warnings on."""
    renderer: Any = structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            lambda _, __, event: {
                name: _VALUE.sub(r"\1…", one) if name == "exception" else one for name, one in event.items()
            },
            lambda logger, method, event: redact(str(renderer(logger, method, event))),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(logging.BASIC_FORMAT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class _Formatter(logging.Formatter):
    """For what libraries say, exceptions and their texts included."""

    def format(self, record: logging.LogRecord) -> str:
        """The line without card numbers."""
        return redact(super().format(record))

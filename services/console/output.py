"""How `saldo` prints: tables for people, JSON where asked for, errors on stderr."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

WIDTH_OF_FILES = 200
"""Columns where the output goes to a file or a pipe: nothing is broken that somebody may search for."""


def _width(stream: TextIO) -> int | None:
    """The terminal's own width (None) in a terminal, or as `COLUMNS` says."""
    return None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_OF_FILES


console = Console(width=_width(sys.stdout))
errors = Console(stderr=True, width=_width(sys.stderr))


def as_json(value: Any) -> None:
    """Print a value as JSON on stdout, unadorned."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, title: str = "", empty: str = "nothing"
) -> None:
    """Print rows as a table of the named columns; numbers to the right."""
    listed = list(rows)
    if not listed:
        console.print(f"[dim]{empty}[/dim]")
        return
    shown = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in listed)
        shown.add_column(
            column.replace("_", " "),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=column == columns[0],  # What names the row stays in one piece, to be copied.
        )
    for row in listed:
        shown.add_row(*(_cell(row.get(column)) for column in columns))
    console.print(shown)


def listing(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, json_wanted: bool, empty: str = "nothing"
) -> None:
    """A list, as JSON with everything in it, or as a table of the columns worth seeing."""
    if json_wanted:
        as_json(list(rows))
    else:
        table(rows, columns, empty=empty)


def fields(values: Mapping[str, Any], *, title: str = "") -> None:
    """Print one thing, a line a field; nested lists become tables of their own below."""
    shown = Table(title=title or None, title_justify="left", show_header=False, box=None, pad_edge=False)
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    nested = {}
    for name, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            nested[name] = value
        else:
            shown.add_row(name.replace("_", " "), _cell(value))
    console.print(shown)
    for name, rows in nested.items():
        console.print()
        table(rows, list(rows[0]), title=name.replace("_", " "))


def _cell(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, dict):
        return ", ".join(f"{escape(str(name).replace('_', ' '))} {_cell(one)}" for name, one in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "-"
    return escape(str(value))

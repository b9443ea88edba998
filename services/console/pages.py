"""What a page about one thing is made of: a head, parts with a title, times and money as people read them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Cell = RenderableType

_DIGITS: Final = dict.fromkeys(("CLP", "ISK", "JPY", "KRW", "PYG", "UGX", "VND", "XAF", "XOF"), 0) | dict.fromkeys(
    ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3
)
"""Digits of the minor unit by currency where they are not two (ISO 4217)."""
_COLOURS: Final = {
    "green": ("delivered", "closed", "captured", "live", "paid", "succeeded"),
    "red": ("cancelled", "failed", "lost", "disputed", "refused"),
    "yellow": ("held", "short", "cancelling", "returned", "paused", "pending", "waiting"),
}
_COLOUR_OF: Final = {state: colour for colour, states in _COLOURS.items() for state in states}


def local(moment: str) -> datetime:
    """A moment as JSON gives it, in the time zone of this machine."""
    return datetime.fromisoformat(moment).astimezone()


def at(moment: str | None) -> str:
    """A moment for people, with its zone; empty where there is none."""
    return f"{local(moment):%Y-%m-%d %H:%M:%S %Z}" if moment else ""


def money(minor: int | None, currency: str | None) -> str:
    """A sum with its currency, as BRL 1,234.56; empty where there is none."""
    if minor is None:
        return ""
    digits = _DIGITS.get(currency or "", 2)
    return f"{currency or ''} {minor / 10**digits:,.{digits}f}".strip()


def state(name: str, words: str = "") -> Text:
    """A state with its colour, and what it means."""
    text = Text.assemble(("● ", _COLOUR_OF.get(name, "cyan")), (name.replace("_", " "), "bold"))
    return text.append(f"  {words}") if words else text


def facts(rows: Mapping[str, Cell | None]) -> Table:
    """Names and values, a line each; what is empty is left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows.items():
        if value is not None and value != "":
            # Of foreign texts nothing is markup.
            grid.add_row(Text(name), Text(value) if isinstance(value, str) else value)
    return grid


def rows(columns: Sequence[str], listed: Iterable[Sequence[Any]]) -> Table | None:
    """A table, None without rows; numbers to the right, columns that are empty in every row left out."""
    cells = [list(row) for row in listed]
    if not cells:
        return None
    shown = [place for place in range(len(columns)) if any(row[place] not in (None, "", 0) for row in cells)]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for place in shown:
        numeric = all(isinstance(row[place], int | None) for row in cells)
        table.add_column(columns[place], justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(_cell(row[place]) for place in shown))
    return table


def _cell(value: Any) -> Cell:
    if isinstance(value, Text):
        return value
    return Text("-" if value in (None, "") else str(value))


def show(console: Console, title: str, head: RenderableType, parts: Mapping[str, RenderableType | None]) -> None:
    """Print a page; parts that are None are left out."""
    console.print(Text(title, style="bold"))
    console.print(Padding.indent(head, 2))
    for name, part in parts.items():
        if part is not None:
            console.print(Group(Text(f"\n{name}", style="bold"), Padding.indent(part, 2)))

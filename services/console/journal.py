"""An export of erp's journal: a folder of CSV pages and a manifest that is written last.

A folder without its manifest is no export, whatever else is in it: the manifest appears in one step, when every page is
on the disk. It says how many rows there are, what they add up to, and the SHA-256 of every page and of itself.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

COLUMNS: Final = (
    "seq", "event_id", "line", "at", "kind", "order_id", "reference", "sku", "quantity", "amount_minor", "currency",
    "from_account", "to_account",
)  # fmt: skip
MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
_FORMULA: Final = ("=", "+", "-", "@", "\t")
_OURS: Final = re.compile(r"(journal-\d{6}\.csv|manifest\.json)(\.part)?")


class FolderTaken(Exception):
    """The folder holds what an export must not touch; the text says what."""


def encode(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A page: UTF-8, a header, commas, lines ended by LF; what is None is empty.

    A text that a spreadsheet would take for a formula has an apostrophe before it (OWASP, "CSV Injection"): ids of
    lines are the channels' own, and accountants open the file in one.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([[_cell(row[name]) for name in COLUMNS] for row in rows])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return "" if value is None else value
    # The writer does not quote it where lines end in LF alone, and no reader takes it then.
    text = value.replace("\r", " ")
    return f"'{text}" if text.startswith(_FORMULA) else text


def decode(raw: bytes) -> list[dict[str, str]]:
    """The rows of a page. Raises `ValueError`."""
    try:
        reader = csv.reader(io.StringIO(raw.decode(), newline=""), strict=True)
        header, *rows = reader
        if tuple(header) != COLUMNS:
            raise ValueError("its columns are others")
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    except (csv.Error, UnicodeDecodeError):
        raise ValueError("it is no CSV in UTF-8") from None


class Tally:
    """What pages hold in all. `after` is the number that the first row follows, 0 at the beginning."""

    def __init__(self, tenant: str, after: int) -> None:
        self._tenant, self._after, self._last = tenant, after, after
        self._events = ("", "")
        self._rows = 0
        self._sums: Counter[str] = Counter()
        self._units: Counter[str] = Counter()
        self._pages: list[dict[str, Any]] = []

    def add(self, name: str, raw: bytes) -> None:
        """Count a page. Raises `ValueError` where it cannot be read, or its rows do not follow those before."""
        rows = decode(raw)
        for row in rows:
            seq = int(row["seq"])
            if seq <= self._last:
                raise ValueError(f"row {seq} does not follow row {self._last}")
            self._last = seq
            self._events = (self._events[0] or row["event_id"], row["event_id"])
            self._units[row["kind"]] += int(row["quantity"] or 0)
            if row["amount_minor"]:
                self._sums[f"{row['kind']} {row['currency']}"] += int(row["amount_minor"])
        self._rows += len(rows)
        self._pages.append({"file": name, "rows": len(rows), "sha256": hashlib.sha256(raw).hexdigest()})

    def manifest(self) -> dict[str, Any]:
        """What the manifest says of the pages that were added; money in minor units by kind and currency."""
        told = {
            "format": FORMAT,
            "tenant": self._tenant,
            "after": self._after,
            "to_seq": self._last,
            "rows": self._rows,
            "first_event_id": self._events[0],
            "last_event_id": self._events[1],
            "sums_minor": dict(sorted(self._sums.items())),
            "units": dict(sorted(self._units.items())),
            "pages": self._pages,
            "complete": True,
        }
        return told | {"sha256": hashlib.sha256(_render(told)).hexdigest()}


def _render(told: Mapping[str, Any]) -> bytes:
    return (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()


def check(raw: bytes, pages: Iterable[tuple[str, bytes]]) -> list[str]:
    """Every difference between a manifest and the pages that lie beside it; none where the export is whole."""
    try:
        told = json.loads(raw)
        tally = Tally(told["tenant"], int(told["after"]))
    except (ValueError, TypeError, KeyError):
        return [f"{MANIFEST} is no manifest of a journal"]
    differences = []
    for name, page in pages:
        try:
            tally.add(name, page)
        except ValueError as error:
            differences.append(f"{name}: {error}")
    found = tally.manifest()
    differences += [
        f"{name}: the manifest says {_short(told.get(name))}, the files say {_short(found.get(name))}"
        for name in sorted(found.keys() | told.keys())
        if told.get(name) != found.get(name)
    ]
    if not differences and raw != _render(found):
        differences.append(f"{MANIFEST} is not as it was written")
    return differences


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}…"


def write(folder: Path, tenant: str, after: int, pages: Iterable[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Write an export and return its manifest. What an interrupted one left in the folder is written anew.

    Raises `FolderTaken` where there is an export already, or files of others; `OSError` where the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = sorted(path.name for path in folder.iterdir())
    if MANIFEST in there:
        raise FolderTaken(f"{folder} holds a complete export: give another folder")
    if foreign := [name for name in there if not _OURS.fullmatch(name)]:
        raise FolderTaken(f"{folder} holds {foreign[0]}, which is of no export: give an empty folder")
    for name in there:
        (folder / name).unlink()
    tally = Tally(tenant, after)
    for number, rows in enumerate(pages, start=1):
        name, raw = f"journal-{number:06}.csv", encode(rows)
        tally.add(name, raw)
        _keep(folder, name, raw)
    told = tally.manifest()
    _keep(folder, MANIFEST, _render(told))
    return told


def _keep(folder: Path, name: str, raw: bytes) -> None:
    """A file that is there wholly or not at all, on the disk when this returns."""
    part = folder / f"{name}.part"
    with part.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / name)
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def read(folder: Path) -> list[str] | None:
    """Every difference in the export of a folder; None where the folder holds no export. Raises `OSError`."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    pages = sorted(path for path in folder.iterdir() if path.name.startswith("journal-"))
    return check(manifest.read_bytes(), ((path.name, path.read_bytes()) for path in pages))

"""CSV files of items, opening stock, rates and invoices: the whole file is judged before any of it is sent. Pure.

Comma or semicolon, UTF-8 with or without a byte order mark, a header line, columns in any order. Every rejected row
is reported with its line and the reason.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from contracts.envelope import Message, MinorSum, UtcDatetime
from contracts.inventory.v1 import Component, PutItem, ReceiveStock
from services.border.reading import minor, moment
from services.console.given import fit, make, shown


class InvoiceRow(Message):
    """An invoice as a row of a file gives it; `order` is our id or the number that the channel shows."""

    order: str
    key: str
    total_minor: MinorSum
    issued_at: UtcDatetime | None = None
    replaces: str | None = None


M = TypeVar("M")

INVOICE_CURRENCY = "BRL"

_DIGITS_MAX = 18
_COLUMNS_NAMED = 10
_YES = frozenset(("", "yes", "y", "true", "1", "sim", "s"))
_NO = frozenset(("no", "n", "false", "0", "nao", "não"))
_AMOUNT = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be taken. `line` counts from 1, the header included."""

    line: int
    reason: str


@dataclass(slots=True)
class Parsed(Generic[M]):
    """A whole file: what its good rows make, by line, and its rejected rows."""

    rows: list[tuple[int, M]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def parse_takeon(raw: bytes, *, skus: Mapping[str, bool], locations: Sequence[str]) -> Parsed[ReceiveStock]:
    """Opening stock: columns sku, location, quantity, and optionally pool and reference.

    `skus` are the known items (True: a kit, which has no stock of its own), `locations` the known ones.
    """

    def read(row: Mapping[str, str]) -> ReceiveStock:
        sku, location = row["sku"], row["location"]
        if sku not in skus:
            raise ValueError(f"sku {shown(sku)} is not an item: add it with `saldo item put` or `saldo item import`")
        if skus[sku]:
            raise ValueError(f"sku {sku} is a kit: take on the stock of its components")
        if location not in locations:
            raise ValueError(f"location {shown(location)} is not known: add it with `saldo location add`")
        return make(
            ReceiveStock,
            sku=sku,
            location=location,
            pool=row.get("pool") or "shared",
            quantity=whole_number(row["quantity"], "quantity"),
            reference=row.get("reference", ""),
            opening=True,
        )

    return _parse(
        raw,
        required=("sku", "location", "quantity"),
        optional=("pool", "reference"),
        read=read,
        identity=lambda message: f"sku {message.sku} at location {message.location}",
    )


def parse_items(raw: bytes, *, known: Sequence[str] = ()) -> Parsed[PutItem]:
    """Items: columns sku, name, and optionally active, unit, gtin, weight_g, tax_class, components (`A:1 B:2`).

    A component must be in the file or among `known`. Kits come last in the result, so that their components exist.
    """

    def read(row: Mapping[str, str]) -> PutItem:
        weight = row.get("weight_g", "")
        return make(
            PutItem,
            sku=row["sku"],
            name=row["name"],
            active=yes_or_no(row.get("active", ""), "active"),
            unit=row.get("unit") or "un",
            gtin=row.get("gtin") or None,
            weight_g=whole_number(weight, "weight_g") if weight else None,
            tax_class=row.get("tax_class") or None,
            components=parse_components(row.get("components", "")),
        )

    parsed = _parse(
        raw,
        required=("sku", "name"),
        optional=("active", "unit", "gtin", "weight_g", "tax_class", "components"),
        read=read,
        identity=lambda message: f"sku {message.sku}",
    )
    kits = {message.sku for _, message in parsed.rows if message.components}
    there = {message.sku for _, message in parsed.rows} | set(known)
    for line, message in list(parsed.rows):
        wrong = [part.sku for part in message.components if part.sku not in there or part.sku in kits]
        if wrong:
            parsed.rows.remove((line, message))
            reason = f"components {', '.join(wrong)} must be items that are no kits, in this file or put before"
            parsed.rejected.append(Rejected(line, reason))
    parsed.rows.sort(key=lambda row: bool(row[1].components))
    parsed.rejected.sort(key=lambda rejected: rejected.line)
    return parsed


def parse_rates(raw: bytes) -> Parsed[dict[str, Any]]:
    """Own rates: columns carrier, service, from_code, to_code, up_to_g, price (as 19.90), currency, days_min, days_max.

    Each becomes what fulfillment takes, with the price in minor units.
    """

    def read(row: Mapping[str, str]) -> dict[str, Any]:
        named = {name: row[name] for name in ("carrier", "service", "from_code", "to_code", "currency")}
        counted = {name: whole_number(row[name], name) for name in ("up_to_g", "days_min", "days_max")}
        if counted["up_to_g"] < 1 or not 0 <= counted["days_min"] <= counted["days_max"]:
            raise ValueError("up_to_g must be at least 1, and the days from 0 on, days_min no later than days_max")
        rate = {**named, **counted, "price_minor": price(row["price"], row["currency"])}
        return fit(rate, rate)

    return _parse(
        raw,
        required=(
            "carrier", "service", "from_code", "to_code", "up_to_g", "price", "currency", "days_min", "days_max",
        ),
        optional=(),
        read=read,
        identity=lambda row: f"{row['carrier']} {row['service']} from {row['from_code']} to {row['to_code']} up to "
        f"{row['up_to_g']} g",
    )  # fmt: skip


def parse_invoices(raw: bytes) -> Parsed[InvoiceRow]:
    """Invoices: columns order, key, total (as 50.00), and optionally issued_at (ISO 8601 with offset), replaces."""

    def read(row: Mapping[str, str]) -> InvoiceRow:
        issued_at = row.get("issued_at", "")
        return make(
            InvoiceRow,
            order=row["order"],
            key=row["key"],
            total_minor=minor(plain(row["total"], "total"), INVOICE_CURRENCY, "total", exact=True),
            issued_at=moment(issued_at, "issued_at") if issued_at else None,
            replaces=row.get("replaces") or None,
        )

    return _parse(
        raw,
        required=("order", "key", "total"),
        optional=("issued_at", "replaces"),
        read=read,
        identity=lambda message: f"order {shown(message.order)}",
    )


def parse_products(raw: bytes, currency: str) -> Parsed[dict[str, Any]]:
    """Products of the own shop: columns sku, title, price (as 19.90, in `currency`).

    Each becomes what channels takes, with the price in minor units.
    """

    def read(row: Mapping[str, str]) -> dict[str, Any]:
        product = {"sku": row["sku"], "title": row["title"], "price_minor": price(row["price"], currency)}
        return fit(product, product)

    return _parse(
        raw,
        required=("sku", "title", "price"),
        optional=(),
        read=read,
        identity=lambda row: f"sku {row['sku']}",
    )


def parse_components(text: str) -> tuple[Component, ...]:
    """`A:1 B:2` → components. Raises `ValueError`."""
    components: list[Component] = []
    for part in text.split():
        sku, separator, quantity = part.rpartition(":")
        if not separator or not sku:
            raise ValueError(f"component {shown(part)} must be SKU:QUANTITY")
        if sku in {component.sku for component in components}:
            raise ValueError(f"component {shown(sku)} comes twice: give all its units at once")
        components.append(
            make(Component, sku=sku, quantity=whole_number(quantity, f"quantity of component {shown(sku)}"))
        )
    return tuple(components)


def whole_number(text: str, name: str) -> int:
    """A whole number written in digits. Raises `ValueError` naming the field."""
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > _DIGITS_MAX:
        raise ValueError(f"{name} must be a whole number, not {shown(text) or 'empty'}")
    return int(text)


def yes_or_no(text: str, name: str) -> bool:
    """Whether a word says yes, as an empty cell does. Raises `ValueError` where it says neither."""
    if (word := text.lower()) in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError(f"{name} must be yes or no, not {shown(text)}")


def plain(text: str, name: str) -> str:
    """An amount as people write it: digits and a point. Raises `ValueError` for other ways to write a number."""
    if not _AMOUNT.fullmatch(text):
        raise ValueError(f"{name} must be an amount with a point before its decimals, as 1234.50, not {shown(text)}")
    return text


def price(text: str, currency: str) -> int:
    """A price as people write it in minor units of `currency`. Raises `ValueError`."""
    price_minor = minor(plain(text, "price"), currency, "price", exact=True)
    if price_minor < 0:
        raise ValueError("price is below nothing")
    return price_minor


def _parse(
    raw: bytes,
    *,
    required: Sequence[str],
    optional: Sequence[str],
    read: Callable[[Mapping[str, str]], M],
    identity: Callable[[M], str],
) -> Parsed[M]:
    parsed: Parsed[M] = Parsed()
    try:
        text = raw.decode("utf-8-sig")
        if (nul := raw.find(b"\0")) >= 0:
            # As every other byte of UTF-16 is, and none of a file that people read.
            raise UnicodeDecodeError("utf-8", raw, nul, nul + 1, "NUL")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        parsed.rejected.append(Rejected(line, "the file is not UTF-8: save it as UTF-8"))
        return parsed
    # Any line end will do, that of old spreadsheets on a Mac too.
    lines = io.StringIO(text, newline=None)
    header = text.splitlines()[0] if text else ""
    reader = csv.DictReader(lines, delimiter=";" if header.count(";") > header.count(",") else ",")
    try:
        _read_rows(reader, parsed, required, optional, read, identity)
    except csv.Error:
        # The reader stops at a cell of more than 128 KiB, and what it has read of such a file means nothing.
        reason = "a cell of this row has no end: close its quotation mark, or save the file as CSV again"
        parsed.rejected.append(Rejected(reader.line_num + 1, reason))
    if not parsed.rows and not parsed.rejected:
        parsed.rejected.append(Rejected(1, "the file has a header only: it needs a row for each thing"))
    return parsed


def _read_rows(
    reader: "csv.DictReader[str]",
    parsed: Parsed[M],
    required: Sequence[str],
    optional: Sequence[str],
    read: Callable[[Mapping[str, str]], M],
    identity: Callable[[M], str],
) -> None:
    columns = [name.strip().lower() for name in reader.fieldnames or []]
    problems = [f"column {name} is missing" for name in required if name not in columns]
    strange = [name for name in columns if name not in (*required, *optional)]
    problems += [f"column {shown(name) or '(empty)'} is not known" for name in strange[:_COLUMNS_NAMED]]
    twice = [name for name in (*required, *optional) if columns.count(name) > 1]
    if problems := [*problems, *(f"column {name} comes twice" for name in twice)]:
        known = ", ".join((*required, *optional))
        parsed.rejected.append(Rejected(1, f"{'; '.join(problems)}; the columns are {known}"))
        return
    reader.fieldnames = columns
    seen: dict[str, int] = {}
    for cells in reader:
        line = reader.line_num
        if not any(cells.values()):
            continue  # As spreadsheets leave below the last row.
        try:
            message = _read_row(cells, required, read)
            first = seen.setdefault(identity(message), line)
            if first != line:
                raise ValueError(f"{identity(message)} is on line {first} already")
            parsed.rows.append((line, message))
        except ValueError as error:
            parsed.rejected.append(Rejected(line, str(error)))


def _read_row(
    cells: Mapping[str | None, str | list[str] | None], required: Sequence[str], read: Callable[[Mapping[str, str]], M]
) -> M:
    if None in cells or None in cells.values():
        raise ValueError("the row has not as many cells as the header")
    row = {str(name): str(value).strip() for name, value in cells.items()}
    for name in required:
        if not row[name]:
            raise ValueError(f"{name} is empty")
    return read(row)

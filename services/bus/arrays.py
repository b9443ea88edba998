"""Arrays as arguments of statements."""

from collections.abc import Iterable, Sequence


def array(values: Sequence[object]) -> str:
    """`values` as the text of an array: for `$1::text::text[]`, `$2::text::bigint[]` and the like; None is NULL.

    asyncpg writes one text in a fraction of the time of an array, whose elements it looks at one by one.
    """
    try:
        text = '","'.join(values)  # type: ignore[arg-type]  # Most are texts, which are not made texts one by one.
    except TypeError:
        text = '","'.join(map(str, values))
    if None in values or "\\" in text or text.count('"') != 2 * max(0, len(values) - 1):
        return f"{{{','.join(map(_quoted, values))}}}"
    return f'{{"{text}"}}' if values else "{}"


def columns(rows: Iterable[Sequence[object]], width: int) -> list[str]:
    """Rows as the arrays of the columns that `unnest` takes; `width` of them even where there is no row."""
    return [array(column) for column in zip(*rows, strict=True)] or ["{}"] * width


def _quoted(value: object) -> str:
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return "NULL" if value is None else f'"{escaped}"'

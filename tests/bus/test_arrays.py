"""Arrays as texts come back as what they were."""

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.bus import array, columns


def test_numbers_and_truth_are_written_bare_enough() -> None:
    assert array([]) == "{}"
    assert array([1, True]) == '{"1","True"}'


def test_columns_are_as_many_where_there_is_no_row() -> None:
    assert columns([("a", 1), ("b", 2)], 2) == [array(["a", "b"]), array([1, 2])]
    assert columns([], 2) == ["{}", "{}"]


@pytest.mark.asyncio(loop_scope="session")
async def test_any_texts_come_back(database) -> None:
    found: list[list[str | None]] = []

    @settings(max_examples=200, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.none() | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))))
    def collect(texts: list[str | None]) -> None:
        found.append(texts)

    collect()
    found += [['a"b', "c\\d", "", "NULL", None, "{}", ",", " "], ['"'], ["\\"], ['","', "x"]]
    connection = await asyncpg.connect(database)
    try:
        for texts in found:
            assert await connection.fetchval("SELECT $1::text::text[]", array(texts)) == texts
    finally:
        await connection.close()

"""How deep JSON nests, by a scan of its bytes."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.border.door import depth_exceeds

text = st.text() | st.text(alphabet='"\\[]{}ãn')
values = st.recursive(
    st.none() | st.integers() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=12,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(one) for one in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth_of(one) for one in value), default=0)
    return 0


@given(values, st.booleans())
def test_the_scan_agrees_with_a_parser(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    depth = depth_of(value)
    assert not depth_exceeds(body, depth)
    assert depth == 0 or depth_exceeds(body, depth - 1)


def test_sixty_four_pass_and_sixty_five_do_not() -> None:
    assert not depth_exceeds(b"[" * 64 + b"]" * 64, 64)
    assert depth_exceeds(b'{"a":' * 65 + b"1" + b"}" * 65, 64)


def test_brackets_in_strings_count_for_nothing_and_closing_ones_buy_no_depth() -> None:
    assert not depth_exceeds(json.dumps(['\\"[[[[', "[" * 500]).encode(), 1)
    assert depth_exceeds(b"]" * 500 + b"[" * 65, 64)


def test_a_string_without_an_end_is_scanned_once() -> None:
    assert not depth_exceeds(b'"' + b'\\"[' * 200_000, 64)

"""docs/rules.md: each rule has tests of its own, and the page names exactly those that are marked with its number."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTIONS = re.split(r"^### ", (ROOT / "docs" / "rules.md").read_text("utf-8"), flags=re.MULTILINE)[1:]


def named(section: str) -> set[str]:
    """The tests that a section of the page names."""
    return {
        f"{file}::{test}"
        for file, tests in re.findall(r"^- `(tests/\S+\.py)`: (.*)$", section, re.MULTILINE)
        for test in re.findall(r"`(\w+)`", tests)
    }


def numbers(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[int]:
    """The rules that a test is marked with."""
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rule":
            yield from map(ast.literal_eval, decorator.args)


def marked() -> dict[int, set[str]]:
    """Every marked test, by rule."""
    found = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        source = path.read_text("utf-8")
        if "mark.rule" not in source:
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for number in numbers(node):
                    found[number].add(f"{path.relative_to(ROOT)}::{node.name}")
    return found


PAGE = {int(section.split(".", 1)[0]): named(section) for section in SECTIONS}
MARKED = marked()


def test_rules_are_numbered_without_a_gap() -> None:
    assert list(PAGE) == list(range(1, len(PAGE) + 1))
    assert set(MARKED) <= set(PAGE), "a test is marked with a rule that the page does not have"


@pytest.mark.parametrize("number", PAGE)
def test_a_rule_has_tests_and_the_page_names_exactly_those(number: int) -> None:
    assert MARKED[number], f"no test is marked with rule {number}"
    assert PAGE[number] == MARKED[number], "docs/rules.md and the marks differ"

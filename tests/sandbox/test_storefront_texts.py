"""What the storefront's pages say is there in both languages."""

import re
from pathlib import Path

import services.sandbox.storefront_pages as pages
from services.sandbox.storefront_texts import TEXTS, clock

TEMPLATES = Path(pages.__file__).parent / "storefront_templates"
NAMED = {
    name
    for page in TEMPLATES.glob("*.html")
    for name in re.findall(r"texts\.([a-z_]+)\b(?!\()", page.read_text("utf-8"))
}


def test_both_languages_say_the_same_things() -> None:
    one, other = TEXTS.values()
    assert one.keys() == other.keys()


def test_no_page_asks_for_a_text_that_is_not_there_or_that_is_a_method_of_the_table() -> None:
    known = next(iter(TEXTS.values())).keys()
    assert known >= NAMED
    assert not {name for name in NAMED if hasattr(dict, name)}


def test_a_time_is_told_where_the_shop_is() -> None:
    assert clock("2026-03-02T17:15:00Z", "America/Sao_Paulo") == "14:15"
    assert clock("2026-03-02T17:15:00.5+00:00", "America/Manaus") == "13:15"
    assert "UTC" not in "".join(page.read_text("utf-8") for page in TEMPLATES.glob("*.html"))

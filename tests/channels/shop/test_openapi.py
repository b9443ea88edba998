"""The API's description, which stands in the documents too."""

import json
from pathlib import Path

from services.channels.shop.describe import described

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_description_is_the_one_that_is_served() -> None:
    kept = (ROOT / "docs" / "shop-api.json").read_text("utf-8")
    assert kept == described(), "write it anew: python -m services.channels.shop.describe > docs/shop-api.json"


def test_every_call_says_what_it_refuses_and_every_post_but_none_takes_a_key() -> None:
    description = json.loads(described())
    for path, methods in description["paths"].items():
        for method, call in methods.items():
            assert call["summary"], (method, path)
            if path.startswith("/v1"):
                assert {"401", "409", "422", "503"} <= call["responses"].keys(), (method, path)
                assert call["security"] == [{"HTTPBearer": []}]
            names = {one["name"] for one in call.get("parameters", ())}
            assert ("Idempotency-Key" in names) == (method == "post"), (method, path)

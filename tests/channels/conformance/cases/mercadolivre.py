"""Mercado Livre."""

from typing import Any

from tests.channels.conformance.account import Case

_LIMITS = ("orders", "shipments", "stock", "search", "feeds", "token", "items", "reports")


def _unknown(body: dict[str, Any]) -> Any:
    body["order"]["status"] = "under_review"
    return body


CASE = Case(
    connector="mercadolivre",
    unknown=_unknown,
    sees_part_refunds=False,
    limits={f"meli_{name}_per_s": 1000 for name in _LIMITS},
    settings=lambda told: {
        "store_id": told["locations"][0],
        **{f"limit.{name}": "1000/1000" for name in _LIMITS},
    },
)

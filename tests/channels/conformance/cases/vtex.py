"""VTEX."""

from typing import Any

from tests.channels.conformance.account import Case

_LIMITS = ("feed", "orders", "stock", "reports", "other")


def _unknown(order: dict[str, Any]) -> Any:
    order["status"] = "under-review"
    return order


CASE = Case(
    connector="vtex",
    unknown=_unknown,
    sees_part_refunds=False,
    limits={f"vtex_{name}_per_s": 1000 for name in _LIMITS},
    shop={"inventory_lock_s": 0},
    settings=lambda told: {
        "warehouse_id": told["locations"][0],
        "visibility_timeout_s": "1",
        **{f"limit.{name}": "1000/1000" for name in _LIMITS},
    },
)

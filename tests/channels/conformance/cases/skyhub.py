"""SkyHub."""

from typing import Any

from tests.channels.conformance.account import Case

_LIMITS = ("products", "variations", "queues", "order_writes", "order_reads", "store_writes", "other")


def _unknown(order: dict[str, Any]) -> Any:
    order["status"]["type"] = "UNDER_REVIEW"
    return order


CASE = Case(
    connector="skyhub",
    unknown=_unknown,
    sees_part_refunds=False,
    says_ship_by=True,
    limits={f"skyhub_{name}_per_s": 1000 for name in _LIMITS},
    shop={"queue_redelivery_ms": 1},
    settings=lambda told: {"store": told["locations"][0], "limit.order_read": "1000/1000"},
)

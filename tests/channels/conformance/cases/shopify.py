"""Shopify."""

from typing import Any

from tests.channels.conformance.account import Case


def _unknown(order: dict[str, Any]) -> Any:
    found = order.get("order", order)
    found["financial_status"] = "under_review"
    return order


CASE = Case(
    connector="shopify",
    unknown=_unknown,
    sees_part_refunds=True,
    limits={"graphql_bucket_points": 100_000, "rest_bucket_requests": 10_000},
    settings=lambda told: {"location": told["locations"][0]},
    name=lambda told: str(told["domain"]),
)

"""What opening a shop and connecting it takes on each marketplace: the few things in which they differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from services.console.demo.evidence import SendLimits


@dataclass(frozen=True, slots=True)
class Market:
    """One kind of channel.

    `settings`: of the connection, from the shop as its sandbox tells it. `send_limits`: of stock writes, from the
    sandbox's limits. `shop`: what the sandbox's shop is made with. `by_hand`: the address for pushes is put into the
    marketplace's own settings by a person, as no interface takes it. `intake_per_s`: orders a second that all its shops
    together may make, where taking them in is what is limited. `told`: the steps of a delivered order that its books
    know of.
    """

    settings: Callable[[Mapping[str, Any]], Mapping[str, str]]
    send_limits: Callable[[Mapping[str, Any]], SendLimits]
    shop: Mapping[str, Any] = field(default_factory=dict)
    by_hand: bool = False
    intake_per_s: float | None = None
    told: frozenset[str] = frozenset()


def _shopify(limits: Mapping[str, Any]) -> SendLimits:
    cost = limits["graphql_mutation_cost"]
    return SendLimits(
        requests_per_s=limits["graphql_restore_points_per_s"] / cost,
        burst=limits["graphql_bucket_points"] / cost,
        max_batch=limits["graphql_input_array_max"],
    )


def _skyhub(limits: Mapping[str, Any]) -> SendLimits:
    per_s = limits["skyhub_store_writes_per_s"]
    return SendLimits(requests_per_s=per_s, burst=per_s, max_batch=limits["skyhub_batch_max"])


def _place(setting: str) -> Callable[[Mapping[str, Any]], dict[str, str]]:
    return lambda shop: {setting: shop["locations"][0]}


# Neither Mercado Livre nor VTEX publishes how often stock may be written. Their connectors are cautious; here a seller
# with an agreed quota is played: so many requests a second, told to the sandbox and to the connection.
_AGREED_PER_S: Final = 50.0
_OURS: Final = f"{_AGREED_PER_S * 0.9:g}/{_AGREED_PER_S:g}"

MARKETS: Final[Mapping[str, Market]] = {
    "shopify": Market(_place("location"), _shopify, told=frozenset({"shipment"})),
    "skyhub": Market(
        _place("store"),
        _skyhub,
        # Each order is one request to its queue, at nine a second, and comes up to three times.
        intake_per_s=3.0,
        told=frozenset({"invoice", "shipment", "delivery"}),
    ),
    "mercadolivre": Market(
        lambda shop: (
            _place("store_id")(shop)
            | {"limit.stock": _OURS, "limit.orders": _OURS, "limit.shipments": _OURS, "limit.reports": _OURS}
            | {"poll_interval_s": "10"}
        ),
        lambda limits: SendLimits(limits["meli_stock_per_s"], 2 * limits["meli_stock_per_s"], 1),
        shop={
            "limits": {
                "meli_stock_per_s": _AGREED_PER_S,
                "meli_orders_per_s": _AGREED_PER_S,
                "meli_shipments_per_s": _AGREED_PER_S,
                "meli_reports_per_s": _AGREED_PER_S,
            }
        },
        by_hand=True,
        told=frozenset({"invoice", "shipment", "delivery"}),
    ),
    "vtex": Market(
        lambda shop: (
            _place("warehouse_id")(shop)
            | {"limit.stock": _OURS, "limit.orders": _OURS, "limit.reports": _OURS, "limit.other": _OURS}
        ),
        lambda limits: SendLimits(limits["vtex_stock_per_s"], 2 * limits["vtex_stock_per_s"], 1),
        shop={
            "limits": {
                "vtex_stock_per_s": _AGREED_PER_S,
                "vtex_orders_per_s": _AGREED_PER_S,
                "vtex_reports_per_s": _AGREED_PER_S,
                "vtex_other_per_s": _AGREED_PER_S,
            }
        },
        told=frozenset({"invoice", "shipment", "delivery"}),
    ),
    "shop": Market(
        lambda shop: {"currency": "BRL", "card_page_url": shop["card_page_url"]},
        # Its numbers are rows of our own database: nobody limits how often they are written.
        lambda _: SendLimits(1_000, 1_000, 500),
    ),
}

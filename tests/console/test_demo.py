"""The demo's crowd and catalogue are repeatable and keep to the channels' intake; its pictures render."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
from rich.console import Console

from contracts.catalogue import CATALOGUE
from contracts.channels.v1 import ResendBuyer
from contracts.envelope import Envelope
from services.console.client import Admin
from services.console.demo import report
from services.console.demo.buyers import Tally, plan_purchases, rates
from services.console.demo.collector import Collector, read_record
from services.console.demo.evidence import Channel, SendLimits
from services.console.demo.live import View
from services.console.demo.markets import MARKETS
from services.console.demo.run import DemoOptions
from services.console.demo.seed import SHOPS, make_catalogue
from services.console.demo.verdict import judge, to_report
from services.console.instance import Address, Endpoints
from tests.console.world import World

LIMITS = SendLimits(9, 9, 500)
CHANNELS = [Channel(f"id-{shop}", f"{market}/{shop}", market, shop, {}, LIMITS) for market, shop in SHOPS]


def planned(**given: Any) -> list[Any]:
    options = {"rate": 30.0, "seconds": 60.0, "orders": None, "seed": 1} | given
    return plan_purchases(CHANNELS, make_catalogue(200, 1), **options)


def test_the_catalogue_has_kits_and_scarce_skus_and_repeats_itself() -> None:
    catalogue = make_catalogue(200, 7)
    assert len(catalogue.names) == 200
    assert len(catalogue.plan.kits) == 10
    assert len(catalogue.scarce) == 6
    assert all(catalogue.plan.opening[sku] <= 20 for sku in catalogue.scarce)
    assert all(set(parts) <= set(catalogue.plan.opening) for parts in catalogue.plan.kits.values())
    assert make_catalogue(200, 7) == catalogue
    assert make_catalogue(200, 8) != catalogue


def test_skyhub_gets_at_most_three_orders_a_second_in_all() -> None:
    per_connection = rates(CHANNELS, 30)
    skyhub = [per_connection[channel.connection_id] for channel in CHANNELS if channel.marketplace == "skyhub"]
    assert sum(skyhub) == MARKETS["skyhub"].intake_per_s == 3
    assert sum(per_connection.values()) == 30
    assert set(rates(CHANNELS, len(CHANNELS)).values()) == {1}


def test_the_same_seed_has_the_same_buyers_and_another_has_others() -> None:
    assert planned() == planned()
    assert planned(seed=2) != planned()


def test_orders_or_seconds_end_the_run() -> None:
    assert len(planned(orders=100, seconds=None)) == 100
    every = planned(seconds=10.0)
    assert all(purchase.at_s < 10 for purchase in every)
    assert [purchase.at_s for purchase in every] == sorted(purchase.at_s for purchase in every)
    assert DemoOptions(None, 30, 200, None, 1, "demo").buying_s == 60
    assert DemoOptions(500, 30, 200, None, 1, "demo").buying_s is None
    assert DemoOptions(500, 30, 200, 5.0, 1, "demo").buying_s == 5


def test_some_cancel_some_pay_later_some_buy_kits_and_several_lines() -> None:
    crowd = planned()
    catalogue = make_catalogue(200, 1)
    assert {purchase.then for purchase in crowd} == {"nothing", "pay", "cancel"}
    unpaid = {purchase.connection_id for purchase in crowd if not purchase.paid}
    assert unpaid == {"id-casa-norte", "id-casa-sul", "id-feira-livre", "id-vitrine", "id-loja-propria"}
    assert any(len(purchase.lines) > 1 for purchase in crowd)
    assert any(sku in catalogue.plan.kits for purchase in crowd for sku in purchase.lines)
    assert all(sku in catalogue.names for purchase in crowd for sku in purchase.lines)


def test_documented_limits_become_requests_a_second() -> None:
    shopify = {
        "graphql_mutation_cost": 10, "graphql_restore_points_per_s": 100, "graphql_bucket_points": 2000,
        "graphql_input_array_max": 250,
    }  # fmt: skip
    assert MARKETS["shopify"].send_limits(shopify) == SendLimits(10, 200, 250)
    assert MARKETS["skyhub"].send_limits({"skyhub_store_writes_per_s": 9, "skyhub_batch_max": 500}) == LIMITS


def record(**changes: Any) -> Any:
    message = ResendBuyer(order_id="o")
    envelope = Envelope("e", CATALOGUE.of(message).name, "test", datetime.now(UTC), "o", "demo", "")
    given = {"headers": envelope.to_headers(), "value": message.model_dump_json().encode()} | changes
    return SimpleNamespace(**given)


def test_only_messages_of_the_catalogue_are_evidence() -> None:
    read = read_record(record())
    assert read is not None
    assert read[1] == ResendBuyer(order_id="o")
    assert read_record(record(value=b"{")) is None
    assert read_record(record(value=b'{"order_id": 7}')) is None
    assert read_record(record(headers=[])) is None
    assert read_record(record(headers=[("ce_id", None)])) is None
    assert read_record(record(headers=[("ce_id", b"\xff")])) is None
    newer = json.dumps({"order_id": "o", "added_later": 1}).encode()
    assert read_record(record(value=newer)) is not None


def test_the_report_prints_everything_that_is_wrong() -> None:
    world = World(opening={"P1": 1})
    world.sale("a", 1000)
    world.shown["b", "P1"] = 1
    order = world.buy("b", 1101, order="[odd] order")
    world.report("b", order, 1160, 1101)
    world.decide("b", order, 1170, reserved=0, short=1)
    world.push("b", 1200, number=5)
    verdict = judge(world.evidence())
    console = Console(record=True, width=200)
    report.show(console, to_report(verdict, seed=1, duration_s=1, deadletters=2), verdict)
    printed = console.export_text()
    assert "2 dead letters" in printed
    assert "b shows 5 of P1, it should show 0" in printed
    assert "[odd] order" in printed
    assert "after its own channel had learned" in printed
    assert "verdict: fail" in printed


def test_a_histogram_has_a_bar_for_every_step_and_none_for_nothing() -> None:
    drawn = report.histogram([5, 5, 5, 5, 25, 10_000])
    assert len(drawn) == len(report.EDGES_MS) + 1
    assert drawn[0] == "█"
    assert drawn[2] == drawn[-1] != " "
    assert drawn[1] == " "
    assert report.histogram([]) == ""


def test_the_live_view_renders_before_and_after_anything_is_known() -> None:
    endpoints = Endpoints("k", {"inventory": Address("http://x", "t")}, {}, {}, {}, "", None)
    with Admin(endpoints, "demo", transport=httpx.MockTransport(lambda _: httpx.Response(200))) as admin:
        view = View(CHANNELS, ["SKU-0001"], Tally(), Collector("k", "demo"), {}, admin, 10)
        console = Console(record=True, width=160)
        console.print(view.render())
        view.numbers["id-loja-azul"] = {"SKU-0001": 7}
        view.collector.recent_ms.setdefault("id-loja-azul", type(view.history)()).extend([12.0, 40.0])
        view.history.extend([(0.0, 0), (2.0, 60)])
        console.print(view.render())
    printed = console.export_text()
    assert "shopify/loja-azul" in printed
    assert "30.0 orders/s" in printed
    assert "40" in printed
    assert view.line().startswith("0 orders, 30.0/s, worst p99 40 ms")

"""The sender against a channel in memory: batches, lanes, stale compares, unknown outcomes, one in flight."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from contracts.channels.v1 import QuantityTrait
from contracts.inventory.v1 import CauseOutcome
from services.channels.connectors.connector import OutcomeUnknown, Rejected, Throttled, Unreachable
from services.channels.stock import domain, upkeep
from services.channels.stock.breaker import State
from services.channels.stock.ledger import Answer
from tests.channels.stock.conftest import Desk, row

pytestmark = pytest.mark.asyncio


async def test_a_level_is_pushed_once_with_its_version_and_the_channels_request_id(desk: Desk) -> None:
    shop = desk.open()
    shop.channel.numbers["a", "1"] = 0
    await shop.put(row("a", "A"))
    await desk.level("A", 7)
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 7
    [pushed] = await desk.published()
    assert pushed["quantity"] == 7
    assert pushed["request_id"] == "request-1"
    assert pushed["covered"] == [{"sku": "A", "epoch": 1, "version": 1}]
    assert await shop.push() == 0


async def test_a_record_without_a_level_says_nothing(desk: Desk) -> None:
    shop = desk.open()
    shop.channel.numbers["a", "1"] = 9
    await shop.put(row("a", "A"), row("b"))
    await shop.push()
    assert shop.channel.batches == []
    assert shop.channel.numbers["a", "1"] == 9


async def test_what_is_dirty_goes_in_one_batch(desk: Desk) -> None:
    shop = desk.open(compares=False)
    skus = [f"S{number}" for number in range(30)]
    await shop.put(*[row(sku.lower(), sku) for sku in skus])
    for sku in skus:
        await desk.level(sku, 50)
    await shop.push()
    assert [len(batch) for batch in shop.channel.batches] == [30]


async def test_batches_are_as_large_as_the_channel_takes(desk: Desk) -> None:
    shop = desk.open(compares=False, max_batch=2)
    await shop.put(*[row(sku.lower(), sku) for sku in "ABCDE"])
    for sku in "ABCDE":
        await desk.level(sku, 50)
    await shop.push()
    assert [len(batch) for batch in shop.channel.batches] == [2, 2, 1]


async def test_low_stock_takes_the_urgent_lane(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"), row("b", "B"))
    await desk.level("A", 0)
    await desk.level("B", 50)
    assert await shop.urgent.push() == 1
    assert [write.item for write in shop.channel.batches[0]] == ["a"]


@pytest.mark.rule(25)
async def test_a_stale_batch_is_read_in_one_query_and_sent_again_whole(desk: Desk) -> None:
    shop = desk.open()
    for item in "abc":
        shop.channel.numbers[item, "1"] = 50
    await shop.put(*[row(item, item.upper()) for item in "abc"])
    for item in "abc":
        await desk.level(item.upper(), 50)
    await shop.push()
    shop.channel.numbers["b", "1"] -= 2  # Two sales nobody has told us of.
    shop.channel.batches.clear()
    shop.channel.reads.clear()
    for item in "abc":
        await desk.level(item.upper(), 40)
    await shop.push()
    assert len(shop.channel.reads) == 1
    assert len(shop.channel.reads[0]) == 3
    assert [len(batch) for batch in shop.channel.batches] == [3, 3]
    assert shop.channel.numbers == {("a", "1"): 40, ("b", "1"): 38, ("c", "1"): 40}


@pytest.mark.rule(25)
async def test_unheard_sales_of_one_channel_lower_the_others(desk: Desk) -> None:
    azul, verde = desk.open("azul"), desk.open("verde")
    for shop in (azul, verde):
        shop.channel.numbers["a", "1"] = 0
        await shop.put(row("a", "A"))
    await desk.level("A", 20)
    await azul.push()
    await verde.push()
    azul.channel.numbers["a", "1"] -= 3
    await desk.level("A", 19)
    await azul.push()
    assert azul.channel.numbers["a", "1"] == 16
    await verde.push()
    assert verde.channel.numbers["a", "1"] == 16


@pytest.mark.rule(25)
async def test_an_own_sale_alone_needs_no_write(desk: Desk) -> None:
    shop = desk.open()
    shop.channel.numbers["a", "1"] = 0
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    await shop.push()
    shop.channel.batches.clear()
    shop.channel.reads.clear()
    shop.channel.numbers["a", "1"] -= 1
    await shop.sell("order-1", "a")
    await shop.push()
    await desk.level("A", 19, desk.cause(shop, "order-1", 1))
    assert await shop.push() == 1
    assert (shop.channel.batches, shop.channel.reads) == ([], [])
    assert (await shop.row("a"))["wanted"] == 19


async def test_an_own_sale_is_looked_at_when_its_decision_does_not_come(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    await shop.push()
    await shop.sell("order-1", "a")
    assert await shop.push() == 0
    desk.later(0.6)
    assert await shop.push() == 1
    assert [batch[0].quantity for batch in shop.channel.batches] == [20, 19]


async def test_more_units_than_an_integer_holds_are_a_number_like_any_other(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 3_000_000_000)
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 3_000_000_000


@pytest.mark.rule(26)
async def test_a_change_during_the_call_is_sent_again(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)

    async def meanwhile() -> None:
        await desk.level("A", 15)

    shop.channel.during = meanwhile
    await shop.push()
    assert [batch[0].quantity for batch in shop.channel.batches] == [20, 15]


@pytest.mark.rule(26)
async def test_a_number_that_comes_back_during_the_call_is_sent_again(desk: Desk) -> None:
    """5, 3, 5: judged by its quantity the last one would be taken for the first, and 3 would stay."""
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 50)
    await shop.push()
    await desk.level("A", 30)

    async def meanwhile() -> None:
        await desk.level("A", 50)

    shop.channel.during = meanwhile
    await shop.push()
    assert [batch[0].quantity for batch in shop.channel.batches] == [50, 30, 50]
    wanted = [pushed["wanted_seq"] for pushed in await desk.published()]
    assert wanted == sorted(set(wanted))


async def test_one_record_is_never_in_flight_twice(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)

    async def meanwhile() -> None:
        await desk.level("A", 3)
        assert await shop.urgent.push() == 0
        assert await shop.normal.push() == 0

    shop.channel.during = meanwhile
    await shop.push()
    assert [batch[0].quantity for batch in shop.channel.batches] == [20, 3]


async def test_a_call_of_many_requests_keeps_its_records_to_its_end(desk: Desk) -> None:
    """Else another sender would write them too, and the older number come last."""
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)

    async def meanwhile() -> None:
        await desk.level("A", 3)
        for _ in range(2):
            desk.later(3)
            async with asyncio.timeout(20):
                while (await shop.row("a"))["claimed_until"] < desk.now + timedelta(seconds=3):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert await shop.urgent.push() == 0

    shop.channel.during = meanwhile
    await shop.normal.push()
    assert shop.channel.numbers["a", "1"] == 20
    desk.later(1)
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 3


async def test_spacing_holds_back_the_second_write_and_not_the_first(desk: Desk) -> None:
    shop = desk.open(compares=False, spacing_ms=200)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    assert await shop.push() == 1
    await desk.level("A", 18)
    assert await shop.push() == 0
    desk.later(0.2)
    assert await shop.push() == 1


async def test_throttled_records_stay_dirty_and_nothing_is_suspect(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    shop.channel.script = [Throttled(2.0)]
    await shop.push()
    kept = await shop.row("a")
    assert (kept["suspect"], kept["attempts"], kept["accepted"]) == (False, "[]", None)
    desk.later(2.1)
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 20


@pytest.mark.rule(27)
async def test_an_unknown_outcome_is_cleared_by_a_read_after_the_deadline_alone(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    await shop.push()
    await desk.level("A", 15)
    shop.channel.script = [OutcomeUnknown("timeout")]
    await shop.push()
    desk.later(1.5)
    await desk.level("A", 12)
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 12
    assert (await shop.row("a"))["suspect"], "a later acceptance does not clear it"
    await desk.reconcile(shop)
    assert (await shop.row("a"))["suspect"], "the request may still be executed"
    shop.channel.numbers["a", "1"] = 15  # It was, five seconds late.
    desk.later(10)
    await desk.reconcile(shop)
    assert not (await shop.row("a"))["suspect"]
    await shop.push()
    desk.later(10)
    await desk.poll_done(shop, desk.now)
    desk.later(1)
    await desk.reconcile(shop)
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 12


@pytest.mark.rule(27)
async def test_a_process_that_dies_in_flight_leaves_its_record_suspect(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)

    async def die() -> None:
        raise asyncio.CancelledError

    shop.channel.during = die
    with pytest.raises(asyncio.CancelledError):
        await shop.push()
    assert await shop.push() == 0
    desk.later(120)
    await shop.push()
    kept = await shop.row("a")
    assert kept["suspect"]
    assert shop.channel.numbers["a", "1"] == 20


@pytest.mark.rule(27)
async def test_compare_and_set_clears_an_unknown_outcome(desk: Desk) -> None:
    shop = desk.open()
    shop.channel.numbers["a", "1"] = 20
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    await shop.push()
    await desk.level("A", 15)
    shop.channel.script, shop.channel.executes_unknown = [OutcomeUnknown("reset")], True
    await shop.push()
    assert (await shop.row("a"))["suspect"]
    desk.later(1.5)
    await shop.push()
    kept = await shop.row("a")
    assert not kept["suspect"]
    # 20 to 15 may have been five sales: until a poll has explained them they are held to be unheard.
    assert shop.channel.numbers["a", "1"] == 10
    desk.later(5)
    await desk.poll_done(shop, desk.now)
    desk.later(1)
    await desk.reconcile(shop)
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 15


async def test_a_refused_record_waits_and_the_others_go(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"), row("b", "B"))
    shop.channel.refuse = {"a"}
    await desk.level("A", 20)
    await desk.level("B", 20)
    await shop.push()
    kept = await shop.row("a")
    assert (kept["refusal"], kept["failures"], kept["accepted"]) == ("no such item", 1, None)
    assert shop.channel.numbers["b", "1"] == 20
    shop.channel.refuse = set()
    desk.later(61)
    await shop.push()
    assert (await shop.row("a"))["refusal"] == ""


async def test_the_breaker_opens_and_probes_with_one_record(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"), row("b", "B"))
    await desk.level("A", 20)
    await desk.level("B", 20)
    shop.channel.script = [Unreachable(0.1) for _ in range(5)]
    for _ in range(5):
        await shop.normal.push()
        desk.later(0.2)
    assert shop.breaker.state is State.OPEN
    desk.later(1.5)
    assert shop.breaker.state is State.HALF_OPEN
    shop.channel.batches.clear()
    assert await shop.normal.push() == 1
    assert shop.breaker.state is State.CLOSED


async def test_a_rejected_request_leaves_everything_dirty(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    shop.channel.script = [Rejected("check the credentials")]
    await shop.push()
    assert (await shop.row("a"))["refusal"] == "check the credentials"
    desk.later(31)
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 20


async def test_a_channel_that_does_not_compare_is_read_first_when_little_is_left(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    await shop.push()
    shop.channel.numbers["a", "1"] -= 2
    await desk.level("A", 4)
    await shop.push()
    assert len(shop.channel.reads) == 1
    assert shop.channel.numbers["a", "1"] == 2


async def test_a_total_channel_gets_what_it_reserves_on_top(desk: Desk) -> None:
    shop = desk.open(quantity_trait=QuantityTrait.TOTAL, compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    await shop.push()
    await shop.sell("order-1", "a", 3)
    await desk.level("A", 17, desk.cause(shop, "order-1", 3))
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 20
    await desk.level("A", 12)
    await shop.push()
    assert shop.channel.numbers["a", "1"] == 15


@pytest.mark.rule(31)
async def test_each_sale_is_measured_at_every_record_but_its_own(desk: Desk) -> None:
    azul, verde, rosa = (desk.open(name, compares=False) for name in ("azul", "verde", "rosa"))
    for shop in (azul, verde, rosa):
        await shop.put(row("a", "A"))
    await desk.work.pool.execute("UPDATE stock_records SET cap = 5 WHERE connection_id = $1", rosa.connection_id)
    await desk.level("A", 20)
    for shop in (azul, verde, rosa):
        await shop.push()
    await azul.sell("order-1", "a")
    await desk.level("A", 19, desk.cause(azul, "order-1", 1))
    for shop in (azul, verde, rosa):
        await shop.push()
    rows = await desk.work.pool.fetch("SELECT stock_record, settled_at, unchanged FROM propagation")
    assert {(row["stock_record"], row["settled_at"] is not None, row["unchanged"]) for row in rows} == {
        (verde.record("a"), True, False),
        (rosa.record("a"), True, True),
    }
    causes = [(pushed["stock_record"], pushed["causes"]) for pushed in await desk.published() if pushed["causes"]]
    [(record, [cause])] = causes
    assert (record, cause["order_id"], cause["version"]) == (verde.record("a"), "order-1", 2)


@pytest.mark.rule(31)
async def test_causes_of_a_failed_push_come_with_the_next_one(desk: Desk) -> None:
    azul, verde = desk.open("azul", compares=False), desk.open("verde", compares=False)
    for shop in (azul, verde):
        await shop.put(row("a", "A"))
    await desk.level("A", 20)
    await azul.push()
    await verde.push()
    verde.channel.script = [Throttled(1.0)]
    for number in (1, 2):
        await azul.sell(f"order-{number}", "a")
        await desk.level("A", 20 - number, desk.cause(azul, f"order-{number}", 1))
        await verde.push()
    desk.later(2)
    await verde.push()
    last = (await desk.published())[-1]
    assert [cause["order_id"] for cause in last["causes"]] == ["order-1", "order-2"]


@pytest.mark.rule(29)
async def test_a_mass_change_stops_and_a_sale_still_passes(desk: Desk) -> None:
    shop = desk.open(compares=False)
    skus = [f"S{number:02}" for number in range(40)]
    await shop.put(*[row(sku.lower(), sku) for sku in skus])
    for sku in skus:
        await desk.level(sku, 50)
    await shop.push()
    await desk.levels(*[desk.event(sku, 900, version=2) for sku in skus])
    await shop.push()
    assert set(shop.channel.numbers.values()) == {50}
    assert await desk.work.pool.fetchval("SELECT count(*) FROM alerts WHERE kind = 'stock_brake'") == 1
    cause = desk.cause(desk.open("verde"), "order-1", 2)
    await desk.levels(desk.event("S00", 898, cause, version=3))
    await shop.push()
    assert shop.channel.numbers["s00", "1"] == 48
    async with desk.work.transaction() as tx:
        assert await upkeep.release_brake(tx.connection, desk.tenant, shop.connection_id)
    await shop.push()
    assert shop.channel.numbers["s00", "1"] == 898
    assert shop.channel.numbers["s39", "1"] == 900


async def test_what_nobody_had_looked_at_when_the_brake_was_released_passes_too(desk: Desk) -> None:
    shop = desk.open(compares=False, max_batch=25)
    skus = [f"S{number:03}" for number in range(100)]
    await shop.put(*[row(sku.lower(), sku) for sku in skus])
    for sku in skus:
        await desk.level(sku, 50)
    await shop.push()
    await desk.levels(*[desk.event(sku, 900, version=2) for sku in skus])
    while not await desk.work.pool.fetchval("SELECT count(*) FROM stock_brakes"):
        assert await shop.normal.push() == 25
    async with desk.work.transaction() as tx:
        assert await upkeep.release_brake(tx.connection, desk.tenant, shop.connection_id)
    await shop.push()
    assert set(shop.channel.numbers.values()) == {900}


@pytest.mark.rule(29)
async def test_a_mass_change_by_sales_is_none(desk: Desk) -> None:
    shop, other = desk.open(compares=False), desk.open("verde")
    skus = [f"S{number:02}" for number in range(40)]
    await shop.put(*[row(sku.lower(), sku) for sku in skus])
    for sku in skus:
        await desk.level(sku, 50)
    await shop.push()
    await desk.levels(*[desk.event(sku, 10, desk.cause(other, f"o-{sku}", 40), version=2) for sku in skus])
    await shop.push()
    assert set(shop.channel.numbers.values()) == {10}
    assert await desk.work.pool.fetchval("SELECT count(*) FROM stock_brakes") == 0


async def test_a_cancel_is_given_back_once(desk: Desk) -> None:
    azul, verde = desk.open("azul"), desk.open("verde")
    for shop in (azul, verde):
        shop.channel.numbers["a", "1"] = 0
        await shop.put(row("a", "A"))
    await desk.level("A", 20)
    await azul.push()
    await verde.push()
    azul.channel.numbers["a", "1"] -= 2
    await azul.sell("order-1", "a", 2)
    await desk.level("A", 18, desk.cause(azul, "order-1", 2))
    azul.channel.numbers["a", "1"] += 2
    await azul.sell("order-1", "a", 2, revision=2, cancelled=2)
    await desk.level("A", 20, desk.cause(azul, "order-1", -2, CauseOutcome.RELEASED))
    await azul.push()
    await verde.push()
    assert (azul.channel.numbers["a", "1"], verde.channel.numbers["a", "1"]) == (20, 20)


async def transactions(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every transaction from now on."""
    begun: list[int] = []
    transaction = desk.work.transaction

    def counted() -> Any:
        begun.append(len(begun))
        return transaction()

    monkeypatch.setattr(desk.work, "transaction", counted)
    return begun


async def test_lanes_that_are_due_at_once_share_their_claim_and_their_answers(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    shops = [desk.open(f"shop {number}", compares=False, max_batch=number % 3 + 1) for number in range(6)]
    for shop in shops:
        await shop.put(row("a", "A"), row("b", "B"))
    await desk.levels(desk.event("A", 20, version=1), desk.event("B", 20, version=1))
    begun = await transactions(desk, monkeypatch)
    assert await asyncio.gather(*[shop.normal.push() for shop in shops]) == [1, 2, 2, 1, 2, 2]
    assert len(begun) == 2
    for shop in shops:
        await shop.push()
        assert shop.channel.numbers == {("a", "1"): 20, ("b", "1"): 20}


async def test_a_record_due_in_both_lanes_is_claimed_by_one(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 50)
    await desk.level("A", 3)
    assert sorted(await asyncio.gather(shop.urgent.push(), shop.normal.push())) == [0, 1]
    assert [[write.quantity for write in batch] for batch in shop.channel.batches] == [[3]]


async def test_a_lane_that_cannot_be_decided_does_not_hold_up_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    azul, verde = desk.open("azul", compares=False), desk.open("verde", compares=False)
    for shop in (azul, verde):
        await shop.put(row("a", "A"))
    await desk.level("A", 20)
    plan = domain.plan

    def refuse(record: domain.Record, *given: Any, **more: Any) -> domain.Plan:
        if record.stock_record == azul.record("a"):
            raise ZeroDivisionError
        return plan(record, *given, **more)

    monkeypatch.setattr(domain, "plan", refuse)
    failed, pushed = await asyncio.gather(azul.push(), verde.push(), return_exceptions=True)
    assert isinstance(failed, ZeroDivisionError)
    assert (pushed, verde.channel.numbers) == (1, {("a", "1"): 20})
    monkeypatch.setattr(domain, "plan", plan)
    await azul.push()
    assert azul.channel.numbers == {("a", "1"): 20}


async def test_an_answer_to_a_lost_lease_changes_nothing_beside_one_to_a_held_one(desk: Desk) -> None:
    """Another sender took the record over while our call lasted: what it wrote stands, and the other answer is kept."""
    azul, verde = desk.open("azul", compares=False), desk.open("verde", compares=False)
    for shop in (azul, verde):
        await shop.put(row("a", "A"))
    await desk.level("A", 20)

    async def lose() -> None:
        await desk.work.pool.execute(
            "UPDATE stock_records SET claimed_until = claimed_until + interval '1 min', known = NULL, accepted = 7"
            " WHERE stock_record = $1",
            azul.record("a"),
        )

    azul.channel.during = lose
    await asyncio.gather(azul.normal.push(), verde.normal.push())
    lost, held = await azul.row("a"), await verde.row("a")
    assert (lost["accepted"], lost["known"], lost["claimed_until"] is None) == (7, None, False)
    assert (held["accepted"], held["claimed_until"]) == (20, None)
    left = await desk.work.pool.fetch("SELECT DISTINCT stock_record FROM stock_changes")
    assert [each["stock_record"] for each in left] == [azul.record("a")]


async def test_an_answer_is_kept_though_its_lane_ends_meanwhile(desk: Desk) -> None:
    shop = desk.open(compares=False)
    await shop.put(row("a", "A"))
    await desk.level("A", 20)
    answered = asyncio.Event()
    settle = desk.ledger.settle

    async def settle_and_tell(answer: Answer) -> None:
        asyncio.get_running_loop().call_soon(answered.set)
        await settle(answer)

    desk.ledger.settle = settle_and_tell  # type: ignore[method-assign]
    pushing = asyncio.create_task(shop.normal.push())
    await answered.wait()
    pushing.cancel()
    await asyncio.gather(pushing, return_exceptions=True)
    await desk.ledger.close()
    kept = await shop.row("a")
    assert (kept["accepted"], kept["claimed_until"]) == (20, None)

"""The shop in memory: what it sells, gives back, queues and writes, for every sequence of deeds."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.sandbox.buyers import buyer, cpf
from services.sandbox.shop import Change, Order, Refusal, Shop, WriteContext

CONTEXT = WriteContext("request")

deeds = st.lists(
    st.one_of(
        st.tuples(st.just("buy"), st.sampled_from("ab"), st.integers(1, 4)),
        st.tuples(st.just("cancel"), st.integers(0, 20), st.booleans()),
        st.tuples(st.just("refund"), st.integers(0, 20), st.booleans()),
        st.tuples(st.just("write"), st.sampled_from("ab"), st.integers(0, 9)),
    ),
    max_size=30,
)


def a_shop(*, queued: bool = False, **opening: int) -> Shop:
    shop = Shop("loja", queued=queued, prefix="", first_order_id=1, locations=["1"])
    for sku, number in opening.items():
        shop.put_product(sku, sku, 100, number, "1", 0)
    return shop


@given(deeds)
def test_the_facts_alone_give_the_numbers_and_none_is_below_zero(sequence: list[tuple]) -> None:
    shop = a_shop()
    facts = [*shop.put_product("a", "a", 100, 5, "1", 0), *shop.put_product("b", "b", 100, 3, "1", 0)]
    for now_ms, (deed, which, how) in enumerate(sequence):
        orders = list(shop.orders.values())
        done: list | Refusal = []
        if deed == "buy":
            done = shop.buy([(which, how)], paid=True, buyer=1, now_ms=now_ms)[1]
        elif deed == "write":
            done = shop.write([Change(which, "1", how)], CONTEXT, now_ms)
        elif orders:
            order = orders[which % len(orders)]
            if deed == "cancel":
                done = shop.cancel(order, restock=how, by="buyer", now_ms=now_ms)
            else:
                done = shop.refund(order, [(order.lines[0].line_id, 1, how)], now_ms)
        facts += [] if isinstance(done, Refusal) else done
        assert all(product.number >= 0 for product in shop.products.values())
    numbers: dict[str, int] = {}
    for kind, fact in facts:
        match kind:
            case "opened":
                numbers[fact["sku"]] = fact["number"]
            case "sale":
                numbers[fact["sku"]] -= fact["quantity"]
            case "write":
                assert numbers[fact["sku"]] == fact["number_before"]
                numbers[fact["sku"]] = fact["number_after"]
            case "cancel" | "refund":
                for line in fact["lines"]:
                    numbers[line["sku"]] += line["quantity"] if line["number_after"] is not None else 0
    assert numbers == {sku: product.number for sku, product in shop.products.items()}


@given(deeds)
def test_what_is_reserved_is_what_open_orders_hold_and_a_written_total_is_the_total(sequence: list[tuple]) -> None:
    shop = Shop("loja", queued=False, prefix="", first_order_id=1, locations=["1"], reserves=True)
    for sku in "ab":
        shop.put_product(sku, sku, 100, 5, "1", 0)
    for now_ms, (deed, which, how) in enumerate(sequence):
        orders = list(shop.orders.values())
        totals = {sku: one.numbers["1"] + one.reserved.get("1", 0) for sku, one in shop.products.items()}
        if deed == "buy":
            shop.buy([(which, how)], paid=True, buyer=1, now_ms=now_ms)
        elif deed == "write":
            # Sometimes dated a while before.
            as_of_ms = now_ms - how % 3
            handled = [one for one in orders if one.handled_ms is not None and one.handled_ms <= as_of_ms]
            shop.write([Change(which, "1", how)], replace(CONTEXT, as_of_ms=as_of_ms), now_ms)
            assert not any(line.held for one in handled for line in one.lines if line.sku == which)
            totals[which] = how
        elif orders:
            order = orders[which % len(orders)]
            held = order.lines[0].held
            if deed == "cancel":
                done = shop.cancel(order, restock=how, by="buyer", now_ms=now_ms)
                totals[order.lines[0].sku] -= 0 if how or isinstance(done, Refusal) else held
            else:
                order.handled_ms = order.handled_ms or now_ms
        for sku, one in shop.products.items():
            held = sum(line.held for order in shop.orders.values() for line in order.lines if line.sku == sku)
            assert one.reserved.get("1", 0) == held
            assert one.numbers["1"] + held == totals[sku]


def test_an_order_of_several_lines_is_sold_wholly_or_not_at_all() -> None:
    shop = a_shop(a=2, b=0)
    order, facts = shop.buy([("a", 1), ("b", 1)], paid=True, buyer=1, now_ms=1)
    assert isinstance(order, Refusal)
    assert [kind for kind, _ in facts] == ["sale_refused"]
    assert shop.products["a"].number == 2


def test_two_lines_of_one_product_cannot_take_the_same_unit() -> None:
    shop = a_shop(a=3)
    order, _ = shop.buy([("a", 2), ("a", 2)], paid=True, buyer=1, now_ms=1)
    assert isinstance(order, Refusal)


def test_updated_at_grows_by_whole_seconds_with_every_change_of_an_order() -> None:
    shop = a_shop(a=3)
    order, _ = shop.buy([("a", 2)], paid=False, buyer=1, now_ms=1_000_900)
    assert isinstance(order, Order)
    seen = [order.updated_ms // 1000]
    shop.pay(order, 1_000_950)
    seen.append(order.updated_ms // 1000)
    shop.refund(order, [(order.lines[0].line_id, 1, True)], 1_000_960)
    seen.append(order.updated_ms // 1000)
    shop.cancel(order, restock=True, by="buyer", now_ms=1_000_970)
    seen.append(order.updated_ms // 1000)
    assert seen == sorted(set(seen))


def test_a_cancelled_order_gives_back_once_and_takes_no_money() -> None:
    shop = a_shop(a=3)
    order, _ = shop.buy([("a", 2)], paid=False, buyer=1, now_ms=1)
    assert isinstance(order, Order)
    assert not isinstance(shop.cancel(order, restock=True, by="buyer", now_ms=2), Refusal)
    assert isinstance(shop.cancel(order, restock=True, by="buyer", now_ms=3), Refusal)
    assert isinstance(shop.pay(order, 4), Refusal)
    assert shop.products["a"].number == 3


def test_a_change_behind_a_delivered_queue_entry_gets_an_entry_of_its_own() -> None:
    shop = a_shop(queued=True, a=3)
    order, _ = shop.buy([("a", 1)], paid=False, buyer=1, now_ms=1)
    assert isinstance(order, Order)
    assert shop.next_queued(300_000, 2) is not None
    shop.pay(order, 3)
    shop.acknowledge(order.order_id)
    taken = shop.next_queued(300_000, 4)
    assert taken is not None
    assert taken[0].status == "approved"
    assert not order.synced


def test_a_change_before_delivery_shares_the_entry() -> None:
    shop = a_shop(queued=True, a=3)
    order, _ = shop.buy([("a", 1)], paid=False, buyer=1, now_ms=1)
    assert isinstance(order, Order)
    shop.pay(order, 2)
    assert len(shop.queue) == 1


def test_buyers_are_the_same_for_the_same_seed_and_have_valid_documents() -> None:
    assert buyer(7) == buyer(7)
    assert buyer(7).name == "Comprador 7"
    # Known pairs of nine digits and their check digits.
    assert cpf(111_444_777 - 123_456_789 + 1_000_000_000) == "11144477735"
    assert cpf(529_982_247 - 123_456_789) == "52998224725"

"""A listing as a state machine: shops of every manner, buyers, cancels, receipts, and news that is late or lost."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from tests.channels.stock.test_model import change_shops, listings, shops, wanted
from tests.channels.stock.world import Line, Listing, Shop, World


class Marketplaces(RuleBasedStateMachine):
    """Up to four shops over one stock. At the end every shop shows what there is."""

    listing, sale = Bundle("listing"), Bundle("sale")

    @initialize(
        target=listing,
        seed=st.integers(0, 2**16),
        opened=st.lists(shops | change_shops, min_size=1, max_size=4),
        put=st.lists(listings, min_size=1, max_size=5),
    )
    def open(self, seed: int, opened: list[Shop], put: list[dict]) -> object:
        self.world = World(seed)
        self.world.receive("a", 20)
        self.world.receive("b", 12)
        for shop in opened:
            self.world.open(shop)
        made = [
            self.world.put(opened[p["shop"] % len(opened)], p["consumes"], buffer=p["buffer"], cap=p["cap"])
            for p in put
        ]
        self.world.run(1.0)  # Every number has been said once before the first sale.
        return multiple(*made)

    @rule(target=sale, listing=listing, units=st.integers(1, 3))
    def buy(self, listing: Listing, units: int) -> object:
        line = self.world.buy(listing, units)
        return multiple(line) if line else multiple()

    @rule(line=sale)
    def cancel(self, line: Line) -> None:
        self.world.cancel(line)

    @rule(sku=st.sampled_from("ab"), units=st.integers(1, 10))
    def receive(self, sku: str, units: int) -> None:
        self.world.receive(sku, units)

    @rule(tenths=st.integers(1, 100))
    def wait(self, tenths: int) -> None:
        self.world.run(self.world.now + tenths / 10)

    @invariant()
    def nothing_is_promised_twice_by_inventory(self) -> None:
        for sku, units in self.world.available.items():
            assert units >= 0
            held = sum((line.decided - line.short) * line.listing.consumes.get(sku, 0) for line in self.world.lines)
            assert held + units == self.world.received[sku]

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for shop in self.world.shops:
            shop.unknown = 0.0
        self.world.run(self.world.now + 120.0)
        on_sale = [one for shop in self.world.shops for one in shop.listings]
        assert [one.buyable for one in on_sale] == [wanted(self.world, one) for one in on_sale]


TestMarketplaces = Marketplaces.TestCase
TestMarketplaces.settings = settings(max_examples=50, stateful_step_count=30)

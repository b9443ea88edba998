"""An order's process as a state machine: which message comes next, and which twice, is for Hypothesis to choose.

It looks for the sequence that breaks what `World` checks, and shortens it.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.process.world import REACH, World


class Company(RuleBasedStateMachine):
    """Two orders of a company; what is on its way waits in the bag until it is delivered."""

    world: World

    @initialize(seed=st.integers(0, 2**16))
    def open(self, seed: int) -> None:
        self.world = World(seed, 2)

    @precondition(lambda self: self.world.bag)
    @rule(place=st.integers(0, REACH - 1))
    def deliver(self, place: int) -> None:
        self.world._deliver(self.world.bag.pop(place % len(self.world.bag)))

    @precondition(lambda self: self.world.bag)
    @rule(place=st.integers(0, REACH - 1))
    def deliver_and_keep(self, place: int) -> None:
        """What was delivered comes again, later."""
        self.world._deliver(self.world.bag[place % len(self.world.bag)])

    @precondition(lambda self: not self.world.bag)
    @rule()
    def wait(self) -> None:
        self.world._wait()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.run()
            self.world.check()


TestCompany = Company.TestCase
TestCompany.settings = settings(max_examples=60, stateful_step_count=60)

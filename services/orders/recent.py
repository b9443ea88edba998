"""Orders that this process has just written, so that the answer of inventory finds them without reading them again."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias, final

from services.orders.order import Order

Key: TypeAlias = tuple[str, str]
"""(tenant, order id)."""


@final
class Known(NamedTuple):
    """An order as it was written, and the stamp that its row has had since."""

    stamp: str
    order: Order


@final
class Recent:
    """The newest `limit` orders that were written here and wait for an answer.

    The row decides whether they still are what they were. Every write has a stamp of its own, and an order counts as
    known only while its row, read under its lock, has the stamp: not once another process has written the row, and
    never where the write was rolled back.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._orders: OrderedDict[Key, Known] = OrderedDict()

    def find(self, keys: Iterable[Key]) -> dict[Key, Known]:
        """Those of `keys` that are here."""
        return {key: self._orders[key] for key in keys if key in self._orders}

    def keep(self, written: Mapping[Key, Order], stamp: str) -> None:
        """Keep those of `written` that wait for an answer; forget the others, and the oldest where it gets too many."""
        for key, order in written.items():
            self._orders.pop(key, None)
            if order.demand and not order.settled:
                self._orders[key] = Known(stamp, order)
        while len(self._orders) > self._limit:
            self._orders.popitem(last=False)

"""The table carrier: the retailer's own rates, with tracking codes and labels of our own. Nothing outside is asked."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, final

from services.fulfillment.carriers.carrier import Bought, Parcel, Purchase, Traits
from services.fulfillment.rates import CUBIC_DIVISOR, Quote, Rate, rate
from services.fulfillment.tracking import SERIALS, tracking_code

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@final
class TableCarrier:
    """Quotes from the rates that `rates` reads for a tenant."""

    traits = Traits("table", late_s=0)

    def __init__(
        self, rates: Callable[[str], Awaitable[Sequence[Rate]]], *, cubic_divisor: int = CUBIC_DIVISOR
    ) -> None:
        self._rates, self._cubic_divisor = rates, cubic_divisor

    async def quote(self, parcel: Parcel) -> Sequence[Quote]:
        """One for each service whose rates hold the postcode and the weight; none for a postcode that is none."""
        rows = await self._rates(parcel.tenant)
        try:
            return rate(
                rows,
                parcel.destination.postal_code,
                parcel.weight_g,
                parcel.dimensions_mm,
                cubic_divisor=self._cubic_divisor,
            )
        except ValueError:
            return []

    async def buy(self, parcel: Parcel, purchase: Purchase) -> Bought:
        """A tracking code of our own, drawn from the purchase's number."""
        del parcel
        return _bought(purchase)

    async def find(self, purchase: Purchase) -> Bought | None:
        """The same as was bought: it follows from the purchase alone."""
        return _bought(purchase)

    async def cancel(self, purchase: Purchase, reference: str) -> bool:
        """A label of our own is always given back."""
        del purchase, reference
        return True


def _bought(purchase: Purchase) -> Bought:
    round_, serial = divmod(purchase.serial, SERIALS)
    return Bought(purchase.key, tracking_code(serial, service=f"S{_LETTERS[(3 + round_) % len(_LETTERS)]}"))

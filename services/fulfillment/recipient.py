"""Where a parcel goes, read from what the channel says of the buyer. Pure."""

from typing import Final

from contracts.channels.v1 import BuyerReported
from services.fulfillment.labels import Place
from services.fulfillment.rates import postcode

DELIVERY: Final = ("delivery", "shipping")
"""What channels call the address that a parcel goes to; where they name none so, the first one is it."""


def recipient(buyer: BuyerReported) -> Place | None:
    """Where the parcel goes; None where the buyer has no address, or one that no label can show."""
    chosen = [one for one in buyer.addresses if one.kind in DELIVERY] or list(buyer.addresses)
    if not chosen or not chosen[0].postal_code:
        return None
    to = chosen[0]
    country = to.country or "BR"
    try:
        code = postcode(to.postal_code) if country == "BR" else to.postal_code
    except ValueError:
        return None
    return Place(buyer.name, to.street, to.number, to.complement, to.district, to.city, to.region, code, country)

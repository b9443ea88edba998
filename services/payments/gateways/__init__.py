"""One file a gateway: how it is asked, and how its objects read."""

from collections.abc import Mapping

from services.payments.gateways.gateway import Gateway
from services.payments.gateways.pix import Pix
from services.payments.gateways.stripe import Stripe


def gateways() -> Mapping[str, Gateway]:
    """Every gateway there is, by its name."""
    return {gateway.traits.name: gateway for gateway in (Stripe(), Pix())}

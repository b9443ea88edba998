"""Mercado Livre."""

from typing import Any

from tests.channels.conformance.account import Account, Case

_LIMITS = ("orders", "shipments", "stock", "search", "claims", "feeds", "token", "items", "reports")


def _unknown(body: dict[str, Any]) -> Any:
    body["order"]["status"] = "under_review"
    return body


class MercadoLivreAccount(Account):
    """A seller whose buyers send back what they have received."""

    async def refund(self, external_id: str, **quantities: int) -> None:
        for status in ("shipped", "delivered"):
            await self.control.move(self.shop, external_id, status)
        claim_id = await self.control.claim(self.shop, external_id, quantities)
        await self.control.move_claim(self.shop, claim_id, "delivered")


CASE = Case(
    connector="mercadolivre",
    unknown=_unknown,
    sees_part_refunds=True,
    says_ship_by=True,
    limits={f"meli_{name}_per_s": 1000 for name in _LIMITS},
    settings=lambda told: {
        "store_id": told["locations"][0],
        **{f"limit.{name}": "1000/1000" for name in _LIMITS},
    },
)
ACCOUNT = MercadoLivreAccount

"""The loop that reads what gateways paid out: told for each payment, and booked from the gateway to the bank."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import structlog

from contracts.payments.v1 import SettlementReported
from services.bus.failures import describe
from services.payments import store
from services.payments.accounts import Accounts
from services.payments.gateways.gateway import Settlement
from services.payments.ledger import Movement
from services.payments.store import Stored

if TYPE_CHECKING:
    from services.runtime import Service

_log = structlog.get_logger("saldo.payments")


@final
class Settler:
    """Reads payouts of every account, each once."""

    def __init__(self, service: "Service", accounts: Accounts, every_s: float) -> None:
        self._service, self._accounts, self._every_s = service, accounts, every_s

    async def run(self) -> None:
        """Look for payouts for ever; an account that does not answer is asked again at the next round."""
        while True:
            for tenant, account_id in await store.all_accounts(self._service.pool):
                try:
                    await self._read(tenant, account_id)
                except Exception as error:  # noqa: BLE001 - one account's trouble is not another's
                    _log.warning("payouts were not read", tenant=tenant, account_id=account_id, error=describe(error))
            await asyncio.sleep(self._every_s)

    async def _read(self, tenant: str, account_id: str) -> None:
        gateway, session = await self._accounts.session(tenant, account_id)
        listed = await gateway.payouts(session)
        known = await store.known_payouts(self._service.pool, account_id, listed)
        # Oldest first, so that the books grow in the order in which the money came.
        for payout_id in reversed([one for one in listed if one not in known]):
            found = await gateway.settlements(session, payout_id)
            self._service.faults.point("payout.read")
            await self._keep(tenant, account_id, gateway.traits.name, payout_id, found)
            self._service.faults.point("payout.kept")

    async def _keep(
        self, tenant: str, account_id: str, gateway: str, payout_id: str, found: Sequence[Settlement]
    ) -> None:
        async with self._service.transaction() as tx:
            if not await store.keep_payout(tx.connection, account_id, payout_id, tx.now):
                return
            payments = await store.referenced(tx.connection, account_id, [one.reference for one in found])
            ours = [(payments[one.reference], one) for one in found if one.reference in payments]
            for stored, one in ours:
                tx.publish(told(stored, gateway, one), tenant=tenant, cause=stored.cause)
            place = f"gateway:{gateway}:{account_id}"
            booked = [movement for _, one in ours if (movement := moved(place, one))]
            await store.book(tx.connection, [(tenant, one) for one in booked], tx.now)


def told(stored: Stored, gateway: str, one: Settlement) -> SettlementReported:
    """The fact about one movement of a payout."""
    return SettlementReported(
        order_id=stored.pay.order_id,
        payment_id=stored.pay.payment_id,
        settlement_id=one.settlement_id,
        gateway=gateway,
        currency=one.currency,
        gross_minor=one.gross_minor,
        fee_minor=one.fee_minor,
        net_minor=one.net_minor,
        settled_at=one.settled_at,
    )


def moved(gateway: str, one: Settlement) -> Movement | None:
    """What to book: to the bank, or back; fees were booked when the gateway took them."""
    bank = f"bank:{one.currency}"
    giver, taker = (gateway, bank) if one.net_minor > 0 else (bank, gateway)
    if not one.net_minor:
        return None
    return Movement(f"settled:{one.settlement_id}", giver, taker, one.currency, abs(one.net_minor))

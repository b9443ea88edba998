"""What payments does with its commands, and with orders that a marketplace was paid for: gather, decide, apply."""

from collections.abc import Callable, Sequence

import structlog

from contracts.payments.v1 import AuthorizePayment
from services.border.cards import contains_card
from services.border.vault import Vault
from services.bus import Received, Transaction
from services.payments import store, takeover
from services.payments.domain import Close, Command, close, command, due
from services.payments.ledger import Movement
from services.payments.settings import PaymentsSettings
from services.payments.store import Key, Stored
from services.payments.takeover import OrderHeard, Taken

_log = structlog.get_logger("saldo.payments")


async def obey(
    events: Sequence[Received[Command]],
    tx: Transaction,
    *,
    vault: Vault,
    settings: PaymentsSettings,
    wake: Callable[[], None],
) -> None:
    """Keep what is wanted of payments; whoever works on the due ones does it, and `wake` calls him.

    A token that holds a card's number is not kept, nor sent to anybody: the payment fails, and the buyer chooses again.
    """
    keys = {(event.tenant, event.message.payment_id) for event in events}
    before = await store.lock_payments(tx.connection, keys)
    accounts = await store.live_accounts(tx.connection, {tenant for tenant, _ in keys})
    now = dict(before)
    for event in events:
        message, tenant = event.message, event.tenant
        key = tenant, message.payment_id
        stored = now.get(key)
        account_id = accounts.get((tenant, message.gateway), "") if isinstance(message, AuthorizePayment) else ""
        pay = command(stored.pay if stored else None, message, account_id)
        if stored and pay is stored.pay:
            continue
        token_sealed = stored.token_sealed if stored else None
        if isinstance(message, AuthorizePayment) and pay.choice and pay.choice.revision == message.revision:
            if contains_card(message.token):
                _log.error("a card's number came as a token: refused", tenant=tenant, payment_id=message.payment_id)
                token_sealed = None
                if pay.seen is None:
                    decision = close(pay, Close("card_number", voided=False), tx.now)
                    pay = decision.pay
                    for fact in decision.facts:
                        tx.publish(fact, tenant=tenant, cause=event.cause)
            else:
                token_sealed = _sealed(vault, tenant, message)
        now[key] = Stored(pay, token_sealed, event.cause, stored.claim if stored else None)
    changed = {
        key: (stored, due(stored.pay, tx.now, settings.look_every))
        for key, stored in now.items()
        if stored is not before.get(key)
    }
    await store.put_payments(tx.connection, changed)
    tx.after_commit(wake)


def _sealed(vault: Vault, tenant: str, message: AuthorizePayment) -> bytes | None:
    if not message.token:
        return None
    return vault.seal(message.token.encode(), tenant=tenant, owner=message.payment_id, field="token")


async def take_over(events: Sequence[Received[OrderHeard]], tx: Transaction) -> None:
    """Keep, tell and book what marketplaces took of their buyers and gave back."""
    before = await store.lock_taken(tx.connection, {(event.tenant, event.message.order_id) for event in events})
    now: dict[Key, Taken] = dict(before)
    booked: list[tuple[str, Movement]] = []
    for event in events:
        key = event.tenant, event.message.order_id
        was = now.get(key)
        taken = takeover.heard(was, event.message)
        if taken is None:
            continue
        now[key] = taken
        if taken.version > (was.version if was else 0):
            booked += [(event.tenant, one) for one in takeover.booked(event.message.order_id, was, taken)]
            fact = takeover.told(event.message.order_id, taken, tx.now)
            tx.publish(fact, tenant=event.tenant, cause=event.cause)
    await store.put_taken(tx.connection, {key: one for key, one in now.items() if one is not before.get(key)})
    await store.book(tx.connection, booked, tx.now)

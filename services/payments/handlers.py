"""What payments does with its commands, and with orders that a marketplace was paid for: gather, decide, apply."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from contracts.payments.v1 import AuthorizePayment
from services.border.cards import contains_card
from services.border.tokens import open_token
from services.border.vault import SealBroken, Vault
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
    tokens: Vault,
    settings: PaymentsSettings,
    wake: Callable[[], None],
) -> None:
    """Keep what is wanted of payments; whoever works on the due ones does it, and `wake` calls him.

    A token comes sealed under the key of `tokens` and is kept under `vault`'s. One that does not open, or holds the
    number of a card, is not kept, nor sent to anybody: the payment fails, and the buyer chooses again.
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
            token_sealed, wrong = _resealed(message, tenant, vault, tokens)
            if wrong:
                _log.error("a token is refused", tenant=tenant, payment_id=message.payment_id, why=wrong)
                if pay.seen is None:
                    decision = close(pay, Close(wrong, voided=False), tx.now)
                    pay = decision.pay
                    for fact in decision.facts:
                        tx.publish(fact, tenant=tenant, cause=event.cause)
        kept = replace(stored, tried="") if stored else Stored(pay, token_sealed, event.cause)
        now[key] = replace(kept, pay=pay, token_sealed=token_sealed, cause=event.cause)
    changed = {
        key: (stored, due(stored.pay, tx.now, settings.look_every))
        for key, stored in now.items()
        if stored is not before.get(key)
    }
    await store.put_payments(tx.connection, changed)
    tx.after_commit(wake)


def _resealed(message: AuthorizePayment, tenant: str, vault: Vault, tokens: Vault) -> tuple[bytes | None, str]:
    """The token as it is kept, None where there is none; and what is wrong with it, in a word."""
    try:
        token = open_token(tokens, message.token, tenant=tenant, order_id=message.order_id)
    except SealBroken:
        return None, "token_unreadable"
    if contains_card(token):
        return None, "card_number"
    if not token:
        return None, ""
    return vault.seal(token.encode(), tenant=tenant, owner=message.payment_id, field="token"), ""


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

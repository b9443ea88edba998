"""Questions about orders, for the console and for people, and people's answers to what orders wait for."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, TypeAlias

import asyncpg
from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, ConfigDict

from services.bus import Transaction
from services.orders import store, story
from services.orders.deadlines import decide_locked
from services.orders.domain import stage_of
from services.orders.order import STATES
from services.orders.process import STAGES, PersonSaid
from services.orders.settings import OrdersSettings
from services.orders.standing import hold, standing

Opens: TypeAlias = Callable[[], AbstractAsyncContextManager[Transaction]]

ALERTS = {
    "payment": "unpaid past its deadline; the channel is asked again until it says paid or cancelled",
    "mapping": "a line's SKU or the order's status is unknown; link the listing or map the status",
    "person": "the buyer asks to cancel; answer `cancel` or `ship`, or decide at the channel",
    "short": "stock is missing; receive stock, move it from another pool, or answer `cancel`",
    "silent": "inventory has not answered; the demand is sent again, see whether inventory runs",
    "invoice": "the order is paid and waits for its invoice; give it with `saldo order invoice`",
    "cancel_invoice": "the order was cancelled after its invoice was issued; cancel the NF-e at the tax authority by "
    "`due_at`, then answer `invoice_cancelled`",
    "replace_invoice": "the order is over another sum than its invoice, and its parcels wait; cancel that NF-e at the "
    "tax authority by `due_at`, then give another with `saldo order invoice --replaces`",
    "check_invoice": "the sale names no price to compare its invoice with, or goods left with an invoice over another "
    "sum than the order's; compare them, have a wrong one corrected, and answer `invoice_checked`",
    "intercept": "a parcel left though its channel cancelled the order; have the carrier bring it back, and answer "
    "`parcel_settled` where it does not come to the dock",
    "shipping": "a parcel is not packed or not collected in time; see `saldo parcel list`",
    "lost": "a parcel is not delivered; ask the carrier and answer `delivered` or `lost`; while other parcels of the "
    "order wait to leave it takes `lost` alone",
    "compensate": "a parcel is not stopped or money not given back; it is asked for again, answer `refund` once done",
    "dispute": "the buyer's bank disputes the payment; answer it at the gateway",
    "unpaid": "goods left and their money lapsed or went back without our asking; ask the buyer for it",
    "telling": "the channel refuses what it was told; tell it there by hand",
}


class Answer(BaseModel):
    """What a person says to what an order waits for."""

    model_config = ConfigDict(extra="forbid")

    answer: str


def admin_router(pool: Callable[[], asyncpg.Pool], opens: Opens, settings: OrdersSettings) -> APIRouter:
    """The routes of orders under `/admin`, reading from the pool that `pool` gives, writing in what `opens` opens."""
    router = APIRouter()
    _add_questions(router, pool, settings)

    @router.post("/orders/{order_id}/answer")
    async def answer(tenant: str, order_id: str, given: Answer) -> dict[str, Any]:
        """A person answers what the order waits for."""
        async with opens() as tx:
            row = await store.lock_order(tx.connection, tenant, order_id)
            if row is None:
                raise HTTPException(404, f"no order {order_id}: give an order id")
            found = store.read(row)
            answers, waits_for = story.answers(found), STAGES[stage_of(found)].waits_for
            if given.answer not in answers:
                known = " or ".join(answers) or "nothing"
                raise HTTPException(409, f"the order waits for {waits_for}: it takes {known}, not {given.answer}")
            await decide_locked(tx, settings, [row], PersonSaid(given.answer))
        async with pool().acquire() as connection:
            [row] = await store.find_orders(connection, tenant, order_id, None)
        return _shown(row) | story.process(store.read(row), settings.lengths)

    return router


def _what(kind: str, *, overdue: bool) -> str:
    late = "its term is over: the NF-e needs another one that undoes it (estorno); then answer `invoice_cancelled`"
    return late if kind == "cancel_invoice" and overdue else ALERTS[kind]


def _add_questions(router: APIRouter, pool: Callable[[], asyncpg.Pool], settings: OrdersSettings) -> None:

    @router.get("/orders")
    async def orders(
        tenant: str, state: str | None = None, after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> dict[str, Any]:
        """A page of orders by id; `next` is the `after` of the following page, null at the end."""
        if state is not None and state not in STATES:
            raise HTTPException(422, f"state must be one of {', '.join(STATES)}")
        async with pool().acquire() as connection:
            rows = await store.list_orders(connection, tenant, state, after, limit)
        return {"orders": [_shown(row) for row in rows], "next": rows[-1]["order_id"] if len(rows) == limit else None}

    @router.get("/orders/summary")
    async def summary(tenant: str) -> dict[str, Any]:
        """Orders by state and units by outcome, in all and per connection."""
        async with pool().acquire() as connection:
            rows = await store.summarize(connection, tenant)
        total = _empty_summary()
        connections: dict[str, dict[str, Any]] = {}
        for row in rows:
            for part in (total, connections.setdefault(row["connection_id"], _empty_summary())):
                part["orders"] += row["orders"]
                part["states"][row["state"]] += row["orders"]
                for outcome in part["units"]:
                    part["units"][outcome] += row[outcome]
        return total | {"connections": connections}

    @router.get("/orders/{identity:path}")
    async def order(tenant: str, identity: str, connection_id: str | None = None) -> dict[str, Any]:
        """One order by its id, or by its external id (with `connection_id`, where several connections have it)."""
        async with pool().acquire() as connection:
            rows = await store.find_orders(connection, tenant, identity, connection_id)
        if not rows:
            raise HTTPException(404, f"no order {identity}: give an order id, or the number the channel shows")
        if len(rows) > 1:
            found = ", ".join(store.read(row).sale.connection_id for row in rows)
            raise HTTPException(409, f"{identity} exists on several connections: add connection_id, one of {found}")
        async with pool().acquire() as connection:
            told = await store.read_story(connection, tenant, rows[0]["order_id"])
        whole = _shown(rows[0]) | story.process(store.read(rows[0]), settings.lengths)
        return whole | {"deadline_at": rows[0]["deadline_at"], "story": story.steps(rows[0], told)}

    @router.get("/alerts")
    async def list_alerts(tenant: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        """What a person should look at, newest first, each with what to do."""
        async with pool().acquire() as connection:
            rows = await store.list_alerts(connection, tenant, limit)
        return {"alerts": [dict(row) | {"what": _what(row["kind"], overdue=row["overdue"])} for row in rows]}


def _empty_summary() -> dict[str, Any]:
    return {
        "orders": 0,
        "states": dict.fromkeys(STATES, 0),
        "units": dict.fromkeys(("ordered", "cancelled", "reserved", "short", "open"), 0),
    }


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    order = store.read(row)
    sale = order.sale
    waits = hold(order)
    return {
        "order_id": row["order_id"],
        "connection_id": sale.connection_id,
        "connector": row["connector"],
        "account": row["account"],
        "external_id": sale.external_id,
        "state": order.state.kind,
        "held_for": waits.reason if waits else None,
        "paid": order.paid,
        "version": order.version,
        "status": order.status.value,
        "sale_revision": sale.revision,
        "sold_at": sale.sold_at,
        "received_at": sale.received_at,
        "payment_due": sale.payment_due,
        "unresolved": list(sale.unresolved),
        "changed_at": row["changed_at"],
        "demand_revision": order.demand.revision if order.demand else None,
        "answered_revision": order.answer.revision if order.answer else None,
        "lines": [line._asdict() for line in standing(order)],
    }

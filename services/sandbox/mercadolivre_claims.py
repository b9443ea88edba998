"""Mercado Livre's claims and the returns that they lead to, as its pages "Gestionar reclamos" and "Devoluciones" say.

A buyer claims units of an order that has left. The claim has a return on its way (`label_generated`, `shipped`,
`delivered`, or `cancelled`); one of low cost ends in the money alone. The money is given back when the return arrives,
or at once where nothing is to arrive. The channel puts nothing back on sale: that is the seller's.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from services.sandbox import mercadolivre_objects as objects
from services.sandbox.books import Fact, now_ms
from services.sandbox.guard import Handler, Refused, json_answer
from services.sandbox.market import Account, Market
from services.sandbox.mercadolivre_pushes import Notifications
from services.sandbox.shop import Order, Refusal, stable_id

_AFTER = {
    "shipped": ("label_generated",),
    "delivered": ("label_generated", "shipped"),
    "cancelled": ("label_generated", "shipped"),
}
_RANGE = "last_updated:after:"


class _Units(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sku: str
    quantity: Annotated[int, Field(gt=0)]


class ClaimBody(BaseModel):
    """What a buyer claims: units of the order, sent back or, where that costs more than they are worth, kept."""

    model_config = ConfigDict(extra="forbid")
    lines: Annotated[list[_Units], Field(min_length=1)]
    low_cost: bool = False


class MoveBody(BaseModel):
    """Where the return is now."""

    model_config = ConfigDict(extra="forbid")
    status: Literal["shipped", "delivered", "cancelled"]


class Claims:
    """The claims of every shop: kept as documents, opened and moved over the control interface."""

    def __init__(self, market: Market, notifications: Notifications) -> None:
        self._market = market
        self._notifications = notifications

    def control(self) -> list[tuple[str, str, Handler]]:
        """Rows for the control interface."""
        return [
            ("POST", "/shops/{shop}/orders/{order}/claim", self._open),
            ("POST", "/shops/{shop}/claims/{claim}/move", self._move),
        ]

    # -- what buyers do ----------------------------------------------------------------------------------------------

    def _account(self, request: Request) -> Account:
        account = self._market.accounts.get(request.path_params["shop"])
        if account is None:
            raise Refused(404, {"error": f"no shop {request.path_params['shop']!r}: create it with PUT"})
        return account

    async def _open(self, request: Request) -> Response:
        account = self._account(request)
        order = account.shop.orders.get(request.path_params["order"])
        body = ClaimBody.model_validate_json(await request.body())
        if order is None or order.status not in ("shipped", "delivered"):
            raise Refused(409, {"reason": "transition", "error": "only what has left can be claimed"})
        known = [one for one in account.of_kind("claim").values() if one["order_id"] == order.order_id]
        claimed = [row for one in known if one["status"] != "cancelled" for row in one["lines"]]
        rows: list[dict[str, int]] = []
        for wanted in body.lines:
            for line in order.lines:
                used = sum(row["quantity"] for row in [*claimed, *rows] if row["line_id"] == line.line_id)
                units = min(wanted.quantity, line.quantity - used) if line.sku == wanted.sku else 0
                if units > 0:
                    rows.append({"line_id": line.line_id, "quantity": units})
                    wanted.quantity -= units
            if wanted.quantity:
                raise Refused(409, {"reason": "line", "error": f"{wanted.sku}: fewer units left to claim"})
        at_ms = now_ms()
        claim = {
            "claim_id": stable_id(account.name, order.order_id, "claim", str(len(known))),
            "order_id": order.order_id,
            "lines": rows,
            "low_cost": body.low_cost,
            "status": "delivered" if body.low_cost else "label_generated",
            "opened_ms": at_ms,
            "updated_ms": at_ms,
        }
        self._commit(account, order, claim, at_ms, refunds=body.low_cost)
        return json_answer({"claim_id": claim["claim_id"]}, 201)

    async def _move(self, request: Request) -> Response:
        account, key = self._account(request), request.path_params["claim"]
        status = MoveBody.model_validate_json(await request.body()).status
        known = account.kept.get(("claim", key))
        if known is None:
            raise Refused(404, {"error": f"no claim {key!r} in this shop"})
        if known["status"] not in _AFTER[status]:
            raise Refused(409, {"reason": "transition", "error": f"a return that is {known['status']} stays so"})
        at_ms = max(now_ms(), known["updated_ms"] + 1)
        order = account.shop.orders[known["order_id"]]
        self._commit(account, order, known | {"status": status, "updated_ms": at_ms}, at_ms, status == "delivered")
        return json_answer({"claim_id": known["claim_id"], "moved_at_ms": at_ms})

    def _commit(self, account: Account, order: Order, claim: dict[str, Any], at_ms: int, refunds: bool) -> None:
        """Keep the claim, give the money back where that is due, and tell the seller of both."""
        account.keep("claim", str(claim["claim_id"]), claim)
        told = {name: claim[name] for name in ("order_id", "claim_id", "status", "low_cost", "lines")}
        facts: list[Fact] = [("claim", told)]
        pushes = self._notifications.announce_claim(account, claim, facts, at_ms)
        if refunds:
            back = [(row["line_id"], row["quantity"], False) for row in claim["lines"]]
            refund = account.shop.refund(order, back, at_ms)
            if isinstance(refund, Refusal):
                raise Refused(409, {"reason": refund.reason, "error": refund.message})
            pushes |= self._notifications.announce(account, order, refund, at_ms)
            facts += refund
        self._market.commit(account, facts, at_ms, pushes)

    # -- what its interface shows ------------------------------------------------------------------------------------

    def search(self, account: Account, query: dict[str, str]) -> list[dict[str, Any]] | str:
        """Claims that fit the filters, the oldest first; text says what is wrong with these."""
        filters = {"order_id", "id", "players.role", "players.user_id", "range"} & query.keys()
        if not filters:
            return "at least any of these filters: id, order_id, players.role, players.user_id, last_updated"
        if ("players.role" in query) != ("players.user_id" in query):
            return "At least submit some of these filters: [players.role and players.user_id]"
        if query.get("players.user_id", str(objects.user_id(account))) != str(objects.user_id(account)):
            return []
        since_ms = 0
        if "range" in query:
            text = query["range"]
            border = objects.read_moment_ms(text.removeprefix(_RANGE)) if text.startswith(_RANGE) else None
            if border is None:
                return "range: last_updated:after:<date>"
            since_ms = border
        found = sorted(account.of_kind("claim").values(), key=lambda one: (one["opened_ms"], one["claim_id"]))
        return [
            self.shown(account, one)
            for one in found
            if one["updated_ms"] >= since_ms
            and query.get("order_id", one["order_id"]) == one["order_id"]
            and query.get("id", str(one["claim_id"])) == str(one["claim_id"])
        ]

    def of(self, account: Account, claim_id: str) -> dict[str, Any] | None:
        """A kept claim."""
        return account.kept.get(("claim", claim_id))

    def shown(self, account: Account, claim: dict[str, Any]) -> dict[str, Any]:
        """`GET /post-purchase/v1/claims/{id}` and a row of the search."""
        order = account.shop.orders[claim["order_id"]]
        total = sum(row["quantity"] for row in claim["lines"]) == sum(line.quantity for line in order.lines)
        closed = claim["status"] in ("delivered", "cancelled")
        reason = "return_canceled" if claim["status"] == "cancelled" else "payment_refunded"
        resolution = {
            "reason": reason,
            "date_created": objects.moment(claim["updated_ms"]),
            "benefited": ["complainant"],
            "closed_by": "mediator",
            "applied_coverage": False,
        }
        players = [
            {"role": role, "type": kind, "user_id": user, "available_actions": []}
            for role, kind, user in (
                ("complainant", "buyer", stable_id("buyer", str(order.buyer))),
                ("respondent", "seller", objects.user_id(account)),
            )
        ]
        return {
            "id": claim["claim_id"],
            "resource_id": int(order.order_id),
            "status": "closed" if closed else "opened",
            "type": "return",
            "stage": "claim",
            "parent_id": None,
            "resource": "order",
            "reason_id": "PDD9549",
            "fulfilled": True,
            "quantity_type": "total" if total else "partial",
            "claimed_quantity": sum(row["quantity"] for row in claim["lines"]),
            "claim_version": 2.0,
            "players": players,
            "resolution": resolution if closed else None,
            "site_id": "MLB",
            "date_created": objects.moment(claim["opened_ms"]),
            "last_updated": objects.moment(claim["updated_ms"]),
            "related_entities": ["return"],
        }

    def shown_return(self, account: Account, claim: dict[str, Any]) -> dict[str, Any]:
        """`GET /post-purchase/v2/claims/{id}/returns`."""
        order = account.shop.orders[claim["order_id"]]
        lines = {line.line_id: line for line in order.lines}
        orders = []
        for row in claim["lines"]:
            line = lines[row["line_id"]]
            orders.append(
                {
                    "order_id": int(order.order_id),
                    "item_id": objects.advert_of(account.shop.products[line.sku], line.advert),
                    "variation_id": None,
                    "context_type": "total" if row["quantity"] == line.quantity else "partial",
                    "total_quantity": f"{line.quantity}.0",
                    "return_quantity": f"{row['quantity']}.0",
                }
            )
        total = len(orders) == len(order.lines) and all(one["context_type"] == "total" for one in orders)
        status, low_cost = claim["status"], claim["low_cost"]
        parcel = {
            "shipment_id": stable_id(account.name, str(claim["claim_id"]), "return shipment"),
            "status": "ready_to_ship" if status == "label_generated" else status,
            "tracking_number": None,
            "destination": {"name": "seller_address", "shipping_address": None},
            "type": "return",
        }
        closed = status in ("delivered", "cancelled")
        return {
            "id": stable_id(account.name, str(claim["claim_id"]), "return"),
            "last_updated": objects.moment(claim["updated_ms"]),
            "shipments": [] if low_cost else [parcel],
            "refund_at": "n/a" if low_cost else "delivered",
            "date_closed": objects.moment(claim["updated_ms"]) if closed else None,
            "resource_type": "order",
            "date_created": objects.moment(claim["opened_ms"]),
            "claim_id": claim["claim_id"],
            "status_money": "refunded" if status == "delivered" else "retained",
            "resource_id": int(order.order_id),
            "orders": orders,
            "subtype": "low_cost" if low_cost else "return_total" if total else "return_partial",
            "status": status,
            "related_entities": [],
            "intermediate_check": False,
            "resources": [{"resource": "claim", "resource_id": str(claim["claim_id"])}],
        }

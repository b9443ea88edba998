"""Tryton: products are read, sales are booked with the moves of stock that left.

Source: trytond 8.2, `trytond.protocols.jsonrpc` and `dispatcher` (a call is one transaction of the database there, so a
refused one has changed nothing), modules sale and stock. Lots, because a call costs more than a sale in it: one by one
200 sales take six minutes, in lots of 50 half a minute.

A sale has the order's id as its reference. What there is already is read before anything is made, and each step follows
from the state that Tryton tells, so that a lot can be taken up again after any end. Where a call whose answer was lost
came to pass late, there may be two drafts of one reference: the elder goes on, the other is deleted before anything has
moved.
"""

import base64
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import date
from typing import Any, Final, NamedTuple, Self, final
from urllib.parse import quote

from services.border.calls import send
from services.border.client import open_client
from services.border.errors import LimiterLike, OutcomeUnknown, Rejected, Unreachable
from services.border.reading import major, mapping, read_json, text
from services.erp.domain import Sale

TARGET: Final = "tryton"
PAGE: Final = 1000
STEPS_MAX: Final = 12
"""More than a sale needs from nothing to its goods' end."""
NONSENSE: Final = "the answer is none of Tryton's: check base_url and database, and what stands before it"
_BUSY_S: Final = 2.0
_SHIPMENT: Final = "stock.shipment.out"
_SALE_STEPS: Final = {"draft": "quote", "quotation": "confirm", "confirmed": "process"}
_SALE_UNDER_WAY: Final = frozenset({"processing", "done"})
_SHIPMENT_STEPS: Final = {
    "draft": "wait", "waiting": "assign_force", "assigned": "pick", "picked": "pack", "packed": "do", "shipped": "do",
}  # fmt: skip


class Refused(Exception):
    """Tryton refused a call and changed nothing; `reason` is a word of ours, because its text may name a person."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Tryton refused: {reason}")
        self.reason = reason


class Product(NamedTuple):
    """A product as Tryton has it."""

    code: str
    name: str
    active: bool


class Outcome(NamedTuple):
    """What became of a sale: its `reference` and those of its `shipments` there, or a `reason` why it is refused."""

    reference: str = ""
    shipments: tuple[str, ...] = ()
    reason: str = ""


class Login(NamedTuple):
    """Who we are in a database of Tryton."""

    base_url: str
    database: str
    user: str
    password: str


@final
class Tryton:
    """A session. Use as a context manager; raises what `services.border.calls.send` does, and `Refused`."""

    def __init__(
        self, login: Login, limiter: LimiterLike, *, warehouse: str, public_only: bool, timeout_s: float
    ) -> None:
        self._login, self._limiter, self._warehouse = login, limiter, warehouse
        # Its longer answers say that they are gzip, asked for or not.
        self._http = open_client(public_only=public_only, timeout_s=timeout_s, gzip=True)
        self._url = f"{login.base_url.rstrip('/')}/{quote(login.database, safe='')}/rpc/"
        self._context: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        try:
            user, password = self._login.user, self._login.password
            told = await self._call("common.db.login", user, {"password": password})
            number, session, *_ = told
            if not isinstance(session, str):
                raise TypeError
            token = base64.b64encode(f"{user}:{_id(number)}:{session}".encode()).decode()
            self._http.headers["authorization"] = f"Session {token}"
            preferences = mapping(await self._call("model.res.user.get_preferences", True, {}), "preferences")
            if not preferences.get("company"):
                raise Rejected("the user has no company in Tryton: give it one in its preferences")
            self._context = {"company": _id(preferences["company"]), "_skip_warnings": True}
        except (ValueError, TypeError):
            await self._http.aclose()
            raise Rejected(NONSENSE) from None
        except BaseException:
            await self._http.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def products(self) -> AsyncIterator[list[Product]]:
        """Every product that has a code, archived ones too, a page at a time."""
        after = 0
        while True:
            domain = [["id", ">", after], ["code", "!=", None], ["active", "in", [True, False]]]
            rows = await self._read("product.product", domain, ["code", "active", "template.name"], limit=PAGE)
            if rows and rows[0]["id"] <= after:
                # Page after page of the same would never end.
                raise Rejected(NONSENSE)
            if rows:
                yield [_product(row) for row in rows if text(row.get("code"))]
            if len(rows) < PAGE:
                return
            after = rows[-1]["id"]

    async def book(self, sales: Sequence[Sale], point: Callable[[str], None]) -> dict[str, Outcome]:
        """Bring sales to where their goods have left, from wherever they are; by order id.

        What is missing in the answer is not finished, and is to be taken up again. `point` is told each step's name.
        """
        outcomes: dict[str, Outcome] = {}
        there = await self._sales([sale.order_id for sale in sales])
        if missing := [sale for sale in sales if sale.order_id not in there]:
            outcomes |= await self._create(missing)
            point("created")
            there = await self._sales([sale.order_id for sale in sales])
        for _ in range(STEPS_MAX):
            calls: dict[str, dict[str, Sequence[int]]] = defaultdict(dict)
            for order_id, found in there.items():
                if order_id in outcomes:
                    continue
                step = next_step(found)
                if isinstance(step, Outcome):
                    outcomes[order_id] = step
                elif step:
                    calls[step[0]][order_id] = step[1]
            if not calls:
                break
            days = {sale.order_id: sale.left_on for sale in sales}
            for method, theirs in calls.items():
                outcomes |= await self._step(method, theirs, days)
                point(method.rpartition(".")[2])
            there = await self._sales([order_id for order_id in there if order_id not in outcomes])
        return outcomes

    # -- the steps of a lot ----------------------------------------------------------------------------------------

    async def _create(self, sales: Sequence[Sale]) -> dict[str, Outcome]:
        products = await self._products({line.sku for sale in sales for line in sale.lines if line.sku})
        currencies = await self._currencies({sale.currency for sale in sales})
        parties = {connection: await self._party(connection) for connection in {sale.connection_id for sale in sales}}
        warehouse = await self._find_warehouse()
        outcomes: dict[str, Outcome] = {}
        values: dict[str, dict[str, Any]] = {}
        for sale in sales:
            try:
                made = sale_values(sale, products, currencies, *parties[sale.connection_id])
            except Refused as refused:
                outcomes[sale.order_id] = Outcome(reason=refused.reason)
            else:
                values[sale.order_id] = made | {"warehouse": warehouse}
        return outcomes | await self._in_lots(
            values, lambda theirs: self._write("sale.sale.create", [values[order_id] for order_id in theirs])
        )

    async def _step(
        self, method: str, theirs: Mapping[str, Sequence[int]], days: Mapping[str, date]
    ) -> dict[str, Outcome]:
        async def take(order_ids: Collection[str]) -> None:
            if method == f"{_SHIPMENT}.pick":
                # The day that the goods left, not the one on which this is booked; every move takes it from here.
                dated = [
                    given for one in order_ids for given in (list(theirs[one]), {"effective_date": _day(days[one])})
                ]
                await self._write(f"{_SHIPMENT}.write", *dated)
            await self._write(method, [number for one in order_ids for number in theirs[one]])

        return await self._in_lots(theirs, take)

    async def _in_lots(self, wanted: Collection[str], take: Callable[[Collection[str]], Any]) -> dict[str, Outcome]:
        """Take all at once; if that is refused, one by one. Returns those that are refused alone."""
        if not wanted:
            return {}
        try:
            await take(wanted)
        except Refused as refused:
            if len(wanted) == 1:
                return {one: Outcome(reason=refused.reason) for one in wanted}
            outcomes: dict[str, Outcome] = {}
            for one in wanted:
                outcomes |= await self._in_lots([one], take)
            return outcomes
        return {}

    # -- what there is ---------------------------------------------------------------------------------------------

    async def _sales(self, order_ids: Sequence[str]) -> "dict[str, Found]":
        if not order_ids:
            return {}
        fields = ["reference", "number", "state", "shipments", "shipment_state"]
        rows = await self._read("sale.sale", [["reference", "in", list(order_ids)]], fields)
        if not {row.get("reference") for row in rows} <= set(order_ids):
            # What was not asked for is not ours: of two drafts of one reference, one is deleted below.
            raise Rejected(NONSENSE)
        numbers = sorted({number for row in rows for number in _ids(row, "shipments")})
        shipments = {}
        if numbers:
            shipments = {
                row["id"]: Shipment(row["id"], text(row["number"]), text(row["state"]))
                for row in await self._read(_SHIPMENT, [["id", "in", numbers]], ["number", "state"])
            }
        found: dict[str, Found] = {}
        spare: list[int] = []
        for row in rows:
            theirs = tuple(shipments[number] for number in row["shipments"] if number in shipments)
            one = Found(row["id"], text(row["number"]), text(row["state"]), text(row["shipment_state"]), theirs)
            # Rows come eldest first. A cancelled one stands for the order only where there is no other.
            if row["reference"] not in found or found[row["reference"]].state == "cancelled":
                found[row["reference"]] = one
            elif one.state == "draft":
                spare.append(one.id)
        if spare:
            await self._write("sale.sale.delete", spare)
        return found

    async def _products(self, codes: Collection[str]) -> dict[str, tuple[int, int] | None]:
        """Id and unit of each code; None where several products have it."""
        rows = await self._read(
            "product.product", [["code", "in", sorted(codes)], ["active", "in", [True, False]]], ["code", "default_uom"]
        )
        found: dict[str, tuple[int, int] | None] = {}
        for row in rows:
            found[row["code"]] = None if row["code"] in found else (row["id"], _id(row.get("default_uom")))
        return found

    async def _currencies(self, codes: Collection[str]) -> dict[str, int]:
        rows = await self._read("currency.currency", [["code", "in", sorted(codes)]], ["code"])
        return {row["code"]: row["id"] for row in rows}

    async def _party(self, connection_id: str) -> tuple[int, int]:
        """Party and address that stand for the buyers of a connection: no buyer's own data leaves for Tryton."""
        name = f"marketplace {connection_id}"
        for _ in range(2):
            rows = await self._read("party.party", [["name", "=", name]], ["addresses"])
            if rows and (addresses := _ids(rows[0], "addresses")):
                return rows[0]["id"], addresses[0]
            await self._write("party.party.create", [{"name": name, "addresses": [["create", [{}]]]}])
        raise Refused("failed")

    async def _find_warehouse(self) -> int:
        domain = [["type", "=", "warehouse"], *([["code", "=", self._warehouse]] if self._warehouse else [])]
        rows = await self._read("stock.location", domain, ["code"])
        if len(rows) != 1:
            raise Rejected(f"Tryton has {len(rows)} such warehouses: say which by its code")
        return int(rows[0]["id"])

    # -- calls -----------------------------------------------------------------------------------------------------

    async def _read(
        self, model: str, domain: list[Any], fields: list[str], limit: int | None = None
    ) -> list[Mapping[str, Any]]:
        """Rows by age, each with the fields that were asked for. Raises `Rejected` where the answer is none of
        Tryton's: nothing may follow from it."""
        told = await self._call(f"model.{model}.search_read", domain, 0, limit, [["id", "ASC"]], fields, self._context)
        names = {"id", *(name.partition(".")[0] + ("." if "." in name else "") for name in fields)}
        if not isinstance(told, list) or not all(isinstance(row, dict) and names <= row.keys() for row in told):
            raise Rejected(NONSENSE)
        numbers = [_id(row["id"]) for row in told]
        if numbers != sorted(set(numbers)):
            raise Rejected(NONSENSE)
        return told

    async def _write(self, method: str, *arguments: Any) -> Any:
        return await self._call(f"model.{method}", *arguments, self._context, writes=True)

    async def _call(self, method: str, *params: Any, writes: bool = False) -> Any:
        request = self._http.build_request("POST", self._url, json={"id": 1, "method": method, "params": params})
        response = await send(self._http, self._limiter, "rpc", request, writes=writes)
        try:
            told = mapping(read_json(response.content), "answer")
        except ValueError:
            if writes:
                raise OutcomeUnknown("rpc: an answer that is no JSON") from None
            raise Unreachable(_BUSY_S) from None
        error = told.get("error")
        if error is None:
            return told.get("result")
        kind = text(error[0]) if isinstance(error, list) and error else ""
        if kind == "ConcurrencyException":
            raise Unreachable(_BUSY_S)
        raise Refused("refused" if kind in ("UserError", "UserWarning") else "failed")


def _id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Rejected(NONSENSE)
    return value


def _ids(row: Mapping[str, Any], name: str) -> list[int]:
    found = row.get(name)
    if not isinstance(found, list | tuple):
        raise Rejected(NONSENSE)
    return [_id(one) for one in found]


def _product(row: Mapping[str, Any]) -> Product:
    template, active = row["template."], row["active"]
    # Taken for no, anything else would take the item off every channel. On SQLite Tryton says it by 1 and 0.
    if not isinstance(active, int) or active not in (0, 1) or not isinstance(template, dict):
        raise Rejected(NONSENSE)
    return Product(text(row["code"]), text(template.get("name")), bool(active))


class Shipment(NamedTuple):
    """A shipment of a sale as Tryton has it."""

    id: int
    number: str
    state: str


class Found(NamedTuple):
    """A sale as Tryton has it."""

    id: int
    number: str
    state: str
    shipment_state: str
    shipments: tuple[Shipment, ...]


def next_step(found: Found) -> Outcome | tuple[str, list[int]] | None:
    """What a sale needs next: a method and what to call it with, or its end. None: Tryton itself is at work."""
    if found.state == "cancelled":
        return Outcome(reason="cancelled_there")
    if method := _SALE_STEPS.get(found.state):
        return f"sale.sale.{method}", [found.id]
    waiting = [one for one in found.shipments if one.state in _SHIPMENT_STEPS]
    if waiting:
        state = waiting[0].state
        return f"{_SHIPMENT}.{_SHIPMENT_STEPS[state]}", [one.id for one in waiting if one.state == state]
    if any(one.state == "cancelled" for one in found.shipments) and found.shipment_state != "sent":
        return Outcome(reason="shipment_cancelled_there")
    if found.state not in _SALE_UNDER_WAY:
        return None
    if found.shipments or found.shipment_state == "none":
        return Outcome(found.number, tuple(one.number for one in found.shipments if one.state == "done"))
    return None


def sale_values(
    sale: Sale,
    products: Mapping[str, tuple[int, int] | None],
    currencies: Mapping[str, int],
    party: int,
    address: int,
) -> dict[str, Any]:
    """What Tryton makes a sale of. Raises `Refused` where it cannot hold it.

    Its lines add up to what the order came to: a last line without a product is what no unit's price accounts for, such
    as freight. The invoice is the one that erp keeps, so Tryton makes none.
    """
    if not sale.lines:
        raise Refused("empty")
    if sale.currency not in currencies:
        raise Refused("currency_unknown")
    lines: list[dict[str, Any]] = []
    rest_minor = sale.total_minor
    for line in sale.lines:
        unit_minor = line.value_minor // line.quantity
        rest_minor -= unit_minor * line.quantity
        product = products.get(line.sku) if line.sku else ()
        if product is None:
            raise Refused("item_ambiguous" if line.sku in products else "item_unknown")
        about = {"product": product[0], "unit": product[1]} if product else {"description": "without a product"}
        lines.append({"quantity": line.quantity, "unit_price": _money(unit_minor, sale.currency), **about})
    if rest_minor:
        price = _money(rest_minor, sale.currency)
        lines.append({"quantity": 1, "unit_price": price, "description": "freight and discounts"})
    return {
        "party": party, "invoice_address": address, "shipment_address": address, "reference": sale.order_id,
        "currency": currencies[sale.currency], "sale_date": _day(sale.left_on), "invoice_method": "manual",
        "shipment_method": "order", "lines": [["create", [{"type": "line", **line} for line in lines]]],
    }  # fmt: skip


def _money(amount_minor: int, currency: str) -> dict[str, str]:
    return {"__class__": "Decimal", "decimal": str(major(amount_minor, currency))}


def _day(day: date) -> dict[str, Any]:
    return {"__class__": "date", "year": day.year, "month": day.month, "day": day.day}

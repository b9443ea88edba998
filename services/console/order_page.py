"""The page of one order: where it stands, what it waits for, its lines, money, parcels, invoice, and its story."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.console import pages, story
from services.console.pages import at, money

_STATES: Final = {
    "placed": "taken in, inventory has not answered yet",
    "short": "stock is missing",
    "confirmed": "its stock is reserved",
    "invoiced": "it has its invoice, its parcels are being prepared",
    "packed": "its parcels wait for their carrier",
    "cancelling": "parcels are being stopped and money given back",
    "shipped": "on its way to the buyer",
    "delivered": "with the buyer",
    "returned": "come back, or on its way back",
    "closed": "long finished",
}
_ANSWERS: Final = {
    "cancel": "cancel it",
    "wait": "give it its time once more",
    "ship": "send it all the same",
    "delivered": "it has arrived",
    "lost": "it is lost, its buyer gets the money back",
    "refund": "what is missing was given back by hand",
    "invoice_cancelled": "the NF-e was cancelled at the tax authority",
}
_OUTCOMES: Final = ("ordered", "reserved", "short", "open", "shipped", "returned", "cancelled")


def show(
    console: Console, order: Mapping[str, Any], parcels: Mapping[str, Mapping[str, Any]], invoice: Mapping[str, Any]
) -> None:
    """Print the page. `order` is what `--json` prints; `parcels` are fulfillment's by id, `invoice` is erp's."""
    pages.show(
        console,
        f"order {order['external_id']} of {order['account']}",
        _head(order),
        {
            "What you can do": _wanted(order),
            "Lines": _lines(order),
            "Money": _money(order),
            "Parcels": _parcels(order, parcels),
            "Invoice": _invoice(order, invoice),
            "Story": _story(order["story"], order["currency"]),
        },
    )


def _head(order: Mapping[str, Any]) -> RenderableType:
    words = _STATES.get(order["state"], "")
    if order["held_for"]:
        words = story.HELD.get(order["held_for"], order["held_for"])
    if order["cancel"] and order["state"] in ("cancelling", "cancelled"):
        words = story.WHY.get(order["cancel"], order["cancel"])
    waits = "" if order["stage"] == "finished" else order["waits_for"]
    until = at(order["deadline_at"] or order["payment_due"])
    return pages.facts(
        {
            "state": pages.state(order["state"], words),
            "paid": "yes" if order["paid"] else "no",
            "waits for": waits,
            "until": waits and until and f"{until}, then {order['then']}",
            "channel": f"{order['connector']}/{order['account']}",
            "sold": at(order["sold_at"]),
            "order id": order["order_id"],
        }
    )


def _wanted(order: Mapping[str, Any]) -> RenderableType | None:
    """What a person may answer, and what a person has to see to."""
    wanted: list[RenderableType] = []
    if order["answers"]:
        command = f"saldo order answer {order['external_id']}"
        wanted.append(pages.facts({f"{command} {said}": _ANSWERS.get(said, said) for said in order["answers"]}))
    if order["unresolved"]:
        wanted.append(Text(f"no SKU is known of line {', '.join(order['unresolved'])}: link its listing", "yellow"))
    if order["cancel_invoice_by"]:
        wanted.append(Text(f"cancel its NF-e at the tax authority by {at(order['cancel_invoice_by'])}", "yellow"))
    wanted += [Text(f"the channel will not hear of {one}: tell it there by hand", "yellow") for one in order["refused"]]
    return Group(*wanted) if wanted else None


def _lines(order: Mapping[str, Any]) -> RenderableType | None:
    where: dict[str, list[str]] = {}
    for row in order["reservations"]:
        place = f"{row['quantity']} × {row['sku']} {row['state']} at {row['location']} ({row['pool']})"
        where.setdefault(row["line_id"], []).append(place)
    return pages.rows(
        ("line", "SKU", *_OUTCOMES, "where"),
        [
            (
                line["line_id"],
                line["sku"],
                *(line[name] for name in _OUTCOMES),
                "; ".join(where.get(line["line_id"], ())),
            )
            for line in order["lines"]
        ],
    )


def _money(order: Mapping[str, Any]) -> RenderableType:
    currency = order["currency"]
    listed: list[Sequence[Any]] = [
        (
            story.part(one["payment_id"]), pages.state(one["status"]), money(one["amount_minor"], currency),
            money(one["authorized_minor"], currency), money(one["captured_minor"], currency),
            money(one["refunded_minor"], currency), money(one["disputed_minor"] or None, currency), one["reason"],
        )
        for one in order["payments"]
    ]  # fmt: skip
    if taken := order.get("taken_over"):
        # The marketplace authorises and captures in one: what it keeps for us is what it took less what it gave back.
        state = pages.state("captured" if taken["paid"] else "pending", "taken over from the marketplace")
        listed.append(
            (
                order["connector"], state, money(taken["due_minor"], taken["currency"] or currency), None,
                money(taken["captured_minor"], taken["currency"] or currency),
                money(taken["refunded_minor"], taken["currency"] or currency), None, None,
            )
        )  # fmt: skip
    due = pages.facts({"due": money(order["due_minor"], currency)})
    columns = ("payment", "state", "asked", "authorised", "taken", "given back", "disputed", "reason")
    table = pages.rows(columns, listed)
    return Group(due, table) if table else due


def _parcels(order: Mapping[str, Any], parcels: Mapping[str, Mapping[str, Any]]) -> RenderableType | None:
    listed = []
    for one in order["parcels"]:
        known = parcels.get(one["shipment_id"], {})
        reached = "delivered" if one["delivered_at"] else "shipped" if one["dispatched_at"] else "open"
        carrier = " ".join(filter(None, (one["carrier"], known.get("service"))))
        state = pages.state(known.get("state", reached if one["open"] or one["dispatched_at"] else "stopped"))
        listed.append(
            (
                story.part(one["shipment_id"]), state, carrier, one["tracking_code"], one["units"], one["location"],
                at(one["delivered_at"] or one["dispatched_at"]), known.get("waits_for") or one["reason"],
            )
        )  # fmt: skip
    return pages.rows(("parcel", "state", "carrier", "tracking code", "units", "from", "since", "waits for"), listed)


def _invoice(order: Mapping[str, Any], invoice: Mapping[str, Any]) -> RenderableType | None:
    if not invoice and not order["invoice_key"]:
        return None
    number = invoice and f"{invoice['invoice_no']}, series {invoice['series']}"
    return pages.facts(
        {
            "number": number or "",
            "key": order["invoice_key"] or invoice["invoice_key"],
            "total": money(invoice["total_minor"], invoice["currency"]) if invoice else "",
            "issued": at(invoice["issued_at"]) if invoice else "",
        }
    )


def _story(steps: Iterable[Mapping[str, Any]], currency: str) -> RenderableType:
    """A line a step; a day and a trace are told where they change."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    day = trace = ""
    for step in story.told(steps, currency):
        moment = pages.local(step.at)
        if f"{moment:%Y-%m-%d %Z}" != day:
            day = f"{moment:%Y-%m-%d %Z}"
            grid.add_row(Text(day, "bold"), "", "")
        if step.trace and step.trace != trace:
            trace = step.trace
            grid.add_row("", Text("trace", "dim"), Text(trace, "dim"))
        grid.add_row(Text(f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"), Text(step.who), Text(step.words))
    return grid

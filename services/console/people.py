"""People's stock commands: an id first, then Kafka, then the answer of inventory.

The id is made before anything is sent and printed when the outcome is unknown. Trying again with it books nothing
twice, because inventory remembers it.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import uuid_utils

from contracts.envelope import Message
from services.console.client import Admin
from services.console.options import Failed

SOURCE = "saldo/console"
ANSWER_TIMEOUT_S = 30.0
_POLL_S = 0.05
_IN_FLIGHT = 200
_NAMESPACE = uuid.UUID("5f0e4c3e-8a37-5d0c-9d0a-6f7ad2f3c1b4")


@dataclass(frozen=True, slots=True)
class Order:
    """One command of a person with the id under which it is booked at most once."""

    command_id: str
    message: Message


@dataclass(frozen=True, slots=True)
class Answer:
    """What inventory did with a command: `booked` or `refused`, and its words."""

    order: Order
    booked: bool
    text: str


def new_command_id() -> str:
    """A fresh id, sortable by time (UUIDv7)."""
    return str(uuid_utils.uuid7())


def derived_command_id(*parts: object) -> str:
    """The same id for the same parts, so that a file can be sent again after it stopped half way."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(str(part) for part in parts)))


async def send_all(bootstrap: str, commands: Sequence[tuple[str, Message]], *, tenant: str, source: str) -> None:
    """The bus's `send_all`. Imported when something is sent: it takes longer to load than most commands to run."""
    from services.runtime.command import send_all as send

    await send(bootstrap, commands, tenant=tenant, source=source)


def earlier_answer(admin: Admin, order: Order) -> Answer | None:
    """What inventory did with this id before; None if it has not heard of it.

    Raises `Failed` where the id belongs to another command: its answer would pass for the answer to this one.
    """
    told = admin.get("inventory", f"commands/{order.command_id}")
    if told["state"] not in ("booked", "refused"):
        return None
    subject = getattr(order.message, "sku", None) or getattr(order.message, "location", "")
    if (told["kind"], told["sku"]) != (type(order.message).__name__, subject):
        raise Failed(
            f"id {order.command_id} belongs to another command, {told['kind']} of {told['sku']} ({told['outcome']}): "
            "leave --id out, so that this one gets an id of its own"
        )
    return Answer(order, told["state"] == "booked", f"before, nothing is done again: {told['outcome']}")


def book(admin: Admin, orders: Sequence[Order], progress: Callable[[], None] | None = None) -> list[Answer]:
    """Send commands and wait until inventory has booked or refused each one; `progress` is called after each one.

    They leave in groups, in order within one key only: what must come before something else belongs in a call of its
    own.

    Raises `Failed` with the ids where Kafka or inventory does not answer: their outcome is unknown then.
    """
    answers: list[Answer] = []
    for start in range(0, len(orders), _IN_FLIGHT):
        chunk = orders[start : start + _IN_FLIGHT]
        try:
            commands = [(order.command_id, order.message) for order in chunk]
            # An event is known by its source and id together: with the company in the source, the same --id of two
            # companies is two commands.
            source = f"{SOURCE}/{admin.tenant}"
            asyncio.run(send_all(admin.endpoints.kafka, commands, tenant=admin.tenant, source=source))
            for order in chunk:
                answers.append(_await_answer(admin, order))
                if progress:
                    progress()
        except Exception as error:
            open_ids = ", ".join(order.command_id for order in chunk[len(answers) - start :])
            raise Failed(
                f"the outcome is unknown ({error}). Try again with --id {open_ids}: nothing is booked twice"
            ) from error
    return answers


def _await_answer(admin: Admin, order: Order) -> Answer:
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while True:
        told = admin.get("inventory", f"commands/{order.command_id}")
        if told["state"] in ("booked", "refused"):
            return Answer(order, told["state"] == "booked", told["outcome"])
        if time.monotonic() > deadline:
            raise Failed(
                f"inventory has not answered within {ANSWER_TIMEOUT_S:g} s: see `saldo status`, and whether it waits "
                "behind one of `saldo deadletters list`"
            )
        time.sleep(_POLL_S)

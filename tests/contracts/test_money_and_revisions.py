"""What holds for every message of the process: money has its currency, a command its revision, a token is not shown."""

from typing import Any

import pytest

from contracts.asyncapi import SENDERS
from contracts.catalogue import CATALOGUE, MessageType, StreamKind
from contracts.channels.v1 import Checkout, RefetchSale, ResendBuyer
from contracts.fulfillment.v1 import QuoteDelivery
from contracts.payments.v1 import AuthorizePayment
from contracts.schema import message_schema

ASKS_AGAIN = {ResendBuyer, RefetchSale, QuoteDelivery}
"""Commands that set no target: asked twice, they are answered twice."""
PROCESS = [
    entry
    for entry in CATALOGUE.types
    if entry.stream.kind is StreamKind.COMMANDS
    and "console" not in SENDERS[entry.stream.name]
    and entry.model not in ASKS_AGAIN
]


def fields_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The fields of one object's schema, none where it is no object."""
    found: dict[str, Any] = schema.get("properties", {})
    return found


@pytest.mark.parametrize("entry", CATALOGUE.types, ids=lambda entry: entry.name)
def test_a_sum_of_money_is_never_without_its_currency(entry: MessageType) -> None:
    schema = message_schema(entry)
    whole = fields_of(schema)
    for part in [schema, *schema.get("$defs", {}).values()]:
        if any(name.endswith("_minor") for name in fields_of(part)):
            assert "currency" in fields_of(part) | whole


@pytest.mark.parametrize("entry", PROCESS, ids=lambda entry: entry.name)
def test_a_command_of_the_process_says_at_which_revision_its_target_stands(entry: MessageType) -> None:
    schema = message_schema(entry)

    assert fields_of(schema)["revision"]["minimum"] == 1
    assert "revision" in schema["required"]


@pytest.mark.parametrize("model", [Checkout, AuthorizePayment])
def test_a_payment_token_is_left_out_where_a_message_is_shown(model: type[Checkout | AuthorizePayment]) -> None:
    shown = repr(model.model_construct(token="pm_synthetic_0001"))

    assert "pm_synthetic_0001" not in shown
    assert model.__name__ in shown

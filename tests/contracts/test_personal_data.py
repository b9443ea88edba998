"""Personal data travels on the streams that exist for it and nowhere else."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from contracts.catalogue import CATALOGUE, MessageType, Stream, StreamKind
from contracts.channels.v1 import BuyerAddress, BuyerReported
from contracts.envelope import Message
from contracts.schema import message_schema

PERSONAL_WORDS = frozenset({
    "name", "names", "firstname", "lastname", "surname", "nickname", "person", "buyer", "recipient", "receiver",
    "contact", "document", "documents", "cpf", "cnpj", "rg", "passport", "email", "emails", "mail", "phone", "phones",
    "mobile", "whatsapp", "address", "addresses", "street", "number", "complement", "district", "neighborhood", "city",
    "town", "region", "postal", "postcode", "zip", "cep", "country", "latitude", "longitude", "birth", "birthday",
    "birthdate", "gender", "ip", "card", "iban", "login", "user", "username",
})  # fmt: skip
ALLOWED = {
    ("saldo.inventory.item-changed.v1", "name"): "what the item is called",
    ("saldo.inventory.put-item.v1", "name"): "what the item is called",
    ("saldo.inventory.put-location.v1", "name"): "what the warehouse is called",
    ("saldo.erp.invoice-issued.v1", "document_id"): "id of a fiscal document",
    ("saldo.erp.document-booked.v1", "document_id"): "id of a fiscal document",
    ("saldo.erp.document-rejected.v1", "document_id"): "id of a fiscal document",
}
PERSONAL_DEFINITIONS = {BuyerReported.__name__, BuyerAddress.__name__}
SAFE = [entry for entry in CATALOGUE.types if not entry.stream.personal]


def fields(schema: Any) -> Iterator[str]:
    """Every name of a field anywhere in a schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from fields(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from fields(part)


def personal_fields(entry: MessageType) -> set[str]:
    """Fields of a message that read as if they carried personal data and are not on the list of allowed ones."""
    return {
        name
        for name in fields(message_schema(entry))
        if set(re.split(r"[^a-z]+", name.lower())) & PERSONAL_WORDS and (entry.name, name) not in ALLOWED
    }


@pytest.mark.parametrize("entry", SAFE, ids=lambda entry: entry.name)
@pytest.mark.rule(30)
def test_no_message_outside_the_personal_streams_can_carry_personal_data(entry: MessageType) -> None:
    assert personal_fields(entry) == set()


@pytest.mark.parametrize("entry", SAFE, ids=lambda entry: entry.name)
def test_a_buyer_is_not_reachable_from_any_other_message(entry: MessageType) -> None:
    schema = message_schema(entry)

    assert {schema["title"], *schema.get("$defs", {})} & PERSONAL_DEFINITIONS == set()


def test_the_allowed_fields_exist() -> None:
    for type_name, field in ALLOWED:
        assert field in message_schema(CATALOGUE.by_name[type_name])["properties"]


def test_every_field_of_a_buyer_but_the_ids_would_be_found_elsewhere() -> None:
    class Recipient(Message):
        kind: str
        buyer_email: str

    class Leaky(Message):
        order_id: str
        recipients: tuple[Recipient, ...]

    stream = Stream("x.x.v1", "x", StreamKind.FACTS, 24, "X.")
    assert personal_fields(MessageType(Leaky, stream, ("order_id",))) == {"buyer_email"}
    on_a_public_stream = personal_fields(MessageType(BuyerReported, stream, ("order_id",)))
    assert set(fields(message_schema(CATALOGUE.by_model[BuyerReported]))) - on_a_public_stream == {
        "customer_ref", "order_id", "sale_revision", "kind",
    }  # fmt: skip


@pytest.mark.rule(30)
def test_the_personal_stream_is_short_and_has_two_readers() -> None:
    [stream] = [stream for stream in CATALOGUE.streams.values() if stream.personal]

    assert (stream.name, stream.retention_h, stream.segment_h) == ("channels.buyers.v1", 72, 1)
    assert stream.readers == ("crm", "fulfillment")

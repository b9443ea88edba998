"""Golden bytes of every message: what was ever written is read, and what is written today is what is committed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from contracts.catalogue import CATALOGUE, MessageType
from contracts.envelope import OpenEnum
from contracts.schema import FOLDER, message_schema, released

TYPES = sorted(CATALOGUE.types, key=lambda entry: entry.name)
SAMPLES = [
    pytest.param(entry, path, id=f"{entry.name} {version}")
    for entry in TYPES
    for version, path in released("samples", entry.name).items()
]


def newest_sample(entry: MessageType) -> Any:
    return json.loads(list(released("samples", entry.name).values())[-1].read_bytes())


@pytest.mark.parametrize("entry", TYPES, ids=lambda entry: entry.name)
def test_every_type_has_a_sample_of_every_released_schema(entry: MessageType) -> None:
    schemas = released("schemas", entry.name)

    assert schemas
    assert schemas.keys() <= released("samples", entry.name).keys()


@pytest.mark.parametrize(("entry", "path"), SAMPLES)
def test_every_sample_is_read_by_todays_code(entry: MessageType, path: Path) -> None:
    entry.model.model_validate_json(path.read_bytes(), extra="ignore")


@pytest.mark.parametrize("entry", TYPES, ids=lambda entry: entry.name)
def test_the_newest_sample_is_written_again_byte_by_byte(entry: MessageType) -> None:
    path = list(released("samples", entry.name).values())[-1]

    assert entry.model.model_validate_json(path.read_bytes()).model_dump_json().encode() == path.read_bytes()


@pytest.mark.parametrize(("entry", "path"), SAMPLES)
def test_every_sample_fits_its_own_schema(entry: MessageType, path: Path) -> None:
    schema = json.loads((FOLDER / "schemas" / entry.name / path.name).read_bytes())

    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        json.loads(path.read_bytes())
    )


@pytest.mark.parametrize("entry", TYPES, ids=lambda entry: entry.name)
def test_the_schema_is_closed_for_producers(entry: MessageType) -> None:
    document = newest_sample(entry) | {"unheard_of": 1}

    assert not Draft202012Validator(message_schema(entry)).is_valid(document)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in `value`, outermost first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from objects(part)


@given(data=st.data(), entry=st.sampled_from(TYPES))
def test_a_reader_built_before_a_field_reads_past_it(data: st.DataObject, entry: MessageType) -> None:
    document = newest_sample(entry)
    message = entry.model.model_validate_json(json.dumps(document))
    values = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=2))
    for part in objects(document):
        if data.draw(st.booleans()):
            part["added_later"] = data.draw(values)

    assert entry.model.model_validate_json(json.dumps(document), extra="ignore") == message


@given(data=st.data(), entry=st.sampled_from(TYPES))
def test_a_reader_built_after_a_field_does_without_it(data: st.DataObject, entry: MessageType) -> None:
    document = newest_sample(entry)
    optional = [name for name, field in entry.model.model_fields.items() if not field.is_required()]
    left_out = data.draw(st.sets(st.sampled_from(optional))) if optional else set()
    for name in left_out:
        document.pop(name)

    message = entry.model.model_validate_json(json.dumps(document), extra="ignore")

    assert {name: getattr(message, name) for name in left_out} == {
        name: entry.model.model_fields[name].get_default(call_default_factory=True) for name in left_out
    }


def open_fields(entry: MessageType) -> list[str]:
    return [
        name
        for name, field in entry.model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, OpenEnum)
    ]


@pytest.mark.parametrize(("entry", "name"), [(entry, name) for entry in TYPES for name in open_fields(entry)], ids=str)
def test_a_value_added_later_to_an_open_enumeration_reads_as_unknown(entry: MessageType, name: str) -> None:
    document = newest_sample(entry) | {name: "added-later"}

    assert getattr(entry.model.model_validate_json(json.dumps(document), extra="ignore"), name).value == "unknown"
    assert Draft202012Validator(message_schema(entry)).is_valid(document)

"""What the gate lets through and what it refuses, on small changes to one message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from contracts import gate
from contracts.catalogue import Catalogue, MessageType, Stream, StreamKind
from contracts.envelope import Message, OpenEnum
from contracts.schema import message_schema, version_key


class Colour(OpenEnum):
    RED = "red"
    BLUE = "blue"
    UNKNOWN = "unknown"


class Part(Message):
    weight_g: int = Field(ge=1, le=1000)


class ThingMade(Message):
    """A thing was made."""

    thing_id: str = Field(max_length=10)
    colour: Colour
    parts: tuple[Part, ...]
    note: str = ""
    maker: str | None = None
    kind: Literal["a", "b"] = "a"
    size_mm: tuple[int, int] | None = None


STREAM = Stream("things.things.v1", "things", StreamKind.FACTS, 24, "Things.")
OTHER_STREAM = Stream("things.others.v1", "things", StreamKind.FACTS, 24, "Others.")


def catalogue(model: type[Message] = ThingMade, stream: Stream = STREAM, *key: str) -> Catalogue:
    return Catalogue((MessageType(model, stream, key or ("thing_id",)),))


def schema() -> dict[str, Any]:
    return message_schema(catalogue().types[0])


Mutation = Callable[[dict[str, Any]], object]
BREAKING: dict[str, tuple[Mutation, str]] = {
    "a removed field": (lambda s: s["properties"].pop("note"), "note is removed"),
    "a removed required field": (
        lambda s: (s["properties"].pop("colour"), s["required"].remove("colour")),
        "colour is removed",
    ),
    "a new required field": (
        lambda s: (s["properties"].update(age={"type": "integer"}), s["required"].append("age")),
        "age is new and required",
    ),
    "newly required": (lambda s: s["required"].append("note"), "note is newly required"),
    "no longer required": (lambda s: s["required"].remove("colour"), "colour is no longer required"),
    "a changed type": (lambda s: s["properties"]["note"].update(type="integer"), "note was string and is integer"),
    "null taken away": (lambda s: s["properties"]["maker"]["anyOf"].pop(), "maker may be something else"),
    "null added": (
        lambda s: s["properties"].update(note={"anyOf": [{"type": "string"}, {"type": "null"}], "default": ""}),
        "note may be something else",
    ),
    "a lower maximum length": (lambda s: s["properties"]["thing_id"].update(maxLength=5), "thing_id is narrowed"),
    "a higher maximum length": (lambda s: s["properties"]["thing_id"].update(maxLength=50), "thing_id is widened"),
    "no maximum length": (lambda s: s["properties"]["thing_id"].pop("maxLength"), "thing_id is widened"),
    "a new pattern": (lambda s: s["properties"]["thing_id"].update(pattern="^x"), "thing_id changes pattern"),
    "a higher minimum, nested": (
        lambda s: s["$defs"]["Part"]["properties"]["weight_g"].update(minimum=5),
        "parts[].weight_g is narrowed",
    ),
    "a lower minimum, nested": (
        lambda s: s["$defs"]["Part"]["properties"]["weight_g"].update(minimum=0),
        "parts[].weight_g is widened",
    ),
    "a limit on a list": (lambda s: s["properties"]["parts"].update(maxItems=3), "parts is narrowed"),
    "a removed field, nested": (
        lambda s: s["$defs"]["Part"]["properties"].pop("weight_g"),
        "parts[].weight_g is removed",
    ),
    "another default": (lambda s: s["properties"]["note"].update(default="none"), "note means 'none'"),
    "a known value taken away": (
        lambda s: s["$defs"]["Colour"]["x-known-values"].remove("red"),
        "colour no longer knows red",
    ),
    "an enumeration closed": (
        lambda s: s["$defs"]["Colour"].pop("x-known-values"),
        "colour was an open enumeration and is free text",
    ),
    "another closed value": (lambda s: s["properties"]["kind"].update(enum=["a", "b", "c"]), "kind changes enum"),
    "open for writing": (lambda s: s.pop("additionalProperties"), "the message is no longer closed"),
    "another key": (lambda s: s.update({"x-key": ["tenant", "note"]}), "changes its key"),
    "another stream": (lambda s: s.update({"x-stream": "things.others.v1"}), "changes its stream"),
    "a longer fixed list": (
        lambda s: s["properties"]["size_mm"]["anyOf"][0]["prefixItems"].append({"type": "integer"}),
        "size_mm may be something else than before (prefixItems)",
    ),
}
COMPATIBLE: dict[str, Mutation] = {
    "nothing": lambda s: s.copy(),
    "a new optional field": lambda s: s["properties"].update(age={"type": "integer", "default": 0}),
    "a new optional field, nested": lambda s: s["$defs"]["Part"]["properties"].update(
        grade={"type": "string", "default": ""}
    ),
    "a new known value": lambda s: s["$defs"]["Colour"]["x-known-values"].append("green"),
    "other words": lambda s: s.update(description="Something else.", title="Other"),
    "a renamed part": lambda s: (
        s["$defs"].update(Piece=s["$defs"].pop("Part")),
        s["properties"]["parts"]["items"].update({"$ref": "#/$defs/Piece"}),
    ),
    "another order of the required": lambda s: s["required"].reverse(),
}


@pytest.mark.parametrize("name", BREAKING)
def test_a_breaking_change_is_refused_with_its_place(name: str) -> None:
    mutate, said = BREAKING[name]
    changed = schema()
    mutate(changed)

    found = gate.differences(schema(), changed)

    assert any(said in text for text in found), found
    assert all(": " in text for text in found), "every text says what to do after the colon"


@pytest.mark.parametrize("name", COMPATIBLE)
def test_a_compatible_change_passes(name: str) -> None:
    changed = schema()
    COMPATIBLE[name](changed)

    assert gate.differences(schema(), changed) == []


SAMPLE = ThingMade(thing_id="t-1", colour=Colour.RED, parts=(Part(weight_g=3),), size_mm=(1, 2))


def with_sample(folder: Path, version: str, message: Message = SAMPLE) -> Path:
    path = folder / "samples" / "saldo.things.thing-made.v1" / f"{version}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(message.model_dump_json(), "utf-8")
    return path


class Grown(ThingMade):
    """A thing was made."""

    age: int = 0


class Shrunk(Message):
    """A thing was made."""

    thing_id: str = Field(max_length=10)


Grown.__name__ = Grown.__qualname__ = Shrunk.__name__ = Shrunk.__qualname__ = "ThingMade"


def test_the_committed_contracts_pass() -> None:
    assert gate.check() == []


def test_a_message_grows_release_by_release(tmp_path: Path) -> None:
    assert "no released schema" in gate.check(catalogue(), tmp_path)[0]
    with_sample(tmp_path, "1.0.0")
    gate.release("1.0.0", catalogue(), tmp_path)
    assert gate.check(catalogue(), tmp_path) == []

    assert "differs from its newest" in gate.check(catalogue(Grown), tmp_path)[0]
    with_sample(tmp_path, "1.10.0", Grown(**dict(SAMPLE), age=3))
    [written] = gate.release("1.10.0", catalogue(Grown), tmp_path)

    assert written.name == "1.10.0.json"
    assert gate.check(catalogue(Grown), tmp_path) == []
    assert gate.release("1.11.0", catalogue(Grown), tmp_path) == []


def test_every_released_version_counts_not_only_the_newest(tmp_path: Path) -> None:
    with_sample(tmp_path, "1.0.0")
    gate.release("1.0.0", catalogue(), tmp_path)
    newest = schema()
    newest["properties"].pop("note")
    (tmp_path / "schemas/saldo.things.thing-made.v1/1.1.0.json").write_text(json.dumps(newest))

    class WithoutNote(Message):
        """A thing was made."""

        thing_id: str = Field(max_length=10)
        colour: Colour
        parts: tuple[Part, ...]
        maker: str | None = None
        kind: Literal["a", "b"] = "a"
        size_mm: tuple[int, int] | None = None

    WithoutNote.__name__ = "ThingMade"
    entry = MessageType(WithoutNote, STREAM, ("thing_id",))

    assert [text for text in gate.incompatible(entry, tmp_path) if "note is removed" in text]
    assert all(" since 1.0.0: " in text for text in gate.incompatible(entry, tmp_path))


def test_an_incompatible_change_is_not_released(tmp_path: Path) -> None:
    with_sample(tmp_path, "1.0.0")
    gate.release("1.0.0", catalogue(), tmp_path)
    with_sample(tmp_path, "1.1.0", Shrunk(thing_id="t-1"))

    with pytest.raises(ValueError, match="parts is removed"):
        gate.release("1.1.0", catalogue(Shrunk), tmp_path)
    assert not (tmp_path / "schemas/saldo.things.thing-made.v1/1.1.0.json").exists()


@pytest.mark.parametrize("version", ["1.0.0", "0.9.0"])
def test_a_version_is_released_once_and_forwards(tmp_path: Path, version: str) -> None:
    with_sample(tmp_path, "1.0.0")
    gate.release("1.0.0", catalogue(), tmp_path)

    with pytest.raises(ValueError, match=r"1\.0\.0 is released already: give a later version"):
        gate.release(version, catalogue(Grown), tmp_path)


def test_a_release_without_its_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1\.0\.0\.json is missing: write"):
        gate.release("1.0.0", catalogue(), tmp_path)


@pytest.mark.parametrize("version", ["1.0", "1.0.x", "-1.0.0"])
def test_a_version_is_three_numbers(version: str) -> None:
    with pytest.raises(ValueError, match=r"^.+$"):
        version_key(version)


def test_a_sample_that_is_not_read_any_more_is_found(tmp_path: Path) -> None:
    path = with_sample(tmp_path, "1.0.0")
    gate.release("1.0.0", catalogue(), tmp_path)
    path.write_text('{"thing_id": 7}', "utf-8")

    [found] = gate.check(catalogue(), tmp_path)
    assert "is not read any more" in found


def test_a_sample_that_is_not_what_is_written_is_found(tmp_path: Path) -> None:
    path = with_sample(tmp_path, "1.0.0")
    gate.release("1.0.0", catalogue(), tmp_path)
    path.write_text(path.read_text("utf-8").replace(":", ": "), "utf-8")

    [found] = gate.check(catalogue(), tmp_path)
    assert "is not what is written today" in found


def test_a_released_message_may_not_vanish(tmp_path: Path) -> None:
    with_sample(tmp_path, "1.0.0")
    gate.release("1.0.0", catalogue(), tmp_path)

    assert gate.check(Catalogue(()), tmp_path) == [
        "saldo.things.thing-made.v1: was released and is gone: keep it in the catalogue beside its newer major"
    ]


def test_a_message_cannot_move_to_another_stream(tmp_path: Path) -> None:
    with_sample(tmp_path, "1.0.0")
    gate.release("1.0.0", catalogue(), tmp_path)

    assert any("changes its stream" in text for text in gate.check(catalogue(ThingMade, OTHER_STREAM), tmp_path))


def test_the_command_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.main(["check"]) == 0
    assert "message types fit" in capsys.readouterr().out
    assert gate.main(["release", "nonsense"]) == 1
    assert "nonsense" in capsys.readouterr().err

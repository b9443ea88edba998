"""The compatibility gate: within a major, every message ever released and every reader ever released fit each other.

The rule is FULL_TRANSITIVE: today's reader reads the messages of every released version, and the reader of every
released version reads today's. Producers write closed objects; readers ignore fields they do not know and read unknown
values of an open enumeration as `unknown`. So a new optional field and a new known value are compatible; all else
that changes what may be written is a new major.

`python -m contracts.gate check` prints what is wrong and fails; `release VERSION` commits the schemas that changed.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from contracts.catalogue import CATALOGUE, Catalogue, MessageType
from contracts.schema import FOLDER, message_schema, released, render, version_key

PROSE: Final = {"title", "description", "examples", "$schema", "$comment", "$defs"}
LIMITS: Final = {
    "minimum": 1, "exclusiveMinimum": 1, "minLength": 1, "minItems": 1, "minProperties": 1,
    "maximum": -1, "exclusiveMaximum": -1, "maxLength": -1, "maxItems": -1, "maxProperties": -1,
}  # fmt: skip
"""Keywords with a bound, and whether a larger value narrows (1) or widens (-1)."""
NEW_MAJOR: Final = "publish a new major on a stream of its own, with up- and downcaster in the catalogue"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What makes two schemas of one message incompatible, each with its place and what to do; empty if nothing."""
    return list(_compare(old, new, old.get("$defs", {}), new.get("$defs", {}), "", frozenset()))


def check(catalogue: Catalogue = CATALOGUE, folder: Path = FOLDER) -> list[str]:
    """Everything wrong with the contracts as they are now, one text each; empty if they may be published."""
    problems = []
    for entry in catalogue.types:
        problems += incompatible(entry, folder)
        schemas = released("schemas", entry.name, folder)
        if not schemas:
            problems.append(f"{entry.name}: has no released schema: write a sample, then `release` a version")
        elif _load(list(schemas.values())[-1]) != message_schema(entry):
            problems.append(f"{entry.name}: differs from its newest released schema: write a sample, then `release`")
        problems += _wrong_samples(entry, folder, list(schemas))
    for path in sorted((folder / "schemas").glob("*")):
        if path.name not in catalogue.by_name:
            problems.append(f"{path.name}: was released and is gone: keep it in the catalogue beside its newer major")
    return problems


def incompatible(entry: MessageType, folder: Path = FOLDER) -> list[str]:
    """What of today's `entry` does not fit a released version of it."""
    today = message_schema(entry)
    return [
        f"{entry.name} since {version}: {difference}"
        for version, path in released("schemas", entry.name, folder).items()
        for difference in differences(_load(path), today)
    ]


def release(version: str, catalogue: Catalogue = CATALOGUE, folder: Path = FOLDER) -> list[Path]:
    """Write the schema of every message that changed since its newest release, as `version`; returns the files.

    Raises `ValueError`, and writes nothing, where a change is incompatible, a sample of this version is missing or
    wrong, or `version` is not newer than what was released.
    """
    wanted = version_key(version)
    changed: dict[Path, MessageType] = {}
    problems = []
    for entry in catalogue.types:
        schemas = released("schemas", entry.name, folder)
        if schemas and _load(list(schemas.values())[-1]) == message_schema(entry):
            continue
        newest = max(schemas, key=version_key, default="")
        if newest and version_key(newest) >= wanted:
            problems.append(f"{entry.name}: {newest} is released already: give a later version")
        problems += [*incompatible(entry, folder), *_wrong_samples(entry, folder, [*schemas, version])]
        changed[folder / "schemas" / entry.name / f"{version}.json"] = entry
    if problems:
        raise ValueError("\n".join(problems))
    for path, entry in changed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(message_schema(entry)), "utf-8")
    return list(changed)


def _load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _wrong_samples(entry: MessageType, folder: Path, versions: list[str]) -> Iterator[str]:
    """Every version has a sample that today's code reads; the newest is what today's code would write."""
    samples = released("samples", entry.name, folder)
    for version in versions:
        place = f"samples/{entry.name}/{version}.json"
        if version not in samples:
            yield f"{entry.name}: {place} is missing: write the bytes of a realistic, synthetic message"
            continue
        content = samples[version].read_bytes()
        try:
            message = entry.model.model_validate_json(content, extra="ignore")
        except ValidationError as wrong:
            yield f"{entry.name}: {place} is not read any more: {wrong.errors(include_url=False, include_input=False)}"
            continue
        if version == versions[-1] and message.model_dump_json().encode() != content:
            yield f"{entry.name}: {place} is not what is written today: {message.model_dump_json()}"


def _compare(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_defs: Mapping[str, Any],
    new_defs: Mapping[str, Any],
    at: str,
    seen: frozenset[tuple[str, str]],
) -> Iterator[str]:
    names = old.get("$ref", ""), new.get("$ref", "")
    if all(names):
        if names in seen:
            return
        seen |= {names}
    old, new = _resolved(old, old_defs), _resolved(new, new_defs)
    yield from _compare_values(old, new, at or "the message")
    yield from _compare_fields(old, new, old_defs, new_defs, at, seen)
    for keyword in ("items", "additionalProperties"):
        if isinstance(old.get(keyword), dict) and isinstance(new.get(keyword), dict):
            yield from _compare(old[keyword], new[keyword], old_defs, new_defs, f"{at}[]", seen)
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        branches = old.get(keyword, []), new.get(keyword, [])
        if len(branches[0]) == len(branches[1]):
            for one, other in zip(*branches, strict=True):
                yield from _compare(one, other, old_defs, new_defs, at, seen)
        else:
            yield f"{at or 'the message'} may be something else than before ({keyword}): {NEW_MAJOR}"


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    if reference := schema.get("$ref"):
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return {**definitions[reference.rpartition("/")[2]], **beside}
    return schema


def _compare_fields(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_defs: Mapping[str, Any],
    new_defs: Mapping[str, Any],
    at: str,
    seen: frozenset[tuple[str, str]],
) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    needed_before, needed_after = set(old.get("required", ())), set(new.get("required", ()))
    for name in before:
        place = f"{at}.{name}".lstrip(".")
        if name not in after:
            yield f"{place} is removed and older readers count on it: keep writing it, or {NEW_MAJOR}"
            continue
        if name in needed_after - needed_before:
            yield f"{place} is newly required and older messages may lack it: keep its default"
        if name in needed_before - needed_after:
            yield f"{place} is no longer required and older readers demand it: keep it required"
        yield from _compare(before[name], after[name], old_defs, new_defs, place, seen)
    for name in after:
        if name not in before and name in needed_after:
            place = f"{at}.{name}".lstrip(".")
            yield f"{place} is new and required, and older messages lack it: give it a default"


def _compare_values(old: Mapping[str, Any], new: Mapping[str, Any], place: str) -> Iterator[str]:
    """Compare every keyword that stands for itself: types, bounds, defaults, known values."""
    nested = {"properties", "required", "items", "anyOf", "oneOf", "allOf", "prefixItems", "$ref"}
    for keyword in sorted((old.keys() | new.keys()) - nested - PROSE):
        before, after = old.get(keyword), new.get(keyword)
        if before == after or (isinstance(before, dict) and isinstance(after, dict) and keyword != "default"):
            continue
        if keyword == "type":
            yield f"{place} was {before} and is {after}: {NEW_MAJOR}"
        elif keyword == "x-known-values":
            if before is None or after is None:
                yield f"{place} was {_openness(before)} and is {_openness(after)}: {NEW_MAJOR}"
            elif gone := [value for value in before if value not in after]:
                yield f"{place} no longer knows {', '.join(gone)}, which older messages carry: keep the value"
        elif keyword == "additionalProperties":
            yield f"{place} is no longer closed for writing: base its model on Message"
        elif keyword == "default":
            yield f"{place} means {after!r} and not {before!r} where it is left out: keep the default, or {NEW_MAJOR}"
        elif keyword in ("x-stream", "x-key", "$id"):
            yield f"{place} changes its {keyword.removeprefix('x-')}, which orders it: {NEW_MAJOR}"
        elif LIMITS.get(keyword) and _narrows(keyword, before, after):
            yield f"{place} is narrowed ({keyword} {before} → {after}) and older messages break it: keep the bound"
        elif keyword in LIMITS:
            yield f"{place} is widened ({keyword} {before} → {after}) and older readers refuse it: keep the bound"
        else:
            yield f"{place} changes {keyword} from {before} to {after}: {NEW_MAJOR}"


def _openness(known_values: object) -> str:
    return "free text" if known_values is None else "an open enumeration"


def _narrows(keyword: str, before: float | None, after: float | None) -> bool:
    if before is None or after is None:
        return before is None
    return (after - before) * LIMITS[keyword] > 0


def main(arguments: list[str] | None = None) -> int:
    """`check`, or `release VERSION`; 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m contracts.gate", description="The compatibility gate.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="say what may not be published")
    commands.add_parser("release", help="commit the schemas that changed").add_argument("version")
    given = parser.parse_args(arguments)
    if given.command == "check":
        problems = check()
        print("\n".join(problems) if problems else f"{len(CATALOGUE.types)} message types fit all that was released")
        return 1 if problems else 0
    try:
        written = release(given.version)
    except ValueError as refused:
        print(refused, file=sys.stderr)
        return 1
    print("\n".join(str(path) for path in written) or "nothing changed since the newest release")
    return 0


if __name__ == "__main__":
    sys.exit(main())

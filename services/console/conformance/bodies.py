"""Bodies to send: the golden samples of every release and a person's own, each time about an aggregate of its own."""

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from contracts.catalogue import MessageType
from contracts.envelope import OpenEnum, rfc3339
from contracts.schema import released

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEX: Final = re.compile(r"[0-9a-f]{32}")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_NUMBERED: Final = re.compile(r"(.*_)?(version|revision|epoch|attempt)")
STEPS: Final = ("version", "revision")
"""Fields that order the messages about one aggregate."""


@dataclass(frozen=True, slots=True)
class Body:
    """A message as it could come: its type, its JSON, and where it is from."""

    entry: MessageType
    value: Mapping[str, Any]
    label: str

    @property
    def is_stepped(self) -> bool:
        """Whether it says which of two about one aggregate is the later one."""
        return any(name in self.value for name in STEPS)


def bodies_of(entry: MessageType, own: Path | None = None) -> list[Body]:
    """Bodies of a type: those in `own`/<type>/*.json, the samples of every release, and the newest in least numbers.

    Raises `ValueError` naming a file in `own` that is no such message.
    """
    found = []
    for path in sorted((own / entry.name).glob("*.json")) if own else ():
        try:
            value = json.loads(path.read_bytes())
            entry.model.model_validate_json(path.read_bytes(), extra="ignore")
        except (ValidationError, ValueError) as wrong:
            raise ValueError(f"{path} is no {entry.name}: {str(wrong).splitlines()[0]}") from None
        found.append(Body(entry, value, path.name))
    samples = {version: json.loads(path.read_bytes()) for version, path in released("samples", entry.name).items()}
    found += [Body(entry, value, f"sample {version}") for version, value in samples.items()]
    for version, value in list(samples.items())[-1:]:
        if (fewest := least(entry, value)) != value:
            found.append(Body(entry, fewest, f"sample {version} in least numbers"))
    return found


def dressed(body: Body, seed: str, now: datetime, step: int = 0) -> tuple[str, dict[str, Any]]:
    """(aggregate, JSON) of `body` about an aggregate that `seed` names: ids are made anew, moments are of now.

    Bodies of one seed that shared an id still share it. `step` is added to version or revision.
    """
    space = uuid.uuid5(uuid.NAMESPACE_URL, f"urn:saldo:conformance:{seed}")
    names = {str(body.value[name]) for name in body.entry.key}
    moments = [datetime.fromisoformat(text) for text in _texts(body.value) if _MOMENT.fullmatch(text)]
    shift = now - min(moments, default=now)

    def renewed(text: str) -> str:
        if _UUID.search(text):  # Within a longer id, too.
            return _UUID.sub(lambda found: str(uuid.uuid5(space, found[0])), text)
        if _HEX.fullmatch(text):
            return uuid.uuid5(space, text).hex
        if text in names:
            return f"KIT-{uuid.uuid5(space, text).hex[:12].upper()}"
        return rfc3339(datetime.fromisoformat(text) + shift) if _MOMENT.fullmatch(text) else text

    value = _mapped(body.value, renewed)
    for name in STEPS:
        if name in value:
            value[name] += step
    return ":".join(str(value[name]) for name in body.entry.key), value


def least(entry: MessageType, value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` with every number as small as its contract allows: what is low, empty or gone makes services speak."""
    fewest = json.loads(json.dumps(value))

    def lower(place: Any) -> None:
        for name, part in list(place.items() if isinstance(place, dict) else enumerate(place)):
            if isinstance(part, dict | list):
                lower(part)
            elif isinstance(part, int) and not isinstance(part, bool) and not _NUMBERED.fullmatch(str(name)):
                for number in (0, 1, part):
                    place[name] = number
                    if is_valid(entry, fewest):
                        break

    lower(fewest)
    return dict(fewest)


def is_valid(entry: MessageType, value: Mapping[str, Any]) -> bool:
    """Whether a tolerant reader of the newest build takes `value`."""
    try:
        entry.model.model_validate_json(json.dumps(value), extra="ignore")
    except ValidationError:
        return False
    return True


def with_unknown_fields(entry: MessageType, value: dict[str, Any]) -> dict[str, Any]:
    """`value` as a later minor would write it: every object has a field more."""
    del entry
    return dict(_widened(value))


def with_unknown_values(entry: MessageType, value: dict[str, Any]) -> dict[str, Any]:
    """`value` as a later minor would write it: every open enumeration has a value that is not known yet."""
    read = entry.model.model_validate_json(json.dumps(value), extra="ignore").model_dump()
    return dict(_opened(read, value))


def _widened(value: Any) -> Any:
    if isinstance(value, dict):
        return {**{name: _widened(part) for name, part in value.items()}, "x_added_later": {"by": ["a", "minor"]}}
    return [_widened(part) for part in value] if isinstance(value, list) else value


def _opened(read: Any, value: Any) -> Any:
    if isinstance(read, OpenEnum):
        return "added-by-a-later-minor"
    if isinstance(read, dict):
        return {name: _opened(read[name], part) if name in read else part for name, part in value.items()}
    if isinstance(read, list | tuple):
        return [_opened(one, part) for one, part in zip(read, value, strict=True)]
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _mapped(value: Any, renewed: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return renewed(value)
    if isinstance(value, Mapping):
        return {name: _mapped(part, renewed) for name, part in value.items()}
    return [_mapped(part, renewed) for part in value] if isinstance(value, list) else value

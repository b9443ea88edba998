"""JSON Schema 2020-12 of every message, and where released schemas and samples lie.

The schema describes what a producer writes: closed objects, every field without a default required. A reader is more
tolerant than it: it ignores fields it does not know and reads unknown values of an open enumeration as `unknown`.
"""

import json
from pathlib import Path
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema
from pydantic_core import CoreSchema

from contracts.catalogue import CATALOGUE, Catalogue, MessageType

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
FOLDER: Final = Path(__file__).parent


class Untitled(GenerateJsonSchema):
    """Without titles made up from field names, which say nothing and differ between generators."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        del schema
        return False

    def generate(self, schema: CoreSchema, mode: JsonSchemaMode = "validation") -> dict[str, Any]:
        """The schema, naming its dialect."""
        return {"$schema": DIALECT, **super().generate(schema, mode)}


def message_schema(entry: MessageType) -> dict[str, Any]:
    """The schema of one message type, with the stream and key that it is bound to for the life of its major."""
    schema = entry.model.model_json_schema(schema_generator=Untitled)
    schema["$id"] = f"urn:{entry.name.replace('.', ':')}"
    schema["x-stream"] = entry.stream.name
    schema["x-key"] = ["tenant", *entry.key]
    return schema


def component_schemas(catalogue: Catalogue = CATALOGUE) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Per type name a reference to its schema, and all schemas by name, as one document holds them."""
    models = [entry.model for entry in catalogue.types]
    references, definitions = models_json_schema(
        [(model, "validation") for model in models],
        ref_template="#/components/schemas/{model}",
        schema_generator=Untitled,
    )
    named = {entry.name: references[entry.model, "validation"] for entry in catalogue.types}
    return named, definitions["$defs"]


def render(document: dict[str, Any]) -> str:
    """A document as it is committed: sorted and indented, so that a change shows as the lines that changed."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def version_key(version: str) -> tuple[int, ...]:
    """`1.10.0` → (1, 10, 0). Raises `ValueError` where it is not three numbers."""
    parts = tuple(int(part) for part in version.split("."))
    if len(parts) != 3 or min(parts) < 0:
        raise ValueError(f"{version} is not a version: give three numbers, as in 1.4.0")
    return parts


def released(kind: str, type_name: str, folder: Path = FOLDER) -> dict[str, Path]:
    """The committed files of a type by version, oldest first. `kind` is `schemas` or `samples`."""
    found = (folder / kind / type_name).glob("*.json")
    return {path.stem: path for path in sorted(found, key=lambda path: version_key(path.stem))}

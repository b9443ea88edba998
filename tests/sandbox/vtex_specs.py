"""VTEX's published OpenAPI descriptions: whether a request and an answer are as they say."""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
SPECS = Path(os.environ.get("SALDO_SPECS_DIR") or ROOT.parent / "shared" / "specs") / "vtex"
UNDESCRIBED = "/api/catalog_system/"
"""What is not in the two descriptions: the catalogue has one of its own, which is not kept beside them."""


@cache
def _descriptions() -> list[dict[str, Any]]:
    return [json.loads((SPECS / f"{name}.json").read_text("utf-8")) for name in ("orders", "logistics")]


def _schema(part: Any, description: dict[str, Any]) -> Any:
    """OpenAPI 3.0 as JSON Schema: references put in, `nullable` said as a type. Property names are left as they are."""
    if isinstance(part, list):
        return [_schema(one, description) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _schema(description["components"]["schemas"][part["$ref"].rsplit("/", 1)[1]], description)
    known = {name: part[name] for name in ("type", "required", "enum", "additionalProperties") if name in part}
    if "properties" in part:
        known["properties"] = {name: _schema(one, description) for name, one in part["properties"].items()}
    known |= {name: _schema(part[name], description) for name in ("items", "allOf", "anyOf", "oneOf") if name in part}
    return {"anyOf": [known, {"type": "null"}]} if part.get("nullable") else known


def _operation(method: str, path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    for description in _descriptions():
        for template, operations in description["paths"].items():
            if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path) and method.lower() in operations:
                return operations[method.lower()], description
    raise AssertionError(f"VTEX describes no {method} {path}")


def _content(body: dict[str, Any], description: dict[str, Any]) -> Any:
    for kind, content in body.get("content", {}).items():
        if kind.startswith("application/json"):
            return _schema(content["schema"], description)
    return None


def _strange(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Fields of a value that its schema does not name."""
    schema = schema["anyOf"][0] if "anyOf" in schema else schema
    if isinstance(value, dict) and schema.get("properties"):
        for name, inner in value.items():
            if name in schema["properties"]:
                yield from _strange(inner, schema["properties"][name], f"{path}.{name}")
            else:
                yield f"{path}.{name} is in no description"
    elif isinstance(value, list) and "items" in schema:
        for inner in value:
            yield from _strange(inner, schema["items"], f"{path}[]")


def problems(method: str, path: str, sent: Any, status: int, answered: Any) -> list[str]:
    """What a request (None: without a body) or its answer has that VTEX does not describe."""
    operation, description = _operation(method, path)
    found: list[str] = []
    wanted = _content(operation.get("requestBody", {}), description)
    if wanted is not None and status < 300:
        found += [f"request: {one.message}" for one in Draft202012Validator(wanted).iter_errors(sent)]
    described = operation["responses"].get(str(status))
    if described is None:
        # Refusals are described for some operations only; no success is made up.
        return [*found, f"{status} is in no description"] if status < 300 else found
    schema = _content(described, description)
    if schema is not None:
        errors = Draft202012Validator(schema).iter_errors(answered)
        found += [f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in errors]
        found += _strange(answered, schema, "answer")
    return found


def example(method: str, path: str) -> Any:
    """The published example of an operation's answer."""
    operation, _ = _operation(method, path)
    return operation["responses"]["200"]["content"]["application/json"]["example"]

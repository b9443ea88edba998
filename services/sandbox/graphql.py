"""Just enough GraphQL to be honest with a client: read its document and return exactly the fields it asked for.

Not an engine: there is no schema and no introspection. A resolved object is a dict whose values are plain values,
dicts, lists, or functions of the field's arguments; a field it does not have is the error a real server gives.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

_TOKEN = re.compile(
    r'[\s,\ufeff]+|#[^\n]*|(?P<token>"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|\.\.\.|[!$()=:@\[\]{|}&]'
    r"|[_A-Za-z][_0-9A-Za-z]*|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


class GraphqlError(Exception):
    """What goes into the answer's `errors`: a message and, where Shopify gives one, a code."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Variable:
    name: str


@dataclass(frozen=True, slots=True)
class Selection:
    """A field, or (`name` empty) a fragment on the type `on`, or (`spread`) the name of a fragment."""

    name: str
    alias: str
    arguments: dict[str, Any] = field(default_factory=dict)
    directives: dict[str, dict[str, Any]] = field(default_factory=dict)
    selections: "tuple[Selection, ...]" = ()
    on: str = ""
    spread: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    kind: str
    name: str
    defaults: dict[str, Any]
    directives: dict[str, dict[str, Any]]
    selections: tuple[Selection, ...]


@dataclass(frozen=True, slots=True)
class Document:
    operations: dict[str, Operation]
    fragments: dict[str, Selection]


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise GraphqlError(f"syntax error, unexpected character at position {position}")
            position = match.end()
            if match["token"] is not None:
                self.tokens.append(match["token"])
        self.at = 0
        self.depth = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise GraphqlError(f"syntax error, unexpected {token or 'end of file'}, expecting {expected or 'more'}")
        self.at += 1
        return token

    def accept(self, token: str) -> bool:
        if self.peek() == token:
            self.at += 1
            return True
        return False

    def value(self) -> Any:
        word = self.take()
        if word == "$":
            return Variable(self.take())
        if word == "[":
            values = []
            while not self.accept("]"):
                values.append(self.value())
            return values
        if word == "{":
            entries = {}
            while not self.accept("}"):
                name = self.take()
                self.take(":")
                entries[name] = self.value()
            return entries
        if word.startswith('"""'):
            return word[3:-3].strip()
        if word.startswith('"'):
            return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", _unescape, word[1:-1])
        if word[0].isdigit() or word[0] == "-":
            return float(word) if any(mark in word for mark in ".eE") else int(word)
        return {"true": True, "false": False, "null": None}.get(word, word)

    def arguments(self) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        if self.accept("("):
            while not self.accept(")"):
                name = self.take()
                self.take(":")
                entries[name] = self.value()
        return entries

    def directives(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        while self.accept("@"):
            name = self.take()
            found[name] = self.arguments()
        return found

    def selections(self) -> tuple[Selection, ...]:
        self.take("{")
        self.depth += 1
        if self.depth > 20:
            raise GraphqlError("query is nested deeper than 20 levels")
        found = []
        while not self.accept("}"):
            found.append(self.selection())
        self.depth -= 1
        return tuple(found)

    def selection(self) -> Selection:
        if self.accept("..."):
            if self.peek() == "on":
                self.take()
                on = self.take()
                return Selection("", "", directives=self.directives(), on=on, selections=self.selections())
            if self.peek() == "{":
                return Selection("", "", selections=self.selections())
            return Selection("", "", spread=self.take(), directives=self.directives())
        alias = name = self.take()
        if self.accept(":"):
            name = self.take()
        arguments, directives = self.arguments(), self.directives()
        selections = self.selections() if self.peek() == "{" else ()
        return Selection(name, alias, arguments, directives, selections)

    def operation(self) -> Operation:
        if self.peek() == "{":
            return Operation("query", "", {}, {}, self.selections())
        kind = self.take()
        if kind not in ("query", "mutation"):
            raise GraphqlError(f"syntax error, unexpected {kind}")
        name = self.take() if self.peek() not in ("(", "{", "@") else ""
        defaults: dict[str, Any] = {}
        if self.accept("("):
            while not self.accept(")"):
                self.take("$")
                variable = self.take()
                self.take(":")
                while self.peek() not in ("$", ")", "=", ""):
                    self.take()
                if self.accept("="):
                    defaults[variable] = self.value()
        return Operation(kind, name, defaults, self.directives(), self.selections())


def _unescape(match: "re.Match[str]") -> str:
    mark = match[1]
    return chr(int(mark[1:], 16)) if mark[0] == "u" and len(mark) == 5 else _ESCAPES.get(mark, mark)


@lru_cache(maxsize=256)
def read_document(text: str) -> Document:
    """Parse a request document. Cached, because a connector sends the same few for ever."""
    reader = _Reader(text)
    operations: dict[str, Operation] = {}
    fragments: dict[str, Selection] = {}
    while reader.peek():
        if reader.accept("fragment"):
            name = reader.take()
            reader.take("on")
            fragments[name] = Selection("", "", on=reader.take(), selections=reader.selections())
        else:
            operation = reader.operation()
            operations[operation.name] = operation
    if not operations:
        raise GraphqlError("no operation in the document")
    return Document(operations, fragments)


def choose_operation(document: Document, name: str | None) -> Operation:
    """The operation to run: the named one, or the only one."""
    if name:
        if name not in document.operations:
            raise GraphqlError(f"No operation named {name!r}")
        return document.operations[name]
    if len(document.operations) > 1:
        raise GraphqlError("An operation name is required")
    return next(iter(document.operations.values()))


def resolve_value(value: Any, variables: Mapping[str, Any]) -> Any:
    """An argument with its variables filled in."""
    if isinstance(value, Variable):
        if value.name not in variables:
            return None
        return variables[value.name]
    if isinstance(value, list):
        return [resolve_value(item, variables) for item in value]
    if isinstance(value, dict):
        return {name: resolve_value(item, variables) for name, item in value.items()}
    return value


def fields_of(
    selections: tuple[Selection, ...], document: Document, variables: Mapping[str, Any], typename: str | None = None
) -> list[Selection]:
    """The fields of a selection set, fragments opened (those of another type left out), @skip and @include obeyed."""
    found: list[Selection] = []
    for selection in selections:
        if "skip" in selection.directives and resolve_value(selection.directives["skip"].get("if"), variables):
            continue
        included = selection.directives.get("include")
        if included is not None and not resolve_value(included.get("if"), variables):
            continue
        if selection.name:
            found.append(selection)
            continue
        inner = selection
        if selection.spread:
            if selection.spread not in document.fragments:
                raise GraphqlError(f"Fragment {selection.spread} was used, but not defined")
            inner = document.fragments[selection.spread]
        if not inner.on or typename is None or inner.on in (typename, "Node"):
            found += fields_of(inner.selections, document, variables, typename)
    return found


def project(value: Any, selections: tuple[Selection, ...], document: Document, variables: Mapping[str, Any]) -> Any:
    """The part of a resolved value that the client selected."""
    if value is None:
        return None
    if isinstance(value, list):
        return [project(item, selections, document, variables) for item in value]
    typename = value["__typename"]
    result: dict[str, Any] = {}
    for selection in fields_of(selections, document, variables, typename):
        if selection.name not in value:
            raise GraphqlError(f"Field '{selection.name}' doesn't exist on type '{typename}'", "undefinedField")
        inner = value[selection.name]
        if callable(inner):
            inner = inner({name: resolve_value(given, variables) for name, given in selection.arguments.items()})
        composite = isinstance(inner, dict) or (isinstance(inner, list) and any(isinstance(one, dict) for one in inner))
        if composite and not selection.selections:
            raise GraphqlError(f"Field must have selections (field '{selection.name}' returns an object)")
        if selection.selections and inner is not None and not isinstance(inner, (dict, list)):
            raise GraphqlError(f"Selections can't be made on scalars (field '{selection.name}')")
        result[selection.alias] = project(inner, selection.selections, document, variables) if composite else inner
    return result


def connection(typename: str, nodes: list[dict[str, Any]], cursors: list[str], *, more: bool) -> dict[str, Any]:
    """A page of nodes as a GraphQL connection."""
    edges = [
        {"__typename": f"{typename}Edge", "cursor": cursor, "node": node}
        for cursor, node in zip(cursors, nodes, strict=True)
    ]
    page_info = {
        "__typename": "PageInfo",
        "hasNextPage": more,
        "hasPreviousPage": False,
        "startCursor": cursors[0] if cursors else None,
        "endCursor": cursors[-1] if cursors else None,
    }
    return {"__typename": f"{typename}Connection", "nodes": nodes, "edges": edges, "pageInfo": page_info}

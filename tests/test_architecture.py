"""The layout as a test: who may import whom, what a domain may know, how long a function may be."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.catalogue import CATALOGUE
from services.runtime.migrate import load

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for top in ("contracts", "services", "deploy") for path in (ROOT / top).rglob("*.py"))
SERVICES = sorted(path.name for path in (ROOT / "services").iterdir() if (path / "__init__.py").exists())
FUNCTION_LINES_MAX = 70
"""TigerBeetle's limit: a function is read on one screen."""
CODE_LINES_MAX = {"services.bus": 1535, "services.deadletters": 340, "services.runtime": 675}
"""Every service rests on these: whoever adds to them looks for what may go."""
PURE = {f"services.orders.{name}" for name in ("order", "standing", "demand", "facts", "process", "wanted", "due")}
KAFKA_CLIENTS = {"aiokafka", "faststream"}
IMPURE = {"aiohttp", "aiokafka", "asyncio", "asyncpg", "faststream", "httpx", "os", "random", "secrets", "socket",
          "subprocess", "threading", "time", "uuid", "uuid_utils"}  # fmt: skip


def module_of(path: Path) -> str:
    """`services/bus/relay.py` → `services.bus.relay`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def allowed(module: str, imported: str) -> bool:
    """Whether `module` may import the project module `imported`."""
    top, _, rest = module.partition(".")
    if top == "contracts":
        return imported.startswith("contracts")
    if top == "deploy":
        return imported.startswith(("deploy", "contracts"))
    own = rest.partition(".")[0]
    reach = {f"services.{own}", "services.border", "services.bus", "services.runtime", "contracts"}
    if own == "bus":
        reach = {"services.bus", "contracts"}
    if own == "deadletters":
        reach = {"services.deadletters", "services.bus", "contracts"}
    if own == "runtime":
        # Of the border only what is pure and knows nobody: card numbers are taken out of every line that is logged.
        reach = {"services.runtime", "services.deadletters", "services.bus", "services.border.cards", "contracts"}
    if own in {"border", "sandbox"}:
        reach = {f"services.{own}"}
    if own == "console":
        # The console is people's way in: it starts the stack, and its buyers buy through the sandboxes' control API.
        reach |= {"deploy.local"} | {f"services.sandbox.{name}client" for name in ("", "carrier_", "gateway_")}
    return any(imported == place or imported.startswith(place + ".") for place in reach)


def test_services_know_only_what_all_share_and_themselves() -> None:
    wrong = [
        f"{module_of(path)} imports {imported}"
        for path in SOURCES
        for imported in imports(path)
        if imported.split(".")[0] in {"contracts", "services", "deploy", "tests"}
        and not allowed(module_of(path), imported)
    ]
    assert wrong == []


def test_contracts_import_nothing_but_pydantic_and_the_standard_library() -> None:
    import sys

    known = set(sys.stdlib_module_names) | {"pydantic", "pydantic_core", "contracts"}
    wrong = [
        f"{module_of(path)} imports {imported}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "contracts")
        for imported in imports(path)
        if imported.split(".")[0] not in known
    ]
    assert wrong == []


def test_only_bus_and_runtime_the_local_stack_and_the_demo_touch_kafka() -> None:
    free = ("services.bus", "services.runtime", "deploy.local", "services.console")
    wrong = [
        module_of(path)
        for path in SOURCES
        if not module_of(path).startswith(free) and {name.split(".")[0] for name in imports(path)} & KAFKA_CLIENTS
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.name == "domain.py" or module_of(path) in PURE], ids=module_of
)
def test_a_domain_is_pure(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert {name.split(".")[0] for name in imports(path)} & IMPURE == set()
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Await | ast.AsyncFunctionDef)] == []
    clocks = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}
        and isinstance(node.value, ast.Name) and node.value.id in {"datetime", "date"}
    ]  # fmt: skip
    assert clocks == []


def test_functions_fit_on_a_screen() -> None:
    wrong = [
        f"{module_of(path)}:{node.name} has {lines} lines"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert wrong == []


def test_every_service_introduces_itself_and_nothing_is_called_utils() -> None:
    without = [
        name
        for name in SERVICES
        if not ast.get_docstring(ast.parse((ROOT / "services" / name / "__init__.py").read_text()))
    ]
    assert without == []
    assert [path for path in SOURCES if path.stem in {"utils", "util", "helpers", "common", "misc"}] == []


def code_lines(path: Path) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    text = path.read_text("utf-8")
    prose = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    return sum(1 for number, line in lines if line.strip() and not line.strip().startswith("#") and number not in prose)


@pytest.mark.parametrize("folder", sorted(ROOT.glob("services/*/migrations")), ids=lambda folder: folder.parent.name)
def test_migrations_are_numbered_without_gaps(folder: Path) -> None:
    assert load(folder.parent.name, folder)


@pytest.mark.parametrize("package", CODE_LINES_MAX)
def test_what_every_service_rests_on_stays_small(package: str) -> None:
    lines = sum(code_lines(path) for path in SOURCES if module_of(path).startswith(package))
    assert lines <= CODE_LINES_MAX[package], f"{package} has {lines} lines of code"


def test_the_document_tells_every_stream_with_those_who_read_it_and_every_service_is_in_its_picture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    told = {
        stream: {name.strip() for name in readers.split(",")} - {"–"}
        for stream, readers in re.findall(r"^\| `([a-z.\d-]+)` \|[^|]+\|[^|]+\| ([^|]+) \|", text, re.MULTILINE)
    }
    found: dict[str, set[str]] = {name: set() for name in CATALOGUE.streams}
    wired = {path.parent.name: path.read_text("utf-8") for path in (ROOT / "services").glob("*/app.py")}
    running = {name for name, code in wired.items() if "Subscription(" in code}
    for name in running:
        for stream in re.findall(r'stream="([^"]+)"', wired[name]):
            found[stream].add(name)
    assert told == found
    assert [name for name in sorted(running) if f'["<b>{name}</b>' not in text] == []
    assert len(running) == 7

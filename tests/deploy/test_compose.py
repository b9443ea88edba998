"""docker-compose.yml fits the compose schema and says the same as the embedded stack."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.local.jars import KAFKA_VERSION
from deploy.local.parts import SANDBOXES, SERVICES
from deploy.local.stack import RunningStack, Stack
from deploy.local.supervisor import PROJECT, Supervisor


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((PROJECT / "docker-compose.yml").read_text()))


def test_fits_the_schema(compose: dict[str, Any]) -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(compose)


def test_runs_every_service_and_sandbox_and_each_has_a_health_check(compose: dict[str, Any]) -> None:
    commands = {tuple(service["command"][2:]) for service in compose["services"].values() if "command" in service}
    assert {(f"services.{name}.app",) for name in SERVICES} <= commands
    assert {("services.sandbox.app", name) for name in SANDBOXES} <= commands
    unchecked = {name for name, service in compose["services"].items() if "healthcheck" not in service}
    assert unchecked == {"pod", "console"}  # One only sleeps, the other one ends.
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_gives_each_process_the_environment_that_the_embedded_stack_gives(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    running = RunningStack(Stack(tmp_path), Supervisor(tmp_path))
    for spec in [*map(running.service, SERVICES), *map(running.sandbox, SANDBOXES)]:
        wanted = {name for name in spec.env if name.startswith(("SALDO_", "KAFKA_", "POSTGRES_"))}
        assert wanted <= set(compose["services"][spec.name]["environment"]), spec.name


def test_each_service_has_a_database_and_each_secret_an_example(compose: dict[str, Any]) -> None:
    script = (PROJECT / "deploy/compose/databases.sh").read_text()
    assert f"for service in {' '.join(SERVICES)}; do" in script
    example = (PROJECT / "deploy/compose/example.env").read_text()
    values = [value for one in compose["services"].values() for value in one.get("environment", {}).values()]
    wanted = {name for value in values for name in re.findall(r"\$\{(\w+):\?", str(value))}
    assert {line.removesuffix("=") for line in example.splitlines() if not line.startswith("#")} == wanted


def test_the_console_reaches_the_sandboxes_and_reads_the_spans(compose: dict[str, Any]) -> None:
    services = compose["services"]
    console = services["console"]["environment"]
    for name in SANDBOXES:
        port = services[f"sandbox-{name}"]["environment"]["SALDO_SANDBOX_PORT"]
        assert console[f"SALDO_SANDBOX_{name.upper()}_URL"] == f"http://127.0.0.1:{port}"
    for name in SERVICES:
        assert services[name]["environment"]["SALDO_SPANS_PATH"] == f"{console['SALDO_SPANS_FOLDER']}/{name}.sqlite"
        assert set(services["console"]["volumes"]) <= set(services[name]["volumes"])


def test_publishes_nothing_and_keeps_no_secret(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose["services"].items() if "ports" in service] == []
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if name.endswith(("_TOKEN", "_PASSWORD", "_KEY")) and not name.endswith("_TLS_KEY"):  # That is a path.
                assert value.startswith("${"), name

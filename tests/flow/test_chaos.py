"""A quarter of a minute of chaos on an instance of its own: processes and connections die, and the history holds."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.console.chaos.run import ChaosOptions, run_chaos

SEED = 3


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where everything of the run is; as root, PostgreSQL runs as another user and has to reach its data."""
    made = Path(tempfile.mkdtemp(prefix="saldo-chaos-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_every_order_has_one_history_whatever_breaks(folder: Path) -> None:
    options = ChaosOptions(minutes=0.25, seed=SEED, rate=2, stream_rate=10, tenant="chaos")
    held = run_chaos(folder, options, json_wanted=True)
    told = json.loads((folder / "report.json").read_text())
    assert held, told["failures"]
    assert told["faults"]["kills"] > 0, "nothing was killed"
    assert told["faults"]["took_effect"] > told["faults"]["kills"], "no connection was spoilt"
    assert told["sold"]["http"] > 0
    assert told["sold"]["stream"] > 0
    assert told["units"]["reserved"] > 0
    assert told["dirt"]["given_up_letters"] > 0, "nothing was spoilt"
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert {line["what"] for line in lines} >= {"order", "record", "fault"}

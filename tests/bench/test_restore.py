"""The restore bench deletes what lay on the machine alone, sees what is on its way, and judges what it measured."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from services.bus.metrics import Metrics
from tests.bench.restore import JUDGED, lag, lose, tell


def report(judged_s: float, contradictions: list[str]) -> dict[str, Any]:
    check = {"service": "orders", "what": "units", "examined": 1, "contradictions": contradictions}
    return {
        "orders": 10,
        "sold_by_shops": {"until_backup": 1, "after": 2},
        "backup_mb": 1.0,
        "sent_again": {"orders": 5},
        "took_s": {"orders": 1.0} | dict.fromkeys(JUDGED, judged_s / len(JUDGED)),
        "judged_s": judged_s,
        "verified": {"conserved": not contradictions, "checks": [check]},
    }


def test_how_far_a_service_is_behind_is_read_as_it_prints_it() -> None:
    metrics = Metrics()
    for partition, behind in enumerate((3, 0, 4)):
        metrics.lag.labels("orders.v1", partition).set(behind)
    assert lag(generate_latest(metrics.registry).decode()) == 7


def test_the_machine_is_lost_and_the_shops_are_not(tmp_path: Path) -> None:
    for name in ("postgres/data", "kafka", "spans", "sandbox"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("secrets.json", "ports.json"):
        (tmp_path / name).touch()
    lose(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"postgres", "sandbox", "ports.json"}


@pytest.mark.parametrize(
    ("told", "code"), [(report(600, []), 0), (report(601, []), 1), (report(10, ["acme one: 2 ordered"]), 1)]
)
def test_the_exit_code_is_the_verdict(told: dict[str, Any], code: int) -> None:
    assert tell(told) == code

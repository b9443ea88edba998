"""The soak bench reads what services tell, cuts a run in thirds, and calls flat what is flat."""

from typing import Any

import pytest
from prometheus_client import generate_latest

from services.bus.metrics import Metrics
from tests.bench.soak import SERVICES, Sample, cut, figures, flatness, idle, read_sample, tell, worked


def samples(*claim_ms: float) -> list[Sample]:
    """One a second, ten claims each, of so many milliseconds; the memory is a hundred MB more than the second."""
    return [
        Sample(second * 1000, second * 10, sum(claim_ms[:second]) / 100, 100 + second)
        for second in range(len(claim_ms) + 1)
    ]


def report(growth: float = 1.0, books: tuple[str, ...] = (), dropped: int = 1) -> dict[str, Any]:
    one = {"what": "p99", "thirds": (1.0, 1.0, growth), "growth": growth, "noise": 1.0, "flat": growth <= 1.2}
    table = {"bytes": 1, "live": 1, "dead": 1, "deleted": 1, "vacuums": 1}
    return {
        "flatness": [one],
        "thirds": [{"tables": {name: {"outbox": table} for name in SERVICES}}] * 3,
        "at_work": {
            "rows_pruned": {"intake": 1},
            "autovacuums": {"orders": 1},
            "days_over": 1,
            "days_dropped": dropped,
        },
        "books": list(books),
    }


def test_claims_of_a_relay_are_read_as_a_service_prints_them() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.002):
        metrics.claim_seconds.observe(seconds)
    read = read_sample(generate_latest(metrics.registry).decode(), 90.0)
    assert (read.claims, read.claims_s, read.memory_mb) == (2, pytest.approx(0.003), 90.0)


def test_a_window_has_its_own_claims_alone() -> None:
    told = figures(samples(1, 1, 1, 9, 9, 1), (3_000, 5_000))
    assert told == {
        "claim_ms": 9, "claim_p50_ms": 9, "claim_p99_ms": 9, "memory_mb": 104, "memory_max_mb": 105,
    }  # fmt: skip
    with pytest.raises(ValueError, match="claimed nothing"):
        figures([Sample(0, 5, 1, 90), Sample(1_000, 5, 1, 90)], (0, 1_000))


def test_a_run_is_cut_in_thirds_and_the_second_in_halves() -> None:
    assert cut(0, 12, 3) == [(0, 4), (4, 8), (8, 12)]
    one = flatness("begin", lambda window: window[0] + 1, 0, 12)
    assert (one.thirds, one.halves) == ((1, 5, 9), (5, 7))
    assert (one.growth, one.noise, one.is_flat) == (1.8, 1.4, False)
    assert flatness("even", lambda _: 3, 0, 12).is_flat


def test_what_did_not_work_makes_a_run_void() -> None:
    before = {"channels": {name: {"deleted": 5, "vacuums": 2} for name in ("intake", "propagation")}}
    after = {"channels": {"intake": {"deleted": 9, "vacuums": 2}, "propagation": {"deleted": 5, "vacuums": 2}}}
    told = worked(before, after) | {"days_dropped": 0}
    assert told["rows_pruned"] == {"intake": 4, "propagation": 0}
    assert idle(told) == [
        "nothing of propagation was pruned", "no day that was over was dropped", "nothing was vacuumed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (report(), 0),
        (report(growth=1.21), 1),
        (report(books=("3 units are neither reserved, short nor cancelled",)), 1),
        (report(dropped=0), 2),
    ],
)
def test_the_exit_code_is_the_verdict(told: dict[str, Any], code: int) -> None:
    assert tell(told) == code

"""`saldo verify --watch`: what is wrong in two looks is told, as metrics, in words and by the exit code."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.request import urlopen

import pytest

from services.console import verification, watching
from services.console.verification import CHECKS, ROWS_SHOWN, Check, Outcome
from services.console.watching import SECOND_LOOK_S, WatchMetrics, looks, standing
from tests.console.conftest import Printed
from tests.console.test_verify import execute, stocked

Saldo = Callable[..., Printed]
ONE, OTHER = Check("orders", "one", ""), Check("payments", "other", "")
LATE = "demo A: counter 8, movements 7"


def found(one: Sequence[str] = (), other: Sequence[str] = ()) -> list[Outcome]:
    return [Outcome(ONE, list(one), 3), Outcome(OTHER, list(other), 4)]


def test_a_contradiction_counts_if_the_look_before_had_it_whatever_its_numbers_are_now() -> None:
    later = "demo A: counter 6, movements 5"
    assert standing(found(), found([LATE])) == {}
    assert standing(found([LATE]), found()) == {}
    assert standing(found([LATE]), found(["demo B: counter 1, movements 0"])) == {}
    assert standing(found([LATE]), found(other=[LATE])) == {}, "another check's"
    assert standing(found([LATE]), found([later, "demo B: counter 1, movements 0"])) == {ONE: [later]}


def test_of_more_than_a_look_shows_two_looks_need_not_show_the_same_ones() -> None:
    first, second = ([f"demo {letter}{n}: wrong" for n in range(ROWS_SHOWN)] for letter in "AB")
    assert standing(found(first), found(second)) == {ONE: second}
    assert standing(found(first[1:]), found(second)) == {}


@pytest.mark.asyncio
async def test_the_books_of_a_database_are_looked_at_again_and_again(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "CHECKS", tuple(one for one in CHECKS if one.service == "inventory"))
    await stocked(database)
    metrics, steps = WatchMetrics(), looks({"inventory": database}, "demo", 0.01)

    async def differences(statement: str) -> float | None:
        await execute(database, statement)
        metrics.tell(await anext(steps))
        labels = {"service": "inventory", "invariant": "every counter is the sum of its movements"}
        return metrics.registry.get_sample_value("saldo_verify_differences", labels)

    try:
        assert await differences("SELECT 1") == 0
        success = metrics.registry.get_sample_value("saldo_verify_last_success_timestamp_seconds")
        assert await differences("UPDATE stock SET available = 8 WHERE tenant = 'demo'") == 0
        assert await differences("UPDATE stock SET available = 9 WHERE tenant = 'demo'") == 1
        assert metrics.registry.get_sample_value("saldo_verify_last_success_timestamp_seconds") == success
        assert await differences("UPDATE stock SET available = 7 WHERE tenant = 'demo'") == 0
        assert (metrics.registry.get_sample_value("saldo_verify_last_success_timestamp_seconds") or 0) > (success or 0)
    finally:
        await steps.aclose()


Script = Callable[..., list[float]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Script]:
    """What each look finds, or raises; after the last one somebody presses Ctrl-C. Returns the pauses between them."""
    monkeypatch.setenv("SALDO_ADMIN_ORDERS_URL", "http://127.0.0.1:1")
    for service in ("INVENTORY", "ORDERS", "PAYMENTS", "FULFILLMENT", "ERP"):
        monkeypatch.setenv(f"SALDO_VERIFY_{service}_DSN", "postgresql://reader@127.0.0.1:1/none")

    def begin(*steps: list[Outcome] | Exception | Callable[[], list[Outcome]]) -> list[float]:
        waiting, pauses = list(steps), list[float]()

        async def verify(_dsns: object, _tenant: object) -> list[Outcome]:
            if not waiting:
                raise KeyboardInterrupt
            step = waiting.pop(0)
            if isinstance(step, Exception):
                raise step
            return step() if callable(step) else step

        async def sleep(pause_s: float) -> None:
            pauses.append(pause_s)

        monkeypatch.setattr(watching, "verify", verify)
        monkeypatch.setattr(watching.asyncio, "sleep", sleep)
        return pauses

    return begin


def test_a_watch_ends_with_exit_code_1_at_what_is_wrong_in_two_looks(saldo: Saldo, script: Script) -> None:
    pauses = script(found(), found([LATE]), found(), found([LATE]), found([LATE]))
    printed = saldo("verify", "--watch", "--every", "60")
    assert (printed.code, pauses) == (1, [60.0, SECOND_LOOK_S, 60.0, SECOND_LOOK_S])
    assert printed.out.count("2 of 2 hold") == 2
    assert printed.err.count(f"wrong orders, one: {LATE}") == 1


def test_a_watch_that_keeps_going_says_it_at_every_look_until_it_is_mended(saldo: Saldo, script: Script) -> None:
    pauses = script(found([LATE]), found([LATE]), found([LATE]), found())
    printed = saldo("verify", "--watch", "--keep-going", "--json")
    told = [json.loads(line) for line in printed.out.splitlines()]
    assert (printed.code, pauses) == (130, [SECOND_LOOK_S, 60.0, 60.0, 60.0])
    assert [one["conserved"] for one in told] == [False, False, False, True]
    assert [len(one["standing"]) for one in told] == [0, 1, 1, 0]
    assert told[1]["standing"][0] == {"service": "orders", "what": "one", "contradictions": [LATE]}


def test_a_database_that_is_away_is_waited_for_but_not_at_the_start(saldo: Saldo, script: Script) -> None:
    away = ConnectionRefusedError("refused")
    script(found([LATE]), away, found([LATE]))
    printed = saldo("verify", "--watch")
    assert (printed.code, "no result a database cannot be read (refused)" in printed.err) == (1, True)
    script(away, found())
    printed = saldo("verify", "--watch")
    assert (printed.code, "saldo status" in printed.err, printed.out) == (1, True, "")


def test_prometheus_reads_the_last_result_of_each_invariant_and_when_all_held(
    saldo: Saldo, script: Script, unused_tcp_port: int
) -> None:
    told: list[str] = []

    def read() -> list[Outcome]:
        with urlopen(f"http://127.0.0.1:{unused_tcp_port}/metrics") as answer:
            told.append(answer.read().decode())
        return found()

    script(found(), read, found([LATE]), found([LATE]), read, OSError("away"), read)
    assert saldo("verify", "--watch", "--keep-going", "--metrics-port", str(unused_tcp_port)).code == 130
    for number, lines in enumerate(
        [
            ['holds{invariant="one",service="orders"} 1.0', 'differences{invariant="one",service="orders"} 0.0'],
            ['holds{invariant="one",service="orders"} 0.0', 'differences{invariant="one",service="orders"} 1.0'],
            ['holds{invariant="one",service="orders"} 1.0', "unread_total 1.0"],
        ]
    ):
        assert [line for line in lines if f"saldo_verify_{line}" not in told[number]] == []
    assert "saldo_verify_last_success_timestamp_seconds 1." in told[0]
    assert "saldo_verify_duration_seconds" in told[0]


@pytest.mark.parametrize("given", [("--metrics-port", "9100"), ("--keep-going",)])
def test_what_belongs_to_a_watch_is_refused_without_it(saldo: Saldo, given: tuple[str, ...]) -> None:
    printed = saldo("verify", *given)
    assert (printed.code, "belong to --watch" in printed.err) == (1, True)


def test_a_port_that_is_taken_is_said(saldo: Saldo, script: Script, listener: object) -> None:
    port = listener.url.rpartition(":")[2]  # type: ignore[attr-defined]
    script(found())
    printed = saldo("verify", "--watch", "--metrics-port", port)
    assert (printed.code, "cannot be listened on" in printed.err) == (1, True)

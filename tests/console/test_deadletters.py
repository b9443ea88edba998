"""`saldo deadletters` as a person runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.console import output
from services.console.commands import deadletters
from tests.console.conftest import Listener, Printed

Saldo = Callable[..., Printed]
SERVICES = ("inventory", "orders", "channels")


def letter(number: int, key: str = "", **more: Any) -> dict[str, Any]:
    return {"id": str(number), "key": key, "aggregate": key, "tenant": "demo", "age_s": 7_300.0, "error": "KeyError",
            "stream": "s.v1", "type": "t.v1", "state": "open", "attempts": 1, **more}  # fmt: skip


def replayed(listener: Listener) -> list[str]:
    """The ids that were replayed, in order."""
    return [path.split("/")[1] for method, path, _, _ in listener.asked if method == "POST"]


def test_letters_of_all_services_are_listed_and_the_filter_is_the_services_own(
    saldo: Saldo, listener: Listener
) -> None:
    letters = [letter(1), letter(2, tenant=None)]
    listener.say_each("GET", "deadletters", [letters, []] * 3)
    printed = saldo("deadletters", "list", "--json")
    assert {(row["service"], row["id"]) for row in printed.json} == {(name, one) for name in SERVICES for one in "12"}
    assert all((query["state"], query["tenant"]) == ("open", "demo") for _, _, query, _ in listener.asked)
    listener.asked.clear()
    listener.say_each("GET", "deadletters", [letters, []])
    chosen = ("--consumer", "orders", "--stream", "s.v1", "--type", "t.v1", "--cause", "KeyError", "--key", "o-1")
    assert "2 h" in saldo("deadletters", "list", "--all", *chosen, "--older-than", "90m", "--tenant", "acme").out
    [(_, _, query, _), (_, _, rest, _)] = listener.asked
    assert rest == {**query, "past": "2"}
    assert query == {"tenant": "acme", "stream": "s.v1", "type": "t.v1", "cause": "KeyError", "key": "o-1",
                     "older_than_s": "5400.0", "order": "newest", "limit": "1000"}  # fmt: skip
    refused = saldo("deadletters", "list", "--older-than", "yesterday")
    assert (refused.code, "an age is a number" in refused.err) == (2, True)


def test_groups_are_shown_the_oldest_first_whoever_holds_them(saldo: Saldo, listener: Listener) -> None:
    group = {"stream": "s.v1", "type": "t.v1", "cause": "KeyError: …", "count": 3, "for_person": 1, "waiting": 9}
    listener.say_each(
        "GET", "deadletters/groups", [[{**group, "oldest_age_s": age}] for age in (30.0, 900.0, 400_000.0)]
    )
    printed = saldo("deadletters", "groups", "--json")
    assert [row["oldest"] for row in printed.json] == ["4 d", "15 min", "30 s"]
    assert "KeyError: …" in saldo("deadletters", "groups").out


def test_a_letter_is_found_wherever_it_lies(saldo: Saldo, listener: Listener) -> None:
    given = ("deadletters", "discard", "7", "--author", "ana", "--reason", "a test")
    printed = saldo(*given)
    assert printed.code == 1
    assert "saldo deadletters list" in printed.err
    listener.say("POST", "deadletters/7/discard", {"id": "7", "state": "discarded", "drained": 2})
    assert saldo(*given, "--json").json["drained"] == 2
    assert listener.asked[-1][2] == {"tenant": "demo", "reason": "a test", "author": "ana"}
    assert "--author" in saldo("deadletters", "discard", "7", "--reason", "a test").err


def many(saldo: Saldo, *more: str) -> Printed:
    return saldo("deadletters", "replay", "--service", "orders", *more)


def test_replay_of_many_goes_from_the_oldest_on_and_leaves_a_key_alone_after_its_failure(
    saldo: Saldo, listener: Listener
) -> None:
    listener.say("GET", "deadletters/groups", [{"count": 4, "for_person": 0}])
    letters = [letter(1, "demo:a"), letter(2, "demo:b"), letter(3, "demo:a"), letter(4)]
    listener.say_each("GET", "deadletters", [letters, []])
    listener.say("POST", "deadletters/1/replay", {"detail": "the replay failed: KeyError"}, 409)
    for number in (2, 4):
        listener.say("POST", f"deadletters/{number}/replay", {"state": "replayed", "drained": 5})
    printed = many(saldo, "--json")
    assert printed.code == 1
    assert replayed(listener) == ["1", "2", "4"]
    told = printed.json
    assert (told["replayed"], told["drained"], told["skipped"]) == (2, 10, 1)
    assert [(one["id"], one["error"]) for one in told["failed"]] == [("1", "orders: the replay failed: KeyError")]
    query = next(query for _, path, query, _ in listener.asked if path == "deadletters")
    assert (query["order"], query["state"], query["for_person"]) == ("oldest", "open", "false")
    listener.say_each("GET", "deadletters", [letters, []])
    assert "2 replayed, 10 events followed, 1 failed, 1 skipped" in many(saldo).out


def test_what_a_replay_uncovers_behind_a_letter_is_replayed_too(saldo: Saldo, listener: Listener) -> None:
    listener.say("GET", "deadletters/groups", [{"count": 1, "for_person": 0}])
    listener.say_each("GET", "deadletters", [[letter(1, "demo:a")], [letter(2, "demo:a")], []])
    for number in (1, 2):
        listener.say("POST", f"deadletters/{number}/replay", {"state": "replayed", "drained": 1})
    assert "2 replayed, 2 events followed" in many(saldo, "--key", "a").out
    assert [query.get("past") for _, path, query, _ in listener.asked if path == "deadletters"] == [None, "1", "2"]


def test_replay_again_takes_those_that_wait_for_a_person_and_a_dry_run_changes_nothing(
    saldo: Saldo, listener: Listener
) -> None:
    listener.say("GET", "deadletters/groups", [{"count": 1, "for_person": 0}])
    listener.say_each("GET", "deadletters", [[letter(1)], []])
    listener.say("POST", "deadletters/1/replay", {"state": "open", "waiting": 3})
    printed = many(saldo, "--again", "--dry-run", "--cause", "KeyError")
    assert (printed.code, "1 would succeed, 3 events would follow, 0 failed" in printed.out) == (0, True)
    [asked] = [query for method, _, query, _ in listener.asked if method == "POST"]
    assert asked == {"tenant": "demo", "dry_run": "true", "again": "true"}
    assert "for_person" not in next(query for _, path, query, _ in listener.asked if path == "deadletters")


def test_replay_says_how_many_it_left_for_a_person(saldo: Saldo, listener: Listener) -> None:
    listener.say("GET", "deadletters/groups", [{"count": 3, "for_person": 2}, {"count": 1, "for_person": 1}])
    listener.say("GET", "deadletters", [])
    printed = many(saldo)
    assert (printed.code, "3 failed too often and wait for a person: --again" in printed.out) == (0, True)
    assert many(saldo, "--json").json["for_person"] == 3
    assert many(saldo, "--json", "--again").json["for_person"] == 0


def test_replay_keeps_to_its_rate_and_what_another_person_closed_is_passed_by(
    saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(deadletters.time, "sleep", pauses.append)
    monkeypatch.setattr(deadletters.time, "monotonic", lambda: 100.0)
    listener.say("GET", "deadletters/groups", [{"count": 2, "for_person": 0}])
    listener.say_each("GET", "deadletters", [[letter(1), letter(2)], []])
    listener.say("POST", "deadletters/2/replay", {"state": "replayed", "drained": 0})
    printed = many(saldo, "--per-second", "4", "--json")
    assert pauses == [0.25, 0.25]
    assert (printed.code, printed.json["replayed"], printed.json["skipped"]) == (0, 1, 1)


def test_ctrl_c_ends_a_long_replay_between_two_letters_and_says_how_far_it_came(
    saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(deadletters.time, "sleep", interrupt)
    listener.say("GET", "deadletters/groups", [{"count": 2, "for_person": 0}])
    listener.say_each("GET", "deadletters", [[letter(1), letter(2)], []])
    listener.say("POST", "deadletters/1/replay", {"state": "replayed", "drained": 0})
    printed = many(saldo, "--per-second", "1")
    assert (printed.code, replayed(listener)) == (130, ["1"])
    assert "1 replayed" in printed.out
    assert "run it again for the rest" in printed.err


def test_replay_shows_how_far_it_is_in_a_terminal(
    saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(output.errors, "is_interactive", True)
    monkeypatch.setattr(output.errors, "_force_terminal", True)
    listener.say("GET", "deadletters/groups", [{"count": 1, "for_person": 0}])
    listener.say_each("GET", "deadletters", [[letter(1)], []])
    listener.say("POST", "deadletters/1/replay", {"state": "replayed", "drained": 0})
    assert "replaying" in many(saldo).err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "say which: an id, --key, or a filter"),
        (("7", "--key", "o-1"), "an id or a filter, not both"),
    ],
)
def test_replay_of_nothing_named_is_refused(
    saldo: Saldo, listener: Listener, given: tuple[str, ...], said: str
) -> None:
    printed = saldo("deadletters", "replay", *given)
    assert (printed.code, said in printed.err, listener.asked) == (1, True, [])


def test_edit_sends_the_new_body_with_who_wrote_it_and_why(saldo: Saldo, listener: Listener, tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    listener.say("GET", "deadletters/7", {"id": "7", "payload": '{"a": 1}'})
    file.write_text(saldo("deadletters", "show", "7", "--body").out)
    assert file.read_text() == '{"a": 1}\n'
    listener.say("POST", "deadletters/7/replace", {"id": "7", "state": "replaced", "replaced_by": "e2", "drained": 1})
    told = ("--author", "ana", "--reason", "typo")
    printed = saldo("deadletters", "edit", "7", "--file", str(file), *told, "--header", "ce_tenant=demo", "--json")
    assert printed.json["replaced_by"] == "e2"
    assert listener.asked[-1][3] == {
        "body": '{"a": 1}\n', "headers": {"ce_tenant": "demo"}, "author": "ana", "reason": "typo",
    }  # fmt: skip
    assert "NAME=VALUE" in saldo("deadletters", "edit", "7", "--file", str(file), *told, "--header", "x").err
    assert "cannot be read as UTF-8" in saldo("deadletters", "edit", "7", "--file", str(tmp_path / "no"), *told).err


def test_a_body_of_a_personal_stream_is_not_printed(saldo: Saldo, listener: Listener) -> None:
    listener.say("GET", "deadletters/7", {"id": "7", "personal": True})
    printed = saldo("deadletters", "show", "7", "--body")
    assert (printed.code, "personal data" in printed.err) == (1, True)


def test_status_says_what_services_want_a_person_to_look_at(
    saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"status": "ready", "reasons": [], "alerts": ["3 dead letters, the oldest waits for 2:00:00"]}
    monkeypatch.setattr("services.console.client.httpx.get", lambda *_, **__: _Ready(told))
    listener.say("GET", "connections", {"connections": []})
    printed = saldo("status", "--json")
    assert (printed.code, {one["alert"] for one in printed.json["alerts"]}) == (0, set(told["alerts"]))
    assert "orders: 3 dead letters, the oldest waits for 2:00:00" in saldo("status").out


class _Ready:
    is_success = True

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def json(self) -> dict[str, Any]:
        return self._told

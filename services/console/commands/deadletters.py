"""`saldo deadletters` and `saldo consumer`: what could not be handled, and what stopped because of it."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.progress import Progress

from services.console import output
from services.console.client import Admin, AdminError
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin

app = typer.Typer(help="Records that could not be handled.", no_args_is_help=True)
consumers = typer.Typer(help="Consumers and their brakes.", no_args_is_help=True)

COLUMNS = ("id", "service", "stream", "aggregate", "type", "state", "error", "attempts", "age")
GROUP_COLUMNS = ("service", "stream", "type", "cause", "count", "for_person", "waiting", "oldest")
FAILURE_COLUMNS = ("id", "service", "key", "error")
PAGE = 1_000
NOT_FOUND, CONFLICT = 404, 409
_AGE = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _age(value: str | None) -> str | None:
    if value is not None and not _AGE.fullmatch(value):
        raise typer.BadParameter("an age is a number with its unit: 90s, 15m, 2h, 3d")
    return value


Letter = Annotated[str, typer.Argument(help="The dead letter's id.")]
OfService = Annotated[
    str | None, typer.Option("--service", "--consumer", help="Whose: inventory, orders …; all by default.")
]
OfStream = Annotated[str | None, typer.Option("--stream", help="Of this stream.")]
OfType = Annotated[str | None, typer.Option("--type", help="Of this type, as `groups` shows it.")]
OfCause = Annotated[str | None, typer.Option("--cause", help="Whose error has these words.")]
OfKey = Annotated[str | None, typer.Option("--key", help="Of this key: an order's id, a SKU; with its tenant or not.")]
OlderThan = Annotated[str | None, typer.Option("--older-than", callback=_age, help="Buried so long ago: 15m, 2h, 3d.")]
Author = Annotated[str, typer.Option("--author", help="Who decides; it is kept.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept.")]


def _chosen(
    stream: str | None, type_name: str | None, cause: str | None, key: str | None, older_than: str | None
) -> dict[str, Any]:
    """The filter as the services want it."""
    age = _AGE.fullmatch(older_than or "")
    older_than_s = timedelta(**{_UNITS[age[2]]: int(age[1])}).total_seconds() if age else None
    return {"stream": stream, "type": type_name, "cause": cause, "key": key, "older_than_s": older_than_s}


def _services(client: Admin, service: str | None) -> list[str]:
    return [service] if service else sorted(client.endpoints.admin)


def all_letters(
    client: Admin, service: str | None = None, state: str | None = "open", **chosen: Any
) -> list[dict[str, Any]]:
    """The dead letters of every service (or one), each with the service that holds it."""
    return [
        letter
        for name in _services(client, service)
        for letter in _pages(client, name, state=state, order="newest", **chosen)
    ]


def _pages(client: Admin, service: str, **query: Any) -> Iterator[dict[str, Any]]:
    """Letters of one service, page by page, until none is left: of the oldest first, those too that come meanwhile."""
    past = None
    while letters := client.get(service, "deadletters", past=past, limit=PAGE, **query):
        yield from ({"service": service, **letter} for letter in letters)
        past = letters[-1]["id"]


def _spoken(age_s: float) -> str:
    """An age in words short enough for a table: 45 s, 12 min, 7 h, 3 d."""
    for unit, size_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if age_s >= 2 * size_s:
            return f"{age_s // size_s:.0f} {unit}"
    return f"{age_s:.0f} s"


def _on_holder(client: Admin, service: str | None, call: Callable[[str], Any]) -> dict[str, Any]:
    """Ask the services one after another, until one has the dead letter. `call` gets a service's name."""
    for name in _services(client, service):
        try:
            return {"service": name, **call(name)}
        except AdminError as error:
            if error.status != NOT_FOUND:
                raise
    raise Failed("no service has this dead letter, or not as an open one: `saldo deadletters list --all` shows them")


def _path(letter: str, deed: str = "") -> str:
    return f"deadletters/{quote(letter, safe='')}{deed}"


def _tell(told: dict[str, Any], json_wanted: bool) -> None:
    if json_wanted:
        output.as_json(told)
    else:
        output.fields(told)


@app.command()
def groups(
    service: OfService = None,
    stream: OfStream = None,
    type_name: OfType = None,
    cause: OfCause = None,
    key: OfKey = None,
    older_than: OlderThan = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Open dead letters by their cause, the oldest first: how many, what waits behind them, which need a person."""
    chosen = _chosen(stream, type_name, cause, key, older_than)
    with admin(tenant, instance) as client:
        rows = [
            {"service": name, **group, "oldest": _spoken(group["oldest_age_s"])}
            for name in _services(client, service)
            for group in client.get(name, "deadletters/groups", state="open", **chosen)
        ]
        rows.sort(key=lambda row: -row["oldest_age_s"])
        output.listing(rows, GROUP_COLUMNS, json_wanted=json_wanted, empty="no dead letters")


@app.command("list")
def list_(
    service: OfService = None,
    stream: OfStream = None,
    type_name: OfType = None,
    cause: OfCause = None,
    key: OfKey = None,
    older_than: OlderThan = None,
    every: Annotated[bool, typer.Option("--all", help="Replayed, replaced and discarded ones too.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Dead letters, open ones by default, the newest first."""
    chosen = _chosen(stream, type_name, cause, key, older_than)
    with admin(tenant, instance) as client:
        rows = all_letters(client, service, None if every else "open", **chosen)
        if not json_wanted:
            rows = [{**row, "age": _spoken(row["age_s"])} for row in rows]
        output.listing(rows, COLUMNS, json_wanted=json_wanted, empty="no dead letters")


@app.command()
def show(
    letter: Letter,
    body: Annotated[bool, typer.Option("--body", help="The body alone, as a file for `edit` begins.")] = False,
    service: OfService = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """One dead letter with its cause, its payload and how much waits behind it."""
    with admin(tenant, instance) as client:
        told = _on_holder(client, service, lambda name: client.get(name, _path(letter), payload=1))
        if not body:
            _tell(told, json_wanted)
        elif told.get("payload") is None:
            raise Failed("this body is not shown: it is of a stream with personal data, was erased, or there is none")
        else:
            print(told["payload"])


@dataclass
class Replayed:
    """What a replay of many came to: counts, and the letters that failed. `for_person` are those it left out."""

    replayed: int = 0
    drained: int = 0
    skipped: int = 0
    for_person: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False


@app.command()
def replay(
    letter: Annotated[str | None, typer.Argument(help="The dead letter's id; without it, those of a filter.")] = None,
    service: OfService = None,
    stream: OfStream = None,
    type_name: OfType = None,
    cause: OfCause = None,
    key: OfKey = None,
    older_than: OlderThan = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Handle each and undo it: what would happen.")] = False,
    per_second: Annotated[
        float | None, typer.Option(min=0.01, help="At most so many letters a second; what waits follows at once.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Those too that were replayed in vain too often.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Handle one again, or all of a filter, each key in its order; what waits behind one follows in order.

    The events keep their ids. After a failure the later letters of its key are left alone. What was replayed in vain
    too often waits for a person: only --again, or its id with --again, takes it along.
    """
    chosen = _chosen(stream, type_name, cause, key, older_than)
    asked: dict[str, Any] = {"dry_run": dry_run, "again": again}
    with admin(tenant, instance) as client:
        if letter is not None:
            if any(value is not None for value in chosen.values()):
                raise Failed("give an id or a filter, not both")
            told = _on_holder(client, service, lambda name: client.post(name, _path(letter, "/replay"), **asked))
            _tell(told, json_wanted)
            return
        if service is None and not any(value is not None for value in chosen.values()):
            raise Failed("say which: an id, --key, or a filter (--service, --stream, --type, --cause, --older-than)")
        summary = _replay_many(client, service, chosen, asked, per_second)
    _sum_up(summary, dry_run=dry_run, json_wanted=json_wanted)


def _replay_many(
    client: Admin, service: str | None, chosen: dict[str, Any], asked: dict[str, Any], per_second: float | None
) -> Replayed:
    """Replay what is chosen, the oldest first; Ctrl-C ends it between two letters."""
    summary, names = Replayed(), _services(client, service)
    groups = [one for name in names for one in client.get(name, "deadletters/groups", state="open", **chosen)]
    total = sum(group["count"] for group in groups)
    if not asked["again"]:
        chosen["for_person"] = False
        summary.for_person = sum(group["for_person"] for group in groups)
    with Progress(console=output.errors, disable=not output.errors.is_terminal, transient=True) as progress:
        task = progress.add_task("replaying", total=total - summary.for_person)
        try:
            for name in names:
                stuck: set[str] = set()
                for letter in _pages(client, name, state="open", order="oldest", **chosen):
                    began = time.monotonic()
                    _replay_next(client, letter, asked, stuck, summary)
                    progress.advance(task)
                    if per_second:
                        time.sleep(max(0.0, began + 1 / per_second - time.monotonic()))
        except KeyboardInterrupt:
            summary.stopped = True
    return summary


def _replay_next(
    client: Admin, letter: dict[str, Any], asked: dict[str, Any], stuck: set[str], summary: Replayed
) -> None:
    """Replay one letter, unless an earlier one of its key failed; another person may have been faster."""
    key = letter["aggregate"] or letter["key"]
    if key in stuck:
        summary.skipped += 1
        return
    try:
        told = client.post(letter["service"], _path(letter["id"], "/replay"), **asked)
    except AdminError as error:
        if error.status == NOT_FOUND:
            summary.skipped += 1
            return
        if error.status != CONFLICT:
            raise
        stuck |= {key} if key else set()
        summary.failed.append({**{name: letter[name] for name in ("id", "service", "key")}, "error": str(error)})
        return
    summary.replayed += 1
    summary.drained += told.get("drained", told.get("waiting", 0))


def _sum_up(summary: Replayed, *, dry_run: bool, json_wanted: bool) -> None:
    """Say what became of them; exit code 1 if any failed, 130 after Ctrl-C."""
    if json_wanted:
        output.as_json({"dry_run": dry_run, **vars(summary)})
    else:
        done, behind = ("would succeed", "would follow") if dry_run else ("replayed", "followed")
        skipped = f", {summary.skipped} skipped (behind a failure, or closed meanwhile)" if summary.skipped else ""
        output.console.print(
            f"{summary.replayed} {done}, {summary.drained} events {behind}, {len(summary.failed)} failed{skipped}"
        )
        if summary.for_person:
            output.console.print(
                f"{summary.for_person} failed too often and wait for a person: --again takes them along"
            )
        if summary.failed:
            output.table(summary.failed, FAILURE_COLUMNS)
        if summary.stopped:
            output.errors.print("stopped: run it again for the rest")
    if summary.stopped or summary.failed:
        raise typer.Exit(130 if summary.stopped else 1)


@app.command()
def edit(
    letter: Letter,
    file: Annotated[Path, typer.Option("--file", help="The new body; `show --body` prints the old one.")],
    author: Author,
    reason: Reason,
    header: Annotated[list[str] | None, typer.Option("--header", help="NAME=VALUE, to put a header right.")] = None,
    service: OfService = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Handle a new event in its place; the letter is closed as replaced and kept, what waits behind it follows.

    The new event has an id of its own and tells what it replaces, who wrote it and why. Only the service that holds
    the letter sees it: another one that could not handle the old event has a letter of its own.
    """
    pairs = [one.partition("=") for one in header or []]
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise Failed(f"--header {wrong[0]}: give NAME=VALUE, for instance ce_tenant=demo")
    try:
        body = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(
            f"{file} cannot be read as UTF-8 ({type(error).__name__}): name the file of the new body"
        ) from None
    headers = {name: value for name, _, value in pairs}
    given = {"body": body, "headers": headers, "author": author, "reason": reason}
    with admin(tenant, instance) as client:
        _tell(
            _on_holder(client, service, lambda name: client.post(name, _path(letter, "/replace"), given)), json_wanted
        )


@app.command()
def discard(
    letter: Letter,
    author: Author,
    reason: Reason,
    service: OfService = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Give it up for good; it is kept, and what waits behind it follows in order."""
    with admin(tenant, instance) as client:
        discarded = _on_holder(
            client, service, lambda name: client.post(name, _path(letter, "/discard"), reason=reason, author=author)
        )
        _tell(discarded, json_wanted)


@consumers.command("list")
def list_consumers(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """Every consumer with its lag and whether it is braked."""
    with admin(tenant, instance) as client:
        rows = [
            {"service": name, **one, "behind": sum(one["lag"].values())}
            for name in sorted(client.endpoints.admin)
            for one in client.get(name, "consumers")
        ]
        output.listing(rows, ("service", "stream", "group", "behind", "braked", "reason"), json_wanted=json_wanted)


@consumers.command()
def resume(
    service: Annotated[str, typer.Argument(help="inventory, orders or channels.")],
    stream: Annotated[str, typer.Argument(help="The stream whose consumer stands still.")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Release the brake of a consumer that met too much poison."""
    with admin(tenant, instance) as client:
        told = client.post(service, "consumers/resume", stream=stream)
        if json_wanted:
            output.as_json(told)
        else:
            output.console.print(f"{stream} goes on" if told["resumed"] else f"{stream} had no brake on")

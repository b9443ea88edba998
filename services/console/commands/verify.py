"""`saldo verify`: once, or for as long as it runs."""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from prometheus_client import start_http_server
from rich.markup import escape

from services.console import instance as instances
from services.console import output, verification, watching
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant
from services.console.verification import Outcome
from services.console.watching import Look, WatchMetrics


def register(root: typer.Typer) -> None:
    """Add the command to the root."""
    root.command()(verify)


def verify(
    every_tenant: Annotated[bool, typer.Option("--all-tenants", help="Of every company.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until something is wrong.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="With --watch: seconds between two looks.")] = 60.0,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="With --watch: Prometheus metrics here; 0 for a free port.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Where the metrics listen.")] = "127.0.0.1",
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="With --watch: say it at every look instead of ending.")
    ] = False,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Prove that the books add up, in the databases themselves, by a role that can only read. Exit code 1 if not.

    With --watch a contradiction counts once two looks have it. A database that does not answer later on is waited
    for: watch the age of `saldo_verify_last_success_timestamp_seconds`.
    """
    if not watch and (metrics_port is not None or keep_going):
        raise Failed("--metrics-port and --keep-going belong to --watch")
    dsns, of_tenant = _databases(instance), None if every_tenant else tenant
    if watch:
        with _serving(metrics_host, metrics_port) as metrics:
            try:
                proved = asyncio.run(_watch(dsns, of_tenant, every, metrics, keep_going, json_wanted))
            except KeyboardInterrupt:
                raise typer.Exit(130) from None
    else:
        proved = _verify_once(dsns, of_tenant, json_wanted=json_wanted)
    if not proved:
        raise typer.Exit(1)


def _databases(instance: str | None) -> Mapping[str, str]:
    """The read-only DSNs of every service that is checked."""
    dsns = instances.find(instance).verify_dsns
    if missing := {check.service for check in verification.CHECKS} - dsns.keys():
        name = min(missing)
        raise Failed(
            f"the database of {name} is not known: set SALDO_VERIFY_{name.upper()}_DSN to a read-only role's DSN"
        )
    return dsns


def _verify_once(dsns: Mapping[str, str], tenant: str | None, *, json_wanted: bool) -> bool:
    try:
        outcomes = asyncio.run(verification.verify(dsns, tenant))
    except watching.UNREADABLE as error:
        raise Failed(f"a database cannot be read ({error}): see `saldo status`") from error
    proved = not any(outcome.contradictions for outcome in outcomes)
    if json_wanted:
        output.as_json({"conserved": proved, "checks": _as_rows(outcomes)})
        return proved
    for outcome in outcomes:
        mark = "[red]wrong[/]" if outcome.contradictions else "[green]holds[/]"
        output.console.print(
            f"{mark} {outcome.check.what} [dim]({outcome.examined} rows behind it)[/]", highlight=False
        )
        for contradiction in outcome.contradictions:
            output.console.print(f"      {escape(contradiction)}", highlight=False, soft_wrap=True)
    return proved


def _as_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [
        {"service": one.check.service, "what": one.check.what, "examined": one.examined,
         "contradictions": one.contradictions}
        for one in outcomes
    ]  # fmt: skip


@contextlib.contextmanager
def _serving(host: str, port: int | None) -> Iterator[WatchMetrics]:
    """The metrics of the block, served where a port is given."""
    metrics = WatchMetrics()
    if port is None:
        yield metrics
        return
    try:
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    except OSError as error:
        raise Failed(f"{host}:{port} cannot be listened on ({error.strerror}): give another --metrics-port") from None
    output.errors.print(f"metrics at http://{host}:{server.server_port}/metrics", highlight=False)
    try:
        yield metrics
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def _watch(
    dsns: Mapping[str, str], tenant: str | None, every_s: float, metrics: WatchMetrics, keep_going: bool, as_json: bool
) -> bool:
    """Look and tell; ends with False at what is wrong in two looks, unless it is to keep going.

    Raises `Failed` where the very first look has no result: then it is set up wrongly.
    """
    first = True
    async for look in watching.looks(dsns, tenant, every_s):
        if first and look.problem:
            raise Failed(look.problem)
        first = False
        metrics.tell(look)
        if as_json:
            print(json.dumps(_as_line(look), ensure_ascii=False), flush=True)
        else:
            _tell(look)
        if look.standing and not keep_going:
            return False
    return True


def _as_line(look: Look) -> dict[str, Any]:
    """A look as one line of JSON."""
    return {
        "at": look.at.isoformat(),
        "duration_s": round(look.duration_s, 3),
        "problem": look.problem,
        "conserved": not look.problem and not any(one.contradictions for one in look.outcomes),
        "standing": [
            {"service": check.service, "what": check.what, "contradictions": list(wrong)}
            for check, wrong in look.standing.items()
        ],
        "checks": _as_rows(look.outcomes),
    }


def _tell(look: Look) -> None:
    """A look as a line for people; what is wrong goes to stderr, too loud to be overlooked."""
    at = f"{look.at:%Y-%m-%dT%H:%M:%SZ}"
    if look.problem:
        output.errors.print(f"{at} [bold red]no result[/] {escape(look.problem)}", highlight=False, soft_wrap=True)
        return
    for check, wrong in look.standing.items():
        for contradiction in wrong:
            line = f"{at} [bold red]wrong[/] {check.service}, {check.what}: {escape(contradiction)}"
            output.errors.print(line, highlight=False, soft_wrap=True)
    held = sum(not one.contradictions for one in look.outcomes)
    again = "; what is new is looked at again" if look.suspects else ""
    output.console.print(
        f"{at} {held} of {len(look.outcomes)} hold, in {look.duration_s:.1f} s{again}", highlight=False, soft_wrap=True
    )

"""`saldo contracts`: the compatibility gate, the AsyncAPI document, and the kit for services of other people."""

from pathlib import Path
from typing import Annotated

import typer

from services.console import output
from services.console.options import DEFAULT_TENANT, Failed, Json, Tenant

app = typer.Typer(help="The contracts between services.", no_args_is_help=True)


@app.command()
def check(tenant: Tenant = DEFAULT_TENANT, json_wanted: Json = False) -> None:
    """Compare today's models with every released schema and sample; exit code 1 where a reader would break."""
    del tenant  # Contracts are the same for every company.
    from contracts.gate import check as gate

    problems = gate()
    if json_wanted:
        output.as_json({"problems": problems})
    else:
        for problem in problems:
            output.errors.print(f"[red]-[/] {problem}", highlight=False, soft_wrap=True)
        if not problems:
            output.console.print("contracts are compatible with everything released")
    if problems:
        raise typer.Exit(1)


@app.command()
def asyncapi(
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file instead of standard output.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
) -> None:
    """The AsyncAPI 3 document of all streams, as JSON."""
    del tenant  # Contracts are the same for every company.
    import json

    from contracts.asyncapi import asyncapi_document

    text = json.dumps(asyncapi_document(), indent=2, ensure_ascii=False) + "\n"
    if out:
        out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


@app.command()
def conformance(
    bootstrap: Annotated[str, typer.Option(help="HOST:PORT of a test broker on which the service runs.")],
    service: Annotated[str, typer.Option(help="Its name: groups NAME or NAME.…, topics NAME.…")],
    group: Annotated[list[str] | None, typer.Option(help="A consumer group of it, if named otherwise.")] = None,
    reads: Annotated[list[str] | None, typer.Option(help="A stream that it reads; else what its groups read.")] = None,
    writes: Annotated[list[str] | None, typer.Option(help="A topic that it publishes, if named otherwise.")] = None,
    bodies: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Own bodies, as FOLDER/TYPE/*.json.")
    ] = None,
    restart: Annotated[str, typer.Option(help="A command that starts the service again, and returns.")] = "",
    patience_s: Annotated[float, typer.Option(min=1, help="How long it may stand still until that is a fault.")] = 30,
    settle_s: Annotated[float, typer.Option(min=0.1, help="How long nothing may come until that is all.")] = 3,
    yes_this_is_a_test_broker: Annotated[
        bool, typer.Option("--yes-this-is-a-test-broker", help="Nothing on it is real.")
    ] = False,
    tenant: Tenant = DEFAULT_TENANT,
    json_wanted: Json = False,
) -> None:
    """Hit a service with what may come over its streams, and tell what it did; exit code 1 where that is a fault.

    Duplicates, disorder, later and earlier versions, unknown types, broken traces, poison: for a company of its own
    that is made up for the run. Every service on the broker hears it. Only what Kafka shows is judged.
    """
    del tenant  # A company of its own.
    import asyncio

    from aiokafka.errors import KafkaError
    from rich.progress import Progress

    from services.console.conformance.run import Target, Unfit, run

    target = Target(
        bootstrap, service, tuple(group or ()), tuple(reads or ()), tuple(writes or ()), bodies, restart, patience_s,
        settle_s, yes_this_is_a_test_broker,
    )  # fmt: skip
    with Progress(console=output.errors, transient=True) as bar:
        task = bar.add_task("connecting", total=None)

        def told(what: str, done: int, every: int) -> None:
            bar.update(task, description=what, completed=done, total=every or None)

        try:
            report = asyncio.run(run(target, told))
        except KafkaError as error:
            raise Failed(f"Kafka at {bootstrap}: {type(error).__name__}: is the broker running there?") from None
        except (Unfit, ValueError) as error:
            raise Failed(str(error)) from None
    rows = [finding.as_dict() for finding in report.findings]
    if json_wanted:
        about = {"service": service, "tenant": report.tenant, "reads": report.reads, "writes": report.writes}
        output.as_json({**about, "failed": len(report.failed), "findings": rows})
    else:
        output.table(rows, ("check", "about", "result", "seen", "asks"), title=f"{service}, as {report.tenant}")
        results = ("pass", "fail", "not observable")
        counts = [f"{sum(1 for row in rows if row['result'] == result)} {result}" for result in results]
        output.console.print(f"\n{', '.join(counts)}")
    if report.failed:
        raise typer.Exit(1)

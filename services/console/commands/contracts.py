"""`saldo contracts`: the compatibility gate and the AsyncAPI document."""

from pathlib import Path
from typing import Annotated

import typer

from services.console import output
from services.console.options import DEFAULT_TENANT, Json, Tenant

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

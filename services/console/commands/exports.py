"""`saldo export`: what accountants and other systems are given as files, and whether it is whole."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from services.console import journal as journals
from services.console import output
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin

app = typer.Typer(help="Files for accountants and other systems.", no_args_is_help=True)

PAGE_ROWS = 10_000
Folder = Annotated[Path, typer.Argument(help="The folder of the export.")]


@app.command()
def journal(
    folder: Folder,
    after: Annotated[int, typer.Option(min=0, help="Go on after this row: `to_seq` of the export before.")] = 0,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Write the journal as CSV pages; the manifest comes last, and without it there is no export."""
    with admin(tenant, instance) as client:
        pages = client.pages("erp", "journal", "rows", after=after, limit=PAGE_ROWS)
        try:
            told = journals.write(folder, tenant, after, pages)
        except journals.FolderTaken as error:
            raise Failed(str(error)) from None
        except OSError as error:
            raise Failed(f"{folder} cannot be written: {error.strerror}") from None
    if json_wanted:
        output.as_json(told)
    else:
        output.fields({name: value for name, value in told.items() if name != "pages"}, title=f"journal in {folder}")


@app.command()
def check(folder: Folder, tenant: Tenant = DEFAULT_TENANT, json_wanted: Json = False) -> None:
    """Recompute everything that an export's manifest says; exit code 1 with each difference. Asks no service."""
    try:
        differences = journals.read(folder)
        if differences is None:
            raise Failed(f"{folder} holds no export: it has no {journals.MANIFEST}, or was interrupted before it")
        if not differences:
            told = json.loads((folder / journals.MANIFEST).read_bytes())
            if told["tenant"] != tenant:
                differences.append(f"the export is of tenant {told['tenant']}, not {tenant}: say which with --tenant")
    except OSError as error:
        raise Failed(f"{folder} cannot be read: {error.strerror}") from None
    if json_wanted:
        output.as_json({"whole": not differences, "differences": differences})
    for difference in [] if json_wanted else differences:
        output.errors.print(f"[red]differs:[/] {escape(difference)}", highlight=False, soft_wrap=True)
    if differences:
        raise typer.Exit(1)
    if not json_wanted:
        output.console.print(f"whole: {told['rows']} rows up to row {told['to_seq']}", highlight=False)

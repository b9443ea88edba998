"""The `saldo` command: parsing and printing only; what it does is in `commands/` and `demo/`."""

import os
import sys

import typer
from rich.markup import escape

from deploy.local.supervisor import InstanceBusyError, StartError
from services.console.client import AdminError
from services.console.commands import (
    backups,
    connections,
    contracts,
    customers,
    deadletters,
    doctor,
    erp,
    exports,
    invoices,
    items,
    listings,
    orders,
    parcels,
    payments,
    running,
    sandbox,
    shops,
    stock,
    streams,
    verify,
)
from services.console.instance import CannotKeep, NotRunning
from services.console.options import Failed
from services.console.output import errors

app = typer.Typer(
    name="saldo",
    help="One stock, many marketplaces and shops, and every order from the basket to the door.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
running.register(app)
verify.register(app)
doctor.register(app)
orders.register(app)
invoices.register(orders.app)
streams.register(app)
backups.register(app)
app.add_typer(connections.app, name="connection")
app.add_typer(items.app, name="item")
app.add_typer(items.locations, name="location")
app.add_typer(listings.app, name="listing")
app.add_typer(stock.app, name="stock")
app.add_typer(orders.app, name="order")
app.add_typer(invoices.companies, name="company")
app.add_typer(parcels.app, name="parcel")
app.add_typer(parcels.rates, name="rate")
app.add_typer(parcels.mappings, name="mapping")
app.add_typer(parcels.carriers, name="carrier")
app.add_typer(exports.app, name="export")
app.add_typer(erp.app, name="erp")
app.add_typer(customers.app, name="customer")
app.add_typer(payments.app, name="payment")
app.add_typer(shops.app, name="shop")
app.add_typer(deadletters.app, name="deadletters")
app.add_typer(deadletters.consumers, name="consumer")
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(contracts.app, name="contracts")


def main() -> None:
    """Entry point. Errors that people can act on are one line on stderr and exit code 1."""
    if unreadable := [argument for argument in sys.argv[1:] if not _is_text(argument)]:
        errors.print(f"[bold red]error:[/] {unreadable[0]!a} is not UTF-8: set the terminal to UTF-8", highlight=False)
        sys.exit(2)
    try:
        app()
    except (NotRunning, CannotKeep, AdminError, Failed, StartError, InstanceBusyError) as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output has gone (`saldo ... | head`): nothing is wrong, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:  # Bytes that are no UTF-8 reach us as lone surrogates.
        return False
    return True


if __name__ == "__main__":
    main()

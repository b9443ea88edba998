"""A company in a fresh database of Tryton: `python tryton_company.py CONFIGURATION DATABASE PRODUCTS`.

A process of its own: Tryton keeps its state in its modules.
"""

import sys
from decimal import Decimal

from proteus import Model, config
from trytond.modules.account.tests.tools import (
    create_chart,
    create_fiscalyear,
    get_accounts,
)
from trytond.modules.account_invoice.tests.tools import (
    set_fiscalyear_invoice_sequences,
)
from trytond.modules.company.tests.tools import create_company


def main(configuration: str, database: str, products: int) -> None:
    """Company in BRL with chart of accounts and fiscal year, and products SKU-0, SKU-1, …"""
    config.set_trytond(database, config_file=configuration)
    create_company(currency="BRL")
    create_chart()
    year = set_fiscalyear_invoice_sequences(create_fiscalyear())
    year.save()
    year.click("create_period")
    accounts = get_accounts()
    category = Model.get("product.category")(
        name="Goods", accounting=True, account_expense=accounts["expense"], account_revenue=accounts["revenue"]
    )
    category.save()
    (unit,) = Model.get("product.uom").find([("symbol", "=", "u")])
    template = Model.get("product.template")
    for number in range(products):
        one = template(
            name=f"Product {number}", default_uom=unit, type="goods", salable=True, list_price=Decimal(20),
            account_category=category,
        )  # fmt: skip
        one.products[0].suffix_code = f"SKU-{number}"
        one.save()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

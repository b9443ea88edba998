"""Invoices and facts to begin a test with; every tax id here is made up."""

from datetime import UTC, datetime
from typing import Any

from contracts.envelope import Envelope
from contracts.fulfillment.v1 import ShipmentDispatched, ShipmentLine
from contracts.inventory.v1 import AccountRef, AccountState, MovementRecorded
from contracts.orders.v1 import OrderLine, OrderPlaced
from contracts.payments.v1 import PaymentMethod
from services.bus import Received
from services.erp.invoices import key_digit

NOW = datetime(2026, 9, 14, 12, 0, tzinfo=UTC)
SECRETS_KEY = bytes(range(32)).hex()
TAX_ID = "11222333000181"
LETTERED_TAX_ID = "12ABC34501DE35"


def key(
    *, state: str = "35", yymm: str = "2609", tax_id: str = TAX_ID, model: str = "55", series: int = 1, number: int = 7
) -> str:
    """A key whose check digit is right, whatever it says."""
    body = f"{state}{yymm}{tax_id}{model}{series:03}{number:09}112345678"
    return body + key_digit(body)


def xml(given: str | None = None, total: str = "50.00", issued: str = "2026-09-14T08:00:00-03:00", **said: str) -> str:
    """An NF-e with the authority's answer; `said` replaces what an element says."""
    given = given or key()
    told = {
        "cUF": given[:2], "mod": given[20:22], "serie": str(int(given[22:25])), "nNF": str(int(given[25:34])),
        "CNPJ": given[6:20], "chNFe": given, "cStat": "100",
    } | said  # fmt: skip
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<nfeProc xmlns="http://www.portalfiscal.inf.br/nfe" versao="4.00"><NFe>'
        f'<infNFe Id="NFe{given}" versao="4.00"><ide><cUF>{told["cUF"]}</cUF><mod>{told["mod"]}</mod>'
        f"<serie>{told['serie']}</serie><nNF>{told['nNF']}</nNF><dhEmi>{issued}</dhEmi></ide>"
        f"<emit><CNPJ>{told['CNPJ']}</CNPJ></emit><dest><xNome>A Buyer</xNome></dest>"
        f"<total><ICMSTot><vNF>{total}</vNF></ICMSTot></total></infNFe></NFe>"
        f"<protNFe><infProt><chNFe>{told['chNFe']}</chNFe><cStat>{told['cStat']}</cStat></infProt></protNFe></nfeProc>"
    )


def fact(kind: type[Any], version: int, **fields: Any) -> Any:
    """A fact about order-a."""
    order = {
        "order_id": "order-a", "version": version, "connection_id": "connection-a", "external_id": "1001",
        "sale_revision": 1, "at": NOW,
    }  # fmt: skip
    return kind(**(order | fields))


def lines(**quantities: int) -> tuple[OrderLine, ...]:
    """Order lines by SKU, at 20.00 a unit."""
    return tuple(
        OrderLine(line_id=f"line-{sku}", sku=sku, quantity=quantity, unit_price_minor=2000)
        for sku, quantity in quantities.items()
    )


def placed(**fields: Any) -> OrderPlaced:
    """Two mugs at 20.00 and 10.00 of freight: 50.00."""
    given = {
        "sold_at": NOW, "customer_ref": "customer-a", "paid": True, "due_minor": 5000, "total_minor": 5000,
        "freight_minor": 1000, "currency": "BRL", "lines": lines(MUG=2),
    }  # fmt: skip
    return fact(OrderPlaced, 1, **(given | fields))


def payment(kind: type[Any], version: int, **fields: Any) -> Any:
    """A fact about the first payment of order-a."""
    given = {
        "order_id": "order-a", "payment_id": "order-a:p1", "version": version, "connection_id": "connection-a",
        "method": PaymentMethod.PIX, "gateway": "pix", "currency": "BRL", "amount_minor": 5000, "at": NOW,
    }  # fmt: skip
    return kind(**(given | fields))


def dispatched(version: int = 3) -> ShipmentDispatched:
    """Two mugs left."""
    return ShipmentDispatched(
        order_id="order-a", shipment_id="order-a:s1", version=version, revision=1, location="main", at=NOW,
        lines=(ShipmentLine(line_id="line-MUG", sku="MUG", quantity=2),), carrier="ect", service="sedex",
        dispatched_at=NOW,
    )  # fmt: skip


def movement(number: int = 1, line: str = "order-a/line-MUG/MUG") -> MovementRecorded:
    """Two mugs from reserved to shipped."""
    places = [
        AccountRef(location="main", pool="shared", state=state)
        for state in (AccountState.RESERVED, AccountState.SHIPPED)
    ]
    return MovementRecorded(
        movement_id=f"movement-{number}", sku="MUG", from_account=places[0], to_account=places[1], quantity=2, epoch=1,
        sku_version=number, cause="order:order-a:1", line=line, at=NOW,
    )  # fmt: skip


def received(message: Any, number: int, tenant: str = "acme") -> Received[Any]:
    """`message` as the event of this number."""
    envelope = Envelope(f"event-{number}", "", "/test", NOW, "", tenant, "flow", "", "trace")
    return Received(message, envelope, f"{tenant}:key")

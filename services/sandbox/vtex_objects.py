"""VTEX's order as its Order Management shows it, built to the published OpenAPI description; money is in cents."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from services.sandbox.buyers import Buyer, buyer
from services.sandbox.market import Account
from services.sandbox.shop import Order, Product, Shop, stable_id

STATUS = {
    "new": ("payment-pending", "Pagamento Pendente"),
    "approved": ("ready-for-handling", "Pronto para o Manuseio"),
    "handling": ("handling", "Preparando Entrega"),
    "canceled": ("canceled", "Cancelado"),
}
_INVOICED = ("invoiced", "Faturado")


def moment(at_ms: int) -> str:
    """A time as VTEX writes it: UTC, seven digits of the second."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="microseconds")[:-6] + "0+00:00"


def read_ms(text: Any) -> int | None:
    """A date and time, in UTC where it has no offset; None where it is none."""
    try:
        at = datetime.fromisoformat(str(text))
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def sku_id(product: Product) -> str:
    """VTEX's number of a SKU; the seller's own is its reference."""
    return str(product.variant_id)


def find_sku(shop: Shop, text: str) -> Product | None:
    """The product of a SKU number."""
    sku = shop.sku_of_variant.get(int(text)) if text.isdecimal() else None
    return None if sku is None else shop.products[sku]


def _address(person: Buyer) -> dict[str, Any]:
    return {
        "addressType": "residential",
        "receiverName": person.name,
        "addressId": str(stable_id("address", str(person.number))),
        "versionId": None,
        "entityId": None,
        "postalCode": person.postcode,
        "city": person.city,
        "state": person.region,
        "country": "BRA",
        "street": person.street,
        "number": person.street_number,
        "neighborhood": person.neighborhood,
        "complement": "",
        "reference": None,
        "geoCoordinates": [],
    }


def _client(person: Buyer) -> dict[str, Any]:
    return {
        "id": "clientProfileData",
        "email": person.email,
        "firstName": person.first_name,
        "lastName": person.last_name,
        "documentType": "cpf",
        "document": person.document,
        "phone": person.phone,
        "corporateName": None,
        "tradeName": None,
        "corporateDocument": None,
        "stateInscription": None,
        "corporatePhone": None,
        "isCorporate": False,
        "userProfileId": str(stable_id("profile", str(person.number))),
        "userProfileVersion": None,
        "customerClass": None,
        "customerCode": None,
    }


def _items(account: Account, order: Order) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in order.lines:
        product = account.shop.products[line.sku]
        number = sku_id(product)
        found.append(
            {
                "uniqueId": f"{line.line_id:032X}",
                "id": number,
                "productId": str(product.product_id),
                "ean": None,
                "lockId": f"00-{order.order_id}",
                "attachments": [],
                "quantity": line.quantity,
                "seller": "1",
                "name": line.title,
                "refId": line.sku,
                "price": line.price_minor,
                "listPrice": line.price_minor,
                "manualPrice": None,
                "priceTags": [],
                "components": [],
                "bundleItems": [],
                "params": [],
                "offerings": [],
                "sellerSku": number,
                "commission": 0,
                "tax": 0,
                "measurementUnit": "un",
                "unitMultiplier": 1,
                "sellingPrice": line.price_minor,
                "isGift": False,
                "shippingPrice": None,
                "priceDefinitions": {
                    "sellingPrices": [{"value": line.price_minor, "quantity": line.quantity}],
                    "calculatedSellingPrice": line.price_minor,
                    "total": line.price_minor * line.quantity,
                },
            }
        )
    return found


def _shipping(account: Account, order: Order, address: Mapping[str, Any]) -> dict[str, Any]:
    estimate = moment(order.placed_ms + 10 * 86_400_000)
    logistics = [
        {
            "itemIndex": place,
            "selectedSla": "Normal",
            "lockTTL": "10d",
            "price": 0,
            "listPrice": 0,
            "sellingPrice": 0,
            "deliveryWindow": None,
            "deliveryCompany": "Correios",
            "shippingEstimate": "10bd",
            "shippingEstimateDate": estimate,
            "slas": [],
            "shipsTo": ["BRA"],
            "deliveryIds": [
                {
                    "courierId": "1",
                    "courierName": "Correios",
                    "dockId": "1",
                    "quantity": line.quantity,
                    "warehouseId": line.location,
                    "accountCarrierName": account.name,
                    "kitItemDetails": [],
                }
            ],
            "selectedDeliveryChannel": "delivery",
            "addressId": address["addressId"],
            "polygonName": None,
        }
        for place, line in enumerate(order.lines)
    ]
    shown = {"id": "shippingData", "address": dict(address), "logisticsInfo": logistics}
    return shown | {"trackingHints": None, "selectedAddresses": [dict(address)]}


def _payment(account: Account, order: Order) -> dict[str, Any]:
    if order.paid_ms is None:
        return {"giftCards": [], "transactions": []}
    number = str(stable_id(account.name, order.order_id, "payment"))
    payment = {
        "id": number,
        "paymentSystem": "125",
        "paymentSystemName": "Pix",
        "value": order.total_minor,
        "installments": 1,
        "referenceValue": order.total_minor,
        "group": "instantPayment",
        "tid": number,
    }
    transaction = {"isActive": True, "transactionId": f"{int(number):032X}", "merchantName": account.name}
    return {"giftCards": [], "transactions": [{**transaction, "payments": [payment]}]}


def packages(order: Order) -> list[dict[str, Any]]:
    """The invoices reported of an order, each with the parcel that was reported for it."""
    found: list[dict[str, Any]] = (order.invoice or {}).get("packages", [])
    return found


def order(account: Account, order: Order) -> dict[str, Any]:
    """`GET /api/oms/pvt/orders/{orderId}`."""
    person = buyer(order.buyer)
    address = _address(person)
    status, words = STATUS.get(order.status, _INVOICED)
    cancelled = None if order.cancelled_ms is None else moment(order.cancelled_ms)
    issued = [one["issuanceDate"] for one in packages(order) if one["type"] == "Output"]
    return {
        "orderId": order.order_id,
        "sequence": str(500_000 + order.number),
        "marketplaceOrderId": "",
        "marketplaceServicesEndpoint": "",
        "sellerOrderId": f"00-{order.order_id}",
        "origin": "Marketplace",
        "affiliateId": "",
        "salesChannel": "1",
        "merchantName": None,
        "status": status,
        "workflowIsInError": False,
        "statusDescription": words,
        "value": order.total_minor,
        "creationDate": moment(order.placed_ms),
        "lastChange": moment(order.updated_ms),
        "orderGroup": order.order_id.removesuffix("-01"),
        "totals": [
            {"id": "Items", "name": "Total dos Itens", "value": order.total_minor},
            {"id": "Discounts", "name": "Total dos Descontos", "value": 0},
            {"id": "Shipping", "name": "Total do Frete", "value": 0},
            {"id": "Tax", "name": "Total da Taxa", "value": 0},
        ],
        "items": _items(account, order),
        "marketplaceItems": [],
        "clientProfileData": _client(person),
        "shippingData": _shipping(account, order, address),
        "paymentData": _payment(account, order),
        "packageAttachment": {"packages": packages(order)},
        "sellers": [{"id": "1", "name": account.name, "logo": "", "fulfillmentEndpoint": ""}],
        "changesAttachment": None,
        "hostname": account.name,
        "invoiceData": None,
        "isCompleted": True,
        "isCheckedIn": False,
        "allowCancellation": order.status in STATUS and order.cancelled_ms is None,
        "allowEdition": False,
        "authorizedDate": None if order.paid_ms is None else moment(order.paid_ms),
        "invoicedDate": issued[-1] if status == "invoiced" and issued else None,
        "cancelReason": (order.shipment or {}).get("cancel_reason"),
        "cancellationData": None if cancelled is None else {"CancellationDate": cancelled},
        "storePreferencesData": {
            "countryCode": "BRA",
            "currencyCode": account.settings.currency,
            "currencySymbol": "R$",
            "timeZone": "E. South America Standard Time",
        },
    }


def balance(product: Product, location: str, lead_time: str) -> dict[str, Any]:
    """One warehouse of `GET /api/logistics/pvt/inventory/skus/{skuId}`."""
    reserved = product.reserved.get(location, 0)
    return {
        "warehouseId": location,
        "warehouseName": f"Estoque {location}",
        "totalQuantity": product.numbers[location] + reserved,
        "reservedQuantity": reserved,
        "hasUnlimitedQuantity": False,
        "timeToRefill": None,
        "dateOfSupplyUtc": None,
        "leadTime": lead_time,
    }


def at_warehouse(product: Product, location: str) -> dict[str, Any]:
    """`GET /api/logistics/pvt/inventory/items/{skuId}/warehouses/{warehouseId}`."""
    reserved = product.reserved.get(location, 0)
    return {
        "skuId": sku_id(product),
        "warehouseId": location,
        "dockId": "1",
        "totalQuantity": product.numbers[location] + reserved,
        "reservedQuantity": reserved,
        "availableQuantity": product.numbers[location],
        "isUnlimited": False,
        "salesChannel": ["1"],
        "deliveryChannel": ["delivery"],
        "keepSellingAfterExpiration": False,
    }

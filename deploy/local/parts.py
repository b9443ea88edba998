"""The processes of the stack by name, and what each is given beyond what all are: listeners, keys, files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for an instance, by name, and the ``folder`` of its sandboxes' books."""

    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    folder: Path

    @property
    def certificates(self) -> Path:
        """Where the gateway's sandbox keeps the certificates of Pix: made at its start, and read by payments."""
        return self.folder / "certificates"

    @property
    def documents(self) -> str:
        """Where invoices are read: erp's own listener."""
        return f"http://{HOST}:{self.ports['erp_admin']}"


@dataclass(frozen=True, slots=True)
class Part:
    """What one process needs: names of ``ports`` and ``secrets`` to draw, and variables made from them."""

    ports: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    environment: Callable[[Drawn], Mapping[str, str]] = lambda _: {}


def _channels(drawn: Drawn) -> Mapping[str, str]:
    return {
        "SALDO_SECRETS_KEY": drawn.secrets["secrets_key"],
        "SALDO_TOKEN_KEY": drawn.secrets["token_key"],
        "SALDO_DOOR_HOST": HOST,
        "SALDO_DOOR_PORT": str(drawn.ports["door"]),
        "SALDO_SHOP_HOST": HOST,
        "SALDO_SHOP_PORT": str(drawn.ports["shop"]),
        "SALDO_DOCUMENTS_URL": drawn.documents,
        "SALDO_DOCUMENTS_TOKEN": drawn.secrets["admin_token"],
    }


def _payments(drawn: Drawn) -> Mapping[str, str]:
    return {
        "PAYMENTS_SECRETS_KEY": drawn.secrets["payments_secrets_key"],
        "SALDO_TOKEN_KEY": drawn.secrets["token_key"],
        "PAYMENTS_DOOR_HOST": HOST,
        "PAYMENTS_DOOR_PORT": str(drawn.ports["payments_door"]),
        "PAYMENTS_PIX_DOOR_PORT": str(drawn.ports["payments_pix_door"]),
        "PAYMENTS_PIX_TLS_CERTIFICATE": str(drawn.certificates / "door.pem"),
        "PAYMENTS_PIX_TLS_KEY": str(drawn.certificates / "door.key"),
        "PAYMENTS_PIX_TLS_CLIENT_CA": str(drawn.certificates / "ca.pem"),
    }


def _fulfillment(drawn: Drawn) -> Mapping[str, str]:
    return {
        "FULFILLMENT_SECRETS_KEY": drawn.secrets["fulfillment_secrets_key"],
        "SALDO_PERSONAL_KEY": drawn.secrets["fulfillment_personal_key"],
        "FULFILLMENT_DOOR_HOST": HOST,
        "FULFILLMENT_DOOR_PORT": str(drawn.ports["fulfillment_door"]),
    }


def _crm(drawn: Drawn) -> Mapping[str, str]:
    return {
        "CRM_SECRETS_KEY": drawn.secrets["crm_secrets_key"],
        "SALDO_PERSONAL_KEY": drawn.secrets["crm_personal_key"],
    }


def _erp(drawn: Drawn) -> Mapping[str, str]:
    return {"ERP_SECRETS_KEY": drawn.secrets["erp_secrets_key"], "ERP_CONTENT_URL": drawn.documents}


def _gateway(drawn: Drawn) -> Mapping[str, str]:
    return {
        "SALDO_SANDBOX_PIX_PORT": str(drawn.ports["gateway_pix"]),
        "SALDO_SANDBOX_CERTIFICATES": str(drawn.certificates),
    }


def _shop(drawn: Drawn) -> Mapping[str, str]:
    return {
        "SALDO_SANDBOX_SHOP_URL": f"http://{HOST}:{drawn.ports['shop']}",
        "SALDO_SANDBOX_GATEWAY_URL": f"http://{HOST}:{drawn.ports['gateway_sandbox']}",
    }


SERVICES: Final[Mapping[str, Part]] = {
    "inventory": Part(),
    "orders": Part(),
    "channels": Part(("door", "shop"), ("secrets_key", "token_key"), _channels),
    "payments": Part(("payments_door", "payments_pix_door"), ("payments_secrets_key", "token_key"), _payments),
    "fulfillment": Part(("fulfillment_door",), ("fulfillment_secrets_key", "fulfillment_personal_key"), _fulfillment),
    "crm": Part((), ("crm_secrets_key", "crm_personal_key"), _crm),
    "erp": Part((), ("erp_secrets_key",), _erp),
}
"""Each has its own database and role of that name and a key of its own, so that a stolen key opens one database;
`token_key` is of two, for what passes from one to the other. Each runs as ``python -m services.<name>.app``."""

SANDBOXES: Final[Mapping[str, Part]] = {
    "shopify": Part(),
    "skyhub": Part(),
    "mercadolivre": Part(),
    "vtex": Part(),
    "gateway": Part(("gateway_pix",), (), _gateway),
    "carrier": Part(),
    "shop": Part(("shop", "gateway_sandbox"), (), _shop),
}
"""Each runs as ``python -m services.sandbox.app <name>``."""

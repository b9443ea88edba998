"""The description of the shop's API: `python -m services.channels.shop.describe > docs/shop-api.json`."""

import json
import sys
from pathlib import Path

from pydantic import SecretStr

from services.border.vault import Vault
from services.bus import BusSettings
from services.channels.connections.registry import Registry
from services.channels.intake.context import Intake
from services.channels.settings import ChannelsSettings
from services.channels.shop.api import Api
from services.channels.shop.desk import Desk
from services.channels.shop.shop import Shop
from services.runtime import Service


def described() -> str:
    """OpenAPI 3.1 as JSON, as `GET /openapi.json` gives it, for people to read."""
    key = bytes(range(32)).hex()  # Nothing is sealed with it.
    vault = Vault(key)
    shop = Shop(Intake(ChannelsSettings(secrets_key=SecretStr(key)), Registry(vault), vault), vault)
    settings = BusSettings(postgres_dsn=SecretStr("postgresql://nowhere"))
    service = Service(name="channels", settings=settings, migrations=Path(__file__).parent)
    api = Api(service, shop, Desk(service, shop))
    return json.dumps(api.app.openapi(), ensure_ascii=False, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(described())

"""Settings of inventory, from the environment (`INVENTORY_…`)."""

from typing import final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


@final
class InventorySettings(BaseSettings):
    """How holds of the own shop's unpaid orders are watched."""

    model_config = SettingsConfigDict(env_prefix="INVENTORY_", frozen=True)

    expiry_interval_s: float = Field(default=1, gt=0, description="Pause between two looks at the holds.")
    expiry_page: int = Field(default=200, gt=0, le=1000, description="Orders whose holds end in one transaction.")

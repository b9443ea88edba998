"""Settings of erp, from the environment (`ERP_…`)."""

from typing import final

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


@final
class ErpSettings(BaseSettings):
    """Key and terms of the documents that are kept.

    `secrets_key` (`ERP_SECRETS_KEY`, else `SALDO_SECRETS_KEY`): 32 random bytes as base64 or hex; several with commas,
    newest first, while old rows still need them.
    """

    model_config = SettingsConfigDict(env_prefix="ERP_", frozen=True, populate_by_name=True)

    secrets_key: SecretStr = Field(validation_alias=AliasChoices("ERP_SECRETS_KEY", "SALDO_SECRETS_KEY"))
    content_url: str = Field(
        default="", description="Address of this service's admin listener as other services reach it; empty: not told."
    )
    keep_years: int = Field(
        default=5, ge=5, description="Whole years after that of its issue for which an invoice is kept (CTN, art. 173)."
    )
    retention_interval_s: float = Field(default=3600, gt=0, description="Pause between two looks for what is over.")
    look_every_s: float = Field(default=2, gt=0, description="Pause between two looks for what is to be booked.")
    items_every_s: float = Field(default=300, gt=0, description="Pause between two looks at an ERP's products.")
    retry_s: float = Field(default=30, gt=0, description="Pause after an ERP failed, and before a sale is tried again.")
    tries_max: int = Field(default=20, gt=0, description="A sale that is not finished after as many is given up.")
    call_timeout_s: float = Field(default=60, gt=0, description="No call of an ERP takes longer.")
    lot: int = Field(default=50, gt=0, le=500, description="Sales that are booked at once.")
    lot_timeout_s: float = Field(default=300, gt=0, description="No lot takes longer; after it, its outcome is asked.")
    utc_offset_h: float = Field(default=-3, ge=-12, le=14, description="Where the days of an ERP's books begin.")

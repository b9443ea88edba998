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

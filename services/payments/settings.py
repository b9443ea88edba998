"""Settings of payments, from the environment (`PAYMENTS_…`)."""

from datetime import timedelta
from typing import final

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


@final
class PaymentsSettings(BaseSettings):
    """The key of what is sealed, how many calls of gateways are made at once, and how often what waits is looked at.

    `secrets_key` (`PAYMENTS_SECRETS_KEY`, else `SALDO_SECRETS_KEY`): 32 random bytes as base64 or hex; several with
    commas, newest first, while old rows still need them.
    """

    model_config = SettingsConfigDict(env_prefix="PAYMENTS_", extra="ignore", frozen=True, populate_by_name=True)

    secrets_key: SecretStr = Field(validation_alias=AliasChoices("PAYMENTS_SECRETS_KEY", "SALDO_SECRETS_KEY"))
    charge_parallel: int = Field(default=8, gt=0, le=50, description="Payments worked on at once, one call each.")
    call_timeout_s: float = Field(default=30, gt=0, description="No call of a gateway takes longer, all in all.")
    poll_interval_s: float = Field(default=0.25, gt=0, description="Pause between two looks for payments that are due.")
    look_every_s: float = Field(
        default=60, gt=0, description="A payment that waits for its buyer or bank is looked at as often, hint or not."
    )

    @property
    def look_every(self) -> timedelta:
        """`look_every_s` as a duration."""
        return timedelta(seconds=self.look_every_s)

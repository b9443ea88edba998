"""Settings of crm, from the environment (`CRM_…`)."""

from datetime import timedelta

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class CrmSettings(BaseSettings):
    """The key of what is sealed, what counts as a key of a person, and how long what is known is kept.

    `secrets_key` (`CRM_SECRETS_KEY`, else `SALDO_SECRETS_KEY`): 32 random bytes as base64 or hex; several with commas,
    newest first, while old rows still need them.
    """

    model_config = SettingsConfigDict(env_prefix="CRM_", extra="ignore", frozen=True, populate_by_name=True)

    secrets_key: SecretStr = Field(validation_alias=AliasChoices("CRM_SECRETS_KEY", "SALDO_SECRETS_KEY"))
    relay_domains: str = Field(
        default="", description="Domains of e-mails that a marketplace makes up for its buyers, with commas between."
    )
    documents_max: int = Field(
        default=3, gt=0, description="An e-mail or phone seen with more documents than this is nobody's."
    )
    references_max: int = Field(
        default=100, gt=0, description="An e-mail, phone or document of more references than this is nobody's."
    )
    keep_years: int = Field(default=5, gt=0, description="Whole years after its own that a fiscal document is kept.")
    parcel_keep_days: int = Field(default=90, gt=0, description="An open parcel is taken to be over after this time.")
    order_keep_days: int = Field(
        default=90, gt=0, description="An erased customer's open order keeps its address for no longer than this."
    )
    silent_keep_days: int = Field(
        default=5 * 365, gt=0, description="A customer of whom nothing is heard for so long is erased."
    )
    unplaced_keep_days: int = Field(
        default=30, gt=0, description="Events of an order are deleted if it is not known after this time who placed it."
    )
    retention_interval_s: float = Field(default=3600, gt=0, description="Pause between two looks at what is too old.")

    @property
    def relays(self) -> tuple[str, ...]:
        """`relay_domains`, one by one."""
        return tuple(domain.strip() for domain in self.relay_domains.split(",") if domain.strip())

    @property
    def order_keep(self) -> timedelta:
        """`order_keep_days` as a duration."""
        return timedelta(days=self.order_keep_days)

    @property
    def silent_keep(self) -> timedelta:
        """`silent_keep_days` as a duration."""
        return timedelta(days=self.silent_keep_days)

    @property
    def unplaced_keep(self) -> timedelta:
        """`unplaced_keep_days` as a duration."""
        return timedelta(days=self.unplaced_keep_days)

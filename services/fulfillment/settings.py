"""Settings of fulfillment, from the environment (`FULFILLMENT_…`)."""

from datetime import timedelta
from typing import final

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.fulfillment.packing import ITEM_DIMENSIONS_MM, ITEM_WEIGHT_G, Box, Dimensions
from services.fulfillment.rates import CUBIC_DIVISOR


@final
class FulfillmentSettings(BaseSettings):
    """The key of what is sealed, how packing goes, and the paces of the loops.

    `secrets_key` (`FULFILLMENT_SECRETS_KEY`, else `SALDO_SECRETS_KEY`): 32 random bytes as base64 or hex; several with
    commas, newest first, while old rows still need them.
    """

    model_config = SettingsConfigDict(env_prefix="FULFILLMENT_", extra="ignore", frozen=True, populate_by_name=True)

    secrets_key: SecretStr = Field(validation_alias=AliasChoices("FULFILLMENT_SECRETS_KEY", "SALDO_SECRETS_KEY"))
    auto_pack: bool = Field(default=False, description="Whatever has an address is picked and packed by itself.")
    boxes: tuple[Box, ...] = Field(default=(), description="Boxes in stock, as JSON.")
    item_weight_g: int = Field(default=ITEM_WEIGHT_G, gt=0, description="For an item of unknown weight.")
    item_dimensions_mm: Dimensions = Field(default=ITEM_DIMENSIONS_MM, description="For an item of unknown size.")
    address_wait_s: float = Field(default=5, gt=0, description="A missing buyer is asked for after this time.")
    address_again_s: float = Field(default=60, gt=0, description="And again, each time after this one.")
    erase_days: float = Field(
        default=90, gt=0, description="The buyer goes so long after an order's last parcel, or without any."
    )
    cubic_divisor: int = Field(default=CUBIC_DIVISOR, gt=0, description="Cubic centimetres of a kilogram, own rates.")
    book_lease_s: float = Field(default=60, gt=0, description="A label that is not bought by then is tried again.")
    book_parallel: int = Field(default=32, gt=0, le=200, description="Labels that are bought at the same time.")
    poll_interval_s: float = Field(default=1, gt=0, description="Between two looks at what is due, if nothing is told.")
    accounts_kept_s: float = Field(
        default=1, ge=0, description="An account is read again after this time: until then another's change is unseen."
    )
    watch_interval_s: float = Field(
        default=1, gt=0, description="And between two looks at what only the clock notices."
    )
    quote_timeout_s: float = Field(
        default=0.45, gt=0, description="A carrier that has not answered by then is left out."
    )
    quote_keep_days: float = Field(default=30, gt=0, description="What was offered to a buyer is known for so long.")
    track_every_s: float = Field(default=300, gt=0, description="Parcels under way are asked about as often.")
    track_rest_s: float = Field(default=0.3, ge=0, description="News that comes within it is asked about in one.")
    track_days: float = Field(default=60, gt=0, description="Until nothing has changed for so long.")
    door_host: str = "127.0.0.1"
    door_port: int = Field(default=0, ge=0, le=65535)
    door_url: str = Field(default="", description="How carriers reach the door; else the listener's own address.")
    door_body_max_bytes: int = Field(default=200_000, gt=0)
    page: int = Field(default=100, gt=0, le=1000, description="Rows handled in one transaction of a loop.")

    @property
    def address_wait(self) -> timedelta:
        """`address_wait_s` as a duration."""
        return timedelta(seconds=self.address_wait_s)

    @property
    def address_again(self) -> timedelta:
        """`address_again_s` as a duration."""
        return timedelta(seconds=self.address_again_s)

    @property
    def erase_after(self) -> timedelta:
        """`erase_days` as a duration."""
        return timedelta(days=self.erase_days)

    @property
    def public_door_url(self) -> str:
        """The door's address as a carrier has to call it, without a slash at the end."""
        return (self.door_url or f"http://{self.door_host}:{self.door_port}").rstrip("/")

"""What the channels service can be told by its environment."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ChannelsSettings(BaseSettings):
    """The door, the key and the paces of intake (`SALDO_*`).

    `secrets_key`: 32 random bytes as base64 or hex; several with commas, newest first, while old rows still need them.
    `token_key`, in the same form, seals gateways' tokens for payments, which has the same one; else `secrets_key` does.
    `documents_url` is erp's admin listener and `documents_token` its token, for channels that want an invoice's file.
    `door_url` is how marketplaces reach the door from outside; without it the listener's own address is told.
    `shop_url` is the same for the API of the own shop and its buyers' tracking pages.
    """

    model_config = SettingsConfigDict(env_prefix="SALDO_", extra="ignore")

    secrets_key: SecretStr
    token_key: SecretStr | None = None
    lease_s: float = Field(default=90, gt=0, description="What a process that died had begun is begun again by then.")
    door_host: str = "127.0.0.1"
    door_port: Annotated[int, Field(ge=0, le=65535)] = 0
    door_url: str = ""
    door_body_max_bytes: Annotated[int, Field(gt=0)] = 2_000_000
    door_waiting_max: Annotated[int, Field(gt=0)] = 5_000
    door_batch_max: Annotated[int, Field(gt=0)] = 200
    absorb_batch_max: Annotated[int, Field(gt=0)] = 300
    absorb_idle_s: Annotated[float, Field(gt=0)] = 0.25
    intake_keep_days: Annotated[float, Field(gt=0)] = 30
    buyer_keep_days: Annotated[int, Field(ge=0)] = 30
    told_keep_days: int = Field(default=400, gt=0, description="What a channel was told of an order that is all told.")
    basket_keep_days: int = Field(default=400, gt=0, description="A basket of the own shop whose order has ended.")
    documents_url: str = ""
    documents_token: SecretStr = SecretStr("")
    shop_host: str = "127.0.0.1"
    shop_port: Annotated[int, Field(ge=0, le=65535)] = 0
    shop_url: str = ""

    @property
    def public_door_url(self) -> str:
        """The door's address as a marketplace has to call it, without a slash at the end."""
        return (self.door_url or f"http://{self.door_host}:{self.door_port}").rstrip("/")

    @property
    def public_shop_url(self) -> str:
        """The address of the own shop's API as storefronts and buyers reach it, without a slash at the end."""
        return (self.shop_url or f"http://{self.shop_host}:{self.shop_port}").rstrip("/")

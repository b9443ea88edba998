"""Settings of payments, from the environment (`PAYMENTS_…`)."""

import ssl
from datetime import timedelta
from pathlib import Path
from typing import Self, final

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


@final
class PaymentsSettings(BaseSettings):
    """The key of what is sealed, the paces of the loop, and the doors for webhooks.

    `secrets_key` (`PAYMENTS_SECRETS_KEY`, else `SALDO_SECRETS_KEY`): 32 random bytes as base64 or hex; several with
    commas, newest first, while old rows still need them. `token_key` (`SALDO_TOKEN_KEY`) is the one under which the own
    shop seals gateways' tokens; else `secrets_key` is taken. `door_url` and `pix_door_url` are how gateways reach the
    doors from outside; without them the listeners' own addresses are told. The door for Pix is open where
    `pix_door_port` is set; it needs a certificate of its own and the authorities of the banks' client certificates, as
    files of PEM.
    """

    model_config = SettingsConfigDict(env_prefix="PAYMENTS_", extra="ignore", frozen=True, populate_by_name=True)

    secrets_key: SecretStr = Field(validation_alias=AliasChoices("PAYMENTS_SECRETS_KEY", "SALDO_SECRETS_KEY"))
    token_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("PAYMENTS_TOKEN_KEY", "SALDO_TOKEN_KEY")
    )
    charge_parallel: int = Field(default=8, gt=0, le=50, description="Payments worked on at once, one call each.")
    call_timeout_s: float = Field(default=30, gt=0, description="No call of a gateway takes longer, all in all.")
    lease_margin_s: float = Field(
        default=30, gt=0, description="A step that was begun by a process that died is taken again so long after that."
    )
    poll_interval_s: float = Field(default=1, gt=0, description="Between two looks at what is due, if nothing is told.")
    look_every_s: float = Field(
        default=60, gt=0, description="A payment that waits for its buyer or bank is looked at as often, hint or not."
    )
    rest_look_every_h: float = Field(
        default=24, gt=0, description="A payment that is authorised, or may be disputed, is looked at as often."
    )
    dispute_days: int = Field(default=120, gt=0, description="How long after the payment a buyer may dispute it.")

    door_host: str = "127.0.0.1"
    door_port: int = Field(default=0, ge=0, le=65535)
    door_url: str = ""
    pix_door_port: int | None = Field(default=None, ge=0, le=65535)
    pix_door_url: str = ""
    pix_tls_certificate: Path | None = None
    pix_tls_key: Path | None = None
    pix_tls_client_ca: Path | None = None
    settle_every_s: float = Field(default=3600, gt=0, description="How often gateways are asked what they paid out.")
    hint_keep_days: int = Field(default=30, gt=0, description="How long a webhook is known again.")
    call_keep_days: int = Field(
        default=400,
        gt=0,
        description="How long a call of a gateway that has ended is shown. What it moved stays booked.",
    )

    @model_validator(mode="after")
    def _pix_door_is_whole(self) -> Self:
        files = {name: getattr(self, name) for name in ("pix_tls_certificate", "pix_tls_key", "pix_tls_client_ca")}
        missing = [f"PAYMENTS_{name.upper()}" for name, value in files.items() if value is None]
        if self.pix_door_port is not None and missing:
            raise ValueError(f"PAYMENTS_PIX_DOOR_PORT is set: set {', '.join(missing)}, too")
        return self

    def pix_tls(self) -> ssl.SSLContext:
        """What the door for Pix shows, and whom it lets in. Raises `OSError` where a file cannot be read."""
        assert self.pix_tls_certificate
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.pix_tls_client_ca)
        context.load_cert_chain(self.pix_tls_certificate, self.pix_tls_key, password="")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def door_of(self, account_id: str, *, certified: bool) -> str:
        """The address for an account's webhooks as its gateway has to call it; empty where that door is closed."""
        if certified and self.pix_door_port is None:
            return ""
        own = (
            f"https://{self.door_host}:{self.pix_door_port}"
            if certified
            else f"http://{self.door_host}:{self.door_port}"
        )
        url = (self.pix_door_url if certified else self.door_url) or own
        return f"{url.rstrip('/')}/hooks/{account_id}"

    @property
    def look_every(self) -> timedelta:
        """`look_every_s` as a duration."""
        return timedelta(seconds=self.look_every_s)

    @property
    def rests(self) -> tuple[timedelta, timedelta]:
        """`rest_look_every_h` and `dispute_days` as durations."""
        return timedelta(hours=self.rest_look_every_h), timedelta(days=self.dispute_days)

"""What a service is told from outside. Every field is an environment variable; tests pass them as arguments."""

from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

TOKEN_CHARACTERS: Final = 16
"""The least of a token that guards a listener which others reach: 16 random characters are past guessing."""


class BusSettings(BaseSettings):
    """Settings that every service has. Units are in the names; secrets never show in a repr."""

    model_config = SettingsConfigDict(env_prefix="SALDO_", populate_by_name=True, extra="ignore")

    kafka_bootstrap_servers: str = Field(default="127.0.0.1:9092", validation_alias="KAFKA_BOOTSTRAP_SERVERS")
    postgres_dsn: SecretStr = Field(default=SecretStr(""), validation_alias="POSTGRES_DSN")
    otlp_endpoint: str = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    outbox_keep_h: int = Field(default=24, ge=0, validation_alias="OUTBOX_KEEP_H")
    keep_days_every_s: float = Field(default=3600, ge=2, description="Pause between two looks at the days that end.")
    environment: Literal["local", "test", "staging", "production"] = "local"
    build: str = Field(default="0.1.0", description="Another build clears a brake.")
    replicas: int = Field(default=1, ge=1)
    replication_factor: int = Field(default=1, ge=1)
    relay_shards: int = Field(default=1, ge=1, le=24, description="Of the 24 slots of the outbox.")
    relay_chunk: int = Field(default=2_000, ge=1)
    backoff_cap_s: float = Field(default=5.0, gt=0)
    dead_letter_alert_s: float = Field(default=3600, gt=0, description="Age of an open dead letter that alerts.")
    admin_host: str = "127.0.0.1"
    admin_port: int = Field(default=0, ge=0, le=65535)
    admin_token: SecretStr = SecretStr("")
    admin_tls_certificate: Path | None = None
    admin_tls_key: Path | None = None
    personal_key: SecretStr = Field(default=SecretStr(""), description="32 bytes in base64.")
    log_format: Literal["json", "text"] = "json"
    spans_path: Path | None = None
    trace_ratio: float = Field(default=1.0, ge=0, le=1)
    faults: str = ""
    faults_folder: Path | None = Field(default=None, description="Holds a folder of armed points for each service.")

    @model_validator(mode="after")
    def _listener_is_safe(self) -> Self:
        if not self.postgres_dsn.get_secret_value():
            raise ValueError("POSTGRES_DSN is not set: give the address of this service's own database")
        is_secret = len(self.admin_token.get_secret_value()) >= TOKEN_CHARACTERS
        guarded = self.admin_tls_certificate and self.admin_tls_key and is_secret
        if not is_loopback(self.admin_host) and not guarded:
            raise ValueError(
                f"SALDO_ADMIN_HOST={self.admin_host} is not a loopback address: set SALDO_ADMIN_TLS_CERTIFICATE, "
                f"SALDO_ADMIN_TLS_KEY and SALDO_ADMIN_TOKEN (at least {TOKEN_CHARACTERS} characters), or listen on "
                "127.0.0.1"
            )
        return self


def is_loopback(host: str) -> bool:
    """True for an address that only this machine can reach."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

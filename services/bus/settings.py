"""What a service is told from outside. Every field is an environment variable; tests pass them as arguments."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class BusSettings(BaseSettings):
    """Settings that every service has. Units are in the names; secrets never show in a repr."""

    model_config = SettingsConfigDict(populate_by_name=True, extra="ignore")

    kafka_bootstrap_servers: str = Field(default="127.0.0.1:9092", validation_alias="KAFKA_BOOTSTRAP_SERVERS")
    postgres_dsn: SecretStr = Field(default=SecretStr(""), validation_alias="POSTGRES_DSN")
    environment: Literal["local", "test", "staging", "production"] = Field(
        default="local", validation_alias="SALDO_ENVIRONMENT"
    )
    build: str = Field(default="0.1.0", validation_alias="SALDO_BUILD", description="Another build clears a brake.")
    replicas: int = Field(default=1, ge=1, validation_alias="SALDO_REPLICAS")
    admin_host: str = Field(default="127.0.0.1", validation_alias="SALDO_ADMIN_HOST")
    admin_port: int = Field(default=0, ge=0, le=65535, validation_alias="SALDO_ADMIN_PORT")
    admin_token: SecretStr = Field(default=SecretStr(""), validation_alias="SALDO_ADMIN_TOKEN")
    admin_tls_certificate: Path | None = Field(default=None, validation_alias="SALDO_ADMIN_TLS_CERTIFICATE")
    admin_tls_key: Path | None = Field(default=None, validation_alias="SALDO_ADMIN_TLS_KEY")
    log_format: Literal["json", "text"] = Field(default="json", validation_alias="SALDO_LOG_FORMAT")
    faults: str = Field(default="", validation_alias="SALDO_FAULTS")
    spans_path: Path | None = Field(default=None, validation_alias="SALDO_SPANS_PATH")
    otlp_endpoint: str = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    trace_ratio: float = Field(default=1.0, ge=0, le=1, validation_alias="SALDO_TRACE_RATIO")
    personal_key: SecretStr = Field(default=SecretStr(""), validation_alias="SALDO_PERSONAL_KEY")  # 32 bytes, base64
    pool_size: int = Field(default=12, ge=2, validation_alias="SALDO_POOL_SIZE")
    max_records: int = Field(default=1_000, ge=1, validation_alias="SALDO_MAX_RECORDS")
    batch_timeout_ms: int = Field(default=10, ge=1, validation_alias="SALDO_BATCH_TIMEOUT_MS")
    outbox_keep_h: int = Field(default=24, ge=0, validation_alias="OUTBOX_KEEP_H")
    relay_shards: int = Field(default=1, ge=1, le=64, validation_alias="SALDO_RELAY_SHARDS")
    relay_chunk: int = Field(default=2_000, ge=1, validation_alias="SALDO_RELAY_CHUNK")
    compression: Literal["none", "lz4", "zstd"] = Field(default="zstd", validation_alias="SALDO_COMPRESSION")
    replication_factor: int = Field(default=1, ge=1, validation_alias="SALDO_REPLICATION_FACTOR")
    backoff_cap_s: float = Field(default=5.0, gt=0, validation_alias="SALDO_BACKOFF_CAP_S")
    outbox_age_limit_s: float = Field(default=60.0, gt=0, validation_alias="SALDO_OUTBOX_AGE_LIMIT_S")
    shutdown_s: float = Field(default=15.0, gt=0, validation_alias="SALDO_SHUTDOWN_S")

    @model_validator(mode="after")
    def _listener_is_safe(self) -> Self:
        if not self.postgres_dsn.get_secret_value():
            raise ValueError("POSTGRES_DSN is not set: give the address of this service's own database")
        guarded = self.admin_tls_certificate and self.admin_tls_key and self.admin_token.get_secret_value()
        if not is_loopback(self.admin_host) and not guarded:
            raise ValueError(
                f"SALDO_ADMIN_HOST={self.admin_host} is not a loopback address: set SALDO_ADMIN_TLS_CERTIFICATE, "
                "SALDO_ADMIN_TLS_KEY and SALDO_ADMIN_TOKEN, or listen on 127.0.0.1"
            )
        return self


def is_loopback(host: str) -> bool:
    """True for an address that only this machine can reach."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Settings of orders, from the environment (`ORDERS_…`)."""

from datetime import timedelta
from typing import final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


@final
class OrdersSettings(BaseSettings):
    """How long the clock waits before it asks or tidies up. It never gives stock back."""

    model_config = SettingsConfigDict(env_prefix="ORDERS_", frozen=True)

    payment_margin_s: float = Field(
        default=3600, gt=0, description="Past a marketplace's deadline for payment plus this, the sale is asked for."
    )
    payment_default_h: float = Field(
        default=7 * 24, gt=0, description="Deadline, from the sale, where the marketplace names none."
    )
    payment_interval_s: float = Field(default=3600, gt=0, description="At most one question per order in this time.")
    close_after_h: float = Field(
        default=60 * 24, gt=0, description="A delivered, cancelled or returned order is closed after this silence."
    )
    poll_interval_s: float = Field(default=15, gt=0, description="Pause between two looks at the deadlines.")
    recent: int = Field(
        default=5_000, ge=0, description="Orders waiting for an answer that a process keeps in memory, 12 KB each."
    )
    page: int = Field(default=200, gt=0, le=1000, description="Orders handled in one transaction of a loop.")

    @property
    def payment_margin(self) -> timedelta:
        """`payment_margin_s` as a duration."""
        return timedelta(seconds=self.payment_margin_s)

    @property
    def payment_default(self) -> timedelta:
        """`payment_default_h` as a duration."""
        return timedelta(hours=self.payment_default_h)

    @property
    def payment_interval(self) -> timedelta:
        """`payment_interval_s` as a duration."""
        return timedelta(seconds=self.payment_interval_s)

    @property
    def close_after(self) -> timedelta:
        """`close_after_h` as a duration."""
        return timedelta(hours=self.close_after_h)

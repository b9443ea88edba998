"""Settings of orders, from the environment (`ORDERS_…`)."""

from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from typing import Literal, final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


@final
class OrdersSettings(BaseSettings):
    """How long the clock waits before it asks, does the default of a stage, or tidies up.

    It never gives back the stock of a marketplace's order. The lengths of stages are named by their rows in STAGES.
    """

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
    story_keep_days: int = Field(default=400, gt=0, description="The story of an order is kept so long once closed.")
    answer_s: float = Field(
        default=60, gt=0, description="Inventory is silent for this long: the demand is sent again."
    )
    hold_grace_s: float = Field(
        default=60, gt=0, description="Money on its way when the hold of an own sale ends has this long to arrive."
    )
    mapping_h: float = Field(default=4, gt=0, description="A line or a status without mapping is urgent after this.")
    cancel_request_h: float = Field(
        default=24, gt=0, description="A request to cancel that nobody answers: cancelled, or shipped if it is packed."
    )
    short_h: float = Field(default=48, gt=0, description="Stock is missing for this long: `short_default` is done.")
    short_default: Literal["wait", "cancel"] = Field(
        default="wait", description="What becomes of a marketplace's order whose stock does not come."
    )
    invoice_h: float = Field(default=24, gt=0, description="An invoice is missing for this long: a person is told.")
    invoice_cancel_h: float = Field(
        default=24, gt=0, description="From an invoice's issue: so long the law lets it be cancelled."
    )
    ship_margin_h: float = Field(
        default=4, gt=0, description="So long before the order must ship a missing invoice is told of at the latest."
    )
    prepare_h: float = Field(default=24, gt=0, description="From ready to packed; then parcels are asked for again.")
    dispatch_h: float = Field(default=24, gt=0, description="From packed to collected; then a person is told.")
    delivery_h: float = Field(default=30 * 24, gt=0, description="From collected to delivered; then a person is told.")
    lost_h: float = Field(
        default=72, gt=0, description="A person's time for a parcel that its carrier lost; then it is refunded."
    )
    withdrawal_h: float = Field(
        default=8 * 24,
        ge=0,
        description="An order of the own shop that comes back whole this soon after its delivery has its freight given "
        "back, too; 0: never. Seven days by law, without the day of delivery.",
    )
    compensate_s: float = Field(
        default=300, gt=0, description="A parcel is not stopped or money not given back: it is asked for again."
    )
    usual_s: float = Field(
        default=900, gt=0, description="An order that is confirmed this long after its placing gets its deadline."
    )
    poll_interval_s: float = Field(default=15, gt=0, description="Pause between two looks at the deadlines.")
    recent: int = Field(
        default=5_000, ge=0, description="Orders waiting for an answer that a process keeps in memory, 12 KB each."
    )
    page: int = Field(default=200, gt=0, le=1000, description="Orders handled in one transaction of a loop.")

    @cached_property
    def lengths(self) -> Mapping[str, timedelta]:
        """Every length of time by the name of its setting."""
        units = {"h": 3600, "s": 1}
        return {
            name: timedelta(seconds=value * units[name[-1]])
            for name, value in self
            if name.endswith(("_h", "_s")) and isinstance(value, float | int)
        }

    @property
    def payment_margin(self) -> timedelta:
        """`payment_margin_s` as a duration."""
        return timedelta(seconds=self.payment_margin_s)

    @property
    def payment_interval(self) -> timedelta:
        """`payment_interval_s` as a duration."""
        return timedelta(seconds=self.payment_interval_s)

    @property
    def close_after(self) -> timedelta:
        """`close_after_h` as a duration."""
        return timedelta(hours=self.close_after_h)

    @property
    def story_kept(self) -> timedelta:
        """`story_keep_days` as a duration."""
        return timedelta(days=self.story_keep_days)

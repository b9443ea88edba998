"""What the stock side can be told by its environment."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class StockSettings(BaseSettings):
    """Paces and limits of the stock sender and the reconciliation (`SALDO_STOCK_*`).

    `spacing_ms`: the least time between two writes of one record; the first goes at once. `low_stock`: at this many
    units or fewer a record is urgent, and read before it is written where the channel does not compare. `risk_max`:
    the same where more than so many own sales are likely unheard. `late_execution_s`: a request without an answer may
    be executed this long after its deadline. `brake_share`: a mass change of more than this share of a connection's
    records within `brake_window_s` waits for a person. Measures are kept for `measures_keep_days`, which is looked at
    every `prune_every_s`.
    """

    model_config = SettingsConfigDict(env_prefix="SALDO_STOCK_", extra="ignore")

    spacing_ms: Annotated[int, Field(ge=0)] = 200
    low_stock: Annotated[int, Field(ge=0)] = 5
    risk_max: Annotated[float, Field(gt=0)] = 0.2
    reads_max: Annotated[int, Field(gt=0)] = 5
    late_execution_s: Annotated[float, Field(ge=0)] = 6.0
    brake_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    brake_window_s: Annotated[float, Field(gt=0)] = 600.0
    reconcile_every_s: Annotated[float, Field(gt=0)] = 1.0
    reconcile_batch_max: Annotated[int, Field(gt=0)] = 20
    reread_after_s: Annotated[float, Field(gt=0)] = 900.0
    measures_keep_days: Annotated[float, Field(gt=0)] = 60
    prune_every_s: Annotated[float, Field(gt=0)] = 3600.0

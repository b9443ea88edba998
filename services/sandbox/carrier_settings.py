"""What a carrier's account can be told."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.sandbox.vices import Vice

DAY_MS: Final = 86_400_000


class CarrierVices(BaseModel):
    """All habits of a carrier.

    buy_timeout: a cart or checkout call is executed at once and never answered (504 after 30 s). buy_late: it is
    executed and answered min_ms..max_ms later, also when its client has gone by then. quote_slow: a quotation waits
    min_ms..max_ms. label_missing: the address of a printed label answers 404 for min_ms..max_ms (5 s when both are 0).
    webhook_late, webhook_reordered, webhook_duplicate, webhook_missing: as for a shop. webhook_foreign_signature:
    signed with a secret that is not the account's. Drawn when a parcel sets off: lost: it vanishes on its way.
    returned: nobody opens, it comes back. scan_going_back: later scans tell of an earlier status, the last one after
    delivery.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    buy_timeout: Vice | None = None
    buy_late: Vice | None = None
    quote_slow: Vice | None = None
    label_missing: Vice | None = None
    webhook_late: Vice | None = None
    webhook_reordered: Vice | None = None
    webhook_duplicate: Vice | None = None
    webhook_missing: Vice | None = None
    webhook_foreign_signature: Vice | None = None
    lost: Vice | None = None
    returned: Vice | None = None
    scan_going_back: Vice | None = None


class CarrierService(BaseModel):
    """One service with its tariff: a base, so much for each kilogram begun, so much for each region on the way."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[int, Field(gt=0)]
    name: Annotated[str, Field(min_length=1)]
    company_id: Annotated[int, Field(gt=0)] = 1
    company: Annotated[str, Field(min_length=1)] = "Correios"
    base_minor: Annotated[int, Field(ge=0)]
    per_kg_minor: Annotated[int, Field(ge=0)]
    per_region_minor: Annotated[int, Field(ge=0)] = 150
    days_min: Annotated[int, Field(ge=0)]
    days_max: Annotated[int, Field(ge=0)]
    weight_max_g: Annotated[int, Field(gt=0)] = 30_000


SERVICES: Final = (
    CarrierService(id=1, name="PAC", base_minor=1590, per_kg_minor=290, days_min=4, days_max=8),
    CarrierService(id=2, name="SEDEX", base_minor=2490, per_kg_minor=590, days_min=1, days_max=3),
    CarrierService(
        id=3,
        name=".Package",
        company_id=2,
        company="Jadlog",
        base_minor=1790,
        per_kg_minor=240,
        days_min=3,
        days_max=6,
        weight_max_g=120_000,
    ),
)


class CarrierSettings(BaseModel):
    """One account of a carrier. What is left out at creation is drawn once and then kept.

    `kind`: Melhor Envio, or the retailer's own rates ("table": the carrier only collects, scans and delivers).
    `credentials`: client_id, client_secret (it signs the webhooks too), access_token, refresh_token. `speed`: how much
    faster than the wall clock this carrier's days pass (86,400 makes a day a second), for parcels that set off from
    then on. `auto_post`: a parcel sets off by itself `post_after_days` after its label was generated, else when the
    control interface says so. A token lives `token_life_s`. Unconfirmed in Melhor Envio's documentation, so to be
    chosen: `search_finds_tags`, whether `GET /me/orders/search` looks at the tags too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["melhorenvio", "table"] = "melhorenvio"
    credentials: dict[str, str] = {}
    token_until_ms: int = 0
    token_life_s: Annotated[int, Field(gt=0)] = 2_592_000
    services: Annotated[tuple[CarrierService, ...], Field(min_length=1)] = SERVICES
    unserved_prefixes: tuple[str, ...] = ()
    cubic_divisor: Annotated[int, Field(gt=0)] = 6000
    balance_minor: Annotated[int, Field(ge=0)] = 100_000_000
    requests_per_minute: Annotated[int, Field(gt=0)] = 250
    search_finds_tags: bool = True
    speed: Annotated[float, Field(gt=0, le=10_000_000)] = 1.0
    auto_post: bool = True
    post_after_days: Annotated[float, Field(ge=0, le=365)] = 0.5
    webhook_url: str = ""
    webhook_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    webhook_retry_s: Annotated[list[float], Field(max_length=30)] = [10, 30, 60, 300, 900]
    vices: CarrierVices = CarrierVices()
    vices_since_ms: int = 0

    @property
    def day_ms(self) -> float:
        """Milliseconds of the wall clock that one of this carrier's days takes."""
        return DAY_MS / self.speed

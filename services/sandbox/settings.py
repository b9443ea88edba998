"""What a sandbox process and each of its shops can be told."""

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.sandbox.vices import Vices


class SandboxSettings(BaseSettings):
    """The process: address, books file and the bearer token of the control interface (`SALDO_SANDBOX_*`).

    The payment gateway has a second port, for Pix over mutual TLS, and a folder of certificates: the one beside the
    books where none is named. The storefront asks the shop's API at `shop_url`, and the gateway's sandbox at
    `gateway_url` for what buyers and their banks do.
    """

    model_config = SettingsConfigDict(env_prefix="SALDO_SANDBOX_", extra="ignore")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    books: Path = Path("sandbox.sqlite")
    token: Annotated[str, Field(min_length=8)]
    pix_port: Annotated[int, Field(ge=0, le=65535)] = 0
    certificates: Path | None = None
    shop_url: str = ""
    gateway_url: str = ""

    @field_validator("host")
    @classmethod
    def _loopback_only(cls, host: str) -> str:
        # A sandbox sells without money and obeys one shared token, so no other machine may reach it.
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"a sandbox listens on a loopback address only, not on {host}; use 127.0.0.1")
        return host


class ShopLimits(BaseModel):
    """Limits of one shop; the defaults are the documented ones of a standard account.

    Shopify: a GraphQL bucket of points with a restore rate, at most `graphql_query_cost_max` points a request, and a
    REST leaky bucket. A mutation costs `graphql_mutation_cost` plus `graphql_object_cost` for each quantity in it (the
    published formula charges input objects nothing). SkyHub: requests a second, per endpoint class and method. Mercado
    Livre and VTEX publish no numbers: theirs are a rate per endpoint class, with room for twice as many at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    graphql_bucket_points: Annotated[float, Field(gt=0)] = 2000
    graphql_restore_points_per_s: Annotated[float, Field(gt=0)] = 100
    graphql_query_cost_max: Annotated[float, Field(gt=0)] = 1000
    graphql_mutation_cost: Annotated[float, Field(ge=0)] = 10
    graphql_object_cost: Annotated[float, Field(ge=0)] = 0
    graphql_input_array_max: Annotated[int, Field(gt=0)] = 250
    rest_bucket_requests: Annotated[float, Field(gt=0)] = 40
    rest_leak_requests_per_s: Annotated[float, Field(gt=0)] = 2
    skyhub_products_per_s: Annotated[int, Field(gt=0)] = 9
    skyhub_variations_per_s: Annotated[int, Field(gt=0)] = 9
    skyhub_queues_per_s: Annotated[int, Field(gt=0)] = 9
    skyhub_order_writes_per_s: Annotated[int, Field(gt=0)] = 9
    skyhub_order_reads_per_s: Annotated[int, Field(gt=0)] = 1
    skyhub_store_writes_per_s: Annotated[int, Field(gt=0)] = 9
    skyhub_other_per_s: Annotated[int, Field(gt=0)] = 1
    skyhub_batch_max: Annotated[int, Field(gt=0)] = 500
    meli_orders_per_s: Annotated[float, Field(gt=0)] = 10
    meli_shipments_per_s: Annotated[float, Field(gt=0)] = 10
    meli_stock_per_s: Annotated[float, Field(gt=0)] = 5
    meli_search_per_s: Annotated[float, Field(gt=0)] = 1
    meli_claims_per_s: Annotated[float, Field(gt=0)] = 5
    meli_feeds_per_s: Annotated[float, Field(gt=0)] = 1
    meli_token_per_s: Annotated[float, Field(gt=0)] = 1
    meli_items_per_s: Annotated[float, Field(gt=0)] = 5
    meli_reports_per_s: Annotated[float, Field(gt=0)] = 5
    vtex_feed_per_s: Annotated[float, Field(gt=0)] = 5
    vtex_orders_per_s: Annotated[float, Field(gt=0)] = 10
    vtex_stock_per_s: Annotated[float, Field(gt=0)] = 5
    vtex_reports_per_s: Annotated[float, Field(gt=0)] = 5
    vtex_other_per_s: Annotated[float, Field(gt=0)] = 5


class ShopSettings(BaseModel):
    """One shop (account) of a marketplace. What is left out at creation is drawn once and then kept.

    `locations` are the channel's location ids, the first one is the primary (Shopify: numbers as text). Credentials by
    marketplace: Shopify `access_token`, `webhook_secret`; SkyHub `user_email`, `api_key`, `accountmanager_key`; Mercado
    Livre `user_id`, `client_id`, `client_secret`, `refresh_token` (giving another one is the seller authorising again);
    VTEX `app_key`, `app_token`.

    `dispatch_h` is how long after a sale it has to be on its way (Mercado Livre and SkyHub tell that moment).

    Mercado Livre: `callback_url` is where the application's notifications go, `topics` are those it is subscribed to; a
    topic leaves the list after `topic_failures_max` failures in a row (0: never). `webhook_timeout_s` and
    `webhook_retry_s` are 0.5 s and eight tries within an hour unless given, `missed_feeds_kept_s` is how long what was
    then lost can be read. `access_token_s` is the life of an access token, `refresh_reuse_s` for how long the refresh
    token used last brings the same answer again, `invoice_first` refuses a shipment without a fiscal document.
    VTEX: `inventory_lock_s` is how long after a write another one to the same SKU and warehouse is discarded,
    `hook_silence_s` removes a hook without events, `feed_silence_s` a feed (none: its own retention).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    credentials: dict[str, str] = {}
    locations: list[str] = []
    domain: str = ""
    channel: str = "Marketplace"
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "BRL"
    first_order_id: int | None = None
    restores_on_cancel: bool = True
    dispatch_h: Annotated[float, Field(gt=0)] = 48
    queue_redelivery_ms: Annotated[int, Field(gt=0)] = 300_000
    webhook_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    webhook_retry_s: Annotated[list[float], Field(max_length=30)] = [10, 30, 60, 300, 900, 1800, 3600, 7200]
    webhook_removed_after_failures: bool = False
    callback_url: str = ""
    topics: list[str] = ["orders_v2", "shipments", "post_purchase"]
    topic_failures_max: Annotated[int, Field(ge=0)] = 0
    missed_feeds_kept_s: Annotated[float, Field(gt=0)] = 172_800
    access_token_s: Annotated[float, Field(gt=0)] = 21_600
    refresh_reuse_s: Annotated[float, Field(ge=0)] = 0
    invoice_first: bool = True
    inventory_lock_s: Annotated[float, Field(ge=0)] = 1
    hook_silence_s: Annotated[float, Field(gt=0)] = 259_200
    feed_silence_s: Annotated[float, Field(gt=0)] | None = None
    limits: ShopLimits = ShopLimits()
    vices: Vices = Vices()
    vices_since_ms: int = 0

-- The own shop: what it sells and shows, its baskets, and the keys under which its storefronts ask.

-- A product of a shop. `quantity` is what the shop shows: pushed as to any channel, and lowered by its own baskets.
CREATE TABLE shop_products (
    tenant text NOT NULL,
    connection_id text NOT NULL REFERENCES connections,
    sku text NOT NULL,
    title text NOT NULL,
    price_minor bigint NOT NULL CHECK (price_minor >= 0),
    -- A basket is opened only where all of it is shown: test_300_buyers_want_100_units.
    quantity bigint NOT NULL DEFAULT 0 CHECK (quantity >= 0),
    PRIMARY KEY (connection_id, sku)
);

-- Every change of a number of a shop, in the order of commits: its row in `shop_feeds` is locked first, so no reader
-- passes by a change that commits later (test_the_feed_has_every_change_once_in_order).
CREATE TABLE shop_feeds (
    connection_id text PRIMARY KEY REFERENCES connections,
    position bigint NOT NULL
);
CREATE TABLE shop_changes (
    connection_id text NOT NULL,
    position bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('write', 'sale', 'cancel')),
    sku text NOT NULL,
    number_before bigint NOT NULL,
    number_after bigint NOT NULL,
    external_id text NOT NULL DEFAULT '',
    line_id text NOT NULL DEFAULT '',
    request_id text NOT NULL DEFAULT '',
    price_minor bigint NOT NULL DEFAULT 0,
    at timestamptz NOT NULL,
    PRIMARY KEY (connection_id, position)
);
CREATE INDEX shop_changes_at ON shop_changes (at);

-- One row a basket, which is an order from its first second. No personal data: the buyer is sealed in `buyers`.
CREATE TABLE shop_baskets (
    order_id text PRIMARY KEY,
    tenant text NOT NULL,
    connection_id text NOT NULL REFERENCES connections,
    -- Whoever knows it may act for the buyer, so it is drawn from 128 bits and stands in no link that is passed on.
    basket_id text NOT NULL UNIQUE,
    external_id text NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'held', 'choosing', 'paying', 'placed', 'cancelled')),
    change bigint NOT NULL,
    basket jsonb NOT NULL,
    -- The gateway's token of a try to pay, sealed, until orders has told of that try.
    token bytea,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    -- Two baskets with one number would be one order: test_a_basket_is_an_order_of_its_own.
    UNIQUE (connection_id, external_id),
    CHECK (token IS NULL OR state IN ('paying', 'placed'))
);

-- What was done under a key: a second click finds the first one's basket. test_a_double_click_is_one_order.
CREATE TABLE shop_keys (
    connection_id text NOT NULL REFERENCES connections,
    key text NOT NULL,
    digest bytea NOT NULL,
    order_id text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (connection_id, key)
);
CREATE INDEX shop_keys_at ON shop_keys (at);

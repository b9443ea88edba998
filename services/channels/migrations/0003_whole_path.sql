-- Access that ends, other names of orders, and what channels were told of orders.

-- The tokens of an account whose access tokens end. The refresh token works once: it is exchanged by whoever has claimed
-- the row, and what comes back is written with the next generation in one statement.
CREATE TABLE tokens (
    connection_id text PRIMARY KEY REFERENCES connections ON DELETE CASCADE,
    sealed bytea NOT NULL,
    generation bigint NOT NULL CHECK (generation >= 0),
    renew_at timestamptz NOT NULL,
    claimed_until timestamptz,
    broken boolean NOT NULL DEFAULT false
);

-- Whether the buyer asked to be forgotten: nothing about him is kept or reported any more, however often it comes in
-- (test_what_comes_in_of_an_erased_order_is_not_kept).
ALTER TABLE intake_orders ADD COLUMN erased boolean NOT NULL DEFAULT false;

-- Names under which a channel speaks of orders beside their ids; orders that travel together share one. The row with
-- an empty `external_id` says when a name was heard last.
CREATE TABLE intake_aliases (
    connection_id text NOT NULL REFERENCES connections,
    alias text NOT NULL,
    external_id text NOT NULL,
    heard_at timestamptz NOT NULL,
    PRIMARY KEY (connection_id, alias, external_id)
);
CREATE INDEX intake_aliases_heard ON intake_aliases (heard_at);

-- What each channel has to be told of an order: the newest OrderProgress. `due_at` is set while something may be untold.
CREATE TABLE progress (
    order_id text PRIMARY KEY REFERENCES intake_orders,
    tenant text NOT NULL,
    connection_id text NOT NULL REFERENCES connections,
    revision int NOT NULL CHECK (revision > 0),
    wanted jsonb NOT NULL,
    due_at timestamptz,
    claimed_until timestamptz,
    tries int NOT NULL DEFAULT 0,
    tell_by timestamptz,
    event_id text NOT NULL,
    correlation_id text NOT NULL,
    traceparent text NOT NULL
) WITH (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
CREATE INDEX progress_due ON progress (connection_id, due_at) WHERE due_at IS NOT NULL;

-- One row a step that was begun. `going` is written before the call: a step found so may have reached the channel, which
-- is asked before it is told again (test_a_step_whose_answer_was_lost_is_looked_up_and_told_once).
CREATE TABLE progress_steps (
    order_id text NOT NULL REFERENCES progress ON DELETE CASCADE,
    step text NOT NULL,
    state text NOT NULL CHECK (state IN ('going', 'accepted', 'refused')),
    request_id text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    at timestamptz NOT NULL,
    PRIMARY KEY (order_id, step)
) WITH (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);

-- Our codes of carriers and services in a channel's own words.
CREATE TABLE mappings_out (
    connection_id text NOT NULL REFERENCES connections ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('carrier', 'service')),
    ours text NOT NULL,
    theirs text NOT NULL CHECK (theirs <> ''),
    -- Two words for one carrier would be told in turn: test_a_carrier_is_told_in_the_channels_own_word.
    PRIMARY KEY (connection_id, kind, ours)
);

-- When a channel that takes totals stopped to answer for an order's units: a number dated after that forgets them there.
ALTER TABLE own_sales ADD COLUMN released_at timestamptz;
CREATE INDEX own_sales_released ON own_sales (tenant, stock_record, sku, released_at) WHERE released_at IS NOT NULL;

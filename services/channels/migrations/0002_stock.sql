-- Tables that change with every sale are looked at by the planner's statistics seldom: each look makes every connection
-- plan its statements anew, and all of them go by key.

-- Stock records, the listings that point to them, what inventory says, and what is known of each channel's own sales.

-- The unit of writing: one number at a channel. Its row is written by the one sender or reader that holds its lease,
-- never by those who hear of something: they append to `stock_changes`, so that nobody waits for anybody's lock.
CREATE TABLE stock_records (
    tenant text NOT NULL,
    stock_record text NOT NULL,
    connection_id text NOT NULL,
    item text NOT NULL,
    location text NOT NULL,
    -- The locations of ours that this record shows; NULL: all that no channel holds.
    locations text[],
    pool text NOT NULL DEFAULT 'shared',
    restores_on_cancel boolean NOT NULL,
    sku text,
    pack int NOT NULL DEFAULT 1 CHECK (pack > 0),
    buffer int NOT NULL DEFAULT 0 CHECK (buffer >= 0),
    cap int CHECK (cap >= 0),
    wanted bigint,
    sent bigint,
    sent_at timestamptz,
    accepted bigint,
    accepted_at timestamptz,
    observed bigint,
    observed_at timestamptz,
    suspect boolean NOT NULL DEFAULT false,
    suspect_until timestamptz,
    -- The number last known to stand at the channel with the tallies captured when it was computed, and the numbers
    -- that may stand there instead because the outcome of their request is unknown.
    known jsonb,
    attempts jsonb NOT NULL DEFAULT '[]',
    -- When what `known` says of unheard sales was seen at the channel, and whether it is an upper bound.
    seen_at timestamptz,
    guessed boolean NOT NULL DEFAULT false,
    next_at timestamptz NOT NULL DEFAULT '-infinity',
    claimed_until timestamptz,
    failures int NOT NULL DEFAULT 0,
    refusal text NOT NULL DEFAULT '',
    -- Something else than a sale or a cancel changed the number, and no number approved since: only that is braked.
    other_change boolean NOT NULL DEFAULT false,
    other_change_at timestamptz,
    approved jsonb,
    PRIMARY KEY (tenant, stock_record),
    -- Two records for one number would overwrite each other for ever: test_importing_again_doubles_nothing.
    UNIQUE (tenant, connection_id, item, location)
) WITH (fillfactor = 60, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
CREATE INDEX stock_records_suspect ON stock_records (tenant, connection_id) WHERE suspect;

-- Why a record's number may have to change, in the transaction that changes what it is computed from. A record is dirty
-- while it has a row here. Whoever computes a number reads these rows in the same snapshot as everything else and, once
-- the channel shows the number, deletes exactly those it has read: rows are compared, never quantities (5, 3, 5), and a
-- change that came during the call is still here (test_a_change_during_the_call_is_sent_again).
CREATE TABLE stock_changes (
    change bigint GENERATED ALWAYS AS IDENTITY,
    tenant text NOT NULL,
    stock_record text NOT NULL,
    connection_id text NOT NULL,
    -- 0 is urgent: little or nothing is left.
    lane smallint NOT NULL CHECK (lane IN (0, 1)),
    -- Something else than a sale or a cancel.
    other boolean NOT NULL,
    -- [[event id, correlation id, traceparent], ...] as JSON: what the push goes on from.
    causes text NOT NULL DEFAULT '[]',
    changed_at timestamptz NOT NULL,
    -- Not a reason to send before: an own sale is decided a moment later, and travels with its level.
    due_at timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (tenant, stock_record, change)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
CREATE INDEX stock_changes_due ON stock_changes (tenant, connection_id, lane, change);

-- Adverts. Many may show the number of one record.
CREATE TABLE listings (
    tenant text NOT NULL,
    connection_id text NOT NULL,
    listing text NOT NULL,
    stock_record text NOT NULL,
    seller_sku text NOT NULL,
    title text NOT NULL,
    PRIMARY KEY (tenant, connection_id, listing),
    FOREIGN KEY (tenant, stock_record) REFERENCES stock_records
);
CREATE INDEX listings_record ON listings (tenant, stock_record);

-- Which physical SKUs one unit of a record takes (pack × kit component), with the record's own sales in units of the
-- SKU: `heard` taken in, `decided` by inventory, both net of cancels that the channel restored. The part of its own
-- sales that inventory has not heard of is max(0, min(unheard, unheard_until − decided)) for other records' numbers,
-- and heard − decided + slack for its own.
CREATE TABLE record_skus (
    tenant text NOT NULL,
    stock_record text NOT NULL,
    sku text NOT NULL,
    factor int NOT NULL CHECK (factor > 0),
    heard bigint NOT NULL DEFAULT 0,
    decided bigint NOT NULL DEFAULT 0,
    unheard bigint NOT NULL DEFAULT 0,
    unheard_until bigint NOT NULL DEFAULT 0,
    slack bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, stock_record, sku),
    FOREIGN KEY (tenant, stock_record) REFERENCES stock_records
) WITH (fillfactor = 60, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
CREATE INDEX record_skus_sku ON record_skus (tenant, sku);

-- The latest level of each physical SKU: counters is [[location, pool, available, held_by], ...]. `sold` counts what
-- all channels together have sold net.
CREATE TABLE levels (
    tenant text NOT NULL,
    sku text NOT NULL,
    epoch int NOT NULL,
    version bigint NOT NULL,
    counters jsonb NOT NULL,
    sold bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, sku)
) WITH (fillfactor = 60, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);

-- The latest state of each item; components is [[sku, quantity], ...], empty for what is no kit.
CREATE TABLE items (
    tenant text NOT NULL,
    sku text NOT NULL,
    epoch int NOT NULL,
    version bigint NOT NULL,
    components jsonb NOT NULL,
    PRIMARY KEY (tenant, sku)
);

-- A channel's own order lines per physical SKU, in units of the SKU: `asked` is what stands after cancels, `asked_max`
-- the most that was ever sold on the line, `decided` what inventory has reserved or found short net of releases.
CREATE TABLE own_sales (
    tenant text NOT NULL,
    order_id text NOT NULL,
    line_id text NOT NULL,
    sku text NOT NULL,
    stock_record text NOT NULL,
    revision int NOT NULL,
    asked bigint NOT NULL CHECK (asked >= 0),
    asked_max bigint NOT NULL CHECK (asked_max >= asked),
    decided bigint NOT NULL DEFAULT 0,
    -- Whether the channel still reserves the units itself.
    held boolean NOT NULL,
    sold_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    -- An own sale counts once, however often it is heard: test_an_own_sale_heard_again_counts_once.
    PRIMARY KEY (tenant, order_id, line_id, sku)
) WITH (fillfactor = 70, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
CREATE INDEX own_sales_pending ON own_sales (tenant, stock_record, sku) WHERE asked > decided;
CREATE INDEX own_sales_held ON own_sales (tenant, stock_record, sku) WHERE held;
CREATE INDEX own_sales_received ON own_sales (tenant, stock_record, received_at);

-- How long each sale took to reach each record that it did not take place on.
CREATE TABLE propagation (
    tenant text NOT NULL,
    stock_record text NOT NULL,
    sku text NOT NULL,
    order_id text NOT NULL,
    line_id text NOT NULL,
    sale_revision int NOT NULL,
    outcome text NOT NULL,
    epoch int NOT NULL,
    version bigint NOT NULL,
    sold_connection_id text NOT NULL,
    sold_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    event_id text NOT NULL,
    correlation_id text NOT NULL,
    traceparent text NOT NULL,
    settled_at timestamptz,
    unchanged boolean NOT NULL DEFAULT false,
    -- A sale is measured once at a record: test_a_level_heard_twice_counts_once.
    PRIMARY KEY (tenant, order_id, line_id, sku, stock_record, sale_revision, outcome)
) WITH (fillfactor = 70, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
CREATE INDEX propagation_open ON propagation (tenant, stock_record, sku) WHERE settled_at IS NULL;
CREATE INDEX propagation_settled ON propagation (settled_at) WHERE settled_at IS NOT NULL;

-- A connection whose mass change waits for a person. Sales and cancels pass all the same.
CREATE TABLE stock_brakes (
    tenant text NOT NULL,
    connection_id text NOT NULL,
    tripped_at timestamptz NOT NULL,
    changed int NOT NULL,
    zeroed int NOT NULL,
    records int NOT NULL,
    -- One brake a connection: test_a_mass_change_stops_and_a_sale_still_passes.
    PRIMARY KEY (tenant, connection_id)
);

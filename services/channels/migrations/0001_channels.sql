-- Connections, what came in through them, and the orders made of it.

CREATE TABLE connections (
    connection_id text PRIMARY KEY,
    tenant text NOT NULL CHECK (tenant ~ '^[a-z0-9-]{1,32}$'),
    connector text NOT NULL,
    environment text NOT NULL CHECK (environment IN ('sandbox', 'test', 'production')),
    account text NOT NULL CHECK (account <> ''),
    category text NOT NULL,
    base_url text NOT NULL,
    pool text NOT NULL DEFAULT 'shared',
    settings jsonb NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'draft' CHECK (state IN ('draft', 'validated', 'live', 'paused')),
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    validated_at timestamptz,
    -- Adding a connection again finds the first one: test_adding_a_connection_again_doubles_nothing.
    UNIQUE (tenant, connector, environment, account),
    CHECK (state = 'draft' OR validated_at IS NOT NULL)
);

-- Two connections that write one channel account would undo each other's numbers for ever:
-- test_two_connections_never_own_one_account.
CREATE UNIQUE INDEX connections_owner ON connections (connector, base_url, account) WHERE state IN ('live', 'paused');

CREATE TABLE credentials (
    connection_id text NOT NULL REFERENCES connections ON DELETE CASCADE,
    field text NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (connection_id, field)
);

-- A tenant's own key for customer_ref, so that a new encryption key never changes who a customer is.
CREATE TABLE tenant_keys (
    tenant text PRIMARY KEY,
    sealed bytea NOT NULL
);

-- Every body that came in, sealed, in the order of its arrival. Kept 30 days.
CREATE TABLE intake (
    intake_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    connection_id text NOT NULL REFERENCES connections,
    topic text NOT NULL,
    delivery_id text NOT NULL,
    event_id text NOT NULL DEFAULT '',
    fetch_seq bigint,
    sealed bytea NOT NULL,
    received_at timestamptz NOT NULL,
    traceparent text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'absorbed', 'poisoned', 'discarded')),
    error text NOT NULL DEFAULT '',
    order_id text,
    -- Saves work on redelivery, no more: absorbing the same body twice changes nothing either.
    -- test_the_same_webhook_five_times_is_one_order.
    UNIQUE (connection_id, topic, delivery_id)
) WITH (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
CREATE INDEX intake_new ON intake (intake_id) WHERE state = 'new';
CREATE INDEX intake_poisoned ON intake (intake_id) WHERE state = 'poisoned';
CREATE INDEX intake_order ON intake (order_id) WHERE order_id IS NOT NULL;
CREATE INDEX intake_received ON intake (received_at);

-- One row an external order: the lock under which its revisions are drawn. Holds no personal data.
CREATE TABLE intake_orders (
    order_id text PRIMARY KEY,
    tenant text NOT NULL,
    connection_id text NOT NULL REFERENCES connections,
    external_id text NOT NULL,
    notified_seq bigint NOT NULL DEFAULT 0,
    fetched_seq bigint NOT NULL DEFAULT 0,
    fetch_at timestamptz,
    revision int NOT NULL DEFAULT 0,
    kept_version text NOT NULL DEFAULT '',
    status text NOT NULL DEFAULT 'unknown',
    kept_digest bytea,
    snapshot jsonb,
    customer_ref text NOT NULL DEFAULT '',
    unlinked text[] NOT NULL DEFAULT '{}',
    received_at timestamptz NOT NULL,
    traceparent text NOT NULL DEFAULT '',
    -- The id is derived from the same three; two rows would be one sale reserved twice.
    -- test_two_companies_with_the_same_external_id_never_meet.
    UNIQUE (connection_id, external_id),
    CHECK (fetched_seq <= notified_seq),
    CHECK ((revision = 0) = (snapshot IS NULL))
) WITH (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
CREATE INDEX intake_orders_fetch ON intake_orders (connection_id, fetch_at) WHERE fetched_seq < notified_seq;
CREATE INDEX intake_orders_unlinked ON intake_orders USING gin (unlinked) WHERE unlinked <> '{}';

-- The row whose lock orders what is published about one customer.
CREATE TABLE customers (
    customer_ref text PRIMARY KEY,
    seen_at timestamptz NOT NULL
) WITH (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);

-- Personal data of buyers, sealed, until the order is final and some days more.
CREATE TABLE buyers (
    order_id text PRIMARY KEY REFERENCES intake_orders,
    tenant text NOT NULL,
    connection_id text NOT NULL,
    customer_ref text NOT NULL,
    sealed bytea NOT NULL,
    digest bytea NOT NULL,
    erase_at timestamptz
) WITH (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
CREATE INDEX buyers_erase ON buyers (erase_at) WHERE erase_at IS NOT NULL;

-- The newest complete read of a channel's orders: everything changed before `begun_at` has been stored, in bodies up to
-- `through_intake_id`. `open_since` is set while a process pulls, and found set after one that died.
CREATE TABLE polls (
    connection_id text PRIMARY KEY REFERENCES connections,
    open_since timestamptz,
    begun_at timestamptz,
    finished_at timestamptz,
    through_intake_id bigint,
    -- A read that ended before it began would call numbers healed that are not.
    CHECK (finished_at >= begun_at)
);

-- What a person has to look at. One open alert per matter, however often it comes up.
CREATE TABLE alerts (
    alert_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    connection_id text NOT NULL,
    kind text NOT NULL,
    subject text NOT NULL,
    text text NOT NULL,
    urgent boolean NOT NULL,
    count bigint NOT NULL DEFAULT 1,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    resolved_at timestamptz
);
CREATE UNIQUE INDEX alerts_open ON alerts (tenant, connection_id, kind, subject) WHERE resolved_at IS NULL;

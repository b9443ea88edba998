-- An order is a row: what is searched by is a column, the rest is the order itself as JSON. The sale and the demand lie
-- apart from the rest (`body`), because an answer of inventory changes neither. Rows of up to half a page are not
-- compressed: the usual one would be, with every answer. Every write of the order has a `stamp` of its own: where a row still has it,
-- the order is the one that was written (test_an_order_changed_elsewhere_is_read_again). It is analysed
-- seldom: every plan is a look-up by key.
--
-- The change that every order goes through, from placed to confirmed, touches no index and stays on its page
-- (test_confirming_an_order_touches_no_index): what is indexed does not change by it, and a page is filled by half, for
-- the orders on it to be confirmed in one transaction. Columns lie so that those that change are together: the log
-- leaves out what is the same before and after them.
CREATE TABLE orders (
    tenant text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    connection_id text COLLATE "C" NOT NULL,
    external_id text COLLATE "C" NOT NULL,
    sold_at timestamptz NOT NULL,
    sale_revision integer NOT NULL CHECK (sale_revision > 0),
    version integer NOT NULL,
    changed_at timestamptz NOT NULL,
    units_ordered bigint NOT NULL,
    units_cancelled bigint NOT NULL CHECK (units_cancelled >= 0),
    units_reserved bigint NOT NULL CHECK (units_reserved >= 0),
    units_short bigint NOT NULL CHECK (units_short >= 0),
    units_open bigint NOT NULL CHECK (units_open >= 0),
    payment_due timestamptz,
    asked_at timestamptz,
    state text COLLATE "C" NOT NULL CHECK (
        state IN ('placed', 'held', 'short', 'confirmed', 'cancelled', 'shipped', 'delivered', 'returned', 'closed')
    ),
    stamp text COLLATE "C" NOT NULL,
    body text NOT NULL,
    sale text NOT NULL,
    demand text,
    -- Its own column, because an index on `changed_at` would be written with every change.
    finished_at timestamptz GENERATED ALWAYS AS (
        CASE WHEN state IN ('cancelled', 'delivered', 'returned') THEN changed_at END
    ) STORED,
    -- Two companies with the same sale have two orders: test_two_companies_with_one_order_id_never_meet.
    PRIMARY KEY (tenant, order_id),
    -- One sale of a connection is one order, whatever id it came with: test_one_sale_cannot_become_two_orders.
    -- It does not begin as the primary key does: a plan that was made while the table was empty, and is kept, could take
    -- it for the primary key and read all orders of the company (test_an_order_is_found_by_its_key_from_the_first_plan).
    UNIQUE (external_id, connection_id, tenant),
    -- Every unit has exactly one outcome: test_a_unit_cannot_be_counted_twice.
    CHECK (units_ordered = units_cancelled + units_reserved + units_short + units_open)
) WITH (fillfactor = 50, toast_tuple_target = 4080, autovacuum_vacuum_scale_factor = 0.2,
        autovacuum_vacuum_threshold = 20000, autovacuum_analyze_scale_factor = 0.5,
        autovacuum_analyze_threshold = 50000, autovacuum_vacuum_insert_threshold = 50000);

CREATE INDEX orders_awaiting_payment ON orders (payment_due) WHERE payment_due IS NOT NULL;
CREATE INDEX orders_finished ON orders (finished_at) WHERE finished_at IS NOT NULL;

-- What a person should look at. A row goes when its reason has gone.
CREATE TABLE alerts (
    tenant text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('payment', 'mapping', 'person', 'short')),
    raised_at timestamptz NOT NULL,
    repeated_at timestamptz NOT NULL,
    times integer NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant, order_id, kind),
    FOREIGN KEY (tenant, order_id) REFERENCES orders
);

-- What channels says of its connections: the newest (epoch, version) of each.
CREATE TABLE connections (
    tenant text COLLATE "C" NOT NULL,
    connection_id text COLLATE "C" NOT NULL,
    epoch integer NOT NULL,
    version integer NOT NULL,
    connector text NOT NULL,
    account text NOT NULL,
    state text NOT NULL,
    reserves_unpaid boolean NOT NULL,
    restores_on_cancel boolean NOT NULL,
    PRIMARY KEY (tenant, connection_id)
);

-- Items, locations, the ledger with its counters, reservations, and what people commanded.
-- Every key begins with the tenant: two companies with the same SKU, order id or location never meet
-- (tests/inventory/test_handlers.py, test_two_companies_never_meet).
-- What grows with the orders is vacuumed and analysed seldom: every plan is a look-up by key, and rows are seldom changed.

CREATE TABLE items (
    tenant               text NOT NULL,
    sku                  text NOT NULL,
    epoch                integer NOT NULL DEFAULT 0,
    version              bigint NOT NULL,
    name                 text NOT NULL,
    active               boolean NOT NULL,
    unit                 text NOT NULL,
    gtin                 text,
    weight_g             integer,
    dimensions_mm        integer[],
    tax_class            text,
    component_skus       text[] NOT NULL DEFAULT '{}',
    component_quantities integer[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant, sku),
    -- A kit names a quantity for every component: without it, exploding a kit would lose one.
    CHECK (cardinality(component_skus) = cardinality(component_quantities)),
    CHECK (0 < ALL (component_quantities))
);

CREATE INDEX items_by_component ON items USING gin (component_skus) WHERE component_skus <> '{}';
-- Whether a sold SKU is a kit is asked for every sale, and few are.
CREATE INDEX items_kits ON items (tenant, sku) WHERE component_skus <> '{}';

CREATE TABLE locations (
    tenant   text NOT NULL,
    location text NOT NULL,
    name     text NOT NULL,
    held_by  text,
    priority integer NOT NULL,
    PRIMARY KEY (tenant, location)
);

-- What channels says about its connections: which pool each one draws on, for explaining a number.
CREATE TABLE connections (
    tenant        text NOT NULL,
    connection_id text NOT NULL,
    epoch         integer NOT NULL,
    version       bigint NOT NULL,
    connector     text NOT NULL,
    account       text NOT NULL,
    state         text NOT NULL,
    pool          text NOT NULL,
    PRIMARY KEY (tenant, connection_id)
);

-- The lock row of a SKU: everything of that SKU is read and written under it. The version counts decisions that changed
-- something. Not indexed beyond the key and loosely filled, so that every update stays on its page (HOT).
CREATE TABLE skus (
    tenant  text NOT NULL,
    sku     text NOT NULL,
    epoch   integer NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, sku)
) WITH (fillfactor = 60, autovacuum_analyze_threshold = 50000, autovacuum_vacuum_threshold = 5000);

-- The counters of the five accounts of a place. Stock below zero cannot be written, whatever the code decides
-- (tests/inventory/test_handlers.py, test_the_database_refuses_stock_below_zero).
CREATE TABLE stock (
    tenant    text NOT NULL,
    sku       text NOT NULL,
    location  text NOT NULL,
    pool      text NOT NULL,
    available bigint NOT NULL CHECK (available >= 0),
    reserved  bigint NOT NULL CHECK (reserved >= 0),
    shipped   bigint NOT NULL CHECK (shipped >= 0),
    damaged   bigint NOT NULL CHECK (damaged >= 0),
    inbound   bigint NOT NULL CHECK (inbound >= 0),
    PRIMARY KEY (tenant, sku, location, pool)
) WITH (fillfactor = 60, autovacuum_analyze_threshold = 50000, autovacuum_vacuum_threshold = 5000);

-- The newest demand of each order, with what led to it, so that a later event can continue its flow.
CREATE TABLE orders (
    tenant         text NOT NULL,
    order_id       text NOT NULL,
    revision       bigint NOT NULL,
    sale_revision  bigint NOT NULL,
    connection_id  text NOT NULL,
    pool           text NOT NULL,
    policy         text NOT NULL,
    all_or_nothing boolean NOT NULL,
    hold_until     timestamptz,
    expired        boolean NOT NULL DEFAULT false,
    sold_at        timestamptz NOT NULL,
    received_at    timestamptz NOT NULL,
    event_id       text NOT NULL,
    correlation_id text NOT NULL,
    traceparent    text NOT NULL,
    PRIMARY KEY (tenant, order_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.2, autovacuum_vacuum_threshold = 20000,
        autovacuum_analyze_scale_factor = 0.5, autovacuum_analyze_threshold = 50000,
        autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_vacuum_insert_threshold = 50000);

CREATE INDEX orders_by_hold ON orders (hold_until) WHERE hold_until IS NOT NULL AND NOT expired;

-- The units of an order line by where they are: missing (`short`, which lies nowhere), reserved or shipped at a place, or
-- returned to one (`available`, `damaged`, `inbound`), then with the location they had left from. A kit has one such line
-- per component, with the quantity of its day: a release follows these rows, not today's bill of materials.
CREATE TABLE reservations (
    tenant        text NOT NULL,
    order_id      text NOT NULL,
    line_id       text NOT NULL,
    sold_sku      text NOT NULL,
    sku           text NOT NULL,
    state         text NOT NULL CHECK (state IN ('short', 'reserved', 'shipped', 'available', 'damaged', 'inbound')),
    location      text NOT NULL,
    pool          text NOT NULL,
    origin        text NOT NULL,
    quantity      bigint NOT NULL CHECK (quantity >= 0),
    per_unit      integer NOT NULL CHECK (per_unit > 0),
    only_location text,
    sold_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant, order_id, line_id, sold_sku, sku, state, location, pool, origin),
    CHECK ((state = 'short') = (location = ''))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.2, autovacuum_vacuum_threshold = 20000,
        autovacuum_analyze_scale_factor = 0.5, autovacuum_analyze_threshold = 50000,
        autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_vacuum_insert_threshold = 50000);

CREATE INDEX reservations_short ON reservations (tenant, sku, sold_at) WHERE state = 'short' AND quantity > 0;
CREATE INDEX reservations_open ON reservations (tenant, sku) WHERE state = 'reserved' AND quantity > 0;

-- The ledger, append-only. The id is a hash of tenant, cause, line, SKU and both accounts, so that the key makes a
-- movement unique by what it is: an event that were applied twice would fail here
-- (tests/inventory/test_handlers.py, test_the_database_refuses_a_movement_booked_twice).
-- `effective_at` is set for counts and adjustments: what they correct had happened by then.
CREATE TABLE movements (
    movement_id   uuid PRIMARY KEY,
    tenant        text NOT NULL,
    sku           text NOT NULL,
    from_location text NOT NULL,
    from_pool     text NOT NULL,
    from_state    text NOT NULL,
    to_location   text NOT NULL,
    to_pool       text NOT NULL,
    to_state      text NOT NULL,
    quantity      bigint NOT NULL CHECK (quantity > 0),
    cause         text NOT NULL,
    line          text NOT NULL,
    epoch         integer NOT NULL,
    sku_version   bigint NOT NULL,
    at            timestamptz NOT NULL,
    effective_at  timestamptz
) WITH (autovacuum_analyze_scale_factor = 0.5, autovacuum_analyze_threshold = 50000,
        autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_vacuum_insert_threshold = 50000);

CREATE INDEX movements_by_sku ON movements (tenant, sku, epoch, sku_version);

-- What people commanded and what became of it, for ever: a command repeated after any time books nothing twice
-- (tests/inventory/test_handlers.py, test_a_command_repeated_books_nothing_twice).
CREATE TABLE stock_commands (
    tenant     text NOT NULL,
    command_id text NOT NULL,
    kind       text NOT NULL,
    sku        text NOT NULL,
    booked     boolean NOT NULL,
    outcome    text NOT NULL,
    at         timestamptz NOT NULL,
    PRIMARY KEY (tenant, command_id)
);

-- Opening stock is taken on once per SKU and location; a count older than the newest one changes nothing.
CREATE TABLE stocktakings (
    tenant     text NOT NULL,
    sku        text NOT NULL,
    location   text NOT NULL,
    opened_by  text,
    counted_at timestamptz,
    PRIMARY KEY (tenant, sku, location)
);

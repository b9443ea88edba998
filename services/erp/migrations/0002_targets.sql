-- What goes on to a company's own ERP, and what comes from it.

-- When the goods of an order were said to have left: it is then that its sale is booked elsewhere.
ALTER TABLE orders ADD COLUMN left_at timestamptz;
CREATE INDEX orders_left ON orders (tenant, left_at) WHERE left_at IS NOT NULL;

-- Items as inventory has them: what the ERP's products are compared with.
CREATE TABLE items (
    tenant text COLLATE "C" NOT NULL,
    sku text COLLATE "C" NOT NULL,
    epoch integer NOT NULL,
    version integer NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (tenant, sku)
);

-- A company's ERP. User and password are sealed. `told` is what came of the last look, as JSON, for people.
CREATE TABLE targets (
    tenant text COLLATE "C" NOT NULL,
    target text COLLATE "C" NOT NULL CHECK (target = 'tryton'),
    environment text NOT NULL CHECK (environment IN ('sandbox', 'test', 'production')),
    base_url text NOT NULL,
    database text NOT NULL,
    warehouse text NOT NULL,
    login_sealed bytea NOT NULL,
    -- Orders that left before are not booked: whoever changes over has them in the ERP already.
    since timestamptz NOT NULL,
    items_due_at timestamptz NOT NULL,
    paused_until timestamptz NOT NULL,
    looked_at timestamptz,
    told text NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant, target)
);

-- What is booked in an ERP: the sale of an order. A row is `going` while its outcome may be unknown, and nobody else takes
-- it before `due_at`: test_who_comes_second_leaves_a_lot_alone. Whoever takes it then asks the ERP first.
CREATE TABLE bookings (
    tenant text COLLATE "C" NOT NULL,
    target text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('wanted', 'going', 'booked', 'rejected')),
    reference text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    tries integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    -- An order is one sale there, however often it is heard to have left: test_a_second_run_changes_nothing.
    PRIMARY KEY (tenant, target, order_id),
    FOREIGN KEY (tenant, target) REFERENCES targets,
    FOREIGN KEY (tenant, order_id) REFERENCES orders
);
CREATE INDEX bookings_due ON bookings (tenant, target, due_at) WHERE state IN ('wanted', 'going');

-- The command that was sent last for a product, so that it is not sent again until inventory has answered with its item.
CREATE TABLE sent_items (
    tenant text COLLATE "C" NOT NULL,
    target text COLLATE "C" NOT NULL,
    sku text COLLATE "C" NOT NULL,
    command_id text NOT NULL,
    PRIMARY KEY (tenant, target, sku),
    FOREIGN KEY (tenant, target) REFERENCES targets
);
CREATE INDEX documents_over ON documents (keep_until);

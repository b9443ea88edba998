-- What is known of a person is sealed; what is searched by is a fingerprint under a key of the company's own.

-- The key of a company's fingerprints, sealed. Lost, nobody is recognised any more: it is made once.
CREATE TABLE tenant_keys (
    tenant text COLLATE "C" PRIMARY KEY,
    sealed bytea NOT NULL
);

-- A row a reference of a channel. `stands_for` is the customer that it is part of, `seq` is its age: the eldest goes on.
CREATE TABLE customers (
    tenant text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    customer_ref text COLLATE "C" NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    version integer NOT NULL DEFAULT 0 CHECK (version >= 0),
    stands_for text COLLATE "C" NOT NULL,
    -- The merge that a person has parted it by.
    apart text COLLATE "C" NOT NULL DEFAULT '',
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, customer_id),
    -- One reference is one person, however often it is heard: test_a_buyer_reported_again_is_no_new_customer.
    UNIQUE (tenant, customer_ref),
    -- Nobody is part of who is gone: test_nobody_stands_for_who_is_gone.
    FOREIGN KEY (tenant, stands_for) REFERENCES customers DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX customers_standing ON customers (tenant, stands_for);
CREATE INDEX customers_seen ON customers (seen_at);

-- What a reference was seen with.
CREATE TABLE keys (
    tenant text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('document', 'email', 'phone')),
    key bytea NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    added_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, kind, key, customer_id),
    FOREIGN KEY (tenant, customer_id) REFERENCES customers ON DELETE CASCADE
);
CREATE INDEX keys_of_customer ON keys (tenant, customer_id);

-- An order and its buyer as the newest report told him, sealed. Either may be heard of first.
CREATE TABLE orders (
    tenant text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    customer_ref text COLLATE "C" NOT NULL,
    connection_id text COLLATE "C",
    contact_allowed boolean NOT NULL DEFAULT false,
    sale_revision integer NOT NULL DEFAULT -1,
    reported_at timestamptz,
    sealed bytea,
    PRIMARY KEY (tenant, order_id)
);
CREATE INDEX orders_of_ref ON orders (tenant, customer_ref);

-- The timeline: by order, so that it stays with its reference whoever stands for that. `what` names no person.
CREATE TABLE events (
    tenant text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    kind text COLLATE "C" NOT NULL,
    what jsonb NOT NULL,
    -- An event is in the timeline once: test_a_copy_of_an_event_is_told_once.
    PRIMARY KEY (tenant, event_id)
);
CREATE INDEX events_of_order ON events (tenant, order_id);

-- Pairs that may be one. An open row follows from what is known and goes with its reason; a person's no stays.
CREATE TABLE reviews (
    tenant text COLLATE "C" NOT NULL,
    review_id text COLLATE "C" NOT NULL,
    one text COLLATE "C" NOT NULL,
    other text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'kept')),
    at timestamptz NOT NULL,
    PRIMARY KEY (tenant, review_id),
    -- Nobody is asked twice about one pair: test_a_pair_kept_apart_is_not_asked_again.
    UNIQUE (tenant, one, other),
    FOREIGN KEY (tenant, one) REFERENCES customers ON DELETE CASCADE,
    FOREIGN KEY (tenant, other) REFERENCES customers ON DELETE CASCADE
);
CREATE INDEX reviews_of_other ON reviews (tenant, other);

-- Every merge, with the references that went (`members`, by their own customers), so that undoing it is exact.
CREATE TABLE merges (
    tenant text COLLATE "C" NOT NULL,
    merge_id text COLLATE "C" NOT NULL,
    kept text COLLATE "C" NOT NULL,
    gone text COLLATE "C" NOT NULL,
    members text[] COLLATE "C" NOT NULL,
    decided_by text NOT NULL CHECK (decided_by IN ('keys', 'review')),
    at timestamptz NOT NULL,
    undone_at timestamptz,
    PRIMARY KEY (tenant, merge_id),
    FOREIGN KEY (tenant, kept) REFERENCES customers ON DELETE CASCADE,
    FOREIGN KEY (tenant, gone) REFERENCES customers ON DELETE CASCADE
);
-- Who is part of another cannot become part of a third: test_the_newest_merge_is_the_one_that_stands.
CREATE UNIQUE INDEX merges_standing ON merges (tenant, gone) WHERE undone_at IS NULL;
CREATE INDEX merges_of_kept ON merges (tenant, kept);

-- Pairs that a person has joined.
CREATE TABLE links (
    tenant text COLLATE "C" NOT NULL,
    one text COLLATE "C" NOT NULL,
    other text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (tenant, one, other),
    FOREIGN KEY (tenant, one) REFERENCES customers ON DELETE CASCADE,
    FOREIGN KEY (tenant, other) REFERENCES customers ON DELETE CASCADE
);
CREATE INDEX links_of_other ON links (tenant, other);

-- What a customer said, kept with the reference that stood for him then.
CREATE TABLE consents (
    tenant text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    purpose text COLLATE "C" NOT NULL,
    granted boolean NOT NULL,
    source text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (tenant, customer_id, purpose),
    FOREIGN KEY (tenant, customer_id) REFERENCES customers ON DELETE CASCADE
);

-- What an order left at erp that the law keeps.
CREATE TABLE invoices (
    tenant text COLLATE "C" NOT NULL,
    document_id text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    issued_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, document_id)
);
CREATE INDEX invoices_of_order ON invoices (tenant, order_id);

-- Erased references and orders as fingerprints: what was on its way when they went is not taken in again.
CREATE TABLE erased (
    tenant text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('ref', 'order')),
    key bytea NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (tenant, kind, key)
);

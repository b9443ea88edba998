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

-- Names under which a channel speaks of an order beside its id. Without `order_id`: a name was heard before its order.
CREATE TABLE intake_aliases (
    connection_id text NOT NULL REFERENCES connections,
    alias text NOT NULL,
    external_id text,
    heard_at timestamptz NOT NULL,
    -- A name that meant two orders would have the wrong one read again: test_an_alias_means_one_order.
    PRIMARY KEY (connection_id, alias)
);
CREATE INDEX intake_aliases_waiting ON intake_aliases (heard_at) WHERE external_id IS NULL;

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

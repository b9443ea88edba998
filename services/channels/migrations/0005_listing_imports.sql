-- The reading of a connection's adverts, the newest one. It goes on from here after whatever stopped it.
CREATE TABLE listing_imports (
    connection_id text PRIMARY KEY REFERENCES connections,
    tenant text NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'done', 'failed')),
    listings bigint NOT NULL DEFAULT 0,
    linked bigint NOT NULL DEFAULT 0,
    -- Tries in a row that brought nothing, and why the last one ended.
    tries integer NOT NULL DEFAULT 0,
    error text NOT NULL DEFAULT '',
    started_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    finished_at timestamptz,
    due_at timestamptz NOT NULL,
    -- Whoever has not this claim any more writes nothing: test_an_import_is_one_processs_at_a_time.
    claim bigint NOT NULL DEFAULT 0,
    claimed_until timestamptz,
    CHECK ((state = 'running') = (finished_at IS NULL))
);
CREATE INDEX listing_imports_due ON listing_imports (due_at) WHERE state = 'running';

-- What an import that runs has kept already. An advert is counted once, however often the import is begun anew:
-- test_a_killed_import_asks_for_the_rest_alone.
CREATE TABLE listing_imports_kept (
    connection_id text NOT NULL REFERENCES listing_imports,
    listing text NOT NULL,
    PRIMARY KEY (connection_id, listing)
);

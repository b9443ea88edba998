CREATE TABLE accounts (account text PRIMARY KEY, balance bigint NOT NULL DEFAULT 0, version bigint NOT NULL DEFAULT 0);
CREATE TABLE entries (
    entry    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account  text NOT NULL,
    amount   bigint NOT NULL,
    event_id text NOT NULL
);

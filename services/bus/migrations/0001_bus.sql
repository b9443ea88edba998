-- What every service's database holds for the bus. Runs before the service's own migrations.

-- One row per event that took effect. The day of the event's own time is part of the key because PostgreSQL wants the
-- partition column in it; it is the same in every copy of an event, so a duplicate meets the same key.
-- Prevents: an effect twice (tests/bus/test_consume.py).
CREATE TABLE inbox (
    day      date NOT NULL,
    consumer text NOT NULL,
    source   text NOT NULL,
    id       text NOT NULL,
    PRIMARY KEY (day, consumer, source, id)
) PARTITION BY RANGE (day);

-- What is still to be sent. A row is a pack: the records that one transaction published on one topic for the keys of one
-- slot, in order, so that a batch of a thousand records costs a few rows and one index entry each. `seq` is drawn one by
-- one (cache 1) while the row locks of the aggregates are held, hence per key: order of rows = order of commits.
-- `slot` is the key's CRC-32 modulo 24: shard n of N sends the slots with slot % N = n, so that rows written under
-- another number of shards neither change places nor stay behind (tests/bus/test_relay.py).
-- `records` is an LZ4 block with 0xFF between records; a record has 0x00 between its key, the values of its headers in
-- the order of `HEADERS` of the contracts, empty where absent, and its payload.
CREATE TABLE outbox (
    seq        bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
    topic      text        NOT NULL,
    slot       smallint    NOT NULL,
    personal   boolean     NOT NULL,
    count      integer     NOT NULL CHECK (count > 0),
    records    bytea       STORAGE EXTERNAL NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0,
        autovacuum_analyze_threshold = 50000, autovacuum_vacuum_insert_scale_factor = 0);

-- What was sent, kept for `republish`; never personal data. Whole days are dropped.
CREATE TABLE outbox_sent (
    seq        bigint      NOT NULL,
    topic      text        NOT NULL,
    slot       smallint    NOT NULL,
    count      integer     NOT NULL,
    records    bytea       STORAGE EXTERNAL NOT NULL,
    created_at timestamptz NOT NULL,
    day        date        NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
    sent_at    timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (day);

-- An aggregate whose events wait. Consumers lock it FOR SHARE before they look away, draining locks it FOR UPDATE.
CREATE TABLE parked_keys (
    consumer text        NOT NULL,
    key      text        NOT NULL,
    since    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, key)
);

-- UNIQUE prevents a redelivered record from waiting twice (tests/bus/test_parking.py). `arrival` is the order of the log.
CREATE TABLE parked (
    arrival        bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
    consumer       text        NOT NULL,
    key            text        NOT NULL,
    source         text        NOT NULL,
    id             text        NOT NULL,
    stream         text        NOT NULL,
    partition      integer     NOT NULL,
    "offset"       bigint      NOT NULL,
    record         bytea       NOT NULL,
    correlation_id text        NOT NULL,
    arrived_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (consumer, source, id),
    FOREIGN KEY (consumer, key) REFERENCES parked_keys
);
CREATE INDEX ON parked (consumer, key, arrival);

-- `record` is the whole record (key, headers, value), encrypted on streams with personal data, NULL once erased.
-- UNIQUE prevents one record from becoming two dead letters, decodable or not, and one letter from hiding what a topic
-- made anew has at the same offset (tests/bus/test_parking.py). A record without a readable event id has the digest of
-- the whole record in its place.
CREATE TABLE dead_letters (
    id             text PRIMARY KEY,
    consumer       text        NOT NULL,
    stream         text        NOT NULL,
    partition      integer     NOT NULL,
    "offset"       bigint      NOT NULL,
    key            text,
    aggregate      text,
    event_id       text        NOT NULL,
    type           text,
    tenant         text,
    error          text        NOT NULL,
    attempts       integer     NOT NULL DEFAULT 1,
    first_at       timestamptz NOT NULL DEFAULT now(),
    last_at        timestamptz NOT NULL DEFAULT now(),
    state          text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replayed', 'discarded')),
    reason         text        NOT NULL DEFAULT '',
    traceparent    text        NOT NULL DEFAULT '',
    correlation_id text        NOT NULL DEFAULT '',
    record         bytea,
    UNIQUE (consumer, stream, partition, "offset", event_id)
);
-- A parked aggregate has one head: two open ones would race for the order (tests/bus/test_parking.py). `aggregate` is
-- NULL where nothing is parked.
CREATE UNIQUE INDEX dead_letters_head ON dead_letters (consumer, aggregate) WHERE state = 'open' AND aggregate IS NOT NULL;

-- A consumer that met too much poison stays stopped until another build starts or a person resumes it.
CREATE TABLE brakes (
    consumer   text        NOT NULL,
    stream     text        NOT NULL,
    build      text        NOT NULL,
    reason     text        NOT NULL,
    engaged_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, stream)
);

-- How far the announcement of a state stream has come. `cursor` is NULL while none is under way.
CREATE TABLE announcements (
    stream   text PRIMARY KEY,
    tenant   text,
    cursor   text,
    pages    integer     NOT NULL DEFAULT 0,
    ended_at timestamptz NOT NULL DEFAULT now()
);

-- The probe that tells a bad record from a bad database: it has to be able to write.
CREATE TABLE probe (
    id integer PRIMARY KEY,
    at timestamptz NOT NULL
);

-- Partitions of `parent` for every day of [first, last]; whole days before `first` are dropped. Rows are only added to
-- them and found by their key, so vacuum and analyze have next to nothing to do there.
CREATE FUNCTION keep_days(parent text, first date, last date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    day  date;
    part text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('keep_days'));
    FOR day IN SELECT generate_series(first, last, interval '1 day')::date LOOP
        part := parent || to_char(day, '_YYYYMMDD');
        IF to_regclass(part) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L) WITH ('
                'autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 1, '
                'autovacuum_analyze_threshold = 50000)',
                part, parent, day, day + 1);
        END IF;
    END LOOP;
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = parent::regclass AND right(c.relname, 8) < to_char(first, 'YYYYMMDD')
    LOOP
        EXECUTE format('DROP TABLE %I', part);
    END LOOP;
END $$;

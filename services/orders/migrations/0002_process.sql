-- The process of an order beside its stock: its own column, written only when it changes, and empty for most sales until
-- they have their invoice. `deadline_at` is when its stage has lasted too long. An order on its usual way, placed and
-- then confirmed, has none, so that confirming touches no index: who stays there too long is found by `placed_at`, which
-- never changes and whose index takes a page a megabyte.
ALTER TABLE orders
    ADD process text,
    ADD deadline_at timestamptz,
    ADD placed_at timestamptz NOT NULL DEFAULT now(),
    ADD confirmed_at timestamptz,
    -- Of the first event: the parent of what a timer sends (test_what_a_timer_sends_is_in_the_trace_of_its_sale).
    ADD traceparent text COLLATE "C" NOT NULL DEFAULT '',
    DROP CONSTRAINT orders_state_check,
    ADD CONSTRAINT orders_state_check CHECK (
        state IN ('placed', 'held', 'short', 'confirmed', 'invoiced', 'packed', 'cancelling', 'cancelled', 'shipped',
                  'delivered', 'returned', 'closed')
    );
ALTER TABLE orders ALTER placed_at DROP DEFAULT;
-- A confirmed order takes some 200 bytes more than a placed one: pages filled by half had no room for all of theirs.
ALTER TABLE orders SET (fillfactor = 45);

CREATE INDEX orders_deadline ON orders (deadline_at) WHERE deadline_at IS NOT NULL;
CREATE INDEX orders_placed ON orders USING brin (placed_at) WITH (autosummarize = on);

-- Up to which moment of placing each state was looked through for orders that stay in it too long.
CREATE TABLE looked (
    state text COLLATE "C" PRIMARY KEY,
    upto timestamptz NOT NULL
);

ALTER TABLE alerts
    DROP CONSTRAINT alerts_kind_check,
    ADD CONSTRAINT alerts_kind_check CHECK (
        kind IN ('payment', 'mapping', 'person', 'short', 'silent', 'invoice', 'cancel_invoice', 'shipping', 'lost',
                 'compensate', 'dispute', 'unpaid', 'telling')
    );

-- What happened to an order, but for its placing and its confirming, which are in its own row: facts, commands, and what
-- channels were told. A fact has a version of its own and a command a revision, so nothing is told twice.
CREATE TABLE story (
    tenant text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    what text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    detail text NOT NULL,
    traceparent text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, order_id, version, what)
);

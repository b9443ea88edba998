-- What would stay behind without a reason: events of orders that nobody is known to have placed, and dead letters of
-- orders that are forgotten.

-- Orders of which something was heard before it was known who placed them. A row says no more than that they are looked
-- at when their time is over: by then most have been placed. test_what_nobody_placed_goes_in_time.
CREATE TABLE unplaced (
    tenant text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    heard_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, order_id)
);
CREATE INDEX unplaced_heard ON unplaced (heard_at);
INSERT INTO unplaced
SELECT tenant, order_id, now() FROM (SELECT tenant, order_id FROM events UNION SELECT tenant, order_id FROM invoices)
    AS heard WHERE NOT EXISTS (SELECT FROM orders o WHERE (o.tenant, o.order_id) = (heard.tenant, heard.order_id));

-- Forgotten orders whose dead letters are still to be erased, which happens after the commit: a process that ends in
-- between leaves the row. test_dead_letters_of_an_erased_order_are_erased_whatever_happens_in_between.
CREATE TABLE letters_due (
    tenant text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, order_id)
);

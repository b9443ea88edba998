-- Orders of erased customers that have not ended: others keep what these need, and are told to erase it when they end or
-- `until` is over (test_an_open_order_is_erased_when_it_ends). Their timelines stay until then; reports of their buyers are
-- not taken in. `version` is the customer's, the same in all rows of one.
CREATE TABLE held_orders (
    tenant text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    erased_at timestamptz NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (tenant, order_id)
);
CREATE INDEX held_orders_of_customer ON held_orders (tenant, customer_id);
CREATE INDEX held_orders_until ON held_orders (until);

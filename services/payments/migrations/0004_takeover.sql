-- What marketplaces took of their buyers: one row an order, nothing of it is asked of a gateway.
CREATE TABLE taken_over (
    tenant text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    connection_id text COLLATE "C" NOT NULL,
    order_version bigint NOT NULL,
    currency text COLLATE "C" NOT NULL,
    paid boolean NOT NULL,
    due_minor bigint NOT NULL CHECK (due_minor >= 0),
    captured_minor bigint NOT NULL,
    refunded_minor bigint NOT NULL CHECK (refunded_minor >= 0),
    version bigint NOT NULL,
    -- An order is taken over once: test_a_marketplace_s_money_is_told_once_and_booked.
    PRIMARY KEY (tenant, order_id),
    -- Nobody gets back more than was taken: test_any_order_of_facts_keeps_what_is_due.
    CHECK (refunded_minor <= captured_minor)
);

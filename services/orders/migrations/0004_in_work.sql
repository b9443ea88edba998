-- Orders that are being packed, or wait for something: few at any moment, and what people look for. A column of its own,
-- because an index on `state` would be written with every confirmation (test_confirming_an_order_touches_no_index).
ALTER TABLE orders ADD in_work text COLLATE "C" GENERATED ALWAYS AS (
    CASE WHEN state IN ('held', 'short', 'invoiced', 'packed', 'cancelling') THEN state END
) STORED;
CREATE INDEX orders_in_work ON orders (tenant, in_work, order_id) WHERE in_work IS NOT NULL;

-- When an order was closed, until its story is forgotten: what is to be forgotten is found by this and each order once.
-- An order on its way has none, so that confirming touches no index (test_confirming_an_order_touches_no_index).
ALTER TABLE orders ADD closed_at timestamptz;
UPDATE orders SET closed_at = changed_at WHERE state = 'closed';
CREATE INDEX orders_closed ON orders (closed_at) WHERE closed_at IS NOT NULL;

-- What ends is kept for some time and then forgotten, the oldest first.

-- When an order was last told of, once nothing more is due: what is forgotten of it is found by this.
ALTER TABLE progress ADD COLUMN told_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX progress_told ON progress (told_at) WHERE due_at IS NULL;
-- Its channel was told of this order and nobody remembers what of: the channel is looked at before it is told more
-- (test_what_a_channel_was_told_before_it_was_forgotten_is_not_told_again).
ALTER TABLE intake_orders ADD COLUMN told_before boolean NOT NULL DEFAULT false;

-- When the order of a basket ended; one that has not ended is kept (test_a_basket_goes_long_after_its_order_has_ended).
ALTER TABLE shop_baskets ADD COLUMN ended_at timestamptz;
UPDATE shop_baskets SET ended_at = (basket->>'ended_at')::timestamptz;
CREATE INDEX shop_baskets_ended ON shop_baskets (ended_at) WHERE ended_at IS NOT NULL;

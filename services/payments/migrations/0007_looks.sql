-- When a payment is looked at of which nothing is due: its bank may have let go of it, or its buyer disputed it, and the
-- webhook about it been lost (test_a_lapse_that_no_webhook_told_is_found).
ALTER TABLE payments ADD COLUMN look_at timestamptz;
CREATE INDEX payments_resting ON payments (look_at) WHERE look_at IS NOT NULL AND due_at IS NULL;
UPDATE payments SET look_at = now() WHERE status IN ('authorized', 'captured');

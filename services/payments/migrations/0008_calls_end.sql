-- Calls that are known to have ended, by when they did: they are forgotten after their time. One whose outcome is not
-- known is never (test_calls_are_forgotten_after_their_time_but_for_those_that_may_matter).
CREATE INDEX payment_calls_ended ON payment_calls (ended_at) WHERE outcome IN ('done', 'refused');

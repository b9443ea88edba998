-- Which invoice the step `invoice` told: another one that takes its place later is a step of its own, since a channel that
-- keeps the first has a void key (test_an_invoice_that_took_the_place_of_one_the_channel_has_calls_a_person).
ALTER TABLE progress_steps ADD COLUMN invoice_id text NOT NULL DEFAULT '';

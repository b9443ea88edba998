-- Until when a person has time, where the law or a partner sets a term; `overdue` is set, and the alert counted once more,
-- when it is over: test_an_invoice_to_cancel_has_a_term.
ALTER TABLE alerts ADD due_at timestamptz, ADD overdue boolean NOT NULL DEFAULT false;
CREATE INDEX alerts_due ON alerts (due_at) WHERE due_at IS NOT NULL AND NOT overdue;

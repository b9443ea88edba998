-- How many invoices the order has had: the newest stands, whatever date is on it
-- (test_an_invoice_may_be_dated_before_the_one_it_replaces).
ALTER TABLE documents ADD COLUMN version integer NOT NULL DEFAULT 1 CHECK (version > 0);

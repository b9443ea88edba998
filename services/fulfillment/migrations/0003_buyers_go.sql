-- A buyer goes in time where no parcel ever came of the order, too: an abandoned basket, a cancelled sale
-- (test_a_buyer_of_whom_no_parcel_came_goes_in_time).
UPDATE buyers SET erase_at = heard_at + interval '90 days' WHERE sealed IS NOT NULL AND erase_at IS NULL;

-- Two merchants at one gateway are two accounts: test_two_merchants_at_one_gateway_are_two_accounts.
ALTER TABLE gateway_accounts ADD COLUMN merchant text COLLATE "C" NOT NULL DEFAULT '';

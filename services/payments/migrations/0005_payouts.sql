-- Payouts of gateways that were read. One is read once: test_a_payout_is_told_once_and_booked.
CREATE TABLE payouts (
    account_id text COLLATE "C" NOT NULL REFERENCES gateway_accounts ON DELETE CASCADE,
    payout_id text COLLATE "C" NOT NULL,
    read_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, payout_id)
);

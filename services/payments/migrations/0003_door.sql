-- What a gateway said by webhook, so that the same is not heard twice. `strangers` are references of no payment of ours.
CREATE TABLE hints (
    account_id text COLLATE "C" NOT NULL REFERENCES gateway_accounts ON DELETE CASCADE,
    delivery_id text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    received_at timestamptz NOT NULL,
    strangers text[] NOT NULL,
    -- A webhook that is sent again is one webhook: test_a_replayed_webhook_is_absorbed.
    PRIMARY KEY (account_id, delivery_id)
);

CREATE INDEX hints_received ON hints (received_at);
CREATE INDEX hints_strangers ON hints (tenant, received_at) WHERE strangers <> '{}';

-- What a person has to see to.
ALTER TABLE payments ADD COLUMN concern text;
CREATE INDEX payments_concern ON payments (tenant) WHERE concern IS NOT NULL;

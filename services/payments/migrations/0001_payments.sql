-- A payment is a row: what is searched by or must hold is a column, the rest is the payment itself as JSON.

CREATE TABLE gateway_accounts (
    account_id text COLLATE "C" PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    gateway text COLLATE "C" NOT NULL,
    environment text NOT NULL CHECK (environment IN ('sandbox', 'test', 'production')),
    base_url text NOT NULL,
    settings jsonb NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'paused'))
);

-- A new payment has one account it can go through: test_a_company_has_one_live_account_at_a_gateway.
CREATE UNIQUE INDEX gateway_accounts_live ON gateway_accounts (tenant, gateway) WHERE state = 'live';

CREATE TABLE gateway_credentials (
    account_id text COLLATE "C" NOT NULL REFERENCES gateway_accounts ON DELETE CASCADE,
    field text NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (account_id, field)
);

CREATE TABLE payments (
    tenant text COLLATE "C" NOT NULL,
    payment_id text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    account_id text COLLATE "C" NOT NULL DEFAULT '',
    reference text COLLATE "C" NOT NULL DEFAULT '',
    status text COLLATE "C" NOT NULL CHECK (
        status IN ('asked', 'open', 'pending', 'authorized', 'failed', 'voided', 'captured', 'closed')
    ),
    captured_minor bigint NOT NULL DEFAULT 0,
    refunded_minor bigint NOT NULL DEFAULT 0 CHECK (refunded_minor >= 0),
    body text NOT NULL,
    token_sealed bytea,
    due_at timestamptz,
    claim text,
    claimed_until timestamptz,
    cause_event text NOT NULL,
    cause_flow text NOT NULL,
    cause_trace text NOT NULL,
    -- Two companies with one payment id have two payments: test_two_companies_never_meet.
    PRIMARY KEY (tenant, payment_id),
    -- Nobody gets back more than was taken: test_more_than_was_taken_cannot_be_given_back.
    CHECK (refunded_minor <= captured_minor),
    -- A token is kept no longer than it can be needed: test_a_token_is_sealed_and_gone_once_charged.
    CHECK (token_sealed IS NULL OR status IN ('asked', 'open'))
);

CREATE INDEX payments_due ON payments (due_at) WHERE due_at IS NOT NULL;
-- What a gateway says about a reference is about one payment: test_a_reference_belongs_to_one_payment.
CREATE UNIQUE INDEX payments_reference ON payments (account_id, reference) WHERE reference <> '';

-- Every call of a gateway that moves or may move something, committed before it is made: what has no row was never
-- asked for, and what has one is looked for before it is asked again
-- (test_a_timeout_after_the_charge_is_one_charge).
CREATE TABLE payment_calls (
    tenant text COLLATE "C" NOT NULL,
    payment_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('open', 'charge', 'capture', 'void', 'refund')),
    n integer NOT NULL CHECK (n > 0),
    key text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    outcome text NOT NULL CHECK (outcome IN ('going', 'done', 'unknown', 'refused', 'again')),
    begun_at timestamptz NOT NULL,
    ended_at timestamptz,
    tries integer NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant, payment_id, kind, n),
    FOREIGN KEY (tenant, payment_id) REFERENCES payments
);

CREATE TABLE money_movements (
    tenant text COLLATE "C" NOT NULL,
    cause text COLLATE "C" NOT NULL,
    from_account text COLLATE "C" NOT NULL,
    to_account text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    at timestamptz NOT NULL,
    -- One capture is booked once: test_one_cause_cannot_be_booked_twice.
    PRIMARY KEY (tenant, cause),
    CHECK (from_account <> to_account)
);

CREATE TABLE money_balances (
    tenant text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    PRIMARY KEY (tenant, account, currency)
);

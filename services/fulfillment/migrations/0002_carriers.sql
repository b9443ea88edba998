-- Accounts of companies at carriers outside, with credentials sealed one by one.
CREATE TABLE carrier_accounts (
    account_id text COLLATE "C" PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    carrier text COLLATE "C" NOT NULL,
    environment text NOT NULL CHECK (environment IN ('sandbox', 'production')),
    base_url text NOT NULL,
    settings jsonb NOT NULL,
    state text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'paused')),
    -- Until when one process alone asks for new tokens: a refresh token works once
    -- (test_calls_at_once_renew_a_token_once).
    renewing_until timestamptz
);

-- Which account buys is never in doubt: test_a_company_has_one_live_account_at_a_carrier.
CREATE UNIQUE INDEX carrier_accounts_live ON carrier_accounts (tenant, carrier) WHERE state = 'live';

CREATE TABLE carrier_credentials (
    account_id text COLLATE "C" NOT NULL REFERENCES carrier_accounts,
    field text COLLATE "C" NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (account_id, field)
);

-- Who is asked about a parcel, by which word, and when next.
ALTER TABLE shipments
    ADD provider text COLLATE "C" NOT NULL DEFAULT '',
    ADD reference text COLLATE "C" NOT NULL DEFAULT '',
    ADD look_at timestamptz;
CREATE INDEX shipments_to_look_at ON shipments (look_at) WHERE look_at IS NOT NULL;
CREATE INDEX shipments_by_reference ON shipments (tenant, provider, reference) WHERE reference <> '';

-- The carrier's own name of the service that is bought.
ALTER TABLE carrier_calls ADD option text NOT NULL DEFAULT '';

-- What is printed is kept as its fields and drawn each time it is printed; a carrier's own label is kept as it came.
ALTER TABLE labels DROP CONSTRAINT labels_format_check;
ALTER TABLE labels ADD CONSTRAINT labels_format_check CHECK (format IN ('fields', 'pdf'));

-- What a delivery would cost: asked by the own shop, answered as soon as the buyer's address is there. No address here.
CREATE TABLE quotes (
    tenant text COLLATE "C" NOT NULL,
    quote_id text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    body jsonb NOT NULL,
    cause text[] NOT NULL,
    asked_at timestamptz NOT NULL,
    -- When it is worked on; null while the buyer is waited for, and once it is answered.
    due_at timestamptz,
    options jsonb,
    -- A question is answered once: test_a_quote_is_answered_once.
    PRIMARY KEY (tenant, quote_id),
    FOREIGN KEY (tenant, order_id) REFERENCES buyers,
    CHECK (options IS NULL OR due_at IS NULL)
);

CREATE INDEX quotes_of_order ON quotes (tenant, order_id);
CREATE INDEX quotes_due ON quotes (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX quotes_by_age ON quotes (asked_at);

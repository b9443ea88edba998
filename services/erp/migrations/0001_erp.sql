-- The tax ids (CNPJ) that a company issues invoices under.
CREATE TABLE companies (
    tenant text COLLATE "C" NOT NULL,
    tax_id text COLLATE "C" NOT NULL CHECK (tax_id ~ '^[0-9A-Z]{12}[0-9]{2}$'),
    PRIMARY KEY (tenant, tax_id)
);

-- Orders and payments as the journal knows them: what the next fact is compared with. The three columns of the cause are
-- the fact heard last, so that an invoice that a person gives carries on the order's own flow.
CREATE TABLE orders (
    tenant text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    body text NOT NULL,
    event_id text NOT NULL,
    correlation_id text NOT NULL,
    traceparent text NOT NULL,
    PRIMARY KEY (tenant, order_id)
);

CREATE TABLE payments (
    tenant text COLLATE "C" NOT NULL,
    payment_id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    captured_minor bigint NOT NULL,
    refunded_minor bigint NOT NULL,
    lost_minor bigint NOT NULL,
    PRIMARY KEY (tenant, payment_id)
);

-- Invoices. The XML may name the buyer: it is sealed, and kept until `keep_until` as the tax law asks.
CREATE TABLE documents (
    tenant text COLLATE "C" NOT NULL,
    document_id text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    invoice_key text COLLATE "C" NOT NULL CHECK (invoice_key ~ '^[0-9A-Z]{44}$'),
    invoice_no text NOT NULL,
    series text NOT NULL,
    total_minor bigint NOT NULL CHECK (total_minor >= 0),
    currency text NOT NULL,
    issued_at timestamptz NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('standing', 'replaced')),
    content_url text NOT NULL,
    content_sealed bytea,
    sha256 text,
    keep_until date NOT NULL,
    PRIMARY KEY (tenant, document_id),
    -- One invoice is about one order: test_one_key_never_stands_for_two_orders.
    UNIQUE (tenant, invoice_key),
    FOREIGN KEY (tenant, order_id) REFERENCES orders
);

-- An order has one invoice that stands: test_the_table_refuses_a_second_standing_invoice.
CREATE UNIQUE INDEX documents_standing ON documents (tenant, order_id) WHERE state = 'standing';

-- Only ever added to. `seq` grows in the order of commits, because whoever adds holds a lock until then: who has read up
-- to a number has missed nothing below it (test_rows_are_numbered_in_the_order_they_are_committed).
CREATE TABLE journal (
    tenant text COLLATE "C" NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    event_id text COLLATE "C" NOT NULL,
    line text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (
        kind IN ('sale', 'cancel', 'invoice', 'payment', 'refund', 'shipment', 'return', 'movement')
    ),
    order_id text COLLATE "C" NOT NULL,
    reference text COLLATE "C" NOT NULL,
    sku text COLLATE "C" NOT NULL,
    quantity bigint,
    amount_minor bigint,
    currency text NOT NULL,
    from_account text NOT NULL,
    to_account text NOT NULL,
    PRIMARY KEY (tenant, seq),
    -- An event is booked once, however often it comes: test_a_copy_of_a_fact_adds_nothing.
    UNIQUE (tenant, event_id, line)
);

-- What happens once is booked once, even where it is told again under another event: test_a_copy_of_a_fact_adds_nothing.
CREATE UNIQUE INDEX journal_once ON journal (tenant, reference, line) WHERE kind IN ('shipment', 'movement');

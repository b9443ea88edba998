-- What the catalogue says of an article's weight and size; `components` (SKU to units) make it a kit.
CREATE TABLE items (
    tenant text COLLATE "C" NOT NULL,
    sku text COLLATE "C" NOT NULL,
    epoch integer NOT NULL,
    version bigint NOT NULL,
    weight_g integer,
    dimensions_mm integer[],
    components jsonb NOT NULL,
    PRIMARY KEY (tenant, sku)
);

-- The buyer of each order that was heard of, sealed. There is a row before there is a buyer: it is the lock that every
-- change of an order's shipments takes first, so that a command and the buyer cannot pass each other unseen
-- (test_a_command_and_its_buyer_at_once_meet).
CREATE TABLE buyers (
    tenant text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    customer_ref text NOT NULL DEFAULT '',
    sale_revision integer CHECK (sale_revision >= 0),
    heard_at timestamptz,
    sealed bytea,
    -- When channels is asked for the buyer, while a shipment waits for the address.
    ask_at timestamptz,
    -- When the buyer goes, unless a parcel is still open; and that it went: an older report does not bring it back.
    erase_at timestamptz,
    erased_at timestamptz,
    cause text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant, order_id),
    -- A buyer is there wholly or not at all: test_half_a_buyer_is_refused.
    CHECK ((sealed IS NULL) = (sale_revision IS NULL) AND (sealed IS NULL) = (heard_at IS NULL))
);

CREATE INDEX buyers_to_ask ON buyers (ask_at) WHERE ask_at IS NOT NULL;
CREATE INDEX buyers_to_erase ON buyers (erase_at) WHERE erase_at IS NOT NULL;

-- A shipment is the row's `body`; what is searched by, or promised by the database, is a column.
CREATE TABLE shipments (
    tenant text COLLATE "C" NOT NULL,
    shipment_id text COLLATE "C" NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (
        state IN ('wanted', 'awaiting_address', 'to_pick', 'picked', 'packed', 'buying', 'labelled', 'stopping',
            'dispatched', 'in_transit', 'lost', 'delivered', 'returning', 'returned', 'cancelled')
    ),
    version integer NOT NULL CHECK (version >= 0),
    invoice_required boolean NOT NULL,
    invoice_key text,
    carrier text COLLATE "C" NOT NULL,
    tracking_code text COLLATE "C" NOT NULL,
    unmapped boolean NOT NULL,
    blocked text NOT NULL,
    -- What the loop that talks to carriers does next, and when.
    work text CHECK (work IN ('label', 'stop')),
    due_at timestamptz,
    cause text[] NOT NULL,
    body jsonb NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, shipment_id),
    FOREIGN KEY (tenant, order_id) REFERENCES buyers,
    CHECK ((work IS NULL) = (due_at IS NULL)),
    -- A parcel that needs an invoice has no label without its key: test_the_database_refuses_a_label_without_an_invoice.
    CHECK (
        NOT invoice_required OR invoice_key IS NOT NULL
        OR state IN ('wanted', 'awaiting_address', 'to_pick', 'picked', 'packed', 'cancelled')
    )
);

CREATE INDEX shipments_of_order ON shipments (tenant, order_id);
CREATE INDEX shipments_in_state ON shipments (tenant, state, shipment_id);
CREATE INDEX shipments_due ON shipments (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX shipments_held ON shipments (tenant) WHERE unmapped OR blocked <> '';
-- A scan belongs to one parcel: test_two_parcels_cannot_have_one_tracking_code.
CREATE UNIQUE INDEX shipments_by_tracking_code ON shipments (tenant, carrier, tracking_code) WHERE tracking_code <> '';

-- What channels call carriers and services, and what we call them; connection '' is every connection.
CREATE TABLE mappings (
    tenant text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('carrier', 'service')),
    connection_id text COLLATE "C" NOT NULL DEFAULT '',
    given text COLLATE "C" NOT NULL,
    ours text COLLATE "C" NOT NULL CHECK (ours <> ''),
    -- A name has one meaning: test_a_name_means_one_thing.
    PRIMARY KEY (tenant, kind, connection_id, given)
);

-- The retailer's own rates: what a service takes for a parcel to a range of postcodes, up to a weight.
CREATE TABLE rates (
    tenant text COLLATE "C" NOT NULL,
    carrier text COLLATE "C" NOT NULL,
    service text COLLATE "C" NOT NULL,
    from_code text COLLATE "C" NOT NULL CHECK (from_code ~ '^[0-9]{8}$'),
    to_code text COLLATE "C" NOT NULL CHECK (to_code ~ '^[0-9]{8}$'),
    up_to_g integer NOT NULL CHECK (up_to_g > 0),
    price_minor bigint NOT NULL CHECK (price_minor >= 0),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    days_min integer NOT NULL CHECK (days_min >= 0),
    days_max integer NOT NULL,
    -- A range that ends before it begins, or a promise that does, holds nothing: test_a_rate_that_makes_no_sense_is_refused.
    CHECK (from_code <= to_code AND days_min <= days_max),
    -- One price for one step of one range: test_an_import_puts_new_prices_in_the_place_of_old_ones.
    PRIMARY KEY (tenant, carrier, service, from_code, to_code, up_to_g)
);

-- Where parcels leave from: the company's own address of each location, as labels show it.
CREATE TABLE origins (
    tenant text COLLATE "C" NOT NULL,
    location text COLLATE "C" NOT NULL,
    place jsonb NOT NULL,
    PRIMARY KEY (tenant, location)
);

-- What a carrier was asked to do. The row is committed before the call, so that nothing is asked twice without looking
-- first whether it was done (test_a_purchase_without_an_answer_is_one_purchase). `serial` is the number of an own
-- tracking code: a repeated call has the same.
CREATE TABLE carrier_calls (
    tenant text COLLATE "C" NOT NULL,
    shipment_id text COLLATE "C" NOT NULL,
    n integer NOT NULL CHECK (n > 0),
    provider text NOT NULL,
    carrier text NOT NULL,
    service text NOT NULL,
    serial bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    state text NOT NULL CHECK (state IN ('going', 'done', 'refused')),
    begun_at timestamptz NOT NULL,
    ended_at timestamptz,
    PRIMARY KEY (tenant, shipment_id, n),
    FOREIGN KEY (tenant, shipment_id) REFERENCES shipments,
    CHECK ((state = 'going') = (ended_at IS NULL))
);

-- One call of a shipment at a time: test_two_purchases_of_one_shipment_at_once_are_refused.
CREATE UNIQUE INDEX carrier_calls_going ON carrier_calls (tenant, shipment_id) WHERE state = 'going';

-- Labels as they are printed, sealed, because they show the recipient. They go with the buyer.
CREATE TABLE labels (
    tenant text COLLATE "C" NOT NULL,
    label_id text COLLATE "C" NOT NULL,
    format text COLLATE "C" NOT NULL CHECK (format IN ('pdf', 'zpl')),
    order_id text COLLATE "C" NOT NULL,
    sealed bytea NOT NULL,
    made_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, label_id, format),
    FOREIGN KEY (tenant, order_id) REFERENCES buyers
);

CREATE INDEX labels_of_order ON labels (tenant, order_id);

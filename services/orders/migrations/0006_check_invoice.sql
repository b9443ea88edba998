ALTER TABLE alerts
    DROP CONSTRAINT alerts_kind_check,
    ADD CONSTRAINT alerts_kind_check CHECK (
        kind IN ('payment', 'mapping', 'person', 'short', 'silent', 'invoice', 'cancel_invoice', 'replace_invoice',
                 'check_invoice', 'intercept', 'shipping', 'lost', 'compensate', 'dispute', 'unpaid', 'telling')
    );

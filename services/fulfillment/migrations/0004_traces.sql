-- The span of the last call that has to be made again, as a traceparent: the one after it is linked to it.
ALTER TABLE shipments ADD COLUMN tried text NOT NULL DEFAULT '';

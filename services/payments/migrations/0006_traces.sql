-- The span of the last step that has to be taken again, as a traceparent: the one after it is linked to it.
ALTER TABLE payments ADD COLUMN tried text NOT NULL DEFAULT '';

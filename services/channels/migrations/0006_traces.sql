-- The span of the last try that has to be taken again, as a traceparent: the one after it is linked to it.
ALTER TABLE progress ADD COLUMN tried text NOT NULL DEFAULT '';

-- What people need of dead letters: causes that can be counted, who decided what, and what came in a letter's place.

-- `cause` is the error without what differs from record to record, so that equal causes are one group: what stands in
-- quotes, and words with a digit. `replacement` is the record that a person wrote, encrypted as `record` is; its event
-- id is `replaced_by`.
ALTER TABLE dead_letters
    ADD COLUMN cause text NOT NULL GENERATED ALWAYS AS (regexp_replace(regexp_replace(
        error, '''[^'']*''|"[^"]*"', '…', 'g'), '(?<!UTF-)\m[[:alnum:]]*\d[[:alnum:]]*([-+:][[:alnum:]]+)*', '…', 'g')
    ) STORED,
    ADD COLUMN author      text NOT NULL DEFAULT '',
    ADD COLUMN replaced_by text,
    ADD COLUMN replacement bytea,
    DROP CONSTRAINT dead_letters_state_check,
    ADD CHECK (state IN ('open', 'replayed', 'discarded', 'replaced')),
    -- Prevents a record that was put in another's place without anybody standing for it
    -- (tests/deadletters/test_letters.py).
    ADD CHECK ((state = 'replaced') = (replaced_by IS NOT NULL) AND (state <> 'replaced' OR '' NOT IN (author, reason)));

-- For the age of the oldest, asked for every 2 s.
CREATE INDEX dead_letters_open ON dead_letters (first_at) WHERE state = 'open';

-- Prevents a retention of any kind from dropping a letter: who decided it, and why, is kept
-- (tests/deadletters/test_letters.py).
CREATE FUNCTION keep_dead_letter() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'dead letters are kept: replay, replace or discard them';
END $$;
CREATE TRIGGER dead_letters_kept BEFORE DELETE ON dead_letters FOR EACH ROW EXECUTE FUNCTION keep_dead_letter();

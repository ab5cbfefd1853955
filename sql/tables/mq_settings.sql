-- No row is inserted here: a restored dump brings its own, and must not meet another.
CREATE TABLE mq_settings (
    is_only_row    boolean PRIMARY KEY DEFAULT true CHECK (is_only_row),
    dead_retention interval
);
COMMENT ON TABLE mq_settings IS 'Settings of this queue; see mq_configure.';
COMMENT ON COLUMN mq_settings.is_only_row IS 'Allows one row only.';
COMMENT ON COLUMN mq_settings.dead_retention IS 'How long dead jobs are kept; NULL: until somebody retries or clears them.';

-- Purpose: change the settings of this queue.
-- Arguments: dead_retention, how long dead jobs are kept (NULL: until they are retried or cleared).
-- Returns: nothing.
-- Locks:   the settings' row.
-- Errors:  22023 dead_retention is negative or longer than 1000 years.
-- Callers: operator.
CREATE FUNCTION mq_configure(dead_retention interval) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF dead_retention < interval '0' OR dead_retention > interval '1000 years' THEN
        PERFORM mq_refuse('22023', 'dead_retention', dead_retention::text, 'it must be NULL or between 0 and 1000 years');
    END IF;
    INSERT INTO mq_settings (dead_retention) VALUES (mq_configure.dead_retention)
    ON CONFLICT (is_only_row) DO UPDATE SET dead_retention = excluded.dead_retention;
END
$$;
COMMENT ON FUNCTION mq_configure IS 'Changes the settings of this queue.';

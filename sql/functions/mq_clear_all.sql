-- Purpose: remove all jobs.
-- Returns: nothing.
-- Locks:   all jobs and tickets, row by row, and the order of all channels: it waits for senders of
--          ordered jobs. No table lock beyond that of DELETE.
-- Errors:  none of its own.
-- Callers: operator.
CREATE FUNCTION mq_clear_all() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET jit = off
AS $$
BEGIN
    PERFORM mq_clear_jobs(NULL);
    DELETE FROM mq_claims;
END
$$;
COMMENT ON FUNCTION mq_clear_all IS 'Removes all jobs.';

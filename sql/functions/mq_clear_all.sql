-- Purpose: remove all jobs.
-- Returns: nothing.
-- Locks:   all jobs and tickets, row by row; no table lock beyond that of DELETE.
-- Errors:  none of its own.
-- Callers: operator.
CREATE FUNCTION mq_clear_all() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET jit = off
AS $$
BEGIN
    DELETE FROM mq_chains;
    DELETE FROM mq_heads;
    DELETE FROM mq_idle_channels;
    DELETE FROM mq_blocked;
    DELETE FROM mq_ready;
    DELETE FROM mq_scheduled;
    DELETE FROM mq_dead;
    DELETE FROM mq_claims;
    DELETE FROM mq_msgs;
END
$$;
COMMENT ON FUNCTION mq_clear_all IS 'Removes all jobs.';

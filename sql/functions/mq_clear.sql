-- Purpose: remove all jobs of these channel names, whatever their state.
-- Returns: nothing.
-- Locks:   the jobs' rows and tickets, and the order of the channels: it waits for senders of ordered
--          jobs to them. Reads the whole table of jobs.
-- Errors:  22004 channel_names is NULL or holds a NULL.
-- Callers: operator.
CREATE FUNCTION mq_clear(channel_names text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET jit = off
AS $$
BEGIN
    IF channel_names IS NULL THEN
        PERFORM mq_refuse('22004', 'channel_names', NULL, 'it must be an array; to clear all channels, call mq_clear_all');
    END IF;
    PERFORM mq_check_channel_names(channel_names);
    PERFORM mq_clear_jobs(channel_names);
END
$$;
COMMENT ON FUNCTION mq_clear IS 'Removes all jobs of these channel names.';

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
DECLARE
    halves CONSTANT text[] := ARRAY(
        SELECT left(mq_channel_key(c, '')::text, 18) FROM unnest(channel_names) AS c);
BEGIN
    IF channel_names IS NULL THEN
        PERFORM mq_refuse('22004', 'channel_names', NULL, 'it must be an array; to clear all channels, call mq_clear_all');
    ELSIF array_position(channel_names, NULL) IS NOT NULL THEN
        PERFORM mq_refuse('22004', format('channel_names[%s]', array_position(channel_names, NULL)), NULL,
            'every channel name must be given');
    END IF;
    -- Heads and order first: with nobody's turn to give, the jobs leave one by one without a successor.
    DELETE FROM mq_chains WHERE left(channel::text, 18) = ANY (halves);
    DELETE FROM mq_heads WHERE left(channel::text, 18) = ANY (halves);
    DELETE FROM mq_idle_channels WHERE left(channel::text, 18) = ANY (halves);
    DELETE FROM mq_blocked WHERE left(channel::text, 18) = ANY (halves);
    DELETE FROM mq_ready WHERE left(channel::text, 18) = ANY (halves);
    WITH gone AS (
        DELETE FROM mq_msgs AS job WHERE job.channel_name = ANY (channel_names)
        RETURNING job.id, coalesce(job.reserved_until, job.due_at) AS due_at, job.died_at
    ), dead AS (
        DELETE FROM mq_dead AS ticket USING gone
        WHERE ticket.died_at = gone.died_at AND ticket.id = gone.id
    )
    DELETE FROM mq_scheduled AS ticket USING gone
    WHERE ticket.due_at = gone.due_at AND ticket.id = gone.id;
END
$$;
COMMENT ON FUNCTION mq_clear IS 'Removes all jobs of these channel names.';

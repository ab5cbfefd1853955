-- Internal. Removes all jobs of these channel names (NULL: of all).
-- Locks:   the order of the channels, in the order of their keys; then the jobs, in the order of their
--          positions, in which turns are given; then their tickets.
CREATE FUNCTION mq_clear_jobs(channel_names text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET jit = off
AS $$
DECLARE
    halves CONSTANT text[] := ARRAY(
        SELECT left(mq_channel_key(c, '')::text, 18) FROM unnest(channel_names) AS c);
    closed uuid[];
    ids    uuid[];
BEGIN
    closed := ARRAY(
        SELECT channel FROM mq_chains
        WHERE channel_names IS NULL OR left(channel::text, 18) = ANY (halves)
        ORDER BY channel FOR UPDATE);
    ids := ARRAY(
        SELECT id FROM mq_msgs
        WHERE channel_names IS NULL OR channel_name = ANY (channel_names)
        ORDER BY position FOR UPDATE);
    -- No heads, no turns to give: the jobs leave one by one without a successor. Only the channels that
    -- are locked: others may have been opened since, and go on by themselves.
    DELETE FROM mq_heads WHERE channel = ANY (closed);
    DELETE FROM mq_idle_channels WHERE channel = ANY (closed);
    PERFORM mq_remove_tickets(ids);
    DELETE FROM mq_msgs WHERE id = ANY (ids);
    DELETE FROM mq_chains WHERE channel = ANY (closed);
    -- What is left here are tickets of jobs that were deleted by hand.
    DELETE FROM mq_blocked WHERE channel = ANY (closed);
END
$$;
COMMENT ON FUNCTION mq_clear_jobs IS 'Internal. Removes all jobs of these channel names, or of all.';

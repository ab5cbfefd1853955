-- Internal. Gives ordered jobs that were just written their places: the first of a channel that had none
-- becomes its head, the others are blocked behind it.
-- Arguments: ids, the jobs; opened, those of their channels that had no ordered jobs (mq_join_channels);
--          epoch, in which to issue tickets.
CREATE FUNCTION mq_place_ordered(ids uuid[], opened uuid[], epoch integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_variable
BEGIN
    WITH placed AS MATERIALIZED (
        SELECT job.*, NOT (job.channel = ANY (opened) AND job.position = min(job.position) OVER (PARTITION BY job.channel)) AS is_blocked
        FROM unnest(ids) AS mine (id)
        CROSS JOIN LATERAL (
            SELECT sent.id, sent.channel, sent.position, sent.due_at, sent.reserved_until
            FROM mq_msgs AS sent WHERE sent.id = mine.id OFFSET 0) AS job
    ), head AS (
        INSERT INTO mq_heads (channel, id)
        SELECT placed.channel, placed.id FROM placed WHERE NOT is_blocked
    ), blocked AS (
        INSERT INTO mq_blocked (channel, position, id)
        SELECT placed.channel, placed.position, placed.id FROM placed WHERE is_blocked
    ), scheduled AS (
        -- A reservation has its end among the scheduled even while it is blocked, to expire in time.
        INSERT INTO mq_scheduled (due_at, id)
        SELECT coalesce(reserved_until, due_at), placed.id FROM placed
        WHERE reserved_until IS NOT NULL OR due_at IS NOT NULL AND NOT is_blocked
    )
    INSERT INTO mq_ready (channel, priority, position, id, epoch)
    SELECT placed.channel, 0, placed.position, placed.id, epoch FROM placed
    WHERE reserved_until IS NULL AND due_at IS NULL AND NOT is_blocked;
END
$$;
COMMENT ON FUNCTION mq_place_ordered IS 'Internal. Makes ordered jobs that were just written the heads of their channels, or blocks them behind these.';

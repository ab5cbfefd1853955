-- Internal. Removes whatever tickets these jobs have; the caller removes the jobs.
-- Locks:   the tickets, waiting for a poll that is just taking them.
CREATE FUNCTION mq_remove_tickets(msg_ids uuid[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
BEGIN
    WITH job AS MATERIALIZED (
        SELECT job.id, job.channel, job.priority, job.position, job.ordered, job.died_at,
               coalesce(job.reserved_until, job.due_at) AS due_at
        FROM (SELECT one.id FROM unnest(msg_ids) AS one (id) ORDER BY id OFFSET 0) AS one
        JOIN mq_msgs AS job ON job.id = one.id
    ), blocked AS (
        DELETE FROM mq_blocked AS ticket USING job
        WHERE job.ordered AND ticket.channel = job.channel AND ticket.position = job.position
    ), scheduled AS (
        DELETE FROM mq_scheduled AS ticket USING job
        WHERE ticket.due_at = job.due_at AND ticket.id = job.id
    ), dead AS (
        DELETE FROM mq_dead AS ticket USING job
        WHERE ticket.died_at = job.died_at AND ticket.id = job.id
    )
    DELETE FROM mq_ready AS ticket USING job
    WHERE ticket.epoch = ANY (ARRAY(SELECT epoch FROM mq_open_epochs))
      AND ticket.channel = job.channel AND ticket.priority = job.priority AND ticket.position = job.position;
END
$$;
COMMENT ON FUNCTION mq_remove_tickets IS 'Internal. Removes whatever tickets these jobs have.';

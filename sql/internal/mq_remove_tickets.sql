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
    -- By a look-up for each job: of a join the planner, having seen an empty queue, makes a scan of all tickets.
    WITH job AS MATERIALIZED (
        SELECT job.id, job.channel, job.priority, job.position, job.ordered, job.died_at,
               coalesce(job.reserved_until, job.due_at) AS due_at
        FROM mq_msgs AS job WHERE job.id = ANY (msg_ids)
    ), blocked AS (
        DELETE FROM mq_blocked WHERE ctid = ANY (ARRAY(
            SELECT place.ctid FROM job CROSS JOIN LATERAL (
                SELECT ticket.ctid FROM mq_blocked AS ticket
                WHERE ticket.channel = job.channel AND ticket.position = job.position OFFSET 0) AS place
            WHERE job.ordered))
    ), scheduled AS (
        DELETE FROM mq_scheduled WHERE ctid = ANY (ARRAY(
            SELECT place.ctid FROM job CROSS JOIN LATERAL (
                SELECT ticket.ctid FROM mq_scheduled AS ticket
                WHERE ticket.due_at = job.due_at AND ticket.id = job.id OFFSET 0) AS place
            WHERE job.due_at IS NOT NULL))
    ), dead AS (
        DELETE FROM mq_dead WHERE ctid = ANY (ARRAY(
            SELECT place.ctid FROM job CROSS JOIN LATERAL (
                SELECT ticket.ctid FROM mq_dead AS ticket
                WHERE ticket.died_at = job.died_at AND ticket.id = job.id OFFSET 0) AS place
            WHERE job.died_at IS NOT NULL))
    )
    DELETE FROM mq_ready WHERE ctid = ANY (ARRAY(
        SELECT place.ctid FROM job CROSS JOIN LATERAL (
            SELECT ticket.ctid FROM mq_ready AS ticket
            WHERE ticket.epoch = ANY (ARRAY(SELECT epoch FROM mq_open_epochs))
              AND ticket.channel = job.channel AND ticket.priority = job.priority AND ticket.position = job.position
            OFFSET 0) AS place));
END
$$;
COMMENT ON FUNCTION mq_remove_tickets IS 'Internal. Removes whatever tickets these jobs have.';

-- Purpose: remove jobs, whatever state they are in: completion as the crate does it. It is not fenced;
--          new clients use mq_complete.
-- Returns: nothing; unknown ids are passed over.
-- Locks:   the jobs' rows, in the order of their ids, and their tickets.
-- Errors:  22004 msg_ids is NULL or holds a NULL.
-- Callers: worker, operator.
CREATE FUNCTION mq_delete(msg_ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
BEGIN
    PERFORM mq_check_ids(msg_ids, NULL, false);
    WITH gone AS (
        DELETE FROM mq_msgs AS job
        USING (SELECT done.id FROM unnest(msg_ids) AS done (id) ORDER BY id OFFSET 0) AS done
        WHERE job.id = done.id
        RETURNING job.id, job.channel, job.priority, job.position,
                  coalesce(job.reserved_until, job.due_at) AS due_at, job.died_at
    ), ready AS (
        DELETE FROM mq_ready AS ticket USING gone
        WHERE ticket.channel = gone.channel AND ticket.priority = gone.priority AND ticket.position = gone.position
    ), dead AS (
        DELETE FROM mq_dead AS ticket USING gone
        WHERE ticket.died_at = gone.died_at AND ticket.id = gone.id
    )
    DELETE FROM mq_scheduled AS ticket USING gone
    WHERE ticket.due_at = gone.due_at AND ticket.id = gone.id;
END
$$;
COMMENT ON FUNCTION mq_delete IS 'Removes jobs whatever their state, unfenced.';

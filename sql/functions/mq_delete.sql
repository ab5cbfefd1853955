-- Purpose: remove jobs, whatever state they are in: completion as the crate does it. It is not fenced;
--          new clients use mq_complete.
-- Returns: nothing; unknown ids are passed over.
-- Locks:   the jobs' tickets, then their rows in the order of their ids.
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
    -- First the tickets, then the jobs: the order in which everybody takes them.
    PERFORM mq_remove_tickets(msg_ids);
    -- The index gives them in the order of their ids. Not by a join, of which the planner, having seen an
    -- empty queue, makes a scan of all jobs.
    DELETE FROM mq_msgs WHERE id = ANY (msg_ids);
END
$$;
COMMENT ON FUNCTION mq_delete IS 'Removes jobs whatever their state, unfenced.';

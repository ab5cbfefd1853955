-- Purpose: the job is done. In the transaction of the job's effects this makes them exactly-once: a
--          holder that is late gets an error, and its transaction rolls back with all it wrote.
-- Returns: nothing.
-- Locks:   the job's row; behind an ordered job, the next one's.
-- Errors:  MQ001 the caller does not hold the job at this attempt; 22004 an argument is NULL.
-- Callers: worker, operator.
CREATE FUNCTION mq_complete(msg_id uuid, attempt integer) RETURNS void
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
    DELETE FROM mq_held AS job WHERE job.id = msg_id AND job.attempt = mq_complete.attempt;
    IF NOT FOUND THEN
        IF msg_id IS NULL THEN
            PERFORM mq_refuse('22004', 'msg_id', NULL, 'it must be a job id');
        ELSIF attempt IS NULL THEN
            PERFORM mq_refuse('22004', 'attempt', NULL, 'it must be the attempt number that mq_poll returned');
        END IF;
        PERFORM mq_raise_lost_lease(msg_id, attempt);
    END IF;
END
$$;
COMMENT ON FUNCTION mq_complete(uuid, integer) IS 'Removes a job that is done; raises MQ001 for anyone who does not hold it at this attempt.';

-- Purpose: many jobs are done. Raises for none of them: check what is returned.
-- Returns: the ids of those that the caller held, and that are removed now.
-- Locks:   the jobs' rows, in the order of their ids.
-- Errors:  22004, 22023 malformed lists.
-- Callers: worker, operator.
CREATE FUNCTION mq_complete(msg_ids uuid[], attempts integer[]) RETURNS SETOF uuid
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
    PERFORM mq_check_ids(msg_ids, attempts, true);
    RETURN QUERY
    DELETE FROM mq_held AS job
    USING (SELECT done.id, done.attempt FROM unnest(msg_ids, attempts) AS done (id, attempt) ORDER BY id OFFSET 0) AS done
    WHERE job.id = done.id AND job.attempt = done.attempt
    RETURNING job.id;
END
$$;
COMMENT ON FUNCTION mq_complete(uuid[], integer[]) IS 'Removes jobs that are done; returns the ids that the caller still held.';

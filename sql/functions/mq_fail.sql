-- Purpose: an attempt has failed. The job is given back with its error: it waits for its backoff, or
--          for retry_in, and is claimed again; with its attempts used up, or for good, it is dead.
-- Arguments: msg_id; attempt; error, kept as last_error (its first 10000 characters; NULL: leave it);
--          retry_in, how long until the next attempt (0: none; NULL: the backoff); is_final, whether
--          the job is dead at once, whatever attempts are left (mq_retry can revive it).
-- Returns: where the job is now: 'ready', 'scheduled', 'dead', or 'cancelled' (it was to be cancelled,
--          and is removed).
-- Locks:   the job's row.
-- Errors:  MQ001 the caller does not hold the job at this attempt; 22004, 22023 bad arguments.
-- Callers: worker, operator.
CREATE FUNCTION mq_fail(
    msg_id   uuid,
    attempt  integer,
    error    text,
    retry_in interval DEFAULT NULL,
    is_final boolean DEFAULT false
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    job   mq_msgs;
    state text;
BEGIN
    IF msg_id IS NULL THEN
        PERFORM mq_refuse('22004', 'msg_id', NULL, 'it must be a job id');
    ELSIF attempt IS NULL THEN
        PERFORM mq_refuse('22004', 'attempt', NULL, 'it must be the attempt number that mq_poll returned');
    ELSIF retry_in < interval '0' OR retry_in > interval '1000 years' THEN
        PERFORM mq_refuse('22023', 'retry_in', retry_in::text, 'it must be NULL or between 0 and 1000 years');
    ELSIF is_final IS NULL THEN
        PERFORM mq_refuse('22004', 'is_final', NULL, 'it must be true or false');
    END IF;
    PERFORM FROM mq_held AS held WHERE held.id = msg_id AND held.attempt = mq_fail.attempt FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM mq_raise_lost_lease(msg_id, attempt);
    END IF;
    SELECT * INTO job FROM mq_msgs WHERE mq_msgs.id = msg_id;
    state := mq_end_attempt(job, error, coalesce(retry_in, job.retry_backoff), true, is_final);
    -- Also when it is to wait: it may be due sooner than the workers that sleep now expect anything.
    IF state IN ('ready', 'scheduled') THEN
        PERFORM mq_notify(ARRAY[job.channel_name]);
    END IF;
    RETURN state;
END
$$;
COMMENT ON FUNCTION mq_fail(uuid, integer, text, interval, boolean) IS 'Gives a job back whose attempt failed; raises MQ001 for anyone who does not hold it at this attempt.';

-- Purpose: many attempts have failed. Raises for none of them: check what is returned.
-- Arguments: as above, an array each; errors, retry_ins and are_final may be NULL, as may their
--          elements (of are_final: false).
-- Returns: a row for each job that the caller held: its id, and where it is now.
-- Locks:   the jobs' rows, in the order of their ids.
-- Errors:  22004, 22023 malformed lists.
-- Callers: worker, operator.
CREATE FUNCTION mq_fail(
    msg_ids   uuid[],
    attempts  integer[],
    errors    text[],
    retry_ins interval[] DEFAULT NULL,
    are_final boolean[] DEFAULT NULL
) RETURNS TABLE (msg_id uuid, state text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    one record;
BEGIN
    PERFORM mq_check_ids(msg_ids, attempts, true);
    IF cardinality(errors) <> cardinality(msg_ids) THEN
        PERFORM mq_refuse('22023', 'errors', format('of length %s', cardinality(errors)),
            format('it must be NULL or as long as msg_ids, %s', cardinality(msg_ids)));
    ELSIF cardinality(retry_ins) <> cardinality(msg_ids) THEN
        PERFORM mq_refuse('22023', 'retry_ins', format('of length %s', cardinality(retry_ins)),
            format('it must be NULL or as long as msg_ids, %s', cardinality(msg_ids)));
    ELSIF cardinality(are_final) <> cardinality(msg_ids) THEN
        PERFORM mq_refuse('22023', 'are_final', format('of length %s', cardinality(are_final)),
            format('it must be NULL or as long as msg_ids, %s', cardinality(msg_ids)));
    END IF;
    FOR one IN
        SELECT failed.id, failed.attempt, failed.error, failed.retry_in, coalesce(failed.is_final, false) AS is_final
        FROM unnest(msg_ids, attempts, errors, retry_ins, are_final) AS failed (id, attempt, error, retry_in, is_final)
        ORDER BY id
    LOOP
        PERFORM FROM mq_held AS held WHERE held.id = one.id AND held.attempt = one.attempt FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        msg_id := one.id;
        state := mq_fail(one.id, one.attempt, one.error, one.retry_in, one.is_final);
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_fail(uuid[], integer[], text[], interval[], boolean[]) IS 'Gives jobs back whose attempts failed; returns those that the caller still held.';

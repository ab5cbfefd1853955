-- Purpose: push the leases of running jobs, or the ends of open reservations, to at least now plus
--          duration; never shortens them. The holder learns here whether it still is the holder.
-- Arguments: msg_ids; duration; attempts, the attempt number of each job (NULL: whatever attempt is
--          under way, as the crate does it).
-- Returns: a row for each id: is_held, whether the caller (with attempts NULL: anybody) still holds
--          the job or the reservation is still open; is_cancelled, whether somebody has asked to cancel
--          it: the holder is to stop and to let go of it.
-- Locks:   the jobs' rows, without waiting: a running job whose row is locked is being completed or
--          check-pointed, perhaps in a long transaction. It counts as held, and no poll takes it back
--          as long as the lock lasts; the next keep-alive pushes it on.
-- Errors:  22004, 22023 for bad arguments.
-- Callers: worker, operator.
CREATE FUNCTION mq_keep_alive(
    msg_ids  uuid[],
    duration interval,
    attempts integer[] DEFAULT NULL
) RETURNS TABLE (msg_id uuid, is_held boolean, is_cancelled boolean)
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
    this_moment CONSTANT timestamptz := clock_timestamp();
    one         record;
    cancelled   timestamptz;
    ended       timestamptz;
BEGIN
    PERFORM mq_check_ids(msg_ids, attempts, false);
    IF duration IS NULL THEN
        PERFORM mq_refuse('22004', 'duration', NULL, 'it must be given');
    ELSIF duration < interval '0' OR duration > interval '1000 years' THEN
        PERFORM mq_refuse('22023', 'duration', duration::text, 'it must be between 0 and 1000 years');
    END IF;
    FOR one IN SELECT wanted.id, wanted.attempt FROM unnest(msg_ids, attempts) AS wanted (id, attempt) ORDER BY id LOOP
        msg_id := one.id;
        SELECT job.cancel_requested_at INTO cancelled FROM mq_held AS job
        WHERE job.id = one.id AND (attempts IS NULL OR job.attempt = one.attempt) FOR UPDATE SKIP LOCKED;
        is_held := FOUND;
        IF is_held THEN
            UPDATE mq_msgs AS job SET leased_until = greatest(job.leased_until, this_moment + duration)
            WHERE job.id = one.id;
        ELSE
            SELECT job.cancel_requested_at INTO cancelled FROM mq_held AS job
            WHERE job.id = one.id AND (attempts IS NULL OR job.attempt = one.attempt);
            is_held := FOUND;
        END IF;
        is_cancelled := is_held AND cancelled IS NOT NULL;
        IF NOT is_held AND attempts IS NULL THEN
            SELECT job.reserved_until INTO ended FROM mq_msgs AS job
            WHERE job.id = one.id AND job.reserved_until > this_moment FOR UPDATE;
            is_held := FOUND;
            IF is_held AND ended < this_moment + duration THEN
                UPDATE mq_msgs AS job SET reserved_until = this_moment + duration WHERE job.id = one.id;
                DELETE FROM mq_scheduled AS ticket WHERE ticket.due_at = ended AND ticket.id = one.id;
                INSERT INTO mq_scheduled (due_at, id) VALUES (this_moment + duration, one.id);
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_keep_alive IS 'Pushes the leases of running jobs, and tells their holder whether it still holds them.';

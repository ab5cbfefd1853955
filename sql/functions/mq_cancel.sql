-- Purpose: cancel jobs. One that waits (or is dead) is removed; the holder of a running one is told at
--          its next keep-alive, and the job is removed as soon as it is let go of: it is not retried.
-- Returns: a row for each job that is in the queue: outcome is 'removed' or 'requested'.
-- Locks:   the jobs' rows and tickets.
-- Errors:  22004 msg_ids is NULL or holds a NULL.
-- Callers: operator.
CREATE FUNCTION mq_cancel(msg_ids uuid[]) RETURNS TABLE (msg_id uuid, outcome text)
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
    one        uuid;
    job        mq_msgs;
    is_waiting boolean;
BEGIN
    PERFORM mq_check_ids(msg_ids, NULL, false);
    <<each>>
    FOR one IN SELECT DISTINCT wanted.id FROM unnest(msg_ids) AS wanted (id) ORDER BY id LOOP
        LOOP
            SELECT * INTO job FROM mq_msgs WHERE mq_msgs.id = one;
            CONTINUE each WHEN NOT FOUND;
            -- Whoever gets the ticket has the job: a poll that was first has left none. In the order in
            -- which tickets move, so that one on the move is met further on, or seen as running.
            DELETE FROM mq_blocked AS ticket WHERE ticket.channel = job.channel AND ticket.position = job.position;
            is_waiting := FOUND;
            DELETE FROM mq_scheduled AS ticket
            WHERE ticket.due_at = coalesce(job.reserved_until, job.due_at) AND ticket.id = job.id;
            is_waiting := is_waiting OR FOUND;
            IF NOT is_waiting THEN
                DELETE FROM mq_ready AS ticket
                WHERE ticket.epoch = ANY (ARRAY(SELECT epoch FROM mq_open_epochs))
                  AND ticket.channel = job.channel AND ticket.priority = job.priority AND ticket.position = job.position;
                is_waiting := FOUND;
            END IF;
            IF NOT is_waiting THEN
                DELETE FROM mq_dead AS ticket WHERE ticket.died_at = job.died_at AND ticket.id = job.id;
                is_waiting := FOUND;
            END IF;
            IF is_waiting THEN
                outcome := 'removed';
                DELETE FROM mq_msgs WHERE mq_msgs.id = one;
            ELSE
                outcome := 'requested';
                UPDATE mq_msgs SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
                WHERE mq_msgs.id = one AND mq_msgs.position = job.position
                  AND mq_msgs.attempts_ended = job.attempts_ended AND mq_msgs.died_at IS NOT DISTINCT FROM job.died_at;
            END IF;
            -- Not found: its holder has just finished the attempt, or the job. Look again.
            EXIT WHEN FOUND;
        END LOOP;
        msg_id := one;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_cancel IS 'Removes waiting jobs, and asks the holders of running ones to stop.';

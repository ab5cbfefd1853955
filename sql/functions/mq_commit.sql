-- Purpose: second phase of a two-phase send: reserved jobs become real, due when they would have been.
-- Returns: the ids that were reserved and are committed now. A reservation that is over, a job that
--          was never reserved and an unknown id are passed over.
-- Locks:   the jobs' rows.
-- Errors:  22004 msg_ids is NULL or holds a NULL.
-- Callers: producer, operator.
CREATE FUNCTION mq_commit(msg_ids uuid[]) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    job           mq_msgs;
    is_blocked    boolean;
    was_reserved  timestamptz;
    channel_names text[] := ARRAY[]::text[];
BEGIN
    PERFORM mq_check_ids(msg_ids, NULL, false);
    FOR job IN
        SELECT * FROM mq_msgs
        WHERE id = ANY (msg_ids) AND reserved_until > clock_timestamp() ORDER BY position
    LOOP
        -- First the ticket, then the job: the order in which mq_advance_channel takes them.
        PERFORM FROM mq_blocked WHERE channel = job.channel AND position = job.position AND job.ordered FOR UPDATE;
        is_blocked := FOUND;
        SELECT reserved_until INTO was_reserved FROM mq_msgs WHERE id = job.id FOR UPDATE;
        CONTINUE WHEN was_reserved IS NULL;
        UPDATE mq_msgs SET reserved_until = NULL WHERE id = job.id;
        DELETE FROM mq_scheduled WHERE due_at = was_reserved AND id = job.id;
        IF NOT is_blocked THEN
            PERFORM mq_issue_ticket(job);
        END IF;
        channel_names := channel_names || job.channel_name;
        RETURN NEXT job.id;
    END LOOP;
    PERFORM mq_notify(channel_names);
END
$$;
COMMENT ON FUNCTION mq_commit IS 'Commits reserved jobs (two-phase send); returns the ids that were still reserved.';

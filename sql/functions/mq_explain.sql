-- Purpose: why is this job not running (or where is it)?
-- Returns: one row: its state as in mq_jobs ('gone' for an id that is not in the queue), a sentence,
--          the job that it waits for, if any, and when something changes by itself, if it does.
-- Locks:   none.
-- Errors:  22004 msg_id is NULL.
-- Callers: observer, operator.
CREATE FUNCTION mq_explain(msg_id uuid)
RETURNS TABLE (state text, explanation text, waits_for uuid, until timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET jit = off
AS $$
DECLARE
    job       record;
    head      record;
    ahead     bigint;
BEGIN
    IF msg_id IS NULL THEN
        PERFORM mq_refuse('22004', 'msg_id', NULL, 'it must be a job id');
    END IF;
    SELECT * INTO job FROM mq_jobs WHERE mq_jobs.id = msg_id;
    IF NOT FOUND THEN
        state := 'gone';
        explanation := 'There is no such job: it was never sent (or not committed yet), or it is completed, cancelled, cleared or expired.';
        RETURN NEXT;
        RETURN;
    END IF;
    state := job.state;
    CASE
        WHEN job.state = 'blocked' THEN
            SELECT mq_jobs.* INTO head FROM mq_heads JOIN mq_jobs ON mq_jobs.id = mq_heads.id
            WHERE mq_heads.channel = mq_channel_key(job.channel_name, job.channel_args);
            IF NOT FOUND THEN
                explanation := 'The ordered job before it is finished; the next poll makes it ready.';
            ELSE
                waits_for := head.id;
                until := coalesce(head.reserved_until, head.leased_until,
                                  CASE WHEN head.state = 'scheduled' THEN head.due_at END);
                explanation := format('It is ordered, and job %s (%s) of its channel comes first, which is %s%s.',
                    head.id, head.name, head.state,
                    CASE head.state
                        WHEN 'dead' THEN ' and holds the channel until it is retried (mq_retry) or removed (mq_cancel)'
                        WHEN 'scheduled' THEN CASE WHEN head.reserved_until IS NULL THEN '' ELSE ' (reserved, not committed)' END
                        ELSE ''
                    END);
            END IF;
        WHEN job.state = 'scheduled' AND job.reserved_until IS NOT NULL THEN
            until := job.reserved_until;
            explanation := format('It is reserved only: unless it is committed (mq_commit) by %s, it disappears.', until);
        WHEN job.state = 'scheduled' THEN
            until := job.due_at;
            explanation := CASE WHEN job.attempts_made = 0
                THEN format('It is delayed until %s.', until)
                ELSE format('Attempt %s failed, and it waits until %s for the next. The error: %s', job.attempts_made, until, job.last_error)
            END;
        WHEN job.state = 'running' THEN
            until := job.leased_until;
            explanation := format('It is running at attempt %s, held by %s until %s unless kept alive longer.%s',
                job.attempts_made, coalesce(nullif(job.worker, ''), 'an unnamed worker'), until,
                CASE WHEN job.cancel_requested_at IS NULL THEN '' ELSE format(' Its holder has been asked at %s to stop.', job.cancel_requested_at) END);
        WHEN job.state = 'dead' THEN
            explanation := format('%s; it stays until it is retried (mq_retry) or removed. The last error: %s',
                CASE
                    WHEN job.attempts_left > 0 THEN format('It failed for good at attempt %s', job.attempts_made)
                    WHEN job.attempts_made = 1 THEN 'Its only attempt is used up'
                    ELSE format('Its %s attempts are used up', job.attempts_made)
                END,
                coalesce(job.last_error, 'none was kept, the last lease ran out'));
        ELSE
            SELECT count(*) INTO ahead FROM (
                SELECT FROM mq_ready AS ticket
                WHERE ticket.epoch = ANY (ARRAY(SELECT epoch FROM mq_open_epochs))
                  AND ticket.channel = mq_channel_key(job.channel_name, job.channel_args)
                  AND (ticket.priority, ticket.position) < (job.priority, job.position)
                LIMIT 1000) AS earlier;
            explanation := format('It is ready: the next poll for channel name %L can claim it. Jobs of its channel before it: %s%s.',
                job.channel_name, ahead, CASE WHEN ahead = 1000 THEN ' or more' ELSE '' END);
    END CASE;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION mq_explain IS 'Says in a sentence why a job is not running, and which job it waits for.';

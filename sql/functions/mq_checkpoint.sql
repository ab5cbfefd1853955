-- Purpose: keep a job alive and save its progress for the next attempt, in the caller's transaction.
-- Arguments: msg_id; duration, as in mq_keep_alive; new_payload_json, new_payload_bytes, the payload
--          parts to replace (NULL: leave as it is); extra_retries, attempts to add (NULL: none);
--          attempt, the fence (NULL: whatever attempt is under way, as the crate does it).
-- Returns: nothing.
-- Locks:   the job's row, waiting for whoever has it.
-- Errors:  MQ001 attempt is given and the caller does not hold the job at it; 22004, 22003, 22023,
--          22P02 for bad arguments. Without attempt, an unknown job is passed over.
-- Callers: worker, operator.
CREATE FUNCTION mq_checkpoint(
    msg_id            uuid,
    duration          interval,
    new_payload_json  text,
    new_payload_bytes bytea,
    extra_retries     integer,
    attempt           integer DEFAULT NULL
) RETURNS void
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
    document json;
BEGIN
    IF msg_id IS NULL THEN
        PERFORM mq_refuse('22004', 'msg_id', NULL, 'it must be a job id');
    ELSIF extra_retries NOT BETWEEN 0 AND 1000000 THEN
        PERFORM mq_refuse('22003', 'extra_retries', extra_retries::text, 'it must be between 0 and 1000000');
    END IF;
    document := (mq_parse_json('new_payload_json', ARRAY[new_payload_json]))[1];
    IF attempt IS NOT NULL THEN
        PERFORM FROM mq_held AS job WHERE job.id = msg_id AND job.attempt = mq_checkpoint.attempt FOR UPDATE;
        IF NOT FOUND THEN
            PERFORM mq_raise_lost_lease(msg_id, attempt);
        END IF;
    ELSE
        PERFORM FROM mq_msgs AS job WHERE job.id = msg_id FOR UPDATE;
    END IF;
    -- The row is this transaction's own now: keep-alive meets no lock.
    PERFORM mq_keep_alive(ARRAY[msg_id], duration);
    UPDATE mq_msgs AS job SET
        payload_json = coalesce(document, job.payload_json),
        payload_bytes = coalesce(new_payload_bytes, job.payload_bytes),
        attempts_allowed = least(job.attempts_allowed::bigint + coalesce(extra_retries, 0), 2000000000)
    WHERE job.id = msg_id;
END
$$;
COMMENT ON FUNCTION mq_checkpoint IS 'Keeps a job alive and replaces its payload for the next attempt.';

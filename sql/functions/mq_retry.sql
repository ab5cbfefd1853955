-- Purpose: give dead jobs another try. Attempt numbers go on from where they were.
-- Arguments: msg_ids; retries, attempts after the first new one (0 to 1000000); delay, until it is due.
-- Returns: the ids that were dead and wait again now; others are passed over.
-- Locks:   the jobs' rows; for ordered jobs that let others pass, the order of their channels.
-- Errors:  22004, 22003, 22023 for bad arguments.
-- Callers: operator.
CREATE FUNCTION mq_retry(
    msg_ids uuid[],
    retries integer DEFAULT 0,
    delay   interval DEFAULT '0'
) RETURNS SETOF uuid
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
    job           mq_msgs;
    channel_names text[] := ARRAY[]::text[];
    opened        uuid[];
BEGIN
    PERFORM mq_check_ids(msg_ids, NULL, false);
    IF retries IS NULL OR retries NOT BETWEEN 0 AND 1000000 THEN
        PERFORM mq_refuse(CASE WHEN retries IS NULL THEN '22004' ELSE '22003' END,
            'retries', retries::text, 'it must be between 0 and 1000000');
    ELSIF delay IS NULL OR delay < interval '0' OR delay > interval '1000 years' THEN
        PERFORM mq_refuse(CASE WHEN delay IS NULL THEN '22004' ELSE '22023' END,
            'delay', delay::text, 'it must be between 0 and 1000 years');
    END IF;
    -- First the channels' order, all at once, then the jobs: so does every sender.
    opened := mq_join_channels(ARRAY(
        SELECT channel FROM mq_msgs
        WHERE id = ANY (msg_ids) AND died_at IS NOT NULL AND ordered AND passes_when_dead));
    FOR job IN SELECT * FROM mq_msgs WHERE id = ANY (msg_ids) AND died_at IS NOT NULL ORDER BY position FOR UPDATE LOOP
        DELETE FROM mq_dead WHERE died_at = job.died_at AND id = job.id;
        UPDATE mq_msgs SET
            attempts_allowed = attempts_ended + 1 + retries,
            died_at = NULL,
            cancel_requested_at = NULL,
            due_at = CASE WHEN delay > interval '0' THEN clock_timestamp() + delay END
        WHERE id = job.id
        RETURNING * INTO job;
        -- One that let others pass has lost its turn: it is the next again, by its position.
        IF job.ordered AND job.passes_when_dead THEN
            IF job.channel = ANY (opened) THEN
                opened := array_remove(opened, job.channel);
                INSERT INTO mq_heads (channel, id) VALUES (job.channel, job.id);
                PERFORM mq_issue_ticket(job);
            ELSE
                INSERT INTO mq_blocked (channel, position, id) VALUES (job.channel, job.position, job.id);
                UPDATE mq_chains SET looks_back = true WHERE channel = job.channel AND NOT looks_back;
            END IF;
        ELSE
            PERFORM mq_issue_ticket(job);
        END IF;
        channel_names := channel_names || job.channel_name;
        RETURN NEXT job.id;
    END LOOP;
    PERFORM mq_notify(channel_names);
END
$$;
COMMENT ON FUNCTION mq_retry IS 'Gives dead jobs new attempts; returns the ids that were dead.';

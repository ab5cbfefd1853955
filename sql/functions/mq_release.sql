-- Purpose: give jobs back untried (a worker that stops, a job that wants to wait): the attempt is not
--          counted, though its number is used up.
-- Arguments: msg_ids; attempts; due_in, how long until they are due again (0: at once).
-- Returns: the ids of those that the caller held, and that are given back (or, if somebody had asked
--          to cancel them, removed).
-- Locks:   the jobs' rows, in the order of their ids.
-- Errors:  22004, 22023 for bad arguments.
-- Callers: worker, operator.
CREATE FUNCTION mq_release(
    msg_ids  uuid[],
    attempts integer[],
    due_in   interval DEFAULT '0'
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
    one           record;
    job           mq_msgs;
    channel_names text[] := ARRAY[]::text[];
BEGIN
    PERFORM mq_check_ids(msg_ids, attempts, true);
    IF due_in IS NULL OR due_in < interval '0' OR due_in > interval '1000 years' THEN
        PERFORM mq_refuse(CASE WHEN due_in IS NULL THEN '22004' ELSE '22023' END,
            'due_in', due_in::text, 'it must be between 0 and 1000 years');
    END IF;
    FOR one IN SELECT given.id, given.attempt FROM unnest(msg_ids, attempts) AS given (id, attempt) ORDER BY id LOOP
        PERFORM FROM mq_held AS held WHERE held.id = one.id AND held.attempt = one.attempt FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        SELECT * INTO job FROM mq_msgs WHERE mq_msgs.id = one.id;
        PERFORM mq_end_attempt(job, NULL, due_in, false, false);
        channel_names := channel_names || job.channel_name;
        RETURN NEXT one.id;
    END LOOP;
    PERFORM mq_notify(channel_names);
END
$$;
COMMENT ON FUNCTION mq_release IS 'Gives jobs back without counting the attempt; returns the ids that the caller still held.';

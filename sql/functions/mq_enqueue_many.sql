-- Purpose: send many jobs in one call, all or none.
-- Arguments: names, what the worker is to run, one for each job; the others as in mq_enqueue, each NULL
--          (mq_enqueue's default for all jobs) or as long as names; a NULL element is that argument's
--          default, too. payloads and headers are JSON.
-- Returns: the jobs' ids, in the order of the names. No names: no rows.
-- Locks:   for ordered jobs, the order of their channels, until the transaction ends.
-- Errors:  22004 names is NULL or holds a NULL; 22023 an array is not as long as names; those of
--          mq_insert, which name the message by its number.
-- Callers: producer, operator.
CREATE FUNCTION mq_enqueue_many(
    names            text[],
    payloads         text[] DEFAULT NULL,
    channel_names    text[] DEFAULT NULL,
    channel_args     text[] DEFAULT NULL,
    delays           interval[] DEFAULT NULL,
    retries          integer[] DEFAULT NULL,
    retry_backoffs   interval[] DEFAULT NULL,
    ordered          boolean[] DEFAULT NULL,
    priorities       integer[] DEFAULT NULL,
    commit_intervals interval[] DEFAULT NULL,
    payloads_bytes   bytea[] DEFAULT NULL,
    when_dead        text[] DEFAULT NULL,
    ids              uuid[] DEFAULT NULL,
    headers          text[] DEFAULT NULL
) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    jobs    CONSTANT integer := cardinality(names);
    -- NULL for what is not given.
    lengths CONSTANT integer[] := ARRAY[
        cardinality(payloads), cardinality(channel_names), cardinality(channel_args), cardinality(delays),
        cardinality(retries), cardinality(retry_backoffs), cardinality(ordered), cardinality(priorities),
        cardinality(commit_intervals), cardinality(payloads_bytes), cardinality(when_dead), cardinality(ids),
        cardinality(headers)];
    bad     record;
    new_ids uuid[];
BEGIN
    IF names IS NULL THEN
        PERFORM mq_refuse('22004', 'names', NULL, 'it must be an array of job names');
    ELSIF array_ndims(names) > 1 THEN
        PERFORM mq_refuse('22023', 'names', names::text, 'it must have one dimension');
    ELSIF jobs <> ANY (lengths) THEN
        SELECT given.argument, given.length INTO bad
        FROM unnest('{payloads, channel_names, channel_args, delays, retries, retry_backoffs, ordered,
                      priorities, commit_intervals, payloads_bytes, when_dead, ids, headers}'::text[], lengths)
                 AS given (argument, length)
        WHERE given.length <> jobs
        LIMIT 1;
        PERFORM mq_refuse('22023', bad.argument, format('of length %s', bad.length),
            format('it must be NULL or as long as names, %s', jobs));
    END IF;

    IF jobs = 1 AND ids IS NULL THEN
        new_ids := ARRAY[mq_new_id()];
    ELSE
        new_ids := ARRAY(
            SELECT coalesce(job.id, mq_new_id())
            FROM unnest(names, ids) WITH ORDINALITY AS job (name, id, n) ORDER BY n);
    END IF;
    PERFORM mq_insert(
        -- mq_enqueue's defaults: tests/pgtap/sending_many.sql compares.
        ARRAY(
            SELECT ROW(job.id, coalesce(job.delay, '0'), coalesce(job.retries, 4), coalesce(job.retry_backoff, '1 second'),
                       coalesce(job.channel_name, ''), coalesce(job.channel_args, ''), job.commit_interval,
                       coalesce(job.ordered, false), job.name, job.payload, job.payload_bytes)::mq_new_t
            FROM unnest(names, new_ids, payloads, channel_names, channel_args, delays, retries, retry_backoffs,
                        ordered, commit_intervals, payloads_bytes) WITH ORDINALITY
                     AS job (name, id, payload, channel_name, channel_args, delay, retries, retry_backoff,
                             ordered, commit_interval, payload_bytes, n)
            ORDER BY n),
        array_replace(priorities, NULL, 0),
        array_replace(when_dead, NULL, 'hold'),
        headers);
    RETURN QUERY SELECT unnest(new_ids);
END
$$;
COMMENT ON FUNCTION mq_enqueue_many IS 'Sends many jobs, all or none, and returns their ids.';

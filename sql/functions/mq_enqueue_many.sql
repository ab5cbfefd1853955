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
    bad     record;
    new_ids uuid[];
BEGIN
    IF names IS NULL THEN
        PERFORM mq_refuse('22004', 'names', NULL, 'it must be an array of job names');
    ELSIF array_ndims(names) > 1 THEN
        PERFORM mq_refuse('22023', 'names', names::text, 'it must have one dimension');
    END IF;
    SELECT given.argument, given.length INTO bad
    FROM (VALUES
        ('payloads', cardinality(payloads)),
        ('channel_names', cardinality(channel_names)),
        ('channel_args', cardinality(channel_args)),
        ('delays', cardinality(delays)),
        ('retries', cardinality(retries)),
        ('retry_backoffs', cardinality(retry_backoffs)),
        ('ordered', cardinality(ordered)),
        ('priorities', cardinality(priorities)),
        ('commit_intervals', cardinality(commit_intervals)),
        ('payloads_bytes', cardinality(payloads_bytes)),
        ('when_dead', cardinality(when_dead)),
        ('ids', cardinality(ids)),
        ('headers', cardinality(headers))
    ) AS given (argument, length)
    WHERE given.length <> cardinality(names)
    LIMIT 1;
    IF FOUND THEN
        PERFORM mq_refuse('22023', bad.argument, format('of length %s', bad.length),
            format('it must be NULL or as long as names, %s', cardinality(names)));
    END IF;

    new_ids := ARRAY(
        SELECT coalesce(job.id, mq_new_id())
        FROM unnest(names, ids) WITH ORDINALITY AS job (name, id, n) ORDER BY n);
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
    RETURN QUERY SELECT sent.id FROM unnest(new_ids) WITH ORDINALITY AS sent (id, n) ORDER BY n;
END
$$;
COMMENT ON FUNCTION mq_enqueue_many IS 'Sends many jobs, all or none, and returns their ids.';

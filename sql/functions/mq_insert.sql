-- Purpose: send jobs, all or none.
-- Arguments: new_messages, the jobs; priorities (-32768 to 32767), when_dead ('hold' or 'pass') and
--          headers (a JSON object of strings, or NULL), each NULL or as long as new_messages, what
--          mq_new_t has no place for.
-- Returns: nothing.
-- Locks:   for ordered jobs, the order of their channels (other senders of ordered jobs to the same
--          channels wait until this transaction ends).
-- Errors:  22004 a value that must be given is NULL; 22003 a number is out of range; 22023 a value is
--          not allowed; 22001 a name is too long; 22P02 malformed JSON; 23505 the id is in use.
-- Callers: producer, operator.
CREATE FUNCTION mq_insert(
    new_messages mq_new_t[],
    priorities   integer[] DEFAULT NULL,
    when_dead    text[] DEFAULT NULL,
    headers      text[] DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    this_moment CONSTANT timestamptz := clock_timestamp();
    bad         record;
    used_id     uuid;
    documents   json[];
    parsed      json[];
    opened      uuid[] := ARRAY[]::uuid[];
    any_ordered boolean;
    epoch       integer;
BEGIN
    IF new_messages IS NULL THEN
        PERFORM mq_refuse('22004', 'new_messages', NULL, 'it must be an array of mq_new_t');
    ELSIF cardinality(priorities) <> cardinality(new_messages) THEN
        PERFORM mq_refuse('22023', 'priorities', format('of length %s', cardinality(priorities)),
            format('it must be NULL or as long as new_messages, %s', cardinality(new_messages)));
    ELSIF cardinality(when_dead) <> cardinality(new_messages) THEN
        PERFORM mq_refuse('22023', 'when_dead', format('of length %s', cardinality(when_dead)),
            format('it must be NULL or as long as new_messages, %s', cardinality(new_messages)));
    ELSIF cardinality(headers) <> cardinality(new_messages) THEN
        PERFORM mq_refuse('22023', 'headers', format('of length %s', cardinality(headers)),
            format('it must be NULL or as long as new_messages, %s', cardinality(new_messages)));
    END IF;

    SELECT n, complaint.* INTO bad
    FROM unnest(new_messages, priorities, when_dead) WITH ORDINALITY
             AS m (id, delay, retries, retry_backoff, channel_name, channel_args, commit_interval,
                   ordered, name, payload_json, payload_bytes, priority, when_dead_choice, n)
    CROSS JOIN LATERAL (
        SELECT code, argument, value, rule
        FROM (VALUES
            (m.id IS NULL, '22004', 'id', NULL, 'every job must have an id'),
            (m.name IS NULL, '22004', 'name', NULL, 'every job must have a name'),
            (m.channel_name IS NULL, '22004', 'channel_name', NULL, 'it must be given; the default channel is '''''),
            (m.channel_args IS NULL, '22004', 'channel_args', NULL, 'it must be given; without arguments it is '''''),
            (m.ordered IS NULL, '22004', 'ordered', NULL, 'it must be true or false'),
            (m.delay IS NULL, '22004', 'delay', NULL, 'it must be given; at once is 0'),
            (m.retries IS NULL, '22004', 'retries', NULL, 'it must be given'),
            (m.retry_backoff IS NULL, '22004', 'retry_backoff', NULL, 'it must be given'),
            (length(m.name) NOT BETWEEN 1 AND 1000, CASE m.name WHEN '' THEN '22023' ELSE '22001' END,
             'name', format('%L (%s characters)', left(m.name, 60), length(m.name)), 'it must have 1 to 1000 characters'),
            (length(m.channel_name) > 1000, '22001', 'channel_name',
             format('%L… (%s characters)', left(m.channel_name, 60), length(m.channel_name)), 'it may have at most 1000 characters'),
            (length(m.channel_args) > 1000, '22001', 'channel_args',
             format('%L… (%s characters)', left(m.channel_args, 60), length(m.channel_args)), 'it may have at most 1000 characters'),
            (m.delay < interval '0' OR m.delay > interval '1000 years', '22023', 'delay', m.delay::text,
             'it must be between 0 and 1000 years'),
            (m.retries NOT BETWEEN 0 AND 1000000000, '22003', 'retries', m.retries::text, 'it must be between 0 and 1000000000'),
            (m.retry_backoff < interval '0' OR m.retry_backoff > interval '1000 years', '22023', 'retry_backoff',
             m.retry_backoff::text, 'it must be between 0 and 1000 years'),
            (m.commit_interval < interval '0' OR m.commit_interval > interval '1000 years', '22023', 'commit_interval',
             m.commit_interval::text, 'it must be NULL or between 0 and 1000 years'),
            (m.priority IS NULL AND priorities IS NOT NULL, '22004', 'priority', NULL, 'it must be given; the default is 0'),
            (m.priority NOT BETWEEN -32768 AND 32767, '22003', 'priority', m.priority::text,
             'it must be between -32768 and 32767'),
            (when_dead IS NOT NULL AND coalesce(m.when_dead_choice, '') NOT IN ('hold', 'pass'),
             CASE WHEN m.when_dead_choice IS NULL THEN '22004' ELSE '22023' END,
             'when_dead', quote_literal(m.when_dead_choice), 'it must be ''hold'' or ''pass''')
        ) AS rules (is_broken, code, argument, value, rule)
        WHERE is_broken
        LIMIT 1
    ) AS complaint
    -- The sum of all conditions, cheap enough to be evaluated for every job of every call.
    WHERE (m.id IS NOT NULL
           AND length(m.name) BETWEEN 1 AND 1000
           AND length(m.channel_name) <= 1000
           AND length(m.channel_args) <= 1000
           AND m.ordered IS NOT NULL
           AND m.delay >= interval '0' AND m.delay <= interval '1000 years'
           AND m.retries BETWEEN 0 AND 1000000000
           AND m.retry_backoff >= interval '0' AND m.retry_backoff <= interval '1000 years'
           AND (m.commit_interval IS NULL
                OR m.commit_interval >= interval '0' AND m.commit_interval <= interval '1000 years')
           AND (priorities IS NULL OR m.priority BETWEEN -32768 AND 32767)
           AND (when_dead IS NULL OR m.when_dead_choice IN ('hold', 'pass'))) IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        PERFORM mq_refuse(bad.code, CASE cardinality(new_messages)
            WHEN 1 THEN bad.argument ELSE format('%s of message %s', bad.argument, bad.n) END,
            bad.value, bad.rule);
    END IF;

    SELECT m.id INTO used_id FROM unnest(new_messages) AS m
    WHERE (SELECT true FROM mq_msgs AS job WHERE job.id = m.id)
    LIMIT 1;
    IF used_id IS NULL AND cardinality(new_messages) > 1 THEN
        SELECT m.id INTO used_id FROM unnest(new_messages) AS m GROUP BY m.id HAVING count(*) > 1 LIMIT 1;
    END IF;
    IF used_id IS NOT NULL THEN
        PERFORM mq_refuse('23505', 'id', used_id::text, 'another job has this id');
    END IF;

    documents := mq_parse_json('payload_json', ARRAY(SELECT m.payload_json FROM unnest(new_messages) AS m));
    IF headers IS NOT NULL THEN
        parsed := mq_parse_json('headers', headers);
        SELECT n, m.document::text AS value INTO bad
        FROM unnest(parsed) WITH ORDINALITY AS m (document, n)
        -- In CASE, since a document must be known to be an object before it is taken apart.
        WHERE CASE json_typeof(m.document)
            WHEN 'object' THEN EXISTS (SELECT FROM json_each(m.document) AS header WHERE json_typeof(header.value) <> 'string')
            ELSE m.document IS NOT NULL
        END
        LIMIT 1;
        IF FOUND THEN
            PERFORM mq_refuse('22023',
                CASE cardinality(headers) WHEN 1 THEN 'headers' ELSE format('headers of message %s', bad.n) END,
                quote_literal(left(bad.value, 100)), 'it must be a JSON object whose values are strings');
        END IF;
    END IF;

    SELECT coalesce(bool_or(m.ordered), false) INTO any_ordered FROM unnest(new_messages) AS m;
    IF any_ordered THEN
        opened := mq_join_channels(ARRAY(
            SELECT mq_channel_key(m.channel_name, m.channel_args)
            FROM unnest(new_messages) AS m WHERE m.ordered));
    END IF;

    epoch := mq_join_epoch();
    WITH job AS (
        INSERT INTO mq_msgs AS job (
            id, channel, position, created_at, due_at, reserved_until, retry_backoff,
            attempts_allowed, priority, ordered, passes_when_dead,
            channel_name, channel_args, name, payload_json, payload_bytes, headers)
        SELECT
            m.id,
            mq_channel_key(m.channel_name, m.channel_args),
            nextval('mq_position'),
            this_moment,
            CASE WHEN m.delay > interval '0' THEN this_moment + m.delay END,
            this_moment + m.delay + m.commit_interval,
            m.retry_backoff,
            m.retries + 1,
            CASE WHEN m.ordered THEN 0 ELSE coalesce(m.priority, 0) END,
            m.ordered,
            coalesce(m.when_dead_choice = 'pass', false),
            m.channel_name, m.channel_args, m.name, m.document, m.payload_bytes, m.header
        FROM unnest(new_messages, documents, priorities, when_dead, parsed) WITH ORDINALITY
                 AS m (id, delay, retries, retry_backoff, channel_name, channel_args, commit_interval,
                       ordered, name, payload_json, payload_bytes, document, priority, when_dead_choice, header, n)
        ORDER BY n
        RETURNING job.id, job.channel, job.priority, job.position, job.ordered,
                  job.due_at, job.reserved_until
    ), placed AS (
        SELECT job.*, job.ordered AND NOT (
            job.channel = ANY (opened)
            AND job.position = min(job.position) OVER (PARTITION BY job.channel, job.ordered)) AS is_blocked
        FROM job WHERE any_ordered
        UNION ALL
        SELECT job.*, false FROM job WHERE NOT any_ordered
    ), head AS (
        INSERT INTO mq_heads (channel, id)
        SELECT channel, id FROM placed WHERE ordered AND NOT is_blocked
    ), blocked AS (
        INSERT INTO mq_blocked (channel, position, id)
        SELECT channel, position, id FROM placed WHERE is_blocked
    ), scheduled AS (
        -- A reservation has its end among the scheduled even while it is blocked, to expire in time.
        INSERT INTO mq_scheduled (due_at, id)
        SELECT coalesce(reserved_until, due_at), id FROM placed
        WHERE reserved_until IS NOT NULL OR due_at IS NOT NULL AND NOT is_blocked
    )
    INSERT INTO mq_ready (channel, priority, position, id, epoch)
    SELECT channel, priority, position, id, epoch FROM placed
    WHERE reserved_until IS NULL AND due_at IS NULL AND NOT is_blocked;

    PERFORM mq_notify(ARRAY(SELECT m.channel_name FROM unnest(new_messages) AS m));
END
$$;
COMMENT ON FUNCTION mq_insert IS 'Sends jobs, all or none.';

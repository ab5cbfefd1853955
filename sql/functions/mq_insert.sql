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
    this_moment   CONSTANT timestamptz := clock_timestamp();
    bad           record;
    one           mq_new_t;
    all_right     boolean;
    payloads      text[];
    channel_names text[];
    ordered_ids   uuid[];
    documents     json[];
    parsed        json[];
    opened        uuid[];
    epoch         integer;
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
    ELSIF cardinality(new_messages) = 0 THEN
        RETURN;
    END IF;
    -- Most jobs come by themselves.
    IF array_dims(new_messages) = '[1:1]' AND headers IS NULL THEN
        one := new_messages[1];
        IF NOT one.ordered
            AND mq_is_acceptable(
                one.id, one.delay, one.retries, one.retry_backoff, one.channel_name, one.channel_args, one.commit_interval,
                one.ordered, one.name,
                CASE WHEN priorities IS NULL THEN 0 ELSE priorities[1] END,
                CASE WHEN when_dead IS NULL THEN 'hold' ELSE when_dead[1] END)
            AND (SELECT true FROM mq_msgs AS job WHERE job.id = one.id) IS NULL THEN
            one.id := mq_insert_one(
                one.id, one.delay, one.retries, one.retry_backoff, one.channel_name, one.channel_args, one.commit_interval,
                one.name, (mq_parse_json('payload_json', ARRAY[one.payload_json]))[1], one.payload_bytes,
                coalesce(priorities[1], 0), coalesce(when_dead[1], 'hold'));
            RETURN;
        END IF;
    END IF;

    -- One look at all of them. Which one is wrong, and how, is found out only where one is.
    SELECT bool_and(mq_is_acceptable(
               m.id, m.delay, m.retries, m.retry_backoff, m.channel_name, m.channel_args, m.commit_interval, m.ordered, m.name,
               CASE WHEN priorities IS NULL THEN 0 ELSE m.priority END,
               CASE WHEN when_dead IS NULL THEN 'hold' ELSE m.when_dead_choice END) IS TRUE
               AND (SELECT true FROM mq_msgs AS job WHERE job.id = m.id) IS NULL),
           array_agg(m.payload_json), array_agg(m.channel_name), array_agg(m.id) FILTER (WHERE m.ordered)
    INTO all_right, payloads, channel_names, ordered_ids
    FROM unnest(new_messages, priorities, when_dead)
             AS m (id, delay, retries, retry_backoff, channel_name, channel_args, commit_interval,
                   ordered, name, payload_json, payload_bytes, priority, when_dead_choice);
    IF all_right AND cardinality(new_messages) > 1 THEN
        all_right := (SELECT count(DISTINCT m.id) = count(*) FROM unnest(new_messages) AS m);
    END IF;
    IF NOT all_right THEN
        PERFORM mq_refuse_messages(new_messages, priorities, when_dead);
    END IF;

    documents := mq_parse_json('payload_json', payloads);
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

    IF ordered_ids IS NOT NULL THEN
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
        RETURNING job.id, job.channel, job.priority, job.position, job.ordered, coalesce(job.reserved_until, job.due_at) AS due_at
    ), scheduled AS (
        INSERT INTO mq_scheduled (due_at, id)
        SELECT due_at, id FROM job WHERE due_at IS NOT NULL AND NOT ordered
    )
    INSERT INTO mq_ready (channel, priority, position, id, epoch)
    SELECT channel, priority, position, id, epoch FROM job WHERE due_at IS NULL AND NOT ordered;
    IF ordered_ids IS NOT NULL THEN
        PERFORM mq_place_ordered(ordered_ids, opened, epoch);
    END IF;

    PERFORM mq_notify(channel_names);
END
$$;
COMMENT ON FUNCTION mq_insert IS 'Sends jobs, all or none.';

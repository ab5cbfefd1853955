-- Internal. Which of the messages that mq_insert was given is wrong, and why.
-- Errors:  the first complaint, with the SQLSTATE and the name that mq_insert documents for it.
CREATE FUNCTION mq_refuse_messages(new_messages mq_new_t[], priorities integer[], when_dead text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    bad     record;
    used_id uuid;
BEGIN
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
    ORDER BY n
    LIMIT 1;
    IF FOUND THEN
        PERFORM mq_refuse(bad.code, CASE cardinality(new_messages)
            WHEN 1 THEN bad.argument ELSE format('%s of message %s', bad.argument, bad.n) END,
            bad.value, bad.rule);
    END IF;
    SELECT m.id INTO used_id FROM unnest(new_messages) AS m
    GROUP BY m.id HAVING count(*) > 1 OR (SELECT true FROM mq_msgs AS job WHERE job.id = m.id)
    LIMIT 1;
    PERFORM mq_refuse('23505', 'id', used_id::text, 'another job has this id');
END
$$;
COMMENT ON FUNCTION mq_refuse_messages IS 'Internal. Refuses the first of the messages that mq_insert cannot take.';

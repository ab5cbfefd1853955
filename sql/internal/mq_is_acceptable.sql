-- Internal. Whether a job may be sent so; what is wrong, if not, mq_refuse_messages knows.
-- The body is parsed when it is created: it depends on no search_path, and is inlined.
CREATE FUNCTION mq_is_acceptable(
    id              uuid,
    delay           interval,
    retries         integer,
    retry_backoff   interval,
    channel_name    text,
    channel_args    text,
    commit_interval interval,
    ordered         boolean,
    name            text,
    priority        integer,
    when_dead       text
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN id IS NOT NULL
    AND length(name) BETWEEN 1 AND 1000
    AND length(channel_name) <= 1000
    AND length(channel_args) <= 1000
    AND ordered IS NOT NULL
    AND delay >= interval '0' AND delay <= interval '1000 years'
    AND retries >= 0 AND retries <= 1000000000
    AND retry_backoff >= interval '0' AND retry_backoff <= interval '1000 years'
    AND (commit_interval IS NULL OR commit_interval BETWEEN interval '0' AND interval '1000 years')
    AND priority BETWEEN -32768 AND 32767
    AND when_dead IN ('hold', 'pass');
COMMENT ON FUNCTION mq_is_acceptable IS 'Internal. Whether a job may be sent with these arguments.';

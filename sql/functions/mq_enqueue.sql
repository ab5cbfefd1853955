-- Purpose: send one job; the function for people. Every argument but the name has a default.
-- Arguments: name, what the worker is to run; payload, its JSON; channel_name, channel_args, the
--          channel; delay, before it is due; retries, attempts after the first; retry_backoff, least
--          lease of the first attempt, doubling with each; ordered, strict order within the channel;
--          priority, -32768 to 32767, smaller first; commit_interval, reserve only (see mq_commit);
--          payload_bytes, a binary payload; when_dead, 'hold' or 'pass', what an ordered job does to
--          the ones behind it once it is dead; id, the caller's own id; headers, what travels beside
--          the payload, a JSON object of strings.
-- Returns: the job's id.
-- Locks:   for an ordered job, the order of its channel, until the transaction ends.
-- Errors:  those of mq_insert: 22004, 22003, 22023, 22001, 23505.
-- Callers: producer, operator.
CREATE FUNCTION mq_enqueue(
    name            text,
    payload         jsonb DEFAULT NULL,
    channel_name    text DEFAULT '',
    channel_args    text DEFAULT '',
    delay           interval DEFAULT '0',
    retries         integer DEFAULT 4,
    retry_backoff   interval DEFAULT '1 second',
    ordered         boolean DEFAULT false,
    priority        integer DEFAULT 0,
    commit_interval interval DEFAULT NULL,
    payload_bytes   bytea DEFAULT NULL,
    when_dead       text DEFAULT 'hold',
    id              uuid DEFAULT NULL,
    headers         jsonb DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    new_id CONSTANT uuid := coalesce(id, mq_new_id());
BEGIN
    IF NOT ordered AND id IS NULL AND headers IS NULL
        AND mq_is_acceptable(new_id, delay, retries, retry_backoff, channel_name, channel_args, commit_interval,
                             ordered, name, priority, when_dead) THEN
        RETURN mq_insert_one(new_id, delay, retries, retry_backoff, channel_name, channel_args, commit_interval,
                             name, payload::text::json, payload_bytes, priority, when_dead);
    END IF;
    PERFORM mq_insert(
        ARRAY[ROW(new_id, delay, retries, retry_backoff, channel_name, channel_args,
                  commit_interval, ordered, name, payload::text, payload_bytes)::mq_new_t],
        ARRAY[priority],
        ARRAY[when_dead],
        CASE WHEN headers IS NOT NULL THEN ARRAY[headers::text] END);
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION mq_enqueue IS 'Sends one job and returns its id.';

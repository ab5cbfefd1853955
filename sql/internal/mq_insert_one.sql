-- Internal. Sends one job without order that is acceptable and whose id is new. It does what mq_insert does, row by
-- row: most jobs are sent by themselves, and the start of a statement over many costs more than the rest.
-- Returns: the id.
CREATE FUNCTION mq_insert_one(
    id              uuid,
    delay           interval,
    retries         integer,
    retry_backoff   interval,
    channel_name    text,
    channel_args    text,
    commit_interval interval,
    name            text,
    payload_json    json,
    payload_bytes   bytea,
    priority        integer,
    when_dead       text
) RETURNS uuid
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    this_moment    CONSTANT timestamptz := clock_timestamp();
    due_at         CONSTANT timestamptz := CASE WHEN delay > interval '0' THEN this_moment + delay END;
    reserved_until CONSTANT timestamptz := this_moment + delay + commit_interval;
    channel        CONSTANT uuid := mq_channel_key(channel_name, channel_args);
    place          CONSTANT bigint := nextval('mq_position');
    epoch          CONSTANT integer := mq_join_epoch();
BEGIN
    INSERT INTO mq_msgs (
        id, channel, position, created_at, due_at, reserved_until, retry_backoff,
        attempts_allowed, priority, ordered, passes_when_dead,
        channel_name, channel_args, name, payload_json, payload_bytes)
    VALUES (
        id, channel, place, this_moment, due_at, reserved_until, retry_backoff,
        retries + 1, priority, false, when_dead = 'pass',
        channel_name, channel_args, name, payload_json, payload_bytes);
    IF coalesce(reserved_until, due_at) IS NULL THEN
        INSERT INTO mq_ready (channel, priority, position, id, epoch) VALUES (channel, priority, place, id, epoch);
    ELSE
        INSERT INTO mq_scheduled (due_at, id) VALUES (coalesce(reserved_until, due_at), id);
    END IF;
    IF mq_somebody_may_sleep(channel_name) THEN
        PERFORM mq_notify(ARRAY[channel_name]);
    END IF;
    RETURN id;
END
$$;
COMMENT ON FUNCTION mq_insert_one IS 'Internal. Sends one job without order.';

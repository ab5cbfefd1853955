-- Internal. This session has work and polls again by itself: senders need not notify it.
CREATE FUNCTION mq_wake_up() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    keys CONSTANT text := split_part(current_setting('sqlxmq.asleep', true), ' ', 3);
BEGIN
    -- Anybody can set it to anything.
    IF keys ~ '^{-?[0-9]+(,-?[0-9]+)*}$' THEN
        PERFORM pg_advisory_unlock_shared('mq_notified_until'::regclass::oid::integer, key) FROM unnest(keys::integer[]) AS key;
    END IF;
    PERFORM set_config('sqlxmq.asleep', '', false);
END
$$;
COMMENT ON FUNCTION mq_wake_up IS 'Internal. Lets senders no longer notify this session.';

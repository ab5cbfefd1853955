-- Internal. This session has work and polls again by itself: senders need not notify it.
CREATE FUNCTION mq_wake_up() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    class CONSTANT integer := 'mq_notified_until'::regclass::oid::integer;
BEGIN
    PERFORM pg_advisory_unlock_shared(class, key) FROM mq_sleeps_for;
    PERFORM set_config('sqlxmq.asleep', '', false);
END
$$;
COMMENT ON FUNCTION mq_wake_up IS 'Internal. Lets senders no longer notify this session.';

-- Internal. Somebody sleeps who does not say when he wakes up: at the time given at the latest. Every send
-- notifies until a while after that, so that this is written rarely.
CREATE FUNCTION mq_notify_until(wake_up timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF wake_up + interval '1 minute' > to_timestamp(coalesce(pg_sequence_last_value('mq_notified_until'), 0)) THEN
        PERFORM setval('mq_notified_until', extract(epoch FROM wake_up + interval '10 minutes')::bigint);
    END IF;
END
$$;
COMMENT ON FUNCTION mq_notify_until IS 'Internal. Lets every send notify, since somebody may sleep until then.';

-- Internal. Somebody sleeps who does not say when he wakes up: at the time given at the latest. Every send
-- notifies until a while after that, so that this is written rarely.
-- Arguments: looked_at, who was there when this poll began to look for jobs.
-- Returns: how soon he has to look again by himself: a sender that is open since before sends notified may
--          notify nobody. NULL: he need not.
CREATE FUNCTION mq_notify_until(wake_up timestamptz, looked_at pg_snapshot) RETURNS interval
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    notified_until CONSTANT bigint := coalesce(pg_sequence_last_value('mq_notified_until'), 0);
BEGIN
    IF to_timestamp(notified_until) < wake_up + interval '1 minute' THEN
        PERFORM setval('mq_notified_until', extract(epoch FROM wake_up + interval '10 minutes')::bigint);
        IF to_timestamp(notified_until) < clock_timestamp() THEN
            PERFORM setval('mq_notified_since', pg_current_xact_id()::text::bigint);
            RETURN interval '5 milliseconds';
        END IF;
    END IF;
    IF pg_snapshot_xmin(looked_at)::text::bigint < pg_sequence_last_value('mq_notified_since') THEN
        RETURN interval '0.2 seconds';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mq_notify_until IS 'Internal. Lets every send notify, since somebody may sleep until then.';

-- Internal. This session has found nothing to do and waits to be notified; senders see that by its locks.
-- Arguments: looked_at, who was there when this poll began to look for jobs.
-- Returns: how soon it has to look again by itself. A sender that looked before the lock was there notifies
--          nobody, and commits when it likes: as long as a transaction is open that was so then, the
--          session looks again, at intervals that grow with the time it has slept. After that, every five
--          seconds: should it have been cut off without a sign, it holds no lock any more.
-- Locks:   an advisory lock, shared, of the session, for each channel name (0 stands for all of them),
--          until mq_wake_up.
CREATE FUNCTION mq_fall_asleep(channel_names text[], looked_at pg_snapshot) RETURNS interval
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    class     CONSTANT integer := 'mq_notified_until'::regclass::oid::integer;
    this_time CONSTANT bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    keys      CONSTANT integer[] := CASE WHEN channel_names IS NULL THEN ARRAY[0]
                                    ELSE ARRAY(SELECT DISTINCT hashtext(c) FROM unnest(channel_names) AS c ORDER BY 1) END;
    -- Since when, in milliseconds, and before which transaction; anybody can set it to anything.
    asleep    CONSTANT text := current_setting('sqlxmq.asleep', true);
BEGIN
    -- By the locks, not by the setting alone: a transaction that is rolled back undoes only that.
    IF coalesce(asleep, '') !~ '^[0-9]{1,18} [0-9]{1,18}$'
        OR keys <> ARRAY(SELECT key FROM mq_sleeps_for ORDER BY key) THEN
        PERFORM mq_wake_up();
        PERFORM pg_advisory_lock_shared(class, key) FROM unnest(keys) AS key;
        -- Whoever looked before the locks were there has a smaller number.
        PERFORM set_config('sqlxmq.asleep', concat_ws(' ', this_time, pg_current_xact_id()), false);
        RETURN interval '5 milliseconds';
    END IF;
    -- An older snapshot does not show who is there now.
    IF pg_snapshot_xmin(looked_at) >= split_part(asleep, ' ', 2)::xid8
        AND current_setting('transaction_isolation') = 'read committed' THEN
        RETURN interval '5 seconds';
    END IF;
    RETURN least(greatest(this_time - split_part(asleep, ' ', 1)::bigint, 10) / 2, 1000) * interval '1 millisecond';
END
$$;
COMMENT ON FUNCTION mq_fall_asleep IS 'Internal. Lets senders notify this session; says how soon it has to look again all the same.';
